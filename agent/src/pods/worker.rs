//! One Pod's worker: looks, decides, acts, reports; then waits for the next change.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use api::{
    core::{ConfigMap, Container, Pod, PodStatus, Secret},
    meta::DeleteOptions,
};
use jiff::Timestamp;
use runtime::{Image, PodState};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Context, Wanted,
    container::{Decision, Life, RestartPolicy},
    drain,
    env::{self, Addresses, Sources},
    sandbox::{Sandbox, SandboxError, report},
    spec,
    status::{Facts, status},
};
use crate::{
    backoff::Backoff,
    client::{ClientError, PatchKind, Path},
    reconcile::lock,
};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// The API's default of `terminationGracePeriodSeconds`.
const GRACE_SECS: i64 = 30;
/// How long killed containers may take to be gone before the sandbox is removed around them.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// When to try again to start what failed to start.
const START_AGAIN: Duration = Duration::from_secs(10);
/// An image that is not there: it does not appear by itself.
const IMAGE_AGAIN: Duration = Duration::from_secs(300);

pub(super) struct Worker {
    context: Arc<Context>,
    wanted: watch::Receiver<Wanted>,
    pod: Arc<Pod>,
    sandbox: Option<Sandbox>,
    /// Taken while there is no sandbox yet, too.
    address: Option<IpAddr>,
    lives: Vec<Life>,
    /// The last patch, and the status it led to.
    reported: Option<(Value, PodStatus)>,
    report_backoff: Backoff,
}

/// What woke the worker.
enum Event {
    Wanted,
    State(PodState),
    ShimGone,
    Time,
}

impl Worker {
    /// A worker for a Pod; `adopted` is the sandbox that an earlier agent made for it.
    pub(super) fn new(
        context: Arc<Context>,
        wanted: watch::Receiver<Wanted>,
        pod: Arc<Pod>,
        adopted: Option<Sandbox>,
    ) -> Self {
        let now = Timestamp::now();
        let lives = pod
            .spec
            .containers
            .iter()
            .map(|container| {
                let before = pod
                    .status
                    .container_statuses
                    .iter()
                    .find(|status| status.name == container.name);
                match before {
                    Some(status) if adopted.is_none() => {
                        Life::remembered(&container.name, status, now)
                    }
                    Some(status) => Life::new(&container.name).with_last_exit(status, now),
                    None => Life::new(&container.name),
                }
            })
            .collect();
        Self {
            context,
            wanted,
            pod,
            address: adopted.as_ref().map(|sandbox| sandbox.address),
            sandbox: adopted,
            lives,
            reported: None,
            report_backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
        }
    }

