//! Client certificates: the common name is the user, the organizations are the groups (U1).
//!
//! The TLS handshake proves only that a client has the key of the certificate it shows. Whether the cluster's CA signed it, for
//! clients, and whether it holds now, is asked here and nowhere else: no name is read from a certificate before that. A
//! certificate that is refused is a bad credential, answered 401, and no reason to break off the handshake.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiserver/pkg/authentication/request/x509/x509.go.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    DistinguishedName, RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{AUTHENTICATED, User};
use crate::tls;

/// What the certificate of a connection is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// None was shown, or one that names nobody.
    #[default]
    Absent,
    /// Our CA says who this is.
    Accepted {
        /// Whom it names.
        user: User,
        /// The last second it holds: connections may outlive it.
        until: Timestamp,
    },
    /// Not of our CA, not for clients, or not now.
    Refused,
}

impl Certificate {
    /// What it is worth later on.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> &Self {
        match self {
            Self::Accepted { until, .. } if *until < now => &Self::Refused,
            other => other,
        }
    }

    /// Whom it names now.
    #[must_use]
    pub fn user(&self, now: Timestamp) -> Option<&User> {
        match self.at(now) {
            Self::Accepted { user, .. } => Some(user),
            Self::Absent | Self::Refused => None,
        }
    }
}

/// Judges certificates by the cluster's CA.
#[derive(Clone, Debug)]
pub struct ClientCa {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientCa {
    /// A judge that knows this CA, in DER, and no other.
    ///
    /// # Errors
    /// When it is no CA certificate.
    pub fn new(ca_der: &[u8]) -> Result<Self, VerifierBuilderError> {
        let mut roots = RootCertStore::empty();
        // One that cannot be used leaves no roots, which the builder refuses.
        roots.add_parsable_certificates([CertificateDer::from_slice(ca_der)]);
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), tls::provider());
        let verifier = builder.build()?;
        Ok(Self { verifier })
    }

    /// By what names clients may know that their certificate is meant.
    pub(crate) fn hints(&self) -> Vec<DistinguishedName> {
        self.verifier.root_hint_subjects().to_vec()
    }

    /// What a chain is worth, the client's own certificate first, whose key it has proven to have.
    #[must_use]
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Certificate {
        let [own, others @ ..] = chain else {
            return Certificate::Absent;
        };
        let since_epoch = now.duration_since(Timestamp::UNIX_EPOCH).unsigned_abs();
        let at = UnixTime::since_unix_epoch(since_epoch);
        // Chain, dates and usage (RFC 5280).
        if let Err(error) = self.verifier.verify_client_cert(own, others, at) {
            tracing::debug!(%error, "a client certificate was not accepted");
            return Certificate::Refused;
        }
        let Ok((_, own)) = X509Certificate::from_der(own) else {
            return Certificate::Refused;
        };
        let until = Timestamp::from_second(own.validity().not_after.timestamp());
        match user(&own) {
            Some(user) => Certificate::Accepted {
                user,
                until: until.unwrap_or(Timestamp::MAX),
            },
            None => Certificate::Absent,
        }
    }
}

/// The caller a verified certificate names; `None` when it names nobody. Of several common names the last one counts, as Go reads
/// them: whoever approves requests by what a client library says of their subject approves that one.
fn user(certificate: &X509Certificate<'_>) -> Option<User> {
    let subject = certificate.subject();
    let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization();
    let mut groups: Vec<String> = organizations
        .filter_map(|organization| organization.as_str().ok().map(str::to_owned))
        .collect();
    groups.push(AUTHENTICATED.into());
    (!name.is_empty()).then(|| User {
        name,
        groups,
        ..User::default()
    })
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::pki::{Pki, ServerNames};

    #[test]
    fn u1_a_connection_does_not_outlive_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &ServerNames::default()).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let request = rcgen::CertificateParams::default();
        let request = request.serialize_request(&key).unwrap().pem().unwrap();
        let node = pki.sign_node("n1", &request).unwrap();
        let chain = [CertificateDer::from_pem_slice(node.as_bytes()).unwrap()];
        let ca = ClientCa::new(pki.ca_der()).unwrap();
        let now = Timestamp::now();
        let known = ca.judge(&chain, now);
        assert_eq!(known.user(now).and_then(User::node), Some("n1"));
        // Ten years, and what calendars make of them.
        let (short, long) = (now + (9 * 8766).hours(), now + (11 * 8766).hours());
        assert_eq!(known.at(short), &known);
        assert_eq!(known.at(long), &Certificate::Refused);
        assert_eq!(known.user(long), None);
        assert_eq!(ca.judge(&chain, long), Certificate::Refused);
        assert_eq!(ca.judge(&chain, now - 72.hours()), Certificate::Refused);
        assert_eq!(ca.judge(&[], now), Certificate::Absent);
    }

    #[test]
    fn what_is_no_ca_judges_nobody() {
        assert!(ClientCa::new(b"").is_err());
    }
}
