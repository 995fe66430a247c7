//! The guard against a full disk: what is refused before the engine could fail on it.

use std::path::PathBuf;

use crate::store::{Operation, StoreError, Write};

/// The largest value of one key.
pub(crate) const MAX_VALUE_BYTES: usize = 3 << 19;
/// The largest sum over a transaction: room for one such value and what goes with it.
const MAX_TRANSACTION_BYTES: usize = 2 << 20;
/// Writes are refused below this much free space, or below a twentieth of a small disk.
const REQUIRED_BYTES: u64 = 256 << 20;

/// Knows the directory whose disk must not fill up; without one, only sizes are checked.
#[derive(Debug)]
pub(super) struct Space(pub(super) Option<PathBuf>);

impl Space {
    /// Refuses malformed transactions, values that are too large and, on a nearly full disk, everything that adds bytes.
    pub(super) fn admit(&self, writes: &[Write]) -> Result<(), StoreError> {
        check_shape(writes)?;
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
        if writes
            .iter()
            .any(|write| matches!(write.operation, Operation::Put { .. }))
        {
            self.check_disk()
        } else {
            Ok(())
        }
    }

    fn check_disk(&self) -> Result<(), StoreError> {
        let Some(path) = &self.0 else { return Ok(()) };
        // An unreadable file system will refuse the write itself, with a better reason.
        let Ok(disk) = nix::sys::statvfs::statvfs(path) else {
            return Ok(());
        };
        let total = disk.blocks() * disk.fragment_size();
        let free = disk.blocks_available() * disk.fragment_size();
        let required_bytes = REQUIRED_BYTES.min(total / 20);
        if free < required_bytes {
            return Err(StoreError::NoSpace {
                path: path.display().to_string(),
                required_bytes,
            });
        }
        Ok(())
    }
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
