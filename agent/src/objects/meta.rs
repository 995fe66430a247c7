//! Names, revisions and labels.

use std::{borrow::Cow, fmt, sync::Arc};

use super::labels::Labels;
use api::meta::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

/// A `metadata.resourceVersion`: a position in the server's one global order of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Revision(pub(crate) u64);

impl Revision {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::invalid_value(de::Unexpected::Str(&text), &"a decimal number")
        })
    }
}

/// Namespace and name; the namespace of a cluster-scoped object is empty. Cloning shares both.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The metadata kept of a Service or an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) resource_version: Revision,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) labels: Labels,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) annotations: Annotations,
}

/// The annotations that decide something here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Annotations {
    /// Which node announces which of the Service's addresses: `ADDRESS=NODE,...`, written by the server.
    #[serde(rename = "minik.dev/announced-by")]
    pub(crate) announced_by: Option<Box<str>>,
}

impl Meta {
    pub(crate) fn key(&self) -> Key {
        Key {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name)
    }
}

/// Anything that is listed and watched.
pub(crate) trait Object: DeserializeOwned + Send + 'static {
    fn key(&self) -> Key;
    fn revision(&self) -> Revision;
}

impl<T: Resource + DeserializeOwned + Send + 'static> Object for T {
    fn key(&self) -> Key {
        Key::new(&self.metadata().namespace, &self.metadata().name)
    }

    fn revision(&self) -> Revision {
        Revision::parse(&self.metadata().resource_version).unwrap_or_default()
    }
}

/// Reads `null` like an absent field: servers write both for empty lists and maps.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
