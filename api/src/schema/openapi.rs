//! OpenAPI documents, made from the table: one of version 3 for each group-version, one of version 2 (Swagger) for all.

use serde_json::{Map, Value, json};

use super::descriptions::{ByType, Descriptions};
use super::{Field, ListType, Scalar, Shape, Strategy, Type, lookup, type_named};

/// A kind a document describes.
#[derive(Clone, Debug)]
pub struct ServedKind<'a> {
    /// The kind, such as `Service`.
    pub kind: &'a str,
    /// Its name in URLs, such as `services`.
    pub plural: &'a str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The name and the schema of a kind that the table does not know, in the version of the document.
    pub custom: Option<(String, Value)>,
}

/// The media types of patches; kinds that the table does not know have no strategic one. That may be listed only because the schemas carry every merge key: kubectl would
/// otherwise send whole lists and the server would never remove an item.
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Schemas differ a little between the versions of OpenAPI.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

/// The document of a group-version: the schemas of its kinds, and of every kind the PATCH operation, where kubectl looks for
/// `fieldValidation` and the patch types. Kinds the table does not know are left out.
pub fn openapi_v3(group: &str, version: &str, kinds: &[ServedKind<'_>]) -> Value {
    let descriptions = Descriptions::unpack();
    let mut document = Document::new(Version::V3, descriptions.by_type());
    document.add(group, version, kinds);
    let Document { schemas, paths, .. } = document;
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The document of all group-versions, as (group, version, kinds), in version 2 of OpenAPI.
pub fn openapi_v2(served: &[(&str, &str, Vec<ServedKind<'_>>)]) -> Value {
    let descriptions = Descriptions::unpack();
    let mut document = Document::new(Version::V2, descriptions.by_type());
    for (group, version, kinds) in served {
        document.add(group, version, kinds);
    }
    let Document { schemas, paths, .. } = document;
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "definitions": schemas,
    })
}

/// A document being made.
struct Document<'a> {
    version: Version,
    descriptions: ByType<'a>,
    schemas: Map<String, Value>,
    paths: Map<String, Value>,
}

impl<'a> Document<'a> {
    fn new(version: Version, descriptions: ByType<'a>) -> Self {
        Self {
            version,
            descriptions,
            schemas: Map::new(),
            paths: Map::new(),
        }
    }

    /// Adds the kinds of a group-version.
    fn add(&mut self, group: &str, version: &str, kinds: &[ServedKind<'_>]) {
        let root = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        for served in kinds {
            match (&served.custom, lookup(group, version, served.kind)) {
                (Some((name, schema)), _) => {
                    self.schemas.insert(name.clone(), schema.clone());
                    if let Some(metadata) = type_named("meta.v1.ObjectMeta") {
                        self.add_schema(metadata);
                    }
                }
                (None, Some(of)) => self.add_schema(of),
                (None, None) => continue,
            }
            let namespace = if served.namespaced {
                "/namespaces/{namespace}"
            } else {
                ""
            };
            let gvk = json!({"group": group, "version": version, "kind": served.kind});
            let all = format!("{root}/{}", served.plural);
            let path = format!("{root}{namespace}/{}/{{name}}", served.plural);
            let strategic = served.custom.is_none();
            self.paths.insert(all, list_operation(&gvk));
            self.paths
                .insert(path, self.version.patch_operation(gvk, strategic));
        }
        for kind in ["DeleteOptions", "Status"] {
            if let Some(of) = lookup(group, version, kind) {
                self.add_schema(of);
            }
        }
        self.schemas.sort_keys();
    }

    /// Adds the schema of a type and of all it refers to.
    fn add_schema(&mut self, of: &'static Type) {
        let mut waiting = vec![of];
        while let Some(of) = waiting.pop() {
            let name = full_name(of.name);
            if self.schemas.contains_key(&name) {
                continue;
            }
            self.schemas.insert(name, self.schema(of));
            waiting.extend(of.fields.iter().filter_map(|field| innermost(&field.shape)));
        }
    }

    fn schema(&self, of: &Type) -> Value {
        let texts = self.descriptions.of(of.name);
        let mut schema = Map::new();
        if let Some(text) = texts.own() {
            schema.insert("description".into(), text.into());
        }
        schema.insert("type".into(), "object".into());
        if !of.fields.is_empty() {
            let property = |field: &Field| {
                let mut property = self.version.property(field);
                if let Some(text) = texts.field(&field.name) {
                    property.insert("description".into(), text.into());
                }
                (field.name.clone().into_owned(), Value::Object(property))
            };
            let properties: Map<_, _> = of.fields.iter().map(property).collect();
            schema.insert("properties".into(), properties.into());
        }
        let required = of.fields.iter().filter(|field| field.required);
        let required: Vec<_> = required.map(|field| &*field.name).collect();
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
}

fn innermost(shape: &Shape) -> Option<&Type> {
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

/// The list over all namespaces, by which `kubectl explain` of 1.27 finds the kind of a resource.
fn list_operation(gvk: &Value) -> Value {
    json!({"get": {
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "list",
        "x-kubernetes-group-version-kind": gvk,
    }})
}

impl Version {
    fn patch_operation(self, gvk: Value, strategic: bool) -> Value {
        let patches = if strategic {
            &PATCHES[..]
        } else {
            &PATCHES[..3]
        };
        let names = ["dryRun", "fieldManager", "fieldValidation"];
        let mut operation = json!({
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": gvk,
        });
        match self {
            Self::V2 => {
                let query = |name| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true});
                operation["consumes"] = json!(patches);
                operation["parameters"] = names.into_iter().map(query).collect();
            }
            Self::V3 => {
                let query =
                    |name| json!({"name": name, "in": "query", "schema": {"type": "string"}});
                let content = patches.iter().map(|media| ((*media).to_owned(), json!({})));
                let content: Map<String, Value> = content.collect();
                operation["parameters"] = names.into_iter().map(query).collect();
                operation["requestBody"] = json!({"content": content});
            }
        }
        json!({"patch": operation})
    }

    fn property(self, field: &Field) -> Map<String, Value> {
        let shape = self.shape(&field.shape);
        let mut property = match (&field.shape, shape) {
            // A reference beside other keywords would hide them in version 3.
            (Shape::Message(_) | Shape::Object(_), shape) if self == Self::V3 => {
                Map::from_iter([("allOf".to_owned(), json!([shape]))])
            }
            (_, Value::Object(map)) => map,
            _ => Map::new(),
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
                set("x-kubernetes-list-map-keys", json!(keys));
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
        property
    }

    fn shape(self, shape: &Shape) -> Value {
        match shape {
            Shape::Scalar(scalar) => self.scalar(*scalar),
            Shape::Message(_) | Shape::Object(_) => {
                let name = shape
                    .message()
                    .map_or_else(String::new, |of| full_name(of.name));
                let place = match self {
                    Self::V2 => "definitions",
                    Self::V3 => "components/schemas",
                };
                json!({"$ref": format!("#/{place}/{name}")})
            }
            Shape::List(items) => json!({"type": "array", "items": self.shape(items)}),
            Shape::Map(values) => {
                json!({"type": "object", "additionalProperties": self.shape(values)})
            }
        }
    }

    fn scalar(self, scalar: Scalar) -> Value {
        match scalar {
            Scalar::String => json!({"type": "string"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Double => json!({"type": "number", "format": "double"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            // Version 2 has no alternatives: upstream calls both strings, and its clients let numbers pass.
            Scalar::Quantity if self == Self::V2 => json!({"type": "string"}),
            Scalar::IntOrString if self == Self::V2 => {
                json!({"type": "string", "format": "int-or-string"})
            }
            Scalar::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Scalar::IntOrString => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            // `kubectl explain --recursive` takes an empty schema for a missing one and prints nothing at all.
            Scalar::Json
            | Scalar::SchemaOrArray
            | Scalar::SchemaOrBool
            | Scalar::SchemaOrStrings => json!({"description": "any JSON value"}),
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
                custom: None,
            },
            ServedKind {
                kind: "Pod",
                plural: "pods",
                namespaced: true,
                custom: None,
            },
            ServedKind {
                kind: "Node",
                plural: "nodes",
                namespaced: false,
                custom: None,
            },
            ServedKind {
                kind: "Unheard",
                plural: "unheards",
                namespaced: false,
                custom: None,
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
                "/api/v1/services",
                "/api/v1/namespaces/{namespace}/services/{name}",
                "/api/v1/pods",
                "/api/v1/namespaces/{namespace}/pods/{name}",
                "/api/v1/nodes",
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
            custom: None,
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

    #[test]
    fn both_versions_carry_descriptions_and_version_2_refers_to_definitions() {
        let kinds = [ServedKind {
            kind: "Pod",
            plural: "pods",
            namespaced: true,
            custom: None,
        }];
        let document = openapi_v3("", "v1", &kinds);
        let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]
            ["containers"];
        let text = containers["description"].as_str().unwrap();
        assert!(
            text.starts_with("List of containers belonging to the pod."),
            "{text}"
        );
        let document = openapi_v2(&[("", "v1", kinds.to_vec())]);
        let definitions = &document["definitions"];
        let property = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(
            property["items"]["$ref"],
            "#/definitions/io.k8s.api.core.v1.Container"
        );
        assert_eq!(property["x-kubernetes-patch-merge-key"], "name");
        let text = document.to_string();
        for reference in text.split("#/definitions/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(definitions.get(name).is_some(), "{name}");
        }
    }
}
