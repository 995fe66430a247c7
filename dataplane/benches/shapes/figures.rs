//! Times, percentiles and the kernel's memory.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
    time::{ClockId, clock_gettime},
};

/// What something took, in milliseconds, by this thread and the programs that it ran.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) elapsed: f64,
    pub(crate) cpu: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.3} ({:.3})", self.elapsed, self.cpu)
    }
}

pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, Cost) {
    let (start, before) = (Instant::now(), used());
    let result = what();
    let after = used();
    let cost = Cost {
        elapsed: start.elapsed().as_secs_f64() * 1e3,
        cpu: after - before,
    };
    (result, cost)
}

/// CPU time of this thread and of the programs that have ended, in milliseconds.
fn used() -> f64 {
    let thread = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
    let programs = getrusage(UsageWho::RUSAGE_CHILDREN).expect("Linux has it");
    let micros = (programs.user_time() + programs.system_time()).num_microseconds();
    Duration::from(thread).as_secs_f64() * 1e3 + micros as f64 / 1e3
}

/// The middle of each figure.
pub(crate) fn median(costs: &[Cost]) -> Cost {
    let middle = |figure: fn(&Cost) -> f64| percentile(costs.iter().map(figure).collect(), 50);
    Cost {
        elapsed: middle(|cost| cost.elapsed),
        cpu: middle(|cost| cost.cpu),
    }
}

pub(crate) fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * percent / 100]
}

/// Memory of the kernel's own that is not given back under pressure: where sets, chains and rules are.
pub(crate) fn kernel_memory_mb() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let kilobytes: f64 = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| matches!(*name, "SUnreclaim" | "VmallocUsed"))
        .filter_map(|(_, value)| value.split_whitespace().next()?.parse::<f64>().ok())
        .sum();
    kilobytes / 1e3
}
