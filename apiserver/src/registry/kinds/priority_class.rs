//! PriorityClass (scheduling.k8s.io/v1).

use serde_json::json;

use super::{pod::set_if_absent, template, text_at};
use crate::registry::{
    kind::{ALL_VERBS, Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// The highest value that is not the system's own.
const HIGHEST: i64 = 1_000_000_000;
/// The classes that may have a name of the system, and their values.
const SYSTEM: [(&str, i64); 2] = [
    ("system-cluster-critical", 2 * HIGHEST),
    ("system-node-critical", 2 * HIGHEST + 1000),
];

/// PriorityClass.
pub static PRIORITY_CLASSES: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        generation: true,
        default: |class| {
            set_if_absent(class, "preemptionPolicy", json!("PreemptLowerPriority"));
        },
        validate: |_, new, old, causes| {
            let name = text_at(new, &["metadata", "name"]);
            let value = new["value"].as_i64().unwrap_or(0);
            if name.starts_with("system-") && !SYSTEM.contains(&(name, value)) {
                let detail = "priority class names with 'system-' prefix are reserved for system use only. error: the name and value do not match a system class";
                causes.forbidden("metadata.name", detail);
            } else if value > HIGHEST && !name.starts_with("system-") {
                let detail =
                    format!("maximum allowed value of a user defined priority is {HIGHEST}");
                causes.forbidden("value", &detail);
            }
            let policy = text_at(new, &["preemptionPolicy"]);
            let supported = &["Never", "PreemptLowerPriority"];
            if !supported.contains(&policy) {
                causes.not_supported("preemptionPolicy", policy, supported);
            }
            if let Some(old) = old {
                if old["value"].as_i64().unwrap_or(0) != value {
                    causes.forbidden("value", "may not be changed in an update.");
                }
                let path = "preemptionPolicy";
                template::immutable(path, &old[path], &new[path], causes);
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::integer("Value", "The priority of its Pods."),
            Column {
                cell_type: "boolean",
                ..Column::text("Global-Default", "Whether Pods without a class get it.")
            },
            AGE,
            Column::text("PreemptionPolicy", "Whether its Pods displace others."),
        ],
        cells: |object, row| {
            row.name(object);
            row.number(object["value"].as_i64().unwrap_or(0));
            row.number(object["globalDefault"] == true);
            row.age(object);
            row.text(text_at(object, &["preemptionPolicy"]));
        },
    },
};
