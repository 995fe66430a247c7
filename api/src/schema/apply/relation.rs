//! What the schema says of a value: whether it has parts with owners of their own, and what tells them apart.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::Element;
use crate::schema::{Field, ListType, Scalar, Shape, Type, Zero};

/// How a value is owned and merged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Relation<'s> {
    /// As a whole: scalars, and what the schema calls atomic.
    Leaf,
    /// An object, field by field.
    Struct(&'s Type),
    /// A map, key by key; its values have this shape.
    Map(&'s Shape),
    /// A list of scalars, value by value.
    Set,
    /// A list of objects, told apart by these fields.
    Keyed(&'s [Cow<'static, str>], &'s Shape),
    /// JSON of any shape: objects key by key, everything else as a whole.
    Free,
}

impl<'s> Relation<'s> {
    /// Of a field.
    pub(super) fn of_field(field: &'s Field) -> Self {
        match (&field.shape, &field.list_type) {
            _ if field.atomic => Self::Leaf,
            (Shape::List(_), ListType::Set) => Self::Set,
            (Shape::List(items), ListType::Map(keys)) => Self::Keyed(keys, items),
            (shape, _) => Self::of_shape(shape),
        }
    }

    /// Of an item of a list or a value of a map.
    pub(super) fn of_shape(shape: &'s Shape) -> Self {
        match shape {
            Shape::Message(_) | Shape::Object(_) => {
                shape.message().map_or(Self::Leaf, Self::of_type)
            }
            Shape::Map(values) => Self::Map(values),
            Shape::Scalar(
                Scalar::Json
                | Scalar::SchemaOrArray
                | Scalar::SchemaOrBool
                | Scalar::SchemaOrStrings,
            ) => Self::Free,
            Shape::Scalar(_) | Shape::List(_) => Self::Leaf,
        }
    }

    /// Of an object.
    pub(super) fn of_type(of: &'s Type) -> Self {
        if of.atomic {
            Self::Leaf
        } else {
            Self::Struct(of)
        }
    }

    /// Of what an object of this relation has under a name. Names the schema does not know have no owner.
    pub(super) fn child(self, name: &str) -> Option<Self> {
        match self {
            Self::Struct(of) => match (of.field(name), &of.rest) {
                (Some(field), _) => Some(Self::of_field(field)),
                (None, rest) => rest.as_ref().map(Self::of_shape),
            },
            Self::Map(values) => Some(Self::of_shape(values)),
            Self::Free => Some(Self::Free),
            Self::Leaf | Self::Set | Self::Keyed(..) => None,
        }
    }

    /// The step to what an object of this relation has under a name.
    pub(super) fn step(self, name: &str) -> Element {
        let declared = match self {
            Self::Struct(of) => of.field(name),
            _ => None,
        };
        Element::Field(
            declared.map_or_else(|| Cow::Owned(name.to_owned()), |field| field.name.clone()),
        )
    }

    /// Whether a name is a declared field, not a key of a map.
    pub(super) fn declares(self, name: &str) -> bool {
        matches!(self, Self::Struct(of) if of.field(name).is_some())
    }

    /// Of the items of a list.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Keyed(_, items) => Self::of_shape(items),
            _ => Self::Leaf,
        }
    }

    /// The object in a value, where it has parts with owners.
    pub(super) fn object(self, value: Option<&Value>) -> Option<&Map<String, Value>> {
        match self {
            Self::Struct(_) | Self::Map(_) | Self::Free => value.and_then(Value::as_object),
            Self::Leaf | Self::Set | Self::Keyed(..) => None,
        }
    }

    /// Whether a value is a list whose items have owners.
    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::Set | Self::Keyed(..))
    }

    /// The step to an item of a list, or what is wrong with the item.
    pub(super) fn element(self, item: &Value) -> Result<Element, String> {
        match self {
            Self::Keyed(keys, shape) => keyed(keys, shape, item),
            _ if item.is_array() || item.is_object() || item.is_null() => {
                Err("a set holds scalars only".to_owned())
            }
            _ => Ok(Element::Value(item.clone())),
        }
    }
}

/// The keys of an item; defaults stand in for those it leaves out.
fn keyed(keys: &[Cow<'static, str>], shape: &Shape, item: &Value) -> Result<Element, String> {
    let object = item
        .as_object()
        .ok_or("a list with keys holds objects only")?;
    let of = shape.message();
    let mut fields = Vec::with_capacity(keys.len());
    for key in keys {
        let default = || of.and_then(|of| of.field(key)?.default.as_ref());
        if let Some(value) = object.get(&**key).or_else(default) {
            fields.push((key.clone(), value.clone()));
        }
    }
    if fields.is_empty() {
        return Err(format!(
            "associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default values for any key fields)"
        ));
    }
    Ok(Element::key(fields))
}

/// Whether Go's structs always have this field, set or not, so that its being there tells nothing of who set it.
pub(super) fn always_there(field: &Field) -> bool {
    match field.shape {
        Shape::Message(_) | Shape::Object(_) => field.zero == Zero::Shown,
        Shape::List(_) | Shape::Map(_) => field.required,
        Shape::Scalar(_) => false,
    }
}
