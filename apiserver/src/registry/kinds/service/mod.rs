//! Service (core/v1).

use serde_json::Value;

use super::super::{
    kind::{ALL_VERBS, Kind, NameRule, Rules, STATUS, proxy},
    table::{AGE, Column, NAME, Table},
};

mod defaults;
mod ports;
mod update;
mod validate;
mod warnings;

/// Service.
pub static SERVICES: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[proxy("ServiceProxyOptions"), STATUS],
    rules: Rules {
        name: NameRule::Label,
        has_status: true,
        create_on_update: true,
        delete_returns_object: true,
        fields: &[
            ("spec.clusterIP", |service| {
                text(&service["spec"], "clusterIP").to_owned()
            }),
            ("spec.type", |service| {
                text(&service["spec"], "type").to_owned()
            }),
        ],
        default: defaults::fill,
        prepare_create: defaults::prepare_create,
        prepare_update: update::prepare,
        validate: validate::service,
        warnings: Some(warnings::of),
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text(
                "Type",
                "Type string describes ingress methods for a service.",
            ),
            Column::text("Cluster-IP", "The addresses inside the cluster."),
            Column::text("External-IP", "The addresses outside the cluster."),
            Column::text("Port(s)", "The ports the service listens on."),
            AGE,
            Column::wide("Selector", "Which Pods the service leads to."),
        ],
        cells: |service, row| {
            let spec = &service["spec"];
            row.name(service);
            row.text(text(spec, "type"));
            row.or_none(cluster_ip(spec));
            row.text(&ports::external_ip(service));
            row.or_none(&ports::port_list(spec));
            row.age(service);
            row.or_none(&super::label_list(&spec["selector"]));
        },
    },
};

/// Reads a text field; absent is empty.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Reads an integer field; absent is zero.
fn int(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or(0)
}

/// Reads a list; absent is empty.
fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn cluster_ip(spec: &Value) -> &str {
    list(spec, "clusterIPs")
        .first()
        .and_then(Value::as_str)
        .unwrap_or_else(|| text(spec, "clusterIP"))
}

/// Whether the Service has, or will have, ClusterIPs.
pub(crate) fn wants_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName" && cluster_ip(spec) != "None"
}

/// Whether the Service is of a type whose ports get NodePorts.
pub(crate) fn wants_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool() != Some(false),
        _ => false,
    }
}

/// Whether the Service has a health-check NodePort: a load balancer that keeps to local endpoints.
pub(crate) fn wants_health_check_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// Whether traffic can come from outside the cluster.
fn externally_accessible(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}
