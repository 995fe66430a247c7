//! What the benchmarks of this crate measure with.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each benchmark uses its own part of this"
)]

use std::{fs, time::Duration};

use serde_json::{Value, json};

/// The processor time of a process so far.
pub fn cpu(pid: u32) -> Duration {
    let fields = stat(pid);
    // utime and stime, proc_pid_stat(5) fields 14 and 15, in ticks of 10 ms.
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The fields of proc_pid_stat(5) after the name, so that `[0]` is field 3.
pub fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the process's times");
    let after_name = stat.rsplit_once(')').expect("a name in parentheses").1;
    after_name.split_whitespace().map(str::to_owned).collect()
}

/// What a process has in memory, in KiB.
pub fn rss_kb(pid: u32) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("read the process's status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("kilobytes")
}

/// Rows of one benchmark: printed as they come, and at the end as lines of JSON.
pub struct Report {
    bench: &'static str,
    rows: Vec<Value>,
}

impl Report {
    /// An empty report.
    pub fn of(bench: &'static str) -> Self {
        Self {
            bench,
            rows: Vec::new(),
        }
    }

    /// Adds a row; the goal may be empty.
    pub fn row(&mut self, what: &str, value: f64, unit: &str, goal: &str) {
        println!(
            "{what:<48} {value:>10.3} {unit:<12} {}",
            if goal.is_empty() {
                String::new()
            } else {
                format!("goal {goal}")
            }
        );
        self.rows.push(
            json!({ "bench": self.bench, "what": what, "value": value, "unit": unit, "goal": goal }),
        );
    }

    /// The rows as JSON, a line each.
    pub fn print(&self) {
        self.rows.iter().for_each(|row| println!("{row}"));
    }
}
