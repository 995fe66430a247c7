//! Who asks, and whether they may.
//!
//! Reading order: this page (callers, questions, answers), [`authentication`] (who it is: by [`certificate`], by
//! [`service_account`] token, by [`token`] to join), [`impersonation`] (who they want to be), [`policy`] (what they may do), [`rbac`] (by which roles), [`node`] (what nodes
//! may do), [`endpoint_restriction`] (what nobody may name as an endpoint), [`signers`] (who decides on requests for certificates).

use std::collections::BTreeMap;

use api::rbac::PolicyRule;
use async_trait::async_trait;

pub mod authentication;
pub mod certificate;
pub mod endpoint_restriction;
pub mod impersonation;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod service_account;
pub mod signers;
pub mod token;

/// The group of the administrators: they may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of the nodes.
pub const NODES: &str = "system:nodes";
/// The group of everybody with credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody without.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// What the user name of a ServiceAccount begins with; its namespace, a colon and its name follow.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// What the user name of a node begins with.
pub const NODE_PREFIX: &str = "system:node:";

/// An authenticated caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user name, for example `system:node:node1`.
    pub name: String,
    /// The groups, for example `system:masters`.
    pub groups: Vec<String>,
    /// What tells it from others that had the name before, or empty.
    pub uid: String,
    /// What else its credentials say.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A caller that showed no credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".into(),
            groups: vec![UNAUTHENTICATED.into()],
            ..Self::default()
        }
    }

    /// The node this caller is, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        self.in_group(NODES).then_some(name)
    }

    /// Whether the caller is an administrator.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    /// Whether the caller is in this group.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|name| name == group)
    }
}

/// What a caller wants to do; the words are those of Kubernetes' authorization API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths outside resources
    /// the lower-case HTTP method.
    pub verb: &'a str,
    /// The API group, empty for core. Empty too for paths outside resources.
    pub group: &'a str,
    /// The plural resource name; empty for paths outside resources.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, when the resource has one and the request names one.
    pub namespace: Option<&'a str>,
    /// The object's name, when the request names one.
    pub name: Option<&'a str>,
    /// The field selector of a list or watch, as the caller wrote it: the node authorizer looks for its own node in it.
    pub field_selector: Option<&'a str>,
    /// The whole request path.
    pub path: &'a str,
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on; with what allows it, for the audit log, or nothing.
    Allow(String),
    /// 403, with a reason worth reading, or an empty one.
    Deny(String),
}

impl Decision {
    /// Go on, without many words.
    #[must_use]
    pub fn allow() -> Self {
        Self::Allow(String::new())
    }

    /// Whether to go on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Decides what a caller may do.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Whether `user` may do this.
    async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision;

    /// Every rule that holds for a user, everywhere and in a namespace.
    fn rules(&self, user: &User, namespace: Option<&str>) -> Vec<PolicyRule>;
}
