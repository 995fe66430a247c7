//! The keys by which ServiceAccount tokens are signed.
//!
//! `service-account.key` signs; it is made when missing. Every other `service-account-*.key` beside it only tells its tokens.
//! So a key is changed by renaming it and starting the server again: the tokens it signed hold until they expire, and its
//! file can then go. All of them are ECDSA P-256 in PKCS #8, readable by their owner only.

use std::{io, path::Path};

use rcgen::KeyPair;

use super::{
    PkiError,
    files::{self, Access},
    new_key,
};
use crate::auth::service_account::key::{Keys, SigningKey};

const SIGNING: &str = "service-account.key";
const EARLIER_PREFIX: &str = "service-account-";

/// Reads the keys of a directory, and makes the one that signs when it is missing.
pub(super) fn open(dir: &Path) -> Result<Keys, PkiError> {
    let path = dir.join(SIGNING);
    let signing = match files::read(&path)? {
        Some(pem) => parse(&path, &pem)?,
        None => {
            let key = new_key("service account")?;
            files::write(&path, &key.serialize_pem(), Access::Secret)?;
            parse(&path, &key.serialize_pem())?
        }
    };
    let mut earlier = Vec::new();
    for path in earlier_files(dir).map_err(files::failed("list", dir))? {
        if let Some(pem) = files::read(&path)? {
            earlier.push(parse(&path, &pem)?.public().clone());
        }
    }
    Ok(Keys::new(signing, earlier))
}

fn earlier_files(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(EARLIER_PREFIX) && name.ends_with(".key") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn parse(path: &Path, pem: &str) -> Result<SigningKey, PkiError> {
    let damaged = |source| PkiError::DamagedTokenKey {
        path: path.to_owned(),
        source,
    };
    let malformed = |_| damaged(crate::auth::service_account::key::KeyError::Malformed);
    let key = KeyPair::from_pem(pem).map_err(malformed)?;
    SigningKey::from_pkcs8(&key.serialize_der()).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u3_a_renamed_key_still_tells_its_tokens_and_a_new_one_signs() {
        let dir = tempfile::tempdir().unwrap();
        let id = |keys: &Keys| keys.signing().public().id().to_owned();
        let first = id(&open(dir.path()).unwrap());
        assert_eq!(id(&open(dir.path()).unwrap()), first);
        let (key, earlier) = (
            dir.path().join(SIGNING),
            dir.path().join("service-account-2026.key"),
        );
        std::fs::rename(key, &earlier).unwrap();
        let keys = open(dir.path()).unwrap();
        assert_ne!(id(&keys), first);
        assert!(keys.find(&first).is_some());
        std::fs::write(&earlier, "no key").unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("service-account-2026.key"), "{error}");
    }
}
