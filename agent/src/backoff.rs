//! Waiting longer after each failure, with jitter, so that many callers do not return at once.

use std::time::Duration;

use rand::Rng;

/// Delays that double from `first` up to `max`, each shortened at random by up to a half.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            next: first,
        }
    }

    /// The time to wait after one more failure.
    pub(crate) fn fail(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Something worked: the next failure waits the shortest time again.
    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for whole_ms in [100, 200, 350, 350] {
            let delay = backoff.fail();
            let whole = Duration::from_millis(whole_ms);
            assert!(
                delay >= whole / 2 && delay <= whole,
                "{delay:?} of {whole:?}"
            );
        }
        backoff.reset();
        assert!(backoff.fail() <= Duration::from_millis(100));
    }
}
