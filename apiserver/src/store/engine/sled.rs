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
//! - a panic while opening (its answer to damage) becomes [`StoreError::Corrupt`].

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::{KvEngine, Op, Visit, panic_text};
use crate::store::StoreError;

/// sled moves a value, or a leaf of up to 16 of them, to a file of its own above a quarter of this.
const SEGMENT_BYTES: usize = 2 << 20;
/// Reads are served from memory above this engine, so its cache is only for writing.
const CACHE_BYTES: u64 = 32 << 20;
/// The largest value that is handed to [`KvEngine::apply`]: 16 of them fit a leaf.
pub(crate) const MAX_VALUE_BYTES: usize = 24 << 10;

/// The embedded store's engine on a directory.
pub struct SledEngine {
    db: ::sled::Db,
    /// The file that holds all data, opened a second time.
    data: File,
    dir: PathBuf,
    _lock: File,
}

impl SledEngine {
    /// Opens or creates the engine in `dir`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Corrupt`] when its files cannot be read
    /// back, [`StoreError::Io`] for the file system's refusals.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let lock = lock(dir)?;
        let tree = dir.join("sled");
        let config = ::sled::Config::new()
            .path(&tree)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(1000));
        let corrupt = |detail: String| StoreError::Corrupt {
            path: dir.display().to_string(),
            detail,
        };
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(::sled::Error::Io(source))) if source.kind() != io::ErrorKind::Other => {
                return Err(io_error("open", &tree)(source));
            }
            Ok(Err(error)) => return Err(corrupt(error.to_string())),
            Err(panic) => return Err(corrupt(panic_text(&*panic))),
        };
        let data = File::open(tree.join("db")).map_err(io_error("open", &tree.join("db")))?;
        let engine = Self {
            db,
            data,
            dir: tree,
            _lock: lock,
        };
        engine.sync_everything()?;
        engine.refuse_blobs()?;
        Ok(engine)
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
        for place in places {
            File::open(&place)
                .and_then(|file| file.sync_all())
                .map_err(io_error("sync", &place))?;
        }
        Ok(())
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
            source: io::Error::other(error),
        }
    }
}

impl KvEngine for SledEngine {
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

/// sled's own lock is on a file that a rewrite would replace.
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
