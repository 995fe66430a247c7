//! JSON against the table: unknown fields, types, defaults.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::protobuf::zero;
use super::{Scalar, Shape, Type};
use crate::json::Path;
use crate::meta::Time;
use crate::quantity::Quantity;

/// A field the type does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it stands, such as `spec.containers[0].imagee`.
    pub path: String,
}

/// A value of another type than its field's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: wanted {wanted}, got {got}")]
pub struct TypeError {
    /// Where it stands.
    pub path: String,
    /// What the field holds.
    pub wanted: &'static str,
    /// What stands there.
    pub got: &'static str,
}

impl Type {
    /// Drops what reading the object as Go structs and writing it again would drop: unknown fields, which are named in the
    /// answer, and nulls. A null in a list or a map becomes its zero.
    pub fn prune(&self, value: &mut Value) -> Vec<UnknownField> {
        let mut unknown = Vec::new();
        if let Value::Object(object) = value {
            self.prune_object(object, Path::Root, &mut unknown);
        }
        unknown
    }

    fn prune_object(
        &self,
        object: &mut Map<String, Value>,
        path: Path<'_>,
        unknown: &mut Vec<UnknownField>,
    ) {
        object.retain(|name, value| match self.field(name) {
            None => {
                unknown.push(UnknownField {
                    path: Path::Field(&path, name).to_string(),
                });
                false
            }
            Some(_) if value.is_null() => false,
            Some(field) => {
                prune_value(&field.shape, value, Path::Field(&path, name), unknown);
                true
            }
        });
    }

    /// Are the values of the types the fields have? Unknown fields and nulls pass; prune takes them away.
    ///
    /// # Errors
    /// The first value that is not.
    pub fn check(&self, value: &Value) -> Result<(), TypeError> {
        self.check_at(value, Path::Root)
    }

    fn check_at(&self, value: &Value, path: Path<'_>) -> Result<(), TypeError> {
        let Value::Object(object) = value else {
            return Err(mismatch("object", value, path));
        };
        for (name, value) in object {
            if let Some(field) = self.field(name) {
                check_value(&field.shape, value, Path::Field(&path, name))?;
            }
        }
        Ok(())
    }

    /// Sets the defaults the OpenAPI document declares, where the parent is present. Those that kinds compute are theirs.
    pub fn default(&self, value: &mut Value) {
        let Value::Object(object) = value else { return };
        for field in &self.fields {
            match (object.get_mut(&*field.name), &field.default) {
                (Some(value), _) => default_value(&field.shape, value),
                (None, Some(default)) => {
                    object.insert(field.name.clone().into_owned(), default.clone());
                }
                (None, None) => {}
            }
        }
    }
}

fn prune_value(shape: &Shape, value: &mut Value, path: Path<'_>, unknown: &mut Vec<UnknownField>) {
    match (shape, value) {
        (Shape::Message(_) | Shape::Object(_), Value::Object(object)) => {
            if let Some(of) = shape.message() {
                of.prune_object(object, path, unknown);
            }
        }
        (Shape::List(items), Value::Array(list)) => {
            for (index, item) in list.iter_mut().enumerate() {
                prune_item(items, item, Path::Item(&path, index), unknown);
            }
        }
        (Shape::Map(values), Value::Object(map)) => {
            for (key, value) in map {
                prune_item(values, value, Path::Field(&path, key), unknown);
            }
        }
        _ => {}
    }
}

fn prune_item(shape: &Shape, value: &mut Value, path: Path<'_>, unknown: &mut Vec<UnknownField>) {
    if value.is_null() {
        *value = zero(shape);
    }
    prune_value(shape, value, path, unknown);
}

fn check_value(shape: &Shape, value: &Value, path: Path<'_>) -> Result<(), TypeError> {
    match (shape, value) {
        (_, Value::Null) => Ok(()),
        (Shape::Message(_) | Shape::Object(_), value) => shape
            .message()
            .map_or(Ok(()), |of| of.check_at(value, path)),
        (Shape::List(items), Value::Array(list)) => {
            let mut numbered = list.iter().enumerate();
            numbered
                .try_for_each(|(index, item)| check_value(items, item, Path::Item(&path, index)))
        }
        (Shape::Map(values), Value::Object(map)) => map
            .iter()
            .try_for_each(|(key, value)| check_value(values, value, Path::Field(&path, key))),
        (Shape::Scalar(scalar), value) => {
            check_scalar(*scalar, value).map_err(|wanted| mismatch(wanted, value, path))
        }
        (Shape::List(_), _) => Err(mismatch("list", value, path)),
        (Shape::Map(_), _) => Err(mismatch("map", value, path)),
    }
}

