//! Desired state -> nftables ruleset -> plan -> netlink. Knows nothing of Kubernetes.
//!
//! Reading order: [`model`] (what is wanted), `ruleset` (the tables as a value), `plan` (the difference), `wire` (bytes),
//! `kernel` (sockets).

pub mod model;
