//! YAML read as JSON: the core schema of YAML 1.2 (`yes` and `on` are text), one document, aliases expanded, duplicate keys named.
//!
//! The parser hands over one event at a time, so that a document is given up as soon as it nests too deep or its aliases grow
//! too large; a reader that loads all events first spends minutes on 200 kB of `[`, and gigabytes on a few aliases.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use serde_json::{Map, Number, Value};

use crate::json::{self, Duplicates, Path};

/// As deep as serde_json reads, nearly.
const MAX_DEPTH: usize = 100;
/// What aliases and the values they stand for may add to a document, in bytes of JSON.
const MAX_COPIED_BYTES: usize = 1024 * 1024;

/// A text that is not one YAML document, or none that JSON could say.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The bytes are no text.
    #[error("YAML must be UTF-8")]
    Utf8,
    /// The text is no YAML.
    #[error(transparent)]
    Syntax(#[from] ScanError),
    /// Something JSON, or this API, has no word for.
    #[error("{what} at line {line} column {column}")]
    Refused {
        /// What it is, and why not.
        what: &'static str,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
}

type Result<T> = std::result::Result<T, YamlError>;

/// Reads a document; the second part names keys that came twice, as [`json::parse`] does. JSON is YAML too.
///
/// # Errors
/// When the bytes are not exactly one document that JSON can say.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>)> {
    if let Ok(read) = json::parse(bytes) {
        return Ok(read);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| YamlError::Utf8)?;
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event?;
        reader
            .event(event)
            .map_err(|what| refused(what, &span.start))?;
    }
    Ok((reader.document.unwrap_or_default(), reader.duplicates.names))
}

fn refused(what: &'static str, at: &Marker) -> YamlError {
    YamlError::Refused {
        what,
        line: at.line(),
        column: at.col() + 1,
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    document: Option<Value>,
    anchors: BTreeMap<usize, Value>,
    copied_bytes: usize,
    duplicates: Duplicates,
}

/// A list or map whose end has not come, with its anchor (0 is none).
enum Open {
    List(Vec<Value>, usize),
    Map {
        map: Map<String, Value>,
        key: Option<String>,
        anchor: usize,
    },
}

/// The error is what is refused.
type Step = std::result::Result<(), &'static str>;

impl Reader {
    fn event(&mut self, event: Event<'_>) -> Step {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, anchor, tag.as_deref())
            }
            Event::SequenceStart(anchor, tag) => {
                untagged(tag.as_deref())?;
                self.start(Open::List(Vec::new(), anchor))
            }
            Event::MappingStart(anchor, tag) => {
                untagged(tag.as_deref())?;
                self.start(Open::Map {
                    map: Map::new(),
                    key: None,
                    anchor,
                })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(list, anchor)) => self.value(Value::Array(list), anchor),
                Some(Open::Map { map, anchor, .. }) => self.value(Value::Object(map), anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                let value = value.ok_or("an alias of itself is not supported")?;
                self.count(&value)?;
                self.value(value, 0)
            }
            Event::DocumentStart(_) if self.document.is_some() => {
                Err("a second document is not expected")
            }
            Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd => Ok(()),
        }
    }

    fn start(&mut self, open: Open) -> Step {
        if self.wants_key() {
            return Err("a key must be text, not a list or map");
        }
        if self.open.len() >= MAX_DEPTH {
            return Err("lists and maps are nested too deeply");
        }
        self.open.push(open);
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tag: Option<&Tag>) -> Step {
        let value = resolve(text, style, tag)?;
        if !self.wants_key() {
            return self.value(value, anchor);
        }
        if anchor != 0 {
            self.remember(anchor, &value)?;
        }
        self.key(text.to_owned());
        Ok(())
    }

    fn key(&mut self, name: String) {
        if let Some(Open::Map { map, .. }) = self.open.last()
            && map.contains_key(&name)
        {
            named(&self.open, &name, &mut self.duplicates);
        }
        if let Some(Open::Map { key, .. }) = self.open.last_mut() {
            *key = Some(name);
        }
    }

    /// A whole value: into the list or map it stands in, or the document itself.
    fn value(&mut self, value: Value, anchor: usize) -> Step {
        if anchor != 0 {
            self.remember(anchor, &value)?;
        }
        match self.open.last_mut() {
            None => self.document = Some(value),
            Some(Open::List(list, _)) => list.push(value),
            Some(Open::Map { map, key, .. }) => match (key.take(), value) {
                (Some(name), value) => {
                    map.insert(name, value);
                }
                // An alias where a key is due.
                (None, Value::String(name)) => self.key(name),
                (None, _) => return Err("a key must be text, not a list or map"),
            },
        }
        Ok(())
    }

    fn remember(&mut self, anchor: usize, value: &Value) -> Step {
        self.count(value)?;
        self.anchors.insert(anchor, value.clone());
        Ok(())
    }

    fn count(&mut self, copied: &Value) -> Step {
        self.copied_bytes += json::size_bytes(copied);
        if self.copied_bytes > MAX_COPIED_BYTES {
            return Err("aliases make the document too large");
        }
        Ok(())
    }
}

