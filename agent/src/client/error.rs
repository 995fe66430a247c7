//! Why a request to the API server failed.

use std::{io, time::Duration};

use http::{Method, StatusCode};
use rustls::AlertDescription;
use serde::Deserialize;

/// A failed request, or a client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server address is not `https://HOST:PORT`.
    #[error("server {value:?}: {reason}; wanted https://HOST:PORT")]
    BadServer {
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A certificate or key is not the PEM it should be.
    #[error("{what} is not valid PEM: {source}")]
    BadPem {
        /// Which of the PEM texts.
        what: &'static str,
        /// The parser's words.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key were read, but TLS does not accept them.
    #[error("TLS refuses {what}: {source}")]
    BadIdentity {
        /// Which of the inputs.
        what: &'static str,
        /// The library's words.
        source: rustls::Error,
    },
    /// The certificate and key cannot be sent with a bearer token in it, or the token is not a header value.
    #[error("the bearer token holds characters that an HTTP header cannot carry")]
    BadBearer,
    /// No TCP connection.
    #[error("connecting to {server}: {source}")]
    Connect {
        /// The address tried.
        server: String,
        /// The system's error.
        source: io::Error,
    },
    /// A TCP connection, but no TLS session: usually another cluster's CA.
    #[error("TLS with {server}: {source}")]
    Tls {
        /// The address tried.
        server: String,
        /// The library's error, for example an unknown issuer.
        source: io::Error,
    },
    /// The server said nothing for too long.
    #[error("{server} did not answer {what} within {} s", limit.as_secs())]
    Timeout {
        /// The address.
        server: String,
        /// The request.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke during a request.
    #[error("{method} {path}: {source}")]
    Broken {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The library's error.
        source: hyper::Error,
    },
    /// The server answered with an error status.
    #[error("{method} {path}: {code} {message}")]
    Status {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The HTTP status code.
        code: StatusCode,
        /// `reason` of the Kubernetes Status, for example `AlreadyExists`; empty when the body is not a Status.
        reason: String,
        /// `message` of the Status, or the start of the body.
        message: String,
    },
    /// The answer, or the body to send, is not the JSON it should be.
    #[error("{path}: {source}")]
    Json {
        /// The request's path.
        path: String,
        /// The parser's words.
        source: serde_json::Error,
    },
    /// The request could not be put into HTTP's form.
    #[error("request for {path:?}: {source}")]
    BadRequest {
        /// The path asked for.
        path: String,
        /// The library's words.
        source: http::Error,
    },
}

/// The part of a Kubernetes Status that a client acts on.
#[derive(Debug, Default, Deserialize)]
struct StatusBody {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl ClientError {
    /// Reads the server's error answer.
    pub(super) fn from_answer(method: Method, path: &str, code: StatusCode, body: &[u8]) -> Self {
        let status = serde_json::from_slice::<StatusBody>(body)
            .ok()
            .filter(|status| !status.message.is_empty())
            .unwrap_or_else(|| StatusBody {
                reason: String::new(),
                message: String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
            });
        Self::Status {
            method,
            path: path.to_owned(),
            code,
            reason: status.reason,
            message: status.message,
        }
    }

    /// The HTTP status code, when the server answered.
    #[must_use]
    pub fn code(&self) -> Option<StatusCode> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    fn has_code(&self, wanted: StatusCode) -> bool {
        self.code() == Some(wanted)
    }

    /// The object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.has_code(StatusCode::NOT_FOUND)
    }

    /// A precondition failed: another writer was faster, or the object is another one by now.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.has_code(StatusCode::CONFLICT) && !self.is_already_exists()
    }

    /// The name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Status { reason, .. } if reason == "AlreadyExists")
    }

    /// The history asked for is gone: list again.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.has_code(StatusCode::GONE)
    }

    /// The server does not know this form of the request.
    #[must_use]
    pub fn is_unprocessable(&self) -> bool {
        self.has_code(StatusCode::UNPROCESSABLE_ENTITY)
    }

    /// This identity may not do that.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.has_code(StatusCode::FORBIDDEN)
    }

    /// The server does not know this identity.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.has_code(StatusCode::UNAUTHORIZED)
    }

    /// One side's certificate was not accepted. With TLS 1.3 a client learns that only with the first answer, as an alert on a
    /// connection that seemed to stand.
    #[must_use]
    pub fn is_certificate_refused(&self) -> bool {
        let first: &(dyn std::error::Error + 'static) = match self {
            Self::Tls { source, .. } => source,
            Self::Broken { source, .. } => source,
            _ => return false,
        };
        let mut causes = std::iter::successors(Some(first), |error| error.source());
        causes.any(is_about_certificates)
    }

    /// The same request may work later: no connection, or an overloaded server.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. } => true,
            Self::Status { code, .. } => {
                code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// The alerts by which a side refuses the other's certificate (RFC 8446 section 6.2).
const REFUSALS: [AlertDescription; 8] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::DecryptError,
];

fn is_about_certificates(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(error) = error.downcast_ref::<io::Error>() else {
        return false;
    };
    let refusals = REFUSALS.map(rustls::Error::AlertReceived);
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(_)) => true,
        Some(error) => refusals.contains(error),
        // The HTTP/2 library keeps no more than the text of what ended its connection.
        None => refusals
            .iter()
            .any(|refusal| refusal.to_string() == error.to_string()),
    }
}
