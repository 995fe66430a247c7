//! Puts the files of a volume on the disk so that a reader sees all of the old or all of the new.
//!
//! ```text
//!   token   -> ..data/token
//!   ..data  -> ..1
//!   ..1/token
//! ```
//!
//! New files come into a new directory, then `..data` is replaced by renaming over it. A path stays open to its old file. Source:
//! kubernetes/kubernetes pkg/volume/util/atomic_writer.go, whose names programs have come to know.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
};

use super::{File, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Writes the files of a volume, and removes those that are not among them any more. Equal files are left alone.
///
/// # Errors
/// When the disk says no; what was there before is there then.
pub(in crate::pods) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    let old = old.as_deref().and_then(Path::to_str).unwrap_or_default();
    if is_current(&data, payload)? {
        return finish(dir, old, payload);
    }
    let number = old
        .strip_prefix("..")
        .and_then(|number| number.parse::<u64>().ok());
    let new = format!("..{}", number.map_or(1, |number| number + 1));
    // What a killed agent may have left.
    remove(&dir.join(&new))?;
    for (path, file) in payload {
        write_file(&dir.join(&new), path, file, group)?;
    }
    if payload.is_empty() {
        make_dir(&dir.join(&new), group)?;
    }
    remove(&dir.join(NEW_DATA))?;
    symlink(&new, dir.join(NEW_DATA))?;
    fs::rename(dir.join(NEW_DATA), &data)?;
    finish(dir, &new, payload)
}

/// Links the names to the files, which are in `current` now, and removes all older ones, also those that an agent which was
/// killed on the way has left: they may be Secrets.
fn finish(dir: &Path, current: &str, payload: &Payload) -> io::Result<()> {
    link_names(dir, payload)?;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(".."));
        if ours && name != DATA && name != current {
            remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Whether exactly these files are there.
fn is_current(data: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path.strip_prefix(data).map_err(io::Error::other)?;
            let wanted = name.to_str().and_then(|name| payload.get(name));
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            let equal = |file: &File| -> io::Result<bool> {
                Ok(file.mode == mode && fs::read(&path)? == file.content)
            };
            if !wanted.map_or(Ok(false), equal)? {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == payload.len())
}

fn write_file(dir: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let target = dir.join(path);
    let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
    for parent in std::iter::once("").chain(parents) {
        make_dir(&dir.join(parent), group)?;
    }
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&target)?;
    out.write_all(&file.content)?;
    chown(&target, None, group)?;
    // Whatever the umask is.
    fs::set_permissions(&target, Permissions::from_mode(file.mode))
}

fn make_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    chown(dir, None, group)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// A link for the first part of each path, and no other.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let mut missing: BTreeSet<String> = payload.keys().map(first).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !missing.remove(&name) {
            remove(&dir.join(name))?;
        }
    }
    for name in missing {
        symlink(Path::new(DATA).join(&name), dir.join(name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let is_dir = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?.is_dir(),
    };
    if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File {
            content: content.as_bytes().to_vec(),
            mode: 0o640,
        };
        let files = files.iter();
        files
            .map(|(path, content)| ((*path).to_owned(), file(content)))
            .collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string())
            .collect::<Result<_, _>>()
            .expect("names");
        names.sort();
        names
    }

    #[test]
    fn files_are_swapped_all_at_once_and_left_alone_when_equal() {
        let root = std::env::temp_dir().join(format!("minik-volume-{}", std::process::id()));
        let dir = root.join("v");
        let read = |path: &str| fs::read_to_string(dir.join(path)).expect("a file");
        write(&dir, &payload(&[("token", "1"), ("a/b", "2")]), None).expect("written");
        assert_eq!(names(&dir), ["..1", "..data", "a", "token"]);
        assert_eq!((read("token"), read("a/b")), ("1".into(), "2".into()));
        let mode = fs::metadata(dir.join("token")).expect("a file");
        assert_eq!(mode.permissions().mode() & 0o777, 0o640);

        write(&dir, &payload(&[("token", "1"), ("a/b", "2")]), None).expect("written");
        assert_eq!(names(&dir), ["..1", "..data", "a", "token"]);

        let mut open = fs::File::open(dir.join("token")).expect("a file");
        write(&dir, &payload(&[("token", "3"), ("c", "4")]), None).expect("written");
        assert_eq!(names(&dir), ["..2", "..data", "c", "token"]);
        assert_eq!(read("token"), "3");
        let mut old = String::new();
        io::Read::read_to_string(&mut open, &mut old).expect("the old file");
        assert_eq!(old, "1");
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn what_a_killed_agent_left_is_mended_and_goes() {
        let root = std::env::temp_dir().join(format!("minik-killed-{}", std::process::id()));
        let dir = root.join("v");
        write(&dir, &payload(&[("token", "1")]), None).expect("written");
        for files in [[("token", "1")], [("token", "2")], [("token", "2")]] {
            let current = fs::read_link(dir.join(DATA)).expect("a link");
            // Killed while it wrote, before it removed what was old, and before it linked the name.
            for left in ["..7", "..8"] {
                fs::create_dir(dir.join(left)).expect("made");
                fs::write(dir.join(left).join("token"), "old").expect("written");
            }
            symlink("..8", dir.join(NEW_DATA)).expect("linked");
            fs::remove_file(dir.join("token")).expect("removed");
            write(&dir, &payload(&files), None).expect("written");
            let new = fs::read_link(dir.join(DATA)).expect("a link");
            let new = new.to_str().expect("a name").to_owned();
            assert_eq!(
                names(&dir),
                [new.as_str(), "..data", "token"],
                "{current:?}"
            );
            let read = fs::read_to_string(dir.join("token")).expect("a file");
            assert_eq!(read, files[0].1);
        }
        fs::remove_dir_all(root).expect("removed");
    }
}
