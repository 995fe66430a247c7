//! The schema table: every field of every built-in kind, with its JSON type, protobuf tag, list type, merge key and default.
//!
//! One table feeds protobuf decoding, unknown-field detection, type checks, defaults, strategic merge, server-side apply and
//! OpenAPI.
//! `table.txt` is generated: see its head.

pub mod apply;
mod check;
mod descriptions;
mod openapi;
mod protobuf;
mod strategic;
mod swagger;
mod table;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

pub use check::{TypeError, UnknownField};
pub use openapi::{ServedKind, openapi_v2, openapi_v3};
pub use protobuf::{Envelope, ProtobufError, unwrap_envelope};
pub use strategic::PatchError;
pub use swagger::openapi_v2_protobuf;

use table::Table;

static TABLE: LazyLock<Table> = LazyLock::new(|| table::read(include_str!("table.txt")));

/// An object type: a kind, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Type {
    /// The last three segments of its name in the OpenAPI documents: `core.v1.ServiceSpec`.
    pub name: &'static str,
    /// The kinds it is, as (group, version, kind); empty for parts.
    pub kinds: Vec<(&'static str, &'static str, &'static str)>,
    /// Server-side apply takes or leaves it as a whole.
    pub atomic: bool,
    /// Its fields, sorted by name.
    pub fields: Vec<Field>,
    /// What fields of other names hold; `None` where there are none. Only types that are not of the table have any.
    pub rest: Option<Shape>,
    /// Positions in `fields`, sorted by tag.
    by_tag: Vec<usize>,
}

/// A field of a [`Type`].
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// The name in JSON.
    pub name: Cow<'static, str>,
    /// What it holds.
    pub shape: Shape,
    /// Its tag in protobuf.
    tag: Tag,
    /// Must be set.
    pub required: bool,
    /// What protobuf's zero means for it.
    zero: Zero,
    /// What an absent field means, when the OpenAPI document declares more than a zero.
    pub default: Option<serde_json::Value>,
    /// How server-side apply merges a list.
    pub list_type: ListType,
    /// How a strategic merge patch merges it.
    pub merge: Merge,
    /// A map that server-side apply takes or leaves as a whole.
    pub atomic: bool,
}

/// Where protobuf carries a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    /// Under its own tag.
    Direct(u32),
    /// In a message of its own, whose fields JSON shows in the parent.
    Inlined(u32, u32),
    /// Nowhere: newer than the known protobuf messages.
    None,
}

/// What a zero on the wire means: Go writes every field that is no pointer, set or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zero {
    /// The field is not set.
    Absent,
    /// JSON shows the zero: a pointer to zero, or a field without `omitempty`.
    Shown,
}

/// What a field, an item of a list or a value of a map holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A value without parts.
    Scalar(Scalar),
    /// An object; [`Shape::message`] finds its type.
    Message(TypeId),
    /// An object whose type is not of the table; [`Shape::message`] finds it too.
    Object(Arc<Type>),
    /// A list of items of one shape.
    List(Box<Shape>),
    /// A map from strings to values of one shape.
    Map(Box<Shape>),
}

/// A position in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(usize);

/// A value without parts, or of parts the table does not describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// A number of 32 bits.
    Int32,
    /// A number of 64 bits.
    Int64,
    /// True or false.
    Bool,
    /// A floating point number.
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// An amount: text, or a number.
    Quantity,
    /// A number or text.
    IntOrString,
    /// JSON within JSON; protobuf carries its text: RawExtension, FieldsV1, and the JSON of CRD schemas.
    Json,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or true or false.
    SchemaOrBool,
    /// A JSON schema or a list of names.
    SchemaOrStrings,
}

/// How server-side apply merges a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map whose items are told apart by these fields.
    Map(Vec<Cow<'static, str>>),
}

/// How a strategic merge patch merges a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// What happens to the value.
    pub strategy: Strategy,
    /// The patch names the keys that stay (`$retainKeys`).
    pub retain_keys: bool,
    /// The field that tells the items of a list apart.
    pub key: Option<&'static str>,
}

/// What a strategic merge patch does to a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Lists are replaced, maps are merged.
    #[default]
    Default,
    /// Both are merged.
    Merge,
    /// Both are replaced.
    Replace,
}

/// The type of a kind; the core group is the empty string.
///
/// `DeleteOptions` and `Status` belong to every group: clients send them under the group's own version too.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let name = match kind {
        "DeleteOptions" | "Status" => return type_named(&format!("meta.v1.{kind}")),
        _ => (group, version, kind),
    };
    TABLE.kinds.get(&name).map(|at| &TABLE.types[*at])
}

/// A type by its short name, such as `core.v1.PodTemplateSpec`.
pub fn type_named(name: &str) -> Option<&'static Type> {
    TABLE
        .types
        .binary_search_by_key(&name, |one| one.name)
        .ok()
        .map(|at| &TABLE.types[at])
}

/// All types, sorted by name.
pub fn types() -> &'static [Type] {
    &TABLE.types
}

impl Type {
    /// A type that is not of the table: with these fields, and `rest` in all others.
    pub fn new(mut fields: Vec<Field>, rest: Option<Shape>) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            name: "",
            kinds: Vec::new(),
            atomic: false,
            fields,
            rest,
            by_tag: Vec::new(),
        }
    }

    /// The field of this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by_key(&name, |field| &*field.name)
            .ok()
            .map(|at| &self.fields[at])
    }

    /// The field under this tag, and for an inlined message the fields in it.
    fn tagged(&self, outer: Option<u32>, tag: u32) -> Option<&Field> {
        let wanted = outer.map_or(Tag::Direct(tag), |outer| Tag::Inlined(outer, tag));
        let found = self
            .by_tag
            .binary_search_by_key(&wanted, |at| self.fields[*at].tag);
        found.ok().map(|at| &self.fields[self.by_tag[at]])
    }

    /// True when the message under this tag is inlined.
    fn inlines(&self, tag: u32) -> bool {
        self.fields
            .iter()
            .any(|field| matches!(field.tag, Tag::Inlined(outer, _) if outer == tag))
    }
}

impl Field {
    /// A field of a type that is not of the table.
    pub fn new(name: impl Into<Cow<'static, str>>, shape: Shape) -> Self {
        Self {
            name: name.into(),
            shape,
            tag: Tag::None,
            required: false,
            zero: Zero::Absent,
            default: None,
            list_type: ListType::Atomic,
            merge: Merge::default(),
            atomic: false,
        }
    }
}

impl Shape {
    /// An object of a type of the table, by its short name.
    pub fn named(name: &str) -> Option<Self> {
        let found = TABLE.types.binary_search_by_key(&name, |one| one.name);
        found.ok().map(|at| Self::Message(TypeId(at)))
    }

    /// The type of an object.
    pub fn message(&self) -> Option<&Type> {
        match self {
            Shape::Message(id) => Some(&TABLE.types[id.0]),
            Shape::Object(of) => Some(of),
            Shape::Scalar(_) | Shape::List(_) | Shape::Map(_) => None,
        }
    }
}
