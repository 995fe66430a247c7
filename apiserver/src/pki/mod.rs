//! The cluster's own certificate authority, made at the first start, and the certificates it signs.
//!
//! All keys are ECDSA P-256. `ca.key` is written before `ca.crt`: a crash between the two leaves a key, from which the
//! next start goes on; a certificate without its key is an error, because nobody can sign for it any more.

mod files;
mod kubeconfig;
mod leaf;
mod request;
mod service_account;

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use sha2::{Digest as _, Sha256};

use self::files::Access;
pub use self::{
    leaf::Leaf,
    request::{CertificateRequest, ClientCertificate},
};
use crate::auth::service_account::key::{KeyError, Keys};

/// Years a CA certificate is valid.
const CA_YEARS: i32 = 20;
/// Years any other certificate is valid, the CA permitting.
const LEAF_YEARS: i32 = 10;

/// What the server's certificate is valid for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// Host names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

/// What goes wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file holds no usable key or certificate.
    #[error(
        "{} holds no usable key or certificate: restore it from a backup, or remove the whole directory to make a new CA \
         (all nodes and clients must then join again)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rcgen::Error,
    },
    /// A file holds no usable key for tokens.
    #[error(
        "{}: {source}: restore it from a backup, or remove it (tokens it signed are then refused)",
        path.display()
    )]
    DamagedTokenKey {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: KeyError,
    },
    /// The CA certificate is there, its key is not.
    #[error(
        "{} is missing although the CA's certificate exists: restore it from a backup, or remove the whole directory to \
         make a new CA (all nodes and clients must then join again)",
        path.display()
    )]
    KeyMissing {
        /// The missing file.
        path: PathBuf,
    },
    /// The CA's key and certificate do not belong together.
    #[error("{} is not the key of the certificate beside it: restore both from one backup", path.display())]
    KeyMismatch {
        /// The key file.
        path: PathBuf,
    },
    /// A certificate cannot be made.
    #[error("make the {what} certificate: {source}")]
    Make {
        /// Whose certificate.
        what: &'static str,
        /// The cause.
        source: rcgen::Error,
    },
    /// What a node sent is no certificate signing request.
    #[error("the certificate signing request cannot be used: {0}")]
    BadRequest(rcgen::Error),
    /// TLS refuses the certificates.
    #[error("set up TLS with the certificates of {}: {source}", dir.display())]
    Tls {
        /// The directory of the certificates.
        dir: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// The certificate authority and the server's and administrator's certificates.
pub struct Pki {
    dir: PathBuf,
    ca: Authority,
    server: Leaf,
    admin: Leaf,
    token_keys: Arc<Keys>,
}

/// The CA itself.
pub(super) struct Authority {
    pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens `data_dir/tls`, making whatever is missing, outdated or signed by another CA.
    ///
    /// # Errors
    /// [`PkiError`]: files that cannot be read or written, or a CA that is damaged.
    pub fn open(data_dir: &Path, names: &ServerNames) -> Result<Self, PkiError> {
        let dir = data_dir.join("tls");
        files::make_dir(&dir)?;
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let ca = Authority::open(&dir, today)?;
        let server = leaf::open(&dir, "server", &ca, leaf::server(names), today)?;
        let admin = leaf::open(&dir, "admin", &ca, leaf::admin(), today)?;
        let token_keys = Arc::new(service_account::open(&dir)?);
        Ok(Self {
            dir,
            ca,
            server,
            admin,
            token_keys,
        })
    }

    /// The CA's certificate in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca.pem
    }

    /// The SHA-256 of the CA's certificate in DER, in lower-case hex: what join tokens pin.
    #[must_use]
    pub fn ca_hash(&self) -> String {
        sha256_hex(&self.ca.der)
    }

    /// The CA's certificate in DER.
    #[must_use]
    pub fn ca_der(&self) -> &[u8] {
        &self.ca.der
    }

    /// The server's certificate and key.
    #[must_use]
    pub fn server(&self) -> &Leaf {
        &self.server
    }

    /// The keys of ServiceAccount tokens.
    #[must_use]
    pub fn token_keys(&self) -> &Arc<Keys> {
        &self.token_keys
    }

    /// Where the certificates are kept.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `data_dir/admin.kubeconfig` for `server`, an URL, and returns its path. An equal file is left alone.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn write_kubeconfig(&self, data_dir: &Path, server: &str) -> Result<PathBuf, PkiError> {
        let path = data_dir.join("admin.kubeconfig");
        let text = kubeconfig::admin(server, &self.ca.pem, &self.admin);
        if files::read(&path)?.as_deref() != Some(&text) {
            files::write(&path, &text, Access::Secret)?;
        }
        Ok(path)
    }

    /// Signs a node's request, as a client certificate in PEM. Only its public key counts: names and extensions are
    /// set here, so that no node can ask for more than to be itself.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`].
    pub fn sign_node(&self, node: &str, csr_pem: &str) -> Result<String, PkiError> {
        let mut request =
            CertificateSigningRequestParams::from_pem(csr_pem).map_err(PkiError::BadRequest)?;
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        request.params = leaf::node(node).params(today);
        let certificate = request
            .signed_by(&self.ca.issuer)
            .map_err(PkiError::BadRequest)?;
        Ok(certificate.pem())
    }

    /// Signs what somebody asked for and was given, as a client certificate in PEM.
    ///
    /// # Errors
    /// [`PkiError::Make`].
    pub fn sign_client(&self, wanted: ClientCertificate<'_>) -> Result<String, PkiError> {
        self.ca.sign_client(wanted, Timestamp::now())
    }
}

