//! Writing the engine's file anew when it has grown too large, so that a crash at any moment leaves a whole one.
//!
//! In the store's directory:
//!
//! | step | `sled` | `sled.copy` | `sled.new` | `sled.old` |
//! |---|---|---|---|---|
//! | before | old | | | |
//! | copying, and every copy synced | old | partial | | |
//! | the copy is complete: renamed | old | | new | |
//! | moved aside | | | new | old |
//! | put in place | new | | | old |
//! | removed | new | | | |
//!
//! The directory is synced after each rename, so a cut of the power leaves one of these lines. [`settle`] makes the first or
//! the last of each: a name says what is in it, and nothing is ever changed under a name that promises something whole.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use super::{Growth, Tree, io_error, sync};
use crate::store::{
    StoreError,
    engine::{Op, panic_text},
};

const LIVE: &str = "sled";
const COPY: &str = "sled.copy";
const NEW: &str = "sled.new";
const OLD: &str = "sled.old";
/// What is copied between two syncs. Of small values, more at once would make the new file twice as large: 60 000 of
/// 300 bytes take 2.5 times their size this way, and 4.3 times with 1 MiB.
const BATCH_BYTES: usize = 256 << 10;
/// A new file may be larger than what lives in it, and the disk must not be full afterwards.
const SPARE_BYTES: u64 = 64 << 20;

/// Opens the tree of a store's directory, written anew if it has grown too large.
///
/// # Errors
/// Those of [`Tree::open`]. That a rewrite failed is none: the old file is as good as before.
pub(super) fn open(dir: &Path, growth: Growth) -> Result<Tree, StoreError> {
    settle(dir)?;
    let live = dir.join(LIVE);
    let old = Tree::open(&live)?;
    let file_bytes = old.file_bytes()?;
    if file_bytes <= growth.file_bytes {
        return Ok(old);
    }
    let content = Content::of(&old)?;
    if content.keys == 0 || file_bytes <= content.bytes.saturating_mul(growth.times_live) {
        return Ok(old);
    }
    let free_bytes = free(dir);
    if free_bytes < 2 * content.bytes + SPARE_BYTES {
        tracing::warn!(path = %live.display(), file_bytes, live_bytes = content.bytes, free_bytes,
            "the store's file has grown, and the disk has no room to write it anew");
        return Ok(old);
    }
    match rewrite(dir, old, content, &mut |_| Ok(())) {
        Ok(tree) => {
            let new_bytes = tree.file_bytes()?;
            tracing::info!(path = %live.display(), file_bytes, live_bytes = content.bytes, new_bytes,
                "the store's file had grown and was written anew");
            Ok(tree)
        }
        Err(error) => {
            tracing::warn!(%error, "the store's file has grown and could not be written anew");
            settle(dir)?;
            Tree::open(&live)
        }
    }
}

/// A point at which a test may let the rewrite end, as a crash would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Batch,
    Copied,
    Complete,
    MovedAside,
    InPlace,
}

fn rewrite(
    dir: &Path,
    old: Tree,
    content: Content,
    after: &mut dyn FnMut(Step) -> Result<(), StoreError>,
) -> Result<Tree, StoreError> {
    let [live, copy, new, aside] = [LIVE, COPY, NEW, OLD].map(|name| dir.join(name));
    let copied = catch_unwind(AssertUnwindSafe(|| copy_all(&old, &copy, after)));
    let copied = copied.unwrap_or_else(|panic| {
        Err(StoreError::Io {
            operation: "write",
            path: copy.display().to_string(),
            source: io::Error::other(panic_text(&*panic)),
        })
    })?;
    if copied != content {
        return Err(StoreError::Corrupt {
            path: copy.display().to_string(),
            detail: "it differs from what was copied".to_owned(),
        });
    }
    after(Step::Copied)?;
    // It was synced by its engine, but then closed, and closing writes too.
    sync_all(&copy)?;
    rename(dir, &copy, &new)?;
    after(Step::Complete)?;
    // Nobody may have it open under a name that it loses.
    drop(old);
    rename(dir, &live, &aside)?;
    after(Step::MovedAside)?;
    rename(dir, &new, &live)?;
    after(Step::InPlace)?;
    remove(dir, &aside)?;
    Tree::open(&live)
}

/// Brings the directory back to one tree under its usual name.
fn settle(dir: &Path) -> Result<(), StoreError> {
    let [live, copy, new, aside] = [LIVE, COPY, NEW, OLD].map(|name| dir.join(name));
    if new.exists() {
        if live.exists() {
            // Under this name it would be taken for complete while it is being removed.
            remove(dir, &copy)?;
            rename(dir, &new, &copy)?;
        } else {
            rename(dir, &new, &live)?;
        }
    }
    if aside.exists() && !live.exists() {
        rename(dir, &aside, &live)?;
    }
    remove(dir, &copy)?;
    remove(dir, &aside)
}

/// Copies every key into a tree of its own, reads it back, and tells what is in it.
fn copy_all(
    old: &Tree,
    to: &Path,
    after: &mut dyn FnMut(Step) -> Result<(), StoreError>,
) -> Result<Content, StoreError> {
    let copy = Tree::open(to)?;
    let mut batch = Vec::new();
    let mut bytes = 0;
    old.scan(&mut |key, value| {
        bytes += key.len() + value.len();
        batch.push(Op::Put(key.to_vec(), value.to_vec()));
        if bytes < BATCH_BYTES {
            return Ok(());
        }
        bytes = 0;
        copy.apply(std::mem::take(&mut batch))?;
        copy.barrier()?;
        after(Step::Batch)
    })?;
    copy.apply(batch)?;
    copy.barrier()?;
    Content::of(&copy)
}

