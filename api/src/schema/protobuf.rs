//! Protobuf in: request bodies as client-go writes them, decoded to JSON by the table.
//!
//! The wire: proto2; Go writes every field that is no pointer, so most zeros mean "not set"; unknown tags are skipped, since
//! clients may be newer. Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`, generated.proto of each group.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::{Field, Scalar, Shape, Type, Zero, type_named};
use crate::meta::{MicroTime, Time};

/// What stands before the envelope.
const MAGIC: &[u8] = b"k8s\0";
/// As deep as serde_json reads.
const MAX_DEPTH: usize = 100;

/// Bytes that are not the message they should be.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    /// No `k8s\0` at the start.
    #[error("the body is no Kubernetes protobuf: it does not begin with k8s\\0")]
    Magic,
    /// The bytes end within a field.
    #[error("protobuf: unexpected end")]
    Truncated,
    /// A number longer than 64 bits, or a tag of zero.
    #[error("protobuf: malformed number")]
    Number,
    /// A field in an encoding its type does not have.
    #[error("protobuf: field {field} has wire type {wire_type}")]
    WireType {
        /// The field; empty for an unknown one.
        field: &'static str,
        /// The number of the encoding.
        wire_type: u8,
    },
    /// Text that is not UTF-8.
    #[error("protobuf: field {field} is not UTF-8")]
    Utf8 {
        /// The field.
        field: &'static str,
    },
    /// A time beyond the calendar.
    #[error("protobuf: field {field} holds no time")]
    Time {
        /// The field.
        field: &'static str,
        /// Why not.
        source: jiff::Error,
    },
    /// Embedded JSON that is none.
    #[error("protobuf: field {field} holds no JSON")]
    Json {
        /// The field.
        field: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// Messages in messages in messages.
    #[error("protobuf: nested too deeply")]
    Depth,
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// What surrounds a message: `runtime.Unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The message's `apiVersion`; may be empty.
    pub api_version: &'a str,
    /// The message's kind; may be empty.
    pub kind: &'a str,
    /// The message.
    pub raw: &'a [u8],
    /// What `raw` is; empty means protobuf.
    pub content_type: &'a str,
}

