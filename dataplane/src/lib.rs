//! Desired state -> nftables ruleset -> plan -> netlink. Knows nothing of Kubernetes.
//!
//! Reading order: [`model`] (what is wanted), [`ruleset`] (the tables as a value), [`plan`] (the difference), [`wire`]
//! (bytes), [`kernel`] (sockets). [`Dataplane`] ties them together.

pub mod kernel;
pub mod model;
pub mod plan;
pub mod ruleset;
pub mod wire;

mod dataplane;

pub use self::dataplane::{Applied, Dataplane, DataplaneError, Verified};
