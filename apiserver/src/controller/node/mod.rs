//! Nodes: a Pod network for each, and what happens when a node is not ready or not heard of any more.
//! Source: kubernetes/kubernetes pkg/controller/nodelifecycle, pkg/controller/nodeipam.

mod eviction;
mod heartbeat;
mod taints;

use std::collections::BTreeSet;

use api::{
    core::{Node, NodeCondition, ObjectReference, Pod},
    meta::Time,
};
use ipnet::IpNet;
use serde_json::json;

pub(super) use self::{eviction::Evictions, heartbeat::Heartbeats};
use super::{
    Cluster,
    event::{self, Level},
    pods,
    world::{World, key_of},
    write::Action,
};
use crate::{
    registry::{
        Part,
        kinds::{EVENTS, NODES, PODS},
    },
    server::node_prefix,
};

const COMPONENT: &str = "node-controller";
/// What nobody knows of a node that is not heard of.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The writes that one node needs; `lost` when it has not been heard of for too long.
pub(super) fn plan(world: &World, cluster: &Cluster, name: &str, lost: bool) -> Vec<Action> {
    let Some(node) = world.nodes.get(&(Box::default(), name.into())) else {
        return Vec::new();
    };
    let mut actions = Vec::new();
    if lost && taints::condition(node, "Ready") != Some("Unknown") {
        actions.push(mark_lost(node));
    }
    actions.extend(spec(world, cluster, node, lost));
    actions
}

