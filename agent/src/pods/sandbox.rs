//! A Pod's processes and network on this node: the runtime's shim and the cable to the bridge, as one thing.

use std::{os::fd::AsFd, sync::Arc};

use jiff::Timestamp;
use runtime::{
    ContainerSpec, ContainerState, ContainerStatus, PodSpec, PodState, Runtime, RuntimeError,
    Subscription,
};
use tokio::{io::unix::AsyncFd, task};

use super::{
    container::{Exit, Report, State},
    host_ports::HostPortError,
};
use crate::{
    Addresses,
    network::{Network, NetworkError},
    ready::readable,
};

/// Why a sandbox cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SandboxError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    HostPort(#[from] HostPortError),
    #[error("watching the shim: {0}")]
    Watch(std::io::Error),
}

/// A living Pod.
pub(super) struct Sandbox {
    pod: Arc<runtime::Pod>,
    /// The Pod's addresses; the node's with the host's network.
    pub(super) addresses: Addresses,
    changes: AsyncFd<Subscription>,
}

impl Sandbox {
    /// Makes the Pod's namespaces and connects them. After an error nothing is left but the addresses, which
    /// are the caller's.
    pub(super) async fn create(
        runtime: &Runtime,
        network: Option<&Network>,
        spec: PodSpec,
        addresses: Addresses,
    ) -> Result<Self, SandboxError> {
        let pod = {
            let (runtime, spec) = (runtime.clone(), spec.clone());
            blocking(move || runtime.create_pod(&spec)).await?
        };
        let pod = Arc::new(pod);
        match Self::connect(&pod, network, &spec.uid, addresses).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                let _ = blocking(move || pod.remove()).await;
                Err(error)
            }
        }
    }

    async fn connect(
        pod: &Arc<runtime::Pod>,
        network: Option<&Network>,
        uid: &str,
        addresses: Addresses,
    ) -> Result<Self, SandboxError> {
        if let Some(network) = network {
            network.attach(uid, pod.netns()?.as_fd(), addresses).await?;
        }
        Self::watch(Arc::clone(pod), addresses)
    }

    /// Takes over a Pod that an earlier agent made.
    pub(super) fn watch(
        pod: Arc<runtime::Pod>,
        addresses: Addresses,
    ) -> Result<Self, SandboxError> {
        let changes = readable(pod.subscribe()?).map_err(SandboxError::Watch)?;
        Ok(Self {
            pod,
            addresses,
            changes,
        })
    }

    /// What every container does now.
    pub(super) async fn state(&self) -> Result<PodState, SandboxError> {
        let pod = Arc::clone(&self.pod);
        Ok(blocking(move || pod.state()).await?)
    }

    /// The next change. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) -> Result<PodState, SandboxError> {
        loop {
            let mut guard = self
                .changes
                .readable_mut()
                .await
                .map_err(SandboxError::Watch)?;
            match guard.get_inner_mut().try_next()? {
                Some(state) => return Ok(state),
                None => guard.clear_ready(),
            }
        }
    }

    pub(super) async fn start(&self, spec: ContainerSpec) -> Result<(), SandboxError> {
        let pod = Arc::clone(&self.pod);
        Ok(blocking(move || pod.start_container(&spec)).await?)
    }

    /// The Pod itself, for those who act on it while others hold the sandbox.
    pub(super) fn pod(&self) -> &Arc<runtime::Pod> {
        &self.pod
    }

    pub(super) async fn signal(&self, container: &str, signal: i32) -> Result<(), SandboxError> {
        let (pod, container) = (Arc::clone(&self.pod), container.to_owned());
        Ok(blocking(move || pod.signal(&container, signal)).await?)
    }

    /// Ends everything; may be called again after an error. Links go with the namespace; nobody waits for them.
    pub(super) async fn remove(&self) -> Result<(), SandboxError> {
        let pod = Arc::clone(&self.pod);
        Ok(blocking(move || pod.remove()).await?)
    }

    /// What the Pod was made from.
    pub(super) fn spec(&self) -> &PodSpec {
        self.pod.spec()
    }
}

/// The runtime's calls block for milliseconds: a thread of the blocking pool makes them.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    task::spawn_blocking(work)
        .await
        .expect("the runtime does not panic")
}

/// A container's newest attempt in the words of [`super::container`].
pub(super) fn report(status: &ContainerStatus) -> Report {
    let time = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
    let started_at = time(status.started_at_ms);
    let state = match &status.state {
        ContainerState::Running { .. } => State::Running { started_at },
        ContainerState::Exited {
            code,
            signal,
            oom_killed,
            finished_at_ms,
        } => State::Exited(Exit {
            code: *code,
            signal: signal.unwrap_or(0),
            reason: match (code, oom_killed) {
                (_, true) => "OOMKilled",
                (0, _) => "Completed",
                _ => "Error",
            },
            started_at: Some(started_at),
            finished_at: time(*finished_at_ms),
        }),
    };
    Report {
        attempt: status.attempt,
        state,
    }
}
