//! The nodes of the cluster: this one's Pod range, and the routes to the others'.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use api::core::Node;
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{Addresses, backoff::Backoff, health::Health, pods, reflector::Delta};

/// How often routes are written anew although no node changed.
const ROUTES_EVERY: Duration = Duration::from_secs(30);

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler's mark on a node that it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Whether load balancers may send to a node: not once it is about to go.
fn is_eligible(node: &Node) -> bool {
    let marked = node
        .spec
        .taints
        .iter()
        .any(|taint| &*taint.key == TO_BE_DELETED);
    !marked && node.metadata.deletion_timestamp.is_none()
}

/// The Pod ranges of a node: one of each family.
fn pod_ranges(node: &Node) -> Vec<IpNet> {
    let ranges = node.spec.pod_cidrs.iter();
    ranges.filter_map(|range| range.parse().ok()).collect()
}

/// A node's Pod ranges and its address in the family of each. A range in whose family it has no address is left out: nobody
/// can send there.
fn routes_to(node: &Node) -> Vec<(IpNet, IpAddr)> {
    let addresses = node.status.addresses.iter();
    let internal = addresses
        .filter(|address| &*address.r#type == "InternalIP")
        .filter_map(|address| address.address.parse().ok());
    let Some(internal) = Addresses::of_each_family(internal) else {
        return Vec::new();
    };
    let ranges = pod_ranges(node).into_iter();
    ranges
        .filter_map(|range| Some((range, internal.alike(range.addr())?)))
        .collect()
}

/// The other nodes and their Pod ranges.
pub(crate) struct Neighbours {
    own_name: String,
    known: BTreeMap<Box<str>, Node>,
    health: Health,
    /// The zone of this node.
    zone: watch::Sender<Option<Box<str>>>,
}

impl Neighbours {
    pub(crate) fn new(own_name: &str, health: Health) -> Self {
        Self {
            health,
            zone: watch::Sender::default(),
            own_name: own_name.to_owned(),
            known: BTreeMap::new(),
        }
    }

    /// The node's zone, now and when it changes.
    pub(crate) fn zone(&self) -> watch::Receiver<Option<Box<str>>> {
        self.zone.subscribe()
    }

    /// Waits until the server has given this node its Pod ranges, one of each family. `None` when the agent stops.
    pub(crate) async fn wait_for_own_ranges(
        &mut self,
        nodes: &mut mpsc::Receiver<Vec<Delta<Node>>>,
    ) -> Option<Vec<IpNet>> {
        loop {
            let own = self.known.get(self.own_name.as_str());
            let ranges = own.map(pod_ranges).unwrap_or_default();
            if !ranges.is_empty() {
                return Some(ranges);
            }
            self.apply(nodes.recv().await?);
        }
    }

    fn apply(&mut self, deltas: Vec<Delta<Node>>) {
        for delta in deltas {
            match delta {
                Delta::Replace { items, .. } => {
                    self.known = items
                        .into_iter()
                        .map(|node| (node.metadata.name.clone(), node))
                        .collect();
                }
                Delta::Put(node) => {
                    self.known.insert(node.metadata.name.clone(), node);
                }
                Delta::Remove { key, .. } => {
                    self.known.remove(&*key.name);
                }
                Delta::Progress(_) => {}
            }
        }
        let own = self.known.get(self.own_name.as_str());
        self.health.set_node_eligible(own.is_some_and(is_eligible));
        let zone = own.and_then(|own| own.metadata.labels.get(ZONE_LABEL));
        self.zone.send_if_modified(|known| {
            let moved = known.as_ref() != zone;
            *known = zone.cloned();
            moved
        });
    }

    /// Pod range -> node address of every other node, of the same family.
    fn routes(&self) -> BTreeMap<IpNet, IpAddr> {
        let others = self
            .known
            .iter()
            .filter(|(name, _)| ***name != *self.own_name);
        others.flat_map(|(_, node)| routes_to(node)).collect()
    }

    /// Keeps the routes to other nodes' Pods as the nodes are.
    pub(crate) async fn keep_routes(
        mut self,
        context: Arc<pods::Context>,
        mut nodes: mpsc::Receiver<Vec<Delta<Node>>>,
    ) {
        let mut set = None;
        let mut backoff = Backoff::new(Duration::from_millis(500), ROUTES_EVERY);
        loop {
            let wanted = self.routes();
            let mut look_again = ROUTES_EVERY;
            if set.as_ref() != Some(&wanted) {
                match context.network().set_routes(&wanted).await {
                    Ok(()) => {
                        backoff.reset();
                        set = Some(wanted);
                    }
                    Err(error) => {
                        look_again = backoff.fail();
                        tracing::error!(%error, "routes to other nodes are not as they should be");
                    }
                }
            }
            match timeout(look_again, nodes.recv()).await {
                Ok(Some(deltas)) => self.apply(deltas),
                Ok(None) => return,
                // A route goes with its link, and a node's segment may have come meanwhile: they are written anew.
                Err(_) => set = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_pod_range_of_a_node_leads_to_its_address_of_the_same_family() {
        let node = |ranges: &[&str], addresses: &[&str]| -> Node {
            let addresses = addresses.iter();
            let addresses: Vec<_> = addresses
                .map(|address| json!({"type": "InternalIP", "address": address}))
                .collect();
            serde_json::from_value(json!({
                "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
                "status": {"addresses": addresses},
            }))
            .expect("a node")
        };
        let routes = |node: &Node| -> Vec<String> {
            let routes = routes_to(node).into_iter();
            routes
                .map(|(range, via)| format!("{range} via {via}"))
                .collect()
        };
        let ranges = ["10.244.2.0/24", "fd00:0:0:2::/64"];
        let both = node(&ranges, &["2001:db8::2", "192.0.2.2"]);
        let wanted = [
            "10.244.2.0/24 via 192.0.2.2",
            "fd00:0:0:2::/64 via 2001:db8::2",
        ];
        assert_eq!(routes(&both), wanted);
        let one = node(&ranges, &["192.0.2.2"]);
        assert_eq!(routes(&one), wanted[..1]);
    }
}
