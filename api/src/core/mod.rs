//! The core group, version `v1`: the fields minik reasons about.

mod affinity;
mod config;
mod container;
mod endpoints;
mod event;
mod node;
mod pod;
mod probe;
mod reference;
mod security;
mod service;
mod value;
mod volume;

pub use affinity::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorTerm, PodAffinity, PodAffinityTerm,
    PreferredSchedulingTerm, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
pub use config::{
    ConfigMap, Namespace, NamespaceCondition, NamespaceSpec, NamespaceStatus, Secret,
    ServiceAccount,
};
pub use container::{
    ConfigMapEnvSource, Container, ContainerPort, ContainerState, ContainerStateRunning,
    ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, EnvFromSource, EnvVar,
    EnvVarSource, KeySelector, ObjectFieldSelector, ResourceFieldSelector, ResourceRequirements,
    VolumeMount,
};
pub use endpoints::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
pub use event::{Event, EventSeries, EventSource};
pub use node::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint};
pub use pod::{
    HostAlias, HostIp, Pod, PodCondition, PodDnsConfig, PodDnsConfigOption, PodIp,
    PodReadinessGate, PodSchedulingGate, PodSpec, PodStatus, PodTemplateSpec, Toleration,
};
pub use probe::{
    ExecAction, GrpcAction, HttpGetAction, HttpHeader, Lifecycle, LifecycleHandler, Probe,
    SleepAction, TcpSocketAction,
};
pub use reference::{LocalObjectReference, ObjectReference, TypedLocalObjectReference};
pub use security::{Capabilities, PodSecurityContext, SecurityContext, Sysctl};
pub use service::{
    ClientIpConfig, LoadBalancerIngress, LoadBalancerStatus, PortStatus, Service, ServicePort,
    ServiceSpec, ServiceStatus, SessionAffinityConfig,
};
pub use value::{Base64, IntOrString, Json};
pub use volume::{
    ConfigMapVolumeSource, DownwardApiProjection, DownwardApiVolumeFile, DownwardApiVolumeSource,
    EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, KeysProjection, ProjectedVolumeSource,
    SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
