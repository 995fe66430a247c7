//! What a node may say in the objects it writes: the names of its own Node and Lease, no Pod range, no labels or taints that
//! are for others to give. All of it stands in the body, where [the authorizer](super) does not look.
//! Source: kubernetes/kubernetes plugin/pkg/admission/noderestriction; KEP-279 (limit node access).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    auth::{
        User,
        service_account::{claims::Claims, request::Spec},
    },
    registry::{
        ApiError, Kind, Registry,
        kinds::{LEASES, NODES, PODS, SERVICE_ACCOUNTS, items, text_at},
        meta,
    },
};

/// The labels of Kubernetes' own domains that a node gives itself.
const LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// The domains of which a node gives itself any label.
const LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels by which Pods are kept away from nodes that were taken over.
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

/// Refuses what a node may not create: another node's Node or Lease, and what it may not make of its own.
///
/// # Errors
/// [`ApiError::Forbidden`].
pub fn check_create(user: &User, kind: &'static Kind, object: &Value) -> Result<(), ApiError> {
    let Some(node) = user.node() else {
        return Ok(());
    };
    if (*kind == NODES || *kind == LEASES) && meta::text(object, "name") != node {
        let why = format!("node {node} may create its own object only, by its name");
        return Err(refused(user, "create", kind, object, &why));
    }
    if *kind == NODES {
        check_node(user, "create", &Value::Null, object)?;
    }
    Ok(())
}

/// Refuses what a node may not change: of its Node the Pod range, the taints, labels that are for others to give, and its
/// owners; of its Pods the labels, by which Services find them.
///
/// # Errors
/// [`ApiError::Forbidden`].
pub fn check_change(
    user: &User,
    kind: &'static Kind,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    if user.node().is_none() {
        return Ok(());
    }
    let refused = |why: &str| Err(refused(user, "update", kind, new, why));
    if *kind == PODS && old["metadata"]["labels"] != new["metadata"]["labels"] {
        return refused("metadata.labels of a Pod are not the node's to change");
    }
    if *kind != NODES {
        return Ok(());
    }
    // What a controller has added meanwhile may be missing, nothing may be new or other.
    if old["spec"]["taints"] != new["spec"]["taints"] {
        return refused("spec.taints are not the node's to change once it is registered");
    }
    check_node(user, "update", old, new)
}

fn check_node(user: &User, verb: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
    let refused = |why: &str| Err(refused(user, verb, &NODES, new, why));
    for field in ["podCIDR", "podCIDRs"] {
        if old["spec"][field] != new["spec"][field] {
            let why = format!("spec.{field} is given out by the server: leave it as it is");
            return refused(&why);
        }
    }
    if old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
        return refused("metadata.ownerReferences are not the node's to change");
    }
    if let Some(label) = changed_labels(old, new).find(|label| !may_label(label)) {
        let why = format!(
            "metadata.labels: {label:?} is not the node's to give: an administrator sets it with kubectl label"
        );
        return refused(&why);
    }
    Ok(())
}

/// The labels that one of two objects has and the other has not, or not so.
fn changed_labels<'a>(old: &'a Value, new: &'a Value) -> impl Iterator<Item = &'a str> {
    let labels = |object: &'a Value| object["metadata"]["labels"].as_object();
    let keys = [labels(old), labels(new)].into_iter().flatten();
    let keys: BTreeSet<&str> = keys
        .flat_map(|labels| labels.keys().map(String::as_str))
        .collect();
    keys.into_iter().filter(move |key| {
        let value = |object: &'a Value| labels(object).and_then(|labels| labels.get(*key));
        value(old) != value(new)
    })
}

/// Whether a node may give itself this label: any outside of Kubernetes' domains, and some inside.
fn may_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return true;
    };
    let below = |parent: &str| {
        domain
            .strip_suffix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if below(RESTRICTED_DOMAIN) {
        return false;
    }
    let foreign = !below("kubernetes.io") && !below("k8s.io");
    foreign || LABELS.contains(&label) || LABEL_DOMAINS.iter().any(|domain| below(domain))
}

/// Refuses a node the token of an account, unless it is for one of the node's own Pods, which ends it, and for an audience
/// that this Pod wants a token for.
///
/// # Errors
/// [`ApiError::Forbidden`], or the store's.
pub async fn check_token(
    user: &User,
    registry: &Registry,
    spec: &Spec,
    claims: &Claims,
) -> Result<(), ApiError> {
    let Some(node) = user.node() else {
        return Ok(());
    };
    let account = serde_json::json!({"metadata": {"name": claims.kubernetes.serviceaccount.name}});
    let refused = |why: &str| Err(refused(user, "create", &SERVICE_ACCOUNTS, &account, why));
    let Some(pod) = &claims.kubernetes.pod else {
        return refused("node requested token not bound to a pod");
    };
    let named = spec.bound_object_ref.as_ref();
    if named.is_none_or(|named| named.uid.is_empty()) {
        return refused("node requested token with a pod binding without a uid");
    }
    let namespace = Some(claims.kubernetes.namespace.as_str());
    let pod = registry.get(&PODS, namespace, &pod.name).await?.value();
    if text_at(&pod, &["spec", "nodeName"]) != node {
        return refused("node requested token bound to a pod scheduled on a different node");
    }
    let volumes = items(&pod["spec"]["volumes"]).iter();
    let sources = volumes.flat_map(|volume| items(&volume["projected"]["sources"]));
    let audiences: BTreeSet<&str> = sources
        .filter_map(|source| source.get("serviceAccountToken"))
        .map(|token| text_at(token, &["audience"]))
        .collect();
    // None is the API's, which a Pod may not want either.
    let asked = spec.audiences.iter().map(String::as_str);
    let mut asked = asked.chain(spec.audiences.is_empty().then_some(""));
    match asked.find(|audience| !audiences.contains(audience)) {
        None => Ok(()),
        Some(audience) => refused(&format!(
            "audience {audience:?} is not that of a volume of the pod"
        )),
    }
}

fn refused(user: &User, verb: &str, kind: &'static Kind, object: &Value, why: &str) -> ApiError {
    let name = meta::text(object, "name");
    ApiError::Forbidden {
        message: format!(
            "{} \"{name}\" is forbidden: User \"{}\" cannot {verb} resource \"{}\" in API group \"{}\": {why}",
            kind.resource(),
            user.name,
            kind.plural,
            kind.group,
        ),
        resource: kind.plural.to_owned(),
        group: kind.group.to_owned(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_label_themselves_within_bounds() {
        for (label, wanted) in [
            ("zone", true),
            ("acme.com/rack", true),
            ("minik.dev/size", true),
            ("notkubernetes.io/a", true),
            ("kubernetes.io/hostname", true),
            ("topology.kubernetes.io/zone", true),
            ("node.kubernetes.io/anything", true),
            ("sub.kubelet.kubernetes.io/a", true),
            ("kubernetes.io/role", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("node-restriction.kubernetes.io/fips", false),
            ("a.node-restriction.kubernetes.io/fips", false),
            ("any.k8s.io/a", false),
        ] {
            assert_eq!(may_label(label), wanted, "{label}");
        }
    }
}
