//! TLS towards the server: a pinned CA, a client certificate, and the one unverified look at a CA.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use super::{ClientError, Identity};

pub(super) const ALPN_H2: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A configuration that trusts this CA and no other, with this identity.
pub(super) fn verified(
    ca_pem: &str,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("the CA certificate", ca_pem)? {
        roots
            .add(certificate)
            .map_err(|source| ClientError::BadIdentity {
                what: "the CA certificate",
                source,
            })?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| ClientError::BadIdentity {
            what: "its own defaults",
            source,
        })?
        .with_root_certificates(roots);
    let mut config = match identity {
        Identity::Certificate {
            certificate_pem,
            key_pem,
        } => {
            let chain = certificates("the client certificate", certificate_pem)?;
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|source| {
                ClientError::BadPem {
                    what: "the client key",
                    source,
                }
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| ClientError::BadIdentity {
                    what: "the client certificate",
                    source,
                })?
        }
        Identity::Bearer(_) | Identity::Anonymous => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// A configuration that believes any server, and asks for these protocols by ALPN. Good for two things: fetching the public CA
/// certificate that is then compared with a hash known beforehand, and probes over HTTPS. Nothing secret may be sent over it.
pub(crate) fn unverified(protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, ClientError> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| ClientError::BadIdentity {
            what: "its own defaults",
            source,
        })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Every certificate in a PEM text, at least one.
pub(super) fn certificates(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| ClientError::BadPem { what, source })?;
    if all.is_empty() {
        return Err(ClientError::BadPem {
            what,
            source: rustls::pki_types::pem::Error::NoItemsFound,
        });
    }
    Ok(all)
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
