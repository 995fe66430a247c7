//! OpenAPI documents (O1-O4), made from the schema table once.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::LazyLock,
};

use api::schema::{self, ServedKind};
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Map, json};

use super::{Call, json_bytes, json_value, respond};
use crate::registry::{ApiError, kinds};

/// One group-version's document, and the hash kubectl keeps it on disk under.
struct Document {
    text: Bytes,
    hash: u64,
}

/// By path: `api/v1`, `apis/<group>/<version>`.
static DOCUMENTS: LazyLock<BTreeMap<String, Document>> = LazyLock::new(|| {
    let versions = kinds::ALL.iter().map(|kind| (kind.group, kind.version));
    versions
        .map(|(group, version)| {
            let text = document(group, version);
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            let hash = hasher.finish();
            (path(group, version), Document { text, hash })
        })
        .collect()
});

fn path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn document(group: &str, version: &str) -> Bytes {
    let of_version = kinds::ALL
        .iter()
        .filter(|kind| kind.group == group && kind.version == version);
    let served: Vec<ServedKind<'_>> = of_version
        .map(|kind| ServedKind {
            kind: kind.kind,
            plural: kind.plural,
            namespaced: kind.namespaced,
        })
        .collect();
    schema::openapi_v3(group, version, &served)
        .to_string()
        .into()
}

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

/// `/openapi/v3`: where the documents are.
pub(super) fn v3_root() -> Response {
    let paths: Map<_, _> = DOCUMENTS
        .iter()
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={:016X}", document.hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json_value(StatusCode::OK, &json!({"paths": paths}))
}

/// The document of one group and version.
pub(super) fn v3_document(group: &str, version: &str) -> Result<Response, ApiError> {
    let document = DOCUMENTS.get(&path(group, version));
    let text = document.ok_or(ApiError::UnknownPath)?.text.clone();
    Ok(json_bytes(StatusCode::OK, text))
}
