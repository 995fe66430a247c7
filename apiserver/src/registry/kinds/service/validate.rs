//! What a Service may say; upstream's ValidateService in our words.

use std::{collections::HashSet, net::IpAddr};

use api::names;
use serde_json::Value;

use super::{
    externally_accessible, int, list, text, update, wants_health_check_port,
    warnings::OLD_TOPOLOGY, warnings::TOPOLOGY,
};
use crate::registry::{Context, causes::Causes, kinds::address, meta};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
/// Whom a load balancer lets in, when the field says nothing.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const MAX_AFFINITY_SECS: i64 = 86400;

/// Refuses what breaks the rules of a Service.
pub(super) fn service(context: &Context, new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &new["spec"];
    let old_spec = old.map_or(&Value::Null, |old| &old["spec"]);
    of_type(spec, causes);
    ports(spec, causes);
    meta::labels("spec.selector", &spec["selector"], causes);
    affinity(spec, causes);
    cluster_ips(spec, causes);
    external_ips(context, spec, old_spec, causes);
    external_name(spec, causes);
    policies(spec, causes);
    load_balancer(spec, old_spec, causes);
    annotations(new, causes);
    // What is stored stays legal, so that a Service that changes its type is not held up by its old status.
    if old.is_none_or(|old| old["status"]["loadBalancer"] != new["status"]["loadBalancer"]) {
        load_balancer_status(new, causes);
    }
    if let Some(old) = old {
        update::check(&old["spec"], spec, causes);
    }
}

fn of_type(spec: &Value, causes: &mut Causes) {
    let kind = text(spec, "type");
    if !TYPES.contains(&kind) {
        causes.not_supported("spec.type", kind, TYPES);
    }
}

fn ports(spec: &Value, causes: &mut Causes) {
    let ports = list(spec, "ports");
    let optional = text(spec, "clusterIP") == "None" || text(spec, "type") == "ExternalName";
    if ports.is_empty() && !optional {
        causes.required("spec.ports", "");
    }
    let mut names_seen = HashSet::new();
    let mut numbers_seen = HashSet::new();
    let mut node_ports_seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        one_port(&path, spec, port, ports.len() > 1, causes);
        let name = text(port, "name");
        if !name.is_empty() && !names_seen.insert(name) {
            causes.duplicate(format!("{path}.name"), name);
        }
        let protocol = text(port, "protocol");
        if !numbers_seen.insert((protocol, int(port, "port"))) {
            causes.duplicate(path.clone(), port.clone());
        }
        let node_port = int(port, "nodePort");
        if node_port != 0 && !node_ports_seen.insert((protocol, node_port)) {
            causes.duplicate(format!("{path}.nodePort"), node_port);
        }
    }
}

fn one_port(path: &str, spec: &Value, port: &Value, named: bool, causes: &mut Causes) {
    let name = text(port, "name");
    if !name.is_empty() {
        causes.check(format!("{path}.name"), name, names::dns1123_label(name));
    } else if named {
        causes.required(format!("{path}.name"), "");
    }
    port_number(format!("{path}.port"), int(port, "port"), causes);
    let protocol = text(port, "protocol");
    if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        let supported = &["SCTP", "TCP", "UDP"];
        causes.not_supported(format!("{path}.protocol"), protocol, supported);
    }
    let target = format!("{path}.targetPort");
    match &port["targetPort"] {
        Value::Number(number) => port_number(target, number.as_i64().unwrap_or(0), causes),
        Value::String(name) => causes.check(target, name, names::port_name(name)),
        _ => {}
    }
    let app_protocol = text(port, "appProtocol");
    if !app_protocol.is_empty() {
        let verdict = names::qualified_name(app_protocol);
        causes.check(format!("{path}.appProtocol"), app_protocol, verdict);
    }
    if int(port, "nodePort") != 0 && matches!(text(spec, "type"), "ClusterIP" | "ExternalName") {
        let detail = format!("may not be used when `type` is '{}'", text(spec, "type"));
        causes.forbidden(format!("{path}.nodePort"), &detail);
    }
}

fn port_number(path: String, number: i64, causes: &mut Causes) {
    if !(1..=65535).contains(&number) {
        causes.invalid(path, number, "must be between 1 and 65535, inclusive");
    }
}

fn affinity(spec: &Value, causes: &mut Causes) {
    let affinity = text(spec, "sessionAffinity");
    if !matches!(affinity, "None" | "ClientIP") {
        causes.not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if let Some(seconds) = seconds.as_i64()
        && !(1..=MAX_AFFINITY_SECS).contains(&seconds)
    {
        let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECS}");
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        causes.invalid(path, seconds, &detail);
    }
}

