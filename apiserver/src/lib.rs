//! The Kubernetes-compatible API server with its store and controllers.
//!
//! Reading order: `store` (revisions, transactions, watch), `registry` (rules per kind), `http` (REST), `controller`
//! (loops that write objects), `tunnels` (how nodes are asked), `pki` and `auth` (who may do what), `server` (wires them together).

pub mod announcers;
pub mod applied;
pub mod audit;
pub mod auth;
pub mod budget;
pub mod controller;
pub mod http;
pub mod metrics;
pub mod pki;
pub mod registry;
pub mod server;
pub mod spdy;
pub mod store;
mod tls;
pub mod tunnels;
