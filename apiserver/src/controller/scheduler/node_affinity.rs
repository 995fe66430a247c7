//! Which nodes a Pod asks for by labels or name.
//! Source: kubernetes/kubernetes staging/src/k8s.io/component-helpers/scheduling/corev1/nodeaffinity.

use api::{
    core::{Node, NodeSelectorTerm, PodSpec},
    meta::LabelSelectorRequirement,
};

use crate::controller::world::selects;

/// Whether the node is one of those that the Pod must have.
pub(in crate::controller) fn is_asked_for(spec: &PodSpec, node: &Node) -> bool {
    let affinity = spec.affinity.as_deref();
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|nodes| {
            nodes
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let matches = |term: &NodeSelectorTerm| holds(term, node);
    selects(&spec.node_selector, &node.metadata.labels)
        && required.is_none_or(|required| required.node_selector_terms.iter().any(matches))
}

/// How much the Pod likes the node: the weights of what holds of it.
pub(super) fn liking(spec: &PodSpec, node: &Node) -> i64 {
    let affinity = spec.affinity.as_deref();
    let nodes = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = nodes
        .into_iter()
        .flat_map(|nodes| &nodes.preferred_during_scheduling_ignored_during_execution);
    let weights = terms
        .filter(|term| holds(&term.preference, node))
        .map(|term| i64::from(term.weight));
    weights.sum()
}

/// A term that asks for nothing holds of no node.
fn holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    let mut labelled = term.match_expressions.iter();
    let mut named = term.match_fields.iter();
    !(term.match_expressions.is_empty() && term.match_fields.is_empty())
        && labelled.all(|requirement| fits(requirement, labels.get(&requirement.key).map(|v| &**v)))
        && named.all(|requirement| {
            &*requirement.key == "metadata.name" && fits(requirement, Some(&node.metadata.name))
        })
}

fn fits(requirement: &LabelSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || requirement.values.iter().any(|one| Some(&**one) == value);
    let numbers = || {
        let bound = requirement.values.first()?.parse::<i64>().ok()?;
        Some((value?.parse::<i64>().ok()?, bound))
    };
    match &*requirement.operator {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn terms(terms: &Value) -> PodSpec {
        let affinity = json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        }}});
        serde_json::from_value(affinity).unwrap()
    }

    #[test]
    fn a_node_is_asked_for_by_one_term_of_which_everything_holds() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}},
        }))
        .unwrap();
        let by_label = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let by_name = |operator: &str, name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": operator, "values": [name]}]});
        let both = json!({
            "matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}],
        });
        for (term, wanted) in [
            (by_label("disk", "In", &["hdd", "ssd"]), true),
            (by_label("disk", "NotIn", &["ssd"]), false),
            (by_label("gpu", "NotIn", &["x"]), true),
            (by_label("disk", "Exists", &[]), true),
            (by_label("disk", "DoesNotExist", &[]), false),
            (by_label("cores", "Gt", &["7"]), true),
            (by_label("cores", "Lt", &["8"]), false),
            (by_label("disk", "Gt", &["1"]), false),
            (by_name("In", "n1"), true),
            (by_name("NotIn", "n1"), false),
            (by_name("In", "n2"), false),
            (both, false),
            (json!({}), false),
        ] {
            let spec = terms(&json!([term]));
            assert_eq!(is_asked_for(&spec, &node), wanted, "{term}");
            let spec = terms(&json!([term, by_name("In", "n1")]));
            assert!(is_asked_for(&spec, &node), "another term holds");
        }
        assert!(!is_asked_for(&terms(&json!([])), &node));
        assert!(is_asked_for(&PodSpec::default(), &node));
    }
}
