//! Desired state -> nftables ruleset -> plan -> netlink. Knows nothing of Kubernetes, runs no `nft`, shares no table.
//!
//! ```text
//!  Desired ──compile──> Ruleset ──plan──> transactions ──wire──> bytes ──> nf_tables
//!  Change  ──edit────────┘  │ ^                                              │
//!                    text, trace └──────────────── read back ────────────────┘
//! ```
//!
//! Reading order: [`model`] (what is wanted), [`ruleset`] (the tables as a value), [`plan`] (the difference), [`wire`]
//! (bytes), [`kernel`] (sockets). [`Dataplane`] ties them together.
//!
//! # The ruleset
//!
//! The number of rules is constant; Services are elements of maps. The first packet of a connection to a Service meets
//!
//! ```text
//! meta priority set ip daddr . meta l4proto . th dport map @service-picks meta priority vmap @chains
//!                                                    # 10.96.0.2 . tcp . 80 : 0x45000003, which is goto lb-3-5
//! meta priority set none dnat ip to ip daddr . … . numgen random mod 3 map @service-slots-5
//!                                                    # 10.96.0.2 . tcp . 80 . 1 : 10.244.1.7 . 9376
//! ```
//!
//! with one chain `lb-N-MAP` per endpoint count N that occurs in a map; the Services' slots are spread over sixteen maps,
//! because reading a map back costs the square of its size. So another endpoint is one more element and a different number,
//! and an endpoint in place of another is one element. A Service has a number and not a verdict, because a verdict that is
//! added makes the kernel look at all the others. No packet is marked: postrouting decides on the source address by what
//! the client sent to (`ct original`). Only new connections are looked up, rejected or dropped; the others go on.
//!
//! What a few Services want more costs the others nothing, because `service-picks` sends only theirs elsewhere:
//!
//! - limited sources: `goto check-source-ranges`, one look into a set of address . protocol . port . source ranges;
//! - a local policy: `goto local-policy`, which tells Pods and this node from the world outside and looks on in
//!   `inside-picks` or `outside-picks`; the slots of a frontend are then two lists;
//! - session affinity: `goto affinity-lb-3-5`, which looks for client . memory in `affinity-clients` first. A memory is a number
//!   that all frontends of a service port have in common. The packet path fills the map after translation, from
//!   `ct original`, by rules that are there only while a Service wants it; endpoints that leave are deleted from it with the
//!   slots.

pub mod kernel;
pub mod model;
pub mod plan;
pub mod ruleset;
pub mod wire;

mod dataplane;

pub use self::dataplane::{Applied, Dataplane, DataplaneError, Serving, Verified};
