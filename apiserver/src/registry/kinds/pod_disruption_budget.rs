//! PodDisruptionBudget (policy/v1): how many Pods of a set may be evicted at a time.

use serde_json::{Value, json};

use super::template::{self, count};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules, STATUS},
    table::{AGE, Column, NAME, Table},
};

/// PodDisruptionBudget.
pub static POD_DISRUPTION_BUDGETS: Kind = Kind {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        prepare_create: |new| {
            new["status"] = json!({
                "currentHealthy": 0, "desiredHealthy": 0,
                "disruptionsAllowed": 0, "expectedPods": 0,
            });
        },
        validate: |_, new, _, causes| {
            validate(&new["spec"], causes);
            validate_status(&new["status"], causes);
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Min Available", "How many Pods must stay available."),
            Column::text("Max Unavailable", "How many Pods may be unavailable."),
            Column::integer("Allowed Disruptions", "How many may be evicted now."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            for field in ["minAvailable", "maxUnavailable"] {
                match &object["spec"][field] {
                    Value::Null => row.text("N/A"),
                    Value::String(text) => row.text(text),
                    number => row.text(&number.to_string()),
                }
            }
            row.number(count(object, ["status", "disruptionsAllowed"]));
            row.age(object);
        },
    },
};

/// Source: kubernetes/kubernetes pkg/apis/policy/validation/validation.go.
fn validate(spec: &Value, causes: &mut Causes) {
    let given = ["minAvailable", "maxUnavailable"].map(|field| !spec[field].is_null());
    if given == [true, true] {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        causes.invalid("spec", spec.clone(), detail);
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let path = format!("spec.{field}");
        template::int_or_percent(&path, &spec[field], causes);
        template::at_most_everything(&path, &spec[field], causes);
    }
    template::selector_rules("spec.selector", &spec["selector"], causes);
    let supported = &["AlwaysAllow", "IfHealthyBudget"];
    if let Some(policy) = spec["unhealthyPodEvictionPolicy"].as_str()
        && !supported.contains(&policy)
    {
        causes.not_supported("spec.unhealthyPodEvictionPolicy", policy, supported);
    }
}

fn validate_status(status: &Value, causes: &mut Causes) {
    for field in [
        "currentHealthy",
        "desiredHealthy",
        "disruptionsAllowed",
        "expectedPods",
    ] {
        if let Some(number) = status[field].as_i64().filter(|number| *number < 0) {
            let detail = "must be greater than or equal to 0";
            causes.invalid(format!("status.{field}"), number, detail);
        }
    }
}
