//! The rules of `metadata`, the same for every kind (M1-M7, M15).

use std::collections::HashSet;

use api::names;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    causes::Causes,
    error::ApiError,
    kind::{Kind, NameRule},
};

/// The current time as Kubernetes writes it: RFC 3339, whole seconds, `Z`.
#[must_use]
pub fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads `metadata.<field>` as text; absent is empty.
#[must_use]
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value["metadata"][field].as_str().unwrap_or_default()
}

/// The finalizers.
#[must_use]
pub fn finalizers(value: &Value) -> Vec<&str> {
    let list = value["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether a deletion has begun.
#[must_use]
pub fn is_terminating(value: &Value) -> bool {
    !text(value, "deletionTimestamp").is_empty()
}

/// Fills and cleans the metadata of an object about to be created; returns the `generateName` prefix when the
/// name was made here.
///
/// # Errors
/// [`ApiError::BadRequest`] when the body contradicts the path or names a resourceVersion.
pub fn prepare_create(
    kind: &'static Kind,
    namespace: Option<&str>,
    value: &mut Value,
    now: Timestamp,
) -> Result<Option<String>, ApiError> {
    match_path(kind, namespace, None, value)?;
    if !matches!(text(value, "resourceVersion"), "" | "0") {
        return Err(ApiError::BadRequest(
            "resourceVersion should not be set on objects to be created".into(),
        ));
    }
    let metadata = metadata_mut(value);
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "managedFields",
    ] {
        metadata.shift_remove(field);
    }
    drop_empty(metadata);
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), timestamp(now).into());
    if kind.rules.generation {
        metadata.insert("generation".into(), json!(1));
    }
    let prefix = text(value, "generateName").to_owned();
    if !text(value, "name").is_empty() || prefix.is_empty() {
        return Ok(None);
    }
    generate_name(value, &prefix);
    Ok(Some(prefix))
}

/// Makes (another) name from a prefix.
pub fn generate_name(value: &mut Value, prefix: &str) {
    let name = names::generate_name(prefix, &mut rand::rng());
    metadata_mut(value).insert("name".into(), name.into());
}

/// Drops maps and lists with nothing in them: said empty is as good as not said, so it is no change either (P6).
fn drop_empty(metadata: &mut serde_json::Map<String, Value>) {
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = metadata.get(field).is_some_and(|value| match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        });
        if empty {
            metadata.shift_remove(field);
        }
    }
}

/// The `metadata` map, made when it is missing.
pub fn metadata_mut(value: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    value["metadata"]
        .as_object_mut()
        .expect("made an object just above")
}

/// Fills kind, apiVersion and namespace (and name) from the path, or refuses a body that says otherwise (N3, M3).
///
/// # Errors
/// [`ApiError::BadRequest`].
pub fn match_path(
    kind: &'static Kind,
    namespace: Option<&str>,
    name: Option<&str>,
    value: &mut Value,
) -> Result<(), ApiError> {
    let wanted = [
        ("apiVersion", kind.api_version()),
        ("kind", kind.kind.to_owned()),
    ];
    for (field, want) in wanted {
        match value[field].as_str() {
            None | Some("") => {}
            Some(got) if got == want => {}
            Some(got) => {
                return Err(ApiError::BadRequest(format!(
                    "{} in version \"{}\" cannot be handled as a {}: {field} is \"{got}\", the request path says \"{want}\"",
                    value["kind"].as_str().unwrap_or(kind.kind),
                    value["apiVersion"].as_str().unwrap_or(kind.version),
                    kind.kind,
                )));
            }
        }
        if value.is_object() {
            value[field] = want.into();
        }
    }
    let metadata = metadata_mut(value);
    if let Some(namespace) = namespace {
        match metadata.get("namespace").and_then(Value::as_str) {
            None | Some("") => {
                metadata.insert("namespace".into(), namespace.into());
            }
            Some(got) if got == namespace => {}
            Some(_) => {
                return Err(ApiError::BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request".into(),
                ));
            }
        }
    } else {
        metadata.shift_remove("namespace");
    }
    let Some(name) = name else { return Ok(()) };
    match metadata.get("name").and_then(Value::as_str) {
        None | Some("") => {
            metadata.insert("name".into(), name.into());
            Ok(())
        }
        Some(got) if got == name => Ok(()),
        Some(got) => Err(ApiError::BadRequest(format!(
            "the name of the object ({got}) does not match the name on the URL ({name})"
        ))),
    }
}

