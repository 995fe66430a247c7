//! RuntimeClass (node.k8s.io/v1).

use super::{template, text_at};
use crate::registry::{
    kind::{ALL_VERBS, Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// RuntimeClass.
pub static RUNTIME_CLASSES: Kind = Kind {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        validate: |_, new, old, causes| {
            let handler = text_at(new, &["handler"]);
            if handler.is_empty() {
                causes.required("handler", "");
            } else {
                causes.check("handler", handler, api::names::dns1123_label(handler));
            }
            if let Some(old) = old {
                template::immutable("handler", &old["handler"], &new["handler"], causes);
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Handler", "The runtime its Pods are run by."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            row.text(text_at(object, &["handler"]));
            row.age(object);
        },
    },
};
