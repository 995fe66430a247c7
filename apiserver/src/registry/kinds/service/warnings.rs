//! What a Service may say but had better not: the texts of `Warning:` headers (services.md 1.2).
//! Source: pkg/api/service/warnings.go, `k8s.io/apimachinery/pkg/util/validation/ip.go`.

use std::net::IpAddr;

use serde_json::Value;

use super::{list, text, wants_cluster_ip};

/// Asks for endpoints nearby.
pub(super) const TOPOLOGY: &str = "service.kubernetes.io/topology-mode";
/// Its older name.
pub(super) const OLD_TOPOLOGY: &str = "service.kubernetes.io/topology-aware-hints";

/// The warnings for a Service as it is stored.
pub(super) fn of(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let mut warnings = Vec::new();
    if service["metadata"]["annotations"]
        .get(OLD_TOPOLOGY)
        .is_some()
    {
        warnings.push(format!(
            "annotation {OLD_TOPOLOGY} is deprecated, please use {TOPOLOGY} instead"
        ));
    }
    if wants_cluster_ip(spec) {
        warnings.extend(ips(spec, "clusterIPs"));
    }
    let headless = text(spec, "type") == "ClusterIP" && text(spec, "clusterIP") == "None";
    let outside = text(spec, "type") == "ExternalName";
    let claims = !list(spec, "externalIPs").is_empty();
    if headless {
        warnings.extend(
            ignored_when_headless(spec)
                .map(|field| format!("spec.{field} is ignored for headless services")),
        );
    }
    warnings.extend(ips(spec, "externalIPs"));
    if claims && !headless && !outside {
        let text =
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        warnings.push(text.into());
    }
    warnings.extend(ip("spec.loadBalancerIP", text(spec, "loadBalancerIP")));
    for (index, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let path = format!("spec.loadBalancerSourceRanges[{index}]");
        warnings.extend(cidr(&path, range.as_str().unwrap_or_default()));
    }
    if outside && claims {
        warnings.push(r#"spec.externalIPs is ignored when spec.type is "ExternalName""#.into());
    }
    if !outside && !text(spec, "externalName").is_empty() {
        warnings
            .push(r#"spec.externalName is ignored when spec.type is not "ExternalName""#.into());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        let text = r#"spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone""#;
        warnings.push(text.into());
    }
    warnings
}

/// Without an address of its own, nothing of this can work.
fn ignored_when_headless(spec: &Value) -> impl Iterator<Item = &'static str> {
    [
        ("loadBalancerIP", !text(spec, "loadBalancerIP").is_empty()),
        ("externalIPs", !list(spec, "externalIPs").is_empty()),
        ("SessionAffinity", text(spec, "sessionAffinity") != "None"),
    ]
    .into_iter()
    .filter_map(|(field, set)| set.then_some(field))
}

fn ips(spec: &Value, field: &str) -> Vec<String> {
    let listed = list(spec, field).iter().enumerate();
    listed
        .filter_map(|(index, value)| {
            ip(
                &format!("spec.{field}[{index}]"),
                value.as_str().unwrap_or_default(),
            )
        })
        .collect()
}

/// For an address in a form that programs read differently.
fn ip(path: &str, value: &str) -> Option<String> {
    let read = api::ip::parse(value).ok()?;
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let canonical = v6.to_string();
            (canonical != value).then(|| {
                format!(
                    "{path}: IPv6 address \"{value}\" should be in RFC 5952 canonical format (\"{canonical}\")"
                )
            })
        }
        Ok(IpAddr::V4(_)) => None,
        _ => Some(format!(
            "{path}: non-standard IP address \"{value}\" will be considered invalid in a future Kubernetes release: use \"{read}\""
        )),
    }
}

/// For a range in a form that programs read differently. At most one warning for each.
fn cidr(path: &str, value: &str) -> Option<String> {
    let read = api::ip::parse_cidr(value.trim()).ok()?;
    let network = read.trunc();
    if read.addr() != network.addr() {
        let single = ipnet::IpNet::from(read.addr());
        return Some(format!(
            "{path}: CIDR value \"{value}\" is ambiguous in this context (should be \"{network}\" or \"{single}\"?)"
        ));
    }
    if api::ip::parse_cidr_strict(value).is_err() {
        return Some(format!(
            "{path}: non-standard CIDR value \"{value}\" will be considered invalid in a future Kubernetes release: use \"{network}\""
        ));
    }
    (read.addr().is_ipv6() && network.to_string() != value).then(|| {
        format!(
            "{path}: IPv6 CIDR value \"{value}\" should be in RFC 5952 canonical format (\"{network}\")"
        )
    })
}
