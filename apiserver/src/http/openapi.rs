//! OpenAPI documents (O1-O4), made from the schema table when they are asked for: they are big, and clients keep them.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::LazyLock,
};

use api::schema::{self, ServedKind};
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::{Call, json_bytes, json_value, tagged};
use crate::registry::{Catalog, custom::OpenApi, kinds};

/// What kubectl keeps the built-in documents on disk under, by path: `api/v1`, `apis/<group>/<version>`.
static HASHES: LazyLock<BTreeMap<String, u64>> = LazyLock::new(|| {
    let kinds = Catalog::default();
    let versions = kinds::ALL.iter().map(|kind| (kind.group, kind.version));
    versions
        .map(|(group, version)| {
            let mut hasher = DefaultHasher::new();
            document(&kinds, group, version).hash(&mut hasher);
            (path(group, version), hasher.finish())
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

fn document(kinds: &Catalog, group: &str, version: &str) -> Bytes {
    let served = served(kinds, group, version, OpenApi::v3);
    schema::openapi_v3(group, version, &served)
        .to_string()
        .into()
}

fn served(
    kinds: &Catalog,
    group: &str,
    version: &str,
    schema: fn(&OpenApi) -> Value,
) -> Vec<ServedKind<'static>> {
    let of_version = kinds.of_version(group, version);
    of_version
        .map(|kind| ServedKind {
            kind: kind.kind,
            plural: kind.plural,
            namespaced: kind.namespaced,
            custom: kind.custom().map(|custom| {
                let openapi = custom.openapi();
                (openapi.name().to_owned(), schema(openapi))
            }),
        })
        .collect()
}

/// `/openapi/v2`: everything in one document; in protobuf for clients that do not know version 3.
pub(super) fn v2(call: &Call) -> Response {
    let kinds = call.state.registry.kinds();
    if call.header(header::ACCEPT).contains("openapi.spec.v2") {
        let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        let document = kinds.openapi_v2_protobuf(|| {
            let document = schema::openapi_v2_protobuf(&v2_document(&kinds));
            document.into()
        });
        return tagged(call, media_type, document);
    }
    let document = v2_document(&kinds).to_string();
    tagged(call, "application/json", document.into())
}

fn v2_document(kinds: &Catalog) -> Value {
    let mut versions: Vec<_> = kinds.all().map(|kind| (kind.group, kind.version)).collect();
    versions.sort_unstable();
    versions.dedup();
    let versions: Vec<_> = versions
        .into_iter()
        .map(|(group, version)| (group, version, served(kinds, group, version, OpenApi::v2)))
        .collect();
    schema::openapi_v2(&versions)
}

/// `/openapi/v3`: where the documents are.
pub(super) fn v3_root(call: &Call) -> Response {
    let mut hashes = HASHES.clone();
    for kind in call.state.registry.kinds().all() {
        if let Some(custom) = kind.custom() {
            let hash = hashes.entry(path(kind.group, kind.version)).or_default();
            let mut hasher = DefaultHasher::new();
            (*hash, custom.openapi().hash()).hash(&mut hasher);
            *hash = hasher.finish();
        }
    }
    let paths: Map<_, _> = hashes
        .iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash:016X}");
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json_value(StatusCode::OK, &json!({"paths": paths}))
}

/// The document of one group and version.
pub(super) fn v3_document(call: &Call, group: &str, version: &str) -> Response {
    let kinds = call.state.registry.kinds();
    json_bytes(StatusCode::OK, document(&kinds, group, version))
}
