//! What a container needs while it runs: its hooks, its probes, and in the end to be stopped.

use std::{sync::Arc, time::Duration};

use api::core::{Container, ContainerStatus};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{
    super::{
        container::{RestartPolicy, State},
        events::Happening,
        handler::{Handler, Target},
        probe::{Before, Kind, Known, News, Probing},
        status::container_id,
    },
    Worker,
};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// What a container gets for its own end at least, when its preStop hook has used up the grace period.
pub(super) const AFTER_HOOK: Duration = Duration::from_secs(2);

/// What is under way for one attempt of a container. Dropping it ends all of it.
#[derive(Default)]
pub(super) struct Care {
    attempt: Option<u32>,
    post_start: Option<Task>,
    probing: Option<Probing>,
    stopping: Option<Stopping>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Stopping {
    /// When SIGKILL comes. It may be moved up.
    deadline: watch::Sender<Instant>,
    _task: Task,
}

/// What somebody who cares for a container has found.
pub(super) enum Found {
    Probe(News),
    PostStart(Result<(), String>),
    PreStopFailed(String),
}

/// The same, with the container's place and attempt.
pub(super) struct Message {
    index: usize,
    attempt: u32,
    found: Found,
}

impl Worker {
    /// Sees to it that each container that runs is cared for, and no other.
    pub(super) fn tend(&mut self) {
        for index in 0..self.lives.len() {
            let life = &self.lives[index];
            let attempt = life.attempt.filter(|_| life.is_running());
            if self.cares[index].attempt != attempt {
                self.cares[index] = Care {
                    attempt,
                    ..Care::default()
                };
                if let Some(attempt) = attempt {
                    self.begin(index, attempt);
                }
            }
        }
    }

    /// Nothing restarts a container any more; readiness is asked on, for its last connections.
    pub(super) fn end_care(&mut self) {
        for care in &mut self.cares {
            care.post_start = None;
            if let Some(probing) = &care.probing {
                probing.end();
            }
        }
    }

    fn begin(&mut self, index: usize, attempt: u32) {
        let container = &self.pod.spec.containers[index];
        let hook = container.lifecycle.as_ref();
        let hook = hook.and_then(|lifecycle| lifecycle.post_start.as_ref());
        let (Some(hook), Some(target), None) = (hook, self.target(), self.seen(index, attempt))
        else {
            return self.hooked(index, attempt);
        };
        let handler = Handler::of_hook(hook, container, &target);
        let (to, found) = (self.messages.clone(), move |outcome| Message {
            index,
            attempt,
            found: Found::PostStart(outcome),
        });
        let task = tokio::spawn(async move {
            let _ = to.send(found(handler.hook().await)).await;
        });
        self.cares[index].post_start = Some(Task(task.abort_handle()));
    }

    /// Its postStart hook is over, or it has none: its probes begin.
    fn hooked(&mut self, index: usize, attempt: u32) {
        let seen = self.seen(index, attempt);
        let before = seen.map_or_else(Before::default, |status| Before {
            started: status.started == Some(true),
            ready: status.ready,
        });
        let is_adopted = seen.is_some();
        let container = Arc::clone(&self.pod);
        let container = &container.spec.containers[index];
        let life = &mut self.lives[index];
        life.is_hooked = true;
        life.has_started = container.startup_probe.is_none() || before.started;
        life.is_healthy = container.readiness_probe.is_none() || before.ready;
        let age = match life.state {
            State::Running { started_at } => Timestamp::now().duration_since(started_at),
            State::Waiting { .. } | State::Exited(_) => return,
        };
        let probed = [Kind::Startup, Kind::Liveness, Kind::Readiness];
        if !probed.iter().any(|kind| kind.of(container).is_some()) {
            return;
        }
        let Some(target) = self.target() else { return };
        let known = Known {
            before,
            age: Duration::try_from(age).unwrap_or_default(),
            is_adopted,
        };
        let tell = move |news| Message {
            index,
            attempt,
            found: Found::Probe(news),
        };
        let probing = Probing::start(container, &target, known, tell, self.messages.clone());
        self.cares[index].probing = Some(probing);
    }

    /// What the server knows of this attempt, if another agent saw it run: then its hook has been called, and it is as ready as it was.
    fn seen(&self, index: usize, attempt: u32) -> Option<&ContainerStatus> {
        let id = container_id(&self.pod, &self.lives[index].name, attempt);
        let mut statuses = self.pod.status.container_statuses.iter();
        statuses.find(|status| *status.container_id == *id && status.state.running.is_some())
    }

    fn target(&self) -> Option<Target> {
        Some(Target {
            pod: Arc::clone(self.sandbox.as_ref()?.pod()),
            address: self.addresses?.primary(),
        })
    }

