//! One container's life as a value: what was seen of it, and what to do next. No clock, no process.

use std::time::Duration;

use api::{
    core::{ContainerStateTerminated, ContainerStatus},
    meta::Time,
};
use jiff::Timestamp;

/// After this much time without a crash, the next crash counts as the first again.
const CRASH_MEMORY: Duration = Duration::from_secs(600);
/// The wait before the second restart; it doubles up to [`BACKOFF_MAX`]. The first restart comes at once.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "OnFailure" => Self::OnFailure,
            "Never" => Self::Never,
            _ => Self::Always,
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) signal: i32,
    pub(super) reason: &'static str,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Timestamp,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It does not run; `retry_at` is when to try (again), `None` when it may start as soon as its Pod can.
    Waiting {
        reason: &'static str,
        message: String,
        retry_at: Option<Timestamp>,
    },
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// What the runtime reports of the newest attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) attempt: u32,
    pub(super) state: State,
}

/// What to do with a container now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Start this attempt.
    Start { attempt: u32 },
    /// Look again at this time.
    Wait(Timestamp),
    /// It runs, or it has ended for good.
    Nothing,
}

/// One container of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) name: String,
    /// The number of the newest attempt that was started; `None` before the first.
    pub(super) attempt: Option<u32>,
    pub(super) state: State,
    /// How the attempt before ended.
    pub(super) last_exit: Option<Exit>,
    /// Whether the postStart hook of this attempt is over: it runs for others only from then on.
    pub(super) is_hooked: bool,
    /// Whether the startup probe of this attempt has succeeded, if there is one.
    pub(super) has_started: bool,
    /// What the readiness probe of this attempt says, if there is one.
    pub(super) is_healthy: bool,
    /// Whether it is being ended because a probe or hook failed: then it is a failure, whatever its exit code.
    pub(super) is_condemned: bool,
    /// Crashes in a row, each less than [`CRASH_MEMORY`] after its start.
    crashes: u32,
}

