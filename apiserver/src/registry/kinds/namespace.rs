//! Namespace (core/v1).

use serde_json::{Value, json};

use crate::registry::{
    kind::{Kind, NameRule, Rules, STATUS, Subresource},
    meta,
    table::{AGE, Column, NAME, Table},
};

/// Namespace.
pub static NAMESPACES: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    verbs: &[
        "create", "delete", "get", "list", "patch", "update", "watch",
    ],
    subresources: &[
        Subresource {
            name: "finalize",
            body: None,
            verbs: &["update"],
        },
        STATUS,
    ],
    rules: Rules {
        name: NameRule::Label,
        has_status: true,
        delete_returns_object: true,
        permanent: &["default", "kube-system", "kube-public"],
        fields: &[("status.phase", |namespace| {
            super::text_at(namespace, &["status", "phase"]).to_owned()
        })],
        default: |namespace| {
            // Always enforced, so that selectors can name namespaces (F1).
            let name = meta::text(namespace, "name").to_owned();
            let metadata = meta::metadata_mut(namespace);
            let labels = metadata.entry("labels").or_insert_with(|| json!({}));
            labels["kubernetes.io/metadata.name"] = name.into();
        },
        prepare_create: |namespace| {
            namespace["spec"]["finalizers"] = json!(["kubernetes"]);
            namespace["status"] = json!({"phase": "Active"});
        },
        // The finalizers in the spec change through /finalize only.
        prepare_update: |_, old, new| new["spec"] = old["spec"].clone(),
        held_back: |namespace| !super::items(&namespace["spec"]["finalizers"]).is_empty(),
        on_terminating: |namespace: &mut Value| namespace["status"]["phase"] = "Terminating".into(),
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, Column::text("Status", "Its phase."), AGE],
        cells: |object, row| {
            row.name(object);
            row.text(super::text_at(object, &["status", "phase"]));
            row.age(object);
        },
    },
};
