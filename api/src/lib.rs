//! Kubernetes objects on the wire: slim values, names, selectors, the schema table. No I/O.

mod wire;

pub mod coordination;
pub mod core;
pub mod discovery;
pub mod ip;
pub mod json;
pub mod meta;
pub mod names;
pub mod quantity;
pub mod schema;
pub mod selector;
