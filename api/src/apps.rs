//! Group `apps`, version `v1`: the workloads whose controllers minik has.

use crate::core::{IntOrString, Json};
use crate::meta::{LabelSelector, ObjectMeta, Time};
use crate::wire::wire;

wire! {
    /// Pods of one template, replaced gradually when it changes.
    kind("apps", "v1", "Deployment", "deployments")
    pub struct Deployment {
        metadata: ObjectMeta,
        spec: DeploymentSpec,
        status: DeploymentStatus,
    }

    /// What the Deployment should be.
    pub struct DeploymentSpec {
        [always] {
            selector: LabelSelector,
            template: PodTemplate,
        }
        replicas: Option<i32>,
        strategy: DeploymentStrategy,
        min_ready_seconds: i32,
        revision_history_limit: Option<i32>,
        paused: bool,
        progress_deadline_seconds: Option<i32>,
    }

    /// How old Pods are replaced: `type` is `RollingUpdate` or `Recreate`.
    pub struct DeploymentStrategy {
        r#type: Box<str>,
        rolling_update: RollingUpdate,
    }

    /// How far a rolling update may leave the wanted number of Pods.
    pub struct RollingUpdate {
        max_unavailable: Option<IntOrString>,
        max_surge: Option<IntOrString>,
    }

    /// How far a Deployment is.
    pub struct DeploymentStatus {
        observed_generation: i64,
        replicas: i32,
        updated_replicas: i32,
        ready_replicas: i32,
        available_replicas: i32,
        unavailable_replicas: i32,
        terminating_replicas: Option<i32>,
        conditions: Vec<WorkloadCondition>,
        collision_count: Option<i32>,
    }

    /// A condition of a workload; `status` is `True`, `False` or `Unknown`. Only Deployments have `lastUpdateTime`.
    pub struct WorkloadCondition {
        [always] {
            r#type: Box<str>,
            status: Box<str>,
        }
        last_update_time: Option<Time>,
        last_transition_time: Option<Time>,
        reason: Box<str>,
        message: Box<str>,
    }

    /// A number of Pods of one template.
    kind("apps", "v1", "ReplicaSet", "replicasets")
    pub struct ReplicaSet {
        metadata: ObjectMeta,
        spec: ReplicaSetSpec,
        status: ReplicaSetStatus,
    }

    /// What the ReplicaSet should be.
    pub struct ReplicaSetSpec {
        [always] {
            selector: LabelSelector,
            template: PodTemplate,
        }
        replicas: Option<i32>,
        min_ready_seconds: i32,
    }

    /// How many Pods a ReplicaSet has.
    pub struct ReplicaSetStatus {
        [always] {
            replicas: i32,
        }
        fully_labeled_replicas: i32,
        ready_replicas: i32,
        available_replicas: i32,
        terminating_replicas: Option<i32>,
        observed_generation: i64,
        conditions: Vec<WorkloadCondition>,
    }

    /// A Pod of one template on every node that is fit for it.
    kind("apps", "v1", "DaemonSet", "daemonsets")
    pub struct DaemonSet {
        metadata: ObjectMeta,
        spec: DaemonSetSpec,
        status: DaemonSetStatus,
    }

    /// What the DaemonSet should be.
    pub struct DaemonSetSpec {
        [always] {
            selector: LabelSelector,
            template: PodTemplate,
        }
        update_strategy: DaemonSetUpdateStrategy,
        min_ready_seconds: i32,
        revision_history_limit: Option<i32>,
    }

    /// How old Pods are replaced: `type` is `RollingUpdate` or `OnDelete`.
    pub struct DaemonSetUpdateStrategy {
        r#type: Box<str>,
        rolling_update: RollingUpdate,
    }

    /// On how many nodes a DaemonSet runs.
    pub struct DaemonSetStatus {
        [always] {
            current_number_scheduled: i32,
            number_misscheduled: i32,
            desired_number_scheduled: i32,
            number_ready: i32,
        }
        observed_generation: i64,
        updated_number_scheduled: i32,
        number_available: i32,
        number_unavailable: i32,
        collision_count: Option<i32>,
        conditions: Vec<WorkloadCondition>,
    }

    /// A template as it once was.
    kind("apps", "v1", "ControllerRevision", "controllerrevisions")
    pub struct ControllerRevision {
        [always] {
            revision: i64,
        }
        metadata: ObjectMeta,
        data: Json,
    }

    /// The Pod a workload makes. Its spec is passed on as it is.
    pub struct PodTemplate {
        [always] {
            metadata: ObjectMeta,
            spec: Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_keeps_what_no_slim_struct_knows() {
        let text =
            r#"{"metadata":{"labels":{"a":"b"}},"spec":{"new":{"field":[1]},"containers":[]}}"#;
        let template: PodTemplate = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&template).unwrap(), text);
    }
}