/// The addresses, their families and the policy agree with each other (services.md 1.3).
fn cluster_ips(spec: &Value, causes: &mut Causes) {
    let singular = text(spec, "clusterIP");
    let plural: Vec<&str> = list(spec, "clusterIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if text(spec, "type") == "ExternalName" {
        if !singular.is_empty() && singular != "None" {
            let detail = "may not be set when `type` is 'ExternalName'";
            causes.forbidden("spec.clusterIP", detail);
        }
        for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if !spec[field].is_null() {
                let detail = "may not be set when `type` is 'ExternalName'";
                causes.forbidden(format!("spec.{field}"), detail);
            }
        }
        return;
    }
    families(spec, causes);
    if singular.is_empty() {
        if !plural.is_empty() {
            let detail = "must be empty when `clusterIP` is not specified";
            causes.invalid("spec.clusterIPs", spec["clusterIPs"].clone(), detail);
        }
        return;
    }
    if plural.first().is_some_and(|first| *first != singular) {
        let detail = "first value must match `clusterIP`";
        causes.invalid("spec.clusterIPs", spec["clusterIPs"].clone(), detail);
    }
    if plural.len() > 2 {
        causes.too_many("spec.clusterIPs", plural.len(), 2);
    }
    if plural.contains(&"None") {
        if plural.len() > 1 {
            let detail = "'None' must be the first and only value";
            causes.invalid("spec.clusterIPs[0]", "None", detail);
        }
        if matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
            let detail = format!(
                "may not be set to 'None' for {} services",
                text(spec, "type")
            );
            causes.invalid("spec.clusterIPs[0]", "None", &detail);
        }
        return;
    }
    let mut parsed: Vec<IpAddr> = Vec::new();
    for (index, ip) in plural.iter().enumerate() {
        match api::ip::parse_strict(ip) {
            Ok(ip) => parsed.push(ip),
            Err(reason) => causes.invalid(format!("spec.clusterIPs[{index}]"), *ip, &reason),
        }
    }
    if let [first, second] = parsed.as_slice()
        && first.is_ipv4() == second.is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family";
        causes.invalid("spec.clusterIPs", spec["clusterIPs"].clone(), detail);
    }
}

fn families(spec: &Value, causes: &mut Causes) {
    let families = list(spec, "ipFamilies");
    let mut seen = HashSet::new();
    for (index, family) in families.iter().enumerate() {
        let family = family.as_str().unwrap_or_default();
        let path = format!("spec.ipFamilies[{index}]");
        if !matches!(family, "IPv4" | "IPv6") {
            causes.not_supported(path.as_str(), family, &["IPv4", "IPv6"]);
        } else if !seen.insert(family) {
            causes.duplicate(path.as_str(), family);
        }
    }
    if families.len() > 2 {
        causes.too_many("spec.ipFamilies", families.len(), 2);
    }
    let policy = text(spec, "ipFamilyPolicy");
    let supported = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if !policy.is_empty() && !supported.contains(&policy) {
        causes.not_supported("spec.ipFamilyPolicy", policy, supported);
    }
}

/// Addresses outside the cluster that the Service claims. What is stored stays legal; what is new must be well formed, and
/// allowed: every node sends what is meant for such an address to this Service (CVE-2020-8554).
fn external_ips(context: &Context, spec: &Value, old: &Value, causes: &mut Causes) {
    let known = list(old, "externalIPs");
    for (index, ip) in list(spec, "externalIPs").iter().enumerate() {
        if known.contains(ip) {
            continue;
        }
        let path = format!("spec.externalIPs[{index}]");
        let ip = ip.as_str().unwrap_or_default();
        let refused = causes.0.len();
        address::check(&path, ip, &[], causes);
        let allowed = &context.allowed_external_ips;
        if causes.0.len() == refused
            && let Ok(parsed) = ip.parse::<IpAddr>()
            && !allowed.iter().any(|range| range.contains(&parsed))
        {
            let detail = format!(
                "{ip} is not among the external IPs that Services may claim: start the server with --allow-external-ips {ip}/{} or a range around it, or use type LoadBalancer",
                if parsed.is_ipv4() { 32 } else { 128 }
            );
            causes.forbidden(path, &detail);
        }
    }
}

