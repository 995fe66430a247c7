//! How many descriptors this process may have open, and those that it starts.
//!
//! The soft limit is 1024 by tradition, for programs that use `select(2)`; an agent with connections to carry needs more. What runs
//! in containers gets what the agent was given.

use std::{io, sync::OnceLock};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The soft limit before it was raised.
static GIVEN: OnceLock<u64> = OnceLock::new();

/// Lets this process open as many files as the hard limit allows. The containers that it starts are not affected.
///
/// # Errors
/// When the limits cannot be read or set.
pub fn raise_open_files_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    GIVEN.get_or_init(|| soft);
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The soft limit for what this process starts; `None` when its own is as it was given.
pub(crate) fn given() -> Option<u64> {
    GIVEN.get().copied()
}

/// Sets the soft limit.
pub(crate) fn limit(soft: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}
