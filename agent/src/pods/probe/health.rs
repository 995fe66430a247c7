//! What the probes of one container have found together. Pure: time is an argument.
//!
//! Source: kubernetes/kubernetes pkg/kubelet/prober/worker.go.

use std::fmt;

use api::core::{Container, Probe};
use tokio::time::Instant;

use super::{
    super::handler::Outcome,
    schedule::{Rules, Schedule},
};

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pods) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    pub(in crate::pods) fn of(self, container: &Container) -> Option<&Probe> {
        let probe = match self {
            Self::Startup => &container.startup_probe,
            Self::Liveness => &container.liveness_probe,
            Self::Readiness => &container.readiness_probe,
        };
        probe.as_deref()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// What changes for the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pods) enum News {
    /// Its startup probe has succeeded.
    Started,
    Ready(bool),
    /// It has to be restarted.
    Unhealthy(Kind),
    /// To be told as an Event with this reason.
    Told {
        reason: &'static str,
        message: String,
    },
}

/// What is known of a container when its probes begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::pods) struct Before {
    pub(in crate::pods) started: bool,
    pub(in crate::pods) ready: bool,
}

/// When the probes begin, and when their container did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) started: Instant,
    pub(super) now: Instant,
    /// From 0 to 1: where in their period the probes of a container begin that another agent has watched before, so that those of
    /// a whole node do not ask all at once.
    pub(super) phase: Option<f64>,
}

/// The probes of one attempt of a container.
#[derive(Clone, Debug)]
pub(super) struct Health {
    started: bool,
    ready: bool,
    /// By [`Kind`]; `None` when there is no such probe, or when it asks no more.
    schedules: [Option<Schedule>; 3],
    asked: [bool; 3],
}

impl Health {
    /// `is_cheap` says it of a probe's question.
    pub(super) fn new(
        container: &Container,
        before: Before,
        times: Times,
        is_cheap: impl Fn(Kind) -> bool,
    ) -> Self {
        let Times {
            started,
            now,
            phase,
        } = times;
        let has_started = before.started || container.startup_probe.is_none();
        let schedule = |kind: Kind| {
            let rules = Rules::of(kind.of(container)?);
            let later = |phase| Schedule::steady(rules, now + rules.period.mul_f64(phase));
            let eager = || Schedule::eager(rules, started, now, is_cheap(kind));
            match (kind, phase) {
                (Kind::Startup, _) => (!has_started).then(eager),
                (Kind::Readiness, Some(phase)) if before.ready => Some(later(phase)),
                (Kind::Readiness, _) => Some(eager()),
                (Kind::Liveness, Some(phase)) => Some(later(phase)),
                (Kind::Liveness, None) => {
                    let first = started + rules.initial_delay.max(rules.period);
                    Some(Schedule::steady(rules, first.max(now)))
                }
            }
        };
        Self {
            started: has_started,
            ready: before.ready,
            schedules: Kind::ALL.map(schedule),
            asked: [false; 3],
        }
    }

    /// The Pod is on its way out: nothing restarts its containers any more.
    pub(super) fn end(&mut self) {
        self.schedules[Kind::Startup as usize] = None;
        self.schedules[Kind::Liveness as usize] = None;
    }

    /// The next question, and when; `None` when nothing will be asked before an answer comes, or ever.
    pub(super) fn next(&self) -> Option<(Instant, Kind)> {
        let kinds = Kind::ALL.into_iter();
        let open = kinds.filter(|kind| self.started || *kind == Kind::Startup);
        let due = open.filter_map(|kind| {
            let schedule = self.schedules[kind as usize].as_ref()?;
            (!self.asked[kind as usize]).then(|| (schedule.due(), kind))
        });
        due.min_by_key(|(due, _)| *due)
    }

    /// The question is under way.
    pub(super) fn ask(&mut self, kind: Kind) {
        self.asked[kind as usize] = true;
    }

