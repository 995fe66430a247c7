//! The guard against a full disk: what is refused before the engine could fail on it.

use std::path::PathBuf;

use crate::store::{Operation, StoreError, Write};

/// The largest value of one key.
pub(crate) const MAX_VALUE_BYTES: usize = 3 << 19;
/// Writes are refused below this much free space, or below a twentieth of a small disk.
const REQUIRED_BYTES: u64 = 256 << 20;

/// Knows the directory whose disk must not fill up; without one, only sizes are checked.
#[derive(Debug)]
pub(super) struct Space(pub(super) Option<PathBuf>);

impl Space {
    /// Refuses values that are too large and, on a nearly full disk, everything that adds bytes.
    pub(super) fn admit(&self, writes: &[Write]) -> Result<(), StoreError> {
        for write in writes {
            let Operation::Put { value, .. } = &write.operation else {
                continue;
            };
            if value.len() > MAX_VALUE_BYTES {
                return Err(StoreError::TooLarge {
                    key: String::from_utf8_lossy(&write.key).into_owned(),
                    size_bytes: value.len(),
                    limit_bytes: MAX_VALUE_BYTES,
                });
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
