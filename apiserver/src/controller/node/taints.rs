//! Taints that say in which condition a node is.
//! Source: kubernetes/kubernetes pkg/controller/nodelifecycle/node_lifecycle_controller.go; the taints themselves are those of
//! k8s.io/api/core/v1/well_known_taints.go.

use api::{
    core::{Node, Taint},
    meta::Time,
};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new Pods away while they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// The `status` of one of the node's conditions.
pub(super) fn condition<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    let mut conditions = node.status.conditions.iter();
    let found = conditions.find(|condition| &*condition.r#type == name);
    found.map(|condition| &*condition.status)
}

/// The taints the node should have, when they are not those it has. Taints of others stay, and so does the time of those
/// that are there. A node that has not said anything yet is kept free, but not emptied.
pub(super) fn changed(node: &Node, lost: bool, now: Time) -> Option<Vec<Taint>> {
    let ready = if lost {
        Some("Unknown")
    } else {
        condition(node, "Ready")
    };
    let mut wanted: Vec<(&str, &str)> = match ready {
        Some("True") => vec![],
        Some("False") => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        Some(_) => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        None => vec![(NOT_READY, "NoSchedule")],
    };
    for (name, key) in PRESSURES {
        if condition(node, name) == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is =
        |taint: &Taint, key: &str, effect: &str| *taint.key == *key && *taint.effect == *effect;
    let mut taints = node.spec.taints.clone();
    taints.retain(|taint| {
        !is_ours(taint) || wanted.iter().any(|(key, effect)| is(taint, key, effect))
    });
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| is(taint, key, effect)) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: Some(now),
                ..Taint::default()
            });
        }
    }
    (taints != node.spec.taints).then_some(taints)
}

fn is_ours(taint: &Taint) -> bool {
    let key = &*taint.key;
    match &*taint.effect {
        "NoSchedule" => {
            matches!(key, NOT_READY | UNREACHABLE | UNSCHEDULABLE)
                || PRESSURES.iter().any(|(_, pressure)| *pressure == key)
        }
        "NoExecute" => matches!(key, NOT_READY | UNREACHABLE),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What it is about, the spec, the conditions, whether it is lost, and the taints when they change.
    type Row = (
        &'static str,
        Value,
        &'static [(&'static str, &'static str)],
        bool,
        Option<Vec<&'static str>>,
    );

    #[test]
    fn taints_follow_the_conditions() {
        let node = |spec: &Value, conditions: &[(&str, &str)]| -> Node {
            let conditions: Vec<_> = conditions
                .iter()
                .map(|(name, status)| json!({"type": name, "status": status}))
                .collect();
            serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}}))
                .unwrap()
        };
        let taint = |text: &str| -> Value {
            let (key, effect) = text.split_once(':').unwrap();
            json!({"key": format!("node.kubernetes.io/{key}"), "effect": effect})
        };
        let with = |texts: &[&str]| json!({"taints": texts.iter().map(|text| taint(text)).collect::<Vec<_>>()});
        let foreign = json!({"taints": [{"key": "k", "effect": "NoExecute"}, taint("memory-pressure:NoExecute")]});
        let none = || json!({});
        let rows: Vec<Row> = vec![
            (
                "ready",
                none(),
                &[("Ready", "True"), ("MemoryPressure", "False")],
                false,
                None,
            ),
            (
                "not ready",
                none(),
                &[("Ready", "False")],
                false,
                Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
            ),
            (
                "unknown",
                none(),
                &[("Ready", "Unknown")],
                false,
                Some(vec!["unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            (
                "lost, whatever it said last",
                none(),
                &[("Ready", "True")],
                true,
                Some(vec!["unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            (
                "nothing said yet",
                none(),
                &[],
                false,
                Some(vec!["not-ready:NoSchedule"]),
            ),
            (
                "pressure",
                none(),
                &[("Ready", "True"), ("DiskPressure", "True")],
                false,
                Some(vec!["disk-pressure:NoSchedule"]),
            ),
            (
                "cordoned",
                json!({"unschedulable": true}),
                &[("Ready", "True")],
                false,
                Some(vec!["unschedulable:NoSchedule"]),
            ),
            (
                "not ready turns to unknown",
                with(&["not-ready:NoSchedule", "not-ready:NoExecute"]),
                &[("Ready", "Unknown")],
                false,
                Some(vec!["unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            (
                "back",
                with(&["unreachable:NoSchedule", "unreachable:NoExecute"]),
                &[("Ready", "True")],
                false,
                Some(vec![]),
            ),
            (
                "taints of others stay",
                foreign,
                &[("Ready", "True")],
                false,
                None,
            ),
        ];
        for (statement, spec, conditions, lost, wanted) in rows {
            let got = changed(&node(&spec, conditions), lost, Time::now());
            let got = got.map(|taints| {
                let texts = taints.iter().map(|taint| {
                    format!(
                        "{}:{}",
                        taint.key.trim_start_matches("node.kubernetes.io/"),
                        taint.effect
                    )
                });
                texts.collect::<Vec<_>>()
            });
            let wanted = wanted.map(|texts| texts.into_iter().map(str::to_owned).collect());
            assert_eq!(got, wanted, "{statement}");
        }
    }

    #[test]
    fn a_taint_that_stays_keeps_its_time() {
        let mut node = Node::default();
        let early: Time = "2026-01-01T00:00:00Z".parse().unwrap();
        node.spec.taints = changed(&node, true, early).unwrap();
        assert!(
            node.spec
                .taints
                .iter()
                .all(|taint| taint.time_added == Some(early))
        );
        assert_eq!(changed(&node, true, Time::now()), None);
    }
}
