//! The keys by which tokens are signed and known again.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What a public key of P-256 looks like in DER up to its point: a SubjectPublicKeyInfo of `id-ecPublicKey` on `prime256v1`
/// (RFC 5480, section 2).
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The length of an uncompressed point: 0x04, x, y.
const POINT_BYTES: usize = 65;

/// What goes wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are none.
    #[error("it is no ECDSA P-256 key in PKCS #8")]
    Malformed,
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random,
}

/// Half of a key: enough to know its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    id: String,
    point: [u8; POINT_BYTES],
}

impl VerifyingKey {
    fn new(point: &[u8]) -> Result<Self, KeyError> {
        let point: [u8; POINT_BYTES] = point.try_into().map_err(|_| KeyError::Malformed)?;
        let spki = [&SPKI_HEAD[..], &point[..]].concat();
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
        Ok(Self { id, point })
    }

    /// Its name in the header of tokens, `kid`: the hash of the public key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a signature of `message` was made with it.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point)
            .verify(message, signature)
            .is_ok()
    }

    /// As a JSON Web Key (RFC 7517; RFC 7518, section 6.2).
    #[must_use]
    pub fn jwk(&self) -> Value {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": part(&self.point[1..33]), "y": part(&self.point[33..]),
        })
    }
}

/// A whole key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    public: VerifyingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public.id).finish()
    }
}

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Random)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// A key from PKCS #8 in DER.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|_| KeyError::Malformed)?;
        let public = VerifyingKey::new(pair.public_key().as_ref())?;
        Ok(Self {
            pair,
            random,
            public,
        })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs bytes: r and s, 32 bytes each (RFC 7518, section 3.4).
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&self.random, message);
        Ok(signature.map_err(|_| KeyError::Random)?.as_ref().to_vec())
    }
}

/// The key that signs, and all whose tokens are accepted.
#[derive(Debug)]
pub struct Keys {
    signing: SigningKey,
    verifying: Vec<VerifyingKey>,
}

impl Keys {
    /// Signs with one key, and still accepts the tokens of earlier ones.
    #[must_use]
    pub fn new(signing: SigningKey, earlier: Vec<VerifyingKey>) -> Self {
        let mut verifying = vec![signing.public().clone()];
        verifying.extend(earlier.into_iter().filter(|key| key != signing.public()));
        Self { signing, verifying }
    }

    /// The key that signs.
    #[must_use]
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The key of this name.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&VerifyingKey> {
        self.verifying.iter().find(|key| key.id == id)
    }

    /// All of them as a JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.verifying.iter().map(VerifyingKey::jwk).collect();
        json!({"keys": keys})
    }
}
