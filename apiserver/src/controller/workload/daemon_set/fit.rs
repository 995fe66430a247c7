//! Which nodes are fit for a DaemonSet, and the Pod for one of them.
//! Source: kubernetes/kubernetes pkg/controller/daemon/daemon_controller.go, NodeShouldRunDaemonPod; util/daemonset_util.go.

use api::{
    apps::{DaemonSet, PodTemplate},
    core::{Node, Pod, PodSpec, Taint, Toleration},
};
use serde_json::{Value, json};

use super::HASH;
use crate::controller::{
    scheduler::{is_asked_for, tolerates},
    workload::{claim::Claimant, template},
};

/// What daemons put up with beyond what their template says.
fn tolerations(host_network: bool) -> impl Iterator<Item = Toleration> {
    let always = [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    let network = host_network.then_some(("network-unavailable", "NoSchedule"));
    always
        .into_iter()
        .chain(network)
        .map(|(key, effect)| Toleration {
            key: format!("node.kubernetes.io/{key}").into(),
            operator: "Exists".into(),
            effect: effect.into(),
            ..Toleration::default()
        })
}

/// What a DaemonSet asks of a node.
pub(super) struct Fitness {
    spec: PodSpec,
}

impl Fitness {
    pub(super) fn of(template: &PodTemplate) -> Self {
        // The registry lets nothing in that has not this shape.
        let mut spec: PodSpec = template.spec.decode().unwrap_or_default();
        let more = tolerations(spec.host_network);
        spec.tolerations.extend(more);
        Self { spec }
    }

    fn is_chosen(&self, node: &Node) -> bool {
        let own = &self.spec.node_name;
        (own.is_empty() || *own == node.metadata.name) && is_asked_for(&self.spec, node)
    }

    fn tolerates(&self, node: &Node, effects: &[&str]) -> bool {
        let mut taints = node.spec.taints.iter();
        let tolerated = |taint: &Taint| {
            let mut tolerations = self.spec.tolerations.iter();
            tolerations.any(|toleration| tolerates(toleration, taint))
        };
        taints.all(|taint| !effects.contains(&&*taint.effect) || tolerated(taint))
    }

    /// Whether the node is to have a Pod.
    pub(super) fn is_wanted(&self, node: &Node) -> bool {
        self.is_chosen(node) && self.tolerates(node, &["NoSchedule", "NoExecute"])
    }

    /// Whether a Pod that is there may stay.
    pub(super) fn may_stay(&self, node: &Node) -> bool {
        self.is_chosen(node) && self.tolerates(node, &["NoExecute"])
    }
}

/// The node a Pod has, or is meant for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if !pod.spec.node_name.is_empty() {
        return Some(&pod.spec.node_name);
    }
    let nodes = pod.spec.affinity.as_deref()?.node_affinity.as_ref()?;
    let required = nodes
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let mut fields = required
        .node_selector_terms
        .iter()
        .flat_map(|term| &term.match_fields);
    let name = fields.find(|field| &*field.key == "metadata.name" && &*field.operator == "In")?;
    name.values.first().map(|name| &**name)
}

/// The Pod for one node. The scheduler puts it there.
pub(super) fn pod(set: &DaemonSet, claimant: &Claimant<'_>, hash: &str, node: &str) -> Value {
    let namespace = &set.metadata.namespace;
    let mut pod = template::pod(&set.spec.template, namespace, &claimant.reference);
    pod["metadata"]["labels"][HASH] = hash.into();
    let spec = &mut pod["spec"];
    let more = tolerations(spec["hostNetwork"] == true);
    let more = more.map(|toleration| json!(toleration));
    match spec["tolerations"].as_array_mut() {
        Some(own) => {
            let new: Vec<Value> = more
                .filter(|toleration| !own.contains(toleration))
                .collect();
            own.extend(new);
        }
        None => spec["tolerations"] = more.collect(),
    }
    // What the template requires holds of the node already.
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [node]},
        ]}],
    });
    pod
}
