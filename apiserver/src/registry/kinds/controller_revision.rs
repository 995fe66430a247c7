//! ControllerRevision (apps/v1): a template as it once was, for StatefulSets and DaemonSets to go back to.

use super::{items, template, text_at};
use crate::registry::{
    kind::{ALL_VERBS, Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// ControllerRevision.
pub static CONTROLLER_REVISIONS: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        validate: |_, new, old, causes| {
            if let Some(number) = new["revision"].as_i64().filter(|number| *number < 0) {
                causes.invalid("revision", number, "must be greater than or equal to 0");
            }
            match old {
                Some(old) => template::immutable("data", &old["data"], &new["data"], causes),
                None if new["data"].is_null() => causes.required("data", "data is mandatory"),
                None => {}
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Controller", "Whose template it holds."),
            Column::text("Revision", "Which version of it."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            let owners = items(&object["metadata"]["ownerReferences"]);
            let controller = owners.iter().find(|owner| owner["controller"] == true);
            row.or_none(&controller.map_or_else(String::new, |owner| {
                let kind = text_at(owner, &["kind"]).to_lowercase();
                let version = text_at(owner, &["apiVersion"]);
                let name = text_at(owner, &["name"]);
                match version.split_once('/') {
                    Some((group, _)) => format!("{kind}.{group}/{name}"),
                    None => format!("{kind}/{name}"),
                }
            }));
            row.number(object["revision"].as_i64().unwrap_or(0));
            row.age(object);
        },
    },
};
