//! JSON Web Tokens in their compact form, signed by ES256 (RFC 7515, RFC 7519).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;

use super::{
    claims::Claims,
    key::{KeyError, Keys, SigningKey},
};

/// Longer tokens are not looked at.
const LIMIT_BYTES: usize = 16 * 1024;

/// Why something is no token of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It has not that form.
    #[error("invalid bearer token: it is no JSON Web Token")]
    Malformed,
    /// The only algorithm is ES256: a token does not choose how it is checked.
    #[error("invalid bearer token: signed by {0:?}, only ES256 is accepted")]
    Algorithm(String),
    /// None of our keys made it.
    #[error("invalid bearer token: signed by an unknown key")]
    UnknownKey,
    /// The signature is not that of these claims.
    #[error("invalid bearer token: the signature does not hold")]
    Signature,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Writes and signs a token.
///
/// # Errors
/// [`KeyError::Random`].
pub fn sign(key: &SigningKey, claims: &Claims) -> Result<String, KeyError> {
    let header = json!({"alg": "ES256", "kid": key.public().id()}).to_string();
    let claims = serde_json::to_vec(claims).expect("claims are plain values");
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(&claims));
    let signature = key.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", encode(&signature)))
}

/// What a token says, if one of our keys signed it. Whether that is true is for [`super::check`].
///
/// # Errors
/// [`JwtError`].
pub fn open(keys: &Keys, token: &str) -> Result<Claims, JwtError> {
    if token.len() > LIMIT_BYTES {
        return Err(JwtError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    let decode = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text);
        bytes.map_err(|_| JwtError::Malformed)
    };
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| JwtError::Malformed)?;
    if header.alg != "ES256" {
        return Err(JwtError::Algorithm(header.alg));
    }
    let key = keys.find(&header.kid).ok_or(JwtError::UnknownKey)?;
    if !key.verifies(signed.as_bytes(), &decode(signature)?) {
        return Err(JwtError::Signature);
    }
    serde_json::from_slice(&decode(claims)?).map_err(|_| JwtError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            iss: "https://issuer".into(),
            aud: vec!["a".into()],
            exp: 2000,
            ..Claims::default()
        }
    }

    fn keys() -> Keys {
        Keys::new(SigningKey::generate().unwrap(), Vec::new())
    }

    #[test]
    fn u3_what_was_signed_is_read_again() {
        let keys = keys();
        let token = sign(keys.signing(), &claims()).unwrap();
        assert_eq!(open(&keys, &token), Ok(claims()));
    }

    #[test]
    fn u3_tokens_of_an_earlier_key_are_accepted_until_it_is_taken_away() {
        let earlier = SigningKey::generate().unwrap();
        let token = sign(&earlier, &claims()).unwrap();
        let both = Keys::new(
            SigningKey::generate().unwrap(),
            vec![earlier.public().clone()],
        );
        assert_eq!(open(&both, &token), Ok(claims()));
        assert_eq!(open(&keys(), &token), Err(JwtError::UnknownKey));
        assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn u3_each_forgery_is_refused() {
        let keys = keys();
        let token = sign(keys.signing(), &claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, body, signature] = parts.as_slice() else {
            panic!("{token}")
        };
        let encode = |value: &str| URL_SAFE_NO_PAD.encode(value);
        let kid = keys.signing().public().id();
        let other = encode(r#"{"iss":"https://issuer","exp":9000}"#);
        let none = encode(&format!(r#"{{"alg":"none","kid":"{kid}"}}"#));
        let hs256 = encode(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#));
        let no_kid = encode(r#"{"alg":"ES256"}"#);
        for (token, wanted) in [
            (format!("{header}.{other}.{signature}"), JwtError::Signature),
            (format!("{header}.{body}."), JwtError::Signature),
            (
                format!("{none}.{body}."),
                JwtError::Algorithm("none".into()),
            ),
            (
                format!("{hs256}.{body}.{signature}"),
                JwtError::Algorithm("HS256".into()),
            ),
            (format!("{no_kid}.{body}.{signature}"), JwtError::UnknownKey),
            (format!("{header}.{body}"), JwtError::Malformed),
            (format!("{token}.x"), JwtError::Malformed),
            (format!("{token}="), JwtError::Malformed),
            ("a.b.c".into(), JwtError::Malformed),
            (String::new(), JwtError::Malformed),
            ("a.".repeat(LIMIT_BYTES), JwtError::Malformed),
        ] {
            assert_eq!(open(&keys, &token), Err(wanted), "{token}");
        }
    }
}
