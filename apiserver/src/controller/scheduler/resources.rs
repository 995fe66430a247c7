//! What Pods ask for, and what nodes have.
//! Source: kubernetes/kubernetes staging/src/k8s.io/component-helpers/resource/helpers.go,
//! pkg/scheduler/framework/plugins/noderesources/fit.go.

use std::collections::BTreeMap;

use api::{
    core::{Container, PodSpec},
    quantity::{Amount, Quantity},
};

/// Amounts by resource.
pub(super) type Amounts = BTreeMap<Box<str>, Amount>;

pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a Pod needs of a node at its greediest: all its containers and sidecars, or one of the containers before them with the
/// sidecars started so far.
pub(super) fn requests(spec: &PodSpec) -> Amounts {
    let mut running = Amounts::new();
    let mut peak = Amounts::new();
    for container in &spec.init_containers {
        let own = amounts(&container.resources.requests);
        if is_sidecar(container) {
            add(&mut running, &own);
        } else {
            let mut now = running.clone();
            add(&mut now, &own);
            greatest(&mut peak, now);
        }
    }
    for container in &spec.containers {
        add(&mut running, &amounts(&container.resources.requests));
    }
    greatest(&mut peak, running);
    add(&mut peak, &amounts(&spec.overhead));
    peak.retain(|_, amount| *amount > Amount::default());
    peak
}

fn amounts(quantities: &BTreeMap<Box<str>, Quantity>) -> Amounts {
    let amounts = quantities
        .iter()
        .filter_map(|(name, quantity)| Some((name.clone(), quantity.amount().ok()?)));
    amounts.collect()
}

pub(super) fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_default();
        *sum = *sum + *amount;
    }
}

fn greatest(total: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let known = total.entry(name).or_default();
        *known = amount.max(*known);
    }
}

/// The resources of which too little is left. A node that does not say at all what it has is not asked.
pub(super) fn lacking(
    allocatable: &BTreeMap<Box<str>, Quantity>,
    used: &Amounts,
    requests: &Amounts,
) -> Vec<Box<str>> {
    if allocatable.is_empty() {
        return Vec::new();
    }
    let has = amounts(allocatable);
    let lacking = requests.iter().filter(|(name, amount)| {
        let used = used.get(*name).copied().unwrap_or_default();
        match has.get(*name) {
            Some(has) => used + **amount > *has,
            // Agents do not count disks; what else a node does not name it has not.
            None => &***name != "ephemeral-storage",
        }
    });
    lacking.map(|(name, _)| name.clone()).collect()
}

/// How much would be in use of what is scarcest, in thousandths.
pub(super) fn fullness(
    allocatable: &BTreeMap<Box<str>, Quantity>,
    used: &Amounts,
    requests: &Amounts,
) -> i128 {
    let has = amounts(allocatable);
    let parts = ["cpu", "memory"].into_iter().filter_map(|name| {
        let of = |amounts: &Amounts| i128::from(amounts.get(name).map_or(0, |it| it.millis()));
        let whole = of(&has);
        (whole > 0).then(|| (of(used) + of(requests)) * 1000 / whole)
    });
    parts.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_lacks_what_it_does_not_name() {
        let lacks = |allocatable: serde_json::Value, request: &str| {
            let allocatable = serde_json::from_value(allocatable).unwrap();
            let request = (request.into(), Quantity::from("1").amount().unwrap());
            !lacking(&allocatable, &Amounts::new(), &[request].into()).is_empty()
        };
        let cpu = || json!({"cpu": "1"});
        assert!(!lacks(cpu(), "cpu"));
        assert!(lacks(cpu(), "memory"));
        assert!(lacks(cpu(), "example.com/gpu"));
        assert!(!lacks(cpu(), "ephemeral-storage"));
        assert!(!lacks(json!({}), "cpu"), "it has not said anything yet");
    }

    #[test]
    fn a_pod_needs_what_its_containers_need_at_their_greediest() {
        let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let rows = [
            (
                json!({"containers": [{"resources": cpu("1")}, {"resources": cpu("500m")}]}),
                1500,
            ),
            (
                json!({"containers": [{"resources": cpu("1")}], "initContainers": [{"resources": cpu("3")}]}),
                3000,
            ),
            (
                json!({"containers": [{"resources": cpu("1")}], "initContainers": [
                    {"resources": cpu("1"), "restartPolicy": "Always"}, {"resources": cpu("2")},
                ]}),
                3000,
            ),
            (
                json!({"containers": [{"resources": cpu("1")}], "overhead": {"cpu": "250m"}}),
                1250,
            ),
        ];
        for (spec, wanted) in rows {
            let decoded: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(requests(&decoded)["cpu"].millis(), wanted, "{spec}");
        }
    }
}