    /// Takes in its answer.
    pub(super) fn take(&mut self, kind: Kind, outcome: Outcome, now: Instant) -> Vec<News> {
        self.asked[kind as usize] = false;
        let Some(schedule) = &mut self.schedules[kind as usize] else {
            return Vec::new();
        };
        let success = match &outcome {
            Outcome::Success | Outcome::Warning(_) => Some(true),
            Outcome::Failure(_) => Some(false),
            Outcome::Error(_) => None,
        };
        let taken = schedule.take(success, now);
        let mut news = Vec::new();
        news.extend(told(kind, outcome).filter(|_| taken.counts));
        match (kind, taken.verdict) {
            (Kind::Readiness, Some(ready)) => {
                let changes = ready != std::mem::replace(&mut self.ready, ready);
                news.extend(changes.then_some(News::Ready(ready)));
            }
            (Kind::Startup, Some(true)) => {
                self.started = true;
                self.schedules[kind as usize] = None;
                for schedule in self.schedules.iter_mut().flatten() {
                    schedule.begin(now);
                }
                news.push(News::Started);
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                // It is about to be stopped: until then nobody asks it again whether it lives.
                self.end();
                news.push(News::Unhealthy(kind));
            }
            (Kind::Liveness, Some(true)) | (_, None) => {}
        }
        news
    }
}