impl std::fmt::Debug for Pki {
    /// Without its keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Authority {
    fn open(dir: &Path, today: Date) -> Result<Self, PkiError> {
        let key_path = dir.join("ca.key");
        let certificate_path = dir.join("ca.crt");
        let certificate = files::read(&certificate_path)?;
        let key = match files::read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|source| PkiError::Damaged {
                path: key_path.clone(),
                source,
            })?,
            None if certificate.is_some() => return Err(PkiError::KeyMissing { path: key_path }),
            None => {
                let key = new_key("CA")?;
                files::write(&key_path, &key.serialize_pem(), Access::Secret)?;
                key
            }
        };
        let pem = match certificate {
            Some(pem) => pem,
            None => {
                let pem = self_signed(&key, today)?;
                files::write(&certificate_path, &pem, Access::Public)?;
                pem
            }
        };
        Self::from_pem(pem, key, &certificate_path, &key_path)
    }

    fn from_pem(pem: String, key: KeyPair, path: &Path, key_path: &Path) -> Result<Self, PkiError> {
        let damaged = |source| PkiError::Damaged {
            path: path.to_owned(),
            source,
        };
        let der = leaf::pem_to_der(&pem)
            .ok_or_else(|| damaged(rcgen::Error::CouldNotParseCertificate))?;
        if !leaf::belongs(&der, &key) {
            return Err(PkiError::KeyMismatch {
                path: key_path.to_owned(),
            });
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(damaged)?;
        Ok(Self { pem, der, issuer })
    }
}

fn new_key(what: &'static str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|source| PkiError::Make { what, source })
}

fn self_signed(key: &KeyPair, today: Date) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // The serial makes the name of each CA its own: clients that know two clusters pick the right one.
    let serial = &sha256_hex(key.public_key_raw())[..12];
    params
        .distinguished_name
        .push(DnType::CommonName, format!("minik-ca-{serial}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    set_validity(&mut params, today, CA_YEARS);
    let certificate = params
        .self_signed(key)
        .map_err(|source| PkiError::Make { what: "CA", source })?;
    Ok(certificate.pem())
}

/// From yesterday, for hosts whose clock is behind, to `years` from now.
fn set_validity(params: &mut CertificateParams, today: Date, years: i32) {
    params.not_before = at(today.saturating_sub(1.day()));
    params.not_after = at(today.saturating_add(years.years()));
}

fn at(date: Date) -> time::OffsetDateTime {
    let part = |part: i8| u8::try_from(part).unwrap_or(1);
    rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// What a certificate is for.
fn client_usage() -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::ClientAuth]
}

#[cfg(test)]
mod tests;
