//! A value of a custom resource against its schema, in the words of upstream.
//! Source: kubernetes/kubernetes vendor k8s.io/kube-openapi/pkg/validation/{validate,errors};
//! staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/{validation,schema/listtype}.

use std::collections::{HashMap, HashSet};

use api::json::Path;
use serde_json::{Map, Value};

use super::{
    format,
    schema::{Additional, JsonType, ListKind, Schema},
};
use crate::registry::causes::Causes;

/// Deeper values are refused before: this bounds what a schema that is wider than deep can make of one.
const MAX_CAUSES: usize = 200;

impl Schema {
    /// Refuses what of an object breaks the schema. What is as it was in `old` is not looked at again: a schema may have become
    /// stricter since, and objects must stay changeable all the same.
    pub(crate) fn validate(&self, new: &Value, old: Option<&Value>, causes: &mut Causes) {
        Checker { causes }.value(self, new, old, Path::Root);
    }

    /// Whether a value keeps to the schema.
    pub(super) fn accepts(&self, value: &Value) -> bool {
        let mut causes = Causes::default();
        Checker {
            causes: &mut causes,
        }
        .value(self, value, None, Path::Root);
        causes.0.is_empty()
    }
}

struct Checker<'c> {
    causes: &'c mut Causes,
}

impl Checker<'_> {
    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: Path<'_>) {
        if old == Some(value) || self.causes.0.len() > MAX_CAUSES {
            return;
        }
        if value.is_null() && schema.nullable {
            return;
        }
        if !self.fits_type(schema, value, path) {
            return;
        }
        self.allowed(schema, value, path);
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Array(list) => self.list(schema, list, old, path),
            Value::Object(object) => self.object(schema, object, old, path),
            Value::Null | Value::Bool(_) => {}
        }
        self.combinations(schema, value, path);
    }

    fn fits_type(&mut self, schema: &Schema, value: &Value, path: Path<'_>) -> bool {
        let wanted = if schema.int_or_string {
            let fits = JsonType::Integer.fits(value) || value.is_string();
            (!fits).then_some("integer,string")
        } else {
            let of = schema.of.filter(|of| !of.fits(value));
            of.map(JsonType::name)
        };
        if let Some(wanted) = wanted {
            let got = match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(number) if number.is_f64() => "number",
                Value::Number(_) => "integer",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            let detail = format!("{path} in body must be of type {wanted}: \"{got}\"");
            self.causes
                .type_invalid(path.to_string(), &format!("\"{got}\": {detail}"));
        }
        wanted.is_none()
    }

    fn allowed(&mut self, schema: &Schema, value: &Value, path: Path<'_>) {
        let allowed = &schema.rules.allowed;
        if allowed.is_empty() || allowed.iter().any(|one| same(one, value)) {
            return;
        }
        let word = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let words: Vec<String> = allowed.iter().map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.causes
            .not_supported(path.to_string(), &word(value), &words);
    }

    fn text(&mut self, schema: &Schema, text: &str, path: Path<'_>) {
        let rules = &schema.rules;
        let length = text.chars().count();
        if let Some(max) = rules.length.max.filter(|max| length > *max) {
            self.causes.too_long(path.to_string(), max);
        }
        if let Some(min) = rules.length.min.filter(|min| length < *min) {
            self.must(text, path, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = rules.pattern.as_ref().filter(|one| !one.is_match(text)) {
            self.must(text, path, &format!("should match '{}'", pattern.text()));
        }
        if let Some(name) = rules
            .format
            .as_ref()
            .filter(|name| !format::fits(name, text))
        {
            self.must(text, path, &format!("must be of type {name}: \"{text}\""));
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value, path: Path<'_>) {
        let rules = &schema.rules;
        let number = value.as_f64().unwrap_or_default();
        if let Some(max) = rules.maximum {
            let (beyond, words) = if max.exclusive {
                (number >= max.value, "should be less than")
            } else {
                (number > max.value, "should be less than or equal to")
            };
            if beyond {
                self.must(value.clone(), path, &format!("{words} {}", max.value));
            }
        }
        if let Some(min) = rules.minimum {
            let (beyond, words) = if min.exclusive {
                (number <= min.value, "should be greater than")
            } else {
                (number < min.value, "should be greater than or equal to")
            };
            if beyond {
                self.must(value.clone(), path, &format!("{words} {}", min.value));
            }
        }
        if let Some(factor) = rules.multiple_of {
            let quotient = number / factor;
            if (quotient - quotient.round()).abs() > 1e-9 {
                self.must(
                    value.clone(),
                    path,
                    &format!("should be a multiple of {factor}"),
                );
            }
        }
        let fits = match rules.format.as_deref() {
            Some("int32") => value.as_i64().is_none_or(|n| i32::try_from(n).is_ok()),
            Some("int64") => value.is_i64() || value.is_f64(),
            _ => true,
        };
        if let Some(name) = rules.format.as_ref().filter(|_| !fits) {
            self.must(
                value.clone(),
                path,
                &format!("must be of type {name}: \"integer\""),
            );
        }
    }

    fn list(&mut self, schema: &Schema, list: &[Value], old: Option<&Value>, path: Path<'_>) {
        let rules = &schema.rules;
        if let Some(max) = rules.items.max.filter(|max| list.len() > *max) {
            self.causes.too_many(path.to_string(), list.len(), max);
        }
        if let Some(min) = rules.items.min.filter(|min| list.len() < *min) {
            self.must(
                list.len(),
                path,
                &format!("should have at least {min} items"),
            );
        }
        self.distinct(schema, list, path);
        let Some(items) = &schema.items else { return };
        let earlier = Earlier::of(&schema.list, old);
        for (index, item) in list.iter().enumerate() {
            self.value(items, item, earlier.get(item), Path::Item(&path, index));
        }
    }

    /// Sets and lists with keys hold each item once.
    fn distinct(&mut self, schema: &Schema, list: &[Value], path: Path<'_>) {
        let mut seen = HashSet::new();
        for (index, item) in list.iter().enumerate() {
            let key = match &schema.list {
                ListKind::Map(_) => match key_of(schema, item) {
                    Some(key) => key,
                    None => continue,
                },
                ListKind::Set => item.clone(),
                ListKind::Atomic if schema.rules.unique_items => item.clone(),
                ListKind::Atomic => return,
            };
            if !seen.insert(key.to_string()) {
                let place = Path::Item(&path, index).to_string();
                self.causes.duplicate(place, key);
            }
        }
    }

    fn object(
        &mut self,
        schema: &Schema,
        object: &Map<String, Value>,
        old: Option<&Value>,
        path: Path<'_>,
    ) {
        let rules = &schema.rules;
        if let Some(max) = rules.properties.max.filter(|max| object.len() > *max) {
            self.causes.too_many(path.to_string(), object.len(), max);
        }
        if let Some(min) = rules.properties.min.filter(|min| object.len() < *min) {
            self.must(
                object.len(),
                path,
                &format!("should have at least {min} properties"),
            );
        }
        for name in rules
            .required
            .iter()
            .filter(|name| !object.contains_key(*name))
        {
            self.causes
                .required(Path::Field(&path, name).to_string(), "");
        }
        for (name, value) in object {
            let field = match (schema.properties.get(name), &schema.additional) {
                (Some(field), _) => field,
                (None, Some(Additional::Schema(values))) => values,
                (None, _) => continue,
            };
            let old = old.and_then(|old| old.get(name));
            self.value(field, value, old, Path::Field(&path, name));
        }
        if schema.embedded {
            self.embedded(object, path);
        }
    }

    /// An object within an object says what it is.
    fn embedded(&mut self, object: &Map<String, Value>, path: Path<'_>) {
        for name in ["apiVersion", "kind"] {
            let text = object.get(name).and_then(Value::as_str);
            if text.unwrap_or_default().is_empty() {
                self.causes
                    .required(Path::Field(&path, name).to_string(), "must not be empty");
            }
        }
    }

    fn combinations(&mut self, schema: &Schema, value: &Value, path: Path<'_>) {
        let rules = &schema.rules;
        for one in &rules.all_of {
            self.value(one, value, None, path);
        }
        let valid = |list: &[Schema]| list.iter().filter(|one| one.accepts(value)).count();
        if !rules.any_of.is_empty() && valid(&rules.any_of) == 0 {
            self.combination(value, path, "must validate at least one schema (anyOf)");
        }
        match valid(&rules.one_of) {
            _ if rules.one_of.is_empty() => {}
            0 => self.combination(value, path, "must validate one and only one schema (oneOf). Found none valid"),
            1 => {}
            count => self.combination(
                value,
                path,
                &format!("must validate one and only one schema (oneOf). Found {count} valid alternatives"),
            ),
        }
        if rules.not.as_ref().is_some_and(|not| not.accepts(value)) {
            self.combination(value, path, "must not validate the schema (not)");
        }
    }

    fn combination(&mut self, value: &Value, path: Path<'_>, words: &str) {
        let place = path.to_string();
        let detail = format!("\"{place}\" {words}");
        self.causes.invalid(place, value.clone(), &detail);
    }

    fn must(&mut self, value: impl Into<Value>, path: Path<'_>, words: &str) {
        let place = path.to_string();
        let detail = format!("{place} in body {words}");
        self.causes.invalid(place, value, &detail);
    }
}

/// The same value: `1` and `1.0` are.
fn same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

/// What tells an item from the others; absent keys count with their defaults, as they were filled in before.
fn key_of(schema: &Schema, item: &Value) -> Option<Value> {
    let ListKind::Map(keys) = &schema.list else {
        return None;
    };
    let object = item.as_object()?;
    let present = keys
        .iter()
        .filter_map(|key| Some((key.clone(), object.get(key)?.clone())));
    Some(Value::Object(present.collect()))
}

/// The items as they were before, by their keys. Lists without keys have no items that stay.
struct Earlier<'o> {
    keys: &'o [String],
    items: HashMap<String, &'o Value>,
}

impl<'o> Earlier<'o> {
    fn of(list: &'o ListKind, old: Option<&'o Value>) -> Self {
        let (ListKind::Map(keys), Some(Value::Array(old))) = (list, old) else {
            return Self {
                keys: &[],
                items: HashMap::new(),
            };
        };
        let mut items = HashMap::new();
        for item in old {
            items.entry(key_text(keys, item)).or_insert(item);
        }
        Self { keys, items }
    }

    fn get(&self, item: &Value) -> Option<&'o Value> {
        if self.items.is_empty() {
            return None;
        }
        self.items.get(&key_text(self.keys, item)).copied()
    }
}

