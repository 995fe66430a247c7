//! The guard against a full disk: what is refused before the engine could fail on it.
//!
//! | free | what is accepted |
//! |---|---|
//! | 256 MiB, a twentieth of a smaller disk, but at least 16 MiB | everything |
//! | less | what makes no object longer than it is by more than 4 KiB: heartbeats, status, a Pod that ends gracefully |
//! | less than 4 MiB | deletes |
//!
//! Others may fill the disk to the last byte. So that deletes then still find room, there is a file that is only there to
//! be removed ([`Reserve`]).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::store::{Operation, StoreError, Write};

/// The largest value of one key.
pub(crate) const MAX_VALUE_BYTES: usize = 3 << 19;
/// The largest sum over a transaction: room for one such value and what goes with it.
const MAX_TRANSACTION_BYTES: usize = 2 << 20;
/// Nothing new is stored below this much free space, or below a twentieth of a small disk ...
const REQUIRED_BYTES: u64 = 256 << 20;
/// ... but of the smallest disk too, some segments of the engine's log must be free.
const LEAST_REQUIRED_BYTES: u64 = 16 << 20;
/// Below this only deletes are accepted: each may begin a new segment of the engine's log.
const LAST_BYTES: u64 = 4 << 20;
/// How much of an existing object's growth is none: times, conditions, one more status.
const SLACK_BYTES: usize = 4 << 10;
/// The size of the file that makes room when there is none.
const RESERVE_BYTES: u64 = 8 << 20;

/// Knows the directory whose disk must not fill up; without one, only sizes are checked.
#[derive(Debug)]
pub(super) struct Space {
    dir: Option<PathBuf>,
    reserve: Reserve,
    low: bool,
}

/// A disk at one moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    total: u64,
    free: u64,
}

/// What a transaction needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It only deletes.
    Deletes,
    /// It changes what is there, and makes nothing much longer.
    Changes,
    /// It adds something.
    Adds,
}

impl Usage {
    fn required(self) -> u64 {
        (self.total / 20).clamp(LEAST_REQUIRED_BYTES, REQUIRED_BYTES)
    }

    /// How much must be free for what it is not enough for.
    fn refusal(self, need: Need) -> Option<u64> {
        match need {
            Need::Adds if self.free < self.required() => Some(self.required()),
            Need::Adds | Need::Changes if self.free < LAST_BYTES => Some(LAST_BYTES),
            _ => None,
        }
    }
}

/// Gives the reserve of an earlier run back when the disk is full: opening the engine writes too.
pub(super) fn make_room(dir: &Path) {
    if usage(dir).is_some_and(|usage| usage.free < RESERVE_BYTES) {
        Reserve::of(dir).release();
    }
}

