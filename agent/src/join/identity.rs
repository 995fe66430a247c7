//! The node's certificate and key on disk.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::client::{ClientConfig, Identity};

/// A file of the data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct FileError {
    /// What was attempted.
    pub operation: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            operation,
            path,
            source,
        }
    }
}

/// What a joined node keeps: `node.crt`, `node.key` (0600), `ca.crt`, `server` (the URL) and `node` (its name) below the data
/// directory.
#[derive(Clone, Debug)]
pub(super) struct StoredIdentity {
    pub(super) server: String,
    pub(super) node: String,
    pub(super) ca_pem: String,
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

impl StoredIdentity {
    /// Reads what an earlier join left; `None` when there was none. One that kept no name is taken to be `node`'s.
    pub(super) fn load(data_dir: &Path, node: &str) -> Result<Option<Self>, FileError> {
        let Some(certificate_pem) = read(&data_dir.join("node.crt"))? else {
            return Ok(None);
        };
        let parts = (
            read(&data_dir.join("server"))?,
            read(&data_dir.join("ca.crt"))?,
            read(&data_dir.join("node.key"))?,
        );
        let (Some(server), Some(ca_pem), Some(key_pem)) = parts else {
            return Ok(None);
        };
        let server = server.trim().to_owned();
        let stored_node = read(&data_dir.join("node"))?;
        Ok(Some(Self {
            server,
            node: stored_node.as_deref().unwrap_or(node).trim().to_owned(),
            ca_pem,
            certificate_pem,
            key_pem,
        }))
    }

    /// Writes all files, each whole or not at all. The certificate comes last: with it the identity counts as there.
    pub(super) fn store(&self, data_dir: &Path) -> Result<(), FileError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(FileError::new("creating", data_dir))?;
        // From here until the end there is none: parts of two must not be taken for one.
        let certificate = data_dir.join("node.crt");
        match fs::remove_file(&certificate) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::new("removing", &certificate)(error));
            }
            _ => {}
        }
        write(&data_dir.join("server"), &self.server, 0o644)?;
        write(&data_dir.join("node"), &self.node, 0o644)?;
        write(&data_dir.join("ca.crt"), &self.ca_pem, 0o644)?;
        write(&data_dir.join("node.key"), &self.key_pem, 0o600)?;
        write(&certificate, &self.certificate_pem, 0o644)
    }

    pub(super) fn client_config(&self) -> ClientConfig {
        ClientConfig {
            server: self.server.clone(),
            ca_pem: self.ca_pem.clone(),
            identity: Identity::Certificate {
                certificate_pem: self.certificate_pem.clone(),
                key_pem: self.key_pem.clone(),
            },
        }
    }
}

fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("reading", path)(error)),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let new = path.with_extension("new");
    let written = (|| {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.map_err(FileError::new("writing", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_stored_identity_is_loaded_again_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("tempdir");
        let data_dir = dir.path().join("agent");
        assert!(
            StoredIdentity::load(&data_dir, "n")
                .expect("load")
                .is_none()
        );
        let identity = StoredIdentity {
            server: "https://10.0.0.1:6443".to_owned(),
            node: "stored".to_owned(),
            ca_pem: "ca".to_owned(),
            certificate_pem: "certificate".to_owned(),
            key_pem: "key".to_owned(),
        };
        identity.store(&data_dir).expect("store");
        let load = || {
            StoredIdentity::load(&data_dir, "n")
                .expect("load")
                .expect("stored")
        };
        let loaded = load();
        assert_eq!(
            (loaded.server, loaded.key_pem, &*loaded.node),
            (identity.server, identity.key_pem, "stored")
        );
        fs::remove_file(data_dir.join("node")).expect("remove");
        assert_eq!(load().node, "n", "an identity of before names were kept");
        let mode = fs::metadata(data_dir.join("node.key"))
            .expect("key")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
