//! Whether this node may be sure that it is still the one that announces: by the reports that the server acknowledged. Pure.
//!
//! A report counts from when it was sent: the server cannot have heard it earlier, and so does not call the node silent before
//! [`CERTAIN`] is over, however late the acknowledgement comes.

use std::time::{Duration, Instant};

/// After the newest acknowledged report for so long nobody else has been chosen: less than the server waits.
pub(super) const CERTAIN: Duration = Duration::from_secs(1);
/// Once it was not certain, so long passes before acknowledgements count again: whoever was chosen meanwhile is known to the
/// server by then, and this node asks for it. Its watches may lag far behind its reports, which have a connection of their own.
const SETTLED: Duration = Duration::from_secs(3);

/// What the server's acknowledgements allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// When the newest acknowledged report was sent.
    reported: Instant,
    /// Before, they do not count.
    settled: Instant,
    /// Whether this node knows what the server had decided by then.
    knows: bool,
}

impl Standing {
    /// Of a node that has just heard that it is chosen.
    pub(super) const fn chosen(now: Instant) -> Self {
        Self {
            reported: now,
            settled: now,
            knows: true,
        }
    }

    /// The server has acknowledged the report that was sent then.
    pub(super) fn acknowledge(&mut self, sent: Instant) {
        if sent.saturating_duration_since(self.reported) >= CERTAIN {
            self.settled = sent + SETTLED;
            self.knows = false;
        }
        self.reported = sent;
    }

    /// From when on the server can be asked what was decided meanwhile; `None` when that is known.
    pub(super) fn asks_at(&self) -> Option<Instant> {
        (!self.knows).then_some(self.settled)
    }

    /// What the server had decided by then is known here, unless there was another gap.
    pub(super) fn learn(&mut self, settled: Instant) {
        self.knows |= self.settled == settled;
    }

    /// Until when the node is sure; `None` when it is not.
    pub(super) fn certain_until(&self, now: Instant) -> Option<Instant> {
        let end = self.reported + CERTAIN;
        (self.knows && self.settled <= now && now < end).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn certainty_lasts_from_the_sending_of_the_newest_acknowledged_report() {
        let now = Instant::now();
        let mut standing = Standing::chosen(now);
        assert_eq!(standing.certain_until(now), Some(now + CERTAIN));
        standing.acknowledge(now + 900 * MS);
        let late = now + 1800 * MS;
        assert_eq!(standing.certain_until(late), Some(now + 1900 * MS));
        assert_eq!(standing.certain_until(now + 1900 * MS), None);
    }

    /// Acknowledges reports for long enough; returns when the last was sent.
    fn settle(standing: &mut Standing, from: Instant) -> Instant {
        let mut at = from;
        while at < from + SETTLED {
            standing.acknowledge(at);
            assert_eq!(standing.certain_until(at), None, "{:?}", at - from);
            at += 200 * MS;
        }
        standing.acknowledge(at);
        at
    }

    #[test]
    fn after_a_gap_acknowledgements_count_only_when_they_went_on_for_a_while() {
        let now = Instant::now();
        let mut standing = Standing::chosen(now);
        let back = now + CERTAIN;
        standing.acknowledge(back);
        standing.learn(back + SETTLED);
        let at = settle(&mut standing, back);
        assert_eq!(standing.certain_until(at), Some(at + CERTAIN));
    }

    #[test]
    fn after_a_gap_acknowledgements_count_only_when_it_is_known_who_was_chosen() {
        let now = Instant::now();
        let mut standing = Standing::chosen(now);
        assert_eq!(standing.asks_at(), None, "it has just heard it");
        let at = settle(&mut standing, now + CERTAIN);
        let asks_at = standing.asks_at().expect("there was a gap");
        assert_eq!(asks_at, now + CERTAIN + SETTLED);
        assert_eq!(standing.certain_until(at), None);
        // What was learnt before another gap says nothing about that one.
        let at = settle(&mut standing, at + CERTAIN);
        standing.learn(asks_at);
        assert_eq!(standing.certain_until(at), None);
        standing.learn(standing.asks_at().expect("there was another"));
        assert_eq!(standing.certain_until(at), Some(at + CERTAIN));
    }
}
