//! Field sets as `fieldsV1` spells them.
//!
//! An object per step: `f:<name>`, `k:<keys as JSON>`, `v:<value as JSON>`, `i:<position>`. A step without steps below it is
//! in the set; one with steps below it says so by a step named `.`. Source: sigs.k8s.io/structured-merge-diff,
//! fieldpath/serialize.go.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};

use super::set::Node;
use super::{Element, FieldSet};

impl FieldSet {
    /// Reads a set.
    ///
    /// # Errors
    /// When the text is no JSON object, or a step has no kind.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The set as `fieldsV1`.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        String::from_utf8(out).expect("written from strings")
    }

    /// Appends the set as `fieldsV1`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        self.write_level(false, out);
    }

    fn write_level(&self, member: bool, out: &mut Vec<u8>) {
        out.push(b'{');
        if member && !self.is_empty() {
            out.extend_from_slice(b"\".\":{},");
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            node.element.write(out);
            out.push(b':');
            node.children.write_level(node.member, out);
        }
        out.push(b'}');
    }
}

impl<'de> Deserialize<'de> for FieldSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Level.deserialize(deserializer)?.0)
    }
}

/// One level: the steps on it, and whether the path to it is in the set.
struct Level;

impl<'de> DeserializeSeed<'de> for Level {
    type Value = (FieldSet, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = (FieldSet, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of path elements")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        let mut member = false;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if key == "." {
                map.next_value::<IgnoredAny>()?;
                member = true;
                continue;
            }
            // What a later version may know is dropped, not kept half understood.
            let Some(element) = Element::parse(&key).map_err(A::Error::custom)? else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let (children, member) = map.next_value_seed(Level)?;
            nodes.push(Node {
                element,
                member,
                children,
            });
        }
        let set = FieldSet::from_nodes(nodes);
        let member = member || set.is_empty();
        Ok((set, member))
    }
}
