//! StatefulSet (apps/v1).

use serde_json::{Value, json};

use super::{
    pod::set_if_absent,
    pod_warnings,
    template::{self, CONTAINERS, IMAGES, Workload, count},
    text_at,
};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules, SCALE, STATUS},
    table::{AGE, Column, NAME, Table},
};

/// What an update may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// StatefulSet.
pub static STATEFUL_SETS: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[SCALE, STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        prepare_create: |new| new["status"] = json!({"replicas": 0, "availableReplicas": 0}),
        default: fill,
        warnings: Some(pod_warnings::of_template),
        validate: |_, new, old, causes| {
            let rules = Workload {
                noun: "statefulset",
                pods_of: "StatefulSet",
            };
            // What may not change at all is told in one sentence, the selector with it.
            rules.validate(new, None, causes);
            validate(&new["spec"], causes);
            if let Some(old) = old {
                validate_update(&old["spec"], &new["spec"], causes);
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Ready", "How many Pods are ready, of how many wanted."),
            AGE,
            CONTAINERS,
            IMAGES,
        ],
        cells: |object, row| {
            row.name(object);
            let (ready, desired) = (
                count(object, ["status", "readyReplicas"]),
                count(object, ["spec", "replicas"]),
            );
            row.text(&format!("{ready}/{desired}"));
            row.age(object);
            template::cells(row, &object["spec"]["template"]);
        },
    },
};

fn fill(set: &mut Value) {
    if !set["spec"].is_object() {
        set["spec"] = json!({});
    }
    let spec = &mut set["spec"];
    for (field, value) in [
        ("replicas", json!(1)),
        ("revisionHistoryLimit", json!(10)),
        ("podManagementPolicy", json!("OrderedReady")),
        ("updateStrategy", json!({})),
        ("persistentVolumeClaimRetentionPolicy", json!({})),
        ("template", json!({})),
    ] {
        set_if_absent(spec, field, value);
    }
    let strategy = &mut spec["updateStrategy"];
    set_if_absent(strategy, "type", json!("RollingUpdate"));
    if text_at(strategy, &["type"]) == "RollingUpdate" {
        set_if_absent(strategy, "rollingUpdate", json!({}));
        set_if_absent(&mut strategy["rollingUpdate"], "partition", json!(0));
    }
    for field in ["whenDeleted", "whenScaled"] {
        let policy = &mut spec["persistentVolumeClaimRetentionPolicy"];
        set_if_absent(policy, field, json!("Retain"));
    }
    let claims = spec
        .get_mut("volumeClaimTemplates")
        .and_then(Value::as_array_mut);
    for claim in claims.into_iter().flatten() {
        set_if_absent(claim, "apiVersion", json!("v1"));
        set_if_absent(claim, "kind", json!("PersistentVolumeClaim"));
        set_if_absent(claim, "spec", json!({}));
        set_if_absent(&mut claim["spec"], "volumeMode", json!("Filesystem"));
        claim["status"] = json!({"phase": "Pending"});
    }
    template::fill(&mut spec["template"]);
}

fn validate(spec: &Value, causes: &mut Causes) {
    let numbers = ["replicas", "minReadySeconds", "revisionHistoryLimit"];
    template::not_negative(spec, &numbers, causes);
    let one_of = |path: &[&str], supported: &[&str], causes: &mut Causes| {
        let value = text_at(spec, path);
        if !supported.contains(&value) {
            causes.not_supported(format!("spec.{}", path.join(".")), value, supported);
        }
    };
    one_of(
        &["podManagementPolicy"],
        &["OrderedReady", "Parallel"],
        causes,
    );
    one_of(
        &["updateStrategy", "type"],
        &["OnDelete", "RollingUpdate"],
        causes,
    );
    for field in ["whenDeleted", "whenScaled"] {
        let path = ["persistentVolumeClaimRetentionPolicy", field];
        one_of(&path, &["Delete", "Retain"], causes);
    }
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if text_at(spec, &["updateStrategy", "type"]) == "OnDelete" && !rolling.is_null() {
        let detail = "only allowed for updateStrategy 'RollingUpdate'";
        causes.invalid("spec.updateStrategy.rollingUpdate", rolling.clone(), detail);
    }
    if let Some(partition) = rolling["partition"]
        .as_i64()
        .filter(|partition| *partition < 0)
    {
        let detail = "must be greater than or equal to 0";
        causes.invalid(
            "spec.updateStrategy.rollingUpdate.partition",
            partition,
            detail,
        );
    }
}

fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let fixed = |spec: &Value| {
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        spec.retain(|field, _| !MUTABLE.contains(&field.as_str()));
        spec
    };
    if fixed(old) != fixed(new) {
        causes.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