    /// Takes in what was found of a container that still is the same.
    pub(super) fn learn(&mut self, message: Message) {
        let Message {
            index,
            attempt,
            found,
        } = message;
        if self.cares[index].attempt != Some(attempt) {
            return;
        }
        let is_stopping = self.cares[index].stopping.is_some();
        let life = &mut self.lives[index];
        match found {
            Found::Probe(News::Started) => life.has_started = true,
            Found::Probe(News::Ready(ready)) => life.is_healthy = ready,
            Found::Probe(News::Told { reason, message }) => {
                self.tell(index, "Warning", reason, message);
            }
            Found::Probe(News::Unhealthy(kind)) if !is_stopping => self.condemn(index, kind),
            Found::Probe(News::Unhealthy(_)) => {}
            Found::PostStart(Ok(())) => {
                self.cares[index].post_start = None;
                self.hooked(index, attempt);
            }
            Found::PostStart(Err(why)) => {
                let message = format!("PostStartHook failed: {why}");
                self.tell(index, "Warning", "FailedPostStartHook", message);
                self.lives[index].is_condemned = true;
                self.begin_stop(index, Instant::now() + self.grace());
            }
            Found::PreStopFailed(why) => {
                let message = format!("PreStopHook failed: {why}");
                self.tell(index, "Warning", "FailedPreStopHook", message);
            }
        }
    }

    /// A probe wants the container ended, and started again where that is done at all.
    fn condemn(&mut self, index: usize, kind: Kind) {
        let container = &self.pod.spec.containers[index];
        let again = match RestartPolicy::parse(&self.pod.spec.restart_policy) {
            RestartPolicy::Never => "",
            RestartPolicy::Always | RestartPolicy::OnFailure => ", will be restarted",
        };
        let probe = kind.to_string().to_lowercase();
        let message = format!("Container {} failed {probe} probe{again}", container.name);
        let grace = self.grace_of(container, kind);
        self.tell(index, "Normal", "Killing", message);
        self.lives[index].is_condemned = true;
        self.begin_stop(index, Instant::now() + grace);
    }

    /// A probe may give less, or more, than the Pod; a deletion decides.
    fn grace_of(&self, container: &Container, kind: Kind) -> Duration {
        let own = kind
            .of(container)
            .and_then(|probe| probe.termination_grace_period_seconds);
        let is_deleted = self.pod.metadata.deletion_grace_period_seconds.is_some();
        match own.filter(|_| !is_deleted) {
            Some(secs) => Duration::from_secs(u64::try_from(secs).unwrap_or(0)),
            None => self.grace(),
        }
    }

    /// Ends one container: its preStop hook, SIGTERM, SIGKILL at the deadline. One that is being ended gets no more time.
    pub(super) fn begin_stop(&mut self, index: usize, deadline: Instant) {
        if let Some(stopping) = &self.cares[index].stopping {
            stopping.deadline.send_if_modified(|old| {
                let is_earlier = deadline < *old;
                *old = deadline.min(*old);
                is_earlier
            });
            return;
        }
        let Some(target) = self.target() else { return };
        let container = &self.pod.spec.containers[index];
        let hook = container.lifecycle.as_ref();
        let hook = hook.and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let (deadline, reader) = watch::channel(deadline);
        let stop = Stop {
            container: container.name.to_string(),
            pre_stop: hook.map(|hook| Handler::of_hook(hook, container, &target)),
            pod: target.pod,
            deadline: reader,
            messages: self.messages.clone(),
            index,
            attempt: self.lives[index].restart_count(),
        };
        let task = Task(tokio::spawn(stop.run()).abort_handle());
        let stopping = Stopping {
            deadline,
            _task: task,
        };
        self.cares[index].stopping = Some(stopping);
    }

    fn tell(&self, index: usize, r#type: &'static str, reason: &str, message: String) {
        self.teller.tell(Happening {
            container: self.lives[index].name.clone(),
            r#type,
            reason: reason.to_owned(),
            message,
        });
    }
}

/// How one container is ended.
struct Stop {
    pod: Arc<runtime::Pod>,
    container: String,
    pre_stop: Option<Handler>,
    deadline: watch::Receiver<Instant>,
    messages: mpsc::Sender<Message>,
    index: usize,
    attempt: u32,
}

impl Stop {
    async fn run(mut self) {
        if *self.deadline.borrow_and_update() > Instant::now() {
            let at_least = self.pre_stop().await;
            self.signal(SIGTERM).await;
            passed(&mut self.deadline, at_least).await;
        }
        self.signal(SIGKILL).await;
    }

    /// Runs the hook, for as long as there is time. Returns until when the container then has time at least.
    async fn pre_stop(&mut self) -> Option<Instant> {
        let hook = self.pre_stop.take()?;
        let done = tokio::select! {
            done = hook.hook() => done,
            () = passed(&mut self.deadline, None) => Err("it was not done within the grace period".to_owned()),
        };
        if let Err(why) = done {
            let message = Message {
                index: self.index,
                attempt: self.attempt,
                found: Found::PreStopFailed(why),
            };
            // One more is lost when many wait already: the end does not wait for a worker that waits for the server.
            let _ = self.messages.try_send(message);
        }
        Some(Instant::now() + AFTER_HOOK)
    }

    async fn signal(&self, signal: i32) {
        let (pod, container) = (Arc::clone(&self.pod), self.container.clone());
        let signalled = spawn_blocking(move || pod.signal(&container, signal)).await;
        if let Err(error) = signalled.expect("the runtime does not panic") {
            tracing::warn!(pod = self.pod.uid(), container = self.container, signal, %error, "signal not delivered");
        }
    }
}

/// Waits for the deadline, wherever it is moved to, but not before `at_least`, unless somebody moves it who wants it sooner.
async fn passed(deadline: &mut watch::Receiver<Instant>, mut at_least: Option<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until(at_least.map_or(at, |least| least.max(at))) => return,
            Ok(()) = deadline.changed() => at_least = None,
        }
    }
}
