//! Kubernetes objects on the wire: plain values, and the rules that hold for every kind. The shared words of server and agent.
//!
//! **It is** slim structs of the kinds minik reasons about, the schema table of all built-in kinds, and the small languages of
//! the API: selectors, names, addresses, quantities, times. Values in, values out.
//!
//! **It is not** a client, a server or a store: no I/O, no clock but [`meta::Time::now`], no rule of a single kind (defaults,
//! validation and allocation live in `apiserver::registry`), no networking (that is `agent::translate`'s to say).
//!
//! ```text
//!      protobuf body         JSON, YAML body                  patch body
//!           | schema: unwrap_envelope, from_protobuf               |
//!           |                       | json::parse, yaml::parse     | schema: strategic_merge
//!           +-----------> serde_json::Value <----------------------+
//!                                   | schema: check, prune, default
//!                                   v
//!                    JSON bytes: what is stored and served, whole
//!                                   | serde
//!                                   v
//!         slim structs (meta, core, apps, discovery, ...): what logic reads and writes
//! ```
//!
//! An object is stored and served as JSON, so that nothing a client wrote is lost; a slim struct is decoded where logic needs
//! it and holds only the fields that logic reads. Writing a whole object back from a slim struct would lose the rest:
//! merge or patch instead.
//!
//! Modules in reading order: [`meta`] (what all objects share), [`core`], [`apps`], [`discovery`], [`coordination`], [`networking`], [`rbac`] (kinds by group),
//! [`json`] and [`yaml`] (reading, with duplicate keys named), [`schema`] (the table and its consumers), [`selector`], [`names`], [`ip`],
//! [`quantity`], [`tunnel`] (what server and node say to each other). The private `wire` has the macro that declares slim structs.

mod wire;

pub mod apps;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod ip;
pub mod json;
pub mod meta;
pub mod names;
pub mod networking;
pub mod quantity;
pub mod rbac;
pub mod schema;
pub mod selector;
pub mod tunnel;
pub mod yaml;
