//! Deployment (apps/v1).

use serde_json::{Value, json};

use super::{
    pod::set_if_absent,
    pod_warnings,
    template::{self, CONTAINERS, IMAGES, SELECTOR, Workload, count},
    text_at,
};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules, SCALE, STATUS},
    table::{AGE, Column, NAME, Table},
};

/// Deployment.
pub static DEPLOYMENTS: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[SCALE, STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        prepare_create: |new| new["status"] = json!({}),
        default: fill,
        warnings: Some(pod_warnings::of_template),
        validate: |_, new, old, causes| {
            let rules = Workload {
                noun: "deployment",
                pods_of: "ReplicaSet",
            };
            rules.validate(new, old, causes);
            validate(&new["spec"], causes);
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Ready", "How many Pods are ready, of how many wanted."),
            Column::text("Up-to-date", "How many Pods have the newest template."),
            Column::text(
                "Available",
                "How many Pods have been ready for long enough.",
            ),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        cells: |object, row| {
            row.name(object);
            let (ready, desired) = (
                count(object, ["status", "readyReplicas"]),
                count(object, ["spec", "replicas"]),
            );
            row.text(&format!("{ready}/{desired}"));
            row.number(count(object, ["status", "updatedReplicas"]));
            row.number(count(object, ["status", "availableReplicas"]));
            row.age(object);
            template::cells(row, &object["spec"]["template"]);
            row.or_none(&template::selector_text(&object["spec"]["selector"]));
        },
    },
};

fn fill(deployment: &mut Value) {
    if !deployment["spec"].is_object() {
        deployment["spec"] = json!({});
    }
    let spec = &mut deployment["spec"];
    for (field, value) in [
        ("replicas", json!(1)),
        ("revisionHistoryLimit", json!(10)),
        ("progressDeadlineSeconds", json!(600)),
        ("strategy", json!({})),
        ("template", json!({})),
    ] {
        set_if_absent(spec, field, value);
    }
    let strategy = &mut spec["strategy"];
    set_if_absent(strategy, "type", json!("RollingUpdate"));
    if text_at(strategy, &["type"]) == "RollingUpdate" {
        set_if_absent(strategy, "rollingUpdate", json!({}));
        for field in ["maxUnavailable", "maxSurge"] {
            set_if_absent(&mut strategy["rollingUpdate"], field, json!("25%"));
        }
    }
    template::fill(&mut spec["template"]);
}

/// Source: kubernetes/kubernetes pkg/apis/apps/validation/validation.go, ValidateDeploymentSpec.
fn validate(spec: &Value, causes: &mut Causes) {
    let numbers = [
        "replicas",
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ];
    template::not_negative(spec, &numbers, causes);
    validate_strategy(&spec["strategy"], causes);
    let deadline = spec["progressDeadlineSeconds"].as_i64();
    let min_ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if let Some(deadline) = deadline.filter(|deadline| *deadline <= min_ready) {
        let detail = "must be greater than minReadySeconds";
        causes.invalid("spec.progressDeadlineSeconds", deadline, detail);
    }
}

fn validate_strategy(strategy: &Value, causes: &mut Causes) {
    let rolling = &strategy["rollingUpdate"];
    match text_at(strategy, &["type"]) {
        "Recreate" if !rolling.is_null() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            causes.forbidden("spec.strategy.rollingUpdate", detail);
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let at = |field: &str| format!("spec.strategy.rollingUpdate.{field}");
            for field in ["maxUnavailable", "maxSurge"] {
                template::int_or_percent(&at(field), &rolling[field], causes);
            }
            let unavailable = &rolling["maxUnavailable"];
            if template::is_zero(unavailable) && template::is_zero(&rolling["maxSurge"]) {
                let detail = "may not be 0 when `maxSurge` is 0";
                causes.invalid(at("maxUnavailable"), unavailable.clone(), detail);
            }
            template::at_most_everything(&at("maxUnavailable"), unavailable, causes);
        }
        other => {
            causes.not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]);
        }
    }
}
