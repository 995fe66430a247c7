//! A thin client of the Kubernetes API: HTTP/2 over TLS, one connection for everything.
//!
//! It knows methods, paths, JSON and watch lines, not kinds. Every request and watch is a stream of one connection,
//! which is made again when it breaks; a broken watch is the reader's to resume ([`crate::reflector`]).

mod connection;
mod error;
mod path;
mod server;
mod tls;
mod watch;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, upgrade::Upgraded};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use connection::Connection;
pub use error::ClientError;
pub use path::{Path, encode};
pub use server::Server;
pub(crate) use tls::unverified;
pub use watch::WatchLines;

/// How long an answer may take, body included; a watch only until its headers.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How often a request that never left the machine is put on a new connection.
const SEND_ATTEMPTS: usize = 3;
/// Agents do not look at who owns which fields, and the server can leave that out.
const ACCEPT: &str = "application/json;managedFields=false";
const USER_AGENT: &str = concat!("minik/", env!("CARGO_PKG_VERSION"));

/// Who the client is to the server.
#[derive(Clone)]
pub enum Identity {
    /// A client certificate and its key.
    Certificate {
        /// The certificate chain.
        certificate_pem: String,
        /// The private key.
        key_pem: String,
    },
    /// A bearer token.
    Bearer(String),
    /// Nobody.
    Anonymous,
}

impl fmt::Debug for Identity {
    /// Names the kind only: keys and tokens never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Bearer(_) => "Bearer",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// What a [`Client`] is made of.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `https://HOST:PORT`.
    pub server: String,
    /// The only CA that is believed.
    pub ca_pem: String,
    /// Who asks.
    pub identity: Identity,
}

/// How a patch body is to be read. See RFC 7386, RFC 6902 and Kubernetes' strategic merge patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/merge-patch+json`
    Merge,
    /// `application/json-patch+json`
    Json,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

impl PatchKind {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Json => "application/json-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub struct List<T> {
    /// Revision and continuation.
    pub metadata: ListMetadata,
    /// The objects of this page.
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// The `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMetadata {
    /// The revision of the snapshot.
    pub resource_version: String,
    /// The token of the next page; empty on the last.
    #[serde(rename = "continue")]
    pub continue_token: String,
}

/// A connection to one API server, shared by cloning. Nothing is dialled before the first request.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Connection>,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.connection.server())
    }
}

