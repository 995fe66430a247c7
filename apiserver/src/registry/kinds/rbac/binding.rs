//! RoleBinding and ClusterRoleBinding.

use api::names;
use serde_json::Value;

use super::{GROUP, check_name, check_own_name};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, NameRule, Rules},
    kinds::{items, text_at},
    table::{AGE, Column, NAME, Row, Table},
};

const TABLE: Table = Table {
    columns: &[
        NAME,
        Column::text("Role", "The role that is given."),
        AGE,
        Column::wide("Users", "The users it is given to."),
        Column::wide("Groups", "The groups it is given to."),
        Column::wide("ServiceAccounts", "The ServiceAccounts it is given to."),
    ],
    cells,
};

fn cells(object: &Value, row: &mut Row) {
    let role = &object["roleRef"];
    row.name(object);
    row.text(&format!(
        "{}/{}",
        text_at(role, &["kind"]),
        text_at(role, &["name"])
    ));
    row.age(object);
    for kind in ["User", "Group", "ServiceAccount"] {
        let subjects = items(&object["subjects"]).iter();
        let names = subjects.filter(|subject| text_at(subject, &["kind"]) == kind);
        let names: Vec<String> = names.map(shown).collect();
        row.text(&names.join(", "));
    }
}

fn shown(subject: &Value) -> String {
    let name = text_at(subject, &["name"]);
    match text_at(subject, &["kind"]) {
        "ServiceAccount" => format!("{}/{name}", text_at(subject, &["namespace"])),
        _ => name.to_owned(),
    }
}

/// RoleBinding.
pub static ROLE_BINDINGS: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        name: NameRule::Own,
        default: fill,
        validate: |_, new, old, causes| check(new, old, &["Role", "ClusterRole"], causes),
        ..Rules::GENERIC
    },
    table: TABLE,
};

/// ClusterRoleBinding.
pub static CLUSTER_ROLE_BINDINGS: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        name: NameRule::Own,
        default: fill,
        validate: |_, new, old, causes| check(new, old, &["ClusterRole"], causes),
        ..Rules::GENERIC
    },
    table: TABLE,
};

/// The groups of the role and of the subjects.
fn fill(binding: &mut Value) {
    let absent = |value: &Value| text_at(value, &["apiGroup"]).is_empty();
    if binding["roleRef"].is_object() && absent(&binding["roleRef"]) {
        binding["roleRef"]["apiGroup"] = GROUP.into();
    }
    let subjects = binding.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        if matches!(text_at(subject, &["kind"]), "User" | "Group") && absent(subject) {
            subject["apiGroup"] = GROUP.into();
        }
    }
}

fn check(new: &Value, old: Option<&Value>, roles: &[&str], causes: &mut Causes) {
    check_own_name(new, old, causes);
    let role = &new["roleRef"];
    let group = text_at(role, &["apiGroup"]);
    if group != GROUP {
        causes.not_supported("roleRef.apiGroup", group, &[GROUP]);
    }
    let kind = text_at(role, &["kind"]);
    if !roles.contains(&kind) {
        causes.not_supported("roleRef.kind", kind, roles);
    }
    let name = text_at(role, &["name"]);
    if name.is_empty() {
        causes.required("roleRef.name", "");
    }
    check_name("roleRef.name", name, causes);
    let everywhere = !roles.contains(&"Role");
    for (index, subject) in items(&new["subjects"]).iter().enumerate() {
        check_subject(subject, everywhere, &format!("subjects[{index}]"), causes);
    }
    if let Some(old) = old
        && old["roleRef"] != *role
    {
        causes.invalid("roleRef", role.clone(), "cannot change roleRef");
    }
}

fn check_subject(subject: &Value, everywhere: bool, path: &str, causes: &mut Causes) {
    let text = |field: &str| text_at(subject, &[field]);
    let field = |name: &str| format!("{path}.{name}");
    if text("name").is_empty() {
        causes.required(field("name"), "");
    }
    match text("kind") {
        "ServiceAccount" => {
            if !text("name").is_empty() {
                let verdict = names::dns1123_subdomain(text("name"));
                causes.check(field("name"), text("name"), verdict);
            }
            if !text("apiGroup").is_empty() {
                causes.not_supported(field("apiGroup"), text("apiGroup"), &[""]);
            }
            if everywhere && text("namespace").is_empty() {
                causes.required(field("namespace"), "");
            }
        }
        "User" | "Group" => {
            if text("apiGroup") != GROUP {
                causes.not_supported(field("apiGroup"), text("apiGroup"), &[GROUP]);
            }
        }
        other => {
            let known = ["ServiceAccount", "User", "Group"];
            causes.not_supported(field("kind"), other, &known);
        }
    }
}
