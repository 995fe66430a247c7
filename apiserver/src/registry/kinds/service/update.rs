//! What an update keeps, what a change of type clears, and what may not change.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    defaults::{drop_zero_ports, remove},
    externally_accessible, int, list, text, wants_cluster_ip, wants_health_check_port,
    wants_node_ports,
};
use crate::registry::{Context, causes::Causes};

/// Prepares the new version: allocated values its author left out come back, fields of the old type go.
pub(super) fn prepare(_context: &Context, old: &Value, new: &mut Value) {
    drop_zero_ports(&mut new["spec"]);
    let old_spec = &old["spec"];
    keep_allocated(old_spec, &mut new["spec"]);
    normalize_cluster_ips(old_spec, &mut new["spec"]);
    drop_fields_of_old_type(old_spec, &mut new["spec"]);
    if text(&new["spec"], "type") != "LoadBalancer" && text(old_spec, "type") == "LoadBalancer" {
        new["status"]["loadBalancer"] = json!({});
    }
}

/// A PUT of the original manifest must work: it names no addresses and ports.
fn keep_allocated(old: &Value, new: &mut Value) {
    let both_have_ip = wants_cluster_ip(old) && text(new, "type") != "ExternalName";
    if both_have_ip && text(new, "clusterIP").is_empty() {
        let untouched =
            list(new, "clusterIPs").is_empty() || new["clusterIPs"] == old["clusterIPs"];
        if untouched {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(kept) = old.get(field) {
                    new[field] = kept.clone();
                }
            }
        }
    }
    if text(old, "type") != "ExternalName"
        && text(new, "type") != "ExternalName"
        && text(old, "clusterIP") == "None"
        && text(new, "clusterIP").is_empty()
    {
        new["clusterIP"] = "None".into();
        new["clusterIPs"] = json!(["None"]);
    }
    if wants_node_ports(old) && wants_node_ports(new) {
        keep_node_ports(old, new);
    }
    let both_checked = wants_health_check_port(old) && wants_health_check_port(new);
    if both_checked && int(new, "healthCheckNodePort") == 0 && int(old, "healthCheckNodePort") != 0
    {
        new["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
}

/// A port without a nodePort gets that of the old port of its name, unless the number is taken by another new port.
fn keep_node_ports(old: &Value, new: &mut Value) {
    let mut taken: HashSet<i64> = list(new, "ports")
        .iter()
        .map(|port| int(port, "nodePort"))
        .filter(|&number| number != 0)
        .collect();
    for port in new["ports"].as_array_mut().into_iter().flatten() {
        if int(port, "nodePort") != 0 {
            continue;
        }
        let same_name = |candidate: &&Value| text(candidate, "name") == text(port, "name");
        let Some(kept) = list(old, "ports").iter().find(same_name) else {
            continue;
        };
        let number = int(kept, "nodePort");
        if number != 0 && taken.insert(number) {
            port["nodePort"] = number.into();
        }
    }
}

/// A client that only knows the singular field means the plural one too, when it has not touched that.
fn normalize_cluster_ips(old: &Value, new: &mut Value) {
    let singular_changed = text(new, "clusterIP") != text(old, "clusterIP");
    let plural_untouched =
        new["clusterIPs"] == old["clusterIPs"] || list(new, "clusterIPs").is_empty();
    if !plural_untouched || !singular_changed {
        return;
    }
    let singular = text(new, "clusterIP").to_owned();
    if singular.is_empty() {
        remove(new, "clusterIPs");
    } else {
        new["clusterIPs"] = json!([singular]);
    }
}

/// Clears what no longer applies and the author has not changed as well; what he has changed, validation refuses.
fn drop_fields_of_old_type(old: &Value, new: &mut Value) {
    let unchanged = |new: &Value, field: &str| new.get(field) == old.get(field);
    if text(new, "type") == "ExternalName" && text(old, "type") != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if unchanged(new, field) {
                remove(new, field);
            }
        }
    }
    if wants_node_ports_by_type(old) && !wants_node_ports_by_type(new) && no_new_node_port(old, new)
    {
        for port in new["ports"].as_array_mut().into_iter().flatten() {
            remove(port, "nodePort");
        }
    }
    if !externally_accessible(new) && unchanged(new, "externalTrafficPolicy") {
        remove(new, "externalTrafficPolicy");
    }
    if !wants_health_check_port(new) && unchanged(new, "healthCheckNodePort") {
        remove(new, "healthCheckNodePort");
    }
    if text(new, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(new, field) {
                remove(new, field);
            }
        }
    }
}

fn wants_node_ports_by_type(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn no_new_node_port(old: &Value, new: &Value) -> bool {
    let before: HashSet<i64> = list(old, "ports")
        .iter()
        .map(|port| int(port, "nodePort"))
        .collect();
    list(new, "ports")
        .iter()
        .map(|port| int(port, "nodePort"))
        .all(|number| number == 0 || before.contains(&number))
}

/// Refuses what an update may not change (services.md 1.4).
pub(super) fn check(old: &Value, new: &Value, causes: &mut Causes) {
    let external_name = |spec: &Value| text(spec, "type") == "ExternalName";
    let headless = |spec: &Value| text(spec, "clusterIP") == "None";
    let both_headless = headless(old) && headless(new);
    if !external_name(old) && !external_name(new) && !both_headless {
        if list(new, "clusterIPs").is_empty() && !list(old, "clusterIPs").is_empty() {
            let detail = "primary clusterIP can not be unset";
            let value = new["clusterIPs"].clone();
            causes.invalid("spec.clusterIPs[0]", value, detail);
        }
        for field in ["clusterIPs", "ipFamilies"] {
            entries_are_kept(field, list(old, field), list(new, field), causes);
        }
    }
    let both_balanced = text(old, "type") == "LoadBalancer" && text(new, "type") == "LoadBalancer";
    if both_balanced && old["loadBalancerClass"] != new["loadBalancerClass"] {
        let detail = "may not change once set";
        let class = new["loadBalancerClass"].clone();
        causes.invalid("spec.loadBalancerClass", class, detail);
    }
    let both_checked = wants_health_check_port(old) && wants_health_check_port(new);
    let before = int(old, "healthCheckNodePort");
    if both_checked && before != 0 && before != int(new, "healthCheckNodePort") {
        causes.forbidden("spec.healthCheckNodePort", "field is immutable");
    }
}

/// A second entry may come or go, as the policy says; what is in both versions stays as it is. Families that are left out
/// are filled in later.
fn entries_are_kept(field: &str, before: &[Value], after: &[Value], causes: &mut Causes) {
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        if before != after {
            let detail = "may not change once set";
            causes.invalid(format!("spec.{field}[{index}]"), after.clone(), detail);
        }
    }
}
