//! ReplicaSet (apps/v1).

use serde_json::{Value, json};

use super::{
    pod::set_if_absent,
    pod_warnings,
    template::{self, CONTAINERS, IMAGES, SELECTOR, Workload, count},
};
use crate::registry::{
    kind::{ALL_VERBS, Kind, Rules, SCALE, STATUS},
    table::{AGE, Column, NAME, Table},
};

/// ReplicaSet.
pub static REPLICA_SETS: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[SCALE, STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        prepare_create: |new| new["status"] = json!({"replicas": 0}),
        default: fill,
        warnings: Some(pod_warnings::of_template),
        validate: |_, new, old, causes| {
            let rules = Workload {
                noun: "replicaset",
                pods_of: "ReplicaSet",
            };
            rules.validate(new, old, causes);
            template::not_negative(&new["spec"], &["replicas", "minReadySeconds"], causes);
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::integer("Desired", "How many Pods are wanted."),
            Column::integer("Current", "How many Pods there are."),
            Column::integer("Ready", "How many Pods are ready."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        cells: |object, row| {
            row.name(object);
            row.number(count(object, ["spec", "replicas"]));
            row.number(count(object, ["status", "replicas"]));
            row.number(count(object, ["status", "readyReplicas"]));
            row.age(object);
            template::cells(row, &object["spec"]["template"]);
            row.or_none(&template::selector_text(&object["spec"]["selector"]));
        },
    },
};

fn fill(set: &mut Value) {
    if !set["spec"].is_object() {
        set["spec"] = json!({});
    }
    let spec = &mut set["spec"];
    set_if_absent(spec, "replicas", json!(1));
    set_if_absent(spec, "template", json!({}));
    template::fill(&mut spec["template"]);
}
