//! A cluster in plain words, and the objects that say the same: what the oracle judges and what the code is given.

use super::*;
use crate::Addresses;

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Cluster,
    Local,
}

/// What a slice says of an endpoint: ready, serving, terminating; `None` is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

const fn state(ready: bool, serving: bool, terminating: bool) -> State {
    State {
        ready: Some(ready),
        serving: Some(serving),
        terminating: Some(terminating),
    }
}

pub(super) const READY: State = state(true, true, false);
pub(super) const UNREADY: State = state(false, false, false);
/// Serves, but may not be used yet.
pub(super) const STARTING: State = state(false, true, false);
pub(super) const SERVING: State = state(false, true, true);
pub(super) const TERMINATING: State = state(false, false, true);
/// Not ready and about to go, but `publishNotReadyAddresses` calls it ready.
pub(super) const PUBLISHED: State = state(true, false, true);
/// Mirrored from Endpoints: only the readiness is said.
pub(super) const MIRRORED: State = State {
    ready: Some(true),
    serving: None,
    terminating: None,
};
pub(super) const MIRRORED_UNREADY: State = State {
    ready: Some(false),
    serving: None,
    terminating: None,
};
pub(super) const STATES: [State; 8] = [
    READY,
    UNREADY,
    STARTING,
    SERVING,
    TERMINATING,
    PUBLISHED,
    MIRRORED,
    MIRRORED_UNREADY,
];

/// An entry of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its node, `n1` to `n3`: the packets are traced on `n1`, in zone `z1`.
    pub(super) node: u8,
    /// Its address on the node, by which the same Pod may be named twice.
    pub(super) host: u8,
    pub(super) state: State,
    /// `hints.forZones` and `hints.forNodes`.
    pub(super) zone: Option<&'static str>,
    pub(super) on: Option<&'static str>,
    /// Which of the Service's slices names it.
    pub(super) slice: usize,
}

impl Member {
    pub(super) const fn new(node: u8, host: u8, state: State) -> Self {
        Self {
            node,
            host,
            state,
            zone: None,
            on: None,
            slice: 0,
        }
    }

    pub(super) fn addr(&self, family: Family) -> IpAddr {
        pod_addr(family, self.node, self.host)
    }
}

pub(super) fn pod_addr(family: Family, node: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => [10, 244, node, host].into(),
        Family::V6 => [0xfd00, 0x244, node.into(), 0, 0, 0, 0, host.into()].into(),
    }
}

/// What `--detect-local-mode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detect {
    ClusterCidr,
    NodeCidr,
    Bridge,
    Prefix,
}

pub(super) const DETECTORS: [Detect; 4] = [
    Detect::ClusterCidr,
    Detect::NodeCidr,
    Detect::Bridge,
    Detect::Prefix,
];

/// One Service of every path, and how the node is set up.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) internal: Policy,
    pub(super) external: Policy,
    pub(super) members: Vec<Member>,
    /// `loadBalancerSourceRanges`.
    pub(super) ranges: Vec<&'static str>,
    pub(super) affinity: bool,
    pub(super) detect: Detect,
    pub(super) masquerade_all: bool,
    /// Whether only the primary address answers on NodePorts.
    pub(super) primary_only: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            internal: Policy::Cluster,
            external: Policy::Cluster,
            members: Vec::new(),
            ranges: Vec::new(),
            affinity: false,
            detect: Detect::ClusterCidr,
            masquerade_all: false,
            primary_only: false,
        }
    }
}

pub(super) const PROTOCOLS: [model::Protocol; 3] = [
    model::Protocol::Tcp,
    model::Protocol::Udp,
    model::Protocol::Sctp,
];

/// The endpoints' port, by protocol: each resolves to its own.
pub(super) const fn target(protocol: model::Protocol) -> u16 {
    match protocol {
        model::Protocol::Tcp => 8080,
        model::Protocol::Udp => 8081,
        model::Protocol::Sctp => 8082,
    }
}

pub(super) const CLUSTER_IPS: [&str; 2] = ["10.96.0.7", "fd00:96::7"];
pub(super) const EXTERNAL_IPS: [&str; 2] = ["198.51.100.1", "2001:db8:e::1"];
pub(super) const VIPS: [&str; 2] = ["198.51.100.2", "2001:db8:e::2"];
pub(super) const PROXY_VIPS: [&str; 2] = ["198.51.100.3", "2001:db8:e::3"];
pub(super) const NODE_IPS: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
pub(super) const OTHER_NODE_IPS: [&str; 2] = ["198.18.0.1", "2001:db8:2::1"];
pub(super) const BRIDGE: &str = "minik0";
pub(super) const POD_LINK: &str = "veth7";

