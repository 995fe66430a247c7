//! One command at a time builds or removes a lab.
//!
//! The lock is an `flock` on the lab's directory. `up` hands it on to the processes that start its hosts, so whoever gets it
//! later knows that no host is still being made, even when `up` was killed in the middle.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use super::state::Lab;

/// How long a command waits for another one on the same lab: longer than starting the hosts takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How often the lock is tried.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Held while a lab is built or removed.
pub(crate) struct LabLock(File);

impl LabLock {
    /// The lock as a child's standard input: it is held until the child has closed that, too.
    pub(crate) fn share(&self) -> Result<Stdio> {
        Ok(self.0.try_clone().context("share the lab's lock")?.into())
    }
}

impl Lab {
    /// Takes the lock, and creates the lab's directory for it; `None` while another command has it.
    pub(crate) fn try_lock(&self) -> Result<Option<LabLock>> {
        let path = self.dir();
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        let dir = match File::open(path) {
            // Another command has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("open {}", path.display()))?,
        };
        match dir.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            other => other.with_context(|| format!("lock {}", path.display()))?,
        }
        // The lock of a directory that was removed in between protects nothing.
        let locked = dir.metadata().context("inspect the lab's directory")?.ino();
        let current = fs::metadata(path).is_ok_and(|now| now.ino() == locked);
        Ok(current.then_some(LabLock(dir)))
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// When another command holds it for longer than [`PATIENCE`].
    pub(crate) fn lock(&self) -> Result<LabLock> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_lock()? {
                Some(lock) => return Ok(lock),
                None if Instant::now() > deadline => return Err(self.busy()),
                None => thread::sleep(POLL),
            }
        }
    }

    /// What is said when the lock is not to be had.
    pub(crate) fn busy(&self) -> anyhow::Error {
        anyhow!(
            "another `minik lab up` or `down` of lab {:?} is at work: wait for it, or interrupt it",
            self.name
        )
    }
}
