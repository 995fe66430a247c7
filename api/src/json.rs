//! JSON read in one pass with an eye on duplicate keys, which `serde_json::Value` alone would swallow.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// So many bytes of names are enough to say what is wrong. Without an end, a small document of one long key with many
/// duplicates below it would be named in gigabytes.
const NAMED_BYTES: usize = 16 * 1024;

/// Reads a document; the second part names keys that came twice, such as `spec.containers[0].name`: each of them, or the first
/// ones when there are very many. The last one counts.
///
/// # Errors
/// When the bytes are not exactly one JSON document.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut duplicates = Duplicates::default();
    let document = Reader {
        path: Path::Root,
        duplicates: &mut duplicates,
    }
    .deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((document, duplicates.names))
}

/// How long a value is as JSON, in bytes, nearly: escapes are not counted.
#[must_use]
pub fn size_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 5,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => 2 + list.iter().map(|item| size_bytes(item) + 1).sum::<usize>(),
        Value::Object(map) => {
            let fields = map.iter();
            2 + fields
                .map(|(name, field)| name.len() + size_bytes(field) + 4)
                .sum::<usize>()
        }
    }
}

/// Where in a document something stands: a chain on the stack, so that no path is built until one is needed.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The document.
    Root,
    /// A field of a map.
    Field(&'a Path<'a>, &'a str),
    /// An item of a list.
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The keys that came twice, as far as they are named.
#[derive(Default)]
pub(crate) struct Duplicates {
    pub(crate) names: Vec<String>,
    bytes: usize,
}

impl Duplicates {
    pub(crate) fn add(&mut self, path: Path<'_>) {
        if self.bytes < NAMED_BYTES {
            let name = path.to_string();
            self.bytes += name.len();
            self.names.push(name);
        }
    }
}

struct Reader<'a> {
    path: Path<'a>,
    duplicates: &'a mut Duplicates,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let item = Reader {
                path: Path::Item(&self.path, list.len()),
                duplicates: &mut *self.duplicates,
            };
            match items.next_element_seed(item)? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let path = Path::Field(&self.path, &key);
            if map.contains_key(&key) {
                self.duplicates.add(path);
            }
            let value = fields.next_value_seed(Reader {
                path,
                duplicates: &mut *self.duplicates,
            })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicate_keys_are_named_by_path_and_the_last_one_counts() {
        let text =
            br#"{"a":1,"b":{"c":1,"c":2},"l":[{"x":1},{"x":1,"x":2}],"a":{"k":true,"k":null}}"#;
        let (value, duplicates) = parse(text).unwrap();
        assert_eq!(
            value,
            json!({"a": {"k": null}, "b": {"c": 2}, "l": [{"x": 1}, {"x": 2}]})
        );
        assert_eq!(duplicates, ["b.c", "l[1].x", "a", "a.k"]);
    }

    #[test]
    fn naming_duplicates_takes_no_more_room_than_a_reader_can_use() {
        let long = "k".repeat(10_000);
        let text = format!("{{\"{long}\":{{{}\"a\":2}}}}", "\"a\":1,".repeat(10_000));
        let (value, duplicates) = parse(text.as_bytes()).unwrap();
        assert_eq!(value[&long]["a"], 2);
        assert_eq!(
            duplicates.iter().map(String::len).sum::<usize>(),
            2 * 10_002
        );
    }

    #[test]
    fn what_is_not_one_document_is_refused() {
        for text in [
            "",
            "{",
            "{}{}",
            "[1,]",
            "{\"a\":1,}",
            "1e999",
            "nul",
            "\"\u{1}\"",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn documents_read_as_serde_json_reads_them(text in r#"[\[\]{}:,"a0-9. truefalsn-]{0,40}"#) {
            let wanted = serde_json::from_str::<Value>(&text).ok();
            prop_assert_eq!(parse(text.as_bytes()).ok().map(|(value, _)| value), wanted);
        }
    }
}
