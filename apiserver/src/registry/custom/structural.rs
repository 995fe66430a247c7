//! Whether a schema is structural: each value has one type, so that pruning, defaulting and merging are well defined.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/schema/{validation,complete}.go and
//! pkg/apis/apiextensions/validation/validation.go; kubernetes.io/docs/tasks/extend-kubernetes/custom-resources.

use serde_json::{Map, Value};

use super::{
    pattern::Pattern,
    schema::{JsonType, Schema},
};
use crate::registry::causes::Causes;

/// Refuses what is not structural in a schema at `place`.
pub(crate) fn check(place: &str, schema: &Value, causes: &mut Causes) {
    let Some(root) = schema.as_object() else {
        return causes.required(place, "schemas are required");
    };
    if root
        .get("type")
        .and_then(Value::as_str)
        .is_some_and(|of| of != "object")
    {
        causes.invalid(
            format!("{place}.type"),
            root["type"].clone(),
            "must be object at the root",
        );
    }
    if is_true(root, "nullable") {
        causes.forbidden(
            format!("{place}.nullable"),
            "nullable cannot be true at the root",
        );
    }
    if root.contains_key("additionalProperties") {
        causes.forbidden(
            format!("{place}.additionalProperties"),
            "must not be used at the root",
        );
    }
    node(place, root, Level::Root, causes);
    if causes.0.is_empty() {
        defaults(place, schema, causes);
    }
}

/// Where a schema stands.
#[derive(Clone, Copy)]
enum Level {
    Root,
    Field,
    Item,
}

/// What structural schemas do not have, and why.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("id", "id is not supported"),
    ("deprecated", "deprecated is not supported"),
    ("discriminator", "discriminator is not supported"),
];

fn is_true(schema: &Map<String, Value>, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool) == Some(true)
}