    /// Runs until the Pod is gone from this node.
    pub(super) async fn run(mut self) {
        if let Some(sandbox) = &self.sandbox
            && let Ok(state) = sandbox.state().await
        {
            self.observe(&state);
        }
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            match wanted {
                Wanted::Run(pod) if pod.metadata.is_terminating() => {
                    self.pod = pod;
                    return self.terminate().await;
                }
                Wanted::Run(pod) => self.pod = pod,
                Wanted::Gone => {
                    self.stop(Duration::ZERO).await;
                    return self.remove().await;
                }
            }
            let again = self.advance().await;
            let retry = self.report().await;
            let wake = [again, retry].into_iter().flatten().min();
            match self.next_event(wake).await {
                Event::State(state) => self.observe(&state),
                Event::ShimGone => self.lost(),
                Event::Wanted | Event::Time => {}
            }
        }
    }

    async fn next_event(&mut self, wake: Option<Instant>) -> Event {
        let at = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let sandbox = &mut self.sandbox;
        let change = async move {
            match sandbox {
                Some(sandbox) => sandbox.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.wanted.changed() => Event::Wanted,
            state = change => state.map_or(Event::ShimGone, Event::State),
            () = sleep_until(at) => Event::Time,
        }
    }

    fn observe(&mut self, state: &PodState) {
        for life in &mut self.lives {
            if let Some(status) = state.containers.get(&life.name) {
                life.observe(report(status));
            }
        }
    }

    /// The shim died, and its containers with it.
    fn lost(&mut self) {
        tracing::warn!(pod = %self.name(), "the Pod's shim is gone");
        self.sandbox = None;
        self.release();
        let now = Timestamp::now();
        for (life, container) in self.lives.iter_mut().zip(&self.pod.spec.containers) {
            if life.is_running() {
                let as_reported = api::core::ContainerStatus {
                    restart_count: i32::try_from(life.restarts()).unwrap_or(i32::MAX),
                    state: api::core::ContainerState {
                        running: Some(api::core::ContainerStateRunning::default()),
                        ..api::core::ContainerState::default()
                    },
                    ..api::core::ContainerStatus::default()
                };
                *life = Life::remembered(&container.name, &as_reported, now);
            }
        }
    }

    /// Does what can be done now, and says when to look again if nothing happens.
    async fn advance(&mut self) -> Option<Instant> {
        let policy = RestartPolicy::parse(&self.pod.spec.restart_policy);
        if let Some(reason) = spec::unsupported(&self.pod) {
            let later = Timestamp::now() + IMAGE_AGAIN;
            for life in &mut self.lives {
                life.cannot_start("CreateContainerConfigError", reason.to_owned(), later);
            }
            return None;
        }
        if self.lives.iter().all(|life| life.ended(policy).is_some()) {
            self.remove_sandbox().await;
            self.release();
            return None;
        }
        for index in 0..self.lives.len() {
            if let Decision::Start { attempt } = self.lives[index].decide(policy, Timestamp::now())
            {
                self.start(index, attempt).await;
            }
        }
        let now = Timestamp::now();
        let waits = self
            .lives
            .iter()
            .filter_map(|life| match life.decide(policy, now) {
                Decision::Wait(until) => Some(until),
                Decision::Start { .. } => Some(now),
                Decision::Nothing => None,
            });
        waits
            .min()
            .map(|until| Instant::now() + Duration::try_from(until - now).unwrap_or_default())
    }

    /// Starts one attempt of a container, or notes why it cannot.
    async fn start(&mut self, index: usize, attempt: u32) {
        let container = self.pod.spec.containers[index].clone();
        let Some(image) = Image::find(&container.image) else {
            let message = format!(
                "image {:?} is not on this node: this version runs the built-in image {} only",
                container.image,
                Image::BUILT_IN
            );
            return self.lives[index].cannot_start(
                "ErrImagePull",
                message,
                Timestamp::now() + IMAGE_AGAIN,
            );
        };
        if let Err(error) = self.ensure_sandbox().await {
            tracing::warn!(pod = %self.name(), %error, "the Pod's sandbox cannot be made");
            let again = Timestamp::now() + START_AGAIN;
            return self.lives[index].cannot_start(
                "CreatePodSandboxError",
                error.to_string(),
                again,
            );
        }
        let environment = match self.environment(&container).await {
            Ok(environment) => environment,
            Err(error) => {
                let again = Timestamp::now() + START_AGAIN;
                return self.lives[index].cannot_start(
                    "CreateContainerConfigError",
                    error.to_string(),
                    again,
                );
            }
        };
        let spec = spec::container_spec(&self.pod, &container, attempt, image, environment);
        let Some(sandbox) = &self.sandbox else { return };
        match sandbox.start(spec).await {
            Ok(()) => self.lives[index].started(attempt, Timestamp::now()),
            Err(error) => {
                tracing::warn!(pod = %self.name(), container = %container.name, %error, "container did not start");
                let again = Timestamp::now() + START_AGAIN;
                self.lives[index].cannot_start("RunContainerError", error.to_string(), again);
            }
        }
    }

    async fn ensure_sandbox(&mut self) -> Result<(), SandboxError> {
        if self.sandbox.is_some() {
            return Ok(());
        }
        let host_network = self.pod.spec.host_network;
        let network = Some(&self.context.network).filter(|_| !host_network);
        let address = match (self.address, network) {
            (Some(address), _) => address,
            (None, Some(network)) => network.allocate()?,
            (None, None) => self.context.node_ip,
        };
        self.address = Some(address);
        let spec = spec::pod_spec(
            &self.pod,
            address,
            &self.context.dns,
            &self.context.host_hosts,
        );
        let sandbox = Sandbox::create(&self.context.runtime, network, spec, address).await;
        match sandbox {
            Ok(sandbox) => {
                self.sandbox = Some(sandbox);
                if !host_network {
                    self.context.local_pod(address, true);
                }
                Ok(())
            }
            Err(error) => {
                self.release();
                Err(error)
            }
        }
    }

    async fn environment(
        &self,
        container: &Container,
    ) -> Result<Vec<(String, String)>, env::EnvError> {
        let sources = self.sources(container).await;
        let links = self.pod.spec.enable_service_links.unwrap_or(true);
        let namespace = &self.pod.metadata.namespace;
        let services = {
            let view = lock(&self.context.view);
            env::service_variables(&view.services_for_pods(namespace), namespace, links)
        };
        let node = self.context.node_ip;
        let addresses = Addresses {
            pod: self.address.unwrap_or(node),
            host: node,
        };
        env::environment(&self.pod, container, addresses, &sources, &services)
    }

    /// Reads the ConfigMaps and Secrets that a container names; what cannot be read is left out, and named later.
    async fn sources(&self, container: &Container) -> Sources {
        let mut sources = Sources::new();
        for (kind, name) in env::wanted_sources(container) {
            match self.source(kind, &name).await {
                Ok(values) => {
                    sources.insert((kind, name), values);
                }
                Err(error) => {
                    tracing::warn!(pod = %self.name(), kind, source = %name, %error, "not readable")
                }
            }
        }
        sources
    }

    async fn source(
        &self,
        kind: &str,
        name: &str,
    ) -> Result<BTreeMap<String, String>, ClientError> {
        let namespace = &self.pod.metadata.namespace;
        let path = |resource| {
            Path::core(resource)
                .namespace(namespace)
                .name(name)
                .to_string()
        };
        if kind == env::CONFIG_MAP {
            let config_map: ConfigMap = self.context.client.get(&path("configmaps")).await?;
            return Ok(config_map
                .data
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect());
        }
        let secret: Secret = self.context.client.get(&path("secrets")).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(secret
            .data
            .into_iter()
            .map(|(key, value)| (key.into(), text(value.0)))
            .collect())
    }

    /// Writes the status if it is not what the server has. Returns when to try again, after a failure.
    async fn report(&mut self) -> Option<Instant> {
        let facts = Facts {
            lives: &self.lives,
            // A Pod that has ended gave its address back, and keeps it in its status.
            pod_ip: self.address.or_else(|| self.pod.status.pod_ip.parse().ok()),
            host_ip: self.context.node_ip,
            image_id: |image| {
                Image::find(image)
                    .map(|image| image.id())
                    .unwrap_or_default()
            },
            now: Timestamp::now(),
        };
        let status = status(&self.pod, &facts);
        if status == self.pod.status {
            return None;
        }
        let patch = json!({"metadata": {"uid": self.pod.metadata.uid}, "status": status});
        // The server may keep less than was written; writing that again would change nothing.
        if self
            .reported
            .as_ref()
            .is_some_and(|(before, result)| *before == patch && *result == self.pod.status)
        {
            return None;
        }
        let path = self.path().subresource("status").to_string();
        match self
            .context
            .client
            .patch::<Pod>(&path, PatchKind::Merge, &patch)
            .await
        {
            Ok(pod) => {
                self.report_backoff.reset();
                // The times of these conditions are the ones to keep from now on.
                Arc::make_mut(&mut self.pod).status.clone_from(&pod.status);
                self.reported = Some((patch, pod.status));
                None
            }
            // The Pod is gone, or another one has its name: the watch says so too.
            Err(error) if error.is_not_found() || error.is_conflict() => None,
            Err(error) => {
                tracing::warn!(pod = %self.name(), %error, "the Pod's status was not written");
                Some(Instant::now() + self.report_backoff.fail())
            }
        }
    }

    /// The end in good order: no new traffic, SIGTERM, the grace period, SIGKILL, and only then the object goes.
    async fn terminate(mut self) {
        let grace = self
            .pod
            .metadata
            .deletion_grace_period_seconds
            .unwrap_or(GRACE_SECS);
        if self.sandbox.is_some() && grace > 0 && self.lives.iter().any(Life::is_running) {
            drain::wait(&self.context, &self.pod).await;
        }
        self.stop(Duration::from_secs(u64::try_from(grace).unwrap_or(0)))
            .await;
        let _ = self.report().await;
        self.delete_object().await;
        self.remove().await;
    }

    /// SIGTERM, wait up to the grace period, SIGKILL, wait.
    async fn stop(&mut self, grace: Duration) {
        if !grace.is_zero() {
            self.signal_all(SIGTERM).await;
            self.wait_stopped(Instant::now() + grace, true).await;
        }
        self.signal_all(SIGKILL).await;
        self.wait_stopped(Instant::now() + KILL_LIMIT, false).await;
        self.remove_sandbox().await;
    }

    async fn signal_all(&self, signal: i32) {
        let Some(sandbox) = &self.sandbox else { return };
        for life in self.lives.iter().filter(|life| life.is_running()) {
            if let Err(error) = sandbox.signal(&life.name, signal).await {
                tracing::warn!(pod = %self.name(), container = %life.name, signal, %error, "signal not delivered");
            }
        }
    }

    /// Waits until no container runs, the time is up, or (with `hasty`) the object is deleted by force.
    async fn wait_stopped(&mut self, deadline: Instant, hasty: bool) {
        while self.sandbox.is_some() && self.lives.iter().any(Life::is_running) {
            let Ok(event) = timeout_at(deadline, self.next_event(None)).await else {
                return;
            };
            match event {
                Event::State(state) => {
                    self.observe(&state);
                    let _ = self.report().await;
                }
                Event::ShimGone => self.lost(),
                Event::Wanted | Event::Time => {
                    let gone = match &*self.wanted.borrow_and_update() {
                        Wanted::Gone => true,
                        Wanted::Run(pod) => pod.metadata.deletion_grace_period_seconds == Some(0),
                    };
                    if hasty && gone {
                        return;
                    }
                }
            }
        }
    }

    /// Deletes the object itself, if it is still this Pod's. Tries until the server answers.
    async fn delete_object(&mut self) {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(api::meta::Preconditions {
                uid: Some(self.pod.metadata.uid.clone()),
                ..api::meta::Preconditions::default()
            }),
            ..DeleteOptions::default()
        };
        let body = serde_json::to_value(options).expect("plain values encode");
        let path = self.path().to_string();
        loop {
            match self.context.client.delete(&path, &body).await {
                Ok(_) => return,
                Err(error) if error.is_not_found() || error.is_conflict() => return,
                Err(error) => {
                    tracing::warn!(pod = %self.name(), %error, "the Pod object was not deleted");
                    sleep(self.report_backoff.fail()).await;
                }
            }
            if matches!(*self.wanted.borrow(), Wanted::Gone) {
                return;
            }
        }
    }

    /// The end of everything on the node.
    async fn remove(mut self) {
        self.remove_sandbox().await;
        self.release();
    }

    async fn remove_sandbox(&mut self) {
        let Some(sandbox) = self.sandbox.take() else {
            return;
        };
        if let Err(error) = sandbox.remove().await {
            tracing::error!(pod = %self.name(), %error, "the Pod's sandbox was not removed cleanly");
        }
    }

    fn release(&mut self) {
        if let Some(address) = self.address.take()
            && !self.pod.spec.host_network
        {
            self.context.local_pod(address, false);
            self.context.network.release(address);
        }
    }

    fn path(&self) -> Path {
        Path::core("pods")
            .namespace(&self.pod.metadata.namespace)
            .name(&self.pod.metadata.name)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.pod.metadata.namespace, self.pod.metadata.name)
    }
}

/// Ends a Pod that nobody knows: SIGTERM, the default grace period, SIGKILL.
pub(super) async fn end(mut sandbox: Sandbox) -> Result<(), SandboxError> {
    let mut state = sandbox.state().await?;
    let running = |state: &PodState| {
        let containers = state.containers.iter();
        containers
            .filter(|(_, status)| status.state.is_running())
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    for container in running(&state) {
        sandbox.signal(&container, SIGTERM).await?;
    }
    let deadline = Instant::now() + Duration::from_secs(GRACE_SECS.unsigned_abs());
    while !running(&state).is_empty() {
        match timeout_at(deadline, sandbox.changed()).await {
            Ok(changed) => state = changed?,
            Err(_) => break,
        }
    }
    sandbox.remove().await
}
