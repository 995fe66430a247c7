//! Tests of the whole crate through its public face: [`laws`] on the kernel in memory, [`kernel`], [`packets`] and [`flows`] on the
//! real one, in private network namespaces.

mod common;
mod flows;
mod kernel;
mod laws;
mod packets;
