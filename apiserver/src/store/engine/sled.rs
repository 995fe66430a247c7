//! sled 0.34, made to keep its word.
//!
//! As its README shows it, sled loses acknowledged writes in a power cut and often cannot be opened afterwards: on Linux
//! its `flush` ends in `sync_file_range`, which neither commits the file's size nor reaches through the device's cache,
//! and some of its files are never synced at all. What this adapter does about it:
//!
//! - after every `flush` the data file is `fdatasync`ed through a descriptor of our own;
//! - after every open `conf`, `db`, `blobs/`, the directory and its parent are `fsync`ed;
//! - values stay below the size at which sled moves them to files it never syncs (`blobs/` stays empty);
//! - one thread flushes, after every batch, with the blocking call: seven `flush_async` at once deadlock;
//! - the background flusher stays on, because garbage collection hangs on it, but nothing relies on it;
//! - what a crash or a full disk has left of an unfinished `snap.*` file is removed before opening: sled takes it for the
//!   newest one, and refuses to open;
//! - a panic while opening (its answer to damage) becomes [`StoreError::Corrupt`];
//! - its file grows to many times what lives in it and never shrinks: at the start it is written anew ([`rewrite`]).

mod rewrite;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{KvEngine, Op, Visit, panic_text};
use crate::store::StoreError;

/// sled moves a value, or a leaf of up to 16 of them, to a file of its own above a quarter of this.
const SEGMENT_BYTES: usize = 2 << 20;
/// Reads are served from memory above this engine, so its cache is only for writing.
const CACHE_BYTES: u64 = 32 << 20;
/// The largest value that is handed to [`KvEngine::apply`]: 16 of them fit a leaf.
pub(crate) const MAX_VALUE_BYTES: usize = 24 << 10;

/// sled's background tasks end within this after its end, or something hangs.
const RELEASE: Duration = Duration::from_secs(10);

/// When the engine's file is written anew: it is larger than both.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Smaller files are left alone.
    pub file_bytes: u64,
    /// So many times the keys and values that live in it.
    pub times_live: u64,
}

impl Default for Growth {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            times_live: 4,
        }
    }
}

/// The embedded store's engine on a directory.
pub struct SledEngine {
    tree: Tree,
    _lock: File,
}

impl SledEngine {
    /// Opens or creates the engine in `dir`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Corrupt`] when its files cannot be read
    /// back, [`StoreError::Io`] for the file system's refusals.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Growth::default())
    }

    /// As [`SledEngine::open`], with another idea of what has grown too large.
    ///
    /// # Errors
    /// As [`SledEngine::open`].
    pub fn open_with(dir: &Path, growth: Growth) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let lock = lock(dir)?;
        let tree = rewrite::open(dir, growth)?;
        Ok(Self { tree, _lock: lock })
    }
}

impl KvEngine for SledEngine {
    fn apply(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        self.tree.apply(ops)
    }

    fn barrier(&self) -> Result<(), StoreError> {
        self.tree.barrier()
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.tree.scan(visit)
    }
}

/// sled in one directory.
struct Tree {
    /// Dropped first: `data` waits for its end.
    db: ::sled::Db,
    data: DataFile,
    dir: PathBuf,
}

/// The file that holds all data, opened a second time.
struct DataFile(File);

