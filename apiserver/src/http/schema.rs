//! What the schema table says of a body: which fields are known, which types they have.

use api::schema::{self, Type};
use serde_json::Value;

use super::options::FieldValidation;
use crate::registry::{ApiError, Kind, meta};

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
    problems.extend(meta::fold_owner_references(value));
    Ok(problems)
}

/// Keys of a configuration that came twice: refused in strict mode, worth a warning otherwise.
pub(super) fn duplicates(
    duplicates: &[String],
    validation: FieldValidation,
) -> Result<Warnings, ApiError> {
    let problems: Warnings = duplicates
        .iter()
        .map(|path| format!("duplicate field \"{path}\""))
        .collect();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => Err(ApiError::BadRequest(format!(
            "error strict decoding YAML: {}",
            problems.join(", ")
        ))),
        FieldValidation::Ignore => Ok(Warnings::new()),
        FieldValidation::Strict | FieldValidation::Warn => Ok(problems),
    }
}

/// Refuses options of another kind or with values of wrong types: a precondition that is not understood must not pass for
/// none.
pub(super) fn check_options(
    (group, version, kind): (&str, &str, &str),
    value: &Value,
) -> Result<(), ApiError> {
    let bad = |detail: String| {
        ApiError::BadRequest(format!("the body cannot be handled as {kind}: {detail}"))
    };
    match value["kind"].as_str() {
        None | Some("") => {}
        Some(got) if got == kind => {}
        Some(got) => return Err(bad(format!("kind is \"{got}\""))),
    }
    let known = schema::lookup(group, version, kind);
    known.map_or(Ok(()), |of| {
        of.check(value).map_err(|error| bad(error.to_string()))
    })
}

fn prune(kind: &Kind, value: &mut Value) -> Vec<String> {
    if kind.is_custom() {
        return prune_custom(kind, value);
    }
    let Some(of) = of(kind) else {
        return Vec::new();
    };
    of.prune(value)
        .into_iter()
        .map(|field| field.path)
        .collect()
}

/// The definition's schema says what is known, the table what metadata hold. Types are looked at by validation.
fn prune_custom(kind: &Kind, value: &mut Value) -> Vec<String> {
    let known = schema::type_named("meta.v1.ObjectMeta");
    let metadata = value.get_mut("metadata");
    let mut unknown: Vec<String> = match (known, metadata) {
        (Some(of), Some(metadata)) => {
            let unknown = of.prune(metadata).into_iter();
            unknown
                .map(|field| format!("metadata.{}", field.path))
                .collect()
        }
        _ => Vec::new(),
    };
    if let Some(custom) = kind.custom() {
        unknown.extend(custom.prune(value));
    }
    unknown
}

fn check(kind: &Kind, value: &Value) -> Result<(), String> {
    if kind.is_custom() {
        let known = schema::type_named("meta.v1.ObjectMeta");
        let metadata = value.get("metadata").filter(|metadata| !metadata.is_null());
        return match (known, metadata) {
            (Some(of), Some(metadata)) => of
                .check(metadata)
                .map_err(|error| format!("metadata.{error}")),
            _ => Ok(()),
        };
    }
    of(kind).map_or(Ok(()), |of| {
        of.check(value).map_err(|error| error.to_string())
    })
}

/// The table knows every built-in kind.
fn of(kind: &Kind) -> Option<&'static Type> {
    schema::lookup(kind.group, kind.version, kind.kind)
}

/// Decodes a protobuf body: `k8s\0`, an envelope that names the kind, the message (N2). Clients may leave the kind
/// out; it is then that of the path, `expected` as (group, version, kind).
pub(super) fn from_protobuf(body: &[u8], expected: (&str, &str, &str)) -> Result<Value, ApiError> {
    let bad = |error: schema::ProtobufError| ApiError::BadRequest(error.to_string());
    let envelope = schema::unwrap_envelope(body).map_err(bad)?;
    if envelope.content_type == "application/json" {
        return Ok(super::body::json(envelope.raw)?.value);
    }
    let kind = if envelope.kind.is_empty() {
        expected.2
    } else {
        envelope.kind
    };
    let (group, version) = match envelope.api_version.split_once('/') {
        Some(pair) => pair,
        None if envelope.api_version.is_empty() => (expected.0, expected.1),
        None => ("", envelope.api_version),
    };
    let of = schema::lookup(group, version, kind).ok_or_else(|| {
        ApiError::BadRequest(format!(
            "no kind \"{kind}\" is registered for version \"{}\"",
            envelope.api_version
        ))
    })?;
    let mut value = of.from_protobuf(envelope.raw).map_err(bad)?;
    if !envelope.kind.is_empty() {
        value["kind"] = envelope.kind.into();
        value["apiVersion"] = envelope.api_version.into();
    }
    Ok(value)
}

/// A strategic merge patch: lists are merged by the keys in the table (P4-P7).
pub(super) fn strategic_merge(
    kind: &'static Kind,
    target: &mut Value,
    patch: &Value,
) -> Result<(), ApiError> {
    let of = of(kind).ok_or(ApiError::UnsupportedMediaType {
        accepted: super::patch::accepted(kind),
    })?;
    of.strategic_merge(target, patch)
        .map_err(|error| ApiError::BadRequest(error.to_string()))
}
