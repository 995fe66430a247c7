//! What callers may do: administrators everything, everybody the health paths, nodes what the table says, and all what
//! their roles say.

use std::sync::Arc;

use api::{core::Pod, rbac::PolicyRule, selector::FieldSelector};
use async_trait::async_trait;

use super::{
    Attributes, Authorizer, Decision, User,
    rbac::{Rbac, escalation},
};
use crate::registry::{Registry, kinds::PODS};

/// Paths open to everybody, also without credentials.
const OPEN_PATHS: &[&str] = &["/livez", "/readyz", "/healthz", "/version"];

/// Which objects of a resource a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// All of them.
    Any,
    /// The object that has the node's name. What a node creates is looked at in [`super::node_restriction`], since
    /// the name stands in the body.
    Own,
    /// Pods bound to the node; lists and watches must say so in their field selector.
    OwnPods,
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

/// What a node's agent may do.
const NODE_RULES: &[Rule] = &[
    ("", "nodes", None, READ, Which::Any),
    (
        "",
        "nodes",
        None,
        &["create", "update", "patch"],
        Which::Own,
    ),
    ("", "nodes/status", None, &["update", "patch"], Which::Own),
    (
        "",
        "pods",
        None,
        &["get", "list", "watch", "delete"],
        Which::OwnPods,
    ),
    (
        "",
        "pods/status",
        None,
        &["update", "patch"],
        Which::OwnPods,
    ),
    ("", "services", None, READ, Which::Any),
    ("", "endpoints", None, READ, Which::Any),
    ("", "namespaces", None, READ, Which::Any),
    ("discovery.k8s.io", "endpointslices", None, READ, Which::Any),
    (
        "coordination.k8s.io",
        "leases",
        Some("kube-node-lease"),
        &["get", "create", "update", "patch"],
        Which::Own,
    ),
    ("", "events", None, &["create"], Which::Any),
];

/// The rules above, with the registry to see whose Pod a Pod is, and the roles.
pub struct Policy {
    registry: Registry,
    rbac: Arc<Rbac>,
}

impl Policy {
    /// A policy over these objects and roles.
    #[must_use]
    pub fn new(registry: Registry, rbac: Arc<Rbac>) -> Arc<Self> {
        Arc::new(Self { registry, rbac })
    }

    async fn node_may(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        let resource = match attributes.subresource {
            "" => attributes.resource.to_owned(),
            subresource => format!("{}/{subresource}", attributes.resource),
        };
        let mut decision = Decision::Deny("nodes may not do this".into());
        for (group, name, namespace, verbs, which) in NODE_RULES {
            let applies = *group == attributes.group
                && *name == resource
                && namespace.is_none_or(|only| attributes.namespace == Some(only))
                && verbs.contains(&attributes.verb);
            if !applies {
                continue;
            }
            decision = match which {
                Which::Any => Decision::Allow,
                Which::Own => own(node, attributes),
                Which::OwnPods => self.own_pods(node, attributes).await,
            };
            if decision == Decision::Allow {
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
            Ok(pod) if *pod.spec.node_name == *node => Decision::Allow,
            Ok(_) => Decision::Deny(format!("the Pod is not bound to node {node}")),
            // A node that asks for a Pod that is gone may learn so.
            Err(error) if error.is_not_found() => Decision::Allow,
            Err(error) => Decision::Deny(error.to_string()),
        }
    }
}

fn own(node: &str, attributes: &Attributes<'_>) -> Decision {
    match attributes.name {
        Some(name) if name != node => {
            Decision::Deny(format!("node {node} may change its own object only"))
        }
        _ => Decision::Allow,
    }
}

fn own_selection(node: &str, field_selector: &str) -> Decision {
    let selector = field_selector.parse::<FieldSelector>().unwrap_or_default();
    if selector.required_value("spec.nodeName") == Some(node) {
        return Decision::Allow;
    }
    Decision::Deny(format!(
        "a node sees its own Pods only: add fieldSelector=spec.nodeName={node}"
    ))
}

#[async_trait]
impl Authorizer for Policy {
    async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let open = attributes.resource.is_empty()
            && matches!(attributes.verb, "get" | "head")
            && OPEN_PATHS
                .iter()
                .any(|path| is_below(attributes.path, path));
        if open || user.is_master() {
            return Decision::Allow;
        }
        let decision = match user.node() {
            Some(node) => self.node_may(node, attributes).await,
            None => Decision::Deny(String::new()),
        };
        if decision == Decision::Allow || self.rbac.allows(user, attributes) {
            return Decision::Allow;
        }
        decision
    }

