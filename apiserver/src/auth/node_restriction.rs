//! What a node may say in the objects it writes: the names of its own Node and Lease, and no Pod range. Both stand in
//! the body, where the [`policy`](super::policy) does not look.

use serde_json::Value;

use super::User;
use crate::registry::{
    ApiError, Kind,
    kinds::{LEASES, NODES},
    meta,
};

/// Refuses what a node may not create: another node's Node or Lease, and a Pod range of its own choice, which would
/// draw the traffic of other nodes' Pods.
///
/// # Errors
/// [`ApiError::Forbidden`].
pub fn check_create(user: &User, kind: &'static Kind, object: &Value) -> Result<(), ApiError> {
    let Some(node) = user.node() else {
        return Ok(());
    };
    if (*kind == NODES || *kind == LEASES) && meta::text(object, "name") != node {
        let why = format!("node {node} may create its own object only, by its name");
        return Err(refused(user, "create", kind, object, &why));
    }
    check_change(user, kind, &Value::Null, object)
}

/// Refuses what a node may not change of its Node: the Pod range, which the server gives out.
///
/// # Errors
/// [`ApiError::Forbidden`].
pub fn check_change(
    user: &User,
    kind: &'static Kind,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    if user.node().is_none() || *kind != NODES {
        return Ok(());
    }
    for field in ["podCIDR", "podCIDRs"] {
        if old["spec"][field] != new["spec"][field] {
            let why = format!("spec.{field} is given out by the server: leave it as it is");
            return Err(refused(user, "update", kind, new, &why));
        }
    }
    Ok(())
}

fn refused(user: &User, verb: &str, kind: &'static Kind, object: &Value, why: &str) -> ApiError {
    let name = meta::text(object, "name");
    ApiError::Forbidden {
        message: format!(
            "{} \"{name}\" is forbidden: User \"{}\" cannot {verb} resource \"{}\" in API group \"{}\": {why}",
            kind.resource(),
            user.name,
            kind.plural,
            kind.group,
        ),
        resource: kind.plural.to_owned(),
        group: kind.group.to_owned(),
        name: name.to_owned(),
    }
}
