//! What a crash may not do to the embedded store: kill -9 of the whole process (`kill`), and cuts of the power (`power`)
//! simulated from a recording of everything a run wrote and synced (`disk`). `workload` is what runs, and what must be
//! true afterwards.

mod disk;
mod kill;
mod power;
mod workload;

use std::ops::Range;

/// A small deterministic source of randomness (SplitMix64), so that a failure names the seed that repeats it.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn index(&mut self, range: Range<usize>) -> usize {
        let len = u64::try_from(range.len()).expect("a length");
        range.start + usize::try_from(self.below(len)).expect("an index")
    }
}

/// The seed of this run: `STORE_CRASH_SEED`, or the same every time.
fn seed() -> u64 {
    number("STORE_CRASH_SEED", 1)
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}
