//! Putting a Pod on a node: the one way, for `POST pods/X/binding` and for our own scheduler (X10).
//! Source: kubernetes/kubernetes pkg/registry/core/pod/storage/storage.go, BindingREST.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ApiError, Causes, Object, Part, Registry, WriteOptions, kinds::PODS, meta, meta::metadata_mut,
};

/// Which node a Pod gets, and under which conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// The node.
    pub node: String,
    /// Only the Pod with this uid.
    pub uid: Option<String>,
    /// Only this version of the Pod.
    pub resource_version: Option<String>,
    /// Labels the Pod gets with it.
    pub labels: Vec<(String, String)>,
    /// Annotations the Pod gets with it.
    pub annotations: Vec<(String, String)>,
}

impl Binding {
    /// Reads a Binding (core/v1).
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when the target is no node; [`ApiError::BadRequest`] when the name is not that of the path.
    pub fn from_value(value: &Value, name: &str) -> Result<Self, ApiError> {
        let own = meta::text(value, "name");
        if !own.is_empty() && own != name {
            return Err(ApiError::BadRequest(format!(
                "name in URL does not match name in Binding object: {own}"
            )));
        }
        let text = |field: &str| value["target"][field].as_str().unwrap_or_default();
        let mut causes = Causes::default();
        if !matches!(text("kind"), "" | "Node") {
            causes.not_supported("target.kind", text("kind"), &["Node", "<empty>"]);
        }
        if text("name").is_empty() {
            causes.required("target.name", "");
        }
        if !causes.0.is_empty() {
            return Err(ApiError::Invalid {
                group: "",
                kind: "Binding",
                name: name.to_owned(),
                causes: causes.0,
            });
        }
        let given =
            |field: &str| Some(meta::text(value, field).to_owned()).filter(|text| !text.is_empty());
        Ok(Self {
            node: text("name").to_owned(),
            uid: given("uid"),
            resource_version: given("resourceVersion"),
            labels: pairs(&value["metadata"]["labels"]),
            annotations: pairs(&value["metadata"]["annotations"]),
        })
    }
}

fn pairs(map: &Value) -> Vec<(String, String)> {
    let pairs = map.as_object().into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

impl Registry {
    /// Sets the node of a Pod and `PodScheduled=True`, in one write.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] for a Pod that has a node, is going away, must not be scheduled yet, or is not the one meant;
    /// [`ApiError::NotFound`]; or the store's.
    pub async fn bind(
        &self,
        namespace: &str,
        name: &str,
        binding: &Binding,
        options: &WriteOptions,
    ) -> Result<Object, ApiError> {
        let now = meta::timestamp(Timestamp::now());
        let bound = self
            .modify(
                &PODS,
                Some(namespace),
                name,
                Part::Binding,
                options,
                |pod| {
                    if let Some(detail) = refusal(pod, name, binding) {
                        return Err(ApiError::Conflict {
                            kind: &PODS,
                            name: name.to_owned(),
                            detail,
                        });
                    }
                    assign(pod, binding, &now);
                    Ok(())
                },
            )
            .await?;
        tracing::debug!(
            namespace,
            pod = name,
            node = binding.node,
            revision = bound.revision().0,
            "bound"
        );
        Ok(bound)
    }
}

/// Why the Pod cannot be bound like this.
fn refusal(pod: &Value, name: &str, binding: &Binding) -> Option<String> {
    let uid = meta::text(pod, "uid");
    if let Some(wanted) = binding.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Some(format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        ));
    }
    if meta::is_terminating(pod) {
        return Some(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !node.is_empty() {
        return Some(format!("pod {name} is already assigned to node \"{node}\""));
    }
    let gates = pod["spec"]["schedulingGates"].as_array();
    gates
        .is_some_and(|gates| !gates.is_empty())
        .then(|| format!("pod {name} has non-empty .spec.schedulingGates"))
}

fn assign(pod: &mut Value, binding: &Binding, now: &str) {
    if let Some(version) = &binding.resource_version {
        metadata_mut(pod).insert("resourceVersion".into(), version.clone().into());
    }
    for (field, pairs) in [
        ("labels", &binding.labels),
        ("annotations", &binding.annotations),
    ] {
        for (key, value) in pairs {
            pod["metadata"][field][key] = value.clone().into();
        }
    }
    pod["spec"]["nodeName"] = binding.node.clone().into();
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
    pod["status"]["conditions"] = conditions.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_refused_for_what_it_is() {
        let to = |uid: Option<&str>| Binding {
            node: "n".into(),
            uid: uid.map(str::to_owned),
            ..Binding::default()
        };
        let pod = |metadata: Value, spec: Value| json!({"metadata": metadata, "spec": spec});
        let plain = || pod(json!({"uid": "u"}), json!({}));
        for (pod, binding, wanted) in [
            (plain(), to(None), None),
            (plain(), to(Some("u")), None),
            (plain(), to(Some("v")), Some("UID in precondition: v")),
            (
                pod(json!({}), json!({"nodeName": "m"})),
                to(None),
                Some("already assigned to node \"m\""),
            ),
            (
                pod(
                    json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
                    json!({}),
                ),
                to(None),
                Some("is being deleted"),
            ),
            (
                pod(json!({}), json!({"schedulingGates": [{"name": "g"}]})),
                to(None),
                Some("non-empty .spec.schedulingGates"),
            ),
        ] {
            let got = refusal(&pod, "p", &binding);
            match wanted {
                None => assert_eq!(got, None),
                Some(wanted) => assert!(
                    got.as_deref().is_some_and(|got| got.contains(wanted)),
                    "{got:?}"
                ),
            }
        }
    }

    #[test]
    fn a_binding_names_a_node() {
        let fields = |value: &Value| match Binding::from_value(value, "p") {
            Err(ApiError::Invalid { causes, .. }) => causes
                .into_iter()
                .map(|cause| cause.field)
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(fields(&json!({})), ["target.name"]);
        let machine = json!({"target": {"kind": "Machine", "name": "n"}});
        assert_eq!(fields(&machine), ["target.kind"]);
        let other = json!({"metadata": {"name": "q"}, "target": {"name": "n"}});
        let refused = Binding::from_value(&other, "p");
        assert!(
            matches!(refused, Err(ApiError::BadRequest(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn what_was_said_before_is_replaced() {
        let mut pod = json!({
            "metadata": {},
            "spec": {},
            "status": {"conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"},
                {"type": "other/one", "status": "True"},
            ]},
        });
        let binding = Binding {
            node: "n".into(),
            labels: vec![("a".into(), "b".into())],
            ..Binding::default()
        };
        assign(&mut pod, &binding, "now");
        let wanted = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"nodeName": "n"},
            "status": {"conditions": [
                {"type": "other/one", "status": "True"},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "now"},
            ]},
        });
        assert_eq!(pod, wanted);
    }
}