/// Takes `k8s\0` and the envelope off a body.
///
/// # Errors
/// When there is no envelope.
pub fn unwrap_envelope(body: &[u8]) -> Result<Envelope<'_>> {
    let mut rest = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let mut envelope = Envelope::default();
    while let Some((tag, wire)) = next_field(&mut rest)? {
        match tag {
            1 => {
                let mut meta = wire.bytes("typeMeta")?;
                while let Some((tag, wire)) = next_field(&mut meta)? {
                    match tag {
                        1 => envelope.api_version = wire.text("apiVersion")?,
                        2 => envelope.kind = wire.text("kind")?,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = wire.bytes("raw")?,
            4 => envelope.content_type = wire.text("contentType")?,
            _ => {}
        }
    }
    Ok(envelope)
}

impl Type {
    /// Decodes a message of this type. `apiVersion` and `kind` are not in it: the envelope has them.
    ///
    /// # Errors
    /// When the bytes are no such message.
    pub fn from_protobuf(&self, raw: &[u8]) -> Result<Value> {
        self.decode(raw, 0).map(Value::Object)
    }

    fn decode(&self, raw: &[u8], depth: usize) -> Result<Map<String, Value>> {
        let mut object = Map::new();
        self.decode_into(&mut object, None, raw, depth)?;
        Ok(object)
    }

    /// `outer` is the tag of the inlined message `raw` is, if it is one.
    fn decode_into(
        &self,
        object: &mut Map<String, Value>,
        outer: Option<u32>,
        mut raw: &[u8],
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(ProtobufError::Depth);
        }
        while let Some((tag, wire)) = next_field(&mut raw)? {
            if let Some(field) = self.tagged(outer, tag) {
                set(object, field, wire, depth)?;
            } else if outer.is_none() && self.inlines(tag) {
                self.decode_into(object, Some(tag), wire.bytes("")?, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Adds one occurrence of a field to the object.
fn set(object: &mut Map<String, Value>, field: &Field, wire: Wire<'_>, depth: usize) -> Result<()> {
    // Fields that have tags are of the table.
    let Cow::Borrowed(name) = field.name else {
        return Ok(());
    };
    match &field.shape {
        Shape::List(items) => {
            let list = object
                .entry(name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                push(list, name, items, wire, depth)?;
            }
        }
        Shape::Map(values) => {
            let (key, value) = decode_entry(name, values, wire.bytes(name)?, depth)?;
            let map = object
                .entry(name)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
        shape @ (Shape::Scalar(_) | Shape::Message(_) | Shape::Object(_)) => {
            let value = decode_value(name, shape, wire, depth)?;
            let shown = |value: &Value| shows_zero(field) || !is_zero(value);
            match value.filter(shown) {
                Some(value) => object.insert(name.to_owned(), value),
                None => object.shift_remove(name),
            };
        }
    }
    Ok(())
}

/// A message that is present shows even when empty (`emptyDir: {}`), unless Go always writes it, set or not (`status: {}`).
/// JSON in JSON is never there unset.
fn shows_zero(field: &Field) -> bool {
    match field.shape {
        Shape::Message(_) => field.zero == Zero::Absent,
        Shape::Scalar(
            Scalar::Json | Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings,
        ) => true,
        _ => field.zero == Zero::Shown,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Numbers may come packed, several to a field.
fn push(
    list: &mut Vec<Value>,
    name: &'static str,
    items: &Shape,
    wire: Wire<'_>,
    depth: usize,
) -> Result<()> {
    match (items, wire) {
        (
            Shape::Scalar(scalar @ (Scalar::Int32 | Scalar::Int64 | Scalar::Bool)),
            Wire::Bytes(mut packed),
        ) => {
            while !packed.is_empty() {
                let item = decode_scalar(name, *scalar, Wire::Varint(varint(&mut packed)?), depth)?;
                list.extend(item);
            }
        }
        (items, wire) => {
            list.push(decode_value(name, items, wire, depth)?.unwrap_or_else(|| zero(items)))
        }
    }
    Ok(())
}

/// An entry of a map: key under tag 1, value under tag 2, either left out when zero.
fn decode_entry(
    name: &'static str,
    values: &Shape,
    mut raw: &[u8],
    depth: usize,
) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    while let Some((tag, wire)) = next_field(&mut raw)? {
        match tag {
            1 => key = wire.text(name)?.to_owned(),
            2 => value = decode_value(name, values, wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| zero(values))))
}

/// What an item or a map's value is when protobuf leaves it out.
pub(super) fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Message(_) | Shape::Object(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Scalar(Scalar::String | Scalar::Bytes) => Value::String(String::new()),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => {
            Value::Number(0.into())
        }
        Shape::Scalar(Scalar::Bool) => Value::Bool(false),
        Shape::Scalar(Scalar::Quantity) => Value::String("0".to_owned()),
        Shape::Scalar(_) => Value::Null,
    }
}

/// A value; none when its message is empty and stands for an absent one.
fn decode_value(
    name: &'static str,
    shape: &Shape,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Option<Value>> {
    match shape {
        Shape::Scalar(scalar) => decode_scalar(name, *scalar, wire, depth),
        Shape::Message(_) | Shape::Object(_) => {
            let message = shape
                .message()
                .map(|of| of.decode(wire.bytes(name)?, depth + 1))
                .transpose()?;
            Ok(message.map(Value::Object))
        }
        // A list as a map's value has a message of its own, `ExtraValue`: the items are under tag 1.
        Shape::List(items) => {
            let mut raw = wire.bytes(name)?;
            let mut list = Vec::new();
            while let Some((tag, wire)) = next_field(&mut raw)? {
                if tag == 1 {
                    push(&mut list, name, items, wire, depth + 1)?;
                }
            }
            Ok(Some(Value::Array(list)))
        }
        Shape::Map(values) => {
            let (key, value) = decode_entry(name, values, wire.bytes(name)?, depth + 1)?;
            Ok(Some(Value::Object([(key, value)].into_iter().collect())))
        }
    }
}

fn decode_scalar(
    name: &'static str,
    scalar: Scalar,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Option<Value>> {
    let value = match scalar {
        Scalar::String => Value::String(wire.text(name)?.to_owned()),
        Scalar::Int32 => Value::Number(wire.int32(name)?.into()),
        Scalar::Int64 => Value::Number(wire.int64(name)?.into()),
        Scalar::Bool => Value::Bool(wire.varint(name)? != 0),
        Scalar::Double => Number::from_f64(wire.double(name)?).map_or(Value::Null, Value::Number),
        Scalar::Bytes => Value::String(STANDARD.encode(wire.bytes(name)?)),
        Scalar::Time | Scalar::MicroTime => return decode_time(name, scalar, wire.bytes(name)?),
        Scalar::Quantity => {
            return decode_first(wire.bytes(name)?, |wire| wire.text(name).map(Value::from));
        }
        Scalar::IntOrString => decode_int_or_string(name, wire.bytes(name)?)?,
        Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => {
            return decode_schema_or(name, scalar, wire.bytes(name)?, depth + 1);
        }
        Scalar::Json => {
            return decode_first(wire.bytes(name)?, |wire| {
                serde_json::from_slice(wire.bytes(name)?).map_err(|source| ProtobufError::Json {
                    field: name,
                    source,
                })
            });
        }
    };
    Ok(Some(value))
}

/// A message of one field under tag 1.
fn decode_first(
    mut raw: &[u8],
    decode: impl Fn(Wire<'_>) -> Result<Value>,
) -> Result<Option<Value>> {
    let mut value = None;
    while let Some((tag, wire)) = next_field(&mut raw)? {
        if tag == 1 && !wire.is_empty() {
            value = Some(decode(wire)?);
        }
    }
    Ok(value)
}

/// Seconds and nanoseconds; Go's zero time is an empty message.
fn decode_time(name: &'static str, scalar: Scalar, mut raw: &[u8]) -> Result<Option<Value>> {
    if raw.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((tag, wire)) = next_field(&mut raw)? {
        match tag {
            1 => seconds = wire.int64(name)?,
            2 => nanos = wire.int32(name)?,
            _ => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|source| ProtobufError::Time {
        field: name,
        source,
    })?;
    let text = if scalar == Scalar::Time {
        Time::from(at).to_string()
    } else {
        MicroTime::from(at).to_string()
    };
    Ok(Some(Value::String(text)))
}

/// Tag 1 says which of tag 2 (a number) and tag 3 (text) counts.
fn decode_int_or_string(name: &'static str, mut raw: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    while let Some((tag, wire)) = next_field(&mut raw)? {
        match tag {
            1 => is_text = wire.varint(name)? != 0,
            2 => number = wire.int32(name)?,
            3 => text = wire.text(name)?,
            _ => {}
        }
    }
    Ok(if is_text {
        Value::from(text)
    } else {
        Value::from(number)
    })
}

/// The unions of CRD schemas: a schema, or else true or false, schemas, or names.
fn decode_schema_or(
    name: &'static str,
    union: Scalar,
    mut raw: &[u8],
    depth: usize,
) -> Result<Option<Value>> {
    let schema = |wire: Wire<'_>| {
        let of = type_named("apiextensions.v1.JSONSchemaProps")
            .expect("the table has the type of CRD schemas");
        Ok::<_, ProtobufError>(Value::Object(of.decode(wire.bytes(name)?, depth)?))
    };
    let (mut one, mut many, mut allows) = (None, Vec::new(), false);
    while let Some((tag, wire)) = next_field(&mut raw)? {
        match (union, tag) {
            (Scalar::SchemaOrBool, 1) => allows = wire.varint(name)? != 0,
            (Scalar::SchemaOrBool, 2) | (_, 1) => one = Some(schema(wire)?),
            (Scalar::SchemaOrStrings, 2) => many.push(wire.text(name)?.into()),
            (_, 2) => many.push(schema(wire)?),
            _ => {}
        }
    }
    let other = if union == Scalar::SchemaOrBool {
        Value::Bool(allows)
    } else {
        Value::Array(many)
    };
    Ok(Some(one.unwrap_or(other)))
}

/// What follows a tag.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Wire<'a> {
    fn mismatch<T>(self, field: &'static str) -> Result<T> {
        let wire_type = match self {
            Wire::Varint(_) => 0,
            Wire::Fixed64(_) => 1,
            Wire::Bytes(_) => 2,
            Wire::Fixed32 => 5,
        };
        Err(ProtobufError::WireType { field, wire_type })
    }

    fn varint(self, field: &'static str) -> Result<u64> {
        if let Wire::Varint(number) = self {
            Ok(number)
        } else {
            self.mismatch(field)
        }
    }

    /// Negative numbers come with 64 bits.
    fn int64(self, field: &'static str) -> Result<i64> {
        self.varint(field).map(u64::cast_signed)
    }

    /// Bits above the 32nd do not count, as protobuf has it.
    fn int32(self, field: &'static str) -> Result<i32> {
        self.varint(field).map(|number| number as i32)
    }

    fn double(self, field: &'static str) -> Result<f64> {
        if let Wire::Fixed64(bits) = self {
            Ok(f64::from_bits(bits))
        } else {
            self.mismatch(field)
        }
    }

    fn bytes(self, field: &'static str) -> Result<&'a [u8]> {
        if let Wire::Bytes(bytes) = self {
            Ok(bytes)
        } else {
            self.mismatch(field)
        }
    }

    fn text(self, field: &'static str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| ProtobufError::Utf8 { field })
    }

    fn is_empty(self) -> bool {
        matches!(self, Wire::Bytes([]))
    }
}

/// The next field: its tag and value; none at the end.
fn next_field<'a>(raw: &mut &'a [u8]) -> Result<Option<(u32, Wire<'a>)>> {
    if raw.is_empty() {
        return Ok(None);
    }
    let key = varint(raw)?;
    let tag = u32::try_from(key >> 3)
        .ok()
        .filter(|tag| *tag != 0)
        .ok_or(ProtobufError::Number)?;
    let wire = match (key & 7) as u8 {
        0 => Wire::Varint(varint(raw)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take_array(raw)?)),
        2 => {
            let length = usize::try_from(varint(raw)?).map_err(|_| ProtobufError::Truncated)?;
            let (bytes, rest) = raw
                .split_at_checked(length)
                .ok_or(ProtobufError::Truncated)?;
            *raw = rest;
            Wire::Bytes(bytes)
        }
        5 => {
            take_array::<4>(raw)?;
            Wire::Fixed32
        }
        wire_type => {
            return Err(ProtobufError::WireType {
                field: "",
                wire_type,
            });
        }
    };
    Ok(Some((tag, wire)))
}

fn take_array<const N: usize>(raw: &mut &[u8]) -> Result<[u8; N]> {
    let (bytes, rest) = raw.split_first_chunk().ok_or(ProtobufError::Truncated)?;
    *raw = rest;
    Ok(*bytes)
}

fn varint(raw: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = raw.split_first().ok_or(ProtobufError::Truncated)?;
        *raw = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(ProtobufError::Number)
}

#[cfg(test)]
mod tests;
