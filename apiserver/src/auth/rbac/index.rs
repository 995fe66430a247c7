//! All roles and bindings by subject: a request looks at the bindings of its user and groups only.
//! Source: kubernetes/kubernetes pkg/registry/rbac/validation/rule.go.

use std::{collections::HashMap, fmt, sync::Arc};

use api::rbac::{PolicyRule, RoleRef, Subject};

use super::rule;
use crate::auth::{Attributes, SERVICE_ACCOUNT_PREFIX, User};

/// Which role: its namespace, empty for a ClusterRole, and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleKey {
    /// Empty for a ClusterRole.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl RoleKey {
    /// The role a binding in this namespace (empty for a ClusterRoleBinding) names.
    #[must_use]
    pub fn of(role: &RoleRef, namespace: &str) -> Self {
        let own = &*role.kind == "Role";
        Self {
            namespace: if own { namespace } else { "" }.into(),
            name: role.name.clone(),
        }
    }
}

/// A RoleBinding, or a ClusterRoleBinding.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The role it gives.
    pub role: RoleRef,
    /// To whom.
    pub subjects: Vec<Subject>,
}

/// Namespace (empty for cluster-scoped objects) and name.
type ObjectKey = (Box<str>, Box<str>);

/// A role that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    role: RoleKey,
    /// The binding that gives it.
    binding: Box<str>,
    /// As what that names him.
    subject: SubjectKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubjectKind {
    User,
    Group,
    ServiceAccount,
}

/// The roles one subject has: everywhere (an empty namespace), and by namespace.
type Given = HashMap<Box<str>, Vec<Grant>>;

/// By what somebody has a role. The words are those of kubernetes/kubernetes pkg/registry/rbac/validation/rule.go.
#[derive(Clone, Copy)]
struct Source<'a> {
    grant: &'a Grant,
    /// The binding's, empty for a ClusterRoleBinding.
    namespace: &'a str,
    /// The name of the user or group.
    subject: &'a str,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant {
            role,
            binding,
            subject,
        } = self.grant;
        match self.namespace {
            "" => write!(f, "ClusterRoleBinding {binding:?}")?,
            namespace => write!(f, "RoleBinding \"{binding}/{namespace}\"")?,
        }
        let cluster = if role.namespace.is_empty() {
            "Cluster"
        } else {
            ""
        };
        write!(f, " of {cluster}Role {:?} to ", role.name)?;
        match subject {
            SubjectKind::User => write!(f, "User {:?}", self.subject),
            SubjectKind::Group => write!(f, "Group {:?}", self.subject),
            SubjectKind::ServiceAccount => {
                let account = self.subject.strip_prefix(SERVICE_ACCOUNT_PREFIX);
                let account = account.and_then(|account| account.split_once(':'));
                let (home, name) = account.unwrap_or_default();
                write!(f, "ServiceAccount \"{name}/{home}\"")
            }
        }
    }
}

/// Roles and bindings.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<RoleKey, Arc<[PolicyRule]>>,
    bindings: HashMap<ObjectKey, Binding>,
    users: HashMap<Box<str>, Given>,
    groups: HashMap<Box<str>, Given>,
}

impl Index {
    /// Sets or forgets (`None`) a role's rules.
    pub fn set_role(&mut self, key: RoleKey, rules: Option<Vec<PolicyRule>>) {
        match rules {
            Some(rules) => self.roles.insert(key, rules.into()),
            None => self.roles.remove(&key),
        };
    }

