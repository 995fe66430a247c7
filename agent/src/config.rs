//! What the agent is told: raw options in, one checked [`Config`] out.

mod detect_local;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use ipnet::IpNet;

use crate::{
    Addresses,
    client::{ClientError, Server},
    network::Conntrack,
};
pub(crate) use detect_local::DetectLocal;

/// The options as flags and files give them.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--join`: `https://HOST:PORT` of the server.
    pub join: String,
    /// `--token`; not needed by a node that joined before.
    pub token: Option<String>,
    /// `--node-name`; the machine's host name by default.
    pub node_name: Option<String>,
    /// `--node-ip`, one of each IP family at most; by default the address that connections to the server leave from, and with
    /// Pods of the other family an address of it on the same link.
    pub node_ips: Vec<IpAddr>,
    /// `--data-dir`: what must survive a reboot.
    pub data_dir: PathBuf,
    /// `--run-dir`: running Pods; a reboot may empty it.
    pub run_dir: PathBuf,
    /// `--log-dir`: container logs.
    pub log_dir: PathBuf,
    /// `--cgroup-parent`: the cgroup, below the root of every hierarchy, that holds the Pods.
    pub cgroup_parent: String,
    /// `--dns-upstream`: who answers names outside the cluster; none means that they do not resolve.
    pub dns_upstreams: Vec<IpAddr>,
    /// `--nodeport-address CIDR|primary`: which of the node's addresses answer on NodePorts; none means all but loopback.
    pub node_port_addresses: Vec<String>,
    /// `--localhost-nodeports`: the agent serves NodePorts of TCP and UDP on loopback.
    pub localhost_node_ports: bool,
    /// `--detect-local-mode`: what tells Pods' connections from others; empty means ClusterCIDR.
    pub detect_local_mode: String,
    /// `--pod-bridge-interface`, for mode BridgeInterface.
    pub pod_bridge_interface: Option<String>,
    /// `--pod-interface-name-prefix`, for mode InterfaceNamePrefix.
    pub pod_interface_name_prefix: Option<String>,
    /// `--masquerade-all`: no connection to a ClusterIP keeps its source.
    pub masquerade_all: bool,
    /// `--conntrack-…`: what connection tracking must have at least.
    pub conntrack: Conntrack,
    /// `--healthz-bind-address`: where the node answers `/healthz` and `/livez`; by default on every address.
    pub healthz_bind: Option<SocketAddr>,
    /// `--label KEY=VALUE`: labels of the Node object.
    pub labels: Vec<String>,
    /// The minik binary, which shims and the built-in image are made of.
    pub executable: PathBuf,
}

/// The reference proxy's port.
const HEALTHZ_PORT: u16 = 10256;

/// By which addresses the node is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeIps {
    /// These and no others.
    Given(Addresses),
    /// The one that leads to the server. That of the other family is on the same link, if the cluster's Pods have it.
    TowardsServer(IpAddr),
}

/// `--nodeport-address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodePortAddress {
    /// The addresses by which other nodes know this one.
    Primary,
    /// Those in a network.
    Network(IpNet),
}

impl NodePortAddress {
    fn parse(value: &str) -> Result<Self, ConfigError> {
        if value == "primary" {
            return Ok(Self::Primary);
        }
        let network = value.parse();
        network
            .map(Self::Network)
            .map_err(|_| ConfigError::NodePortAddress {
                value: value.to_owned(),
            })
    }
}

/// Checked options.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) server: String,
    pub(crate) token: Option<String>,
    pub(crate) node_name: String,
    pub(crate) node_ips: NodeIps,
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) cgroup_parent: String,
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    pub(crate) node_port_addresses: Vec<NodePortAddress>,
    pub(crate) localhost_node_ports: bool,
    pub(crate) detect_local: DetectLocal,
    pub(crate) masquerade_all: bool,
    pub(crate) conntrack: Conntrack,
    pub(crate) healthz_bind: SocketAddr,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) executable: PathBuf,
}

