//! The default roles over a store in memory.

use serde_json::{Value, json};

use super::*;
use crate::{
    auth::{AUTHENTICATED, Attributes, MASTERS, User},
    registry::Context,
    store::{EmbeddedStore, engine::MemoryEngine},
};

struct Cluster {
    registry: Registry,
    rbac: Arc<Rbac>,
    _tasks: JoinSet<()>,
}

fn registry() -> Registry {
    let store = EmbeddedStore::with_engine(MemoryEngine::default(), None).unwrap();
    Registry::new(Arc::new(store), Context::default())
}

impl Cluster {
    async fn start(registry: Registry) -> Self {
        ensure_defaults(&registry).await.unwrap();
        let rbac = Arc::<Rbac>::default();
        let tasks = start(&registry, rbac.clone(), CancellationToken::new()).await;
        Self {
            registry,
            rbac,
            _tasks: tasks,
        }
    }

    async fn create(&self, kind: &'static Kind, value: Value) {
        let options = WriteOptions::default();
        let created = self.registry.create(kind, None, value, &options).await;
        created.unwrap();
    }

    fn may(&self, user: &User, verb: &str, group: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            verb,
            group,
            resource,
            subresource,
            name: Some("a"),
            namespace: Some("default"),
            ..Attributes::default()
        };
        self.rbac.allowed_by(user, &attributes).is_some()
    }

    async fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let asking = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        let within = Duration::from_secs(20);
        let answer = tokio::time::timeout(within, asking).await;
        assert!(answer.is_ok(), "{what}: not within {within:?}");
    }
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.into(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        ..User::default()
    }
}

fn bound(role: &str) -> Value {
    json!({
        "metadata": {"name": format!("{role}s")},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": role}],
    })
}

#[tokio::test]
async fn u7_the_default_roles_allow_what_upstreams_do() {
    let cluster = Cluster::start(registry()).await;
    for role in ["view", "edit", "admin", "cluster-admin"] {
        cluster.create(&CLUSTER_ROLE_BINDINGS, bound(role)).await;
    }
    let view = user("view", &[]);
    cluster
        .eventually("the bindings hold", || {
            cluster.may(&view, "get", "", "pods")
                && cluster.may(&user("cluster-admin", &[]), "get", "", "pods")
                && cluster.may(&user("admin", &[]), "get", "", "pods")
        })
        .await;
    /// Verb, group, resource; allowed to view, edit, admin, cluster-admin.
    type Case = (&'static str, &'static str, &'static str, [bool; 4]);
    let cases: &[Case] = &[
        ("get", "", "pods", [true; 4]),
        ("get", "", "pods/log", [true; 4]),
        ("list", "", "services", [true; 4]),
        ("list", "discovery.k8s.io", "endpointslices", [true; 4]),
        ("get", "", "secrets", [false, true, true, true]),
        ("create", "", "services", [false, true, true, true]),
        ("create", "", "pods/exec", [false, true, true, true]),
        (
            "create",
            "",
            "serviceaccounts/token",
            [false, true, true, true],
        ),
        ("update", "", "endpoints", [false, false, false, true]),
        (
            "create",
            "discovery.k8s.io",
            "endpointslices",
            [false, false, false, true],
        ),
        (
            "create",
            "rbac.authorization.k8s.io",
            "rolebindings",
            [false, false, true, true],
        ),
        (
            "create",
            "rbac.authorization.k8s.io",
            "clusterroles",
            [false, false, false, true],
        ),
        ("get", "", "nodes", [false, false, false, true]),
    ];
    for (verb, group, resource, wanted) in cases {
        let users = ["view", "edit", "admin", "cluster-admin"];
        let got = users.map(|name| cluster.may(&user(name, &[]), verb, group, resource));
        assert_eq!(got, *wanted, "{verb} {group} {resource}");
    }
    let everybody = user("jane", &[AUTHENTICATED]);
    assert!(cluster.may(
        &everybody,
        "create",
        "authorization.k8s.io",
        "selfsubjectaccessreviews"
    ));
    assert!(!cluster.may(&everybody, "get", "", "pods"));
    assert!(cluster.may(&user("x", &[MASTERS]), "delete", "", "nodes"));
}

/// Whoever writes Endpoints sends the clients of a Service anywhere, past what network policies say of himself.
#[tokio::test]
async fn cve_2021_25740_edit_and_admin_write_neither_endpoints_nor_slices() {
    let cluster = Cluster::start(registry()).await;
    let roles = ["view", "edit", "admin"];
    for role in roles {
        cluster.create(&CLUSTER_ROLE_BINDINGS, bound(role)).await;
    }
    cluster
        .eventually("the bindings hold", || {
            let holds = |role| cluster.may(&user(role, &[]), "get", "", "endpoints");
            roles.into_iter().all(holds)
        })
        .await;
    for role in roles {
        let may = |verb, group, resource| cluster.may(&user(role, &[]), verb, group, resource);
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            assert!(!may(verb, "", "endpoints"), "{role} {verb}");
            let slices = may(verb, "discovery.k8s.io", "endpointslices");
            assert!(!slices, "{role} {verb}");
            assert!(!may(verb, "", "services/status"), "{role} {verb}");
            assert!(!may(verb, "", "pods/status"), "{role} {verb}");
            assert!(!may(verb, "", "nodes"), "{role} {verb}");
        }
    }
}

