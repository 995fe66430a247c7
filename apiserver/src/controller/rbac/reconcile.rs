//! The default roles and bindings at the start: what is missing is made, what was taken from them is given back, what was
//! added stays. Source: kubernetes/kubernetes staging/src/k8s.io/component-helpers/auth/rbac/reconciliation.

use api::rbac::{ClusterRole, ClusterRoleBinding};
use futures_util::future::try_join_all;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::defaults::{self, AUTOUPDATE};
use crate::{
    auth::rbac::rule,
    registry::{
        ApiError, DeleteOptions, Kind, Part, Registry, WriteOptions,
        kinds::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, items},
        meta::metadata_mut,
    },
};

/// Writes whatever of them is missing.
///
/// # Errors
/// The registry's.
pub(crate) async fn ensure_defaults(registry: &Registry) -> Result<(), ApiError> {
    let roles = defaults::roles();
    try_join_all(roles.iter().map(|role| ensure_role(registry, role))).await?;
    let bindings = defaults::bindings();
    let bindings = bindings.iter();
    try_join_all(bindings.map(|binding| ensure_binding(registry, binding))).await?;
    Ok(())
}

async fn ensure_role(registry: &Registry, wanted: &ClusterRole) -> Result<(), ApiError> {
    let name = &wanted.metadata.name;
    ensure(registry, &CLUSTER_ROLES, name, wanted, |value| {
        let Some(mut role) = decode::<ClusterRole>(value) else {
            return;
        };
        if let Some(aggregation) = &wanted.aggregation_rule {
            // Its rules are the aggregation's.
            let mut own = role.aggregation_rule.unwrap_or_default();
            for selector in &aggregation.cluster_role_selectors {
                if !own.cluster_role_selectors.contains(selector) {
                    own.cluster_role_selectors.push(selector.clone());
                }
            }
            value["aggregationRule"] = encode(&own);
            return;
        }
        let missing = rule::compacted(rule::uncovered(&role.rules, &wanted.rules));
        if !missing.is_empty() {
            role.rules.extend(missing);
            value["rules"] = encode(&role.rules);
        }
    })
    .await
}

async fn ensure_binding(registry: &Registry, wanted: &ClusterRoleBinding) -> Result<(), ApiError> {
    let name = &wanted.metadata.name;
    let kind = &CLUSTER_ROLE_BINDINGS;
    // The role of a binding cannot be changed: one that names another role is made anew.
    if let Ok(object) = registry.get(kind, None, name).await {
        let stored = object.decode::<ClusterRoleBinding>()?;
        let ours = stored.metadata.annotations.get(AUTOUPDATE);
        if ours.is_none_or(|flag| &**flag != "false") && stored.role_ref != wanted.role_ref {
            let deleted = registry
                .delete(kind, None, name, &DeleteOptions::default())
                .await;
            deleted.map(drop)?;
        }
    }
    ensure(registry, kind, name, wanted, |value| {
        let mut subjects = items(&value["subjects"]).to_vec();
        let before = subjects.len();
        for subject in &wanted.subjects {
            let subject = encode(subject);
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        if subjects.len() > before {
            value["subjects"] = subjects.into();
        }
    })
    .await
}

/// Creates an object, or adds to it what it lacks, unless its annotation says that it is to be left alone.
async fn ensure<T: Serialize>(
    registry: &Registry,
    kind: &'static Kind,
    name: &str,
    wanted: &T,
    complete: impl Fn(&mut Value) + Send + Sync,
) -> Result<(), ApiError> {
    let options = WriteOptions::default();
    let wanted = encode(wanted);
    let modified = registry
        .modify(kind, None, name, Part::Main, &options, |value| {
            if value["metadata"]["annotations"][AUTOUPDATE] == "false" {
                return Ok(());
            }
            for field in ["labels", "annotations"] {
                let default = wanted["metadata"][field].as_object().into_iter().flatten();
                let own = metadata_mut(value)
                    .entry(field)
                    .or_insert_with(|| Value::Object(serde_json::Map::new()));
                for (key, text) in default {
                    if let Some(own) = own.as_object_mut().filter(|own| !own.contains_key(key)) {
                        own.insert(key.clone(), text.clone());
                    }
                }
            }
            complete(value);
            Ok(())
        })
        .await;
    match modified {
        Err(error) if error.is_not_found() => registry
            .create(kind, None, wanted, &options)
            .await
            .map(drop),
        other => other.map(drop),
    }
}

fn decode<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

fn encode<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("roles and bindings are plain values")
}
