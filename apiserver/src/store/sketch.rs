//! A note on a record.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a reader of a record noted about it, 64 bits of its own meaning, so that it need not read the value again. It belongs
/// to one version, is not stored, and says nothing about equality.
#[derive(Debug, Default)]
pub struct Sketch(AtomicU64);

impl Sketch {
    /// The note, or that of `make`, which is kept. Two readers at once note the same.
    pub fn get_or_init(&self, make: impl FnOnce() -> u64) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            // A note of no bits is made again each time: it has no bits to lose.
            0 => {
                let made = make();
                self.0.store(made, Ordering::Relaxed);
                made
            }
            known => known,
        }
    }

    /// False when it is made and lacks one of these bits.
    #[must_use]
    pub fn may_have(&self, bits: u64) -> bool {
        let known = self.0.load(Ordering::Relaxed);
        known == 0 || known & bits == bits
    }
}

impl Clone for Sketch {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl PartialEq for Sketch {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Sketch {}
