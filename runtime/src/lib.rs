//! Pod sandboxes: namespaces, containers, the shim that outlives the agent. Knows no API objects.
//!
//! ```text
//! agent --- Runtime, Pod ---(SOCK_SEQPACKET)--- shim (one small process per Pod)
//!                                                |  holds the Pod's net, ipc and uts namespaces
//!                                                |  owns stdio, logs, exit codes
//!                                                +-- container, container, ...
//! ```
//!
//! The shim is this very binary, run again as `minik shim DIR`: it must call [`shim::main`] before it starts any thread.
//! The agent may die and come back: Pods go on, and [`Runtime::adopt`] finds them. When a shim dies, the kernel ends its
//! containers and removes its namespaces with everything in them.
//!
//! A container has its own mount, PID and cgroup namespaces, a root of its own in memory, only the node's six harmless devices,
//! the default capabilities of Kubernetes, masked and read-only paths in /proc and /sys, no descriptor above 2, and no sight of a
//! process that has more rights than it. It has no seccomp filter, which is the default of Kubernetes too (`Unconfined`).
//!
//! Reading order: [`spec`] (what is wanted), [`protocol`] (what agent and shim say to each other), [`pod`] (the agent's side),
//! [`shim`] (the other side), [`logs`] (reading them back), `sandbox` (what is done between fork and exec).

mod capabilities;
mod error;
pub mod logs;
mod open_files;
pub mod pod;
pub mod protocol;
mod sandbox;
pub mod shim;
mod socket;
pub mod spec;

pub use capabilities::Capabilities;
pub use error::RuntimeError;
pub use open_files::raise_open_files_limit;
pub use pod::{Adopted, Attached, Exec, Pod, Runtime, Subscription};
pub use protocol::{ContainerState, ContainerStatus, PodState};
pub use sandbox::terminal::resize;
pub use spec::{
    Config, ContainerSpec, ExecSpec, HostPort, Image, Limits, Mount, Network, PodSpec, Stdio, User,
};
