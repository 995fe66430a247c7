//! NoExecute taints: Pods that do not tolerate them go, those that do for a while go when it is over.
//! Source: kubernetes/kubernetes pkg/controller/tainteviction/taint_eviction.go.

use std::collections::BTreeMap;

use api::{
    core::{Node, Pod, Taint},
    meta::Resource as _,
};
use jiff::{SignedDuration, Timestamp};

use crate::controller::{
    event::{self, Level},
    pods,
    scheduler::tolerates,
    world::{World, key_of},
    write::Action,
};

const COMPONENT: &str = "taint-eviction-controller";

/// When which node has to be looked at again.
#[derive(Debug, Default)]
pub(in crate::controller) struct Evictions {
    due: BTreeMap<Box<str>, Timestamp>,
    /// When a taint without `timeAdded`, as `kubectl taint` writes it, was first seen: by node and key.
    seen: BTreeMap<(Box<str>, Box<str>), Timestamp>,
}

impl Evictions {
    /// The next moment at which Pods have to go.
    pub(in crate::controller) fn next(&self) -> Option<Timestamp> {
        self.due.values().min().copied()
    }

    /// The nodes whose moment has come.
    pub(in crate::controller) fn take_due(&mut self, now: Timestamp) -> Vec<Box<str>> {
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let names: Vec<Box<str>> = due.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.due.remove(name);
        }
        names
    }

    /// The evictions from one node now; later ones are remembered.
    pub(in crate::controller) fn plan(
        &mut self,
        world: &World,
        name: &str,
        now: Timestamp,
    ) -> Vec<Action> {
        self.due.remove(name);
        let node = world.nodes.get(&(Box::default(), name.into()));
        let taints = self.since(name, node.map(|node| &**node), now);
        if taints.is_empty() {
            return Vec::new();
        }
        let mut actions = Vec::new();
        for pod in world.pods_on(name) {
            match deadline(pod, &taints) {
                Some(at) if at <= now => actions.push(evict(pod)),
                Some(at) => {
                    let due = self.due.entry(name.into()).or_insert(at);
                    *due = (*due).min(at);
                }
                None => {}
            }
        }
        actions
    }

    /// The NoExecute taints of a node, and since when each is there.
    fn since<'a>(
        &mut self,
        name: &str,
        node: Option<&'a Node>,
        now: Timestamp,
    ) -> Vec<(&'a Taint, Timestamp)> {
        let taints = node.into_iter().flat_map(|node| &node.spec.taints);
        let taints: Vec<&Taint> = taints
            .filter(|taint| &*taint.effect == "NoExecute")
            .collect();
        if !self.seen.is_empty() {
            let there = |key: &str| taints.iter().any(|taint| *taint.key == *key);
            self.seen
                .retain(|(node, key), _| **node != *name || there(key));
        }
        let since = taints.into_iter().map(|taint| {
            let at = match taint.time_added {
                Some(at) => at.timestamp(),
                None => *self
                    .seen
                    .entry((name.into(), taint.key.clone()))
                    .or_insert(now),
            };
            (taint, at)
        });
        since.collect()
    }
}

/// When a Pod has to go; never, when it tolerates every taint for ever. Of several tolerations the first that fits counts.
fn deadline(pod: &Pod, taints: &[(&Taint, Timestamp)]) -> Option<Timestamp> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let each = taints.iter().filter_map(|(taint, since)| {
        let mut tolerations = pod.spec.tolerations.iter();
        match tolerations.find(|toleration| tolerates(toleration, taint)) {
            None => Some(Timestamp::MIN),
            Some(toleration) => {
                let secs = toleration.toleration_seconds?.max(0);
                let end = since.checked_add(SignedDuration::from_secs(secs));
                Some(end.unwrap_or(Timestamp::MAX))
            }
        }
    });
    each.min()
}

