//! Containers of a Pod, and how they fare.

use std::collections::BTreeMap;

use super::{Lifecycle, Probe, SecurityContext};
use crate::meta::Time;
use crate::quantity::Quantity;
use crate::wire::wire;

wire! {
    /// One container. What few containers have is boxed.
    pub struct Container {
        [always] {
            name: Box<str>,
        }
        image: Box<str>,
        command: Vec<Box<str>>,
        args: Vec<Box<str>>,
        working_dir: Box<str>,
        ports: Vec<ContainerPort>,
        env_from: Vec<EnvFromSource>,
        env: Vec<EnvVar>,
        resources: ResourceRequirements,
        restart_policy: Option<Box<str>>,
        volume_mounts: Vec<VolumeMount>,
        liveness_probe: Option<Box<Probe>>,
        readiness_probe: Option<Box<Probe>>,
        startup_probe: Option<Box<Probe>>,
        lifecycle: Option<Box<Lifecycle>>,
        termination_message_path: Box<str>,
        termination_message_policy: Box<str>,
        image_pull_policy: Box<str>,
        security_context: Option<SecurityContext>,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
    }

    /// A port the container listens on; Services may refer to it by name.
    pub struct ContainerPort {
        [always] {
            container_port: i32,
        }
        name: Box<str>,
        host_port: i32,
        protocol: Box<str>,
        #[serde(rename = "hostIP")] host_ip: Box<str>,
    }

    /// A variable of the environment.
    pub struct EnvVar {
        [always] {
            name: Box<str>,
        }
        value: Box<str>,
        value_from: Option<EnvVarSource>,
    }

    /// Where a variable's value comes from: exactly one is set.
    pub struct EnvVarSource {
        field_ref: Option<ObjectFieldSelector>,
        resource_field_ref: Option<ResourceFieldSelector>,
        config_map_key_ref: Option<KeySelector>,
        secret_key_ref: Option<KeySelector>,
    }

    /// A field of the Pod.
    pub struct ObjectFieldSelector {
        [always] {
            field_path: Box<str>,
        }
        api_version: Box<str>,
    }

    /// A resource of a container, such as `limits.memory`.
    pub struct ResourceFieldSelector {
        [always] {
            resource: Box<str>,
        }
        container_name: Box<str>,
        divisor: Option<Quantity>,
    }

    /// A key of a ConfigMap or a Secret.
    pub struct KeySelector {
        [always] {
            key: Box<str>,
        }
        name: Box<str>,
        optional: Option<bool>,
    }

    /// Variables from every key of a ConfigMap or a Secret.
    pub struct EnvFromSource {
        prefix: Box<str>,
        config_map_ref: Option<ConfigMapEnvSource>,
        secret_ref: Option<ConfigMapEnvSource>,
    }

    /// The ConfigMap or Secret of an [`EnvFromSource`]; the two have the same fields.
    pub struct ConfigMapEnvSource {
        name: Box<str>,
        optional: Option<bool>,
    }

    /// What the container needs and may use.
    pub struct ResourceRequirements {
        limits: BTreeMap<Box<str>, Quantity>,
        requests: BTreeMap<Box<str>, Quantity>,
    }

    /// Where a volume of the Pod appears in the container.
    pub struct VolumeMount {
        [always] {
            name: Box<str>,
            mount_path: Box<str>,
        }
        read_only: bool,
        sub_path: Box<str>,
        mount_propagation: Option<Box<str>>,
        sub_path_expr: Box<str>,
    }

    /// How a container fares.
    pub struct ContainerStatus {
        [always] {
            name: Box<str>,
            state: ContainerState,
            last_state: ContainerState,
            ready: bool,
            restart_count: i32,
            image: Box<str>,
            #[serde(rename = "imageID")] image_id: Box<str>,
        }
        #[serde(rename = "containerID")] container_id: Box<str>,
        started: Option<bool>,
    }

    /// What a container does: at most one is set.
    pub struct ContainerState {
        waiting: Option<ContainerStateWaiting>,
        running: Option<ContainerStateRunning>,
        terminated: Option<ContainerStateTerminated>,
    }

    /// Not running yet, or not again yet.
    pub struct ContainerStateWaiting {
        reason: Box<str>,
        message: Box<str>,
    }

    /// Running.
    pub struct ContainerStateRunning {
        started_at: Option<Time>,
    }

    /// Ended.
    pub struct ContainerStateTerminated {
        [always] {
            exit_code: i32,
        }
        signal: i32,
        reason: Box<str>,
        message: Box<str>,
        started_at: Option<Time>,
        finished_at: Option<Time>,
        #[serde(rename = "containerID")] container_id: Box<str>,
    }
}
