//! Event (core/v1).

use std::time::Duration;

use serde_json::Value;

use super::text_at;
use crate::{
    registry::{
        kind::{ALL_VERBS, Kind, Rules},
        table::{Column, Row, Table},
    },
    store::Durability,
};

/// How long an Event is kept after its last change.
pub(super) const KEPT: Duration = Duration::from_secs(3600);

/// Event.
pub static EVENTS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        create_on_update: true,
        durability: Durability::Relaxed,
        ttl: Some(KEPT),
        fields: &[
            ("involvedObject.kind", |e| involved(e, "kind")),
            ("involvedObject.namespace", |e| involved(e, "namespace")),
            ("involvedObject.name", |e| involved(e, "name")),
            ("involvedObject.uid", |e| involved(e, "uid")),
            ("involvedObject.apiVersion", |e| involved(e, "apiVersion")),
            ("involvedObject.resourceVersion", |e| {
                involved(e, "resourceVersion")
            }),
            ("involvedObject.fieldPath", |e| involved(e, "fieldPath")),
            ("reason", |e| text_at(e, &["reason"]).to_owned()),
            ("reportingComponent", |e| {
                text_at(e, &["reportingComponent"]).to_owned()
            }),
            ("source", |e| {
                let source = text_at(e, &["source", "component"]);
                if source.is_empty() {
                    text_at(e, &["reportingComponent"]).to_owned()
                } else {
                    source.to_owned()
                }
            }),
            ("type", |e| text_at(e, &["type"]).to_owned()),
        ],
        validate: |_, new, _, causes| {
            let object_namespace = text_at(new, &["involvedObject", "namespace"]);
            let namespace = text_at(new, &["metadata", "namespace"]);
            let cluster_scoped = object_namespace.is_empty() && namespace == "default";
            if object_namespace != namespace && !cluster_scoped {
                let detail = "does not match event.namespace";
                causes.invalid("involvedObject.namespace", object_namespace, detail);
            }
        },
        ..Rules::GENERIC
    },
    table: TABLE,
};

/// How Events are shown, whatever names their fields have.
pub(super) const TABLE: Table = Table {
    columns: &[
        Column::text("Last Seen", "When it last happened."),
        Column::text("Type", "Normal or Warning."),
        Column::text("Reason", "What happened, in one word."),
        Column::text("Object", "What it happened to."),
        Column::wide("Subobject", "Which part of it."),
        Column::wide("Source", "Who saw it."),
        Column::text("Message", "What happened, in words."),
        Column::wide("First Seen", "When it first happened."),
        Column::wide("Count", "How often."),
        Column {
            format: "name",
            ..Column::wide("Name", "The name of the event itself.")
        },
    ],
    cells,
};

pub(super) fn involved(event: &Value, field: &str) -> String {
    text_at(event, &["involvedObject", field]).to_owned()
}

pub(super) fn cells(event: &Value, row: &mut Row) {
    let first_of = |paths: &[&[&str]]| {
        let found = paths.iter().map(|path| text_at(event, path));
        found
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let first = first_of(&[&["firstTimestamp"], &["eventTime"]]);
    let last = first_of(&[&["series", "lastObservedTime"], &["lastTimestamp"]]);
    row.since(if last.is_empty() { &first } else { &last });
    row.text(text_at(event, &["type"]));
    row.text(text_at(event, &["reason"]));
    let kind = text_at(event, &["involvedObject", "kind"]).to_lowercase();
    row.text(&format!(
        "{kind}/{}",
        text_at(event, &["involvedObject", "name"])
    ));
    row.text(text_at(event, &["involvedObject", "fieldPath"]));
    let component = first_of(&[&["source", "component"], &["reportingComponent"]]);
    let host = first_of(&[&["source", "host"], &["reportingInstance"]]);
    let source = [component, host];
    let source: Vec<&str> = source
        .iter()
        .map(String::as_str)
        .filter(|s| !s.is_empty())
        .collect();
    row.text(&source.join(", "));
    row.text(text_at(event, &["message"]).trim());
    row.since(&first);
    let count = event["series"]["count"]
        .as_i64()
        .or(event["count"].as_i64());
    row.text(&count.unwrap_or(0).max(1).to_string());
    row.name(event);
}