impl Drop for DataFile {
    /// sled is dropped before it has let go of its file: tasks in its background still write. Whoever opens, syncs or renames
    /// the file next must come after them, and sled's lock on it tells when that is.
    fn drop(&mut self) {
        let end = Instant::now() + RELEASE;
        while let Err(error) = self.0.try_lock() {
            if Instant::now() > end {
                tracing::warn!(%error, "the store's engine does not let go of its file");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Tree {
    /// Opens or creates it; all that is on the way to it is durable afterwards.
    fn open(dir: &Path) -> Result<Self, StoreError> {
        let config = ::sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(1000));
        let corrupt = |detail: String| StoreError::Corrupt {
            path: dir.display().to_string(),
            detail,
        };
        remove_unfinished_snapshots(dir).map_err(io_error("clean up", dir))?;
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(::sled::Error::Io(source))) if source.kind() != io::ErrorKind::Other => {
                return Err(io_error("open", dir)(source));
            }
            // sled has no error of its own for this.
            Ok(Err(error)) if error.to_string().contains("could not acquire lock") => {
                return Err(StoreError::Locked {
                    path: dir.display().to_string(),
                });
            }
            Ok(Err(error)) => return Err(corrupt(error.to_string())),
            Err(panic) => return Err(corrupt(panic_text(&*panic))),
        };
        let data = File::open(dir.join("db")).map_err(io_error("open", &dir.join("db")))?;
        let tree = Self {
            db,
            data: DataFile(data),
            dir: dir.to_owned(),
        };
        tree.sync_everything()?;
        tree.refuse_blobs()?;
        Ok(tree)
    }

    /// What the file takes on the disk.
    fn file_bytes(&self) -> Result<u64, StoreError> {
        let metadata = self.data.0.metadata();
        let metadata = metadata.map_err(io_error("inspect", &self.dir.join("db")))?;
        Ok(metadata.blocks() * 512)
    }

    /// A cut soon after creation must not leave files that exist without their content.
    fn sync_everything(&self) -> Result<(), StoreError> {
        let parent = self.dir.parent().unwrap_or(&self.dir).to_owned();
        let grandparent = parent.parent().unwrap_or(&parent).to_owned();
        let places = [
            self.dir.join("conf"),
            self.dir.join("db"),
            self.dir.join("blobs"),
            self.dir.clone(),
            parent,
            grandparent,
        ];
        places.iter().try_for_each(|place| sync(place))
    }

    fn refuse_blobs(&self) -> Result<(), StoreError> {
        let blobs = self.dir.join("blobs");
        let mut entries = fs::read_dir(&blobs).map_err(io_error("list", &blobs))?;
        match entries.next() {
            None => Ok(()),
            Some(_) => Err(StoreError::Corrupt {
                path: self.dir.display().to_string(),
                detail: "there are values in blobs/, which this store never writes".to_owned(),
            }),
        }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(::sled::Error) -> StoreError {
        let path = self.dir.display().to_string();
        move |error| StoreError::Io {
            operation,
            path: path.clone(),
            source: match error {
                ::sled::Error::Io(source) => source,
                other => io::Error::other(other),
            },
        }
    }

    fn apply(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let mut batch = ::sled::Batch::default();
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    debug_assert!(
                        value.len() <= MAX_VALUE_BYTES + 64,
                        "a value that sled would move to blobs/"
                    );
                    batch.insert(key, value);
                }
                Op::Delete(key) => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(self.failed("write to"))
    }

    fn barrier(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(self.failed("flush"))?;
        self.data
            .0
            .sync_data()
            .map_err(io_error("sync", &self.dir.join("db")))
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let corrupt = |detail: String| StoreError::Corrupt {
            path: self.dir.display().to_string(),
            detail,
        };
        let walk = AssertUnwindSafe(|| {
            for entry in self.db.iter() {
                let (key, value) = entry.map_err(|error| corrupt(error.to_string()))?;
                visit(&key, &value)?;
            }
            Ok(())
        });
        catch_unwind(walk).unwrap_or_else(|panic| Err(corrupt(panic_text(&*panic))))
    }
}

/// A snapshot of sled's index gets its name when it is complete and synced. The one before is removed only then.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a file or directory durable.
fn sync(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(io_error("sync", path))
}

/// sled's own lock is on a file that a rewrite replaces.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked {
            path: dir.display().to_string(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.display().to_string();
    move |source| StoreError::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the wait, one of some hundred fails.
    #[test]
    fn a_dropped_tree_can_be_opened_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        for round in 0..100_u8 {
            let tree = Tree::open(&dir.path().join("sled")).expect("open");
            let op = Op::Put(vec![b'k', round], vec![round; 20_000]);
            tree.apply(vec![op]).expect("apply");
            tree.barrier().expect("barrier");
        }
    }

    #[test]
    fn a_tree_that_somebody_has_open_is_in_use_and_not_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = Tree::open(dir.path()).expect("open");
        let second = Tree::open(dir.path()).map(drop);
        assert!(
            matches!(second, Err(StoreError::Locked { .. })),
            "{second:?}"
        );
    }

    #[test]
    fn an_unfinished_snapshot_does_not_keep_a_store_from_opening() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |engine: &SledEngine, key: &str| {
            let op = Op::Put(key.into(), b"value".to_vec());
            engine.apply(vec![op]).expect("apply");
            engine.barrier().expect("barrier");
        };
        put(&SledEngine::open(dir.path()).expect("open"), "one");
        for (name, content) in [
            ("snap.0000000000000001", ""),
            ("snap.FFFFFFFFFFFFFFFF", "part"),
        ] {
            let unfinished = dir.path().join(format!("sled/{name}.generating"));
            fs::write(&unfinished, content).expect("a file");
            let engine = SledEngine::open(dir.path()).expect("open");
            assert!(!unfinished.exists());
            put(&engine, name);
        }
        let engine = SledEngine::open(dir.path()).expect("open");
        let mut keys = 0;
        engine
            .scan(&mut |_, _| {
                keys += 1;
                Ok(())
            })
            .expect("scan");
        assert_eq!(keys, 3);
    }
}
