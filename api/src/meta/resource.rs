//! What kind an object is.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ObjectMeta;

/// Group, version and kind; the core group is the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// The API group, such as `discovery.k8s.io`.
    pub group: Box<str>,
    /// The version, such as `v1`.
    pub version: Box<str>,
    /// The kind, such as `EndpointSlice`.
    pub kind: Box<str>,
}

impl Gvk {
    /// Splits an `apiVersion` (`v1`, `apps/v1`) at its slash.
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// The `apiVersion` objects of this kind carry.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

/// A kind minik has a slim struct for.
pub trait Resource:
    Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static
{
    /// The API group; empty for the core group.
    const GROUP: &'static str;
    /// The version.
    const VERSION: &'static str;
    /// The kind.
    const KIND: &'static str;
    /// The resource's name in URLs.
    const PLURAL: &'static str;

    /// The object's metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// The object's metadata, to change it.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    /// The `apiVersion` of this kind.
    fn api_version() -> String {
        api_version(Self::GROUP, Self::VERSION)
    }

    /// The object as JSON with `apiVersion` and `kind`.
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("apiVersion".into(), Self::api_version().into());
        object.insert("kind".into(), Self::KIND.into());
        let fields = serde_json::to_value(self)
            .expect("slim structs have string keys and no failing serializer");
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        Value::Object(object)
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}
