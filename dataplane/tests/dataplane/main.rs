//! Tests of the whole crate through its public face: [`laws`] on the kernel in memory, [`kernel`] and [`packets`] on the
//! real one, in private network namespaces.

mod common;
mod kernel;
mod laws;
mod packets;
