//! Group `rbac.authorization.k8s.io`, version `v1`: who may do what.

use crate::meta::{LabelSelector, ObjectMeta};
use crate::wire::wire;

wire! {
    /// Rules that hold in its namespace, for whom a RoleBinding names.
    kind("rbac.authorization.k8s.io", "v1", "Role", "roles")
    pub struct Role {
        metadata: ObjectMeta,
        rules: Vec<PolicyRule>,
    }

    /// Rules that hold in the namespace of a RoleBinding, or everywhere by a ClusterRoleBinding.
    kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles")
    pub struct ClusterRole {
        metadata: ObjectMeta,
        rules: Vec<PolicyRule>,
        aggregation_rule: Option<AggregationRule>,
    }

    /// A ClusterRole with this has the rules of all ClusterRoles that any of the selectors matches.
    pub struct AggregationRule {
        cluster_role_selectors: Vec<LabelSelector>,
    }

    /// What may be done: verbs on resources of groups, or on paths that are no resources.
    pub struct PolicyRule {
        [always] {
            verbs: Vec<Box<str>>,
        }
        api_groups: Vec<Box<str>>,
        resources: Vec<Box<str>>,
        resource_names: Vec<Box<str>>,
        #[serde(rename = "nonResourceURLs")] non_resource_urls: Vec<Box<str>>,
    }

    /// Gives a role to subjects, in its namespace.
    kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
    pub struct RoleBinding {
        metadata: ObjectMeta,
        subjects: Vec<Subject>,
        role_ref: RoleRef,
    }

    /// Gives a ClusterRole to subjects, everywhere.
    kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")
    pub struct ClusterRoleBinding {
        metadata: ObjectMeta,
        subjects: Vec<Subject>,
        role_ref: RoleRef,
    }

    /// The role that is given: `kind` is `Role` or `ClusterRole`.
    pub struct RoleRef {
        [always] {
            api_group: Box<str>,
            kind: Box<str>,
            name: Box<str>,
        }
    }

    /// To whom it is given: `kind` is `User`, `Group` or `ServiceAccount`.
    pub struct Subject {
        [always] {
            kind: Box<str>,
            name: Box<str>,
        }
        api_group: Box<str>,
        namespace: Box<str>,
    }
}
