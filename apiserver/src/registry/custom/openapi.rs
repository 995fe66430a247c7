//! What OpenAPI says of a custom resource (O6): the definition's own schema, with the fields every object has.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Map, Value, json};

use super::definition::Identity;

/// A schema for the documents of OpenAPI, kept as text: it is rarely asked for.
#[derive(Debug)]
pub struct OpenApi {
    name: String,
    text: String,
}

/// The schema of `metadata`.
const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl OpenApi {
    pub(super) fn new(identity: &Identity, schema: &Value) -> Self {
        let mut schema = schema.clone();
        schema["x-kubernetes-group-version-kind"] =
            json!([{"group": identity.group, "version": identity.version, "kind": identity.kind}]);
        // `example.com` becomes `com.example`, as in the names of Java's packages.
        let mut parts: Vec<&str> = identity.group.split('.').collect();
        parts.reverse();
        Self {
            name: format!("{}.{}.{}", parts.join("."), identity.version, identity.kind),
            text: schema.to_string(),
        }
    }

    /// The name of the schema.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another one when the schema is another.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.name, &self.text).hash(&mut hasher);
        hasher.finish()
    }

    /// The schema for a document of version 3.
    #[must_use]
    pub fn v3(&self) -> Value {
        self.with_own_fields(
            json!({"allOf": [{"$ref": format!("#/components/schemas/{METADATA}")}]}),
        )
    }

    /// The schema for the document of version 2, which has no alternatives and no null.
    #[must_use]
    pub fn v2(&self) -> Value {
        let mut schema = self.with_own_fields(json!({"$ref": format!("#/definitions/{METADATA}")}));
        simplify(&mut schema);
        schema
    }

    fn with_own_fields(&self, metadata: Value) -> Value {
        let mut schema: Value = serde_json::from_str(&self.text).unwrap_or_default();
        let text = |description: &str| json!({"type": "string", "description": description});
        let mut properties = Map::new();
        properties.insert("apiVersion".into(), text("APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"));
        properties.insert("kind".into(), text("Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"));
        let mut metadata = metadata;
        metadata["description"] = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata".into();
        properties.insert("metadata".into(), metadata);
        if let Some(own) = schema["properties"].as_object() {
            let others = own
                .iter()
                .filter(|(name, _)| !properties.contains_key(*name));
            let others: Vec<_> = others
                .map(|(name, schema)| (name.clone(), schema.clone()))
                .collect();
            properties.extend(others);
        }
        schema["properties"] = properties.into();
        schema
    }
}

/// What upstream leaves out of version 2.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    for name in ["oneOf", "anyOf", "allOf", "not", "default"] {
        map.shift_remove(name);
    }
    if map.shift_remove("nullable") == Some(Value::Bool(true)) {
        // A type would refuse null.
        for name in ["type", "items", "properties"] {
            map.shift_remove(name);
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(name) {
            simplify(inner);
        }
    }
    let properties = map.get_mut("properties").and_then(Value::as_object_mut);
    properties
        .into_iter()
        .flatten()
        .for_each(|(_, property)| simplify(property));
}
