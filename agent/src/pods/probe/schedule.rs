//! When one probe asks, and what its answers come to. Pure: time is an argument.
//!
//! A question is asked at every tick, one `periodSeconds` after the other, and `failureThreshold` or `successThreshold` answers
//! of the same kind in a row make a verdict. As long as a container that has just started has not succeeded once, readiness and
//! startup ask between the ticks too: a success there counts, a failure does not. So a container is ready moments after it listens,
//! and its failures still have the time that its manifest gives them.

use std::time::Duration;

use api::core::Probe;
use tokio::time::Instant;

/// The shortest wait between two questions.
const SHORTEST: Duration = Duration::from_millis(5);
/// The same when a question costs something.
const SHORTEST_COSTLY: Duration = Duration::from_millis(100);
/// Between the ticks the wait is this part of the time that has passed: who takes long to start is asked more rarely.
const PART: u32 = 8;

/// The numbers of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) initial_delay: Duration,
    pub(super) timeout: Duration,
    pub(super) period: Duration,
    success_threshold: u32,
    failure_threshold: u32,
}

impl Rules {
    pub(super) fn of(probe: &Probe) -> Self {
        let number = |number: i32, least: u32| u32::try_from(number).unwrap_or(0).max(least);
        let secs = |secs: i32, least: u32| Duration::from_secs(number(secs, least).into());
        Self {
            initial_delay: secs(probe.initial_delay_seconds, 0),
            timeout: secs(probe.timeout_seconds, 1),
            period: secs(probe.period_seconds, 1),
            success_threshold: number(probe.success_threshold, 1),
            failure_threshold: number(probe.failure_threshold, 1),
        }
    }
}

/// What an answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Whether it counts, and so is worth telling.
    pub(super) counts: bool,
    /// The verdict that it completes.
    pub(super) verdict: Option<bool>,
}

/// One probe of one attempt of a container.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    rules: Rules,
    /// While nothing has succeeded: since when it asks, and the shortest wait.
    eager: Option<(Instant, Duration)>,
    due: Instant,
    tick: Instant,
    /// How often in a row the last answer came.
    run: (bool, u32),
}

impl Schedule {
    /// Asks at once when the initial delay is over, and again and again until the first success. Ticks begin a period later.
    pub(super) fn eager(rules: Rules, started: Instant, now: Instant, is_cheap: bool) -> Self {
        let began = started + rules.initial_delay;
        let shortest = if is_cheap { SHORTEST } else { SHORTEST_COSTLY };
        Self {
            rules,
            eager: Some((began, shortest)),
            due: began.max(now),
            tick: began.max(now) + rules.period,
            run: (false, 0),
        }
    }

    /// Asks at ticks only, from `first` on.
    pub(super) fn steady(rules: Rules, first: Instant) -> Self {
        Self {
            rules,
            eager: None,
            due: first,
            tick: first,
            run: (false, 0),
        }
    }

    /// When to ask next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What held it back ends now: it begins then, if it was to have begun before.
    pub(super) fn begin(&mut self, now: Instant) {
        self.due = self.due.max(now);
        match &mut self.eager {
            Some((began, _)) => {
                *began = (*began).max(now);
                self.tick = self.due + self.rules.period;
            }
            None => self.tick = self.due,
        }
    }

    /// Takes in the answer to the question that was due; `None` when it could not be asked, which counts for nothing.
    pub(super) fn take(&mut self, success: Option<bool>, now: Instant) -> Taken {
        let is_tick = self.due == self.tick;
        let counts = is_tick || success == Some(true);
        if success == Some(true) {
            self.eager = None;
        }
        if counts {
            let last = if is_tick { self.tick } else { now };
            self.tick = last + self.rules.period;
        }
        // A tick that passed during a slow answer comes now, and only once.
        self.tick = self.tick.max(now);
        self.due = match self.eager {
            Some((began, shortest)) => {
                let wait = (now - began) / PART;
                self.tick.min(now + wait.max(shortest))
            }
            None => self.tick,
        };
        let verdict = success.filter(|_| counts);
        let verdict = verdict.and_then(|success| self.count(success));
        Taken { counts, verdict }
    }

