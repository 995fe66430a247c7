//! What a Service says when its author does not.

use serde_json::{Map, Value, json};

use super::{externally_accessible, int, text};

/// The longest a client sticks to an endpoint by default: three hours.
const AFFINITY_TIMEOUT_SECS: i64 = 10800;

/// Fills the defaults that every write gets.
pub(super) fn fill(service: &mut Value) {
    if !service["spec"].is_object() {
        service["spec"] = json!({});
    }
    let spec = &mut service["spec"];
    drop_empty(spec);
    set_if_empty(spec, "type", "ClusterIP");
    set_if_empty(spec, "sessionAffinity", "None");
    affinity(spec);
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        set_if_empty(port, "protocol", "TCP");
        let unset = matches!(&port["targetPort"], Value::Null)
            || port["targetPort"] == 0
            || port["targetPort"] == "";
        if unset && port["port"].is_number() {
            port["targetPort"] = port["port"].clone();
        }
    }
    if spec["ports"].is_null() {
        remove(spec, "ports");
    }
    if text(spec, "externalTrafficPolicy").is_empty() && externally_accessible(spec) {
        spec["externalTrafficPolicy"] = "Cluster".into();
    }
    if text(spec, "type") == "ExternalName" {
        // Nothing of ours carries its traffic. Upstream stores the field and hides it from readers.
        remove(spec, "internalTrafficPolicy");
    } else {
        set_if_empty(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"].is_null() {
        spec["allocateLoadBalancerNodePorts"] = true.into();
    }
    if !service["status"].is_object() {
        service["status"] = json!({});
    }
    if !service["status"]["loadBalancer"].is_object() {
        service["status"]["loadBalancer"] = json!({});
    }
    let points = &mut service["status"]["loadBalancer"];
    if let Some(points) = points.get_mut("ingress").and_then(Value::as_array_mut) {
        for point in points {
            if !text(point, "ip").is_empty() {
                set_if_empty(point, "ipMode", "VIP");
            }
        }
    }
}

/// Saying nothing in these fields is as good as not saying them.
fn drop_empty(spec: &mut Value) {
    const FIELDS: &[&str] = &[
        "clusterIP",
        "clusterIPs",
        "externalName",
        "externalTrafficPolicy",
        "ipFamilies",
        "ipFamilyPolicy",
        "loadBalancerIP",
    ];
    for field in FIELDS {
        if spec[*field] == "" || spec[*field].as_array().is_some_and(Vec::is_empty) {
            remove(spec, field);
        }
    }
}

fn affinity(spec: &mut Value) {
    if text(spec, "sessionAffinity") == "ClientIP" {
        // A partially filled config is replaced whole, as upstream does.
        let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
        if timeout.is_null() {
            spec["sessionAffinityConfig"] =
                json!({"clientIP": {"timeoutSeconds": AFFINITY_TIMEOUT_SECS}});
        }
    } else {
        remove(spec, "sessionAffinityConfig");
    }
}

/// A new Service has no status, and a client that only knows the singular field means the plural one too.
pub(super) fn prepare_create(service: &mut Value) {
    service["status"] = json!({"loadBalancer": {}});
    let spec = &mut service["spec"];
    let singular = text(spec, "clusterIP").to_owned();
    if singular.is_empty() {
        remove(spec, "clusterIP");
    } else if spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
        spec["clusterIPs"] = json!([singular]);
    }
    drop_zero_ports(spec);
}

/// Zero means unset: the ports are to be allocated.
pub(super) fn drop_zero_ports(spec: &mut Value) {
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if int(port, "nodePort") == 0 {
            remove(port, "nodePort");
        }
    }
    if spec["ports"].is_null() {
        remove(spec, "ports");
    }
    if int(spec, "healthCheckNodePort") == 0 {
        remove(spec, "healthCheckNodePort");
    }
}

pub(super) fn set_if_empty(value: &mut Value, field: &str, default: &str) {
    if text(value, field).is_empty() && value.is_object() {
        value[field] = default.into();
    }
}

pub(super) fn remove(value: &mut Value, field: &str) -> Option<Value> {
    value
        .as_object_mut()
        .and_then(|map: &mut Map<String, Value>| map.shift_remove(field))
}
