//! LimitRange (core/v1), stored and shown; nothing is measured by it.

use serde_json::{Value, json};

use super::{items, resource_quota::quantities, text_at};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules},
    table::{CREATED_AT, NAME, Table},
};

/// LimitRange.
pub static LIMIT_RANGES: Kind = Kind {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        default: fill,
        validate: |_, new, _, causes| validate(new, causes),
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, CREATED_AT],
        cells: |object, row| {
            row.name(object);
            row.created(object);
        },
    },
};

/// What a container may have at most it gets, and what it gets it asks for.
fn fill(range: &mut Value) {
    let limits = range["spec"]
        .get_mut("limits")
        .and_then(Value::as_array_mut);
    for item in limits
        .into_iter()
        .flatten()
        .filter(|item| item["type"] == "Container")
    {
        for (from, to) in [
            ("max", "default"),
            ("default", "defaultRequest"),
            ("min", "defaultRequest"),
        ] {
            let source = item[from].as_object().cloned().unwrap_or_default();
            for (name, quantity) in source {
                if item[to].get(&name).is_none() {
                    if !item[to].is_object() {
                        item[to] = json!({});
                    }
                    item[to][&name] = quantity;
                }
            }
        }
        if let Some(map) = item.as_object_mut() {
            map.retain(|_, field| !field.is_null());
        }
    }
}

fn validate(range: &Value, causes: &mut Causes) {
    let mut seen = Vec::new();
    for (index, item) in items(&range["spec"]["limits"]).iter().enumerate() {
        let path = format!("spec.limits[{index}]");
        let kind = text_at(item, &["type"]);
        if kind.is_empty() {
            causes.required(format!("{path}.type"), "");
        } else if seen.contains(&kind) {
            causes.duplicate(format!("{path}.type"), kind);
        }
        seen.push(kind);
        for field in [
            "max",
            "min",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ] {
            quantities(&format!("{path}.{field}"), &item[field], causes);
        }
        for field in ["default", "defaultRequest"] {
            if kind == "Pod" && !item[field].is_null() {
                let detail = "may not be specified when `type` is 'Pod'";
                causes.forbidden(format!("{path}.{field}"), detail);
            }
        }
    }
}