/// The writes for the Pods of a node that was ready and is not any more: their endpoints must not be used. An agent that is
/// alive says itself how they are.
pub(super) fn plan_fallen(world: &World, name: &str) -> Vec<Action> {
    let Some(node) = world.nodes.get(&(Box::default(), name.into())) else {
        return Vec::new();
    };
    let about = ObjectReference {
        kind: "Node".into(),
        api_version: "v1".into(),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let message = format!("Node {name} status is now: NodeNotReady");
    let told = event::new(about, COMPONENT, Level::Normal, "NodeNotReady", message);
    let mut actions = vec![Action::create(&EVENTS, &told)];
    for pod in world.pods_on(name).filter(|pod| pod.is_ready()) {
        let about = ObjectReference {
            api_version: "v1".into(),
            ..pods::reference(pod)
        };
        let message = "Node is not ready".to_owned();
        let told = event::new(about, COMPONENT, Level::Warning, "NodeNotReady", message);
        actions.push(mark_not_ready(pod));
        actions.push(Action::create(&EVENTS, &told));
    }
    actions
}

/// Nobody knows how that node is.
fn mark_lost(node: &Node) -> Action {
    tracing::warn!(node = %node.metadata.name, "heartbeat lost: the node is not ready");
    let now = Time::now();
    let mut conditions = node.status.conditions.clone();
    for name in CONDITIONS {
        let known = conditions
            .iter_mut()
            .find(|condition| &*condition.r#type == name);
        match known {
            Some(condition) => {
                if &*condition.status != "Unknown" {
                    condition.last_transition_time = Some(now);
                }
                condition.status = "Unknown".into();
                condition.reason = "NodeStatusUnknown".into();
                condition.message = "Kubelet stopped posting node status.".into();
            }
            None => conditions.push(NodeCondition {
                r#type: name.into(),
                status: "Unknown".into(),
                reason: "NodeStatusNeverUpdated".into(),
                message: "Kubelet never posted node status.".into(),
                last_heartbeat_time: node.metadata.creation_timestamp,
                last_transition_time: Some(now),
            }),
        }
    }
    let patch = json!({
        "metadata": { "resourceVersion": node.metadata.resource_version },
        "status": { "conditions": conditions },
    });
    Action::Merge(&NODES, key_of(node), Part::Status, Box::new(patch))
}

fn mark_not_ready(pod: &Pod) -> Action {
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
    Action::Merge(&PODS, key_of(pod), Part::Status, Box::new(patch))
}

/// Pod network and taints.
fn spec(world: &World, cluster: &Cluster, node: &Node, lost: bool) -> Option<Action> {
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
    if let Some(taints) = taints::changed(node, lost, Time::now()) {
        let taints = if taints.is_empty() {
            json!(null)
        } else {
            json!(taints)
        };
        patch.insert("taints".into(), taints);
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
    use std::{sync::Arc, time::Duration};

    use api::core::PodCondition;

    use super::*;
    use crate::{
        pki::{Pki, ServerNames},
        store::Revision,
    };

    fn cluster() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &ServerNames::default()).unwrap();
        Cluster {
            pki: Arc::new(pki),
            advertise: "198.18.0.2:6443".parse().unwrap(),
            api_service_ip: "10.96.0.1".parse().unwrap(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            pod_cidrs: vec!["10.244.0.0/23".parse().unwrap()],
            node_grace: Duration::from_secs(50),
            load_balancer_pool: crate::controller::Pool::default(),
        }
    }

    fn node(name: &str, cidr: &str, ready: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = name.into();
        node.spec.pod_cidr = cidr.into();
        node.spec.pod_cidrs = vec![cidr.into()];
        node.status.conditions.push(NodeCondition {
            r#type: "Ready".into(),
            status: ready.into(),
            ..NodeCondition::default()
        });
        node
    }

    fn patches(actions: &[Action]) -> Vec<(&str, Part, &serde_json::Value)> {
        let patches = actions.iter().filter_map(|action| match action {
            Action::Merge(kind, _, part, patch) => Some((kind.kind, *part, &**patch)),
            _ => None,
        });
        patches.collect()
    }

    #[test]
    fn every_node_gets_a_network_of_its_own_until_none_is_left() {
        let mut world = World::default();
        world.put(Revision(1), node("a", "10.244.0.0/24", "True"));
        world.put(Revision(2), node("b", "", "True"));
        let actions = plan(&world, &cluster(), "b", false);
        let [("Node", Part::Main, patch)] = patches(&actions)[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(patch["spec"]["podCIDR"], "10.244.1.0/24");
        world.put(Revision(3), node("b", "10.244.1.0/24", "True"));
        world.put(Revision(4), node("c", "", "True"));
        assert_eq!(plan(&world, &cluster(), "c", false), []);
    }

    #[test]
    fn a_lost_node_is_marked_and_tainted_and_a_node_that_is_back_loses_the_taints() {
        let mut world = World::default();
        world.put(Revision(1), node("a", "10.244.0.0/24", "True"));
        assert_eq!(plan(&world, &cluster(), "a", false), []);
        let actions = plan(&world, &cluster(), "a", true);
        let [("Node", Part::Status, status), ("Node", Part::Main, spec)] = patches(&actions)[..]
        else {
            panic!("{actions:?}")
        };
        let conditions = &status["status"]["conditions"];
        let reasons: Vec<_> = (0..4)
            .map(|index| (&conditions[index]["status"], &conditions[index]["reason"]))
            .collect();
        let (unknown, never) = (json!("Unknown"), json!("NodeStatusNeverUpdated"));
        let stopped = json!("NodeStatusUnknown");
        let wanted = [&stopped, &never, &never, &never].map(|reason| (&unknown, reason));
        assert_eq!(reasons, wanted);
        let taints = &spec["spec"]["taints"];
        assert_eq!(taints[0]["key"], "node.kubernetes.io/unreachable");

        let mut tainted = node("a", "10.244.0.0/24", "True");
        tainted.spec.taints = serde_json::from_value(taints.clone()).unwrap();
        world.put(Revision(4), tainted);
        let actions = plan(&world, &cluster(), "a", false);
        let [("Node", Part::Main, patch)] = patches(&actions)[..] else {
            panic!("{actions:?}")
        };
        assert!(patch["spec"]["taints"].is_null());
    }

    #[test]
    fn the_pods_of_a_node_that_falls_are_not_ready_and_told_so() {
        let mut world = World::default();
        world.put(Revision(1), node("a", "10.244.0.0/24", "True"));
        for (name, on) in [("p", "a"), ("q", "b")] {
            let mut pod = Pod::default();
            pod.metadata.name = name.into();
            pod.metadata.namespace = "d".into();
            pod.spec.node_name = on.into();
            pod.status.conditions.push(PodCondition {
                r#type: "Ready".into(),
                status: "True".into(),
                ..PodCondition::default()
            });
            world.put(Revision(2), pod);
        }
        world.dirty.fallen.clear();
        world.put(Revision(3), node("a", "10.244.0.0/24", "Unknown"));
        assert!(
            world.dirty.fallen.contains("a"),
            "the change is noticed once"
        );
        let actions = plan_fallen(&world, "a");
        let [("Pod", Part::Status, patch)] = patches(&actions)[..] else {
            panic!("{actions:?}")
        };
        let ready = &patch["status"]["conditions"][0];
        assert_eq!(
            (&ready["status"], &ready["reason"]),
            (&json!("False"), &json!("NodeNotReady"))
        );
        let events: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Create(_, event) => Some(event["message"].as_str().unwrap()),
                _ => None,
            })
            .collect();
        assert_eq!(
            events,
            ["Node a status is now: NodeNotReady", "Node is not ready"]
        );
    }
}