#[tokio::test]
async fn u7_a_labelled_role_adds_its_rules_to_view_edit_and_admin() {
    let cluster = Cluster::start(registry()).await;
    cluster.create(&CLUSTER_ROLE_BINDINGS, bound("admin")).await;
    let admin = user("admin", &[]);
    let more = json!({
        "metadata": {
            "name": "gizmos",
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
        },
        "rules": [{"verbs": ["get"], "apiGroups": ["x.y"], "resources": ["gizmos"]}],
    });
    cluster.create(&CLUSTER_ROLES, more).await;
    cluster
        .eventually("view, edit and then admin gain it", || {
            cluster.may(&admin, "get", "x.y", "gizmos")
        })
        .await;
    let options = crate::registry::DeleteOptions::default();
    let registry = &cluster.registry;
    let deleted = registry.delete(&CLUSTER_ROLES, None, "gizmos", &options);
    deleted.await.unwrap();
    cluster
        .eventually("and lose it", || {
            !cluster.may(&admin, "get", "x.y", "gizmos")
        })
        .await;
}

#[tokio::test]
async fn a_start_gives_back_what_was_taken_and_keeps_what_was_added() {
    let registry = registry();
    ensure_defaults(&registry).await.unwrap();
    let options = WriteOptions::default();
    let modify = async |kind, name, change: fn(&mut Value)| {
        let change = |value: &mut Value| {
            change(value);
            Ok(())
        };
        let modified = registry.modify(kind, None, name, Part::Main, &options, change);
        modified.await.unwrap();
    };
    modify(&CLUSTER_ROLES, "system:basic-user", |role| {
        role["rules"] = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}]);
    })
    .await;
    modify(&CLUSTER_ROLES, "system:discovery", |role| {
        role["metadata"]["annotations"][defaults::AUTOUPDATE] = json!("false");
        role["rules"] = json!([]);
    })
    .await;
    modify(&CLUSTER_ROLE_BINDINGS, "system:basic-user", |binding| {
        binding["subjects"] = json!([]);
    })
    .await;
    let cluster = Cluster::start(registry.clone()).await;
    let jane = user("jane", &[AUTHENTICATED]);
    assert!(cluster.may(
        &jane,
        "create",
        "authorization.k8s.io",
        "selfsubjectaccessreviews"
    ));
    assert!(cluster.may(&jane, "get", "", "nodes"), "what was added");
    let path = Attributes {
        verb: "get",
        path: "/api",
        ..Attributes::default()
    };
    assert!(
        cluster.rbac.allowed_by(&jane, &path).is_none(),
        "left alone as asked for"
    );

    let before = registry.backend().current();
    ensure_defaults(&registry).await.unwrap();
    assert_eq!(registry.backend().current(), before, "nothing to write");
}