impl Life {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            attempt: None,
            state: State::Waiting {
                reason: "ContainerCreating",
                message: String::new(),
                retry_at: None,
            },
            last_exit: None,
            is_hooked: false,
            has_started: false,
            is_healthy: false,
            is_condemned: false,
            crashes: 0,
        }
    }

    /// The life as the API server remembers it, when its process is gone without a trace (the node was restarted).
    pub(super) fn remembered(name: &str, status: &ContainerStatus, now: Timestamp) -> Self {
        let mut life = Self::new(name).with_last_exit(status, now);
        let ended = status
            .state
            .terminated
            .as_ref()
            .or(status.last_state.terminated.as_ref());
        if let Some(running) = &status.state.running {
            life.state = State::Exited(Exit {
                code: 137,
                signal: 0,
                reason: "ContainerStatusUnknown",
                started_at: running.started_at.map(Time::timestamp),
                finished_at: now,
            });
        } else if let Some(done) = ended {
            life.state = State::Exited(exit_of(done, now));
        } else {
            return life;
        }
        life.attempt = u32::try_from(status.restart_count).ok();
        life
    }

    /// With the end of an earlier attempt, as the API server remembers it.
    pub(super) fn with_last_exit(mut self, status: &ContainerStatus, now: Timestamp) -> Self {
        self.last_exit = status
            .last_state
            .terminated
            .as_ref()
            .map(|done| exit_of(done, now));
        self
    }

    /// Takes in what the runtime reports. A report that was under way when a newer attempt started says nothing.
    pub(super) fn observe(&mut self, report: Report) {
        if self.attempt.is_some_and(|attempt| report.attempt < attempt) {
            return;
        }
        let is_new_exit = matches!(report.state, State::Exited(_)) && self.state != report.state;
        self.attempt = Some(report.attempt);
        self.state = report.state;
        if let State::Exited(exit) = &self.state
            && is_new_exit
        {
            let ran = exit
                .started_at
                .map_or(0, |start| seconds_between(start, exit.finished_at));
            self.crashes = if ran >= CRASH_MEMORY.as_secs() {
                0
            } else {
                self.crashes
            };
        }
    }

    /// An attempt to start it failed, or cannot be made yet.
    pub(super) fn cannot_start(
        &mut self,
        reason: &'static str,
        message: String,
        retry_at: Timestamp,
    ) {
        self.keep_last_exit();
        self.state = State::Waiting {
            reason,
            message,
            retry_at: Some(retry_at),
        };
    }

    /// A new attempt runs.
    pub(super) fn started(&mut self, attempt: u32, now: Timestamp) {
        self.keep_last_exit();
        self.crashes += u32::from(attempt > 0);
        self.attempt = Some(attempt);
        self.state = State::Running { started_at: now };
        self.is_hooked = false;
        self.has_started = false;
        self.is_healthy = false;
        self.is_condemned = false;
    }

    fn keep_last_exit(&mut self) {
        if let State::Exited(exit) = &self.state {
            self.last_exit = Some(exit.clone());
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it runs, is past its hook, and has started in the eyes of its probe.
    pub(super) fn is_started(&self) -> bool {
        self.is_running() && self.is_hooked && self.has_started
    }

    /// Whether it can be used.
    pub(super) fn is_ready(&self) -> bool {
        self.is_started() && self.is_healthy
    }

    /// How it ended, if it never starts again.
    pub(super) fn ended(&self, policy: RestartPolicy) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) if !self.restarts(policy, exit) => Some(exit),
            _ => None,
        }
    }

    /// What to do now.
    pub(super) fn decide(&self, policy: RestartPolicy, now: Timestamp) -> Decision {
        let due = match &self.state {
            State::Running { .. } => return Decision::Nothing,
            State::Waiting { retry_at, .. } => retry_at.unwrap_or(now),
            State::Exited(exit) if self.restarts(policy, exit) => exit.finished_at + self.backoff(),
            State::Exited(_) => return Decision::Nothing,
        };
        if due > now {
            return Decision::Wait(due);
        }
        Decision::Start {
            attempt: self.attempt.map_or(0, |attempt| attempt + 1),
        }
    }

    /// The wait that the next restart has to keep.
    pub(super) fn backoff(&self) -> Duration {
        match self.crashes {
            0 => Duration::ZERO,
            crashes => (BACKOFF_FIRST * 2_u32.saturating_pow(crashes - 1).min(64)).min(BACKOFF_MAX),
        }
    }

    /// `restartCount`.
    pub(super) fn restart_count(&self) -> u32 {
        self.attempt.unwrap_or(0)
    }

    fn restarts(&self, policy: RestartPolicy, exit: &Exit) -> bool {
        match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit.code != 0 || self.is_condemned,
            RestartPolicy::Never => false,
        }
    }
}

fn seconds_between(start: Timestamp, end: Timestamp) -> u64 {
    u64::try_from(end.as_second() - start.as_second()).unwrap_or(0)
}

fn exit_of(done: &ContainerStateTerminated, now: Timestamp) -> Exit {
    Exit {
        code: done.exit_code,
        signal: done.signal,
        reason: known_reason(&done.reason),
        started_at: done.started_at.map(Time::timestamp),
        finished_at: done.finished_at.map_or(now, Time::timestamp),
    }
}

