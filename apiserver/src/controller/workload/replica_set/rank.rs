//! Which Pods go first when there are too many.
//! Source: kubernetes/kubernetes pkg/controller/controller_utils.go, ActivePodsWithRanks.

use std::{cmp::Reverse, collections::HashMap};

use api::{
    core::{ContainerStatus, Pod},
    meta::Time,
};
use jiff::Timestamp;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The Pods, the first to go first. `related` are all that do the same: where many share a node, one of them goes.
pub(super) fn first_to_go<'a>(pods: &[&'a Pod], related: &[&Pod], now: Timestamp) -> Vec<&'a Pod> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *on_node.entry(&pod.spec.node_name).or_default() += 1;
    }
    let mut ordered = pods.to_vec();
    ordered.sort_by_cached_key(|pod| {
        let sharing = on_node.get(&*pod.spec.node_name).copied();
        let ready = pod.is_ready();
        let ready_since = pod.status.condition("Ready").filter(|_| ready);
        let ready_since = ready_since.and_then(|ready| ready.last_transition_time);
        (
            !pod.spec.node_name.is_empty(),
            phase(pod),
            ready,
            cost(pod),
            Reverse(sharing.unwrap_or(0)),
            // Of those that were ready about equally long, none is better; the uid decides.
            (
                ready.then(|| age(ready_since, now)),
                Reverse(restarts(pod)),
                age(pod.metadata.creation_timestamp, now),
            ),
            pod.metadata.uid.clone(),
        )
    });
    ordered
}

fn phase(pod: &Pod) -> u8 {
    match &*pod.status.phase {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.get(COST);
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The order of magnitude of an age, so that of Pods as old as each other not always the youngest goes. No time is youngest.
/// Source: controller_utils.go, logarithmicRankDiff.
fn age(since: Option<Time>, now: Timestamp) -> Option<u32> {
    let nanos = now.duration_since(since?.timestamp()).as_nanos();
    Some(
        u128::try_from(nanos)
            .ok()
            .filter(|nanos| *nanos > 0)?
            .ilog2(),
    )
}

fn restarts(pod: &Pod) -> i32 {
    let status = &pod.status;
    let containers = status.container_statuses.iter();
    let count = |container: &ContainerStatus| container.restart_count;
    containers.map(count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, patch: &Value) -> Pod {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"},
            ]},
        });
        json_patch::merge(&mut value, patch);
        serde_json::from_value(value).unwrap()
    }

    /// Each row: what makes the Pod with the patch go before an ordinary one, though its uid is greater.
    #[test]
    fn the_pod_that_is_missed_least_goes_first() {
        let ready = |since: &str| {
            json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": since},
            ]}})
        };
        let rows = [
            ("has no node", json!({"spec": {"nodeName": ""}})),
            ("is pending", json!({"status": {"phase": "Pending"}})),
            ("is unknown", json!({"status": {"phase": "Unknown"}})),
            ("is not ready", json!({"status": {"conditions": []}})),
            (
                "costs less",
                json!({"metadata": {"annotations": {COST: "-1"}}}),
            ),
            (
                "is ready since a much shorter time",
                ready("2026-01-01T00:59:00Z"),
            ),
            (
                "was started again",
                json!({"status": {"containerStatuses": [{"name": "c", "restartCount": 1}]}}),
            ),
            (
                "is much younger",
                json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:00Z"}}),
            ),
        ];
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let ordinary = pod("a", &json!({}));
        for (what, patch) in rows {
            let first = pod("b", &patch);
            let pods = [&ordinary, &first];
            let order = first_to_go(&pods, &pods, now);
            assert_eq!(&*order[0].metadata.name, "b", "one that {what} goes first");
        }
        let same = pod("b", &ready("2026-01-01T00:00:09Z"));
        let order = first_to_go(&[&same, &ordinary], &[], now);
        assert_eq!(&*order[0].metadata.name, "a", "about as old: by uid");
    }

    #[test]
    fn of_pods_that_share_a_node_one_goes_first() {
        let alone = pod("a", &json!({"spec": {"nodeName": "n2"}}));
        let pair = ["b", "c"].map(|name| pod(name, &json!({})));
        let related = [&alone, &pair[0], &pair[1]];
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let order = first_to_go(&related, &related, now);
        let names: Vec<&str> = order.iter().map(|pod| &*pod.metadata.name).collect();
        assert_eq!(names, ["b", "c", "a"]);
    }
}
