//! Events about Pods: why a container does not run or is not ready, where `kubectl describe pod` shows it.

mod ledger;
mod teller;

use api::core::{ContainerStatus, Pod, PodStatus};
use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) use teller::Teller;

/// What is on its way, and needs nobody's attention.
const ON_ITS_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// A reason for which a container waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    container: String,
    reason: String,
    message: String,
}

/// The reasons that `new` has and `old` had not: each is told once, however often the container is tried again.
pub(super) fn news(old: &PodStatus, new: &PodStatus) -> Vec<News> {
    let before: Vec<_> = containers(old).filter_map(waiting).collect();
    containers(new)
        .filter_map(waiting)
        .filter(|news| !before.contains(news))
        .collect()
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
}

fn waiting(container: &ContainerStatus) -> Option<News> {
    let waiting = container.state.waiting.as_ref()?;
    (!ON_ITS_WAY.contains(&&*waiting.reason)).then(|| News {
        container: container.name.to_string(),
        reason: waiting.reason.to_string(),
        message: waiting.message.to_string(),
    })
}

impl News {
    /// As it is told.
    pub(super) fn event(&self) -> Happening {
        Happening {
            container: self.container.clone(),
            r#type: "Warning",
            reason: self.reason.clone(),
            message: format!("container {}: {}", self.container, self.message),
        }
    }
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Happening {
    pub(super) container: String,
    pub(super) r#type: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Happening {
    /// The Event object for it.
    pub(super) fn object(&self, pod: &Pod, node: &str) -> Value {
        let (metadata, now) = (&pod.metadata, time(Timestamp::now()));
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "generateName": format!("{}.", metadata.name), "namespace": metadata.namespace },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "fieldPath": format!("spec.containers{{{}}}", self.container),
            },
            "type": self.r#type,
            "reason": self.reason,
            "message": self.message,
            "source": { "component": "minik-agent", "host": node },
            "reportingComponent": "minik-agent",
            "reportingInstance": node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        })
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(containers: &Value) -> PodStatus {
        let status = json!({ "containerStatuses": containers });
        serde_json::from_value(status).expect("a status")
    }

    fn waits(name: &str, reason: &str, message: &str) -> Value {
        json!({ "name": name, "state": { "waiting": { "reason": reason, "message": message } } })
    }

    #[test]
    fn each_reason_is_told_once_and_progress_never() {
        let creating = status(&json!([waits("a", "ContainerCreating", "")]));
        let missing = status(&json!([waits("a", "ErrImagePull", "no such image")]));
        let other = status(&json!([waits("a", "RunContainerError", "no such program")]));
        let running = status(&json!([{ "name": "a", "state": { "running": {} } }]));
        assert_eq!(news(&PodStatus::default(), &creating), []);
        let told = news(&creating, &missing);
        assert_eq!(told.len(), 1);
        assert_eq!(
            (&*told[0].reason, &*told[0].message),
            ("ErrImagePull", "no such image")
        );
        assert_eq!(news(&missing, &missing), []);
        assert_eq!(news(&missing, &other).len(), 1);
        assert_eq!(news(&other, &running), []);
    }

    #[test]
    fn an_event_names_the_pod_the_container_and_the_node() {
        let mut pod = Pod::default();
        (pod.metadata.name, pod.metadata.namespace) = ("p".into(), "n".into());
        let missing = status(&json!([waits("a", "ErrImagePull", "no such image")]));
        let told = news(&PodStatus::default(), &missing);
        let event = told[0].event().object(&pod, "node1");
        assert_eq!(event["involvedObject"]["name"], "p");
        assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{a}");
        assert_eq!(event["message"], "container a: no such image");
        assert_eq!(event["source"]["host"], "node1");
    }
}
