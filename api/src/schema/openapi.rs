//! OpenAPI v3 documents, made from the table.

use serde_json::{Map, Value, json};

use super::{Field, ListType, Scalar, Shape, Strategy, Type, lookup};

/// A kind a document describes.
#[derive(Clone, Copy, Debug)]
pub struct ServedKind<'a> {
    /// The kind, such as `Service`.
    pub kind: &'a str,
    /// Its name in URLs, such as `services`.
    pub plural: &'a str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// The media types of patches. The strategic one may be listed only because the schemas carry every merge key: kubectl would
/// otherwise send whole lists and the server would never remove an item.
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The document of a group-version: the schemas of its kinds, and of every kind the PATCH operation, where kubectl looks for
/// `fieldValidation` and the patch types. Kinds the table does not know are left out.
pub fn openapi_v3(group: &str, version: &str, kinds: &[ServedKind<'_>]) -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    let root = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    for served in kinds {
        let Some(of) = lookup(group, version, served.kind) else {
            continue;
        };
        add_schema(of, &mut schemas);
        let namespace = if served.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let gvk = json!({"group": group, "version": version, "kind": served.kind});
        paths.insert(
            format!("{root}{namespace}/{}/{{name}}", served.plural),
            patch_operation(gvk),
        );
    }
    for kind in ["DeleteOptions", "Status"] {
        if let Some(of) = lookup(group, version, kind) {
            add_schema(of, &mut schemas);
        }
    }
    schemas.sort_keys();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn patch_operation(gvk: Value) -> Value {
    let content: Map<String, Value> = PATCHES
        .iter()
        .map(|media| ((*media).to_owned(), json!({})))
        .collect();
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    json!({"patch": {
        "parameters": [query("dryRun"), query("fieldManager"), query("fieldValidation")],
        "requestBody": {"content": content},
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": gvk,
    }})
}

/// Adds the schema of a type and of all it refers to.
fn add_schema(of: &'static Type, schemas: &mut Map<String, Value>) {
    let mut waiting = vec![of];
    while let Some(of) = waiting.pop() {
        let name = full_name(of.name);
        if schemas.contains_key(&name) {
            continue;
        }
        schemas.insert(name, schema(of));
        waiting.extend(of.fields.iter().filter_map(|field| innermost(&field.shape)));
    }
}

fn innermost(shape: &Shape) -> Option<&'static Type> {
    match shape {
        Shape::List(inner) | Shape::Map(inner) => innermost(inner),
        shape => shape.message(),
    }
}

/// The name in the documents of Kubernetes.
fn full_name(name: &str) -> String {
    let package = match name.split('.').next().unwrap_or_default() {
        "meta" => "io.k8s.apimachinery.pkg.apis",
        "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis",
        _ => "io.k8s.api",
    };
    format!("{package}.{name}")
}

fn schema(of: &Type) -> Value {
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    if !of.fields.is_empty() {
        let properties: Map<_, _> = of
            .fields
            .iter()
            .map(|field| (field.name.to_owned(), property(field)))
            .collect();
        schema.insert("properties".into(), properties.into());
    }
    let required: Vec<_> = of
        .fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    if of.atomic {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if !of.kinds.is_empty() {
        let gvk = |(group, version, kind): &(&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
        schema.insert(
            "x-kubernetes-group-version-kind".into(),
            of.kinds.iter().map(gvk).collect(),
        );
    }
    Value::Object(schema)
}

fn property(field: &Field) -> Value {
    let mut property = match &field.shape {
        // A reference beside other keywords would hide them.
        Shape::Message(_) => [("allOf".to_owned(), json!([shape(&field.shape)]))]
            .into_iter()
            .collect(),
        other => match shape(other) {
            Value::Object(map) => map,
            _ => Map::new(),
        },
    };
    let mut set = |name: &str, value: Value| property.insert(name.to_owned(), value);
    if let Some(default) = &field.default {
        set("default", default.clone());
    }
    match &field.list_type {
        ListType::Atomic => {}
        ListType::Set => drop(set("x-kubernetes-list-type", "set".into())),
        ListType::Map(keys) => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", keys.clone().into());
        }
    }
    if field.atomic {
        set("x-kubernetes-map-type", "atomic".into());
    }
    if let Some(key) = field.merge.key {
        set("x-kubernetes-patch-merge-key", key.into());
    }
    let mut strategies = match field.merge.strategy {
        Strategy::Default => vec![],
        Strategy::Merge => vec!["merge"],
        Strategy::Replace => vec!["replace"],
    };
    if field.merge.retain_keys {
        strategies.push("retainKeys");
    }
    if !strategies.is_empty() {
        set("x-kubernetes-patch-strategy", strategies.join(",").into());
    }
    Value::Object(property)
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::Scalar(scalar) => scalar_schema(*scalar),
        Shape::Message(_) => {
            let name = shape
                .message()
                .map_or_else(String::new, |of| full_name(of.name));
            json!({"$ref": format!("#/components/schemas/{name}")})
        }
        Shape::List(items) => json!({"type": "array", "items": self::shape(items)}),
        Shape::Map(values) => {
            json!({"type": "object", "additionalProperties": self::shape(values)})
        }
    }
}

fn scalar_schema(scalar: Scalar) -> Value {
    match scalar {
        Scalar::String => json!({"type": "string"}),
        Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
        Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Double => json!({"type": "number", "format": "double"}),
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
        Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
        Scalar::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Scalar::IntOrString => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        // `kubectl explain --recursive` takes an empty schema for a missing one and prints nothing at all.
        Scalar::Json | Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => {
            json!({"description": "any JSON value"})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_holds_every_schema_it_refers_to() {
        let kinds = [
            ServedKind {
                kind: "Service",
                plural: "services",
                namespaced: true,
            },
            ServedKind {
                kind: "Pod",
                plural: "pods",
                namespaced: true,
            },
            ServedKind {
                kind: "Node",
                plural: "nodes",
                namespaced: false,
            },
            ServedKind {
                kind: "Unheard",
                plural: "unheards",
                namespaced: false,
            },
        ];
        let document = openapi_v3("", "v1", &kinds);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/{namespace}/services/{name}",
                "/api/v1/namespaces/{namespace}/pods/{name}",
                "/api/v1/nodes/{name}"
            ]
        );
    }

    #[test]
    fn merge_metadata_is_published() {
        let kinds = [ServedKind {
            kind: "Deployment",
            plural: "deployments",
            namespaced: true,
        }];
        let document = openapi_v3("apps", "v1", &kinds);
        let schemas = &document["components"]["schemas"];
        let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
        assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
        let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
        assert_eq!(
            ports["x-kubernetes-list-map-keys"],
            json!(["containerPort", "protocol"])
        );
        let gvk = json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]);
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
            gvk
        );
    }
}
