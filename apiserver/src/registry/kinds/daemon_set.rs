//! DaemonSet (apps/v1).

use serde_json::{Value, json};

use super::{
    label_list,
    pod::set_if_absent,
    pod_warnings,
    template::{self, CONTAINERS, IMAGES, SELECTOR, Workload, count},
    text_at,
};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules, STATUS},
    table::{AGE, Column, NAME, Table},
};

/// DaemonSet.
pub static DAEMON_SETS: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        prepare_create: |new| {
            new["status"] = json!({
                "currentNumberScheduled": 0, "numberMisscheduled": 0,
                "desiredNumberScheduled": 0, "numberReady": 0,
            });
        },
        default: fill,
        warnings: Some(pod_warnings::of_template),
        validate: |_, new, old, causes| {
            let rules = Workload {
                noun: "daemonset",
                pods_of: "DaemonSet",
            };
            rules.validate(new, old, causes);
            let numbers = ["minReadySeconds", "revisionHistoryLimit"];
            template::not_negative(&new["spec"], &numbers, causes);
            validate_strategy(&new["spec"]["updateStrategy"], causes);
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::integer("Desired", "How many nodes should run it."),
            Column::integer("Current", "How many nodes should run it and do."),
            Column::integer("Ready", "On how many of those its Pod is ready."),
            Column::integer("Up-to-date", "How many run the newest template."),
            Column::integer("Available", "How many have been ready for long enough."),
            Column::text("Node Selector", "The labels of the nodes that run it."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        cells: |object, row| {
            row.name(object);
            for field in [
                "desiredNumberScheduled",
                "currentNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
            ] {
                row.number(count(object, ["status", field]));
            }
            let template = &object["spec"]["template"];
            row.or_none(&label_list(&template["spec"]["nodeSelector"]));
            row.age(object);
            template::cells(row, template);
            row.or_none(&template::selector_text(&object["spec"]["selector"]));
        },
    },
};

fn fill(set: &mut Value) {
    if !set["spec"].is_object() {
        set["spec"] = json!({});
    }
    let spec = &mut set["spec"];
    for (field, value) in [
        ("revisionHistoryLimit", json!(10)),
        ("updateStrategy", json!({})),
        ("template", json!({})),
    ] {
        set_if_absent(spec, field, value);
    }
    let strategy = &mut spec["updateStrategy"];
    set_if_absent(strategy, "type", json!("RollingUpdate"));
    if text_at(strategy, &["type"]) == "RollingUpdate" {
        set_if_absent(strategy, "rollingUpdate", json!({}));
        let rolling = &mut strategy["rollingUpdate"];
        set_if_absent(rolling, "maxUnavailable", json!(1));
        set_if_absent(rolling, "maxSurge", json!(0));
    }
    template::fill(&mut spec["template"]);
}

/// Either of the two numbers is zero, and not both.
fn validate_strategy(strategy: &Value, causes: &mut Causes) {
    let rolling = &strategy["rollingUpdate"];
    match text_at(strategy, &["type"]) {
        "OnDelete" => {}
        "RollingUpdate" => {
            let at = |field: &str| format!("spec.updateStrategy.rollingUpdate.{field}");
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
                template::int_or_percent(&at(field), value, causes);
                template::at_most_everything(&at(field), value, causes);
            }
            match (template::is_zero(unavailable), template::is_zero(surge)) {
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    causes.invalid(at("maxSurge"), surge.clone(), detail);
                }
                (true, true) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    causes.invalid(at("maxUnavailable"), unavailable.clone(), detail);
                }
                _ => {}
            }
        }
        other => {
            let supported = &["OnDelete", "RollingUpdate"];
            causes.not_supported("spec.updateStrategy.type", other, supported);
        }
    }
}
