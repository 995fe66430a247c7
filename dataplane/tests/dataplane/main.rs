//! Tests of the whole crate through its public face: [`laws`] and [`cost`] on the kernel in memory, [`kernel`], [`packets`], [`policies`],
//! [`flows`], [`invalid`], [`robust`], [`sctp`] and [`differential`] on the real one, in private network namespaces.

mod common;
mod cost;
mod differential;
mod flows;
mod invalid;
mod kernel;
mod laws;
mod net;
mod packets;
mod policies;
mod robust;
mod sctp;
