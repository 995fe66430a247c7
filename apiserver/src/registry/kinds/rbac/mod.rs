//! The kinds of rbac.authorization.k8s.io/v1: roles (what may be done) and bindings (by whom).
//! Source: kubernetes/kubernetes pkg/apis/rbac/validation/validation.go, pkg/apis/rbac/v1/defaults.go.

mod binding;
mod role;

use serde_json::Value;

pub use self::{
    binding::{CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS},
    role::{CLUSTER_ROLES, ROLES},
};
use crate::registry::causes::Causes;

/// The API group.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Names may be anything that is one segment of a path: `system:node` is one (M4).
fn check_name(field: &str, name: &str, causes: &mut Causes) {
    if matches!(name, "." | "..") {
        causes.invalid(field, name, &format!("may not be '{name}'"));
    }
    for illegal in ['/', '%'] {
        if name.contains(illegal) {
            causes.invalid(field, name, &format!("may not contain '{illegal}'"));
        }
    }
}

/// Checks the object's own name when it is made.
fn check_own_name(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    if old.is_none() {
        let name = crate::registry::meta::text(new, "name");
        check_name("metadata.name", name, causes);
    }
}
