//! A custom resource's schema as a type of the schema table, for server-side apply and managedFields.

use std::{borrow::Cow, sync::Arc};

use api::schema::{Field, ListType, Scalar, Shape, Type};

use super::schema::{Additional, JsonType, ListKind, Schema};

impl Schema {
    /// The type of a whole object.
    pub(super) fn apply_type(&self) -> Type {
        let mut fields = self.fields();
        let own = ["apiVersion", "kind", "metadata"];
        fields.retain(|field| !own.contains(&&*field.name));
        fields.extend(own_fields());
        Type::new(fields, self.rest())
    }

    fn fields(&self) -> Vec<Field> {
        let field = |(name, schema): (&String, &Self)| {
            let mut field = Field::new(name.clone(), schema.shape());
            field.list_type = match &schema.list {
                ListKind::Atomic => ListType::Atomic,
                ListKind::Set => ListType::Set,
                ListKind::Map(keys) => {
                    ListType::Map(keys.iter().cloned().map(Cow::Owned).collect())
                }
            };
            field.default.clone_from(&schema.default);
            field.atomic = schema.atomic;
            field
        };
        self.properties.iter().map(field).collect()
    }

    /// What fields hold that are no properties.
    fn rest(&self) -> Option<Shape> {
        match &self.additional {
            Some(Additional::Schema(values)) => Some(values.shape()),
            _ if self.keeps_unknown() => Some(Shape::Scalar(Scalar::Json)),
            _ => None,
        }
    }

    fn shape(&self) -> Shape {
        if self.int_or_string {
            return Shape::Scalar(Scalar::IntOrString);
        }
        match self.of {
            Some(JsonType::Object) if self.properties.is_empty() && !self.embedded => {
                match &self.additional {
                    Some(Additional::Schema(values)) => Shape::Map(Box::new(values.shape())),
                    _ if self.keeps_unknown() => Shape::Scalar(Scalar::Json),
                    _ => self.object(),
                }
            }
            Some(JsonType::Object) => self.object(),
            Some(JsonType::Array) => {
                let items = self.items.as_ref().map(|items| items.shape());
                Shape::List(Box::new(items.unwrap_or(Shape::Scalar(Scalar::Json))))
            }
            Some(JsonType::String) => Shape::Scalar(Scalar::String),
            Some(JsonType::Integer) => Shape::Scalar(Scalar::Int64),
            Some(JsonType::Number) => Shape::Scalar(Scalar::Double),
            Some(JsonType::Boolean) => Shape::Scalar(Scalar::Bool),
            None => Shape::Scalar(Scalar::Json),
        }
    }

    fn object(&self) -> Shape {
        let mut fields = self.fields();
        if self.embedded {
            fields.extend(own_fields());
        }
        let mut of = Type::new(fields, self.rest());
        of.atomic = self.atomic;
        Shape::Object(Arc::new(of))
    }
}

/// The fields every object has.
fn own_fields() -> [Field; 3] {
    let metadata = Shape::named("meta.v1.ObjectMeta");
    [
        Field::new("apiVersion", Shape::Scalar(Scalar::String)),
        Field::new("kind", Shape::Scalar(Scalar::String)),
        Field::new("metadata", metadata.unwrap_or(Shape::Scalar(Scalar::Json))),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_and_maps_have_owners_as_the_schema_says() {
        let schema = Schema::read(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
                "hosts": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "words": {"type": "array", "items": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
            }}}}),
        );
        let of = schema.apply_type();
        let set = of.field_set(&json!({
            "apiVersion": "a/v1", "kind": "A", "metadata": {"labels": {"a": "b"}},
            "spec": {"ports": [{"name": "x", "port": 1}], "hosts": ["h"], "words": ["w"], "free": {"a": {"b": 1}}, "whole": {"k": "v"}},
        }));
        let set: serde_json::Value = serde_json::from_str(&set.unwrap().to_json()).unwrap();
        assert_eq!(
            set["f:spec"],
            json!({
                "f:ports": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:port": {}}},
                "f:hosts": {"v:\"h\"": {}},
                "f:words": {},
                "f:free": {"f:a": {".": {}, "f:b": {}}},
                "f:whole": {},
            })
        );
        let unknown = of.field_set(&json!({"spec": {"colour": 1}})).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            ".spec.colour: field not declared in schema"
        );
    }
}
