//! Records -> zone -> answers, by the Kubernetes DNS naming rules. Knows no API objects and no nftables.
//!
//! ```text
//!   Vec<Change> ──> Zone (snapshot behind an atomic pointer) ──> Answer ──> Server (UDP and TCP sockets)
//!                                                                   └─ not ours ──> forward (upstreams)
//! ```
//!
//! Names below the cluster domain, and addresses of the cluster's own ranges, are answered from the zone alone:
//! they never reach a cache or an upstream. Everything else is forwarded, or refused when there is no upstream.
//!
//! What this crate is not: a general name server. There are no zone files, no transfers, no DNSSEC.
//!
//! Reading order: [`records`] (what the zone is made of), [`zone`] (lookup -> answer), [`server`] (sockets and
//! message limits), `forward` (upstreams), [`client`] (a stub resolver, for programs of ours that ask).

pub mod client;
mod forward;
pub mod records;
pub mod server;
pub mod zone;

pub use server::Server;
pub use zone::Zone;
