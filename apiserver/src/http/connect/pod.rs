//! The Pod, the container and the node that a connection is about.

use api::{
    core::{ContainerStatus, Pod},
    tunnel::PodRef,
};

use super::super::{Call, route::Target};
use crate::registry::{ApiError, kinds::PODS};

/// Names the container that is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

pub(super) async fn read(call: &Call, target: &Target) -> Result<Pod, ApiError> {
    let registry = &call.state.registry;
    let name = target.object_name();
    registry.get(&PODS, target.scope(), name).await?.decode()
}

pub(super) fn reference(pod: &Pod) -> PodRef {
    PodRef {
        namespace: pod.metadata.namespace.to_string(),
        name: pod.metadata.name.to_string(),
        uid: pod.metadata.uid.to_string(),
    }
}

/// The container that is meant: the one named, the one the Pod says is meant, or the only one.
pub(super) fn container<'a>(pod: &'a Pod, named: Option<&str>) -> Result<&'a str, ApiError> {
    let name = &pod.metadata.name;
    let containers = || pod.spec.containers.iter();
    let names = || containers().map(|container| &*container.name);
    let by_default = || pod.metadata.annotations.get(DEFAULT_CONTAINER);
    if let Some(named) = named {
        let all = names().chain(pod.spec.init_containers.iter().map(|init| &*init.name));
        let found = all.into_iter().find(|container| *container == named);
        return found.ok_or_else(|| {
            ApiError::BadRequest(format!("container {named} is not valid for pod {name}"))
        });
    }
    if let Some(container) =
        names().find(|name| by_default().is_some_and(|meant| **meant == **name))
    {
        return Ok(container);
    }
    match pod.spec.containers.as_slice() {
        [only] => Ok(&only.name),
        _ => {
            let names: Vec<&str> = names().collect();
            Err(ApiError::BadRequest(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                names.join(" ")
            )))
        }
    }
}

/// What the node last said about a container.
pub(super) fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.container_statuses.iter();
    statuses
        .chain(&pod.status.init_container_statuses)
        .find(|status| &*status.name == container)
}

/// The node whose agent runs the Pod.
pub(super) fn node(pod: &Pod) -> Result<&str, ApiError> {
    if pod.spec.node_name.is_empty() {
        let name = &pod.metadata.name;
        return Err(ApiError::BadRequest(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    Ok(&pod.spec.node_name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: &[&str], annotations: Value) -> Pod {
        let containers: Vec<_> = containers
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        let pod = json!({
            "metadata": {"name": "p", "annotations": annotations},
            "spec": {"containers": containers, "initContainers": [{"name": "init"}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn s1_the_container_is_the_one_named_the_one_annotated_or_the_only_one() {
        let annotated = json!({DEFAULT_CONTAINER: "b"});
        let cases = [
            (pod(&["a"], json!({})), None, Ok("a")),
            (pod(&["a", "b"], annotated.clone()), None, Ok("b")),
            (pod(&["a", "b"], annotated), Some("a"), Ok("a")),
            (pod(&["a"], json!({})), Some("init"), Ok("init")),
            (
                pod(&["a", "b"], json!({})),
                None,
                Err("a container name must be specified for pod p, choose one of: [a b]"),
            ),
            (
                pod(&["a", "b"], json!({DEFAULT_CONTAINER: "gone"})),
                None,
                Err("a container name must be specified for pod p, choose one of: [a b]"),
            ),
            (
                pod(&["a"], json!({})),
                Some("x"),
                Err("container x is not valid for pod p"),
            ),
        ];
        for (pod, named, wanted) in cases {
            let got = container(&pod, named).map_err(|error| error.to_string());
            let got = got.as_ref().map(|name| *name).map_err(String::as_str);
            assert_eq!(got, wanted);
        }
    }
}