fn node(place: &str, schema: &Map<String, Value>, level: Level, causes: &mut Causes) {
    for (name, why) in UNSUPPORTED {
        if schema.contains_key(name) {
            causes.forbidden(format!("{place}.{name}"), why);
        }
    }
    if is_true(schema, "uniqueItems") {
        causes.forbidden(
            format!("{place}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    type_of(place, schema, level, causes);
    value_rules(place, schema, causes);
    extensions(place, schema, causes);
    children(place, schema, causes);
    for combination in ["allOf", "anyOf", "oneOf"] {
        let list = schema.get(combination).and_then(Value::as_array);
        for (index, one) in list.into_iter().flatten().enumerate() {
            nested(
                &format!("{place}.{combination}[{index}]"),
                one,
                Some(schema),
                combination,
                causes,
            );
        }
    }
    if let Some(not) = schema.get("not") {
        nested(&format!("{place}.not"), not, Some(schema), "not", causes);
    }
}

fn type_of(place: &str, schema: &Map<String, Value>, level: Level, causes: &mut Causes) {
    let of = schema
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let place = format!("{place}.type");
    if is_true(schema, "x-kubernetes-int-or-string") {
        if !of.is_empty() {
            causes.invalid(
                place,
                of,
                "must be empty if x-kubernetes-int-or-string is true",
            );
        }
        return;
    }
    if of.is_empty() {
        // Where anything may stand no type is wanted.
        if is_true(schema, "x-kubernetes-preserve-unknown-fields") && !matches!(level, Level::Root)
        {
            return;
        }
        causes.required(
            place,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Field => "must not be empty for specified object fields",
                Level::Item => "must not be empty for specified array items",
            },
        );
    } else if JsonType::named(of).is_none() {
        let known = ["array", "boolean", "integer", "number", "object", "string"];
        causes.not_supported(place, of, &known);
    }
}

fn value_rules(place: &str, schema: &Map<String, Value>, causes: &mut Causes) {
    if let Some(text) = schema.get("pattern").and_then(Value::as_str)
        && let Err(error) = text.parse::<Pattern>()
    {
        let why = error
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        causes.invalid(
            format!("{place}.pattern"),
            text,
            &format!("must be a valid regular expression, but isn't: {why}"),
        );
    }
}

fn extensions(place: &str, schema: &Map<String, Value>, causes: &mut Causes) {
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let of = text("type").unwrap_or_default();
    let keys_place = format!("{place}.x-kubernetes-list-map-keys");
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .map(|keys| keys.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    match text("x-kubernetes-list-type") {
        Some(kind) => {
            if of != "array" {
                let detail = "must be array if x-kubernetes-list-type is specified";
                causes.invalid(format!("{place}.type"), of, detail);
            }
            match kind {
                "map" => list_map(place, schema, &keys, causes),
                "set" | "atomic" => {}
                kind => causes.not_supported(
                    format!("{place}.x-kubernetes-list-type"),
                    kind,
                    &["atomic", "map", "set"],
                ),
            }
        }
        None if !keys.is_empty() => {
            causes.required(
                format!("{place}.x-kubernetes-list-type"),
                "must be map if x-kubernetes-list-map-keys is non-empty",
            );
        }
        None => {}
    }
    if text("x-kubernetes-list-type") != Some("map") && !keys.is_empty() {
        causes.forbidden(
            keys_place,
            "may only be specified if x-kubernetes-list-type is map",
        );
    }
    if let Some(kind) = text("x-kubernetes-map-type")
        && !matches!(kind, "atomic" | "granular")
    {
        causes.not_supported(
            format!("{place}.x-kubernetes-map-type"),
            kind,
            &["atomic", "granular"],
        );
    }
    if is_true(schema, "x-kubernetes-embedded-resource") {
        if of != "object" {
            causes.invalid(
                format!("{place}.type"),
                of,
                "must be object if x-kubernetes-embedded-resource is true",
            );
        }
        if !is_true(schema, "x-kubernetes-preserve-unknown-fields")
            && !schema.contains_key("properties")
        {
            causes.required(format!("{place}.properties"), "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields");
        }
    }
    if schema
        .get("x-kubernetes-preserve-unknown-fields")
        .and_then(Value::as_bool)
        == Some(false)
    {
        causes.invalid(
            format!("{place}.x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        );
    }
}

/// Each key of a list with keys is a field that every item has.
fn list_map(place: &str, schema: &Map<String, Value>, keys: &[&str], causes: &mut Causes) {
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        return causes.required(format!("{place}.x-kubernetes-list-map-keys"), detail);
    }
    let Some(items) = schema.get("items").filter(|items| items.is_object()) else {
        return causes.required(
            format!("{place}.items"),
            "must have a schema if x-kubernetes-list-type is map",
        );
    };
    if items["type"].as_str().is_some_and(|of| of != "object") {
        causes.invalid(
            format!("{place}.items.type"),
            items["type"].clone(),
            "must be object if parent array's x-kubernetes-list-type is map",
        );
    }
    let required: Vec<&Value> = items["required"].as_array().into_iter().flatten().collect();
    for key in keys {
        let Some(property) = items["properties"].get(key) else {
            causes.invalid(
                format!("{place}.x-kubernetes-list-map-keys"),
                keys.join(","),
                "entries must all be names of item properties",
            );
            continue;
        };
        if property.get("default").is_none() && !required.iter().any(|name| *name == key) {
            causes.required(format!("{place}.items.properties[{key}].default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property");
        }
    }
}

fn children(place: &str, schema: &Map<String, Value>, causes: &mut Causes) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let place = format!("{place}.properties[{name}]");
        match property.as_object() {
            Some(property) => node(&place, property, Level::Field, causes),
            None => causes.type_invalid(place, "a schema is an object"),
        }
    }
    if let Some(additional) = schema.get("additionalProperties") {
        let place = format!("{place}.additionalProperties");
        if properties.is_some_and(|properties| !properties.is_empty()) {
            causes.forbidden(
                place.clone(),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        match additional {
            Value::Object(values) => node(&place, values, Level::Field, causes),
            Value::Bool(false) => {
                causes.forbidden(place, "additionalProperties cannot be set to false")
            }
            _ => {}
        }
    }
    let of = schema.get("type").and_then(Value::as_str);
    match schema.get("items") {
        Some(Value::Object(items)) => node(&format!("{place}.items"), items, Level::Item, causes),
        Some(_) => causes.forbidden(
            format!("{place}.items"),
            "items must be a schema object and not an array",
        ),
        None if of == Some("array") => {
            causes.required(format!("{place}.items"), "must be specified")
        }
        None => {}
    }
}

/// Schemas in combinations say only what a value must keep to; what it is stands outside.
fn nested(
    place: &str,
    schema: &Value,
    outside: Option<&Map<String, Value>>,
    combination: &str,
    causes: &mut Causes,
) {
    let Some(schema) = schema.as_object() else {
        return causes.type_invalid(place, "a schema is an object");
    };
    let int_or_string =
        outside.is_some_and(|outside| is_true(outside, "x-kubernetes-int-or-string"));
    for name in [
        "description",
        "title",
        "default",
        "type",
        "additionalProperties",
        "nullable",
    ] {
        let allowed = name == "type" && int_or_string && combination != "not";
        if schema.contains_key(name) && !allowed {
            causes.forbidden(format!("{place}.{name}"), "must be empty to be structural");
        }
    }
    for name in schema
        .keys()
        .filter(|name| name.starts_with("x-kubernetes-") && *name != "x-kubernetes-validations")
    {
        causes.forbidden(format!("{place}.{name}"), "must be empty to be structural");
    }
    value_rules(place, schema, causes);
    let outer = |name: &str| outside.and_then(|outside| outside.get(name));
    for (name, property) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let place = format!("{place}.properties[{name}]");
        let beyond = outer("properties")
            .and_then(|properties| properties.get(name))
            .and_then(Value::as_object);
        if beyond.is_none() {
            causes.required(
                place.replacen(&format!(".{combination}"), "", 1),
                &format!("because it is defined in {place}"),
            );
        }
        nested(&place, property, beyond, combination, causes);
    }
    if let Some(items) = schema.get("items") {
        let beyond = outer("items").and_then(Value::as_object);
        nested(
            &format!("{place}.items"),
            items,
            beyond,
            combination,
            causes,
        );
    }
    for inner in ["allOf", "anyOf", "oneOf"] {
        for (index, one) in schema
            .get(inner)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            nested(
                &format!("{place}.{inner}[{index}]"),
                one,
                outside,
                combination,
                causes,
            );
        }
    }
    if let Some(not) = schema.get("not") {
        nested(&format!("{place}.not"), not, outside, combination, causes);
    }
}

/// A default keeps to the schema it is the default of.
fn defaults(place: &str, schema: &Value, causes: &mut Causes) {
    if let Some(default) = schema.get("default") {
        let of = Schema::read(schema);
        let mut pruned = default.clone();
        let unknown = of.prune(&mut pruned);
        let place = format!("{place}.default");
        if !unknown.is_empty() {
            causes.invalid(place, default.clone(), "must not have unknown fields");
        } else if !of.accepts(default) {
            causes.invalid(
                place,
                default.clone(),
                "must be valid by the schema it stands in",
            );
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        defaults(&format!("{place}.properties[{name}]"), property, causes);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            defaults(&format!("{place}.{name}"), &schema[name], causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(schema: &Value) -> Vec<String> {
        let mut causes = Causes::default();
        check("s", schema, &mut causes);
        let line = |cause: &crate::registry::Cause| format!("{}: {}", cause.field, cause.message);
        causes.0.iter().map(line).collect()
    }

    #[test]
    fn schemas_that_are_not_structural_are_refused_in_the_words_of_upstream() {
        let x = |x: Value| json!({"type": "object", "properties": {"x": x}});
        let cases = [
            (
                json!({}),
                vec!["s.type: Required value: must not be empty at the root"],
            ),
            (
                json!({"type": "string"}),
                vec!["s.type: Invalid value: \"string\": must be object at the root"],
            ),
            (
                x(json!({})),
                vec![
                    "s.properties[x].type: Required value: must not be empty for specified object fields",
                ],
            ),
            (
                x(json!({"type": "array"})),
                vec!["s.properties[x].items: Required value: must be specified"],
            ),
            (
                x(json!({"type": "array", "items": {}})),
                vec![
                    "s.properties[x].items.type: Required value: must not be empty for specified array items",
                ],
            ),
            (
                x(json!({"type": "array", "items": [{"type": "string"}]})),
                vec![
                    "s.properties[x].items: Forbidden: items must be a schema object and not an array",
                ],
            ),
            (
                x(json!({"type": "text"})),
                vec![
                    "s.properties[x].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
                ],
            ),
            (
                x(json!({"$ref": "#/x", "type": "object"})),
                vec!["s.properties[x].$ref: Forbidden: $ref is not supported"],
            ),
            (
                x(json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}})),
                vec![
                    "s.properties[x].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
                ],
            ),
            (
                x(
                    json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
                ),
                vec![
                    "s.properties[x].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
                ],
            ),
            (
                x(json!({"type": "string", "anyOf": [{"type": "string"}]})),
                vec!["s.properties[x].anyOf[0].type: Forbidden: must be empty to be structural"],
            ),
            (
                x(json!({"type": "object", "oneOf": [{"properties": {"a": {"pattern": "x"}}}]})),
                vec![
                    "s.properties[x][0].properties[a]: Required value: because it is defined in s.properties[x].oneOf[0].properties[a]",
                ],
            ),
            (
                x(json!({"x-kubernetes-int-or-string": true, "type": "string"})),
                vec![
                    "s.properties[x].type: Invalid value: \"string\": must be empty if x-kubernetes-int-or-string is true",
                ],
            ),
            (
                x(
                    json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]}),
                ),
                vec![
                    "s.properties[x].items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                ],
            ),
            (
                x(json!({"type": "string", "pattern": "("})),
                vec![
                    "s.properties[x].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error: unclosed group",
                ],
            ),
            (
                x(json!({"type": "integer", "default": "a"})),
                vec![
                    "s.properties[x].default: Invalid value: \"a\": must be valid by the schema it stands in",
                ],
            ),
        ];
        for (schema, wanted) in cases {
            assert_eq!(said(&schema), wanted, "{schema}");
        }
        let fine = json!({"type": "object", "properties": {
            "a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "b": {"x-kubernetes-preserve-unknown-fields": true},
            "c": {"type": "object", "additionalProperties": {"type": "string"}, "default": {"k": "v"}},
            "d": {"type": "object", "properties": {"e": {"type": "string"}}, "oneOf": [{"required": ["e"]}, {"properties": {"e": {"pattern": "x"}}}]},
        }});
        assert_eq!(said(&fine), Vec::<String>::new());
    }
}
