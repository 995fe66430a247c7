//! What a custom resource loses and gains before it is looked at: fields the schema does not know, nulls, defaults.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/schema/{pruning,defaulting}.

use api::json::Path;
use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// The fields every object has; their schema is the server's.
const OWN: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Drops the fields of an object that the schema does not know; answers their paths.
    pub(crate) fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.prune_at(object, true, Path::Root, &mut unknown);
        unknown
    }

    fn prune_at(&self, value: &mut Value, whole: bool, path: Path<'_>, unknown: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                object.retain(|name, value| {
                    let path = Path::Field(&path, name);
                    if (whole || self.embedded) && OWN.contains(&name.as_str()) {
                        return true;
                    }
                    match self.field(name) {
                        Some(field) => field.prune_at(value, false, path, unknown),
                        None if self.keeps_unknown() => {}
                        None => {
                            unknown.push(path.to_string());
                            return false;
                        }
                    }
                    true
                });
            }
            Value::Array(list) => {
                for (index, item) in list.iter_mut().enumerate() {
                    if let Some(items) = &self.items {
                        items.prune_at(item, false, Path::Item(&path, index), unknown);
                    }
                }
            }
            _ => {}
        }
    }

    /// Drops the nulls of an object where the schema does not allow them: they mean absent. A null item of a list stays, to be
    /// refused.
    pub(crate) fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|name, value| match self.field(name) {
                    Some(field) if value.is_null() => field.nullable,
                    _ => true,
                });
                for (name, value) in object {
                    if let Some(field) = self.field(name) {
                        field.drop_nulls(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.drop_nulls(item));
                }
            }
            _ => {}
        }
    }

    /// Sets the defaults of what is absent, where the parent is there.
    pub(crate) fn set_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(object) => self.default_fields(object),
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.set_defaults(item));
                }
            }
            _ => {}
        }
    }

    fn default_fields(&self, object: &mut Map<String, Value>) {
        for (name, schema) in &self.properties {
            let missing = match object.get(name) {
                None => true,
                Some(value) => value.is_null() && !schema.nullable,
            };
            if let Some(default) = schema.default.as_ref().filter(|_| missing) {
                object.insert(name.clone(), default.clone());
            }
        }
        for (name, value) in object {
            match (self.properties.get(name), &self.additional) {
                (Some(schema), _) => schema.set_defaults(value),
                (None, Some(Additional::Schema(values))) => {
                    if let Some(default) = values
                        .default
                        .as_ref()
                        .filter(|_| value.is_null() && !values.nullable)
                    {
                        *value = default.clone();
                    }
                    values.set_defaults(value);
                }
                (None, _) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::read(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "replicas": {"type": "integer", "default": 1},
                "mode": {"type": "string", "nullable": true},
                "size": {"type": "string"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                    "known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                    "n": {"type": "integer", "default": 7}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            }},
        }}))
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let mut object = json!({
            "apiVersion": "a/v1", "kind": "A", "metadata": {"name": "a"}, "other": 1,
            "spec": {"replicas": 2, "colour": "red", "free": {"any": {"thing": null}, "known": {"a": "", "b": ""}},
                "map": {"x": {"n": 1, "m": 1}}, "list": [{"n": 1}, {"m": 1}],
                "template": {"kind": "B", "metadata": {}, "data": 1}},
        });
        let unknown = schema().prune(&mut object);
        let wanted = [
            "other",
            "spec.colour",
            "spec.free.known.b",
            "spec.map.x.m",
            "spec.list[1].m",
        ];
        assert_eq!(unknown, wanted);
        assert_eq!(
            object["spec"]["free"],
            json!({"any": {"thing": null}, "known": {"a": ""}})
        );
        assert_eq!(object["spec"]["template"]["data"], 1);
        assert!(schema().prune(&mut object).is_empty());
    }

    #[test]
    fn defaults_fill_what_is_absent_or_null_where_the_parent_is() {
        let mut object = json!({"metadata": {}});
        schema().set_defaults(&mut object);
        assert_eq!(object, json!({"metadata": {}}));
        let mut object = json!({"spec": {"replicas": null, "mode": null, "size": null, "map": {"x": {}}, "list": [{}, {"n": 1}]}});
        schema().drop_nulls(&mut object);
        schema().set_defaults(&mut object);
        let wanted = json!({"spec": {"replicas": 1, "mode": null, "map": {"x": {"n": 7}}, "list": [{"n": 3}, {"n": 1}]}});
        assert_eq!(object, wanted);
        assert!(schema().has_defaults());
    }
}
