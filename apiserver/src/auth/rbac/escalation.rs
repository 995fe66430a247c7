//! Nobody gives what they do not have: whoever writes a role, or binds one, must have every rule in it, unless they may
//! `escalate` the role or `bind` it.
//! Source: kubernetes/kubernetes pkg/registry/rbac/*/policybased/storage.go, pkg/registry/rbac/escalation_check.go.

use api::rbac::{ClusterRole, PolicyRule, Role, RoleRef};
use serde_json::Value;

use super::rule;
use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    registry::{
        ApiError, Kind, Registry,
        kinds::{
            CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, items, rbac::GROUP, text_at,
        },
        meta,
    },
};

/// What a caller may make of one role or binding, found out before it is written.
#[derive(Debug)]
pub struct Escalation {
    kind: &'static Kind,
    user: User,
    /// What the caller may do, where the object is.
    held: Vec<PolicyRule>,
    /// What this object's kind allows.
    may: May,
}

#[derive(Debug)]
enum May {
    /// Anything.
    All,
    /// Only what is held.
    Held,
    /// This role may be bound if its rules are held; `None` if it may be bound anyway.
    Bind(RoleRef, Option<Vec<PolicyRule>>),
}

impl Escalation {
    /// Looks at what the caller may do with this object. `None` for kinds that give nobody anything. `value` is what is
    /// known of it before it is written: the body, or what is stored.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the role to bind does not exist, or the store's.
    pub async fn of(
        authorizer: &dyn Authorizer,
        registry: &Registry,
        user: &User,
        target: (&'static Kind, Option<&str>, &str),
        value: &Value,
    ) -> Result<Option<Self>, ApiError> {
        let (kind, namespace, name) = target;
        let binds = *kind == ROLE_BINDINGS || *kind == CLUSTER_ROLE_BINDINGS;
        if !binds && *kind != ROLES && *kind != CLUSTER_ROLES {
            return Ok(None);
        }
        let mut escalation = Self {
            kind,
            user: user.clone(),
            held: Vec::new(),
            may: May::All,
        };
        if user.is_master() {
            return Ok(Some(escalation));
        }
        let question = Attributes {
            group: GROUP,
            namespace,
            ..Attributes::default()
        };
        if !binds {
            let question = Attributes {
                verb: "escalate",
                resource: kind.plural,
                name: Some(name),
                ..question
            };
            if !authorizer.authorize(user, &question).await.is_allowed() {
                escalation.may = May::Held;
            }
        } else if let Ok(role) = serde_json::from_value::<RoleRef>(value["roleRef"].clone()) {
            let question = Attributes {
                verb: "bind",
                resource: if &*role.kind == "Role" {
                    ROLES.plural
                } else {
                    CLUSTER_ROLES.plural
                },
                name: Some(&role.name),
                ..question
            };
            let rules = match authorizer.authorize(user, &question).await {
                Decision::Allow(_) => None,
                Decision::Deny(_) => Some(rules_of(registry, &role, namespace).await?),
            };
            escalation.may = May::Bind(role, rules);
        } else {
            // Validation refuses it for what it lacks.
            escalation.may = May::Bind(RoleRef::default(), None);
        }
        if !matches!(escalation.may, May::All | May::Bind(_, None)) {
            escalation.held = authorizer.rules(user, namespace);
        }
        Ok(Some(escalation))
    }

    /// Refuses an object that gives more than its writer has.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`]; [`ApiError::Conflict`] when the object has become another one meanwhile.
    pub fn check(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        if old.is_some_and(|old| gives_the_same(old, new)) {
            return Ok(());
        }
        self.check_whole(old, new)
    }

    /// The same for an object that replaces whatever is there: what it was before does not count, for somebody may have
    /// taken that back just now.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_whole(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        match &self.may {
            May::All => Ok(()),
            May::Held => self.check_role(old, new),
            May::Bind(role, rules) => {
                let bound = serde_json::from_value::<RoleRef>(new["roleRef"].clone());
                let bound = bound.unwrap_or_default();
                if bound.kind != role.kind || bound.name != role.name {
                    return Err(ApiError::modified(self.kind, meta::text(new, "name")));
                }
                rules
                    .as_deref()
                    .map_or(Ok(()), |rules| self.check_rules(rules, new))
            }
        }
    }

    fn check_role(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        let aggregates = |role: &Value| role.get("aggregationRule").is_some();
        if aggregates(new) || old.is_some_and(aggregates) {
            let everything = everything();
            if !rule::uncovered(&self.held, &everything).is_empty() {
                let why = "must have cluster-admin privileges to use an aggregationRule";
                return Err(self.refused(new, why));
            }
        }
        let rules: Vec<PolicyRule> = items(&new["rules"]).iter().map(decode).collect();
        self.check_rules(&rules, new)
    }

    fn check_rules(&self, rules: &[PolicyRule], new: &Value) -> Result<(), ApiError> {
        let missing = rule::compacted(rule::uncovered(&self.held, rules));
        if missing.is_empty() {
            return Ok(());
        }
        let mut missing: Vec<String> = missing.iter().map(rule::compact).collect();
        missing.sort_unstable();
        let groups: Vec<String> = self.user.groups.iter().map(|g| format!("{g:?}")).collect();
        let why = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            groups.join(" "),
            missing.join("\n")
        );
        Err(self.refused(new, &why))
    }

    fn refused(&self, new: &Value, why: &str) -> ApiError {
        let name = meta::text(new, "name");
        ApiError::Forbidden {
            message: format!("{} \"{name}\" is forbidden: {why}", self.kind.resource()),
            resource: self.kind.plural.to_owned(),
            group: GROUP.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// A rule as it will count; one that cannot be read counts as all of them, and validation refuses it.
fn decode(rule: &Value) -> PolicyRule {
    serde_json::from_value(rule.clone()).unwrap_or_else(|_| {
        let [resources, _] = everything();
        resources
    })
}

/// What an administrator may do.
#[must_use]
pub fn everything() -> [PolicyRule; 2] {
    let all = || vec![Box::from("*")];
    let resources = PolicyRule {
        verbs: all(),
        api_groups: all(),
        resources: all(),
        ..PolicyRule::default()
    };
    let paths = PolicyRule {
        verbs: all(),
        non_resource_urls: all(),
        ..PolicyRule::default()
    };
    [resources, paths]
}

/// Whether nothing has changed but what garbage collection changes.
fn gives_the_same(old: &Value, new: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        let metadata = meta::metadata_mut(&mut value);
        for field in [
            "ownerReferences",
            "finalizers",
            "resourceVersion",
            "managedFields",
        ] {
            metadata.shift_remove(field);
        }
        value
    };
    strip(old) == strip(new)
}

/// The rules of the role a binding names.
async fn rules_of(
    registry: &Registry,
    role: &RoleRef,
    namespace: Option<&str>,
) -> Result<Vec<PolicyRule>, ApiError> {
    if &*role.kind == "Role" {
        let role = registry.get(&ROLES, namespace, &role.name).await?;
        return Ok(role.decode::<Role>()?.rules);
    }
    let role = registry.get(&CLUSTER_ROLES, None, &role.name).await?;
    Ok(role.decode::<ClusterRole>()?.rules)
}

/// What is known of a binding before a patch is applied: what is stored, or else the body.
pub async fn known(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    body: &Value,
) -> Value {
    let named = !text_at(body, &["roleRef", "name"]).is_empty();
    match registry.get(kind, namespace, name).await {
        Ok(object) => object.value(),
        Err(_) if named => body.clone(),
        Err(_) => Value::Null,
    }
}
