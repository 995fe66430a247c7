//! What a token says (RFC 7519, section 4.1, and the claim `kubernetes.io`).

use api::core::Pod;
use serde::{Deserialize, Serialize};

/// The claims of a token. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// For whom it is.
    pub aud: Vec<String>,
    /// When it ends.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it, an URL.
    pub iss: String,
    /// Its own name, for logs.
    pub jti: String,
    /// Whose it is and what it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    /// When it begins.
    pub nbf: i64,
    /// Whose it is: `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bound {
    /// The namespace of the ServiceAccount, and of the Pod or Secret.
    pub namespace: String,
    /// The node of the Pod, or the one the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The Pod it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The Secret it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The ServiceAccount.
    pub serviceaccount: Reference,
}

/// One object and no other of its name. A node may be known by name only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Reference {
    /// A reference.
    #[must_use]
    pub fn new(name: &str, uid: &str) -> Self {
        Self {
            name: name.into(),
            uid: uid.into(),
        }
    }

    /// The Pod as a reference.
    #[must_use]
    pub fn to_pod(pod: &Pod) -> Self {
        Self::new(&pod.metadata.name, &pod.metadata.uid)
    }
}
