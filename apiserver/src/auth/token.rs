//! Join tokens: `minik1.<CA hash>.<id>.<secret>`, of which the server sees `<id>.<secret>` and keeps a hash.
//!
//! A token is the Secret `kube-system/join-token-<id>`: deleting it revokes the token.

use api::{core::Secret, meta::Time};
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use crate::pki::sha256_hex;

/// The namespace of the tokens' Secrets.
pub const NAMESPACE: &str = "kube-system";
/// What the names of the Secrets begin with.
pub const NAME_PREFIX: &str = "join-token-";
/// The type of the Secrets.
pub const SECRET_TYPE: &str = "minik.dev/join-token";

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("no join token was sent: send Authorization: Bearer <id>.<secret>")]
    Missing,
    /// It is no token.
    #[error(
        "the join token is not of the form <id>.<secret>: copy it again from `minik token create`"
    )]
    Malformed,
    /// There is no token of this id.
    #[error(
        "join token {id} does not exist: it was revoked, or has expired; make a new one with `minik token create`"
    )]
    Unknown {
        /// Its id.
        id: String,
    },
    /// Its time is over.
    #[error("join token {id} has expired at {at}: make a new one with `minik token create`")]
    Expired {
        /// Its id.
        id: String,
        /// When.
        at: Time,
    },
    /// The id exists, the secret part is another.
    #[error("join token {id} has another secret: copy it again from `minik token create`")]
    WrongSecret {
        /// Its id.
        id: String,
    },
    /// The Secret is not one that `minik token create` makes.
    #[error("join token {id} is damaged on the server: revoke it and make a new one")]
    Damaged {
        /// Its id.
        id: String,
    },
}

/// What a node shows: id and secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented<'a> {
    /// Six lower-case letters and digits.
    pub id: &'a str,
    secret: &'a str,
}

impl<'a> Presented<'a> {
    /// Reads an `Authorization` header.
    ///
    /// # Errors
    /// [`TokenError::Missing`], [`TokenError::Malformed`].
    pub fn parse(header: &'a str) -> Result<Self, TokenError> {
        if header.is_empty() {
            return Err(TokenError::Missing);
        }
        let token = header.strip_prefix("Bearer ").ok_or(TokenError::Missing)?;
        let (id, secret) = token.trim().split_once('.').ok_or(TokenError::Malformed)?;
        let plain = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if id.len() != 6 || secret.len() != 32 || !plain(id) || !plain(secret) {
            return Err(TokenError::Malformed);
        }
        Ok(Self { id, secret })
    }

    /// The name of the Secret to compare with.
    #[must_use]
    pub fn secret_name(&self) -> String {
        format!("{NAME_PREFIX}{}", self.id)
    }

    /// Compares with the stored Secret, `None` if there is none. The hashes are compared in constant time.
    ///
    /// # Errors
    /// Every other [`TokenError`].
    pub fn verify(&self, stored: Option<&Secret>, now: Timestamp) -> Result<(), TokenError> {
        let id = || self.id.to_owned();
        let stored = stored
            .filter(|secret| &*secret.r#type == SECRET_TYPE)
            .ok_or_else(|| TokenError::Unknown { id: id() })?;
        let hash = text(stored, "secret-sha256").ok_or_else(|| TokenError::Damaged { id: id() })?;
        let shown = sha256_hex(self.secret.as_bytes());
        if !bool::from(shown.as_bytes().ct_eq(hash.as_bytes())) {
            return Err(TokenError::WrongSecret { id: id() });
        }
        let at = expiration(stored).ok_or_else(|| TokenError::Damaged { id: id() })?;
        if at.timestamp() <= now {
            return Err(TokenError::Expired { id: id(), at });
        }
        Ok(())
    }
}

/// When a token's time is over; `None` when its Secret does not say.
#[must_use]
pub fn expiration(stored: &Secret) -> Option<Time> {
    text(stored, "expiration")?.parse().ok()
}

fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.get(key)?.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "abcdefghijklmnopqrstuvwxyz012345";

    fn stored(expiration: &str) -> Secret {
        let mut secret = Secret {
            r#type: SECRET_TYPE.into(),
            ..Secret::default()
        };
        let hash = sha256_hex(SECRET.as_bytes());
        for (key, value) in [("secret-sha256", &*hash), ("expiration", expiration)] {
            let value = value.as_bytes().to_vec();
            secret.data.insert(key.into(), api::core::Base64(value));
        }
        secret
    }

    fn verify(header: &str, stored: Option<&Secret>) -> Result<(), TokenError> {
        let now = "2030-01-01T00:00:00Z".parse().unwrap();
        Presented::parse(header)?.verify(stored, now)
    }

    #[test]
    fn each_refusal_says_which_case_it_is() {
        let id = || "abc123".to_owned();
        let good = format!("Bearer abc123.{SECRET}");
        let wrong = format!("Bearer abc123.{}", SECRET.replace('a', "b"));
        let valid = stored("2030-01-01T00:00:01Z");
        let expired = stored("2030-01-01T00:00:00Z");
        let at = "2030-01-01T00:00:00Z".parse().unwrap();
        let other = Secret::default();
        let cases = [
            (&*good, Some(&valid), Ok(())),
            (&*good, None, Err(TokenError::Unknown { id: id() })),
            (&*good, Some(&other), Err(TokenError::Unknown { id: id() })),
            (
                &*good,
                Some(&expired),
                Err(TokenError::Expired { id: id(), at }),
            ),
            (
                &*wrong,
                Some(&valid),
                Err(TokenError::WrongSecret { id: id() }),
            ),
            // Only who knows the secret learns that it has expired.
            (
                &*wrong,
                Some(&expired),
                Err(TokenError::WrongSecret { id: id() }),
            ),
            ("", Some(&valid), Err(TokenError::Missing)),
            ("Basic abc", Some(&valid), Err(TokenError::Missing)),
            ("Bearer abc", Some(&valid), Err(TokenError::Malformed)),
            ("Bearer ../abc.x", Some(&valid), Err(TokenError::Malformed)),
        ];
        for (header, stored, wanted) in cases {
            assert_eq!(verify(header, stored), wanted, "{header}");
        }
    }
}
