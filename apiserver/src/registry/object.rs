//! One version of one object: its stored bytes and its revision.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{error::ApiError, kind::Kind};
use crate::store::{Record, Revision};

/// An object as it is stored: canonical JSON without `metadata.resourceVersion`, and the revision that belongs there.
///
/// Canonical means: the text begins with `{"kind":…,"apiVersion":…,"metadata":{` and holds no null. So the
/// resourceVersion is spliced in at a known place, and lists copy bytes instead of encoding again.
#[derive(Clone, Debug)]
pub struct Object {
    kind: &'static Kind,
    json: Bytes,
    revision: Revision,
}

impl Object {
    /// The object in a record.
    #[must_use]
    pub fn from_record(kind: &'static Kind, record: &Record) -> Self {
        Self::new(kind, record.value.clone(), record.modified)
    }

    pub(super) fn new(kind: &'static Kind, json: Bytes, revision: Revision) -> Self {
        Self {
            kind,
            json,
            revision,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// The revision that wrote it; zero for the result of a dry run.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Its JSON, with the resourceVersion.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.json.len() + 48);
        self.write_to(&mut out);
        out.into()
    }

    /// Appends its JSON, with the resourceVersion.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match splice_point(&self.json) {
            Some(at) if self.revision.0 > 0 => {
                out.extend_from_slice(&self.json[..at]);
                out.extend_from_slice(b"\"resourceVersion\":\"");
                out.extend_from_slice(self.revision.0.to_string().as_bytes());
                out.extend_from_slice(b"\",");
                out.extend_from_slice(&self.json[at..]);
            }
            _ => out.extend_from_slice(&self.json),
        }
    }

    /// The parsed object, with the resourceVersion.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes()).unwrap_or(Value::Null)
    }

    /// Decodes into a (slim) type, with the resourceVersion.
    ///
    /// # Errors
    /// [`ApiError::Undecodable`] when the stored JSON does not have that shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.bytes()).map_err(|error| ApiError::Undecodable {
            kind: self.kind,
            name: String::new(),
            detail: error.to_string(),
        })
    }
}

/// Just behind `"metadata":{`, when the metadata is not empty.
fn splice_point(json: &[u8]) -> Option<usize> {
    const METADATA: &[u8] = b"\"metadata\":{";
    let head = &json[..json.len().min(256)];
    let at = head
        .windows(METADATA.len())
        .position(|window| window == METADATA)?
        + METADATA.len();
    (json.get(at) != Some(&b'}')).then_some(at)
}

/// The canonical stored form of an object: kind, apiVersion and metadata first, no resourceVersion, no nulls.
pub(super) fn canonical(kind: &Kind, value: &Value) -> Bytes {
    let mut ordered = Map::new();
    ordered.insert("kind".into(), kind.kind.into());
    ordered.insert("apiVersion".into(), kind.api_version().into());
    let mut metadata = value["metadata"].clone();
    if let Some(map) = metadata.as_object_mut() {
        map.shift_remove("resourceVersion");
    }
    ordered.insert("metadata".into(), metadata);
    for (key, field) in value.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            ordered.insert(key.clone(), field.clone());
        }
    }
    serde_json::to_vec(&ordered)
        .expect("a JSON value with string keys always serialises")
        .into()
}

/// Drops nulls, as decoding into Go structs does: `creationTimestamp: null` means absent.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, field| !field.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::kinds::PODS;

    #[test]
    fn resource_version_is_spliced_in_and_survives_a_round_trip() {
        let mut value =
            json!({"metadata": {"resourceVersion": "3", "name": "a", "x": null}, "kind": "Pod"});
        drop_nulls(&mut value);
        let object = Object::new(&PODS, canonical(&PODS, &value), Revision(7));
        assert_eq!(
            object.bytes(),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"}}"#
        );
        assert_eq!(object.value()["metadata"]["resourceVersion"], "7");
    }
}
