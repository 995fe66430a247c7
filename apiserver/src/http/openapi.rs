//! The smallest OpenAPI documents clients are content with (O1-O4).
//!
//! kubectl reads two things: whether a kind's PATCH takes `fieldValidation`, and which schema has which kind. Strategic
//! merge is left out of the media types on purpose: advertised without every merge key, kubectl would compute
//! patches that never remove list items (api.md, fact 3); left out, it uses the keys it was built with.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::response::Response;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::{Call, json_value, respond};
use crate::registry::{ApiError, Kind, kinds};

/// `/openapi/v2`: an empty document, which is a valid protobuf one.
pub(super) fn v2(call: &Call) -> Response {
    if call.header(header::ACCEPT).contains("openapi.spec.v2") {
        let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return respond(StatusCode::OK, media_type, "");
    }
    let document = json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": "unversioned"}, "paths": {},
    });
    json_value(StatusCode::OK, &document)
}

/// `/openapi/v3`: where the documents are. The hash changes with the document: kubectl keeps it on disk under that.
pub(super) fn v3_root() -> Response {
    let mut paths = Map::new();
    for kind in kinds::ALL {
        let path = path(kind.group, kind.version);
        let mut hasher = DefaultHasher::new();
        document(kind.group, kind.version)
            .to_string()
            .hash(&mut hasher);
        let hash = format!("{:016X}", hasher.finish());
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json_value(StatusCode::OK, &json!({"paths": paths}))
}

/// The document of one group and version.
pub(super) fn v3_document(group: &str, version: &str) -> Result<Response, ApiError> {
    Ok(json_value(StatusCode::OK, &document(group, version)))
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn document(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let kinds = kinds::ALL
        .iter()
        .filter(|kind| kind.group == group && kind.version == version);
    for kind in kinds {
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let schema = json!({"type": "object", "x-kubernetes-group-version-kind": [gvk]});
        schemas.insert(schema_name(kind), schema);
        let namespaces = if kind.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let at = format!(
            "/{}/{namespaces}{}/{{name}}",
            path(group, version),
            kind.plural
        );
        paths.insert(at, json!({"patch": patch(kind, &gvk)}));
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

fn patch(kind: &Kind, gvk: &Value) -> Value {
    let reference = format!("#/components/schemas/{}", schema_name(kind));
    let schema = json!({"schema": {"$ref": reference}});
    json!({
        "parameters": [{
            "name": "fieldValidation", "in": "query",
            "schema": {"type": "string", "uniqueItems": true},
        }],
        "requestBody": {"content": {
            "application/json-patch+json": schema, "application/merge-patch+json": schema,
        }},
        "responses": {},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": gvk,
    })
}

/// `io.k8s.api.core.v1.Pod`.
fn schema_name(kind: &Kind) -> String {
    let group = kind.group.split('.').next().unwrap_or_default();
    let group = if group.is_empty() { "core" } else { group };
    format!("io.k8s.api.{group}.{}.{}", kind.version, kind.kind)
}
