//! What of a Pod's happenings is told, and how: probes fail again and again, and neither the server nor whoever reads its Events
//! may have to bear each time. The numbers are those of client-go (tools/record/events_cache.go).

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Happening, time};

const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Different texts that are known again.
const KNOWN: usize = 64;

/// What was told of one Pod.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The Event object for what was told before, and how often it happened since.
    told: HashMap<Happening, (String, u32)>,
    /// How many may be told now.
    allowance: f64,
    refilled: Instant,
}

/// What to tell.
#[derive(Debug, PartialEq)]
pub(super) enum Telling {
    New,
    /// It happened again: what to write into the Event of this name.
    Again(String, Value),
    /// Nothing, for there was too much.
    Nothing,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: HashMap::new(),
            allowance: BURST,
            refilled: now,
        }
    }

    /// It has happened.
    pub(super) fn happened(&mut self, what: &Happening, now: Instant) -> Telling {
        let refill = (now - self.refilled).as_secs_f64() / REFILL.as_secs_f64();
        (self.allowance, self.refilled) = ((self.allowance + refill).min(BURST), now);
        let known = self.told.get_mut(what);
        let known = known.map(|(name, count)| {
            *count += 1;
            (name.clone(), *count)
        });
        if self.allowance < 1.0 {
            return Telling::Nothing;
        }
        self.allowance -= 1.0;
        match known {
            Some((name, count)) => {
                let patch = json!({"count": count, "lastTimestamp": time(Timestamp::now())});
                Telling::Again(name, patch)
            }
            None => Telling::New,
        }
    }

    /// It was told by the Event of this name.
    pub(super) fn told(&mut self, what: Happening, name: String) {
        if self.told.len() == KNOWN {
            self.told.clear();
        }
        self.told.insert(what, (name, 1));
    }

    /// Its Event is gone, as Events go: it is new when it happens again.
    pub(super) fn forget(&mut self, what: &Happening) {
        self.told.remove(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_is_counted_and_what_never_ends_is_told_rarely() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let what = |message: &str| Happening {
            container: "c".to_owned(),
            r#type: "Warning",
            reason: "Unhealthy".to_owned(),
            message: message.to_owned(),
        };
        assert_eq!(ledger.happened(&what("a"), start), Telling::New);
        ledger.told(what("a"), "p.1".to_owned());
        let Telling::Again(name, patch) = ledger.happened(&what("a"), start) else {
            panic!("it was told before");
        };
        assert_eq!((&*name, &patch["count"]), ("p.1", &json!(2)));
        let told =
            (0..100).filter(|n| ledger.happened(&what(&n.to_string()), start) == Telling::New);
        assert_eq!(told.count(), 23);
        let later = start + REFILL;
        let Telling::Again(_, patch) = ledger.happened(&what("a"), later) else {
            panic!("one more may be told");
        };
        assert_eq!(patch["count"], 3);
        assert_eq!(ledger.happened(&what("a"), later), Telling::Nothing);
        let Telling::Again(_, patch) = ledger.happened(&what("a"), later + REFILL) else {
            panic!("one more may be told");
        };
        assert_eq!(patch["count"], 5, "those that were not told are counted");
        ledger.forget(&what("a"));
        assert_eq!(
            ledger.happened(&what("a"), later + 2 * REFILL),
            Telling::New
        );
    }
}