/// The keys of an item in one text: JSON has no line breaks in values.
fn key_text(keys: &[String], item: &Value) -> String {
    let value = |key: &String| item.get(key).map(Value::to_string).unwrap_or_default();
    keys.iter().map(value).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(schema: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = Causes::default();
        Schema::read(schema).validate(new, old, &mut causes);
        let line = |cause: &crate::registry::Cause| format!("{}: {}", cause.field, cause.message);
        causes.0.iter().map(line).collect()
    }

    /// The schema of `spec.x`, a value for it, what is said.
    fn case(schema: Value, value: Value, wanted: &[&str]) {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": schema}}}});
        let got = said(&schema, &json!({"spec": {"x": value}}), None);
        assert_eq!(got, wanted, "{value}");
    }

    #[test]
    fn what_breaks_a_schema_is_said_in_the_words_of_upstream() {
        let integer = json!({"type": "integer", "minimum": 1, "maximum": 10});
        case(integer.clone(), json!(5), &[]);
        case(integer.clone(), json!(5.0), &[]);
        case(
            integer.clone(),
            json!("a"),
            &[
                "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
            ],
        );
        case(
            integer.clone(),
            json!(11),
            &["spec.x: Invalid value: 11: spec.x in body should be less than or equal to 10"],
        );
        case(
            integer.clone(),
            json!(0),
            &["spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1"],
        );
        case(
            integer,
            json!(null),
            &["spec.x: Invalid value: \"null\": spec.x in body must be of type integer: \"null\""],
        );
        let exclusive =
            json!({"type": "number", "minimum": 0, "exclusiveMinimum": true, "multipleOf": 0.5});
        case(
            exclusive.clone(),
            json!(0),
            &["spec.x: Invalid value: 0: spec.x in body should be greater than 0"],
        );
        case(
            exclusive,
            json!(0.7),
            &["spec.x: Invalid value: 0.7: spec.x in body should be a multiple of 0.5"],
        );
        case(
            json!({"type": "integer", "format": "int32"}),
            json!(3_000_000_000_i64),
            &[
                "spec.x: Invalid value: 3000000000: spec.x in body must be of type int32: \"integer\"",
            ],
        );
        case(
            json!({"type": "string", "nullable": true}),
            json!(null),
            &[],
        );
        let text = json!({"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^[a-z]+$"});
        case(
            text.clone(),
            json!("äö"),
            &["spec.x: Invalid value: \"äö\": spec.x in body should match '^[a-z]+$'"],
        );
        case(
            text.clone(),
            json!("a"),
            &["spec.x: Invalid value: \"a\": spec.x in body should be at least 2 chars long"],
        );
        case(
            text,
            json!("abcd"),
            &["spec.x: Too long: may not be more than 3 bytes"],
        );
        case(
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            &["spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\""],
        );
        case(
            json!({"type": "string", "format": "date-time"}),
            json!("now"),
            &["spec.x: Invalid value: \"now\": spec.x in body must be of type date-time: \"now\""],
        );
        case(
            json!({"x-kubernetes-int-or-string": true}),
            json!("50%"),
            &[],
        );
        case(
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            &[
                "spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\"",
            ],
        );
        let list =
            json!({"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}});
        case(
            list.clone(),
            json!([]),
            &["spec.x: Invalid value: 0: spec.x in body should have at least 1 items"],
        );
        case(
            list.clone(),
            json!(["a", "b", "c"]),
            &["spec.x: Too many: 3: must have at most 2 items"],
        );
        case(
            list,
            json!([1]),
            &[
                "spec.x[0]: Invalid value: \"integer\": spec.x[0] in body must be of type string: \"integer\"",
            ],
        );
        let map = json!({"type": "object", "required": ["a"], "maxProperties": 1, "additionalProperties": {"type": "integer"}});
        case(
            map,
            json!({"b": "c", "d": 1}),
            &[
                "spec.x: Too many: 2: must have at most 1 items",
                "spec.x.a: Required value",
                "spec.x.b: Invalid value: \"string\": spec.x.b in body must be of type integer: \"string\"",
            ],
        );
    }

    #[test]
    fn items_with_the_same_key_or_value_are_duplicates() {
        let keyed = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}}}});
        case(
            keyed,
            json!([{"name": "a", "v": 1}, {"name": "b"}, {"name": "a"}]),
            &["spec.x[2]: Duplicate value: {\"name\":\"a\"}"],
        );
        let set =
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
        case(
            set,
            json!(["a", "a"]),
            &["spec.x[1]: Duplicate value: \"a\""],
        );
    }

    #[test]
    fn combinations_of_schemas() {
        let either = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        case(either.clone(), json!({"a": 1}), &[]);
        case(
            either.clone(),
            json!({}),
            &[
                "spec.x: Invalid value: {}: \"spec.x\" must validate one and only one schema (oneOf). Found none valid",
            ],
        );
        case(
            either,
            json!({"a": 1, "b": 1}),
            &[
                "spec.x: Invalid value: {\"a\":1,\"b\":1}: \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        );
        case(
            json!({"type": "string", "anyOf": [{"pattern": "^a"}, {"pattern": "^b"}]}),
            json!("c"),
            &["spec.x: Invalid value: \"c\": \"spec.x\" must validate at least one schema (anyOf)"],
        );
        case(
            json!({"type": "string", "not": {"enum": ["c"]}}),
            json!("c"),
            &["spec.x: Invalid value: \"c\": \"spec.x\" must not validate the schema (not)"],
        );
        case(
            json!({"type": "integer", "allOf": [{"minimum": 3}]}),
            json!(2),
            &["spec.x: Invalid value: 2: spec.x in body should be greater than or equal to 3"],
        );
    }

    #[test]
    fn what_has_not_changed_is_not_looked_at_again() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "x": {"type": "integer", "minimum": 5}, "y": {"type": "integer"}}}}});
        let old = json!({"spec": {"x": 1, "y": 1}});
        assert!(said(&schema, &json!({"spec": {"x": 1, "y": 2}}), Some(&old)).is_empty());
        assert_eq!(
            said(&schema, &json!({"spec": {"x": 2, "y": 2}}), Some(&old)).len(),
            1
        );
    }
    /// As many as fit into a request: each is found again at once, wherever it stands.
    #[test]
    fn items_with_keys_that_have_not_changed_are_not_looked_at_again() {
        let schema = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object", "properties": {
                "a": {"type": "string"}, "b": {"type": "integer"}, "x": {"type": "integer", "minimum": 5}}}});
        let item = |number: i32, x: i32| json!({"a": "k", "b": number, "x": x});
        let old: Value = (0..50_000).map(|number| item(number, 1)).collect();
        let moved: Value = (0..50_000).rev().map(|number| item(number, 1)).collect();
        assert!(said(&schema, &moved, Some(&old)).is_empty());
        let changed = json!([item(2, 1), item(1, 2), item(50_000, 1)]);
        let said = said(&schema, &changed, Some(&old));
        let places: Vec<&str> = said
            .iter()
            .filter_map(|said| said.split(':').next())
            .collect();
        assert_eq!(places, ["[1].x", "[2].x"]);
    }
}
