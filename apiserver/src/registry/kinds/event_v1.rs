//! Event (events.k8s.io/v1): the Events of core/v1 with other names for their fields. What is written here is held to the newer
//! rules. Source: kubernetes/kubernetes pkg/apis/events/v1/conversion.go, pkg/apis/core/validation/events.go.

use serde_json::Value;

use super::{
    event::{self, EVENTS, involved},
    text_at,
};
use crate::{
    registry::{
        causes::Causes,
        kind::{ALL_VERBS, Kind, Renamed, Rules},
        table::Table,
    },
    store::Durability,
};

/// The names in core/v1 and here.
static RENAMED: Renamed = Renamed {
    group: "",
    version: "v1",
    fields: &[
        ("involvedObject", "regarding"),
        ("message", "note"),
        ("reportingComponent", "reportingController"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
    ],
};

/// Event of events.k8s.io.
pub static EVENTS_V1: Kind = Kind {
    group: "events.k8s.io",
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
        renamed: Some(&RENAMED),
        create_on_update: true,
        durability: Durability::Relaxed,
        ttl: Some(event::KEPT),
        fields: &[
            ("regarding.kind", |e| involved(e, "kind")),
            ("regarding.namespace", |e| involved(e, "namespace")),
            ("regarding.name", |e| involved(e, "name")),
            ("regarding.uid", |e| involved(e, "uid")),
            ("regarding.apiVersion", |e| involved(e, "apiVersion")),
            ("regarding.resourceVersion", |e| {
                involved(e, "resourceVersion")
            }),
            ("regarding.fieldPath", |e| involved(e, "fieldPath")),
            ("reason", |e| text_at(e, &["reason"]).to_owned()),
            ("reportingController", |e| {
                text_at(e, &["reportingComponent"]).to_owned()
            }),
            ("type", |e| text_at(e, &["type"]).to_owned()),
        ],
        validate: |context, new, old, causes| {
            let core = |event: &Value| {
                let mut event = event.clone();
                RENAMED.store(&mut event);
                event
            };
            (EVENTS.rules.validate)(context, &core(new), old.map(core).as_ref(), causes);
            match old {
                None => new_event(new, causes),
                Some(old) => changed_event(old, new, causes),
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: event::TABLE.columns,
        cells: |event, row| {
            let mut event = event.clone();
            RENAMED.store(&mut event);
            event::cells(&event, row);
        },
    },
};

fn new_event(new: &Value, causes: &mut Causes) {
    if new["eventTime"].is_null() {
        causes.required("eventTime", "");
    }
    let limits = [
        ("reportingController", usize::MAX),
        ("reportingInstance", 128),
        ("action", 128),
        ("reason", 128),
    ];
    for (field, limit) in limits {
        match text_at(new, &[field]) {
            "" => causes.required(field, ""),
            text if text.len() > limit => causes.too_long(field, limit),
            _ => {}
        }
    }
    let controller = text_at(new, &["reportingController"]);
    if !controller.is_empty() {
        let verdict = api::names::qualified_name(controller);
        causes.check("reportingController", controller, verdict);
    }
    if text_at(new, &["note"]).len() > 1024 {
        causes.too_long("note", 1024);
    }
    let supported = &["Normal", "Warning"];
    if !supported.contains(&text_at(new, &["type"])) {
        causes.not_supported("type", text_at(new, &["type"]), supported);
    }
    for field in [
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
        "deprecatedCount",
    ] {
        let value = &new[field];
        if !value.is_null() && *value != 0 {
            causes.invalid(field, value.clone(), "needs to be unset");
        }
    }
    for part in ["component", "host"] {
        let text = text_at(new, &["deprecatedSource", part]);
        if !text.is_empty() {
            let field = format!("deprecatedSource.{part}");
            causes.invalid(field, text, "needs to be unset");
        }
    }
}

/// Of an Event only the series goes on. Those that came by core/v1 were never held to that.
fn changed_event(old: &Value, new: &Value, causes: &mut Causes) {
    if old["eventTime"].is_null() {
        return;
    }
    for field in [
        "regarding",
        "related",
        "reason",
        "note",
        "type",
        "action",
        "eventTime",
        "reportingController",
        "reportingInstance",
    ] {
        super::template::immutable(field, &old[field], &new[field], causes);
    }
}