/// The one of a pair that is of a family.
pub(super) fn of(family: Family, pair: [&str; 2]) -> IpAddr {
    pair[family as usize].parse().expect("an address")
}

impl Cluster {
    fn service(&self) -> Service {
        let policy = |policy: Policy| format!("{policy:?}");
        let ports = PROTOCOLS.map(|protocol| {
            json!({
                "name": name(protocol), "protocol": name(protocol).to_uppercase(), "port": 80, "nodePort": 30080,
            })
        });
        let ingress = |ip: &str, mode: &str| json!({"ip": ip, "ipMode": mode});
        let ingresses: Vec<_> = VIPS
            .map(|ip| ingress(ip, "VIP"))
            .into_iter()
            .chain(PROXY_VIPS.map(|ip| ingress(ip, "Proxy")))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": CLUSTER_IPS[0], "clusterIPs": CLUSTER_IPS,
                "externalIPs": EXTERNAL_IPS, "ports": ports,
                "internalTrafficPolicy": policy(self.internal), "externalTrafficPolicy": policy(self.external),
                "loadBalancerSourceRanges": self.ranges,
                "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
            },
            "status": {"loadBalancer": {"ingress": ingresses}},
        }))
        .expect("a Service")
    }

    fn slices(&self) -> Vec<EndpointSlice> {
        let count = self.members.iter().map(|member| member.slice + 1).max();
        let numbers = 0..count.unwrap_or(1);
        numbers
            .flat_map(|number| Family::ALL.map(|family| self.slice(number, family)))
            .collect()
    }

    fn slice(&self, number: usize, family: Family) -> EndpointSlice {
        let members = self.members.iter().filter(|member| member.slice == number);
        let endpoints: Vec<Value> = members
            .map(|member| {
                let hint = |name: Option<&str>| name.map(|name| json!([{"name": name}]));
                json!({
                    "addresses": [member.addr(family)], "nodeName": format!("n{}", member.node),
                    "conditions": {
                        "ready": member.state.ready, "serving": member.state.serving,
                        "terminating": member.state.terminating,
                    },
                    "hints": {
                        "forZones": hint(member.zone).unwrap_or_else(|| json!([])),
                        "forNodes": hint(member.on).unwrap_or_else(|| json!([])),
                    },
                })
            })
            .collect();
        let ports = PROTOCOLS.map(|protocol| {
            json!({"name": name(protocol), "protocol": name(protocol).to_uppercase(), "port": target(protocol)})
        });
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("web-{number}-{family:?}")},
            "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
            "endpoints": endpoints, "ports": ports,
        }))
        .expect("a slice")
    }

    /// The rules of node n1.
    pub(super) fn ruleset(&self) -> Ruleset {
        let slices = self.slices();
        let slices: Vec<_> = slices.iter().collect();
        let networks = |texts: [&str; 2]| texts.map(|text| text.parse().expect("a network")).into();
        let mine = self.members.iter().filter(|member| member.node == 1);
        let node = NODE_IPS.map(|ip| ip.parse().expect("an address"));
        let here = Here {
            addresses: Addresses::of_each_family(node),
            ..here()
        };
        let desired = Desired {
            frontends: frontends(&self.service(), &slices, &here),
            service_networks: networks(["10.96.0.0/16", "fd00:96::/112"]),
            pod_networks: networks(["10.244.0.0/16", "fd00:244::/32"]),
            local_pods: mine
                .flat_map(|member| Family::ALL.map(|family| member.addr(family)))
                .collect(),
            node_port_networks: if self.primary_only {
                networks(["192.0.2.1/32", "2001:db8:1::1/128"])
            } else {
                BTreeSet::new()
            },
            local_detector: match self.detect {
                Detect::ClusterCidr => LocalDetector::PodNetworks,
                Detect::NodeCidr => {
                    LocalDetector::Networks(networks(["10.244.1.0/24", "fd00:244:1::/48"]))
                }
                Detect::Bridge => LocalDetector::Interface(BRIDGE.into()),
                Detect::Prefix => LocalDetector::InterfacePrefix("veth".into()),
            },
            masquerade_all: self.masquerade_all,
            masquerade_egress: true,
            ..Desired::default()
        };
        Ruleset::compile(&desired, &Ruleset::default())
    }
}

const fn name(protocol: model::Protocol) -> &'static str {
    match protocol {
        model::Protocol::Tcp => "tcp",
        model::Protocol::Udp => "udp",
        model::Protocol::Sctp => "sctp",
    }
}
