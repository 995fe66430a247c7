//! Nodes: a Pod network for each, and what happens when a node's heartbeat is lost.
//! Source: kubernetes/kubernetes pkg/controller/nodelifecycle, pkg/controller/nodeipam.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use api::{
    core::{Node, NodeCondition, Pod, Taint},
    meta::{MicroTime, Time},
};
use ipnet::IpNet;
use serde_json::json;

use super::{
    Cluster,
    world::{World, key_of},
    write::Action,
};
use crate::{
    registry::{
        Part,
        kinds::{NODES, PODS},
    },
    server::node_prefix,
};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const LEASES: &str = "kube-node-lease";

/// When each node's heartbeat was last seen to change, by this server's clock: nobody else's clock matters.
#[derive(Debug, Default)]
pub(super) struct Heartbeats(BTreeMap<Box<str>, (Option<MicroTime>, Instant)>);

impl Heartbeats {
    /// Looks at the leases there are now.
    pub(super) fn observe(&mut self, world: &World, now: Instant) {
        for node in world.nodes.all() {
            let name = &node.metadata.name;
            let renewed = world
                .leases
                .get(&(LEASES.into(), name.clone()))
                .and_then(|lease| lease.spec.renew_time);
            match self.0.get_mut(name) {
                Some((seen, at)) if *seen != renewed => (*seen, *at) = (renewed, now),
                Some(_) => {}
                None => drop(self.0.insert(name.clone(), (renewed, now))),
            }
        }
        self.0
            .retain(|name, _| world.nodes.get(&(Box::default(), name.clone())).is_some());
    }

    fn is_lost(&self, node: &str, grace: Duration, now: Instant) -> bool {
        self.0
            .get(node)
            .is_some_and(|(_, at)| now.saturating_duration_since(*at) >= grace)
    }

    /// The next moment at which a node that lives now would be taken for lost.
    pub(super) fn next_loss(&self, grace: Duration, now: Instant) -> Option<Instant> {
        self.0
            .values()
            .map(|(_, at)| *at + grace)
            .filter(|at| *at > now)
            .min()
    }
}

/// The writes that one node needs.
pub(super) fn plan(
    world: &World,
    cluster: &Cluster,
    beats: &Heartbeats,
    name: &str,
    now: Instant,
) -> Vec<Action> {
    let Some(node) = world.nodes.get(&(Box::default(), name.into())) else {
        return Vec::new();
    };
    let mut actions = Vec::new();
    if beats.is_lost(name, cluster.node_grace, now) {
        actions.extend(mark_lost(node));
        actions.extend(
            world
                .pods
                .all()
                .filter(|pod| *pod.spec.node_name == *name)
                .filter_map(|pod| mark_not_ready(pod)),
        );
    }
    actions.extend(spec(
        world,
        cluster,
        node,
        !beats.is_lost(name, cluster.node_grace, now),
    ));
    actions
}

