//! The variables that tell a container about Services.
//! <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>

use std::{collections::BTreeMap, net::IpAddr};

use crate::objects::{Protocol, Service};

/// The variables of the Services a Pod may know, in the order of the Services. `services` are those of the Pod's
/// namespace and `default/kubernetes`; the former count only with `enableServiceLinks`, except that a Service called
/// `kubernetes` in the Pod's own namespace takes the place of the default one.
pub(in crate::pods) fn service_variables(
    services: &[&Service],
    namespace: &str,
    enable_service_links: bool,
) -> Vec<(String, String)> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (own, is_master) = (
            &*service.metadata.namespace == namespace,
            &*service.metadata.namespace == "default" && &*service.metadata.name == "kubernetes",
        );
        if own && enable_service_links {
            chosen.insert(&service.metadata.name, service);
        } else if is_master {
            chosen.entry(&service.metadata.name).or_insert(service);
        }
    }
    chosen
        .values()
        .flat_map(|service| variables_of(service))
        .collect()
}

/// The variables of one Service: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, and the older form that Docker links had.
fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(host) = service.cluster_ips().first().copied() else {
        return Vec::new();
    };
    let Some(first) = service.spec.ports.first() else {
        return Vec::new();
    };
    let prefix = variable_name(&service.metadata.name);
    let mut variables = vec![
        (format!("{prefix}_SERVICE_HOST"), host.to_string()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in service
        .spec
        .ports
        .iter()
        .filter(|port| !port.name.is_empty())
    {
        variables.push((
            format!("{prefix}_SERVICE_PORT_{}", variable_name(&port.name)),
            port.port.to_string(),
        ));
    }
    for (index, port) in service.spec.ports.iter().enumerate() {
        let url = url(port.protocol, host, port.port);
        if index == 0 {
            variables.push((format!("{prefix}_PORT"), url.clone()));
        }
        let port_prefix = format!(
            "{prefix}_PORT_{}_{}",
            port.port,
            port.protocol.lower().to_uppercase()
        );
        variables.push((port_prefix.clone(), url));
        variables.push((
            format!("{port_prefix}_PROTO"),
            port.protocol.lower().to_owned(),
        ));
        variables.push((format!("{port_prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{port_prefix}_ADDR"), host.to_string()));
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn url(protocol: Protocol, host: IpAddr, port: u16) -> String {
    match host {
        IpAddr::V4(host) => format!("{}://{host}:{port}", protocol.lower()),
        IpAddr::V6(host) => format!("{}://[{host}]:{port}", protocol.lower()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: &[(&str, u16, &str)]) -> Service {
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": ports},
        }))
        .expect("service")
    }

    fn lines(services: &[&Service], namespace: &str, links: bool) -> Vec<String> {
        let variables = service_variables(services, namespace, links);
        variables
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn every_form_of_service_variable_is_there_in_order() {
        let plain = service("default", "web", "10.96.0.7", &[("", 80, "TCP")]);
        let named = service(
            "default",
            "super-dns",
            "fd00::7",
            &[("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("s", 9, "SCTP")],
        );
        let headless = service("default", "none", "None", &[("", 80, "TCP")]);
        let wanted = "SUPER_DNS_SERVICE_HOST=fd00::7
SUPER_DNS_SERVICE_PORT=53
SUPER_DNS_SERVICE_PORT_DNS=53
SUPER_DNS_SERVICE_PORT_DNS_TCP=53
SUPER_DNS_SERVICE_PORT_S=9
SUPER_DNS_PORT=udp://[fd00::7]:53
SUPER_DNS_PORT_53_UDP=udp://[fd00::7]:53
SUPER_DNS_PORT_53_UDP_PROTO=udp
SUPER_DNS_PORT_53_UDP_PORT=53
SUPER_DNS_PORT_53_UDP_ADDR=fd00::7
SUPER_DNS_PORT_53_TCP=tcp://[fd00::7]:53
SUPER_DNS_PORT_53_TCP_PROTO=tcp
SUPER_DNS_PORT_53_TCP_PORT=53
SUPER_DNS_PORT_53_TCP_ADDR=fd00::7
SUPER_DNS_PORT_9_SCTP=sctp://[fd00::7]:9
SUPER_DNS_PORT_9_SCTP_PROTO=sctp
SUPER_DNS_PORT_9_SCTP_PORT=9
SUPER_DNS_PORT_9_SCTP_ADDR=fd00::7
WEB_SERVICE_HOST=10.96.0.7
WEB_SERVICE_PORT=80
WEB_PORT=tcp://10.96.0.7:80
WEB_PORT_80_TCP=tcp://10.96.0.7:80
WEB_PORT_80_TCP_PROTO=tcp
WEB_PORT_80_TCP_PORT=80
WEB_PORT_80_TCP_ADDR=10.96.0.7";
        assert_eq!(
            lines(&[&plain, &named, &headless], "default", true).join("\n"),
            wanted
        );
    }

    #[test]
    fn kubernetes_is_always_there_and_the_own_one_wins() {
        let master = service(
            "default",
            "kubernetes",
            "10.96.0.1",
            &[("https", 443, "TCP")],
        );
        let other = service("team", "web", "10.96.0.7", &[("", 80, "TCP")]);
        let own = service("team", "kubernetes", "10.96.0.9", &[("", 443, "TCP")]);
        let host = |services: &[&Service], links| lines(services, "team", links)[0].clone();
        assert_eq!(
            host(&[&master, &other], false),
            "KUBERNETES_SERVICE_HOST=10.96.0.1"
        );
        assert!(
            !lines(&[&master, &other], "team", false)
                .iter()
                .any(|line| line.starts_with("WEB"))
        );
        for order in [[&master, &own], [&own, &master]] {
            assert_eq!(host(&order, true), "KUBERNETES_SERVICE_HOST=10.96.0.9");
        }
        assert_eq!(
            host(&[&master, &own], false),
            "KUBERNETES_SERVICE_HOST=10.96.0.1"
        );
    }
}
