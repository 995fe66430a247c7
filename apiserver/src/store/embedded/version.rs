//! The file that says a store was made here: an engine that finds nothing in damaged files must not pass for a new one.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use super::disk;
use crate::store::{StoreError, engine::KvEngine};

const NAME: &str = "VERSION";
const CONTENT: &[u8] = b"minik store 1\n";

/// Makes an empty store a store, durably, or refuses one that is empty although it should not be.
///
/// # Errors
/// [`StoreError::Corrupt`] when the directory held a store and the engine finds none; the engine's and the disk's.
pub(super) fn check(dir: &Path, engine: &dyn KvEngine, fresh: bool) -> Result<(), StoreError> {
    let file = dir.join(NAME);
    let made_before = file.exists();
    if fresh && made_before {
        return Err(StoreError::Corrupt {
            path: dir.display().to_string(),
            detail: format!("there is a {NAME} file, but no data can be found"),
        });
    }
    if fresh {
        engine.apply(vec![disk::format()])?;
        engine.barrier()?;
    }
    if !made_before {
        write(dir, &file).map_err(|source| StoreError::Io {
            operation: "write",
            path: file.display().to_string(),
            source,
        })?;
    }
    Ok(())
}

fn write(dir: &Path, file: &Path) -> io::Result<()> {
    let temporary = file.with_extension("new");
    let mut out = File::create(&temporary)?;
    out.write_all(CONTENT)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    File::open(dir)?.sync_all()
}
