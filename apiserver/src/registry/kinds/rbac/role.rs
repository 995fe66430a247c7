//! Role and ClusterRole.

use serde_json::{Map, Value};

use super::{GROUP, check_own_name};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, NameRule, Rules},
    kinds::items,
    table::{Column, NAME, Row, Table},
};

const TABLE: Table = Table {
    columns: &[
        NAME,
        Column {
            cell_type: "date",
            ..Column::text("Created At", "When the object was created.")
        },
    ],
    cells,
};

fn cells(object: &Value, row: &mut Row) {
    row.name(object);
    row.text(crate::registry::meta::text(object, "creationTimestamp"));
}

/// Role.
pub static ROLES: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        name: NameRule::Own,
        validate: |_, new, old, causes| {
            check_own_name(new, old, causes);
            check_rules(new, true, causes);
        },
        ..Rules::GENERIC
    },
    table: TABLE,
};

/// ClusterRole.
pub static CLUSTER_ROLES: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        name: NameRule::Own,
        validate: |_, new, old, causes| {
            check_own_name(new, old, causes);
            check_rules(new, false, causes);
            if let Some(aggregation) = new.get("aggregationRule") {
                check_aggregation(aggregation, causes);
            }
        },
        ..Rules::GENERIC
    },
    table: TABLE,
};

fn check_rules(role: &Value, namespaced: bool, causes: &mut Causes) {
    for (index, rule) in items(&role["rules"]).iter().enumerate() {
        check_rule(rule, namespaced, &format!("rules[{index}]"), causes);
    }
}

fn check_rule(rule: &Value, namespaced: bool, path: &str, causes: &mut Causes) {
    let empty = |field: &str| items(&rule[field]).is_empty();
    if empty("verbs") {
        let detail = "verbs must contain at least one value";
        causes.required(format!("{path}.verbs"), detail);
    }
    if empty("nonResourceURLs") {
        if empty("apiGroups") {
            let detail = "resource rules must supply at least one api group";
            causes.required(format!("{path}.apiGroups"), detail);
        }
        if empty("resources") {
            let detail = "resource rules must supply at least one resource";
            causes.required(format!("{path}.resources"), detail);
        }
        return;
    }
    let urls = || rule["nonResourceURLs"].clone();
    let field = format!("{path}.nonResourceURLs");
    if namespaced {
        let detail = "namespaced rules cannot apply to non-resource URLs";
        causes.invalid(field.clone(), urls(), detail);
    }
    if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
        let detail = "rules cannot apply to both regular resources and non-resource URLs";
        causes.invalid(field, urls(), detail);
    }
}

fn check_aggregation(aggregation: &Value, causes: &mut Causes) {
    let field = "aggregationRule.clusterRoleSelectors";
    let selectors = items(&aggregation["clusterRoleSelectors"]);
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        causes.required(field, detail);
    }
    for (index, selector) in selectors.iter().enumerate() {
        let path = format!("{field}[{index}]");
        let given = serde_json::from_value::<api::meta::LabelSelector>(selector.clone());
        let given = given.map_err(|error| error.to_string());
        let verdict = given.and_then(|given| {
            let parsed = api::selector::LabelSelector::try_from(&given);
            parsed.map(drop).map_err(|error| error.to_string())
        });
        if let Err(detail) = verdict {
            let shown = selector.as_object().map_or_else(Map::new, Map::clone);
            causes.invalid(path, shown, &detail);
        }
    }
}
