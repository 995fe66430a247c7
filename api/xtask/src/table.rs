//! The join, and the lines of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::openapi::{Schemas, short_name};
use crate::protobuf::{Field, Messages, key};

type Schema = Map<String, Value>;

const HEAD: &str = "\
# Made by `cargo run -p api-xtask` from the OpenAPI v3 documents of Kubernetes 1.36 and the protobuf tags of
# k8s-pb 0.9.0. Do not edit; api/src/schema/table.rs reads it. A type is `:name` and its attributes, then its fields:
#   name shape tag attributes
# shape: a scalar, `@type`, `[shape` for a list, `{shape` for a map with string keys
# tag:   of protobuf; `a.b` when JSON inlines message a; `-` when there is none
# attributes: r required | z zero is written | p pointer in Go, zero is a value | d=default
#   l=list type | k=its keys | s=patch strategy | m=patch merge key | a atomic map | g=group/version/kind of a type
";

/// Schemas that are values with a spelling of their own; the rest of the name is the shape.
const SCALARS: [(&str, &str); 12] = [
    ("meta.v1.Time", "time"),
    ("meta.v1.MicroTime", "microtime"),
    ("meta.v1.FieldsV1", "json"),
    ("api.resource.Quantity", "quantity"),
    ("util.intstr.IntOrString", "intorstring"),
    ("pkg.runtime.RawExtension", "json"),
    ("apiextensions.v1.JSON", "json"),
    ("apiextensions.v1.JSONSchemaPropsOrArray", "schemaorarray"),
    ("apiextensions.v1.JSONSchemaPropsOrBool", "schemaorbool"),
    (
        "apiextensions.v1.JSONSchemaPropsOrStringArray",
        "schemaorstrings",
    ),
    // Bodies of any shape; no type has them as a field.
    ("meta.v1.Patch", "json"),
    ("meta.v1.WatchEvent", "json"),
];

/// The whole table.
pub(crate) fn write(schemas: &Schemas, messages: &Messages) -> Result<String> {
    let pointers = pointers();
    let mut text = HEAD.to_owned();
    for (name, schema) in schemas.iter().filter(|(name, _)| scalar(name).is_none()) {
        write_type(&mut text, name, schema, messages, &pointers).with_context(|| name.clone())?;
    }
    Ok(text)
}

fn scalar(name: &str) -> Option<&'static str> {
    SCALARS
        .iter()
        .find(|(scalar, _)| *scalar == name)
        .map(|(_, shape)| *shape)
}

/// Type name, with or without its group, to its pointer fields.
fn pointers() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let lines = include_str!("pointers.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let entry = |line: &'static str| {
        let mut words = line.split(' ');
        (words.next().unwrap_or_default(), words.collect())
    };
    lines.map(entry).collect()
}

fn write_type(
    text: &mut String,
    name: &str,
    schema: &Schema,
    messages: &Messages,
    pointers: &BTreeMap<&str, BTreeSet<&str>>,
) -> Result<()> {
    write!(text, ":{name}")?;
    if schema
        .get("x-kubernetes-map-type")
        .is_some_and(|kind| kind == "atomic")
    {
        text.push_str(" a");
    }
    for gvk in schema
        .get("x-kubernetes-group-version-kind")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let part = |part| gvk[part].as_str().unwrap_or_default();
        write!(
            text,
            " g={}/{}/{}",
            part("group"),
            part("version"),
            part("kind")
        )?;
    }
    text.push('\n');
    let required: BTreeSet<&str> = strings(schema.get("required")).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    let names: Vec<&str> = properties
        .into_iter()
        .flat_map(|map| map.keys().map(String::as_str))
        .collect();
    let tags = tags(name, &names, messages);
    let bare = name.rsplit('.').next().unwrap_or(name);
    let pointers = pointers.get(name).or_else(|| pointers.get(bare));
    for (field, property) in properties.into_iter().flatten() {
        let property = property.as_object().context("a property is no object")?;
        let tag = tags.get(field.as_str()).map_or("-", String::as_str);
        write!(
            text,
            "{field} {} {tag}",
            shape(property).with_context(|| field.clone())?
        )?;
        if required.contains(field.as_str()) {
            text.push_str(" r");
        }
        if pointers.is_some_and(|pointers| pointers.contains(field.as_str())) {
            text.push_str(" p");
        }
        write_attributes(text, property)?;
        text.push('\n');
    }
    Ok(())
}

