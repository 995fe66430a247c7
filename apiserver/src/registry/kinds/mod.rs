//! Every built-in kind, one file each, and the one table that lists them.

use serde_json::Value;

use super::kind::Kind;

pub(super) mod address;
pub(crate) mod certificate_signing_request;
mod config_map;
mod controller_revision;
pub(crate) mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_v1;
mod ingress_class;
mod ip_address;
mod job;
mod lease;
mod limit_range;
mod namespace;
mod node;
mod pod;
mod pod_cells;
mod pod_disruption_budget;
mod pod_probes;
mod pod_warnings;
mod priority_class;
pub mod rbac;
mod replica_set;
mod resource_quota;
pub mod review;
mod runtime_class;
mod secret;
pub(super) mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
pub(crate) mod template;

pub(crate) use address::clusterip;
pub use certificate_signing_request::CERTIFICATE_SIGNING_REQUESTS;
pub use config_map::CONFIG_MAPS;
pub use controller_revision::CONTROLLER_REVISIONS;
pub use custom_resource_definition::CUSTOM_RESOURCE_DEFINITIONS;
pub use daemon_set::DAEMON_SETS;
pub use deployment::DEPLOYMENTS;
pub use endpoint_slice::ENDPOINT_SLICES;
pub use endpoints::ENDPOINTS;
pub use event::EVENTS;
pub use event_v1::EVENTS_V1;
pub use ingress_class::INGRESS_CLASSES;
pub use ip_address::IP_ADDRESSES;
pub use job::JOBS;
pub use lease::LEASES;
pub use limit_range::LIMIT_RANGES;
pub use namespace::NAMESPACES;
pub use node::NODES;
pub use pod::PODS;
pub use pod_disruption_budget::POD_DISRUPTION_BUDGETS;
pub use priority_class::PRIORITY_CLASSES;
pub use rbac::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES};
pub use replica_set::REPLICA_SETS;
pub use resource_quota::RESOURCE_QUOTAS;
pub use review::{
    LOCAL_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_REVIEWS,
    SELF_SUBJECT_RULES_REVIEWS, SUBJECT_ACCESS_REVIEWS, TOKEN_REQUESTS, TOKEN_REVIEWS,
};
pub use runtime_class::RUNTIME_CLASSES;
pub use secret::SECRETS;
pub use service::SERVICES;
pub use service_account::SERVICE_ACCOUNTS;
pub(crate) use service_cidr::FINALIZER as SERVICE_CIDR_FINALIZER;
pub use service_cidr::SERVICE_CIDRS;
pub use stateful_set::STATEFUL_SETS;
pub(crate) use template::fill as fill_template;

/// All built-in kinds, in the order discovery lists them.
pub static ALL: &[&Kind] = &[
    &CONFIG_MAPS,
    &ENDPOINTS,
    &EVENTS,
    &LIMIT_RANGES,
    &NAMESPACES,
    &NODES,
    &PODS,
    &RESOURCE_QUOTAS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &CONTROLLER_REVISIONS,
    &DAEMON_SETS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &STATEFUL_SETS,
    &JOBS,
    &CERTIFICATE_SIGNING_REQUESTS,
    &CUSTOM_RESOURCE_DEFINITIONS,
    &LEASES,
    &EVENTS_V1,
    &ENDPOINT_SLICES,
    &INGRESS_CLASSES,
    &IP_ADDRESSES,
    &SERVICE_CIDRS,
    &RUNTIME_CLASSES,
    &POD_DISRUPTION_BUDGETS,
    &PRIORITY_CLASSES,
    &SELF_SUBJECT_REVIEWS,
    &LOCAL_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_RULES_REVIEWS,
    &SUBJECT_ACCESS_REVIEWS,
    &TOKEN_REVIEWS,
    &CLUSTER_ROLE_BINDINGS,
    &CLUSTER_ROLES,
    &ROLE_BINDINGS,
    &ROLES,
];

/// `k=v,…` of a label map, sorted.
fn label_list(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
}

/// The text at a path of fields; absent is empty.
pub(crate) fn text_at<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    let found = path.iter().fold(value, |value, field| &value[*field]);
    found.as_str().unwrap_or_default()
}

/// The items of a list; absent is empty.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
