//! Node (core/v1).

use serde_json::{Value, json};

use super::{items, text_at};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules, STATUS, proxy},
    table::{AGE, Column, NAME, Table},
};

/// Node.
pub static NODES: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[proxy("NodeProxyOptions"), STATUS],
    rules: Rules {
        has_status: true,
        fields: &[("spec.unschedulable", |node| {
            (node["spec"]["unschedulable"] == true).to_string()
        })],
        default: |node| {
            if !node["spec"].is_object() {
                node["spec"] = serde_json::json!({});
            }
        },
        admit: |_, old, node| {
            if old.is_none() {
                keep_free(node);
            }
        },
        validate: |_, new, old, causes| {
            pod_ranges(new, causes);
            let Some(old) = old else { return };
            if !items(&old["spec"]["podCIDRs"]).is_empty()
                && old["spec"]["podCIDRs"] != new["spec"]["podCIDRs"]
            {
                let detail = "node updates may not change podCIDR except from \"\" to valid";
                causes.forbidden("spec.podCIDRs", detail);
            }
            let before = text_at(old, &["spec", "podCIDR"]);
            if !before.is_empty() && before != text_at(new, &["spec", "podCIDR"]) {
                let detail = "node updates may not change podCIDR except from \"\" to valid";
                causes.forbidden("spec.podCIDR", detail);
            }
            let before = text_at(old, &["spec", "providerID"]);
            if !before.is_empty() && before != text_at(new, &["spec", "providerID"]) {
                let detail = "node updates may not change providerID except from \"\" to valid";
                causes.forbidden("spec.providerID", detail);
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Status", "Whether it is ready, and takes new Pods."),
            Column::text("Roles", "Its roles."),
            AGE,
            Column::text("Version", "The version of its agent."),
            Column::wide("Internal-IP", "Its address inside the cluster."),
            Column::wide("External-IP", "Its address outside the cluster."),
            Column::wide("OS-Image", "Its operating system."),
            Column::wide("Kernel-Version", "Its kernel."),
            Column::wide("Container-Runtime", "What runs its containers."),
        ],
        cells: |node, row| {
            let about = |field| text_at(node, &["status", "nodeInfo", field]);
            row.name(node);
            row.text(&status(node));
            row.or_none(&roles(node));
            row.age(node);
            row.text(about("kubeletVersion"));
            row.or_none(address(node, "InternalIP"));
            row.or_none(address(node, "ExternalIP"));
            row.text_or(about("osImage"), "<unknown>");
            row.text_or(about("kernelVersion"), "<unknown>");
            row.text_or(about("containerRuntimeVersion"), "<unknown>");
        },
    },
};

/// Nothing is scheduled to a new node before it says that it is ready.
/// Source: kubernetes/kubernetes plugin/pkg/admission/nodetaint.
fn keep_free(node: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    match node["spec"]["taints"].as_array_mut() {
        None => node["spec"]["taints"] = json!([taint]),
        Some(taints) => {
            let same = |own: &Value| own["key"] == taint["key"] && own["effect"] == taint["effect"];
            if !taints.iter().any(same) {
                taints.push(taint);
            }
        }
    }
}

/// One range of each family at most, the first of which is the singular one.
fn pod_ranges(node: &Value, causes: &mut Causes) {
    let ranges = items(&node["spec"]["podCIDRs"]);
    let texts = || {
        ranges
            .iter()
            .map(|range| range.as_str().unwrap_or_default())
    };
    let mut families = Vec::new();
    for (index, range) in texts().enumerate() {
        match api::ip::parse_cidr_strict(range) {
            Ok(range) => families.push(range.addr().is_ipv4()),
            Err(reason) => causes.invalid(format!("spec.podCIDRs[{index}]"), range, &reason),
        }
    }
    if ranges.len() > 2 || families == [true, true] || families == [false, false] {
        let detail = "may specify no more than one CIDR for each IP family";
        causes.invalid("spec.podCIDRs", node["spec"]["podCIDRs"].clone(), detail);
    }
    let first = text_at(node, &["spec", "podCIDR"]);
    if texts().next().is_some_and(|range| range != first) {
        causes.invalid("spec.podCIDR", first, "must be the first of `podCIDRs`");
    }
}

fn status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"])
        .iter()
        .find(|condition| condition["type"] == "Ready");
    let word = match ready.map(|condition| text_at(condition, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node["spec"]["unschedulable"] == true {
        format!("{word},SchedulingDisabled")
    } else {
        word.into()
    }
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (label, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        let role = match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if label == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => continue,
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let addresses = items(&node["status"]["addresses"]);
    addresses
        .iter()
        .find(|address| address["type"] == kind)
        .map_or("", |address| text_at(address, &["address"]))
}