/// An option that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--join` is not a server address.
    #[error("--join: {0}")]
    Join(ClientError),
    /// `--node-name` is not a valid object name.
    #[error("--node-name {name:?}: {reason}")]
    NodeName {
        /// The name given, or the host name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host name cannot be read.
    #[error("--node-name is needed: the machine's host name cannot be used ({0})")]
    HostName(std::io::Error),
    /// No address of this machine leads to the server.
    #[error(
        "--join {server}: no address of this machine leads there ({source}): mend the name or the route, or give --node-ip"
    )]
    NodeIp {
        /// The server.
        server: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// `--node-ip` is not an address of this machine.
    #[error(
        "--node-ip {ip}: no interface of this machine has this address: give one that has, or leave the flag out"
    )]
    ForeignNodeIp {
        /// The address given.
        ip: IpAddr,
    },
    /// `--node-ip` twice for one family.
    #[error("--node-ip {}: give one address, or one of each IP family", list(.ips))]
    NodeIps {
        /// The addresses given.
        ips: Vec<IpAddr>,
    },
    /// `--cgroup-parent` leads out of the hierarchies' roots.
    #[error(
        "--cgroup-parent {path:?}: give names separated by '/', without '.' and '..', like minik or system/minik"
    )]
    CgroupParent {
        /// What was given.
        path: String,
    },
    /// `--nodeport-address` is neither a network nor `primary`.
    #[error("--nodeport-address {value:?} is neither a network such as 192.0.2.0/24 nor `primary`")]
    NodePortAddress {
        /// What was given.
        value: String,
    },
    /// `--detect-local-mode` is none of the modes.
    #[error(
        "--detect-local-mode {value:?}: give ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"
    )]
    DetectLocalMode {
        /// What was given.
        value: String,
    },
    /// A flag that says which interface is missing, does not belong to the mode, or is no name of an interface.
    #[error("{flag}{}: {reason}", value.as_ref().map(|value| format!(" {value:?}")).unwrap_or_default())]
    DetectLocalInterface {
        /// The flag.
        flag: &'static str,
        /// What was given, if anything.
        value: Option<String>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `--label` is not `KEY=VALUE` with a valid key and value.
    #[error("--label {label:?}: {reason}")]
    Label {
        /// What was given.
        label: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn list(ips: &[IpAddr]) -> String {
    let texts: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
    texts.join(",")
}

impl Options {
    /// Checks everything and fills in the defaults that the machine knows. No packet is sent.
    ///
    /// # Errors
    /// The first option that cannot be used.
    pub fn validate(self) -> Result<Config, ConfigError> {
        let server = Server::parse(&self.join).map_err(ConfigError::Join)?;
        let node_name = node_name(self.node_name)?;
        let node_ips = match self.node_ips.as_slice() {
            [] => NodeIps::TowardsServer(address_towards(&server)?),
            given => NodeIps::Given(own_addresses(given)?),
        };
        let node_port_addresses = self.node_port_addresses.iter();
        check_cgroup_parent(&self.cgroup_parent)?;
        Ok(Config {
            server: server.to_string(),
            token: self.token,
            node_name,
            node_ips,
            data_dir: self.data_dir,
            run_dir: self.run_dir,
            log_dir: self.log_dir,
            cgroup_parent: self.cgroup_parent,
            dns_upstreams: self
                .dns_upstreams
                .iter()
                .map(|ip| SocketAddr::new(*ip, 53))
                .collect(),
            node_port_addresses: node_port_addresses
                .map(|value| NodePortAddress::parse(value))
                .collect::<Result<_, _>>()?,
            localhost_node_ports: self.localhost_node_ports,
            detect_local: detect_local::mode(
                &self.detect_local_mode,
                self.pod_bridge_interface,
                self.pod_interface_name_prefix,
            )?,
            masquerade_all: self.masquerade_all,
            conntrack: self.conntrack,
            healthz_bind: self
                .healthz_bind
                .unwrap_or_else(|| SocketAddr::new(every_address(), HEALTHZ_PORT)),
            labels: labels(&self.labels)?,
            executable: self.executable,
        })
    }
}

impl Config {
    /// The name of this node's Node object.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The node's own addresses in these networks answer on NodePorts; none means all.
    pub(crate) fn node_port_networks(&self, node: Addresses) -> BTreeSet<IpNet> {
        let given = self.node_port_addresses.iter();
        given
            .flat_map(|given| match given {
                NodePortAddress::Primary => node.into_iter().map(IpNet::from).collect(),
                NodePortAddress::Network(network) => vec![*network],
            })
            .collect()
    }
}

fn node_name(given: Option<String>) -> Result<String, ConfigError> {
    let name = match given {
        Some(name) => name,
        None => nix::unistd::gethostname()
            .map_err(|errno| ConfigError::HostName(errno.into()))?
            .to_string_lossy()
            .to_ascii_lowercase(),
    };
    match api::names::dns1123_subdomain(&name) {
        Ok(()) => Ok(name),
        Err(reason) => Err(ConfigError::NodeName { name, reason }),
    }
}

/// The source address the kernel would choose. Connecting a UDP socket looks up the route and sends nothing.
fn address_towards(server: &Server) -> Result<IpAddr, ConfigError> {
    let lookup = || {
        let any: SocketAddr = if server.host.contains(':') {
            ([0_u16; 8], 0).into()
        } else {
            ([0, 0, 0, 0], 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect((server.host.as_str(), server.port))?;
        Ok(socket.local_addr()?.ip())
    };
    lookup().map_err(|source| ConfigError::NodeIp {
        server: server.to_string(),
        source,
    })
}

/// The wildcard address of both families, or of the only one that this kernel has.
fn every_address() -> IpAddr {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn own_addresses(ips: &[IpAddr]) -> Result<Addresses, ConfigError> {
    for ip in ips {
        own_address(*ip)?;
    }
    let addresses = Addresses::of_each_family(ips.iter().copied());
    addresses
        .filter(|addresses| addresses.into_iter().count() == ips.len())
        .ok_or_else(|| ConfigError::NodeIps { ips: ips.to_vec() })
}

/// Other nodes send the Pods' packets there. Binding a UDP socket asks the kernel whose address it is and sends nothing.
fn own_address(ip: IpAddr) -> Result<IpAddr, ConfigError> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) if !ip.is_unspecified() => Ok(ip),
        _ => Err(ConfigError::ForeignNodeIp { ip }),
    }
}

fn check_cgroup_parent(path: &str) -> Result<(), ConfigError> {
    let good = |name: &str| !matches!(name, "" | "." | "..");
    if path.split('/').all(good) && !path.contains('\0') {
        return Ok(());
    }
    Err(ConfigError::CgroupParent {
        path: path.to_owned(),
    })
}

fn labels(given: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut labels = BTreeMap::new();
    for label in given {
        let bad = |reason: String| ConfigError::Label {
            label: label.clone(),
            reason,
        };
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| bad("wanted KEY=VALUE".to_owned()))?;
        api::names::qualified_name(key).map_err(bad)?;
        api::names::label_value(value).map_err(bad)?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            join: "https://127.0.0.1:6443".to_owned(),
            node_name: Some("node-1".to_owned()),
            cgroup_parent: "minik".to_owned(),
            ..Options::default()
        }
    }

    #[test]
    fn the_node_address_is_the_one_that_leads_to_the_server() {
        let config = options().validate().expect("valid");
        let local = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(config.node_ips, NodeIps::TowardsServer(local));
    }

    #[test]
    fn node_ports_are_served_on_the_networks_given_or_the_primary_address() {
        let given = ["primary", "198.51.100.0/24"].map(str::to_owned);
        let config = Options {
            node_port_addresses: given.to_vec(),
            ..options()
        };
        let own = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().expect("an address"));
        let own = Addresses::of_each_family(own).expect("addresses");
        let networks = |config: Options| config.validate().expect("valid").node_port_networks(own);
        let wanted = ["192.0.2.1/32", "2001:db8::1/128", "198.51.100.0/24"]
            .map(|net| net.parse().expect("a network"));
        assert_eq!(networks(config), BTreeSet::from(wanted));
        assert!(networks(options()).is_empty());
    }

    #[test]
    fn each_bad_option_is_named_in_its_error() {
        let cases = [
            (
                Options {
                    join: "http://a".to_owned(),
                    ..options()
                },
                "--join",
            ),
            (
                Options {
                    node_name: Some("Node_1".to_owned()),
                    ..options()
                },
                "--node-name",
            ),
            (
                Options {
                    labels: vec!["zone".to_owned()],
                    ..options()
                },
                "--label",
            ),
            (
                Options {
                    labels: vec!["zone=a b".to_owned()],
                    ..options()
                },
                "--label",
            ),
            (
                Options {
                    node_ips: vec![IpAddr::from([192, 0, 2, 1])],
                    ..options()
                },
                "--node-ip 192.0.2.1",
            ),
            (
                Options {
                    node_ips: vec![IpAddr::from([0, 0, 0, 0])],
                    ..options()
                },
                "--node-ip 0.0.0.0",
            ),
            (
                Options {
                    node_ips: vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])],
                    ..options()
                },
                "--node-ip 127.0.0.1,127.0.0.2",
            ),
            (
                Options {
                    node_port_addresses: vec!["eth0".to_owned()],
                    ..options()
                },
                "--nodeport-address",
            ),
            (
                Options {
                    detect_local_mode: "Bridge".to_owned(),
                    ..options()
                },
                "--detect-local-mode \"Bridge\"",
            ),
        ];
        for (options, flag) in cases {
            let error = options.validate().expect_err(flag).to_string();
            assert!(error.starts_with(flag), "{error}");
        }
    }

    #[test]
    fn the_cgroup_of_the_pods_stays_below_the_root() {
        for path in ["minik", "minik-lab-x/node1"] {
            assert!(check_cgroup_parent(path).is_ok(), "{path}");
        }
        for path in ["", "/", "/minik", "..", "a/../b", "a//b", "minik/"] {
            let error = check_cgroup_parent(path).expect_err(path).to_string();
            assert!(error.starts_with("--cgroup-parent"), "{error}");
        }
    }
}
