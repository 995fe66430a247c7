//! Ports of the node that lead to a Pod.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane::model::{self, Family, Fate, Frontend};
use runtime::HostPort;

use crate::Addresses;

/// Where each port of the node leads, in every family that the Pod has: at all of the node's addresses (like a NodePort, not on
/// loopback, and within `--nodeport-address`), or at the one that is named.
pub(crate) fn host_ports(
    ports: &[HostPort],
    pod: Addresses,
) -> BTreeMap<Frontend, model::Endpoint> {
    let mut frontends = BTreeMap::new();
    for port in ports {
        let Some(protocol) = protocol(port.protocol) else {
            continue;
        };
        for addr in pod {
            let number = port.host_port;
            let frontend = match port.host_ip {
                Some(ip) if ip.is_ipv4() != addr.is_ipv4() => continue,
                Some(ip) if !ip.is_unspecified() => address(ip, protocol, number),
                _ => Frontend::NodePort {
                    family: Family::of(addr),
                    protocol,
                    port: number,
                },
            };
            let port = port.pod_port;
            frontends.insert(frontend, model::Endpoint { addr, port });
        }
    }
    frontends
}

/// To the Pod, whose node this is: clients outside and Pods keep their addresses.
pub(crate) fn host_port_fate(endpoint: model::Endpoint) -> Fate {
    let endpoints: std::sync::Arc<[_]> = [endpoint].into();
    Fate::Local {
        outside: endpoints.clone(),
        inside: endpoints,
        affinity: None,
    }
}

const fn address(addr: IpAddr, protocol: model::Protocol, port: std::num::NonZeroU16) -> Frontend {
    Frontend::Address {
        addr,
        protocol,
        port,
    }
}

const fn protocol(number: u8) -> Option<model::Protocol> {
    match number {
        6 => Some(model::Protocol::Tcp),
        17 => Some(model::Protocol::Udp),
        132 => Some(model::Protocol::Sctp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn led(host_ip: Option<&str>) -> Vec<String> {
        let number = |port| NonZeroU16::new(port).expect("a port");
        let port = HostPort {
            host_ip: host_ip.map(|ip| ip.parse().expect("address")),
            host_port: number(8080),
            pod_port: number(80),
            protocol: 17,
        };
        let pod = ["10.244.1.2", "fd00::2"].map(|ip| ip.parse().expect("address"));
        let pod = Addresses::of_each_family(pod).expect("addresses");
        let led = host_ports(&[port], pod).into_iter();
        led.map(|(frontend, endpoint)| {
            let at = match frontend {
                Frontend::Address { addr, .. } => addr.to_string(),
                Frontend::NodePort { family, .. } => format!("{family:?}"),
            };
            format!(
                "{at} {} -> {} {}",
                frontend.port(),
                endpoint.addr,
                endpoint.port
            )
        })
        .collect()
    }

    #[test]
    fn a_port_leads_to_the_pod_in_its_families_or_at_one_address() {
        let both = ["V4 8080 -> 10.244.1.2 80", "V6 8080 -> fd00::2 80"];
        assert_eq!(led(None), both);
        assert_eq!(led(Some("0.0.0.0")), both[..1]);
        assert_eq!(led(Some("::")), both[1..]);
        assert_eq!(led(Some("2001:db8::1")), ["2001:db8::1 8080 -> fd00::2 80"]);
    }
}
