//! Job (batch/v1).

use serde_json::{Value, json};

use super::{
    items,
    pod::set_if_absent,
    pod_warnings,
    template::{self, CONTAINERS, IMAGES, SELECTOR, count},
    text_at,
};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules, STATUS},
    meta,
    table::{AGE, Column, NAME, Row, Table, human_duration},
};

/// The label that ties a Pod to its Job.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Job.
pub static JOBS: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short_names: &[],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        fields: &[("status.successful", |job| {
            count(job, ["status", "succeeded"]).to_string()
        })],
        prepare_create: |new| {
            new["status"] = json!({});
            tie_pods(new);
        },
        default: fill,
        warnings: Some(pod_warnings::of_template),
        validate: |_, new, old, causes| validate(new, old, causes),
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Status", "How far it has come."),
            Column::text(
                "Completions",
                "How many Pods have succeeded, of how many wanted.",
            ),
            Column::text("Duration", "How long it has run."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        cells: |object, row| {
            row.name(object);
            row.text(phase(object));
            row.text(&completions(object));
            row.text(&duration(object, row));
            row.age(object);
            template::cells(row, &object["spec"]["template"]);
            row.or_none(&template::selector_text(&object["spec"]["selector"]));
        },
    },
};

/// The Pods of a Job are found by a label with its uid, unless the author says that the selector is his own.
fn tie_pods(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let uid = meta::text(job, "uid").to_owned();
    let name = meta::text(job, "name").to_owned();
    let labels = &mut job["spec"]["template"]["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    for (key, value) in [
        ("controller-uid", &uid),
        (CONTROLLER_UID, &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        // What an author sets wrongly is told apart below.
        set_if_absent(labels, key, json!(value));
    }
    let spec = &mut job["spec"];
    if spec.get("selector").is_none_or(Value::is_null) {
        spec["selector"] = json!({"matchLabels": {CONTROLLER_UID: uid}});
    }
}

fn fill(job: &mut Value) {
    if !job["spec"].is_object() {
        job["spec"] = json!({});
    }
    let spec = &mut job["spec"];
    // A work queue has neither; otherwise one missing number is one.
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        spec["completions"] = json!(1);
    }
    let per_index = spec.get("backoffLimitPerIndex").is_some();
    for (field, value) in [
        ("parallelism", json!(1)),
        ("backoffLimit", json!(if per_index { i32::MAX } else { 6 })),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("template", json!({})),
    ] {
        set_if_absent(spec, field, value);
    }
    let policy = spec.get("podFailurePolicy").is_some();
    let replacement = if policy {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set_if_absent(spec, "podReplacementPolicy", json!(replacement));
    template::fill(&mut spec["template"]);
}

/// Source: kubernetes/kubernetes pkg/apis/batch/validation/validation.go.
fn validate(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &new["spec"];
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "backoffLimitPerIndex",
        "ttlSecondsAfterFinished",
    ];
    template::not_negative(spec, &numbers, causes);
    let mode = text_at(spec, &["completionMode"]);
    if !matches!(mode, "Indexed" | "NonIndexed") {
        causes.not_supported("spec.completionMode", mode, &["Indexed", "NonIndexed"]);
    }
    if mode == "Indexed" && spec["completions"].is_null() {
        let detail = "when completion mode is Indexed";
        causes.required("spec.completions", detail);
    }
    template::selector_rules("spec.selector", &spec["selector"], causes);
    let labels = &spec["template"]["metadata"]["labels"];
    if !template::matches(&spec["selector"], labels) {
        let detail = "`selector` does not match template `labels`";
        causes.invalid("spec.template.metadata.labels", labels.clone(), detail);
    }
    if old.is_none() && spec["manualSelector"] != true {
        for (key, wanted) in [
            (CONTROLLER_UID, meta::text(new, "uid")),
            ("batch.kubernetes.io/job-name", meta::text(new, "name")),
        ] {
            let got = text_at(labels, &[key]);
            if got != wanted {
                let detail = format!("must be '{wanted}'");
                causes.invalid("spec.template.metadata.labels", got, &detail);
            }
        }
    }
    template::template_rules(&spec["template"], causes);
    let restart = text_at(spec, &["template", "spec", "restartPolicy"]);
    if !matches!(restart, "OnFailure" | "Never") {
        let field = "spec.template.spec.restartPolicy";
        causes.required(field, "valid values: \"OnFailure\", \"Never\"");
    }
    let Some(old) = old else { return };
    let old = &old["spec"];
    let mut fields = vec![
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
    ];
    // An Indexed Job may be resized, its two numbers together.
    if mode != "Indexed" || spec["completions"] != spec["parallelism"] {
        fields.push("completions");
    }
    // Before it starts, where its Pods may run is still open.
    if old["suspend"] != true {
        fields.push("template");
    }
    for field in fields {
        let path = format!("spec.{field}");
        template::immutable(&path, &old[field], &spec[field], causes);
    }
}

fn holds(job: &Value, wanted: &str) -> bool {
    let mut conditions = items(&job["status"]["conditions"]).iter();
    conditions.any(|c| c["type"] == wanted && c["status"] == "True")
}

fn phase(job: &Value) -> &'static str {
    if holds(job, "Complete") {
        "Complete"
    } else if holds(job, "Failed") {
        "Failed"
    } else if meta::is_terminating(job) {
        "Terminating"
    } else if holds(job, "Suspended") {
        "Suspended"
    } else if holds(job, "FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let done = count(job, ["status", "succeeded"]);
    match job["spec"]["completions"].as_i64() {
        Some(wanted) => format!("{done}/{wanted}"),
        None => match count(job, ["spec", "parallelism"]) {
            workers @ 2.. => format!("{done}/1 of {workers}"),
            _ => format!("{done}/1"),
        },
    }
}

fn duration(job: &Value, row: &Row) -> String {
    let time = |field: &str| text_at(job, &["status", field]);
    let started = time("startTime");
    if started.is_empty() {
        return String::new();
    }
    let read = |text: &str| text.parse::<jiff::Timestamp>().ok();
    match (read(started), read(time("completionTime"))) {
        (Some(start), Some(end)) => human_duration(end.as_second() - start.as_second()),
        _ => row.elapsed(started),
    }
}
