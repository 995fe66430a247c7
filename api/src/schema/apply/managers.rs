//! `metadata.managedFields`: which manager owns which fields.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::FieldSet;
use super::element::write_string;

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Author<'m> {
    /// The manager's name.
    pub manager: &'m str,
    /// How it writes.
    pub operation: Operation,
    /// The version of the API the object is written in: `v1`, `apps/v1`.
    pub api_version: &'m str,
    /// The subresource written to, such as `status`; empty for the object itself.
    pub subresource: &'m str,
}

/// The managers of an object and the fields each owns.
///
/// Field sets stay text until something asks for them: a write looks at its own fields and at those it takes from others.
#[derive(Clone, Debug, Default)]
pub struct Managers<'a> {
    pub(super) entries: Vec<Entry<'a>>,
}

/// One manager with its fields.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) manager: Cow<'a, str>,
    pub(super) operation: Operation,
    pub(super) api_version: Cow<'a, str>,
    /// RFC 3339, in seconds.
    pub(super) time: Option<Cow<'a, str>>,
    pub(super) subresource: Cow<'a, str>,
    pub(super) fields: Fields<'a>,
}

/// A field set, read or not yet.
#[derive(Clone, Debug)]
pub(super) enum Fields<'a> {
    Text(&'a str),
    Set(FieldSet),
}

/// Managed fields that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum ManagersError {
    /// They are no list of entries, or a field set is broken.
    #[error("managedFields: {0}")]
    Json(#[from] serde_json::Error),
    /// An operation other than the two.
    #[error("managedFields: operation must be `Apply` or `Update`")]
    Operation,
    /// An entry without the version its fields are named in.
    #[error("managedFields: apiVersion must not be empty")]
    ApiVersion,
    /// A spelling of field sets other than the one.
    #[error("managedFields: fieldsType must be FieldsV1, not {0:?}")]
    FieldsType(String),
}

/// An entry on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow, default)]
    manager: Cow<'a, str>,
    #[serde(borrow, default)]
    operation: Cow<'a, str>,
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    fields_type: Cow<'a, str>,
    #[serde(borrow, default, rename = "fieldsV1")]
    fields: Option<&'a RawValue>,
    #[serde(borrow, default)]
    subresource: Cow<'a, str>,
}

impl<'a> Managers<'a> {
    /// Reads `managedFields` that were stored; what is in the field sets is read when it is needed.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn read(text: &'a str) -> Result<Self, ManagersError> {
        let entries: Vec<Wire<'a>> = serde_json::from_str(text)?;
        let entries = entries.into_iter().map(Entry::from_wire);
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    /// Reads `managedFields` that a client sent, all of them.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn read_all(text: &'a str) -> Result<Self, ManagersError> {
        let mut managers = Self::read(text)?;
        for entry in &mut managers.entries {
            if let Fields::Text(text) = entry.fields {
                entry.fields = Fields::Set(FieldSet::from_json(text)?);
            }
        }
        Ok(managers)
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The JSON of `managedFields`: appliers first, then by time, then by name.
    pub fn to_json(&self) -> String {
        let mut entries: Vec<&Entry<'_>> = self.entries.iter().collect();
        entries.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut out = Vec::with_capacity(256 * entries.len());
        for entry in entries {
            out.push(if out.is_empty() { b'[' } else { b',' });
            entry.write(&mut out);
        }
        if out.is_empty() {
            out.push(b'[');
        }
        out.push(b']');
        String::from_utf8(out).expect("written from strings")
    }

    /// Whether two lists say the same, whatever the times.
    pub fn same_but_for_times(&self, other: &Self) -> bool {
        let without_times = |managers: &Self| {
            let mut managers = managers.clone();
            for entry in &mut managers.entries {
                entry.time = None;
                let _ = entry.set();
            }
            managers.to_json()
        };
        without_times(self) == without_times(other)
    }

    /// Forgets what is named in other versions of the API than this one: nobody can tell which fields those are.
    pub(super) fn keep_version(&mut self, api_version: &str) {
        self.entries
            .retain(|entry| entry.api_version == api_version);
    }

    pub(super) fn position(&self, author: &Author<'_>) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.manager == author.manager
                && entry.operation == author.operation
                && entry.subresource == author.subresource
                && (author.operation == Operation::Apply || entry.api_version == author.api_version)
        })
    }
}

impl<'a> Entry<'a> {
    fn from_wire(wire: Wire<'a>) -> Result<Self, ManagersError> {
        let operation = match &*wire.operation {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err(ManagersError::Operation),
        };
        if wire.api_version.is_empty() {
            return Err(ManagersError::ApiVersion);
        }
        if wire.fields_type != "FieldsV1" {
            return Err(ManagersError::FieldsType(wire.fields_type.into_owned()));
        }
        Ok(Self {
            manager: wire.manager,
            operation,
            api_version: wire.api_version,
            time: wire.time,
            subresource: wire.subresource,
            fields: Fields::Text(wire.fields.map_or("{}", RawValue::get)),
        })
    }

    pub(super) fn of(author: &Author<'_>, set: FieldSet, time: &str) -> Self {
        Self {
            manager: Cow::Owned(author.manager.to_owned()),
            operation: author.operation,
            api_version: Cow::Owned(author.api_version.to_owned()),
            time: Some(Cow::Owned(time.to_owned())),
            subresource: Cow::Owned(author.subresource.to_owned()),
            fields: Fields::Set(set),
        }
    }

    /// The fields. Stored sets were written by us; one that cannot be read all the same owns nothing.
    pub(super) fn set(&mut self) -> &mut FieldSet {
        if let Fields::Text(text) = self.fields {
            self.fields = Fields::Set(FieldSet::from_json(text).unwrap_or_default());
        }
        match &mut self.fields {
            Fields::Set(set) => set,
            Fields::Text(_) => unreachable!("read just above"),
        }
    }

    /// Whether it owns nothing; what has not been read was not empty when it was written.
    pub(super) fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Text(text) => *text == "{}",
            Fields::Set(set) => set.is_empty(),
        }
    }

    /// Whether it may own one of these fields; a look at the text says no in most cases.
    pub(super) fn may_own(&self, fields: &FieldSet) -> bool {
        match &self.fields {
            Fields::Set(set) => set.intersects(fields),
            Fields::Text(text) => fields.nodes.iter().any(|node| {
                let has = |element: &super::Element| {
                    let mut needle = Vec::with_capacity(32);
                    element.write(&mut needle);
                    std::str::from_utf8(&needle).is_ok_and(|needle| text.contains(needle))
                };
                let mut below = node.children.nodes.iter();
                has(&node.element) && (node.member || below.any(|node| has(&node.element)))
            }),
        }
    }

    fn order(&self) -> (Operation, Option<&str>, &str, &str, &str) {
        (
            self.operation,
            self.time.as_deref(),
            &self.manager,
            &self.api_version,
            &self.subresource,
        )
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"manager\":");
        write_string(&self.manager, out);
        out.extend_from_slice(b",\"operation\":");
        write_string(self.operation.as_str(), out);
        out.extend_from_slice(b",\"apiVersion\":");
        write_string(&self.api_version, out);
        if let Some(time) = &self.time {
            out.extend_from_slice(b",\"time\":");
            write_string(time, out);
        }
        out.extend_from_slice(b",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
        match &self.fields {
            Fields::Text(text) => out.extend_from_slice(text.as_bytes()),
            Fields::Set(set) => set.write_json(out),
        }
        if !self.subresource.is_empty() {
            out.extend_from_slice(b",\"subresource\":");
            write_string(&self.subresource, out);
        }
        out.push(b'}');
    }
}
