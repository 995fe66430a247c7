//! One version of one object: its stored bytes and its revision.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{error::ApiError, kind::Kind};
use crate::store::{Record, Revision};

/// An object as it is stored, and the revision that belongs into it.
///
/// The stored bytes are canonical JSON without `metadata.resourceVersion` and `metadata.managedFields`. Canonical means: the
/// text begins with `{"kind":…,"apiVersion":…,"metadata":{` and holds no null. So the resourceVersion is spliced in at a known
/// place, and lists copy bytes instead of encoding again.
///
/// When somebody owns fields, the managedFields follow as JSON of their own, and then two decimal numbers with a space before
/// each: the length of the object's JSON, and where in it the metadata end. What selects, decides and serves inside the server
/// never reads them; they are spliced in when an object leaves.
#[derive(Clone, Debug)]
pub struct Object {
    kind: &'static Kind,
    stored: Bytes,
    layout: Layout,
    revision: Revision,
    warnings: Box<[String]>,
}

/// Where in the stored bytes the parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// The length of the object's JSON.
    json: usize,
    /// Where the metadata end, and where the managedFields do.
    managed: Option<(usize, usize)>,
}

impl Layout {
    fn of(stored: &[u8]) -> Self {
        let whole = Self {
            json: stored.len(),
            managed: None,
        };
        // The JSON of an object ends with a brace, never with a digit.
        let Some((metadata_end, rest)) = number_at_end(stored) else {
            return whole;
        };
        let Some((json, end)) = number_at_end(&stored[..rest]) else {
            return whole;
        };
        Self {
            json,
            managed: Some((metadata_end, end)),
        }
    }
}

/// The number at the end, and where the space before it is.
fn number_at_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let space = bytes.len().checked_sub(digits.count() + 1)?;
    let number = std::str::from_utf8(&bytes[space + 1..]).ok()?;
    (bytes[space] == b' ').then_some((number.parse().ok()?, space))
}

/// The JSON in stored bytes, without managedFields.
pub(super) fn json_of(stored: &Bytes) -> Bytes {
    stored.slice(..Layout::of(stored).json)
}

/// The managedFields in stored bytes.
pub(super) fn managed_of(stored: &[u8]) -> Option<&str> {
    let layout = Layout::of(stored);
    let (_, end) = layout.managed?;
    std::str::from_utf8(&stored[layout.json..end]).ok()
}

impl Object {
    /// The object in a record.
    #[must_use]
    pub fn from_record(kind: &'static Kind, record: &Record) -> Self {
        Self::new(kind, record.value.clone(), record.modified)
    }

    pub(super) fn new(kind: &'static Kind, stored: Bytes, revision: Revision) -> Self {
        let stored = as_served(kind, stored);
        Self {
            kind,
            layout: Layout::of(&stored),
            stored,
            revision,
            warnings: Box::default(),
        }
    }

    pub(super) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings.into();
        self
    }

    /// What is legal in it but worth a `Warning:` header, when this is the answer to a write.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
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

    /// Its JSON, with resourceVersion and managedFields.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let mut out = Vec::new();
        self.write_to(&mut out);
        out.into()
    }

    /// Appends its JSON, with resourceVersion and managedFields.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let Some((metadata_end, managed_end)) = self.layout.managed else {
            return self.write_content(out);
        };
        let (json, managed) = self.stored[..managed_end].split_at(self.layout.json);
        self.write_with_version(&json[..metadata_end], out);
        out.extend_from_slice(b",\"managedFields\":");
        out.extend_from_slice(managed);
        out.extend_from_slice(&json[metadata_end..]);
    }

    /// Appends its JSON, with the resourceVersion and without managedFields.
    pub fn write_content(&self, out: &mut Vec<u8>) {
        self.write_with_version(&self.stored[..self.layout.json], out);
    }

    fn write_with_version(&self, json: &[u8], out: &mut Vec<u8>) {
        out.reserve(self.stored.len() + 64);
        match splice_point(json) {
            Some(at) if self.revision.0 > 0 => {
                out.extend_from_slice(&json[..at]);
                out.extend_from_slice(b"\"resourceVersion\":\"");
                out.extend_from_slice(self.revision.0.to_string().as_bytes());
                out.extend_from_slice(b"\",");
                out.extend_from_slice(&json[at..]);
            }
            _ => out.extend_from_slice(json),
        }
    }

    /// The parsed object, with resourceVersion and managedFields.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes()).unwrap_or(Value::Null)
    }

    /// Decodes into a (slim) type, with the resourceVersion and without managedFields.
    ///
    /// # Errors
    /// [`ApiError::Undecodable`] when the stored JSON does not have that shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let mut content = Vec::new();
        self.write_content(&mut content);
        serde_json::from_slice(&content).map_err(|error| ApiError::Undecodable {
            kind: self.kind,
            name: String::new(),
            detail: error.to_string(),
        })
    }
}

