//! The node agent: follows the cluster through its API and makes this node do what Services, names and Pods ask.
//!
//! ```text
//!   client ─ h2 over TLS ─ API server
//!     │
//!   reflector (list + watch) ──> view ──> translate ──> reconcile ──> dataplane (rules)
//!     │                                                     └───────> dns (names)
//!     └──> pods ──> runtime (shims), network (rtnetlink)        node (Node, Lease)
//! ```
//!
//! What this crate is not: it keeps no state of its own besides the node's certificate. Pods outlive it (their shims hold
//! them), rules outlive it (the kernel holds them), and everything else is read from the API server again.
//!
//! Reading order: [`client`], [`join`], `reflector` (pure: `step`), `view`, `translate` (pure: Kubernetes words in, network and
//! DNS words out), `reconcile` (the loop), [`network`], `pods`, `node`, `neighbours`, `health` (what load
//! balancers ask), `tunnel` (what the server asks), `localhost` (NodePorts on
//! loopback), `run` (the order in which everything starts).

mod addresses;
mod backoff;
#[doc(hidden)]
pub mod bench;
pub mod client;
mod config;
mod health;
pub mod join;
mod localhost;
mod neighbours;
pub mod network;
mod node;
mod objects;
mod pods;
mod ready;
mod reconcile;
mod reflector;
mod run;
mod translate;
mod tunnel;
mod view;

pub use addresses::Addresses;
pub use config::{Config, ConfigError, Options};
pub use pods::AdoptError;
pub use run::{AgentError, run};