/// Names a duplicate key by its path.
fn named(open: &[Open], name: &str, duplicates: &mut Duplicates) {
    fn walk(open: &[Open], parent: Path<'_>, name: &str, duplicates: &mut Duplicates) {
        match open {
            [] | [_] => duplicates.add(Path::Field(&parent, name)),
            [Open::List(list, _), rest @ ..] => {
                walk(rest, Path::Item(&parent, list.len()), name, duplicates);
            }
            [Open::Map { key, .. }, rest @ ..] => {
                let key = key.as_deref().unwrap_or_default();
                walk(rest, Path::Field(&parent, key), name, duplicates);
            }
        }
    }
    walk(open, Path::Root, name, duplicates);
}

fn untagged(tag: Option<&Tag>) -> Step {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => Err("a tag of its own has no meaning here"),
        _ => Ok(()),
    }
}

/// What a scalar means: quoted ones are text, plain ones what they look like.
fn resolve(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> std::result::Result<Value, &'static str> {
    let tag = match tag {
        None => "",
        Some(tag) if tag.is_yaml_core_schema() => tag.suffix.as_str(),
        // `! text` says that it is text.
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => "str",
        Some(_) => return Err("a tag of its own has no meaning here"),
    };
    let is_text = match tag {
        "" => style != ScalarStyle::Plain,
        "str" | "binary" | "timestamp" => true,
        _ => false,
    };
    if is_text {
        return Ok(Value::String(text.to_owned()));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => match number(text)? {
            Some(number) => Value::Number(number),
            None => Value::String(text.to_owned()),
        },
    })
}

/// A number as YAML 1.2 writes them; none for other text, such as `1.2.3` or `0644`, whose leading zero other readers take for
/// an octal number and others not.
fn number(text: &str) -> std::result::Result<Option<Number>, &'static str> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return Err("JSON has no infinite numbers");
    }
    let radix = match unsigned.get(..2) {
        Some("0x") => 16,
        Some("0o") => 8,
        _ => 10,
    };
    if radix != 10 {
        let read = u64::from_str_radix(&unsigned[2..], radix);
        return Ok(read.ok().filter(|_| unsigned == text).map(Number::from));
    }
    let plain = text.strip_prefix('+').unwrap_or(text);
    let digits = unsigned.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = unsigned.len() > 1 && unsigned.starts_with('0');
    if !starts_as_number(unsigned) || (leading_zero && unsigned.as_bytes()[1].is_ascii_digit()) {
        return Ok(None);
    }
    if digits {
        let whole = plain.parse::<i64>().map(Number::from);
        if let Ok(number) = whole.or_else(|_| plain.parse::<u64>().map(Number::from)) {
            return Ok(Some(number));
        }
    }
    match plain.parse::<f64>() {
        Ok(number) => Number::from_f64(number)
            .map(Some)
            .ok_or("JSON has no infinite numbers"),
        Err(_) => Ok(None),
    }
}