/// The error is what was wanted.
fn check_scalar(scalar: Scalar, value: &Value) -> Result<(), &'static str> {
    let int32 = || {
        value
            .as_i64()
            .is_some_and(|number| i32::try_from(number).is_ok())
    };
    let text = value.as_str();
    let (ok, wanted) = match scalar {
        Scalar::String => (value.is_string(), "string"),
        Scalar::Int32 => (int32(), "32-bit integer"),
        Scalar::Int64 => (value.is_i64(), "64-bit integer"),
        Scalar::Bool => (value.is_boolean(), "boolean"),
        Scalar::Double => (value.is_number(), "number"),
        Scalar::Bytes => (
            text.is_some_and(|text| STANDARD.decode(text).is_ok()),
            "base64 string",
        ),
        Scalar::Time | Scalar::MicroTime => (
            text.is_some_and(|text| text.parse::<Time>().is_ok()),
            "RFC 3339 time",
        ),
        Scalar::Quantity => (is_quantity(value), "quantity"),
        Scalar::IntOrString => (value.is_string() || int32(), "integer or string"),
        Scalar::Json => (true, "JSON"),
        Scalar::SchemaOrArray => (
            value.is_object() || value.is_array(),
            "schema or list of schemas",
        ),
        Scalar::SchemaOrBool => (value.is_object() || value.is_boolean(), "schema or boolean"),
        Scalar::SchemaOrStrings => (
            value.is_object() || value.is_array(),
            "schema or list of strings",
        ),
    };
    if ok { Ok(()) } else { Err(wanted) }
}

fn is_quantity(value: &Value) -> bool {
    match value {
        Value::String(text) => Quantity::from(&**text).amount().is_ok(),
        value => value.is_number(),
    }
}

fn mismatch(wanted: &'static str, got: &Value, path: Path<'_>) -> TypeError {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    TypeError {
        path: path.to_string(),
        wanted,
        got,
    }
}

fn default_value(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::List(items), Value::Array(list)) => {
            list.iter_mut().for_each(|item| default_value(items, item))
        }
        (Shape::Map(values), Value::Object(map)) => map
            .values_mut()
            .for_each(|value| default_value(values, value)),
        (shape, value) => {
            if let Some(of) = shape.message() {
                of.default(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::lookup;

    fn kind(kind: &str) -> &'static Type {
        let group = if kind == "Deployment" { "apps" } else { "" };
        lookup(group, "v1", kind).unwrap()
    }

    #[test]
    fn unknown_fields_and_nulls_go_and_the_unknown_are_named() {
        let mut pod = json!({
            "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null, "labels": {"any": "thing", "nil": null}, "nmae": 1},
            "spec": {"containers": [{"name": "c", "imagee": "x", "resources": {}}], "foo": {"bar": 1}}, "status": {}
        });
        let unknown = kind("Pod").prune(&mut pod);
        let paths: Vec<_> = unknown.iter().map(|field| field.path.as_str()).collect();
        assert_eq!(
            paths,
            ["metadata.nmae", "spec.containers[0].imagee", "spec.foo"]
        );
        assert_eq!(
            pod,
            json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"any": "thing", "nil": ""}},
                   "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}})
        );
        assert_eq!(kind("Pod").prune(&mut pod), []);
    }

    #[test]
    fn values_of_the_wrong_type_are_named() {
        let cases = [
            (
                "Service",
                json!({"spec": {"ports": [{"port": "80"}]}}),
                "spec.ports[0].port: wanted 32-bit integer, got string",
            ),
            (
                "Service",
                json!({"spec": {"ports": {}}}),
                "spec.ports: wanted list, got object",
            ),
            (
                "Service",
                json!({"spec": {"selector": {"a": 1}}}),
                "spec.selector.a: wanted string, got number",
            ),
            (
                "Service",
                json!({"spec": {"ports": [{"targetPort": 1.5}]}}),
                "spec.ports[0].targetPort: wanted integer or string, got number",
            ),
            (
                "Deployment",
                json!({"spec": {"replicas": 3_000_000_000_u64}}),
                "spec.replicas: wanted 32-bit integer, got number",
            ),
            (
                "Secret",
                json!({"data": {"a": "?"}}),
                "data.a: wanted base64 string, got string",
            ),
            (
                "Pod",
                json!({"metadata": {"creationTimestamp": "now"}}),
                "metadata.creationTimestamp: wanted RFC 3339 time, got string",
            ),
            ("Pod", json!([]), ": wanted object, got list"),
        ];
        for (name, value, wanted) in cases {
            assert_eq!(kind(name).check(&value).unwrap_err().to_string(), wanted);
        }
        let good = json!({"metadata": {"labels": null}, "unknown": 1,
            "spec": {"ports": [{"port": 1, "targetPort": "http"}, {"targetPort": 80}]}});
        assert_eq!(kind("Service").check(&good), Ok(()));
    }

    #[test]
    fn declared_defaults_are_set_where_the_parent_is() {
        let mut service =
            json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}});
        kind("Service").default(&mut service);
        assert_eq!(
            service,
            json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}})
        );
    }
}
