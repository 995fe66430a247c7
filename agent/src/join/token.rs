//! The join token: what a node needs to find the right cluster and to be let in.

use std::fmt;

/// `minik1.<sha256 of the CA certificate's DER, hex>.<id>.<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the CA certificate in DER form: pins the cluster before anything secret is sent.
    pub ca_sha256: [u8; 32],
    /// Six characters that name the token.
    pub id: String,
    secret: String,
}

/// Which part of a token is wrong. The token itself is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not four parts.
    #[error("the token has {0} parts separated by dots; wanted minik1.<CA hash>.<id>.<secret>")]
    Parts(usize),
    /// Another version.
    #[error("the token does not begin with \"minik1.\"")]
    Version,
    /// The second part.
    #[error("the token's CA hash is not 64 hexadecimal digits")]
    CaHash,
    /// The third part.
    #[error("the token's id is not 6 characters of a-z and 0-9")]
    Id,
    /// The fourth part.
    #[error("the token's secret is not 32 characters of a-z and 0-9")]
    Secret,
}

impl Token {
    /// Parses and checks every part.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [version, hash, id, secret] = parts[..] else {
            return Err(TokenError::Parts(parts.len()));
        };
        if version != "minik1" {
            return Err(TokenError::Version);
        }
        if !is_word(id, 6) {
            return Err(TokenError::Id);
        }
        if !is_word(secret, 32) {
            return Err(TokenError::Secret);
        }
        Ok(Self {
            ca_sha256: parse_sha256(hash).ok_or(TokenError::CaHash)?,
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// What goes behind `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn parse_sha256(hex: &str) -> Option<[u8; 32]> {
    let digits = hex
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect::<Option<Vec<u8>>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    if digits.len() == 64 {
        bytes.try_into().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdefghijklmnopqrstuv";

    #[test]
    fn a_good_token_gives_its_parts() {
        let text = format!("minik1.{}.abc123.{SECRET}\n", "0f".repeat(32));
        let token = Token::parse(&text).expect("good");
        assert_eq!(token.ca_sha256, [0x0f; 32]);
        assert_eq!(token.bearer(), format!("abc123.{SECRET}"));
        assert!(
            !format!("{token:?}").contains(SECRET),
            "Debug must not show the secret"
        );
    }

    #[test]
    fn each_bad_part_has_its_own_error() {
        let hash = "0f".repeat(32);
        let cases = [
            ("nonsense".to_owned(), TokenError::Parts(1)),
            (
                format!("minik2.{hash}.abc123.{SECRET}"),
                TokenError::Version,
            ),
            (
                format!("minik1.{}.abc123.{SECRET}", &hash[1..]),
                TokenError::CaHash,
            ),
            (
                format!("minik1.{}zz.abc123.{SECRET}", &hash[2..]),
                TokenError::CaHash,
            ),
            (format!("minik1.{hash}.ABC123.{SECRET}"), TokenError::Id),
            (format!("minik1.{hash}.abc123.short"), TokenError::Secret),
        ];
        for (text, wanted) in cases {
            assert_eq!(Token::parse(&text), Err(wanted), "{text}");
        }
    }
}
