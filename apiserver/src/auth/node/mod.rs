//! What the agents of nodes may do: a list of verbs, and for most of them only on what is the node's own.
//! Source: kubernetes/kubernetes plugin/pkg/auth/authorizer/node/node_authorizer.go.
//!
//! Reading order: this page (the list), [`graph`] (what a node's Pods name), [`restriction`] (what a node may say in the
//! objects it writes).

pub mod graph;
pub mod restriction;

use std::time::Duration;

use api::{core::Pod, selector::FieldSelector};
use tokio::sync::watch;

use self::graph::{Graph, Named};
use super::{Attributes, Decision};
use crate::registry::{Registry, kinds::PODS};

/// Which objects of a resource a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// All of them.
    Any,
    /// The object that has the node's name. What a node creates is looked at in [`restriction`], since the name stands
    /// in the body.
    Own,
    /// Pods bound to the node; lists and watches must say so in their field selector.
    OwnPods,
    /// Objects that Pods bound to the node name; lists and watches must say which in their field selector.
    Named(Named),
}

/// One row: group, resource with subresource, namespace if only one, verbs, objects.
type Rule = (
    &'static str,
    &'static str,
    Option<&'static str>,
    &'static [&'static str],
    Which,
);

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch"];
const CHANGE: &[&str] = &["update", "patch"];

/// The list. What is not here, a node may do only if a role says so.
const RULES: &[Rule] = &[
    ("", "nodes", None, READ, Which::Any),
    ("", "nodes", None, WRITE, Which::Own),
    ("", "nodes/status", None, CHANGE, Which::Own),
    ("", "pods", None, READ, Which::OwnPods),
    ("", "pods", None, &["delete"], Which::OwnPods),
    ("", "pods/status", None, CHANGE, Which::OwnPods),
    ("", "secrets", None, READ, Which::Named(Named::Secret)),
    ("", "configmaps", None, READ, Which::Named(Named::ConfigMap)),
    (
        "",
        "serviceaccounts",
        None,
        &["get"],
        Which::Named(Named::ServiceAccount),
    ),
    // For its own Pods only, which stand in the body: see `restriction`.
    (
        "",
        "serviceaccounts/token",
        None,
        &["create"],
        Which::Named(Named::ServiceAccount),
    ),
    ("", "services", None, READ, Which::Any),
    ("", "endpoints", None, READ, Which::Any),
    ("", "namespaces", None, READ, Which::Any),
    ("discovery.k8s.io", "endpointslices", None, READ, Which::Any),
    ("networking.k8s.io", "servicecidrs", None, READ, Which::Any),
    (
        "coordination.k8s.io",
        "leases",
        Some("kube-node-lease"),
        &["get", "create", "update", "patch"],
        Which::Own,
    ),
    ("", "events", None, &["create", "patch"], Which::Any),
];

/// How long a node that asks for something which none of its Pods is known to name has to wait for the answer: it may have
/// seen its Pod before the graph did.
const PATIENCE: Duration = Duration::from_millis(250);

/// Decides what nodes may do.
pub struct NodeAuthorizer {
    registry: Registry,
    graph: watch::Receiver<Graph>,
}

impl NodeAuthorizer {
    /// An authorizer over these objects. Somebody keeps the graph up to date.
    #[must_use]
    pub fn new(registry: Registry, graph: watch::Receiver<Graph>) -> Self {
        Self { registry, graph }
    }

    /// Whether the node of this name may do this.
    pub async fn authorize(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        let resource = match attributes.subresource {
            "" => attributes.resource.to_owned(),
            subresource => format!("{}/{subresource}", attributes.resource),
        };
        let mut decision = Decision::Deny("nodes may not do this".into());
        for (group, name, namespace, verbs, which) in RULES {
            let applies = *group == attributes.group
                && *name == resource
                && namespace.is_none_or(|only| attributes.namespace == Some(only))
                && verbs.contains(&attributes.verb);
            if !applies {
                continue;
            }
            decision = match which {
                Which::Any => Decision::allow(),
                Which::Own => own(node, attributes),
                Which::OwnPods => self.own_pods(node, attributes).await,
                Which::Named(kind) => self.named(node, *kind, attributes).await,
            };
            if decision.is_allowed() {
                break;
            }
        }
        decision
    }

    async fn own_pods(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        if matches!(attributes.verb, "list" | "watch") {
            return own_selection(node, attributes.field_selector.unwrap_or_default());
        }
        let name = attributes.name.unwrap_or_default();
        let pod = self.registry.get(&PODS, attributes.namespace, name).await;
        match pod.and_then(|pod| pod.decode::<Pod>()) {
            Ok(pod) if *pod.spec.node_name == *node => Decision::allow(),
            Ok(_) => Decision::Deny(format!("the Pod is not bound to node {node}")),
            // A node that asks for a Pod that is gone may learn so.
            Err(error) if error.is_not_found() => Decision::allow(),
            Err(error) => Decision::Deny(error.to_string()),
        }
    }

    async fn named(&self, node: &str, kind: Named, attributes: &Attributes<'_>) -> Decision {
        let (Some(namespace), Some(name)) = (attributes.namespace, attributes.name) else {
            return Decision::Deny(
                "a node reads single objects of a namespace: add fieldSelector=metadata.name=NAME"
                    .into(),
            );
        };
        let reaches = |graph: &Graph| graph.reaches(node, kind, namespace, name);
        let mut graph = self.graph.clone();
        let reached = tokio::time::timeout(PATIENCE, graph.wait_for(reaches)).await;
        match reached {
            Ok(Ok(_)) => Decision::allow(),
            _ => Decision::Deny(format!("no Pod of node {node} names this object")),
        }
    }
}

fn own(node: &str, attributes: &Attributes<'_>) -> Decision {
    match attributes.name {
        Some(name) if name != node => {
            Decision::Deny(format!("node {node} may change its own object only"))
        }
        _ => Decision::allow(),
    }
}

fn own_selection(node: &str, field_selector: &str) -> Decision {
    let selector = field_selector.parse::<FieldSelector>().unwrap_or_default();
    if selector.required_value("spec.nodeName") == Some(node) {
        return Decision::allow();
    }
    Decision::Deny(format!(
        "a node sees its own Pods only: add fieldSelector=spec.nodeName={node}"
    ))
}
