//! The roles and bindings every cluster has.
//! Source: kubernetes/kubernetes plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go. Roles of components that minik
//! does not have are left out, and `system:node`: nodes have an authorizer of their own.

use api::{
    meta::{LabelSelector, ObjectMeta, StringMap},
    rbac::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject},
};

use crate::{
    auth::{AUTHENTICATED, MASTERS, UNAUTHENTICATED},
    registry::kinds::rbac::GROUP,
};

/// Set to `false` on a default role or binding, it is left alone at the next start.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");

/// API group (a dash is the core one), resources, verbs; words are separated by spaces.
type Row = (&'static str, &'static str, &'static str);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

const VIEW: &[Row] = &[
    (
        "-",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
         replicationcontrollers/scale serviceaccounts services services/status",
        READ,
    ),
    (
        "-",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
         resourcequotas resourcequotas/status",
        READ,
    ),
    ("-", "namespaces", READ),
    ("discovery.k8s.io", "endpointslices", READ),
    (
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
        READ,
    ),
    (
        "autoscaling",
        "horizontalpodautoscalers horizontalpodautoscalers/status",
        READ,
    ),
    ("batch", "cronjobs cronjobs/status jobs jobs/status", READ),
    (
        "policy",
        "poddisruptionbudgets poddisruptionbudgets/status",
        READ,
    ),
    (
        "networking.k8s.io",
        "ingresses ingresses/status networkpolicies",
        READ,
    ),
];

/// Endpoints and EndpointSlices are not among it: who writes them sends a Service's clients anywhere (CVE-2021-25740).
const EDIT: &[Row] = &[
    (
        "-",
        "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy",
        READ,
    ),
    ("-", "serviceaccounts", "impersonate"),
    (
        "-",
        "pods pods/attach pods/exec pods/portforward pods/proxy",
        WRITE,
    ),
    ("-", "pods/eviction", "create"),
    (
        "-",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
        WRITE,
    ),
    ("-", "serviceaccounts/token", "create"),
    (
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
        WRITE,
    ),
    ("autoscaling", "horizontalpodautoscalers", WRITE),
    ("batch", "cronjobs jobs", WRITE),
    ("policy", "poddisruptionbudgets", WRITE),
    ("networking.k8s.io", "ingresses networkpolicies", WRITE),
    ("coordination.k8s.io", "leases", ALL),
];

const ADMIN: &[Row] = &[
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "create",
    ),
    ("rbac.authorization.k8s.io", "rolebindings roles", ALL),
];

const BASIC_USER: &[Row] = &[
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews selfsubjectrulesreviews",
        "create",
    ),
    ("authentication.k8s.io", "selfsubjectreviews", "create"),
];

const AUTH_DELEGATOR: &[Row] = &[
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
];

/// Name, rows, paths that may be read, and the role into which it is aggregated.
const ROLES: &[(&str, &[Row], &str, Option<&str>)] = &[
    ("system:aggregate-to-view", VIEW, "", Some("view")),
    ("system:aggregate-to-edit", EDIT, "", Some("edit")),
    ("system:aggregate-to-admin", ADMIN, "", Some("admin")),
    (
        "system:discovery",
        &[],
        "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
        None,
    ),
    ("system:basic-user", BASIC_USER, "", None),
    (
        "system:public-info-viewer",
        &[],
        "/healthz /livez /readyz /version /version/",
        None,
    ),
    (
        "system:monitoring",
        &[],
        "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*",
        None,
    ),
    ("system:auth-delegator", AUTH_DELEGATOR, "", None),
    (
        "system:service-account-issuer-discovery",
        &[],
        "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        None,
    ),
];

/// A ClusterRole and the label of the role whose rules it has besides its own.
const AGGREGATED: &[(&str, Option<&str>)] = &[
    ("view", Some("edit")),
    ("edit", Some("admin")),
    ("admin", None),
];

/// The ClusterRole, and the groups that have it everywhere.
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &[MASTERS]),
    ("system:discovery", &[AUTHENTICATED]),
    ("system:basic-user", &[AUTHENTICATED]),
    (
        "system:public-info-viewer",
        &[AUTHENTICATED, UNAUTHENTICATED],
    ),
    ("system:monitoring", &["system:monitoring"]),
    (
        "system:service-account-issuer-discovery",
        &["system:serviceaccounts"],
    ),
];

fn words(text: &str) -> Vec<Box<str>> {
    let words = text.split_whitespace();
    words
        .map(|word| Box::from(if word == "-" { "" } else { word }))
        .collect()
}

fn aggregate_to(role: &str) -> (Box<str>, Box<str>) {
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
    (label.into(), "true".into())
}

fn metadata(name: &str, aggregated_to: Option<&str>) -> ObjectMeta {
    let mut labels = StringMap::from([(BOOTSTRAPPING.0.into(), BOOTSTRAPPING.1.into())]);
    labels.extend(aggregated_to.map(aggregate_to));
    ObjectMeta {
        name: name.into(),
        labels,
        annotations: [(AUTOUPDATE.into(), "true".into())].into(),
        ..ObjectMeta::default()
    }
}

/// The ClusterRoles.
pub(super) fn roles() -> Vec<ClusterRole> {
    let everything = vec![
        PolicyRule {
            verbs: words("*"),
            api_groups: words("*"),
            resources: words("*"),
            ..PolicyRule::default()
        },
        PolicyRule {
            verbs: words("*"),
            non_resource_urls: words("*"),
            ..PolicyRule::default()
        },
    ];
    let mut roles = vec![ClusterRole {
        metadata: metadata("cluster-admin", None),
        rules: everything,
        aggregation_rule: None,
    }];
    for (name, rows, paths, aggregated_to) in ROLES {
        let rules = rows.iter().map(|(group, resources, verbs)| PolicyRule {
            verbs: words(verbs),
            api_groups: words(group),
            resources: words(resources),
            ..PolicyRule::default()
        });
        let paths = (!paths.is_empty()).then(|| PolicyRule {
            verbs: words("get"),
            non_resource_urls: words(paths),
            ..PolicyRule::default()
        });
        roles.push(ClusterRole {
            metadata: metadata(name, *aggregated_to),
            rules: rules.chain(paths).collect(),
            aggregation_rule: None,
        });
    }
    for (name, aggregated_to) in AGGREGATED {
        let selector = LabelSelector {
            match_labels: [aggregate_to(name)].into(),
            ..LabelSelector::default()
        };
        roles.push(ClusterRole {
            metadata: metadata(name, *aggregated_to),
            rules: Vec::new(),
            aggregation_rule: Some(AggregationRule {
                cluster_role_selectors: vec![selector],
            }),
        });
    }
    roles
}

/// The ClusterRoleBindings.
pub(super) fn bindings() -> Vec<ClusterRoleBinding> {
    let binding = |&(role, groups): &(&str, &[&str])| ClusterRoleBinding {
        metadata: metadata(role, None),
        subjects: groups
            .iter()
            .map(|&group| Subject {
                kind: "Group".into(),
                name: group.into(),
                api_group: GROUP.into(),
                ..Subject::default()
            })
            .collect(),
        role_ref: RoleRef {
            api_group: GROUP.into(),
            kind: "ClusterRole".into(),
            name: role.into(),
        },
    };
    BINDINGS.iter().map(binding).collect()
}
