//! One step of a path to a field.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// One step of a path: a field's name, an item of a list by its keys or its value, or an item by its position.
#[derive(Clone, Debug)]
pub enum Element {
    /// A field of an object, or a key of a map. Names from the schema table are borrowed from it.
    Field(Cow<'static, str>),
    /// The item of a list that has these values in its key fields, sorted by their names.
    Key(Box<[(Cow<'static, str>, Value)]>),
    /// The item of a set.
    Value(Value),
    /// The item at a position.
    Index(i64),
}

impl From<&'static str> for Element {
    fn from(name: &'static str) -> Self {
        Self::Field(Cow::Borrowed(name))
    }
}

impl Element {
    /// The step to the item with these keys.
    pub(super) fn key(mut fields: Vec<(Cow<'static, str>, Value)>) -> Self {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Key(fields.into())
    }

    /// Reads a step as fieldsV1 spells it; `None` for kinds of steps that are not known.
    ///
    /// # Errors
    /// When it has no kind, or its JSON is broken.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, serde_json::Error> {
        let bad = |what: &str| <serde_json::Error as serde::de::Error>::custom(what);
        let (kind, rest) = text
            .split_at_checked(2)
            .ok_or_else(|| bad("a path element begins with its kind and a colon"))?;
        Ok(Some(match kind {
            "f:" => Self::Field(Cow::Owned(rest.to_owned())),
            "v:" => Self::Value(serde_json::from_str(rest)?),
            "k:" => {
                let fields: serde_json::Map<String, Value> = serde_json::from_str(rest)?;
                Self::key(
                    fields
                        .into_iter()
                        .map(|(name, value)| (Cow::Owned(name), value))
                        .collect(),
                )
            }
            "i:" => Self::Index(
                rest.parse()
                    .map_err(|_| bad("an index is a whole number"))?,
            ),
            kind if kind.ends_with(':') => return Ok(None),
            _ => return Err(bad("a path element begins with its kind and a colon")),
        }))
    }

    /// Appends the step as fieldsV1 spells it: a JSON string.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Field(name) => {
                out.extend_from_slice(b"\"f:");
                write_escaped(name, out);
                out.push(b'"');
            }
            Self::Key(fields) => {
                let mut text = String::from("k:{");
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    text.push_str(&Value::from(name.as_ref()).to_string());
                    text.push(':');
                    text.push_str(&value.to_string());
                }
                text.push('}');
                write_string(&text, out);
            }
            Self::Value(value) => write_string(&format!("v:{value}"), out),
            Self::Index(index) => write_string(&format!("i:{index}"), out),
        }
    }
}

/// Appends a JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

/// Appends what stands between the quotes of a JSON string.
fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        let quoted = Value::from(text).to_string();
        out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => compare_keys(a, b),
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

fn compare_keys(a: &[(Cow<'_, str>, Value)], b: &[(Cow<'_, str>, Value)]) -> Ordering {
    for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b) {
        let order = a_name
            .cmp(b_name)
            .then_with(|| compare_values(a_value, b_value));
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// Numbers, then strings, then booleans, then the rest, as upstream orders them.
fn compare_values(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a
                .as_f64()
                .unwrap_or_default()
                .total_cmp(&b.as_f64().unwrap_or_default()),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => rank(a)
            .cmp(&rank(b))
            .then_with(|| a.to_string().cmp(&b.to_string())),
    }
}

impl fmt::Display for Element {
    /// As conflicts name it: `.spec`, `[name="c"]`, `[="x"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}
