//! Tokens of ServiceAccounts: signed statements of who somebody is, for whom, and until when (U3).
//! Source: kubernetes/kubernetes pkg/serviceaccount; KEP-1205 (bound tokens), KEP-2799 and KEP-4193 (what they are bound to).
//!
//! Reading order: [`key`] (who signs), [`jwt`] (how a statement is written), [`claims`] (what it says), [`request`] (what
//! may be asked for), [`check`] (whether it still holds), this page.
//!
//! A token is a JSON Web Token signed by ECDSA P-256 (ES256). It holds only as long as the ServiceAccount and the object it
//! is bound to exist, by uid: both are looked up, in memory, with every request. Tokens are short-lived; the extension to a
//! year that upstream gives to clients which never read their token again is not made.

pub mod check;
pub mod claims;
pub mod jwt;
pub mod key;
pub mod request;

use std::sync::Arc;

use jiff::Timestamp;

use serde_json::{Value, json};

use self::{
    claims::Claims,
    jwt::JwtError,
    key::{KeyError, Keys, SigningKey},
};
use super::User;
use crate::registry::{ApiError, Registry};

/// Why a token is not accepted. The caller reads only that it is not; the reason is for TokenReviews and the log.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not one of ours, or was changed.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// Its time is over.
    #[error("token expired at {0}")]
    Expired(Timestamp),
    /// Its time has not come.
    #[error("token is not valid before {0}")]
    TooEarly(Timestamp),
    /// Somebody else is to accept it.
    #[error("token audiences {token:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// For whom it is.
        token: Vec<String>,
        /// Who was asked to accept it.
        wanted: Vec<String>,
    },
    /// It is of another issuer, or does not say whose it is.
    #[error("token is not of this issuer, or does not say whose it is")]
    Incomplete,
    /// What it speaks of is gone, or is another one of the same name.
    #[error("{what} {name} {why}")]
    Gone {
        /// A kind in words.
        what: &'static str,
        /// Namespace and name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] ApiError),
}

/// Makes tokens, and says whose they are.
#[derive(Debug)]
pub struct Tokens {
    issuer: String,
    jwks_uri: String,
    keys: Arc<Keys>,
}

impl Tokens {
    /// Tokens in the name of `issuer`, an URL. The server is reached at `server`, another one.
    #[must_use]
    pub fn new(issuer: String, server: &str, keys: Arc<Keys>) -> Self {
        Self {
            issuer,
            jwks_uri: format!("{server}/openid/v1/jwks"),
            keys,
        }
    }

    /// The same with a key that nobody keeps.
    ///
    /// # Errors
    /// [`KeyError`], when there is no randomness.
    pub fn ephemeral(issuer: String) -> Result<Self, KeyError> {
        let keys = Keys::new(SigningKey::generate()?, Vec::new());
        let server = issuer.clone();
        Ok(Self::new(issuer, &server, Arc::new(keys)))
    }

    /// Who makes the tokens: also the audience of tokens for this API.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What others must know to check tokens (OpenID Connect Discovery 1.0, section 3; U9).
    #[must_use]
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": self.jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// Signs a statement.
    ///
    /// # Errors
    /// [`KeyError`], when there is no randomness.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        jwt::sign(self.keys.signing(), claims)
    }

    /// Whose token this is, and for which of `audiences` it is valid. No audiences are those of this API.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn authenticate(
        &self,
        registry: &Registry,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(User, Vec<String>), TokenError> {
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() {
            &own[..]
        } else {
            audiences
        };
        let claims = jwt::open(&self.keys, token)?;
        let accepted = check::statement(&claims, &self.issuer, wanted, now)?;
        let user = check::existence(registry, &claims, now).await?;
        Ok((user, accepted))
    }
}
