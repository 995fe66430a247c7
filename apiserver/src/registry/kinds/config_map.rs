//! ConfigMap (core/v1).

use serde_json::Value;

use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// ConfigMap.
pub static CONFIG_MAPS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        create_on_update: true,
        validate: |_, new, old, causes| {
            sizes(&["data", "binaryData"], &["binaryData"], new, causes);
            for key in new["binaryData"].as_object().into_iter().flatten() {
                if new["data"].get(key.0).is_some() {
                    let path = format!("data[{}]", key.0);
                    causes.invalid(
                        path,
                        key.0.as_str(),
                        "duplicate of key present in binaryData",
                    );
                }
            }
            immutable(&["data", "binaryData"], new, old, causes);
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, Column::text("Data", "How many keys it holds."), AGE],
        cells: |object, row| {
            row.name(object);
            row.text(&(keys(&object["data"]) + keys(&object["binaryData"])).to_string());
            row.age(object);
        },
    },
};

/// How many keys a map has.
pub(super) fn keys(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

/// Checks the keys, and that all values together stay within 1 MiB (M14).
/// Fields in `base64` count as what they decode to.
pub(super) fn sizes(fields: &[&str], base64: &[&str], new: &Value, causes: &mut Causes) {
    const LIMIT: usize = 1024 * 1024;
    let mut size_bytes = 0;
    for field in fields {
        for (key, value) in new[*field].as_object().into_iter().flatten() {
            let fine = key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !fine || key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                causes.invalid(format!("{field}[{key}]"), key.as_str(), detail);
            }
            let text = value.as_str().unwrap_or_default();
            size_bytes += if base64.contains(field) {
                decoded_len(text)
            } else {
                text.len()
            };
        }
    }
    if size_bytes > LIMIT {
        causes.too_long(fields[0], LIMIT);
    }
}

/// How many bytes a base64 text stands for.
fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

/// Once `immutable` is true it and these fields stay as they are.
pub(super) fn immutable(fields: &[&str], new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    if new["immutable"] != true {
        causes.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in fields {
        if new[*field] != old[*field] {
            causes.forbidden(*field, "field is immutable when `immutable` is set");
        }
    }
}
