//! Patches (P1-P3).

use json_patch::PatchOperation;
use serde_json::Value;

use super::{Call, body, schema};
use crate::registry::{ApiError, Kind};

/// The media types of patches.
pub(super) const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
/// The same for custom resources: there is nothing that could say how to merge their lists.
const ACCEPTED_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
/// The one that is a configuration to apply, not a change.
pub(super) const APPLY: &str = "application/apply-patch+yaml";
/// More operations than this are refused, as upstream.
const MAX_OPERATIONS: usize = 10_000;

/// Copies may add up to this many bytes, as upstream: each may double what is there.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// The media types of patches that a kind takes.
pub(super) fn accepted(kind: &Kind) -> &'static str {
    if kind.is_custom() {
        ACCEPTED_CUSTOM
    } else {
        ACCEPTED
    }
}

/// A patch, parsed.
pub(super) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads the body as its media type says.
    pub(super) async fn read(
        call: &mut Call,
        kind: &Kind,
    ) -> Result<(Self, Vec<String>), ApiError> {
        let media_type = body::media_type(call);
        let accepted = accepted(kind);
        let known = accepted.split(", ").any(|accepted| accepted == media_type);
        if !known {
            return Err(ApiError::UnsupportedMediaType { accepted });
        }
        if call.query.flag("force") && call.query.get("force").is_some() {
            return Err(ApiError::Unprocessable(
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch".into(),
            ));
        }
        let bytes = body::read(call).await?;
        Self::parse(&media_type, &bytes)
    }

    /// Reads the bytes of a patch of a known media type; the second part names keys that came twice.
    pub(super) fn parse(media_type: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), ApiError> {
        let document = body::json(bytes)?;
        let patch = match media_type {
            "application/json-patch+json" => Self::Json(operations(document.value)?),
            _ if !document.value.is_object() => {
                return Err(ApiError::BadRequest(
                    "the patch is not a JSON object".into(),
                ));
            }
            "application/merge-patch+json" => Self::Merge(document.value),
            _ => Self::Strategic(document.value),
        };
        Ok((patch, document.duplicates))
    }

    /// Whether it may touch a field of this name.
    pub(super) fn names(&self, field: &str) -> bool {
        match self {
            Self::Json(patch) => patch.0.iter().any(|operation| {
                let path = operation.path().as_str();
                // What is replaced or tested as a whole holds the field too.
                matches!(path, "" | "/metadata") || path.contains(field)
            }),
            Self::Merge(patch) | Self::Strategic(patch) => {
                patch["metadata"].get(field).is_some() || patch.get("$patch").is_some()
            }
        }
    }

    /// Changes `target`.
    pub(super) fn apply(&self, kind: &'static Kind, target: &mut Value) -> Result<(), ApiError> {
        match self {
            Self::Json(patch) => json_operations(target, patch),
            Self::Merge(patch) => {
                json_patch::merge(target, patch);
                Ok(())
            }
            Self::Strategic(patch) => schema::strategic_merge(kind, target, patch),
        }
    }
}

/// One operation after the other, with an eye on what the copies add up to.
fn json_operations(target: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
    let mut copied_bytes = 0;
    for (index, operation) in patch.0.iter().enumerate() {
        if let PatchOperation::Copy(copy) = operation {
            copied_bytes += copy.from.resolve(target).map_or(0, api::json::size_bytes);
            if copied_bytes > MAX_COPIED_BYTES {
                return Err(ApiError::TooLarge {
                    limit_bytes: MAX_COPIED_BYTES,
                });
            }
        }
        json_patch::patch(target, std::slice::from_ref(operation)).map_err(|error| {
            ApiError::Unprocessable(format!(
                "the server rejected our request due to an error in our request: operation [{index}] at \"{}\": {}",
                error.path, error.kind
            ))
        })?;
    }
    Ok(())
}

fn operations(value: Value) -> Result<json_patch::Patch, ApiError> {
    if value
        .as_array()
        .is_some_and(|operations| operations.len() > MAX_OPERATIONS)
    {
        return Err(ApiError::TooLarge {
            limit_bytes: MAX_OPERATIONS,
        });
    }
    serde_json::from_value(value)
        .map_err(|error| ApiError::BadRequest(format!("error decoding patch: {error}")))
}