fn told(kind: Kind, outcome: Outcome) -> Option<News> {
    let (reason, message) = match outcome {
        Outcome::Success => return None,
        Outcome::Warning(text) => ("ProbeWarning", format!("{kind} probe warning: {text}")),
        Outcome::Failure(text) => ("Unhealthy", format!("{kind} probe failed: {text}")),
        Outcome::Error(text) => (
            "Unhealthy",
            format!("{kind} probe errored and resulted in unknown state: {text}"),
        ),
    };
    Some(News::Told { reason, message })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn container(probes: Value) -> Container {
        let mut container = json!({"name": "c"});
        for (field, numbers) in probes.as_object().expect("probes") {
            container[field] = numbers.clone();
            container[field]["tcpSocket"] = json!({"port": 80});
        }
        serde_json::from_value(container).expect("a container")
    }

    /// A container's probes on a clock that moves from question to question, each answered at once.
    struct Run {
        health: Health,
        start: Instant,
        now: Instant,
    }

    impl Run {
        fn new(probes: Value, before: Before, phase: Option<f64>) -> Self {
            let start = Instant::now();
            let times = Times {
                started: start,
                now: start,
                phase,
            };
            let health = Health::new(&container(probes), before, times, |_| true);
            Self {
                health,
                start,
                now: start,
            }
        }

        /// The changes until `end`, with their seconds; `answers` says what comes to a kind's question at a time in milliseconds.
        fn until(
            &mut self,
            end_secs: u64,
            answers: impl Fn(Kind, u128) -> bool,
        ) -> Vec<(u64, News)> {
            let mut all = Vec::new();
            while let Some((due, kind)) = self.health.next() {
                if due >= self.start + Duration::from_secs(end_secs) {
                    break;
                }
                self.now = self.now.max(due);
                self.health.ask(kind);
                let outcome = match answers(kind, (self.now - self.start).as_millis()) {
                    true => Outcome::Success,
                    false => Outcome::Failure("no".to_owned()),
                };
                let news = self.health.take(kind, outcome, self.now);
                let secs = (self.now - self.start).as_secs();
                let news = news
                    .into_iter()
                    .filter(|news| !matches!(news, News::Told { .. }));
                all.extend(news.map(|news| (secs, news)));
            }
            all
        }
    }

    const NEW: Before = Before {
        started: false,
        ready: false,
    };

    #[test]
    fn startup_holds_back_the_others() {
        let probes = json!({
            "startupProbe": {"periodSeconds": 1, "failureThreshold": 30},
            "livenessProbe": {"periodSeconds": 1, "failureThreshold": 1},
            "readinessProbe": {"periodSeconds": 1},
        });
        let mut run = Run::new(probes, NEW, None);
        let news = run.until(60, |kind, millis| match kind {
            Kind::Startup => millis >= 20_000,
            // It would have failed all the time before.
            Kind::Liveness => (20_000..40_000).contains(&millis),
            Kind::Readiness => millis >= 25_000,
        });
        let kinds: Vec<_> = news.iter().map(|(_, news)| news.clone()).collect();
        let wanted = [
            News::Started,
            News::Ready(true),
            News::Unhealthy(Kind::Liveness),
        ];
        assert_eq!(kinds, wanted, "{news:?}");
        assert!(
            news[0].0 <= 21 && news[1].0 <= 26 && news[2].0 == 40,
            "{news:?}"
        );
    }

    #[test]
    fn a_container_that_never_starts_is_restarted_after_its_time_and_asked_no_more() {
        let probes = json!({
            "startupProbe": {"periodSeconds": 10, "failureThreshold": 3},
            "readinessProbe": {},
        });
        let mut run = Run::new(probes, NEW, None);
        let news = run.until(300, |_, _| false);
        assert_eq!(news, [(30, News::Unhealthy(Kind::Startup))]);
        assert_eq!(run.health.next(), None);
    }

    #[test]
    fn liveness_asks_no_earlier_than_a_period_or_the_initial_delay_after_the_start() {
        for (probe, wanted) in [
            (json!({"periodSeconds": 10, "failureThreshold": 1}), 10),
            (json!({"periodSeconds": 10, "failureThreshold": 2}), 20),
            (
                json!({"periodSeconds": 10, "failureThreshold": 1, "initialDelaySeconds": 15}),
                15,
            ),
        ] {
            let mut run = Run::new(json!({"livenessProbe": probe}), NEW, None);
            let news = run.until(100, |_, _| false);
            assert_eq!(news, [(wanted, News::Unhealthy(Kind::Liveness))]);
        }
    }

    #[test]
    fn another_agent_lets_what_was_ready_stay_so_until_it_fails() {
        let probes = json!({
            "startupProbe": {}, "livenessProbe": {"periodSeconds": 10, "failureThreshold": 1},
            "readinessProbe": {"periodSeconds": 10, "failureThreshold": 2},
        });
        let before = Before {
            started: true,
            ready: true,
        };
        let mut run = Run::new(probes.clone(), before, Some(0.5));
        let news = run.until(100, |kind, _| kind == Kind::Liveness);
        assert_eq!(news, [(15, News::Ready(false))]);
        let mut run = Run::new(probes, before, Some(0.5));
        let news = run.until(100, |_, millis| millis < 30_000);
        let wanted = [
            (35, News::Unhealthy(Kind::Liveness)),
            (45, News::Ready(false)),
        ];
        assert_eq!(news, wanted);
    }

    #[test]
    fn at_the_end_of_a_pod_readiness_is_asked_on_and_nothing_restarts_it() {
        let probes = json!({
            "livenessProbe": {"periodSeconds": 1, "failureThreshold": 1},
            "readinessProbe": {"periodSeconds": 1, "failureThreshold": 1},
        });
        let mut run = Run::new(probes, NEW, None);
        assert_eq!(run.until(5, |_, _| true), [(0, News::Ready(true))]);
        run.health.end();
        assert_eq!(run.until(20, |_, _| false), [(5, News::Ready(false))]);
    }

    #[test]
    fn what_is_told_is_said_in_the_kubelets_words() {
        let probes = json!({"livenessProbe": {"periodSeconds": 1, "failureThreshold": 3}});
        let mut run = Run::new(probes, NEW, None);
        for (outcome, reason, message) in [
            (
                Outcome::Failure("HTTP probe failed with statuscode: 503".to_owned()),
                "Unhealthy",
                "Liveness probe failed: HTTP probe failed with statuscode: 503",
            ),
            (
                Outcome::Warning("w".to_owned()),
                "ProbeWarning",
                "Liveness probe warning: w",
            ),
            (
                Outcome::Error("e".to_owned()),
                "Unhealthy",
                "Liveness probe errored and resulted in unknown state: e",
            ),
        ] {
            let (due, kind) = run.health.next().expect("a question");
            run.health.ask(kind);
            assert_eq!(run.health.next(), None, "one question at a time");
            let message = message.to_owned();
            assert_eq!(
                run.health.take(kind, outcome, due),
                [News::Told { reason, message }]
            );
        }
    }
}