/// A digit, or a point with a digit behind it: Rust reads `inf` and `nan` as numbers too.
fn starts_as_number(text: &str) -> bool {
    let digits = text.strip_prefix('.').unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        parse(text.as_bytes())
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .0
    }

    fn refusal(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn documents_mean_what_their_json_says() {
        let text = "\
apiVersion: v1
kind: ConfigMap # a comment
metadata: {name: a, labels: {\"b\": 'c'}}
spec:
- 1
- [-2, 0x10, 0o17, 1.5, 1e3, +4]
- ~
-
- true
- 'true'
- yes
- !!str 7
- 1.2.3
- 0644
- inf
- |
  two
  lines
- >-
  one
  line
";
        let wanted = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"b": "c"}},
            "spec": [1, [-2, 16, 15, 1.5, 1000.0, 4], null, null, true, "true", "yes", "7", "1.2.3", "0644", "inf",
                     "two\nlines\n", "one line"],
        });
        assert_eq!(read(text), wanted);
        assert_eq!(read(""), Value::Null);
        assert_eq!(read("{\"a\": 1}"), json!({"a": 1}));
        assert_eq!(read("18446744073709551615"), json!(u64::MAX));
    }

    #[test]
    fn aliases_are_expanded_up_to_a_limit() {
        assert_eq!(
            read("a: &x {b: 1}\nc: *x\n? &k d\n: *k\n"),
            json!({"a": {"b": 1}, "c": {"b": 1}, "d": "d"})
        );
        let bomb = format!(
            "x: &x [{}]\ny: [{}]\n",
            "1,".repeat(1000),
            "*x,".repeat(50_000)
        );
        assert!(refusal(&bomb).starts_with("aliases make the document too large at line 2"));
        let mut laughs = "a0: &a0 [lol]\n".to_owned();
        for level in 1..40 {
            let before = level - 1;
            laughs += &format!("a{level}: &a{level} [*a{before}, *a{before}]\n");
        }
        assert!(refusal(&laughs).starts_with("aliases make"));
        assert!(refusal("a: &a [*a]").contains("alias of itself"));
    }

    #[test]
    fn deep_documents_are_given_up_early() {
        for text in [
            "[".repeat(200_000),
            "{a: ".repeat(200_000),
            "- ".repeat(100_000),
            "? ".repeat(100_000),
        ] {
            let refused = refusal(&text);
            // The parser has a limit of its own, for what it reads ahead.
            let wanted = ["nested too deeply", "a key must be text", "recursion limit"];
            assert!(
                wanted.iter().any(|wanted| refused.contains(wanted)),
                "{refused}"
            );
        }
    }

    #[test]
    fn duplicate_keys_are_named_by_path() {
        let text = "a: 1\nb: {c: 1, c: 2}\nl:\n- x: 1\n- x: 1\n  x: 2\na: 3\n";
        let (value, duplicates) = parse(text.as_bytes()).unwrap();
        assert_eq!(value["a"], 3);
        assert_eq!(duplicates, ["b.c", "l[1].x", "a"]);
    }

    #[test]
    fn what_json_cannot_say_is_refused_with_its_place() {
        assert_eq!(
            refusal("a: 1\nb: !mine 2\n"),
            "a tag of its own has no meaning here at line 2 column 4"
        );
        assert!(refusal("a: 1\n---\nb: 2\n").starts_with("a second document"));
        assert!(refusal("a: .inf").starts_with("JSON has no infinite"));
        assert!(refusal("[a]: 1").starts_with("a key must be text"));
        assert!(refusal("a: [1").contains("line"));
        assert_eq!(
            parse(b"a: \xff").unwrap_err().to_string(),
            "YAML must be UTF-8"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn reading_never_panics(text in r#"([\[\]{}:,"'&*!|>%@\-?#~a0. \n\t\\]|: |- |\n  ){0,60}"#) {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn json_reads_the_same_through_the_yaml_reader(number in any::<i64>(), text in "[ -~]{0,20}", float in -1e9..1e9f64) {
            let wanted = json!({"n": number, "t": [text, null, true], "f": {"x": float}});
            // A comment keeps it from being read as JSON.
            prop_assert_eq!(read(&format!("{wanted} # yaml")), wanted);
        }
    }
}
