//! Secret (core/v1).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::config_map::{immutable, keys, sizes};
use crate::registry::{
    kind::{ALL_VERBS, Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// Secret.
pub static SECRETS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        create_on_update: true,
        fields: &[("type", |secret| {
            super::text_at(secret, &["type"]).to_owned()
        })],
        default: fill,
        validate: |_, new, old, causes| {
            sizes(&["data"], &["data"], new, causes);
            for (key, value) in new["data"].as_object().into_iter().flatten() {
                if STANDARD.decode(value.as_str().unwrap_or_default()).is_err() {
                    let path = format!("data[{key}]");
                    causes.invalid(path, "<hidden>", "must be base64 encoded");
                }
            }
            if let Some(old) = old
                && old["type"] != new["type"]
            {
                causes.invalid("type", new["type"].clone(), "field is immutable");
            }
            immutable(&["data"], new, old, causes);
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Type", "What the secret is for."),
            Column::text("Data", "How many keys it holds."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            row.text(super::text_at(object, &["type"]));
            row.text(&keys(&object["data"]).to_string());
            row.age(object);
        },
    },
};

/// The type, and `stringData` merged into `data`: it is write-only (M14).
fn fill(secret: &mut Value) {
    if super::text_at(secret, &["type"]).is_empty() {
        secret["type"] = "Opaque".into();
    }
    let Some(plain) = secret
        .as_object_mut()
        .and_then(|map| map.shift_remove("stringData"))
    else {
        return;
    };
    if !secret["data"].is_object() {
        secret["data"] = json!({});
    }
    for (key, value) in plain.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        secret["data"][key] = STANDARD.encode(text).into();
    }
}
