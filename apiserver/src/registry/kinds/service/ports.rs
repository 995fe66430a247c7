//! How `kubectl get services` prints addresses and ports.

use serde_json::Value;

use super::{int, list, text};

/// `80/TCP,443:30443/TCP`.
pub(super) fn port_list(spec: &Value) -> String {
    let ports: Vec<String> = list(spec, "ports")
        .iter()
        .map(|port| {
            let protocol = text(port, "protocol");
            match int(port, "nodePort") {
                0 => format!("{}/{protocol}", int(port, "port")),
                node_port => format!("{}:{node_port}/{protocol}", int(port, "port")),
            }
        })
        .collect();
    ports.join(",")
}

/// Where the Service is reached from outside.
pub(super) fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let external_ips: Vec<&str> = list(spec, "externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match text(spec, "type") {
        "ExternalName" => text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let mut all = ingress(service);
            all.extend(external_ips);
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",")
            }
        }
        _ if external_ips.is_empty() => "<none>".into(),
        _ => external_ips.join(","),
    }
}

fn ingress(service: &Value) -> Vec<&str> {
    let mut points: Vec<&str> = list(&service["status"]["loadBalancer"], "ingress")
        .iter()
        .map(|point| match text(point, "ip") {
            "" => text(point, "hostname"),
            ip => ip,
        })
        .collect();
    points.sort_unstable();
    points
}
