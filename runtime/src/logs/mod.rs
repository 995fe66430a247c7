//! Reading container logs back: the parts of one attempt's log in their order, and what clients see of their records.

mod reader;
mod record;

pub use reader::Reader;
pub use record::{Filter, OutputStream};

use std::path::{Path, PathBuf};

/// The log of one attempt: its newest part for 0, older ones for higher numbers.
pub(crate) fn part(dir: &Path, attempt: u32, number: u32) -> PathBuf {
    match number {
        0 => dir.join(format!("{attempt}.log")),
        _ => dir.join(format!("{attempt}.log.{number}")),
    }
}
