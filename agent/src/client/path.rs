//! Paths and queries of the Kubernetes API.

use std::fmt::{self, Write as _};

/// A resource's path with its query, built in the order of the calls.
///
/// ```
/// use agent::client::Path;
/// let path = Path::core("pods").namespace("default").name("web").subresource("status");
/// assert_eq!(path.to_string(), "/api/v1/namespaces/default/pods/web/status");
/// let path = Path::group("discovery.k8s.io/v1", "endpointslices").query("limit", "500");
/// assert_eq!(path.to_string(), "/apis/discovery.k8s.io/v1/endpointslices?limit=500");
/// ```
#[derive(Clone, Debug)]
pub struct Path {
    root: String,
    resource: &'static str,
    namespace: Option<String>,
    tail: String,
    query: String,
}

impl Path {
    /// A resource of the core group, for example `pods`.
    #[must_use]
    pub fn core(resource: &'static str) -> Self {
        Self::at("/api/v1".to_owned(), resource)
    }

    /// A resource of a named group, given as `group/version`.
    #[must_use]
    pub fn group(group_version: &str, resource: &'static str) -> Self {
        Self::at(format!("/apis/{group_version}"), resource)
    }

    fn at(root: String, resource: &'static str) -> Self {
        Self {
            root,
            resource,
            namespace: None,
            tail: String::new(),
            query: String::new(),
        }
    }

    /// Within a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(encode(namespace));
        self
    }

    /// One object.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.tail = format!("/{}", encode(name));
        self
    }

    /// A subresource of the object.
    #[must_use]
    pub fn subresource(mut self, subresource: &str) -> Self {
        let _ = write!(self.tail, "/{subresource}");
        self
    }

    /// One more query parameter.
    #[must_use]
    pub fn query(mut self, key: &str, value: &str) -> Self {
        let separator = if self.query.is_empty() { '?' } else { '&' };
        let _ = write!(self.query, "{separator}{key}={}", encode(value));
        self
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "/namespaces/{namespace}")?;
        }
        write!(f, "/{}{}{}", self.resource, self.tail, self.query)
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
