//! What callers may do: administrators everything, everybody the health paths, nodes what [`super::node`] says, and all what
//! their roles say.

use std::sync::Arc;

use api::rbac::PolicyRule;
use async_trait::async_trait;

use super::{
    Attributes, Authorizer, Decision, User,
    node::NodeAuthorizer,
    rbac::{Rbac, escalation},
};

/// Paths open to everybody, also without credentials.
const OPEN_PATHS: &[&str] = &["/livez", "/readyz", "/healthz", "/version"];

/// The paths above, what nodes may do, and the roles.
pub struct Policy {
    nodes: NodeAuthorizer,
    rbac: Arc<Rbac>,
}

impl Policy {
    /// A policy of these parts.
    #[must_use]
    pub fn new(nodes: NodeAuthorizer, rbac: Arc<Rbac>) -> Arc<Self> {
        Arc::new(Self { nodes, rbac })
    }
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
            return Decision::allow();
        }
        let decision = match user.node() {
            Some(node) => self.nodes.authorize(node, attributes).await,
            None => Decision::Deny(String::new()),
        };
        if decision.is_allowed() {
            return decision;
        }
        match self.rbac.allowed_by(user, attributes) {
            Some(reason) => Decision::Allow(reason),
            None => decision,
        }
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
        auth::node::graph::Graph,
        registry::{Context, Registry},
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
        let (_, graph) = tokio::sync::watch::channel(Graph::default());
        let policy = Policy::new(NodeAuthorizer::new(registry, graph), Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let decision = runtime.block_on(policy.authorize(user, attributes));
        decision.is_allowed()
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
            (
                "watch",
                "networking.k8s.io",
                "servicecidrs",
                "",
                None,
                None,
                true,
            ),
            (
                "create",
                "networking.k8s.io",
                "servicecidrs",
                "",
                None,
                None,
                false,
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
            ("patch", "", "events", "", Some("a"), Some("e"), true),
            ("delete", "", "events", "", Some("a"), Some("e"), false),
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
