//! Joining a cluster: from a token to a node certificate, and back in with that certificate later.
//!
//! Order matters: the server's CA is fetched without believing anything, its SHA-256 is compared with the token's, and
//! only over a connection verified by that CA does the token's secret leave the machine.

mod identity;
mod token;

use std::{net::IpAddr, path::Path};

use ipnet::IpNet;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::client::{Client, ClientConfig, ClientError, Identity};
pub use identity::FileError;
use identity::StoredIdentity;
pub use token::{Token, TokenError};

/// What every node of the cluster must know.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfig {
    /// The DNS zone, for example `cluster.local`.
    pub cluster_domain: String,
    /// The address the cluster's DNS answers on.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: IpAddr,
    /// Service ranges.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
    /// Pod ranges of the whole cluster.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
}

/// A failed join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Neither a stored certificate nor a token.
    #[error("this node has not joined yet: --token is needed (make one with `minik token create`)")]
    NoToken,
    /// The token is malformed.
    #[error("--token: {0}")]
    Token(#[from] TokenError),
    /// The server has another CA than the token names.
    #[error(
        "the server at {server} has another CA than the token names (wanted {wanted}, got {got}): this is the wrong \
         server, or somebody is in between. The token was not sent"
    )]
    WrongCa {
        /// The server asked.
        server: String,
        /// The token's SHA-256, hex.
        wanted: String,
        /// The SHA-256 of the certificate that came.
        got: String,
    },
    /// The certificate of an earlier join is that of a node of another name.
    #[error(
        "--node-name {given:?}: this host joined as {stored:?}: keep that name, or give an empty --data-dir and a --token to join anew"
    )]
    OtherName {
        /// The name of the earlier join.
        stored: String,
        /// The name of now, given or this host's.
        given: String,
    },
    /// The server refused the token or the name.
    #[error("the server refused this node: {0}")]
    Refused(ClientError),
    /// Talking to the server failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Key or request could not be made.
    #[error("making the certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// The data directory.
    #[error("--data-dir: {0}")]
    File(#[from] FileError),
}

impl JoinError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Client(error) if error.is_retryable())
    }
}

#[derive(Serialize)]
struct JoinRequest<'a> {
    node: &'a str,
    csr: &'a str,
}

#[derive(Deserialize)]
struct JoinAnswer {
    certificate: String,
    ca: String,
    #[serde(flatten)]
    cluster: ClusterConfig,
}

/// Joins with the certificate of an earlier join to the same server, or else with the token.
///
/// # Errors
/// See [`JoinError`]; `is_retryable` tells those that time may heal.
pub async fn join(
    server: &str,
    token: Option<&str>,
    node: &str,
    data_dir: &Path,
) -> Result<(Client, ClusterConfig), JoinError> {
    let stored = StoredIdentity::load(data_dir, node)?.filter(|stored| stored.server == server);
    if let Some(stored) = stored {
        if stored.node != node {
            return Err(JoinError::OtherName {
                stored: stored.node,
                given: node.to_owned(),
            });
        }
        let client = match Client::new(stored.client_config()) {
            Ok(client) => client,
            // Key and certificate do not belong together: a join was cut off between their files.
            Err(error) if token.is_some() => {
                tracing::warn!(%error, "the stored node certificate cannot be used; joining anew");
                return join_anew(server, token, node, data_dir).await;
            }
            Err(error) => return Err(error.into()),
        };
        match client.get::<ClusterConfig>("/minik/v1/config").await {
            Ok(cluster) => return Ok((client, cluster)),
            // The cluster was made anew, or the certificate ran out: the token, if there is one, decides.
            Err(error) if token.is_some() && is_identity_refused(&error) => {
                tracing::warn!(%error, "the stored node certificate is not accepted; joining anew");
            }
            Err(error) if error.is_unauthorized() || error.is_forbidden() => {
                return Err(JoinError::Refused(error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    join_anew(server, token, node, data_dir).await
}

async fn join_anew(
    server: &str,
    token: Option<&str>,
    node: &str,
    data_dir: &Path,
) -> Result<(Client, ClusterConfig), JoinError> {
    let token = Token::parse(token.ok_or(JoinError::NoToken)?)?;
    join_with_token(server, &token, node, data_dir).await
}

/// Whether one of the two sides does not accept the other's certificate. A handshake that broke off says nothing: a server
/// that is being restarted does that, and a token that was good once would then be refused for good.
fn is_identity_refused(error: &ClientError) -> bool {
    error.is_certificate_refused() || error.is_unauthorized() || error.is_forbidden()
}

async fn join_with_token(
    server: &str,
    token: &Token,
    node: &str,
    data_dir: &Path,
) -> Result<(Client, ClusterConfig), JoinError> {
    let (ca_pem, ca_der) = Client::fetch_ca_unverified(server).await?;
    let got: [u8; 32] = Sha256::digest(&ca_der).into();
    if got != token.ca_sha256 {
        return Err(JoinError::WrongCa {
            server: server.to_owned(),
            wanted: hex(&token.ca_sha256),
            got: hex(&got),
        });
    }
    let key = KeyPair::generate()?;
    let csr = request(node, &key)?;
    let verified = Client::new(ClientConfig {
        server: server.to_owned(),
        ca_pem,
        identity: Identity::Bearer(token.bearer()),
    })?;
    let answer: JoinAnswer = verified
        .create("/minik/v1/join", &JoinRequest { node, csr: &csr })
        .await
        .map_err(|error| match error.code() {
            Some(code) if code.is_client_error() => JoinError::Refused(error),
            _ => JoinError::Client(error),
        })?;
    let identity = StoredIdentity {
        server: server.to_owned(),
        node: node.to_owned(),
        ca_pem: answer.ca,
        certificate_pem: answer.certificate,
        key_pem: key.serialize_pem(),
    };
    identity.store(data_dir)?;
    Ok((Client::new(identity.client_config())?, answer.cluster))
}

/// A certificate request for `CN=system:node:NODE, O=system:nodes`
/// (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).
fn request(node: &str, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    params.serialize_request(key)?.pem()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
