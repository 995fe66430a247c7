//! The schema of a custom resource: OpenAPI v3 as far as structural schemas have it, read once.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/schema/structural.go.

use std::collections::BTreeMap;

use serde_json::Value;

use super::pattern::Pattern;

/// One schema: of an object, a field, an item, or a value of a map.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// The JSON type; `None` where any is fine.
    pub(super) of: Option<JsonType>,
    pub(super) nullable: bool,
    pub(super) default: Option<Value>,
    pub(super) properties: BTreeMap<String, Schema>,
    /// What fields that are no properties hold; `None` where there are none.
    pub(super) additional: Option<Additional>,
    pub(super) items: Option<Box<Schema>>,
    /// Fields the schema does not name are kept.
    pub(super) preserve_unknown: bool,
    /// The value is an object of some kind, with metadata.
    pub(super) embedded: bool,
    pub(super) int_or_string: bool,
    pub(super) list: ListKind,
    /// A map or object that server-side apply takes or leaves as a whole.
    pub(super) atomic: bool,
    pub(super) rules: Rules,
}

/// A type of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonType {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// What fields that are no properties hold.
#[derive(Debug)]
pub(super) enum Additional {
    Anything,
    Schema(Box<Schema>),
}

/// What tells the items of a list apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum ListKind {
    /// Nothing: the list is one value.
    #[default]
    Atomic,
    /// They are scalars, each once.
    Set,
    /// They are objects with these keys.
    Map(Vec<String>),
}

/// What a value must keep to besides its type.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) required: Vec<String>,
    pub(super) allowed: Vec<Value>,
    pub(super) pattern: Option<Pattern>,
    pub(super) format: Option<String>,
    pub(super) minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) multiple_of: Option<f64>,
    pub(super) length: Range,
    pub(super) items: Range,
    pub(super) properties: Range,
    pub(super) unique_items: bool,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
}

/// A limit of a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) value: f64,
    /// The limit itself is beyond it.
    pub(super) exclusive: bool,
}

/// How many there may be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    pub(super) min: Option<usize>,
    pub(super) max: Option<usize>,
}

impl JsonType {
    /// By its name in a schema.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// Its name in a schema.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// Whether a value is of it. `1.0` is an integer.
    pub(super) fn fits(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => {
                value.is_i64()
                    || value.is_u64()
                    || value.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

impl Schema {
    /// Reads a schema. What it does not understand is left out: [`super::structural::check`] has refused it before.
    pub(crate) fn read(json: &Value) -> Self {
        let flag = |name: &str| json[name].as_bool() == Some(true);
        let text = |name: &str| json[name].as_str();
        let additional = match &json["additionalProperties"] {
            Value::Bool(true) => Some(Additional::Anything),
            schema @ Value::Object(_) => Some(Additional::Schema(Box::new(Self::read(schema)))),
            _ => None,
        };
        let strings = |name: &str| -> Vec<String> {
            let list = json[name].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let properties = json["properties"].as_object().into_iter().flatten();
        Self {
            of: text("type").and_then(JsonType::named),
            nullable: flag("nullable"),
            default: json.get("default").cloned(),
            properties: properties
                .map(|(name, schema)| (name.clone(), Self::read(schema)))
                .collect(),
            additional,
            items: json["items"]
                .is_object()
                .then(|| Box::new(Self::read(&json["items"]))),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list: match text("x-kubernetes-list-type") {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(strings("x-kubernetes-list-map-keys")),
                _ => ListKind::Atomic,
            },
            atomic: text("x-kubernetes-map-type") == Some("atomic"),
            rules: Rules::read(json),
        }
    }

    /// Whether a default stands anywhere in it.
    pub(crate) fn has_defaults(&self) -> bool {
        let additional = match &self.additional {
            Some(Additional::Schema(values)) => values.has_defaults(),
            _ => false,
        };
        self.default.is_some()
            || additional
            || self.properties.values().any(Self::has_defaults)
            || self
                .items
                .as_ref()
                .is_some_and(|items| items.has_defaults())
    }

    /// What a field holds; `None` where the schema has nothing to say of it.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(schema), _) => Some(schema),
            (None, Some(Additional::Schema(values))) => Some(values),
            (None, _) => None,
        }
    }

    /// Whether fields that [`Self::field`] does not know are kept.
    pub(super) fn keeps_unknown(&self) -> bool {
        self.preserve_unknown || matches!(self.additional, Some(Additional::Anything))
    }
}

impl Rules {
    fn read(json: &Value) -> Self {
        let schemas = |name: &str| -> Vec<Schema> {
            let list = json[name].as_array().into_iter().flatten();
            list.map(Schema::read).collect()
        };
        let bound = |name: &str, exclusive: &str| {
            json[name].as_f64().map(|value| Bound {
                value,
                exclusive: json[exclusive].as_bool() == Some(true),
            })
        };
        let range = |min: &str, max: &str| {
            let count = |name: &str| json[name].as_u64().and_then(|n| usize::try_from(n).ok());
            Range {
                min: count(min),
                max: count(max),
            }
        };
        let required = json["required"].as_array().into_iter().flatten();
        Self {
            required: required
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            allowed: json["enum"].as_array().cloned().unwrap_or_default(),
            pattern: json["pattern"].as_str().and_then(|text| text.parse().ok()),
            format: json["format"].as_str().map(str::to_owned),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: json["multipleOf"].as_f64(),
            length: range("minLength", "maxLength"),
            items: range("minItems", "maxItems"),
            properties: range("minProperties", "maxProperties"),
            unique_items: json["uniqueItems"].as_bool() == Some(true),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: json["not"]
                .is_object()
                .then(|| Box::new(Schema::read(&json["not"]))),
        }
    }
}
