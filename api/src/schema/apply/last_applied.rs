//! The annotation in which `kubectl apply`, when it merges by itself, keeps what it applied last.
//!
//! Whoever goes over to server-side apply with kubectl does not conflict with what kubectl applied before, and the
//! annotation is kept up to date so that there is a way back.

use serde_json::Value;

use super::FieldSet;
use crate::schema::Type;

/// The annotation.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together are no longer than this.
const ANNOTATIONS_LIMIT_BYTES: usize = 256 * 1024;

/// The fields that client-side apply set and that are still as it set them.
pub(super) fn fields(of: &Type, live: &Value, api_version: &str) -> Option<FieldSet> {
    let text = live["metadata"]["annotations"][ANNOTATION].as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    if applied["apiVersion"] != api_version {
        return None;
    }
    let set = of.field_set(&applied).ok()?;
    let difference = of.compare(&applied, live);
    let same = set.difference(&difference.changed);
    Some(same.difference(&difference.removed))
}

/// Writes the configuration into the annotation, if there is one.
pub(super) fn refresh(object: &mut Value, config: &Value) {
    let annotations = object.pointer_mut("/metadata/annotations");
    let Some(annotations) = annotations.and_then(Value::as_object_mut) else {
        return;
    };
    let present = annotations.get(ANNOTATION).and_then(Value::as_str);
    if present.is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(metadata)) = config.get_mut("metadata")
        && let Some(Value::Object(own)) = metadata.get_mut("annotations")
    {
        own.shift_remove(ANNOTATION);
        if own.is_empty() {
            metadata.shift_remove("annotations");
        }
    }
    config.sort_all_objects();
    annotations.insert(ANNOTATION.to_owned(), format!("{config}\n").into());
    let sizes = annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    if sizes.sum::<usize>() > ANNOTATIONS_LIMIT_BYTES {
        annotations.shift_remove(ANNOTATION);
    }
}
