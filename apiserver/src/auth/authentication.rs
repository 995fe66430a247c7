//! Who makes a request: by client certificate, else by token, else nobody (U1); and as whom (U8).

use std::sync::Arc;

use http::{HeaderMap, header};
use jiff::Timestamp;

use super::{Authorizer, User, certificate::Certificate, impersonation, service_account::Tokens};
use crate::registry::{ApiError, Registry};

/// Who makes a request, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose credentials came with it.
    pub credentials: User,
    /// As whom it is judged: the same, unless somebody acts as somebody else.
    pub user: User,
}

/// Tells who makes a request.
#[derive(Clone)]
pub struct Authenticator {
    /// Where accounts are looked up.
    pub registry: Registry,
    /// Whose tokens are accepted.
    pub tokens: Arc<Tokens>,
    /// Who may act as somebody else.
    pub authorizer: Arc<dyn Authorizer>,
}

impl Authenticator {
    /// The caller of a request with these headers, on a connection whose client has shown this certificate. A good certificate
    /// counts before a token, which then is not looked at, and a good token in spite of a bad certificate.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] for credentials that are not accepted; [`ApiError::Forbidden`] and
    /// [`ApiError::BadRequest`] for headers that ask to act as somebody else.
    pub async fn caller(
        &self,
        certificate: &Certificate,
        headers: &HeaderMap,
    ) -> Result<Caller, ApiError> {
        let now = Timestamp::now();
        let credentials = match (certificate.at(now), self.by_token(headers, now)) {
            (Certificate::Accepted { user, .. }, _) => user.clone(),
            (Certificate::Absent, by_token) => by_token.await?.unwrap_or_else(User::anonymous),
            (Certificate::Refused, by_token) => by_token.await?.ok_or(ApiError::Unauthorized)?,
        };
        let user = impersonation::effective(&*self.authorizer, &credentials, headers).await?;
        Ok(Caller { credentials, user })
    }

    /// A bad token is not the same as none.
    async fn by_token(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Option<User>, ApiError> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        let token = value.to_str().ok().and_then(bearer);
        let token = token.ok_or(ApiError::Unauthorized)?;
        let known = self.tokens.authenticate(&self.registry, token, &[], now);
        match known.await {
            Ok((user, _)) => Ok(Some(user)),
            Err(error) => {
                tracing::debug!(%error, "a token was not accepted");
                Err(ApiError::Unauthorized)
            }
        }
    }
}

/// The token of an `Authorization` header (RFC 6750, section 2.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
