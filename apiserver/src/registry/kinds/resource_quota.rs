//! ResourceQuota (core/v1), stored and shown; nothing is counted against it.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::{Value, json};

use super::items;
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules, STATUS},
    table::{AGE, Column, NAME, Table},
};

/// ResourceQuota.
pub static RESOURCE_QUOTAS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[STATUS],
    rules: Rules {
        has_status: true,
        delete_returns_object: true,
        prepare_create: |new| new["status"] = json!({}),
        validate: |_, new, old, causes| {
            quantities("spec.hard", &new["spec"]["hard"], causes);
            for field in ["hard", "used"] {
                quantities(&format!("status.{field}"), &new["status"][field], causes);
            }
            if let Some(old) = old
                && old["spec"]["scopes"] != new["spec"]["scopes"]
            {
                let scopes = items(&new["spec"]["scopes"]).to_vec();
                causes.invalid("spec.scopes", scopes, "field is immutable");
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Request", "Used and allowed, of all but limits."),
            Column::text("Limit", "Used and allowed limits."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            let status = &object["status"];
            let hard = status["hard"].as_object().into_iter().flatten();
            let hard: BTreeMap<&String, &Value> = hard.collect();
            let shown = |limits: bool| {
                let chosen = hard
                    .iter()
                    .filter(|(name, _)| name.starts_with("limits") == limits);
                let texts: Vec<String> = chosen
                    .map(|(name, hard)| {
                        let used = status["used"][name.as_str()].as_str().unwrap_or("0");
                        format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
                    })
                    .collect();
                texts.join(", ")
            };
            row.text(&shown(false));
            row.text(&shown(true));
            row.age(object);
        },
    },
};

/// Checks a list of resources.
pub(super) fn quantities(at: &str, list: &Value, causes: &mut Causes) {
    for (name, quantity) in list.as_object().into_iter().flatten() {
        let path = format!("{at}[{name}]");
        causes.check(path.as_str(), name, api::names::qualified_name(name));
        let text = match quantity {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match Quantity(text.as_str().into()).amount() {
            Ok(_) if text.starts_with('-') => {
                let detail = "must be greater than or equal to 0";
                causes.invalid(path, text, detail);
            }
            Ok(_) => {}
            Err(error) => causes.invalid(path, text, &error.to_string()),
        }
    }
}
