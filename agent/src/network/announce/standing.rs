//! Whether this node may be sure that it is still the one that announces: by the reports that the server acknowledged. Pure.
//!
//! A report counts from when it was sent: the server cannot have heard it earlier, and so does not call the node silent before
//! [`CERTAIN`] is over, however late the acknowledgement comes.

use std::time::{Duration, Instant};

/// After the newest acknowledged report for so long nobody else has been chosen: less than the server waits.
pub(super) const CERTAIN: Duration = Duration::from_secs(1);
/// Once it was not certain, so long passes before acknowledgements count again: whoever was chosen meanwhile is known here by
/// then.
const SETTLED: Duration = Duration::from_secs(3);

/// What the server's acknowledgements allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// When the newest acknowledged report was sent.
    reported: Instant,
    /// Before, they do not count.
    settled: Instant,
}

impl Standing {
    /// Of a node that has just heard that it is chosen.
    pub(super) const fn chosen(now: Instant) -> Self {
        Self {
            reported: now,
            settled: now,
        }
    }

    /// The server has acknowledged the report that was sent then.
    pub(super) fn acknowledge(&mut self, sent: Instant) {
        if sent.saturating_duration_since(self.reported) >= CERTAIN {
            self.settled = sent + SETTLED;
        }
        self.reported = sent;
    }

    /// Until when the node is sure; `None` when it is not.
    pub(super) fn certain_until(&self, now: Instant) -> Option<Instant> {
        let end = self.reported + CERTAIN;
        (self.settled <= now && now < end).then_some(end)
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

    #[test]
    fn after_a_gap_acknowledgements_count_only_when_they_went_on_for_a_while() {
        let now = Instant::now();
        let mut standing = Standing::chosen(now);
        let back = now + CERTAIN;
        let mut at = back;
        while at < back + SETTLED {
            standing.acknowledge(at);
            assert_eq!(standing.certain_until(at), None, "{:?}", at - back);
            at += 200 * MS;
        }
        standing.acknowledge(at);
        assert_eq!(standing.certain_until(at), Some(at + CERTAIN));
    }
}