impl Client {
    /// A client that believes `config.ca_pem` only.
    ///
    /// # Errors
    /// When the address, a PEM or the token is malformed. The network is not touched.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        let server = Server::parse(&config.server)?;
        let tls = tls::verified(&config.ca_pem, &config.identity)?;
        let authorization = match &config.identity {
            Identity::Bearer(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| ClientError::BadBearer)?;
                value.set_sensitive(true);
                Some(value)
            }
            Identity::Certificate { .. } | Identity::Anonymous => None,
        };
        Ok(Self {
            connection: Arc::new(Connection::new(server, tls)?),
            authorization,
        })
    }

    /// A client of the same server with a connection of its own, which is made for its first request.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self {
            connection: Arc::new(self.connection.apart()),
            authorization: self.authorization.clone(),
        }
    }

    /// Fetches the CA certificate that the server shows to anybody, believing nothing: the caller compares it with a
    /// hash it knows. Returns the PEM and the first certificate's DER.
    ///
    /// # Errors
    /// When there is no answer or the answer is not a certificate.
    pub async fn fetch_ca_unverified(
        server: &str,
    ) -> Result<(String, CertificateDer<'static>), ClientError> {
        let client = Self {
            connection: Arc::new(Connection::new(
                Server::parse(server)?,
                tls::unverified(&[tls::ALPN_H2])?,
            )?),
            authorization: None,
        };
        let body = client
            .send(Method::GET, "/minik/v1/ca", None, Bytes::new())
            .await?;
        let pem = String::from_utf8_lossy(&body).into_owned();
        let first = tls::certificates("the server's CA certificate", &pem)?.swap_remove(0);
        Ok((pem, first))
    }

    /// Reads one object, or any JSON answer.
    ///
    /// # Errors
    /// See [`ClientError`]; `is_not_found` when it does not exist.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        decode(
            path,
            &self.send(Method::GET, path, None, Bytes::new()).await?,
        )
    }

    /// Reads a page of a list; `path` carries `limit` and `continue`.
    ///
    /// # Errors
    /// See [`ClientError`]; `is_gone` when a continue token is too old.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<List<T>, ClientError> {
        self.get(path).await
    }

    /// Creates an object (POST) and reads the answer.
    ///
    /// # Errors
    /// See [`ClientError`]; `is_already_exists` when the name is taken.
    pub async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        self.send_json(Method::POST, path, "application/json", body)
            .await
    }

    /// Replaces an object (PUT) and reads the answer.
    ///
    /// # Errors
    /// See [`ClientError`]; `is_conflict` when its resourceVersion is old.
    pub async fn replace<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        self.send_json(Method::PUT, path, "application/json", body)
            .await
    }

    /// Patches an object and reads the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: PatchKind,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        self.send_json(Method::PATCH, path, kind.content_type(), body)
            .await
    }

    /// Deletes an object; `options` is a DeleteOptions body or `Value::Null` for none.
    ///
    /// # Errors
    /// See [`ClientError`]; `is_conflict` when a uid precondition fails.
    pub async fn delete(
        &self,
        path: &str,
        options: &serde_json::Value,
    ) -> Result<Bytes, ClientError> {
        if options.is_null() {
            return self.send(Method::DELETE, path, None, Bytes::new()).await;
        }
        let body = encode_body(path, options)?;
        self.send(Method::DELETE, path, Some("application/json"), body)
            .await
    }

    /// Opens a watch: `path` carries `watch=true` and the rest of the query.
    ///
    /// # Errors
    /// See [`ClientError`]; `is_gone` or `is_unprocessable` when the server refuses this watch.
    pub async fn watch(&self, path: &str) -> Result<WatchLines, ClientError> {
        let answer = self
            .within(path, self.request(&Method::GET, path, None, Bytes::new()))
            .await?;
        if !answer.status().is_success() {
            return Err(self.refusal(Method::GET, path, answer).await);
        }
        Ok(WatchLines::new(path, answer.into_body()))
    }

    /// Opens a connection of its own to this path, which speaks `protocol` from then on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn upgrade(
        &self,
        path: &str,
        protocol: &'static str,
    ) -> Result<Upgraded, ClientError> {
        self.connection.upgrade(path, protocol).await
    }

    async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        let body = encode_body(path, body)?;
        decode(
            path,
            &self.send(method, path, Some(content_type), body).await?,
        )
    }

    /// Sends any request and reads the whole answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&'static str>,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let exchange = async {
            let answer = self.request(&method, path, content_type, body).await?;
            if !answer.status().is_success() {
                return Err(self.refusal(method.clone(), path, answer).await);
            }
            collect(&method, path, answer.into_body()).await
        };
        self.within(path, exchange).await
    }

    async fn within<T>(
        &self,
        path: &str,
        exchange: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        timeout(ANSWER_LIMIT, exchange).await.unwrap_or_else(|_| {
            Err(ClientError::Timeout {
                server: self.connection.server().to_string(),
                what: path.to_owned(),
                limit: ANSWER_LIMIT,
            })
        })
    }

    async fn refusal(&self, method: Method, path: &str, answer: Response<Incoming>) -> ClientError {
        let code = answer.status();
        match collect(&method, path, answer.into_body()).await {
            Ok(body) => ClientError::from_answer(method, path, code, &body),
            Err(error) => error,
        }
    }

    async fn request(
        &self,
        method: &Method,
        path: &str,
        content_type: Option<&'static str>,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = self.build(method, path, content_type, body)?;
        let mut attempts_left = SEND_ATTEMPTS;
        loop {
            let mut sender = self.connection.sender().await?;
            attempts_left -= 1;
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(answer),
                // The connection closed before this request left: it goes out again on the next one.
                Err(mut error) if attempts_left > 0 && error.message().is_some() => {
                    request = error.take_message().expect("just seen");
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    return Err(ClientError::Broken {
                        method: method.clone(),
                        path: path.to_owned(),
                        source: error.into_error(),
                    });
                }
            }
        }
    }

    fn build(
        &self,
        method: &Method,
        path: &str,
        content_type: Option<&'static str>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.connection.server()))
            .header(header::ACCEPT, ACCEPT)
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        request
            .body(Full::new(body))
            .map_err(|source| ClientError::BadRequest {
                path: path.to_owned(),
                source,
            })
    }
}

async fn collect(method: &Method, path: &str, body: Incoming) -> Result<Bytes, ClientError> {
    let collected = body.collect().await.map_err(|source| ClientError::Broken {
        method: method.clone(),
        path: path.to_owned(),
        source,
    })?;
    Ok(collected.to_bytes())
}

fn encode_body(path: &str, body: &(impl Serialize + ?Sized)) -> Result<Bytes, ClientError> {
    let bytes = serde_json::to_vec(body).map_err(|source| ClientError::Json {
        path: path.to_owned(),
        source,
    })?;
    Ok(Bytes::from(bytes))
}

fn decode<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|source| ClientError::Json {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_never_shows_a_secret() {
        let identity = Identity::Bearer("abcdef.secret".to_owned());
        assert_eq!(format!("{identity:?}"), "Bearer");
    }
}