    fn count(&mut self, success: bool) -> Option<bool> {
        self.run = match self.run {
            (last, times) if last == success => (success, times.saturating_add(1)),
            _ => (success, 1),
        };
        let threshold = if success {
            self.rules.success_threshold
        } else {
            self.rules.failure_threshold
        };
        (self.run.1 >= threshold).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that moves only when told, and a probe of `period` seconds.
    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn rules(period_secs: u64, successes: u32, failures: u32) -> Rules {
        Rules {
            initial_delay: Duration::ZERO,
            timeout: Duration::from_secs(1),
            period: Duration::from_secs(period_secs),
            success_threshold: successes,
            failure_threshold: failures,
        }
    }

    /// Asks until `end`, each question taking no time; what counted, as (milliseconds, success, verdict), and how many there were.
    fn run(
        schedule: &mut Schedule,
        start: Instant,
        end_ms: u64,
        succeeds: impl Fn(u128) -> bool,
    ) -> (Vec<(u128, bool, Option<bool>)>, usize) {
        let (mut counted, mut asked) = (Vec::new(), 0);
        while schedule.due() < at(start, end_ms) {
            let now = schedule.due();
            let millis = (now - start).as_millis();
            let success = succeeds(millis);
            let taken = schedule.take(Some(success), now);
            asked += 1;
            if taken.counts {
                counted.push((millis, success, taken.verdict));
            }
            assert!(schedule.due() > now, "it asks twice at one time");
        }
        (counted, asked)
    }

    #[test]
    fn who_begins_to_listen_is_found_within_an_eighth_of_the_time_it_took() {
        for listens_ms in [0, 3, 60, 700, 3_000, 25_000] {
            let start = Instant::now();
            let mut schedule = Schedule::eager(rules(10, 1, 3), start, start, true);
            let (counted, asked) = run(&mut schedule, start, 60_000, |millis| millis >= listens_ms);
            let found = counted
                .iter()
                .find(|(_, success, _)| *success)
                .expect("it is found");
            assert_eq!(found.2, Some(true));
            assert!(
                found.0 - listens_ms <= (listens_ms / 7).max(5),
                "{listens_ms}: {}",
                found.0
            );
            assert!(asked < 80, "{listens_ms}: {asked} questions");
        }
    }

    #[test]
    fn failures_between_the_ticks_do_not_count() {
        let start = Instant::now();
        let mut schedule = Schedule::eager(rules(10, 1, 3), start, start, true);
        let (counted, _) = run(&mut schedule, start, 40_500, |_| false);
        let failed = |secs: u128, verdict| (secs * 1000, false, verdict);
        let wanted = [
            failed(10, None),
            failed(20, None),
            failed(30, Some(false)),
            failed(40, Some(false)),
        ];
        assert_eq!(counted, wanted);
    }

    #[test]
    fn a_success_between_the_ticks_begins_a_new_row_of_them() {
        let start = Instant::now();
        let mut schedule = Schedule::eager(rules(10, 2, 2), start, start, true);
        let (counted, _) = run(&mut schedule, start, 60_000, |millis| {
            (4..30_000).contains(&millis)
        });
        let wanted = [
            (5, true, None),
            (10_005, true, Some(true)),
            (20_005, true, Some(true)),
            (30_005, false, None),
            (40_005, false, Some(false)),
            (50_005, false, Some(false)),
        ];
        assert_eq!(counted, wanted);
    }

    #[test]
    fn answers_must_come_in_a_row() {
        let start = Instant::now();
        let mut schedule = Schedule::steady(rules(1, 1, 3), start);
        // Two failures, a success, three failures.
        let (counted, _) = run(&mut schedule, start, 6_000, |millis| millis / 1000 == 2);
        let verdicts: Vec<_> = counted.iter().map(|(.., verdict)| *verdict).collect();
        assert_eq!(verdicts, [None, None, Some(true), None, None, Some(false)]);
    }

    #[test]
    fn a_slow_answer_delays_the_next_question_and_multiplies_nothing() {
        let start = Instant::now();
        for mut schedule in [
            Schedule::steady(rules(1, 1, 3), start),
            Schedule::eager(rules(1, 1, 3), start, start, true),
        ] {
            let asked = schedule.due();
            assert_eq!(asked, start);
            let _ = schedule.take(Some(false), at(start, 3_400));
            assert_eq!(
                schedule.due(),
                at(start, 3_400),
                "the tick that passed comes now"
            );
            let taken = schedule.take(Some(false), at(start, 3_401));
            assert!(taken.counts);
            let next = schedule.due() - start;
            assert!(
                next > Duration::from_millis(3_401) && next <= Duration::from_millis(4_400),
                "{next:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_asked_counts_for_nothing() {
        let start = Instant::now();
        let mut schedule = Schedule::steady(rules(1, 1, 2), start);
        assert_eq!(schedule.take(Some(false), start).verdict, None);
        let taken = schedule.take(None, at(start, 1_000));
        assert_eq!((taken.counts, taken.verdict), (true, None));
        assert_eq!(
            schedule.take(Some(false), at(start, 2_000)).verdict,
            Some(false)
        );
    }

    #[test]
    fn the_initial_delay_comes_before_everything() {
        let start = Instant::now();
        let delayed = Rules {
            initial_delay: Duration::from_secs(15),
            ..rules(10, 1, 1)
        };
        let mut schedule = Schedule::eager(delayed, start, start, true);
        let (counted, _) = run(&mut schedule, start, 26_000, |_| false);
        assert_eq!(counted, [(25_000, false, Some(false))]);
    }
}