fn evict(pod: &Pod) -> Action {
    let (namespace, name) = key_of(pod);
    let message = format!("Marking for deletion Pod {namespace}/{name}");
    let about = api::core::ObjectReference {
        api_version: "v1".into(),
        ..pods::reference(pod)
    };
    let event = event::new(
        about,
        COMPONENT,
        Level::Normal,
        "TaintManagerEviction",
        message,
    );
    Action::Evict {
        pod: (namespace, name),
        uid: pod.metadata.uid.clone(),
        event: Box::new(event.to_value()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::Revision;

    const SINCE: &str = "2026-01-01T00:00:00Z";

    fn at(secs: i64) -> Timestamp {
        SINCE.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(secs)
    }

    fn world(taints: &Value, tolerations: &Value) -> World {
        let mut world = World::default();
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}});
        world.put::<Node>(Revision(1), serde_json::from_value(node).unwrap());
        let pod = json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations},
        });
        world.put::<Pod>(Revision(1), serde_json::from_value(pod).unwrap());
        world
    }

    #[test]
    fn a_pod_goes_when_its_toleration_is_over() {
        let tolerates = |key: &str, secs: Value| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": secs});
        let taint =
            |key: &str, effect: &str| json!({"key": key, "effect": effect, "timeAdded": SINCE});
        let rows = [
            (
                "not tolerated: at once",
                vec![taint("k", "NoExecute")],
                vec![],
                Some(0),
            ),
            (
                "NoSchedule evicts nobody",
                vec![taint("k", "NoSchedule")],
                vec![],
                None,
            ),
            (
                "tolerated for ever",
                vec![taint("k", "NoExecute")],
                vec![tolerates("k", Value::Null)],
                None,
            ),
            (
                "tolerated for a while",
                vec![taint("k", "NoExecute")],
                vec![tolerates("k", json!(300))],
                Some(300),
            ),
            (
                "zero and less: at once",
                vec![taint("k", "NoExecute")],
                vec![tolerates("k", json!(-1))],
                Some(0),
            ),
            (
                "the shortest counts",
                vec![taint("k", "NoExecute"), taint("l", "NoExecute")],
                vec![tolerates("k", json!(300)), tolerates("l", json!(100))],
                Some(100),
            ),
            (
                "one untolerated is enough",
                vec![taint("k", "NoExecute"), taint("l", "NoExecute")],
                vec![tolerates("k", Value::Null)],
                Some(0),
            ),
            (
                "of two tolerations the first that fits",
                vec![taint("k", "NoExecute")],
                vec![tolerates("k", json!(10)), tolerates("k", json!(5))],
                Some(10),
            ),
        ];
        for (statement, taints, tolerations, wanted) in rows {
            let world = world(&json!(taints), &json!(tolerations));
            let mut evictions = Evictions::default();
            match wanted {
                None => {
                    assert_eq!(evictions.plan(&world, "n", at(9999)), [], "{statement}");
                    assert_eq!(evictions.next(), None, "{statement}");
                }
                Some(secs) => {
                    if secs > 0 {
                        assert_eq!(evictions.plan(&world, "n", at(secs - 1)), [], "{statement}");
                        assert_eq!(
                            evictions.next(),
                            Some(at(secs)),
                            "{statement}: an exact deadline"
                        );
                        assert_eq!(evictions.take_due(at(secs)), ["n".into()]);
                    }
                    let actions = evictions.plan(&world, "n", at(secs));
                    assert!(
                        matches!(&actions[..], [Action::Evict { .. }]),
                        "{statement}: {actions:?}"
                    );
                    assert_eq!(
                        evictions.next(),
                        None,
                        "{statement}: nothing is left to wait for"
                    );
                }
            }
        }
    }

    #[test]
    fn a_node_that_is_back_evicts_nobody() {
        let tolerations = json!([{"operator": "Exists", "tolerationSeconds": 300}]);
        let tainted = world(
            &json!([{"key": "k", "effect": "NoExecute", "timeAdded": SINCE}]),
            &tolerations,
        );
        let mut evictions = Evictions::default();
        evictions.plan(&tainted, "n", at(0));
        assert_eq!(evictions.next(), Some(at(300)));
        assert_eq!(
            evictions.plan(&world(&json!([]), &tolerations), "n", at(200)),
            []
        );
        assert_eq!(evictions.next(), None);
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_seen() {
        let tolerations = json!([{"operator": "Exists", "tolerationSeconds": 10}]);
        let tainted = world(&json!([{"key": "k", "effect": "NoExecute"}]), &tolerations);
        let mut evictions = Evictions::default();
        evictions.plan(&tainted, "n", at(5));
        evictions.plan(&tainted, "n", at(9));
        assert_eq!(evictions.next(), Some(at(15)));
        evictions.plan(&world(&json!([]), &tolerations), "n", at(10));
        evictions.plan(&tainted, "n", at(20));
        assert_eq!(
            evictions.next(),
            Some(at(30)),
            "the same taint again is a new one"
        );
    }
}