/// What is in a tree, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    keys: u64,
    bytes: u64,
    hash: u64,
}

impl Content {
    fn of(tree: &Tree) -> Result<Self, StoreError> {
        let mut content = Self {
            keys: 0,
            bytes: 0,
            hash: 0,
        };
        let mut hasher = DefaultHasher::new();
        tree.scan(&mut |key, value| {
            content.keys += 1;
            content.bytes += u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX);
            (key, value).hash(&mut hasher);
            Ok(())
        })?;
        content.hash = hasher.finish();
        Ok(content)
    }
}

fn free(dir: &Path) -> u64 {
    nix::sys::statvfs::statvfs(dir).map_or(0, |disk| disk.blocks_available() * disk.fragment_size())
}

/// Makes a tree durable that nobody has open.
fn sync_all(tree: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(tree).map_err(io_error("list", tree))? {
        sync(&entry.map_err(io_error("list", tree))?.path())?;
    }
    sync(tree)
}

fn rename(dir: &Path, from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(io_error("rename", from))?;
    sync(dir)
}

fn remove(dir: &Path, tree: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(tree) {
        Ok(()) => sync(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("remove", tree)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: Growth = Growth {
        file_bytes: 0,
        times_live: 0,
    };
    const NEVER: Growth = Growth {
        file_bytes: u64::MAX,
        times_live: 1,
    };

    /// Of what is written four fifths are deleted: the file stays as long as it was.
    fn grown(dir: &Path) -> Content {
        let tree = open(dir, NEVER).expect("open");
        for keys in [0..50_u8, 50..100, 100..150, 150..200, 200..250] {
            let ops = keys.map(|key| {
                let mut value = vec![7; 20_000];
                // Not all alike.
                value[usize::from(key)] = key;
                Op::Put(vec![b'k', key], value)
            });
            tree.apply(ops.collect()).expect("apply");
            tree.barrier().expect("barrier");
        }
        let dead = (0..250_u8).filter(|key| key % 5 != 0);
        let ops = dead.map(|key| Op::Delete(vec![b'k', key]));
        tree.apply(ops.collect()).expect("apply");
        tree.barrier().expect("barrier");
        Content::of(&tree).expect("scan")
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("list").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_file_that_has_grown_is_written_anew_and_one_that_has_not_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let wanted = grown(dir.path());
        let before = open(dir.path(), NEVER).expect("open").file_bytes();
        let before = before.expect("size");
        // Twice as much as it has may be dead; then half as much. (Its engine moves things in the background.)
        let times = before / wanted.bytes;
        assert!(times >= 4, "{before} bytes for {} live", wanted.bytes);
        let left = Growth {
            file_bytes: 0,
            times_live: times * 2,
        };
        let tree = open(dir.path(), left).expect("open");
        let same = tree.file_bytes().expect("size");
        assert!(same > before / 2, "{before} -> {same}");
        drop(tree);
        let anew = Growth {
            file_bytes: before / 2,
            times_live: times / 2,
        };
        let tree = open(dir.path(), anew).expect("open");
        let after = tree.file_bytes().expect("size");
        // sled allocates by segments of 2 MiB.
        assert!(after <= before / 2, "{before} -> {after}");
        assert_eq!(Content::of(&tree).expect("scan"), wanted);
        assert_eq!(names(dir.path()), [LIVE]);
        // It is a store like any other.
        tree.apply(vec![Op::Put(b"more".to_vec(), b"x".to_vec())])
            .expect("apply");
        tree.barrier().expect("barrier");
        drop(tree);
        let tree = open(dir.path(), ALWAYS).expect("open");
        let content = Content::of(&tree).expect("scan");
        assert_eq!(content.keys, wanted.keys + 1);
    }

    #[test]
    fn a_crash_at_each_step_leaves_everything_and_no_litter() {
        for (step, nth) in [
            (Step::Batch, 0),
            (Step::Batch, 1),
            (Step::Copied, 0),
            (Step::Complete, 0),
            (Step::MovedAside, 0),
            (Step::InPlace, 0),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let wanted = grown(dir.path());
            let old = open(dir.path(), NEVER).expect("open");
            let mut left = nth;
            let crashed = rewrite(dir.path(), old, wanted, &mut |reached| {
                let here = reached == step && left == 0;
                left -= usize::from(reached == step && !here);
                let crash = StoreError::Unavailable("crash".to_owned());
                if here { Err(crash) } else { Ok(()) }
            });
            assert!(crashed.is_err(), "{step:?} was not reached");
            let tree = open(dir.path(), NEVER).expect("open after the crash");
            let found = Content::of(&tree).expect("scan");
            assert_eq!(found, wanted, "after a crash at {step:?}");
            assert_eq!(names(dir.path()), [LIVE], "after a crash at {step:?}");
        }
    }

    /// A crash while the crash is cleaned up.
    #[test]
    fn half_removed_trees_are_never_taken_for_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let wanted = grown(dir.path());
        for litter in [&[COPY][..], &[COPY, NEW], &[OLD], &[COPY, NEW, OLD]] {
            for name in litter {
                fs::create_dir(dir.path().join(name)).expect("an empty directory");
                fs::write(dir.path().join(name).join("db"), "half").expect("a file");
            }
            let tree = open(dir.path(), ALWAYS).expect("open");
            assert_eq!(Content::of(&tree).expect("scan"), wanted, "{litter:?}");
            assert_eq!(names(dir.path()), [LIVE], "{litter:?}");
        }
    }

    #[test]
    fn an_empty_tree_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(open(dir.path(), ALWAYS).expect("open"));
        drop(open(dir.path(), ALWAYS).expect("open"));
        assert_eq!(names(dir.path()), [LIVE]);
    }
}