/// Carries over what an update may not change; a wrong uid is a conflict (M7).
///
/// # Errors
/// [`ApiError::Conflict`].
pub fn prepare_update(
    kind: &'static Kind,
    name: &str,
    old: &Value,
    new: &mut Value,
) -> Result<(), ApiError> {
    let uid = text(new, "uid");
    if !uid.is_empty() && uid != text(old, "uid") {
        return Err(ApiError::Conflict {
            kind,
            name: name.to_owned(),
            detail: format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(old, "uid")
            ),
        });
    }
    let metadata = metadata_mut(new);
    drop_empty(metadata);
    for field in [
        "uid",
        "generateName",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ] {
        match old["metadata"].get(field) {
            Some(kept) => metadata.insert(field.into(), kept.clone()),
            None => metadata.shift_remove(field),
        };
    }
    Ok(())
}

/// Raises the generation when anything but metadata and status changed (M9).
pub fn bump_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.rules.generation {
        return;
    }
    // Without a status of its own a definition's objects have nothing but content besides the metadata.
    let whole = kind.is_custom() && !kind.rules.has_status;
    let changed = content(old).count() != content(new).count()
        || content(new).any(|(name, field)| old.get(name) != Some(field))
        || (whole && old.get("status") != new.get("status"));
    // Once, also where the kind's own rules have raised it for labels.
    if changed && old["metadata"]["generation"] == new["metadata"]["generation"] {
        raise_generation(new);
    }
}

/// The fields that are neither metadata nor status.
fn content(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let fields = value.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status" | "kind" | "apiVersion"))
}

/// Adds one to the generation.
pub fn raise_generation(value: &mut Value) {
    let generation = value["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
    metadata_mut(value).insert("generation".into(), json!(generation));
}

/// Checks names, labels, annotations, finalizers and owner references.
pub fn validate(kind: &'static Kind, new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let name = text(new, "name");
    if name.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    } else if old.is_none() {
        let verdict = match kind.rules.name {
            NameRule::Subdomain => names::dns1123_subdomain(name),
            NameRule::Label => names::dns1123_label(name),
            NameRule::Own => Ok(()),
        };
        causes.check("metadata.name", name, verdict);
    }
    labels("metadata.labels", &new["metadata"]["labels"], causes);
    annotations(&new["metadata"]["annotations"], causes);
    finalizer_rules(new, old, causes);
    owner_references(&new["metadata"]["ownerReferences"], causes);
}

/// Checks a label map at `field`.
pub fn labels(field: &str, labels: &Value, causes: &mut Causes) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        causes.check(field, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        causes.check(field, value, names::label_value(value));
    }
}

fn annotations(annotations: &Value, causes: &mut Causes) {
    const LIMIT: usize = 256 * 1024;
    let mut size_bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let verdict = names::qualified_name(&key.to_lowercase());
        causes.check("metadata.annotations", key, verdict);
        size_bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size_bytes > LIMIT {
        causes.too_long("metadata.annotations", LIMIT);
    }
}

fn finalizer_rules(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    for finalizer in finalizers(new) {
        let verdict = names::qualified_name(finalizer);
        causes.check("metadata.finalizers", finalizer, verdict);
    }
    let Some(old) = old.filter(|old| is_terminating(old)) else {
        return;
    };
    let kept: HashSet<&str> = finalizers(old).into_iter().collect();
    let added: Vec<&str> = finalizers(new)
        .into_iter()
        .filter(|finalizer| !kept.contains(finalizer))
        .collect();
    if !added.is_empty() {
        causes.forbidden(
            "metadata.finalizers",
            &format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
        );
    }
}

/// Drops owner references that say the same again; the warning names their uids (M15).
pub fn fold_owner_references(value: &mut Value) -> Option<String> {
    let owners = value
        .pointer_mut("/metadata/ownerReferences")?
        .as_array_mut()?;
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut uids = Vec::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            uids.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    (!uids.is_empty()).then(|| {
        format!(
            "metadata.ownerReferences contains duplicate entries, which were folded; please fix your requests; duplicate UID(s) observed: {}",
            uids.join(", ")
        )
    })
}

fn owner_references(owners: &Value, causes: &mut Causes) {
    let mut controllers = Vec::new();
    for (index, owner) in owners.as_array().into_iter().flatten().enumerate() {
        let at = |field: &str| format!("metadata.ownerReferences[{index}].{field}");
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(field).is_empty() {
                causes.required(at(field), "must not be empty");
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            causes.invalid(
                at("kind"),
                "Event",
                "v1, Kind=Event is disallowed from being an owner",
            );
        }
        if owner["controller"].as_bool() == Some(true) {
            controllers.push(text("name"));
        }
    }
    if let [one, other, ..] = controllers.as_slice() {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {one} and {other}"
        );
        causes.invalid("metadata.ownerReferences", controllers.len(), &detail);
    }
}