    /// Sets or forgets (`None`) a binding; the namespace of a ClusterRoleBinding is empty.
    pub fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<Binding>) {
        let key: ObjectKey = (namespace.into(), name.into());
        if let Some(old) = self.bindings.remove(&key) {
            self.give(&key, &old, false);
        }
        if let Some(binding) = binding {
            self.give(&key, &binding, true);
            self.bindings.insert(key, binding);
        }
    }

    /// Forgets all ClusterRoles, or all Roles.
    pub fn clear_roles(&mut self, namespaced: bool) {
        self.roles
            .retain(|key, _| key.namespace.is_empty() == namespaced);
    }

    /// Forgets all ClusterRoleBindings, or all RoleBindings.
    pub fn clear_bindings(&mut self, namespaced: bool) {
        let keys = self.bindings.keys();
        let keys: Vec<ObjectKey> = keys
            .filter(|(namespace, _)| namespace.is_empty() != namespaced)
            .cloned()
            .collect();
        for (namespace, name) in keys {
            self.set_binding(&namespace, &name, None);
        }
    }

    fn give(&mut self, (namespace, binding_name): &ObjectKey, binding: &Binding, given: bool) {
        let role = RoleKey::of(&binding.role, namespace);
        for subject in &binding.subjects {
            let (subjects, name, kind) = match &*subject.kind {
                "User" => (&mut self.users, subject.name.clone(), SubjectKind::User),
                "Group" => (&mut self.groups, subject.name.clone(), SubjectKind::Group),
                "ServiceAccount" => {
                    let home = match &*subject.namespace {
                        "" => &**namespace,
                        home => home,
                    };
                    let user = format!("{SERVICE_ACCOUNT_PREFIX}{home}:{}", subject.name);
                    (&mut self.users, user.into(), SubjectKind::ServiceAccount)
                }
                _ => continue,
            };
            let grant = Grant {
                role: role.clone(),
                binding: binding_name.clone(),
                subject: kind,
            };
            if given {
                let grants = subjects.entry(name).or_default();
                let grants = grants.entry(namespace.clone()).or_default();
                grants.push(grant);
                continue;
            }
            let Some(by_namespace) = subjects.get_mut(&name) else {
                continue;
            };
            if let Some(grants) = by_namespace.get_mut(namespace) {
                if let Some(at) = grants.iter().position(|known| *known == grant) {
                    grants.swap_remove(at);
                }
                if grants.is_empty() {
                    by_namespace.remove(namespace);
                }
            }
            if by_namespace.is_empty() {
                subjects.remove(&name);
            }
        }
    }

    /// Every role the user has, everywhere and in the namespace: who gives it and what it allows.
    fn roles_of<'a>(
        &'a self,
        user: &'a User,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (Source<'a>, &'a Arc<[PolicyRule]>)> {
        let own = self.users.get(&*user.name);
        let own = own.map(|given| (&*user.name, given));
        let groups = user.groups.iter();
        let groups = groups.filter_map(|group| Some((&**group, self.groups.get(&**group)?)));
        own.into_iter()
            .chain(groups)
            .flat_map(move |(subject, given)| {
                let everywhere = given.get("").map(|grants| ("", grants));
                let here = namespace.and_then(|here| Some((here, given.get(here)?)));
                let places = everywhere.into_iter().chain(here);
                places.flat_map(move |(namespace, grants)| {
                    grants.iter().map(move |grant| Source {
                        grant,
                        namespace,
                        subject,
                    })
                })
            })
            .filter_map(|source| Some((source, self.roles.get(&source.grant.role)?)))
    }

    /// The binding that allows this, in upstream's words.
    #[must_use]
    pub fn allowed_by(&self, user: &User, attributes: &Attributes<'_>) -> Option<String> {
        let namespace = attributes
            .namespace
            .filter(|namespace| !namespace.is_empty());
        let (source, _) = self
            .roles_of(user, namespace)
            .find(|(_, rules)| rules.iter().any(|rule| rule::allows(rule, attributes)))?;
        Some(format!("RBAC: allowed by {source}"))
    }

    /// Every rule that holds for a user, everywhere and in a namespace.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: Option<&str>) -> Vec<PolicyRule> {
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let mut rules: Vec<PolicyRule> = Vec::new();
        for rule in self
            .roles_of(user, namespace)
            .flat_map(|(_, rules)| rules.iter())
        {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.into(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..User::default()
        }
    }

    fn reads_pods() -> Vec<PolicyRule> {
        vec![PolicyRule {
            verbs: vec!["get".into()],
            api_groups: vec!["".into()],
            resources: vec!["pods".into()],
            ..PolicyRule::default()
        }]
    }

    fn role(namespace: &str, name: &str) -> RoleKey {
        RoleKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn binding(role: (&str, &str), subjects: &[(&str, &str)]) -> Binding {
        let subject = |&(kind, name): &(&str, &str)| Subject {
            kind: kind.into(),
            name: name.into(),
            ..Subject::default()
        };
        Binding {
            role: RoleRef {
                kind: role.0.into(),
                name: role.1.into(),
                ..RoleRef::default()
            },
            subjects: subjects.iter().map(subject).collect(),
        }
    }

    fn may(index: &Index, user: &User, namespace: Option<&str>) -> bool {
        let attributes = Attributes {
            verb: "get",
            resource: "pods",
            namespace,
            name: Some("a"),
            ..Attributes::default()
        };
        index.allowed_by(user, &attributes).is_some()
    }

    #[test]
    fn u7_bindings_give_roles_in_their_namespace_or_everywhere() {
        let mut index = Index::default();
        index.set_role(role("", "reader"), Some(reads_pods()));
        index.set_role(role("a", "reader"), Some(reads_pods()));
        let here = binding(("Role", "reader"), &[("User", "jane"), ("Group", "dev")]);
        index.set_binding("a", "own", Some(here));
        let account = binding(("ClusterRole", "reader"), &[("ServiceAccount", "robot")]);
        index.set_binding("b", "robots", Some(account));
        let ops = binding(("ClusterRole", "reader"), &[("Group", "ops")]);
        index.set_binding("", "ops", Some(ops));
        // A Role is its namespace's own.
        let stray = binding(("Role", "reader"), &[("User", "joe")]);
        index.set_binding("b", "stray", Some(stray));

        let robot = user("system:serviceaccount:b:robot", &[]);
        let other_robot = user("system:serviceaccount:a:robot", &[]);
        for (who, namespace, wanted) in [
            (&user("jane", &[]), Some("a"), true),
            (&user("jane", &[]), Some("b"), false),
            (&user("jane", &[]), None, false),
            (&user("x", &["dev"]), Some("a"), true),
            (&user("dev", &[]), Some("a"), false),
            (&user("x", &["ops"]), Some("c"), true),
            (&user("x", &["ops"]), None, true),
            (&robot, Some("b"), true),
            (&robot, Some("a"), false),
            (&other_robot, Some("b"), false),
            (&user("joe", &[]), Some("b"), false),
            (&user("joe", &[]), Some("a"), false),
        ] {
            assert_eq!(may(&index, who, namespace), wanted, "{who:?} {namespace:?}");
        }
    }

    #[test]
    fn u7_what_allows_something_is_said_in_upstreams_words() {
        let mut index = Index::default();
        index.set_role(role("", "reader"), Some(reads_pods()));
        index.set_role(role("a", "own"), Some(reads_pods()));
        let everywhere = binding(("ClusterRole", "reader"), &[("Group", "ops")]);
        index.set_binding("", "ops", Some(everywhere));
        let here = [("User", "jane"), ("ServiceAccount", "robot")];
        index.set_binding("a", "team", Some(binding(("ClusterRole", "reader"), &here)));
        index.set_binding(
            "a",
            "mine",
            Some(binding(("Role", "own"), &[("User", "joe")])),
        );
        let attributes = Attributes {
            verb: "get",
            resource: "pods",
            namespace: Some("a"),
            ..Attributes::default()
        };
        for (who, wanted) in [
            (
                user("x", &["ops"]),
                "ClusterRoleBinding \"ops\" of ClusterRole \"reader\" to Group \"ops\"",
            ),
            (
                user("jane", &[]),
                "RoleBinding \"team/a\" of ClusterRole \"reader\" to User \"jane\"",
            ),
            (
                user("system:serviceaccount:a:robot", &[]),
                "RoleBinding \"team/a\" of ClusterRole \"reader\" to ServiceAccount \"robot/a\"",
            ),
            (
                user("joe", &[]),
                "RoleBinding \"mine/a\" of Role \"own\" to User \"joe\"",
            ),
        ] {
            let wanted = format!("RBAC: allowed by {wanted}");
            assert_eq!(index.allowed_by(&who, &attributes), Some(wanted));
        }
        assert_eq!(index.allowed_by(&user("jack", &[]), &attributes), None);
    }

    #[test]
    fn what_is_taken_back_ends_at_once_and_leaves_nothing() {
        let mut index = Index::default();
        index.set_role(role("", "reader"), Some(reads_pods()));
        let jane = user("jane", &["dev"]);
        let both = binding(
            ("ClusterRole", "reader"),
            &[("User", "jane"), ("Group", "dev")],
        );
        index.set_binding("a", "one", Some(both.clone()));
        index.set_binding("a", "two", Some(both));
        index.set_binding("a", "one", None);
        assert!(may(&index, &jane, Some("a")), "the other binding holds");
        index.set_binding("a", "two", Some(binding(("ClusterRole", "reader"), &[])));
        assert!(!may(&index, &jane, Some("a")));
        assert!(index.users.is_empty() && index.groups.is_empty());

        let again = binding(("ClusterRole", "reader"), &[("User", "jane")]);
        index.set_binding("", "three", Some(again));
        assert!(may(&index, &jane, None));
        index.clear_roles(true);
        assert!(may(&index, &jane, None), "ClusterRoles stay");
        index.clear_bindings(true);
        assert!(may(&index, &jane, None), "ClusterRoleBindings stay");
        index.set_role(role("", "reader"), None);
        assert!(
            !may(&index, &jane, None),
            "a role that is gone gives nothing"
        );
        index.clear_bindings(false);
        assert!(index.users.is_empty());
    }
}