fn known_reason(reason: &str) -> &'static str {
    ["Completed", "OOMKilled", "ContainerStatusUnknown"]
        .into_iter()
        .find(|known| *known == reason)
        .unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("time")
    }

    fn exited(attempt: u32, code: i32, started: i64, finished: i64) -> Report {
        let state = State::Exited(Exit {
            code,
            signal: 0,
            reason: "Error",
            started_at: Some(at(started)),
            finished_at: at(finished),
        });
        Report { attempt, state }
    }

    #[test]
    fn a_new_container_starts_at_once_and_then_is_left_alone() {
        let mut life = Life::new("web");
        assert_eq!(
            life.decide(RestartPolicy::Always, at(0)),
            Decision::Start { attempt: 0 }
        );
        life.started(0, at(0));
        assert_eq!(
            life.decide(RestartPolicy::Always, at(99)),
            Decision::Nothing
        );
    }

    #[test]
    fn the_restart_policy_decides_what_starts_again() {
        let cases = [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::Always, 1, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 1, true),
            (RestartPolicy::Never, 0, false),
            (RestartPolicy::Never, 1, false),
        ];
        for (policy, code, again) in cases {
            let mut life = Life::new("web");
            life.started(0, at(0));
            life.observe(exited(0, code, 0, 5));
            let wanted = if again {
                Decision::Start { attempt: 1 }
            } else {
                Decision::Nothing
            };
            assert_eq!(life.decide(policy, at(5)), wanted, "{policy:?} {code}");
            assert_eq!(life.ended(policy).is_none(), again, "{policy:?} {code}");
        }
    }

    #[test]
    fn a_container_that_its_probe_has_ended_has_failed_whatever_its_exit_code() {
        let mut life = Life::new("web");
        life.started(0, at(0));
        life.is_condemned = true;
        life.observe(exited(0, 0, 0, 5));
        let again = Decision::Start { attempt: 1 };
        assert_eq!(life.decide(RestartPolicy::OnFailure, at(5)), again);
        assert!(life.ended(RestartPolicy::Never).is_some());
        life.started(1, at(5));
        life.observe(exited(1, 0, 5, 6));
        assert!(life.ended(RestartPolicy::OnFailure).is_some());
    }

    #[test]
    fn crashes_in_a_row_wait_ten_seconds_doubling_to_five_minutes() {
        let mut life = Life::new("web");
        life.started(0, at(0));
        let mut now = 0;
        let mut waits = Vec::new();
        for attempt in 0..8 {
            now += 1;
            life.observe(exited(attempt, 1, now - 1, now));
            let wait = life.backoff().as_secs() as i64;
            waits.push(wait);
            if wait > 0 {
                assert_eq!(
                    life.decide(RestartPolicy::Always, at(now)),
                    Decision::Wait(at(now + wait))
                );
            }
            now += wait;
            assert_eq!(
                life.decide(RestartPolicy::Always, at(now)),
                Decision::Start {
                    attempt: attempt + 1
                }
            );
            life.started(attempt + 1, at(now));
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(life.restart_count(), 8);
    }

    #[test]
    fn ten_good_minutes_wipe_the_crashes() {
        let mut life = Life::new("web");
        life.started(0, at(0));
        life.observe(exited(0, 1, 0, 1));
        life.started(1, at(1));
        life.observe(exited(1, 1, 1, 2));
        assert_eq!(life.backoff(), Duration::from_secs(10));
        life.started(2, at(12));
        life.observe(exited(2, 1, 12, 700));
        assert_eq!(life.backoff(), Duration::ZERO);
    }

    #[test]
    fn a_failed_start_is_tried_again_at_its_time_as_the_same_attempt() {
        let mut life = Life::new("web");
        life.cannot_start("ErrImagePull", "no such image".to_owned(), at(10));
        assert_eq!(
            life.decide(RestartPolicy::Never, at(9)),
            Decision::Wait(at(10))
        );
        assert_eq!(
            life.decide(RestartPolicy::Never, at(10)),
            Decision::Start { attempt: 0 }
        );
    }

    #[test]
    fn a_container_that_vanished_with_the_node_counts_as_killed() {
        let status: ContainerStatus = serde_json::from_str(
            r#"{"name":"web","restartCount":2,"state":{"running":{"startedAt":"2026-01-01T00:00:00Z"}}}"#,
        )
        .expect("status");
        let life = Life::remembered("web", &status, at(0));
        assert_eq!(
            life.ended(RestartPolicy::Never).map(|exit| exit.code),
            Some(137)
        );
        assert_eq!(
            life.decide(RestartPolicy::Always, at(0)),
            Decision::Start { attempt: 3 }
        );
    }
}