fn write_attributes(text: &mut String, property: &Schema) -> Result<()> {
    match property.get("default") {
        None => {}
        Some(zero) if is_zero(zero) => text.push_str(" z"),
        Some(default) => write!(text, " d={default}")?,
    }
    if let Some(kind) = property
        .get("x-kubernetes-list-type")
        .and_then(Value::as_str)
        .filter(|kind| *kind != "atomic")
    {
        write!(text, " l={kind}")?;
    }
    let keys: Vec<_> = strings(property.get("x-kubernetes-list-map-keys")).collect();
    if !keys.is_empty() {
        write!(text, " k={}", keys.join(","))?;
    }
    if let Some(strategy) = property
        .get("x-kubernetes-patch-strategy")
        .and_then(Value::as_str)
    {
        write!(text, " s={strategy}")?;
    }
    if let Some(merge_key) = property
        .get("x-kubernetes-patch-merge-key")
        .and_then(Value::as_str)
    {
        write!(text, " m={merge_key}")?;
    }
    if property
        .get("x-kubernetes-map-type")
        .is_some_and(|kind| kind == "atomic")
    {
        text.push_str(" a");
    }
    Ok(())
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
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

fn shape(schema: &Schema) -> Result<String> {
    let reference = schema
        .get("allOf")
        .and_then(|all| all.get(0))
        .and_then(|one| one.get("$ref"))
        .or(schema.get("$ref"));
    if let Some(reference) = reference.and_then(Value::as_str) {
        let name = short_name(reference.rsplit('/').next().unwrap_or(reference));
        return Ok(scalar(name).map_or_else(|| format!("@{name}"), str::to_owned));
    }
    let inner = |of: &str| {
        schema
            .get(of)
            .and_then(Value::as_object)
            .with_context(|| format!("no {of}"))
            .and_then(shape)
    };
    let text = |of: &str| schema.get(of).and_then(Value::as_str).unwrap_or_default();
    Ok(match (text("type"), text("format")) {
        ("string", "") => "string".to_owned(),
        ("string", "byte") => "bytes".to_owned(),
        ("boolean", _) => "bool".to_owned(),
        ("integer", "int32") => "int32".to_owned(),
        ("integer", "int64") => "int64".to_owned(),
        ("number", "double") => "double".to_owned(),
        ("array", _) => format!("[{}", inner("items")?),
        ("object", _) if schema.contains_key("additionalProperties") => {
            format!("{{{}", inner("additionalProperties")?)
        }
        (kind, format) => bail!("a schema of type {kind:?}, format {format:?}"),
    })
}

/// The tag of each JSON field that has one. A message whose own name is no JSON field, but whose fields are, is inlined.
fn tags<'a>(type_name: &str, names: &[&'a str], messages: &Messages) -> BTreeMap<&'a str, String> {
    let Some(fields) = messages.get(&key(type_name)) else {
        return BTreeMap::new();
    };
    let by_key: BTreeMap<String, &str> = names.iter().map(|name| (key(name), *name)).collect();
    let module = &type_name[..type_name.rfind('.').unwrap_or(0)];
    let mut tags = BTreeMap::new();
    for field in fields {
        if let Some(name) = by_key.get(&field.name) {
            tags.insert(*name, field.tag.to_string());
        } else if field.kind == "message" {
            for inner in inlined(module, field, messages) {
                if let Some(name) = by_key.get(&inner.name) {
                    tags.entry(*name)
                        .or_insert_with(|| format!("{}.{}", field.tag, inner.tag));
                }
            }
        }
    }
    tags
}

/// A field that is newer or older than the OpenAPI documents may be of another module's type: then nothing is inlined.
fn inlined<'a>(module: &str, field: &Field, messages: &'a Messages) -> &'a [Field] {
    messages
        .get(&format!("{module}.{}", field.type_name))
        .map_or(&[], Vec::as_slice)
}
