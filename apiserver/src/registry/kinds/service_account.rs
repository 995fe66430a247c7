//! ServiceAccount (core/v1).

use super::review::AUTHENTICATION;
use crate::registry::{
    kind::{ALL_VERBS, Kind, Rules, Subresource},
    table::{AGE, Column, NAME, Table},
};

/// ServiceAccount.
pub static SERVICE_ACCOUNTS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource {
        name: "token",
        body: Some((AUTHENTICATION, "v1", "TokenRequest")),
        verbs: &["create"],
    }],
    rules: Rules {
        delete_returns_object: true,
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Secrets", "How many secrets it names."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            row.text(&super::items(&object["secrets"]).len().to_string());
            row.age(object);
        },
    },
};
