//! Ending: traffic first, then the preStop hooks, SIGTERM, the grace period, SIGKILL; the object last.

use std::time::Duration;

use api::meta::{DeleteOptions, Preconditions};
use runtime::PodState;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    super::{
        Wanted,
        container::Life,
        drain,
        sandbox::{Sandbox, SandboxError},
    },
    Event, Worker,
    care::{AFTER_HOOK, Care},
};
use crate::backoff::Backoff;

const SIGTERM: i32 = 15;
/// The API's default of `terminationGracePeriodSeconds`.
const GRACE_SECS: i64 = 30;
/// How long killed containers may take to be gone before the sandbox is removed around them.
const KILL_LIMIT: Duration = Duration::from_secs(10);

impl Worker {
    /// The end in good order: no new traffic, preStop hooks and SIGTERM within the grace period, SIGKILL, and only then the object
    /// goes.
    pub(super) async fn terminate(mut self) {
        let grace = self.grace();
        if self.sandbox.is_some() && !grace.is_zero() && self.lives.iter().any(Life::is_running) {
            drain::wait(&self.context, &self.pod).await;
        }
        self.stop(grace).await;
        let _ = self.report().await;
        self.delete_object().await;
        self.remove().await;
    }

    /// How long the containers may take to end: what the deletion says, or else the Pod.
    pub(super) fn grace(&self) -> Duration {
        let (meta, spec) = (&self.pod.metadata, &self.pod.spec);
        let secs = meta
            .deletion_grace_period_seconds
            .or(spec.termination_grace_period_seconds)
            .unwrap_or(GRACE_SECS);
        Duration::from_secs(u64::try_from(secs).unwrap_or(0))
    }

    /// Ends every container, and then the sandbox.
    pub(super) async fn stop(&mut self, grace: Duration) {
        self.tend();
        self.end_care();
        let began = Instant::now();
        let mut deadline = began + grace;
        self.stop_until(deadline);
        while self.sandbox.is_some() && self.lives.iter().any(Life::is_running) {
            let limit = deadline + AFTER_HOOK + KILL_LIMIT;
            let Ok(event) = timeout_at(limit, self.next_event(None)).await else {
                break;
            };
            match event {
                Event::State(state) => {
                    self.observe(&state);
                    let _ = self.report().await;
                }
                Event::Found(message) => {
                    self.learn(message);
                    let _ = self.report().await;
                }
                Event::ShimGone => self.lost().await,
                Event::Wanted | Event::Time => {
                    let grace = match &*self.wanted.borrow_and_update() {
                        Wanted::Gone => Some(0),
                        Wanted::Run(pod) => pod.metadata.deletion_grace_period_seconds,
                    };
                    // Deleting again may shorten the grace period, never lengthen it.
                    if let Some(grace) = grace {
                        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
                        deadline = deadline.min(began + grace);
                        self.stop_until(deadline);
                    }
                }
            }
        }
        self.remove_sandbox().await;
    }

    fn stop_until(&mut self, deadline: Instant) {
        for index in 0..self.lives.len() {
            if self.lives[index].is_running() {
                self.begin_stop(index, deadline);
            }
        }
    }

    /// Deletes the object itself, if it is still this Pod's. Tries until the server answers.
    async fn delete_object(&mut self) {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.pod.metadata.uid.clone()),
                ..Preconditions::default()
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
    pub(super) async fn remove(mut self) {
        self.remove_sandbox().await;
        self.release().await;
        let meta = &self.pod.metadata;
        self.context
            .remove_logs(&meta.namespace, &meta.name, &meta.uid)
            .await;
    }

    /// Returns only when nothing of the Pod runs any more: neither its address nor its object may go before.
    pub(super) async fn remove_sandbox(&mut self) {
        let Some(sandbox) = self.sandbox.take() else {
            return;
        };
        self.volumes.forget();
        self.cares.fill_with(Care::default);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        while let Err(error) = sandbox.remove().await {
            tracing::error!(pod = %self.name(), %error, "the Pod's sandbox cannot be removed; trying again");
            sleep(backoff.fail()).await;
        }
    }
}

/// Ends a Pod that nobody knows: SIGTERM, the default grace period, SIGKILL. May be called again after an error.
pub(in crate::pods) async fn end(sandbox: &mut Sandbox) -> Result<(), SandboxError> {
    // A shim that does not hear this any more is ended all the same.
    if let Err(error) = ask_to_end(sandbox).await {
        tracing::debug!(%error, "an unknown Pod was not asked to end");
    }
    sandbox.remove().await
}

async fn ask_to_end(sandbox: &mut Sandbox) -> Result<(), SandboxError> {
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
    Ok(())
}