    fn rules(&self, user: &User, namespace: Option<&str>) -> Vec<PolicyRule> {
        let mut rules = self.rbac.rules(user, namespace);
        for rule in escalation::everything() {
            if user.is_master() && !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    }
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        registry::Context,
        store::{EmbeddedStore, engine::MemoryEngine},
    };

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.into(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..User::default()
        }
    }

    fn allowed(user: &User, attributes: &Attributes<'_>) -> bool {
        let store = EmbeddedStore::with_engine(MemoryEngine::default(), None).unwrap();
        let registry = Registry::new(Arc::new(store), Context::default());
        let policy = Policy::new(registry, Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(policy.authorize(user, attributes)) == Decision::Allow
    }

    #[test]
    fn nodes_may_do_what_the_table_says_and_nothing_else() {
        let node = user("system:node:n1", &["system:nodes"]);
        /// Verb, group, resource, subresource, namespace, name, allowed.
        type Case = (
            &'static str,
            &'static str,
            &'static str,
            &'static str,
            Option<&'static str>,
            Option<&'static str>,
            bool,
        );
        let cases: &[Case] = &[
            ("get", "", "nodes", "", None, Some("n2"), true),
            ("patch", "", "nodes", "", None, Some("n1"), true),
            ("patch", "", "nodes", "", None, Some("n2"), false),
            ("patch", "", "nodes", "status", None, Some("n1"), true),
            ("patch", "", "nodes", "status", None, Some("n2"), false),
            ("delete", "", "nodes", "", None, Some("n1"), false),
            ("list", "", "pods", "", None, None, false),
            ("create", "", "pods", "", Some("a"), None, false),
            ("list", "", "services", "", None, None, true),
            ("create", "", "services", "", Some("a"), None, false),
            (
                "watch",
                "discovery.k8s.io",
                "endpointslices",
                "",
                None,
                None,
                true,
            ),
            ("get", "", "secrets", "", Some("a"), Some("b"), false),
            (
                "patch",
                "coordination.k8s.io",
                "leases",
                "",
                Some("kube-node-lease"),
                Some("n1"),
                true,
            ),
            (
                "patch",
                "coordination.k8s.io",
                "leases",
                "",
                Some("kube-node-lease"),
                Some("n2"),
                false,
            ),
            (
                "patch",
                "coordination.k8s.io",
                "leases",
                "",
                Some("default"),
                Some("n1"),
                false,
            ),
            ("create", "", "events", "", Some("a"), None, true),
        ];
        for &(verb, group, resource, subresource, namespace, name, wanted) in cases {
            let attributes = Attributes {
                verb,
                group,
                resource,
                subresource,
                namespace,
                name,
                ..Attributes::default()
            };
            assert_eq!(allowed(&node, &attributes), wanted, "{attributes:?}");
        }
    }

    #[test]
    fn a_node_lists_its_own_pods_only() {
        let node = user("system:node:n1", &["system:nodes"]);
        for (selector, wanted) in [
            (Some("spec.nodeName=n1"), true),
            (Some("spec.nodeName=n1,status.phase=Running"), true),
            (Some("spec.nodeName=n2"), false),
            (Some("spec.nodeName!=n1"), false),
            (None, false),
        ] {
            let attributes = Attributes {
                verb: "watch",
                resource: "pods",
                field_selector: selector,
                ..Attributes::default()
            };
            assert_eq!(allowed(&node, &attributes), wanted, "{selector:?}");
        }
    }

    #[test]
    fn everybody_reaches_the_health_paths_and_strangers_nothing_else() {
        let get = |path| Attributes {
            verb: "get",
            path,
            ..Attributes::default()
        };
        for (path, wanted) in [
            ("/livez", true),
            ("/readyz/ping", true),
            ("/version", true),
            ("/livezz", false),
            ("/api", false),
        ] {
            assert_eq!(allowed(&User::anonymous(), &get(path)), wanted, "{path}");
        }
        // The name alone does not make a node, nor the group alone.
        for stranger in [user("system:node:n1", &[]), user("jane", &["system:nodes"])] {
            let attributes = Attributes {
                verb: "list",
                resource: "services",
                ..Attributes::default()
            };
            assert!(!allowed(&stranger, &attributes));
        }
    }
}
