//! The nodes with what they have: Pods, what those ask for, and the ports they hold.

use std::collections::BTreeMap;

use api::core::{ContainerPort, Node, Pod};

use super::resources::{self, Amounts};
use crate::controller::world::World;

/// Every node by name.
pub(super) struct Places<'a> {
    by_name: BTreeMap<&'a str, Place<'a>>,
    /// How many Pods of each sort a node has.
    of_sort: BTreeMap<(&'a str, String), usize>,
}

/// One node.
pub(super) struct Place<'a> {
    pub(super) node: &'a Node,
    pub(super) pods: Vec<&'a Pod>,
    used: Amounts,
}

impl<'a> Places<'a> {
    pub(super) fn of(world: &'a World) -> Self {
        let nodes = world.nodes.all().map(|node| {
            let place = Place {
                node,
                pods: Vec::new(),
                used: Amounts::new(),
            };
            (&*node.metadata.name, place)
        });
        let mut places = Self {
            by_name: nodes.collect(),
            of_sort: BTreeMap::new(),
        };
        let placed =
            |pod: &&std::sync::Arc<Pod>| !pod.spec.node_name.is_empty() && !pod.is_finished();
        for pod in world.pods.all().filter(placed) {
            places.add(&pod.spec.node_name, pod);
        }
        places
    }

    /// A Pod has a node now.
    pub(super) fn add(&mut self, node: &'a str, pod: &'a Pod) {
        if let Some(place) = self.by_name.get_mut(node) {
            place.pods.push(pod);
            resources::add(&mut place.used, &resources::requests(&pod.spec));
            *self.of_sort.entry((node, sort(pod))).or_default() += 1;
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Place<'a>> {
        self.by_name.values()
    }

    /// How many Pods like this one a node has.
    pub(super) fn alike(&self, place: &Place<'a>, sort: &str) -> usize {
        let key = (&*place.node.metadata.name, sort.to_owned());
        self.of_sort.get(&key).copied().unwrap_or_default()
    }
}

impl Place<'_> {
    /// The value of one of the node's labels.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.get(key).map(|value| &**value)
    }

    /// What of the Pod's requests the node has not left.
    pub(super) fn lacks(&self, requests: &Amounts) -> Vec<Box<str>> {
        resources::lacking(&self.node.status.allocatable, &self.used, requests)
    }

    /// Whether there is no room for one more Pod, however small.
    pub(super) fn is_full(&self) -> bool {
        let pods = self.node.status.allocatable.get("pods");
        let most = pods.and_then(|pods| pods.amount().ok());
        most.is_some_and(|most| most.units() <= i64::try_from(self.pods.len()).unwrap_or(i64::MAX))
    }

    /// How much of the node would be in use, in thousandths of its scarcest resource.
    pub(super) fn fullness(&self, requests: &Amounts) -> i128 {
        resources::fullness(&self.node.status.allocatable, &self.used, requests)
    }

    /// Whether a port of the host that the Pod wants is taken.
    pub(super) fn ports_clash(&self, pod: &Pod) -> bool {
        let wanted: Vec<&ContainerPort> = host_ports(pod).collect();
        let taken = || self.pods.iter().flat_map(|pod| host_ports(pod));
        !wanted.is_empty() && taken().any(|taken| wanted.iter().any(|port| clash(port, taken)))
    }
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|container| resources::is_sidecar(container));
    let ports = pod.spec.containers.iter().chain(sidecars);
    ports
        .flat_map(|container| &container.ports)
        .filter(|port| port.host_port > 0)
}

/// Two Pods cannot have the same port of the same address, or of all addresses.
/// Source: kubernetes/kubernetes pkg/scheduler/framework/types.go, HostPortInfo.CheckConflict.
fn clash(a: &ContainerPort, b: &ContainerPort) -> bool {
    let protocol = |port: &ContainerPort| match &*port.protocol {
        "" => "TCP".to_owned(),
        other => other.to_owned(),
    };
    let everywhere = |port: &ContainerPort| matches!(&*port.host_ip, "" | "0.0.0.0" | "::");
    a.host_port == b.host_port
        && protocol(a) == protocol(b)
        && (everywhere(a) || everywhere(b) || a.host_ip == b.host_ip)
}

/// Pods of one owner, or with the same labels, do the same and should not share a node.
pub(super) fn sort(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    match metadata.controller() {
        Some(owner) => owner.uid.to_string(),
        None => format!("{} {:?}", metadata.namespace, metadata.labels),
    }
}