/// Annotations that the server or load balancers read.
fn annotations(service: &Value, causes: &mut Causes) {
    let annotations = &service["metadata"]["annotations"];
    if let (Some(new), Some(old)) = (
        annotations[TOPOLOGY].as_str(),
        annotations[OLD_TOPOLOGY].as_str(),
    ) && new != old
    {
        let detail = format!("must match annotations[{OLD_TOPOLOGY}] when both are specified");
        causes.invalid(format!("metadata.annotations[{TOPOLOGY}]"), new, &detail);
    }
    let spec = &service["spec"];
    // The field wins over the annotation.
    if !list(spec, "loadBalancerSourceRanges").is_empty() {
        return;
    }
    let Some(ranges) = annotations[SOURCE_RANGES].as_str() else {
        return;
    };
    let path = format!("metadata.annotations[{SOURCE_RANGES}]");
    if text(spec, "type") != "LoadBalancer" {
        causes.forbidden(
            path.as_str(),
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    if ranges.trim().is_empty() {
        return;
    }
    for range in ranges.split(',').map(str::trim) {
        if let Err(reason) = api::ip::parse_cidr(range) {
            causes.invalid(path.as_str(), range, &reason);
        }
    }
}

fn external_name(spec: &Value, causes: &mut Causes) {
    let name = text(spec, "externalName");
    if text(spec, "type") == "ExternalName" {
        if name.is_empty() {
            causes.required("spec.externalName", "");
        } else {
            let trimmed = name.strip_suffix('.').unwrap_or(name);
            let verdict = names::dns1123_subdomain(trimmed);
            causes.check("spec.externalName", name, verdict);
        }
    }
}

fn policies(spec: &Value, causes: &mut Causes) {
    let external = text(spec, "externalTrafficPolicy");
    let path = "spec.externalTrafficPolicy";
    if !externally_accessible(spec) {
        if !external.is_empty() {
            let detail = "may only be set for externally-accessible services";
            causes.invalid(path, external, detail);
        }
    } else if !POLICIES.contains(&external) {
        causes.not_supported(path, external, POLICIES);
    }
    let internal = text(spec, "internalTrafficPolicy");
    if text(spec, "type") != "ExternalName" && !POLICIES.contains(&internal) {
        causes.not_supported("spec.internalTrafficPolicy", internal, POLICIES);
    }
    let distribution = text(spec, "trafficDistribution");
    let supported = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    if !distribution.is_empty() && !supported.contains(&distribution) {
        causes.not_supported("spec.trafficDistribution", distribution, supported);
    }
}

fn load_balancer(spec: &Value, old: &Value, causes: &mut Causes) {
    let check_port = int(spec, "healthCheckNodePort");
    if check_port != 0 && !wants_health_check_port(spec) {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid("spec.healthCheckNodePort", check_port, detail);
    }
    let balanced = text(spec, "type") == "LoadBalancer";
    let ranges = list(spec, "loadBalancerSourceRanges");
    for (index, range) in ranges.iter().enumerate() {
        // Upstream spells this path with a capital L, and clients grep for it.
        let path = format!("spec.LoadBalancerSourceRanges[{index}]");
        let text = range.as_str().unwrap_or_default();
        let known = list(old, "loadBalancerSourceRanges").contains(range);
        if !balanced {
            causes.forbidden(path, "may only be used when `type` is 'LoadBalancer'");
        } else if !known && let Err(reason) = api::ip::parse_cidr_strict(text.trim()) {
            causes.invalid(path, text, &reason);
        }
    }
    let class = text(spec, "loadBalancerClass");
    if !class.is_empty() {
        if balanced {
            let verdict = names::qualified_name(class);
            causes.check("spec.loadBalancerClass", class, verdict);
        } else {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            causes.forbidden("spec.loadBalancerClass", detail);
        }
    }
    if !balanced && !spec["allocateLoadBalancerNodePorts"].is_null() {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        causes.forbidden("spec.allocateLoadBalancerNodePorts", detail);
    }
}

/// Where a load balancer says the Service is reached (upstream's ValidateLoadBalancerStatus).
fn load_balancer_status(service: &Value, causes: &mut Causes) {
    let points = list(&service["status"]["loadBalancer"], "ingress");
    let path = "status.loadBalancer.ingress";
    if !points.is_empty() && text(&service["spec"], "type") != "LoadBalancer" {
        causes.forbidden(
            path,
            "may only be used when `spec.type` is \"LoadBalancer\"",
        );
    }
    for (index, point) in points.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (ip, mode, host) = (
            text(point, "ip"),
            text(point, "ipMode"),
            text(point, "hostname"),
        );
        if !ip.is_empty()
            && let Err(reason) = api::ip::parse_strict(ip)
        {
            causes.invalid(format!("{path}.ip"), ip, &reason);
        }
        if ip.is_empty() && !mode.is_empty() {
            let detail = "may not be specified when `ip` is not set";
            causes.forbidden(format!("{path}.ipMode"), detail);
        } else if !mode.is_empty() && !matches!(mode, "VIP" | "Proxy") {
            causes.not_supported(format!("{path}.ipMode"), mode, &["Proxy", "VIP"]);
        }
        if !host.is_empty() {
            let path = format!("{path}.hostname");
            if host.parse::<IpAddr>().is_ok() {
                causes.invalid(path, host, "must be a DNS name, not an IP address");
            } else {
                causes.check(path, host, names::dns1123_subdomain(host));
            }
        }
    }
}
