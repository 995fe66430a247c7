//! Ports of the node that lead to a Pod (`containers[].ports[].hostPort`): which a Pod wants, and that no two have one.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZeroU16,
    sync::{Mutex, MutexGuard},
};

use api::core::{ContainerPort, Pod};
use runtime::HostPort;

/// Why a Pod does not get its ports (yet).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum HostPortError {
    #[error("container {container}: hostIP {host_ip:?} is no IP address")]
    HostIp { container: String, host_ip: String },
    #[error(
        "container {container}: hostIP {host_ip} is a loopback address, which is not served: give another address of the node, or none"
    )]
    Loopback { container: String, host_ip: IpAddr },
    #[error("hostIP {host_ip} is no address of this node")]
    Foreign { host_ip: IpAddr },
    #[error("hostPort {port}/{protocol} of this node belongs to Pod {owner}")]
    Taken {
        port: NonZeroU16,
        protocol: &'static str,
        owner: String,
    },
}

/// The ports that a Pod wants.
pub(super) fn of(pod: &Pod) -> Result<Vec<HostPort>, HostPortError> {
    let ports = pod
        .spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().map(|port| (&container.name, port)));
    ports
        .filter_map(|(container, port)| one(container, port).transpose())
        .collect()
}

fn one(container: &str, port: &ContainerPort) -> Result<Option<HostPort>, HostPortError> {
    let number = |port: i32| u16::try_from(port).ok().and_then(NonZeroU16::new);
    let (Some(host_port), Some(pod_port)) = (number(port.host_port), number(port.container_port))
    else {
        return Ok(None);
    };
    let host_ip = match &*port.host_ip {
        "" => None,
        text => {
            let host_ip = text.parse().map_err(|_| HostPortError::HostIp {
                container: container.to_owned(),
                host_ip: text.to_owned(),
            });
            Some(host_ip?)
        }
    };
    if let Some(host_ip) = host_ip.filter(IpAddr::is_loopback) {
        return Err(HostPortError::Loopback {
            container: container.to_owned(),
            host_ip,
        });
    }
    Ok(Some(HostPort {
        host_ip,
        host_port,
        pod_port,
        protocol: protocol_number(&port.protocol),
    }))
}

/// IANA's numbers.
fn protocol_number(name: &str) -> u8 {
    match name {
        "UDP" => 17,
        "SCTP" => 132,
        _ => 6,
    }
}

fn protocol_name(number: u8) -> &'static str {
    match number {
        17 => "UDP",
        132 => "SCTP",
        _ => "TCP",
    }
}

/// Whether some packet would be meant for both.
fn clash(a: &HostPort, b: &HostPort) -> bool {
    let everywhere = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    let meet = match (a.host_ip, b.host_ip) {
        (Some(a), Some(b)) if a.is_ipv4() != b.is_ipv4() => false,
        (a, b) => everywhere(a) || everywhere(b) || a == b,
    };
    (a.protocol, a.host_port) == (b.protocol, b.host_port) && meet
}

/// Who has which ports of the node, by the Pod's uid.
#[derive(Debug, Default)]
pub(super) struct HostPorts(Mutex<BTreeMap<String, Owner>>);

#[derive(Debug)]
struct Owner {
    /// `NAMESPACE/NAME`
    name: String,
    ports: Vec<HostPort>,
}

impl HostPorts {
    /// Gives a Pod its ports; one that has them already keeps them.
    pub(super) fn claim(
        &self,
        uid: &str,
        name: &str,
        ports: &[HostPort],
    ) -> Result<(), HostPortError> {
        let mut owners = self.owners();
        for (other, owner) in &*owners {
            let mut pairs = ports
                .iter()
                .filter(|port| owner.ports.iter().any(|taken| clash(port, taken)));
            if let Some(port) = pairs.next().filter(|_| other != uid) {
                return Err(HostPortError::Taken {
                    port: port.host_port,
                    protocol: protocol_name(port.protocol),
                    owner: owner.name.clone(),
                });
            }
        }
        if !ports.is_empty() {
            let owner = Owner {
                name: name.to_owned(),
                ports: ports.to_vec(),
            };
            owners.insert(uid.to_owned(), owner);
        }
        Ok(())
    }

    pub(super) fn release(&self, uid: &str) {
        self.owners().remove(uid);
    }

    fn owners(&self) -> MutexGuard<'_, BTreeMap<String, Owner>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ports(ports: Value) -> Result<Vec<HostPort>, HostPortError> {
        let containers = json!([{"name": "c", "ports": ports}]);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
        of(&serde_json::from_value(pod).expect("a Pod"))
    }

    fn port(host_ip: &str, protocol: &str) -> Vec<HostPort> {
        let one = json!([{"containerPort": 80, "hostPort": 8080, "hostIP": host_ip, "protocol": protocol}]);
        ports(one).expect("ports")
    }

    #[test]
    fn only_ports_of_the_node_count_and_a_bad_address_is_named() {
        let found = ports(json!([{"containerPort": 1}, {"containerPort": 2, "hostPort": 3}]));
        let wanted = HostPort {
            host_ip: None,
            host_port: NonZeroU16::new(3).expect("3"),
            pod_port: NonZeroU16::new(2).expect("2"),
            protocol: 6,
        };
        assert_eq!(found, Ok(vec![wanted]));
        for (ip, words) in [
            ("here", "no IP address"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
        ] {
            let port = json!([{"containerPort": 2, "hostPort": 3, "hostIP": ip}]);
            let error = ports(port).expect_err(ip).to_string();
            assert!(error.contains(words) && error.contains(ip), "{error}");
        }
    }

    #[test]
    fn a_port_has_one_owner_and_goes_to_the_next_when_it_leaves() {
        let all = HostPorts::default();
        all.claim("u1", "default/one", &port("", "TCP"))
            .expect("free");
        all.claim("u1", "default/one", &port("", "TCP"))
            .expect("its own");
        let error = all
            .claim("u2", "default/two", &port("192.0.2.1", "TCP"))
            .expect_err("taken");
        let words = "hostPort 8080/TCP of this node belongs to Pod default/one";
        assert_eq!(error.to_string(), words);
        all.claim("u3", "default/three", &port("", "UDP"))
            .expect("another protocol");
        all.release("u1");
        all.claim("u2", "default/two", &port("192.0.2.1", "TCP"))
            .expect("free again");
    }

    #[test]
    fn two_addresses_of_the_node_are_two_ports() {
        for (a, b, clashes) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("0.0.0.0", "192.0.2.1", true),
            ("0.0.0.0", "2001:db8::1", false),
            ("", "2001:db8::1", true),
            ("::", "", true),
        ] {
            let (one, other) = (port(a, "TCP")[0], port(b, "TCP")[0]);
            assert_eq!(clash(&one, &other), clashes, "{a:?} {b:?}");
            assert_eq!(clash(&other, &one), clashes, "{b:?} {a:?}");
        }
    }
}
