//! Reading and writing key files so that a crash leaves either the old file or the new one.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use super::PkiError;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Its owner alone: 0600.
    Secret,
    /// Everybody: 0644.
    Public,
}

/// Says what was attempted on which file.
pub(super) fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> PkiError + 'a {
    move |source| PkiError::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// Makes the directory, for its owner alone.
pub(super) fn make_dir(path: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(path).map_err(failed("create directory", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(failed("restrict directory", path))
}

/// The text of a file, `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Replaces a file: temporary file, fsync, rename, fsync of the directory.
pub(super) fn write(path: &Path, text: &str, access: Access) -> Result<(), PkiError> {
    let mode = match access {
        Access::Secret => 0o600,
        Access::Public => 0o644,
    };
    let temporary = path.with_extension("tmp");
    // A leftover of an earlier crash may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &temporary)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync directory", dir))
}