/// Stored bytes as a kind's version has them: custom resources may have been written in another one, or before a default was
/// declared, and a kind may be another one with other names.
fn as_served(kind: &'static Kind, stored: Bytes) -> Bytes {
    if let Some(renamed) = kind.rules.renamed {
        let api_version = kind.api_version();
        let mut value: Value = serde_json::from_slice(&json_of(&stored)).unwrap_or_default();
        renamed.serve(&mut value, &api_version);
        return written(kind, &api_version, &value, managed_of(&stored));
    }
    let Some(custom) = kind.custom() else {
        return stored;
    };
    let json = json_of(&stored);
    if !custom.converts(kind, &json) {
        return stored;
    }
    let before: Value = serde_json::from_slice(&json).unwrap_or_default();
    let mut value = before.clone();
    custom.convert(kind, &mut value);
    if value == before {
        return stored;
    }
    written(kind, &kind.api_version(), &value, managed_of(&stored))
}

/// Just behind `"metadata":{`, when the metadata is not empty.
fn splice_point(json: &[u8]) -> Option<usize> {
    const METADATA: &[u8] = b"\"metadata\":{";
    let head = &json[..json.len().min(256)];
    let at = memchr::memmem::find(head, METADATA)? + METADATA.len();
    (json.get(at).is_some_and(|byte| *byte != b'}')).then_some(at)
}

/// The stored form of an object: kind, apiVersion and metadata first, no nulls but those a custom resource may have, and then
/// who owns its fields.
pub(super) fn canonical(kind: &Kind, value: &Value, managed: Option<&str>) -> Bytes {
    if let Some(renamed) = kind.rules.renamed {
        let mut value = value.clone();
        renamed.store(&mut value);
        let api_version = value["apiVersion"].as_str().unwrap_or_default();
        return written(kind, api_version, &value, managed);
    }
    let custom = kind.custom();
    let api_version = custom.map_or_else(
        || kind.api_version(),
        |custom| custom.stored_api_version.clone(),
    );
    written(kind, &api_version, value, managed)
}

fn written(kind: &Kind, api_version: &str, value: &Value, managed: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(1024 + managed.map_or(0, str::len));
    write_field(&mut out, b'{', "kind", &kind.kind);
    write_field(&mut out, b',', "apiVersion", api_version);
    out.extend_from_slice(b",\"metadata\":");
    let mut separator = b'{';
    for (name, field) in value["metadata"].as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "resourceVersion" | "managedFields") {
            write_field(&mut out, separator, name, field);
            separator = b',';
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    let metadata_end = out.len();
    out.push(b'}');
    for (name, field) in value.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            write_field(&mut out, b',', name, field);
        }
    }
    out.push(b'}');
    // Nothing is spliced into empty metadata; every object has a name.
    if let Some(managed) = managed.filter(|_| separator == b',') {
        let json = out.len();
        out.extend_from_slice(managed.as_bytes());
        out.extend_from_slice(format!(" {json} {metadata_end}").as_bytes());
    }
    out.into()
}

fn write_field(out: &mut Vec<u8>, separator: u8, name: &str, value: &(impl Serialize + ?Sized)) {
    const WHY: &str = "a JSON value with string keys always serialises";
    out.push(separator);
    serde_json::to_writer(&mut *out, name).expect(WHY);
    out.push(b':');
    serde_json::to_writer(out, value).expect(WHY);
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

impl Kind {
    /// Drops the nulls of an object, but those that a definition's schema allows.
    pub(super) fn drop_nulls(&self, value: &mut Value) {
        let Some(custom) = self.custom() else {
            return drop_nulls(value);
        };
        if let Some(metadata) = value.get_mut("metadata") {
            drop_nulls(metadata);
        }
        custom.schema.drop_nulls(value);
    }

    /// Sets defaults: those of a definition's schema, those that depend on other fields.
    pub(super) fn set_defaults(&self, value: &mut Value) {
        if let Some(custom) = self.custom() {
            custom.schema.set_defaults(value);
        }
        (self.rules.default)(value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::kinds::PODS;

    #[test]
    fn resource_version_and_managed_fields_are_spliced_in_and_survive_a_round_trip() {
        let mut value = json!({"metadata": {"resourceVersion": "3", "name": "a", "x": null}, "spec": {}, "kind": "Pod"});
        drop_nulls(&mut value);
        let object = Object::new(&PODS, canonical(&PODS, &value, None), Revision(7));
        let wanted = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#;
        assert_eq!(object.bytes(), wanted);
        assert_eq!(object.value()["metadata"]["resourceVersion"], "7");

        let managed = r#"[{"manager":"m 1 2"}]"#;
        let stored = canonical(&PODS, &value, Some(managed));
        assert_eq!(managed_of(&stored), Some(managed));
        assert_eq!(json_of(&stored), canonical(&PODS, &value, None));
        let object = Object::new(&PODS, stored, Revision(7));
        let wanted = wanted.replace(
            "},\"spec\"",
            &format!(",\"managedFields\":{managed}}},\"spec\""),
        );
        assert_eq!(object.bytes(), wanted);
        let decoded: Value = object.decode().unwrap();
        assert_eq!(
            decoded["metadata"],
            json!({"resourceVersion": "7", "name": "a"})
        );
        assert_eq!(
            managed_of(&canonical(&PODS, &json!({}), Some(managed))),
            None
        );
    }
}