impl Space {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self {
            reserve: dir.as_deref().map_or(Reserve(None), Reserve::of),
            dir,
            low: false,
        }
    }

    /// Refuses malformed transactions, values that are too large and, on a nearly full disk, what would fill it.
    /// `length` knows the present value of a key.
    pub(super) fn admit(
        &mut self,
        writes: &[Write],
        length: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<(), StoreError> {
        check_shape(writes)?;
        check_sizes(writes)?;
        self.check_disk(writes, length)
    }

    fn check_disk(
        &mut self,
        writes: &[Write],
        length: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<(), StoreError> {
        let Some(dir) = self.dir.clone() else {
            return Ok(());
        };
        // An unreadable file system will refuse the write itself, with a better reason.
        let Some(mut usage) = usage(&dir) else {
            return Ok(());
        };
        let required = usage.required();
        if usage.free < RESERVE_BYTES && self.reserve.release() {
            usage = self::usage(&dir).unwrap_or(usage);
        } else if usage.free > required + 2 * RESERVE_BYTES {
            self.reserve.make();
        }
        let low = usage.free < required;
        if low != std::mem::replace(&mut self.low, low) {
            let (path, free_bytes) = (dir.display(), usage.free);
            if low {
                tracing::warn!(%path, free_bytes, required_bytes = required, "the disk is nearly full: nothing new is stored");
            } else {
                tracing::info!(%path, free_bytes, "there is room on the disk again");
            }
        }
        if !low {
            return Ok(());
        }
        match usage.refusal(need(writes, length)) {
            None => Ok(()),
            Some(required_bytes) => Err(StoreError::NoSpace {
                path: dir.display().to_string(),
                free_bytes: usage.free,
                required_bytes,
            }),
        }
    }
}

fn usage(dir: &Path) -> Option<Usage> {
    let disk = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(Usage {
        total: disk.blocks() * disk.fragment_size(),
        free: disk.blocks_available() * disk.fragment_size(),
    })
}

fn need(writes: &[Write], length: impl Fn(&[u8]) -> Option<usize>) -> Need {
    let mut need = Need::Deletes;
    for write in writes {
        if let Operation::Put { value, .. } = &write.operation {
            match length(&write.key) {
                Some(length) if value.len() <= length + SLACK_BYTES => need = Need::Changes,
                _ => return Need::Adds,
            }
        }
    }
    need
}

/// A file without content that holds room on the disk. Without it, or on a file system that cannot allocate ahead, deletes
/// are merely tried.
#[derive(Debug)]
struct Reserve(Option<PathBuf>);

impl Reserve {
    fn of(dir: &Path) -> Self {
        Self(Some(dir.join("RESERVE")))
    }

    /// Gives the room back; false when there was none.
    fn release(&self) -> bool {
        self.0.as_ref().is_some_and(|path| {
            let removed = fs::remove_file(path).is_ok();
            if removed {
                tracing::warn!(path = %path.display(), "the disk is full: the reserve for deletes is in use");
            }
            removed
        })
    }

    fn make(&mut self) {
        let Some(path) = &self.0 else { return };
        let made = match path.symlink_metadata() {
            Ok(_) => Ok(()),
            Err(_) => allocate(path),
        };
        if let Err(error) = made {
            tracing::info!(path = %path.display(), %error, "no room can be reserved for deletes on a full disk");
            let _ = fs::remove_file(path);
            // It is not tried at every write.
            self.0 = None;
        }
    }
}

fn allocate(path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    let length = i64::try_from(RESERVE_BYTES).unwrap_or(i64::MAX);
    let mode = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(&file, mode, 0, length)?;
    Ok(())
}

fn check_sizes(writes: &[Write]) -> Result<(), StoreError> {
    let mut total = 0;
    for write in writes {
        let Operation::Put { value, .. } = &write.operation else {
            continue;
        };
        total += value.len();
        for (size_bytes, limit_bytes) in [
            (value.len(), MAX_VALUE_BYTES),
            (total, MAX_TRANSACTION_BYTES),
        ] {
            if size_bytes > limit_bytes {
                return Err(StoreError::TooLarge {
                    key: String::from_utf8_lossy(&write.key).into_owned(),
                    size_bytes,
                    limit_bytes,
                });
            }
        }
    }
    Ok(())
}

fn check_shape(writes: &[Write]) -> Result<(), StoreError> {
    let mut keys: Vec<&[u8]> = writes.iter().map(|write| &write.key[..]).collect();
    keys.sort_unstable();
    if keys.is_empty() {
        Err(StoreError::Malformed("it has no writes"))
    } else if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        Err(StoreError::Malformed("it writes one key twice"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Expect;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_nearly_full_disk_takes_what_may_free_it() {
        let large = |free| Usage {
            total: 1 << 40,
            free,
        };
        let small = |free| Usage {
            total: 100 * MIB,
            free,
        };
        let cases = [
            (large(256 * MIB), Need::Adds, None),
            (large(256 * MIB - 1), Need::Adds, Some(256 * MIB)),
            (large(256 * MIB - 1), Need::Changes, None),
            (small(16 * MIB), Need::Adds, None),
            (small(16 * MIB - 1), Need::Adds, Some(16 * MIB)),
            (small(4 * MIB), Need::Changes, None),
            (small(4 * MIB - 1), Need::Changes, Some(4 * MIB)),
            (small(0), Need::Deletes, None),
        ];
        for (usage, need, wanted) in cases {
            assert_eq!(usage.refusal(need), wanted, "{usage:?} {need:?}");
        }
    }

    #[test]
    fn what_adds_is_told_from_what_changes() {
        let length = |key: &[u8]| (key == b"old").then_some(100);
        let put = |key: &'static str, size: usize| Write {
            key: key.into(),
            expect: Expect::Any,
            operation: Operation::Put {
                value: vec![0; size].into(),
                ttl: None,
            },
        };
        let delete = Write {
            key: "old".into(),
            expect: Expect::Any,
            operation: Operation::Delete,
        };
        for (writes, wanted) in [
            (vec![delete.clone()], Need::Deletes),
            (vec![put("old", 100 + SLACK_BYTES)], Need::Changes),
            (vec![put("old", 101 + SLACK_BYTES)], Need::Adds),
            (vec![put("new", 1)], Need::Adds),
            (vec![delete, put("new", 1)], Need::Adds),
        ] {
            assert_eq!(need(&writes, length), wanted, "{writes:?}");
        }
    }

    #[test]
    fn the_reserve_is_room_that_can_be_given_back_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("RESERVE");
        let mut reserve = Reserve::of(dir.path());
        assert!(!reserve.release());
        reserve.make();
        let size = path.metadata().expect("the reserve").len();
        assert_eq!(size, RESERVE_BYTES);
        assert!(reserve.release());
        assert!(!path.exists() && !reserve.release());
    }
}