/// Ready becomes Unknown: nobody knows how that node is.
fn mark_lost(node: &Node) -> Option<Action> {
    let ready = node
        .status
        .conditions
        .iter()
        .find(|condition| &*condition.r#type == "Ready");
    if ready.is_some_and(|condition| &*condition.status == "Unknown") {
        return None;
    }
    let mut conditions = node.status.conditions.clone();
    conditions.retain(|condition| &*condition.r#type != "Ready");
    conditions.push(NodeCondition {
        r#type: "Ready".into(),
        status: "Unknown".into(),
        reason: "NodeStatusUnknown".into(),
        message: "the agent on this node has stopped renewing its Lease".into(),
        last_heartbeat_time: ready.and_then(|condition| condition.last_heartbeat_time),
        last_transition_time: Some(Time::now()),
    });
    tracing::warn!(node = %node.metadata.name, "heartbeat lost: the node is not ready");
    let patch = json!({
        "metadata": { "resourceVersion": node.metadata.resource_version },
        "status": { "conditions": conditions },
    });
    Some(Action::Merge(
        &NODES,
        key_of(node),
        Part::Status,
        Box::new(patch),
    ))
}

/// Endpoints on a lost node must not be used; the agent says so itself when it comes back.
fn mark_not_ready(pod: &Pod) -> Option<Action> {
    if !pod.is_ready() {
        return None;
    }
    let mut conditions = pod.status.conditions.clone();
    for condition in conditions
        .iter_mut()
        .filter(|condition| &*condition.r#type == "Ready")
    {
        condition.status = "False".into();
        condition.reason = "NodeNotReady".into();
        condition.last_transition_time = Some(Time::now());
    }
    let patch = json!({
        "metadata": { "resourceVersion": pod.metadata.resource_version },
        "status": { "conditions": conditions },
    });
    Some(Action::Merge(
        &PODS,
        key_of(pod),
        Part::Status,
        Box::new(patch),
    ))
}

/// Pod network and taints.
fn spec(world: &World, cluster: &Cluster, node: &Node, alive: bool) -> Option<Action> {
    let mut patch = serde_json::Map::new();
    if node.spec.pod_cidr.is_empty() {
        let networks: Vec<Option<IpNet>> = cluster
            .pod_cidrs
            .iter()
            .map(|range| free_network(world, range))
            .collect();
        match networks
            .iter()
            .copied()
            .collect::<Option<Vec<IpNet>>>()
            .as_deref()
        {
            Some(networks @ [primary, ..]) => {
                patch.insert("podCIDR".into(), primary.to_string().into());
                patch.insert(
                    "podCIDRs".into(),
                    networks.iter().map(IpNet::to_string).collect(),
                );
            }
            _ => tracing::error!(
                node = %node.metadata.name,
                pod_cidrs = ?cluster.pod_cidrs,
                "no Pod network is left for this node: start the server with a larger --pod-cidr"
            ),
        }
    }
    let tainted = node
        .spec
        .taints
        .iter()
        .any(|taint| &*taint.key == UNREACHABLE);
    if alive == tainted {
        let mut taints = node.spec.taints.clone();
        taints.retain(|taint| &*taint.key != UNREACHABLE);
        if !alive {
            taints.extend(["NoSchedule", "NoExecute"].map(|effect| Taint {
                key: UNREACHABLE.into(),
                effect: effect.into(),
                time_added: Some(Time::now()),
                ..Taint::default()
            }));
        }
        patch.insert(
            "taints".into(),
            if taints.is_empty() {
                json!(null)
            } else {
                json!(taints)
            },
        );
    }
    if patch.is_empty() {
        return None;
    }
    let patch =
        json!({ "metadata": { "resourceVersion": node.metadata.resource_version }, "spec": patch });
    Some(Action::Merge(
        &NODES,
        key_of(node),
        Part::Main,
        Box::new(patch),
    ))
}

/// The first network of the range that no node has.
fn free_network(world: &World, range: &IpNet) -> Option<IpNet> {
    let networks = world.nodes.all().flat_map(|node| &node.spec.pod_cidrs);
    let taken: BTreeSet<IpNet> = networks
        .filter_map(|network| network.parse().ok())
        .collect();
    range
        .subnets(node_prefix(range))
        .ok()?
        .find(|network| !taken.contains(network))
}

#[cfg(test)]
mod tests {
    use api::{coordination::Lease, core::PodCondition};

    use super::*;
    use crate::store::Revision;

    const GRACE: Duration = Duration::from_secs(50);

    fn cluster() -> Cluster {
        Cluster {
            ca_pem: String::new(),
            advertise: "198.18.0.2:6443".parse().unwrap(),
            api_service_ip: "10.96.0.1".parse().unwrap(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            pod_cidrs: vec!["10.244.0.0/23".parse().unwrap()],
            node_grace: GRACE,
        }
    }

    fn node(name: &str, cidr: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = name.into();
        node.spec.pod_cidr = cidr.into();
        node.spec.pod_cidrs = vec![cidr.into()];
        node.status.conditions.push(NodeCondition {
            r#type: "Ready".into(),
            status: "True".into(),
            ..NodeCondition::default()
        });
        node
    }

    fn lease(name: &str, renewed: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.namespace = LEASES.into();
        lease.metadata.name = name.into();
        lease.spec.renew_time = Some(renewed.parse().unwrap());
        lease
    }

    #[test]
    fn every_node_gets_a_network_of_its_own_until_none_is_left() {
        let mut world = World::default();
        world.put(Revision(1), node("a", "10.244.0.0/24"));
        world.put(Revision(2), node("b", ""));
        let Some(Action::Merge(_, _, _, patch)) = spec(&world, &cluster(), &node("b", ""), true)
        else {
            panic!("a write")
        };
        let network: IpNet = patch["spec"]["podCIDR"].as_str().unwrap().parse().unwrap();
        assert_eq!(network.to_string(), "10.244.1.0/24");
        world.put(Revision(3), node("b", "10.244.1.0/24"));
        assert_eq!(spec(&world, &cluster(), &node("c", ""), true), None);
    }

    #[test]
    fn a_lost_heartbeat_marks_the_node_and_its_pods_and_a_new_one_lifts_the_taint() {
        let start = Instant::now();
        let mut world = World::default();
        world.put(Revision(1), node("a", "10.244.0.0/24"));
        world.put(Revision(2), lease("a", "2026-01-01T00:00:00Z"));
        let mut pod = Pod::default();
        pod.metadata.name = "p".into();
        pod.spec.node_name = "a".into();
        pod.status.conditions.push(PodCondition {
            r#type: "Ready".into(),
            status: "True".into(),
            ..PodCondition::default()
        });
        world.put(Revision(3), pod);
        let mut beats = Heartbeats::default();
        beats.observe(&world, start);
        assert_eq!(plan(&world, &cluster(), &beats, "a", start), []);
        assert_eq!(beats.next_loss(GRACE, start), Some(start + GRACE));

        let late = start + GRACE;
        beats.observe(&world, late);
        let actions = plan(&world, &cluster(), &beats, "a", late);
        let patches: Vec<_> = actions
            .iter()
            .map(|action| match action {
                Action::Merge(kind, _, _, patch) => (kind.kind, &**patch),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(patches[0].1["status"]["conditions"][0]["status"], "Unknown");
        assert_eq!(
            (
                patches[1].0,
                &patches[1].1["status"]["conditions"][0]["status"]
            ),
            ("Pod", &json!("False"))
        );
        assert_eq!(patches[2].1["spec"]["taints"][0]["key"], UNREACHABLE);

        let mut tainted = node("a", "10.244.0.0/24");
        tainted.spec.taints.push(Taint {
            key: UNREACHABLE.into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        });
        world.put(Revision(4), tainted);
        world.put(Revision(5), lease("a", "2026-01-01T00:01:00Z"));
        beats.observe(&world, late);
        let actions = plan(&world, &cluster(), &beats, "a", late);
        let [Action::Merge(_, _, Part::Main, patch)] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert!(patch["spec"]["taints"].is_null());
    }
}
