//! Reads `table.txt`. The file is ours and checked in, so what is wrong with it is a bug, found by the first test.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{Field, ListType, Scalar, Shape, Strategy, Tag, Type, TypeId, Zero};

pub(super) struct Table {
    /// Sorted by name.
    pub(super) types: Vec<Type>,
    /// Positions in `types` of the kinds, by group, version and kind.
    pub(super) kinds: HashMap<(&'static str, &'static str, &'static str), usize>,
}

pub(super) fn read(text: &'static str) -> Table {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &'static str| {
        line.strip_prefix(':')
            .and_then(|rest| rest.split(' ').next())
    };
    let names: Vec<&str> = lines().filter_map(name).collect();
    debug_assert!(names.is_sorted(), "the generator sorts the types");
    let mut types: Vec<Type> = Vec::with_capacity(names.len());
    for line in lines() {
        match (line.strip_prefix(':'), types.last_mut()) {
            (Some(head), _) => types.push(read_type(head)),
            (None, Some(of)) => of.fields.push(read_field(line, &names)),
            (None, None) => unreachable!("table.txt begins with a type"),
        }
    }
    for one in &mut types {
        one.fields.sort_by(|a, b| a.name.cmp(&b.name));
        one.by_tag = (0..one.fields.len()).collect();
        one.by_tag.sort_by_key(|at| one.fields[*at].tag);
    }
    let kinds = types
        .iter()
        .enumerate()
        .flat_map(|(at, one)| one.kinds.iter().map(move |kind| (*kind, at)))
        .collect();
    Table { types, kinds }
}

fn read_type(head: &'static str) -> Type {
    let mut words = head.split(' ');
    let name = words.next().unwrap_or_default();
    let mut result = Type {
        name,
        kinds: Vec::new(),
        atomic: false,
        fields: Vec::new(),
        rest: None,
        by_tag: Vec::new(),
    };
    for word in words {
        let mut parts = word.trim_start_matches("g=").splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(group), Some(version), Some(kind)) => result.kinds.push((group, version, kind)),
            _ => result.atomic = word == "a",
        }
    }
    result
}

fn read_field(line: &'static str, names: &[&str]) -> Field {
    // A default may hold spaces, but is last among what may be.
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (name, shape, tag) = (next(), next(), next());
    let mut field = Field::new(name, read_shape(shape, names));
    field.tag = read_tag(tag);
    for word in words {
        read_attribute(&mut field, word);
    }
    field
}

fn read_attribute(field: &mut Field, word: &'static str) {
    match word.split_once('=').unwrap_or((word, "")) {
        ("r", _) => field.required = true,
        ("a", _) => field.atomic = true,
        ("p" | "z", _) => field.zero = Zero::Shown,
        ("d", default) => field.default = serde_json::from_str(default).ok(),
        ("l", "set") => field.list_type = ListType::Set,
        ("k", keys) => {
            field.list_type = ListType::Map(keys.split(',').map(Cow::Borrowed).collect())
        }
        ("m", key) => field.merge.key = Some(key),
        ("s", strategies) => {
            for strategy in strategies.split(',') {
                match strategy {
                    "merge" => field.merge.strategy = Strategy::Merge,
                    "replace" => field.merge.strategy = Strategy::Replace,
                    "retainKeys" => field.merge.retain_keys = true,
                    _ => unreachable!("table.txt: patch strategy {strategy}"),
                }
            }
        }
        ("l", "map") => {}
        _ => unreachable!("table.txt: attribute {word}"),
    }
}

fn read_tag(text: &str) -> Tag {
    let number = |text: &str| {
        text.parse()
            .unwrap_or_else(|_| unreachable!("table.txt: tag {text}"))
    };
    match text.split_once('.') {
        _ if text == "-" => Tag::None,
        Some((outer, inner)) => Tag::Inlined(number(outer), number(inner)),
        None => Tag::Direct(number(text)),
    }
}

fn read_shape(text: &str, names: &[&str]) -> Shape {
    if let Some(items) = text.strip_prefix('[') {
        return Shape::List(Box::new(read_shape(items, names)));
    }
    if let Some(values) = text.strip_prefix('{') {
        return Shape::Map(Box::new(read_shape(values, names)));
    }
    if let Some(name) = text.strip_prefix('@') {
        let id = names
            .binary_search(&name)
            .unwrap_or_else(|_| unreachable!("table.txt: type {name}"));
        return Shape::Message(TypeId(id));
    }
    Shape::Scalar(match text {
        "string" => Scalar::String,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "bool" => Scalar::Bool,
        "double" => Scalar::Double,
        "bytes" => Scalar::Bytes,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "quantity" => Scalar::Quantity,
        "intorstring" => Scalar::IntOrString,
        "json" => Scalar::Json,
        "schemaorarray" => Scalar::SchemaOrArray,
        "schemaorbool" => Scalar::SchemaOrBool,
        "schemaorstrings" => Scalar::SchemaOrStrings,
        _ => unreachable!("table.txt: shape {text}"),
    })
}

#[cfg(test)]
mod tests {
    use crate::schema::{ListType, Scalar, Shape, Strategy, Tag, lookup, type_named, types};

    #[test]
    fn the_table_reads_and_knows_the_kinds() {
        assert!(types().len() > 400);
        for (group, version, kind) in [
            ("", "v1", "Service"),
            ("apps", "v1", "Deployment"),
            ("discovery.k8s.io", "v1", "EndpointSlice"),
        ] {
            assert!(lookup(group, version, kind).is_some(), "{kind}");
        }
        assert_eq!(
            lookup("apps", "v1", "DeleteOptions").unwrap().name,
            "meta.v1.DeleteOptions"
        );
        assert!(lookup("", "v1", "Nothing").is_none());
    }

    #[test]
    fn fields_carry_their_metadata() {
        let spec = type_named("core.v1.ServiceSpec").unwrap();
        let ports = spec.field("ports").unwrap();
        assert_eq!(ports.tag, Tag::Direct(1));
        assert_eq!(
            ports.list_type,
            ListType::Map(vec!["port".into(), "protocol".into()])
        );
        assert_eq!(
            (ports.merge.strategy, ports.merge.key),
            (Strategy::Merge, Some("port"))
        );
        assert!(spec.field("selector").unwrap().atomic);
        let port = type_named("core.v1.ServicePort").unwrap();
        assert_eq!(port.field("protocol").unwrap().default, Some("TCP".into()));
        assert!(port.field("port").unwrap().required);
        assert_eq!(
            port.field("targetPort").unwrap().shape,
            Shape::Scalar(Scalar::IntOrString)
        );
        let pod = type_named("core.v1.PodSpec").unwrap();
        assert!(pod.field("volumes").unwrap().merge.retain_keys);
        assert_eq!(
            type_named("core.v1.Volume")
                .unwrap()
                .field("emptyDir")
                .unwrap()
                .tag,
            Tag::Inlined(2, 2)
        );
        assert!(type_named("core.v1.ObjectReference").unwrap().atomic);
    }
}
