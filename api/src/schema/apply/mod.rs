//! Server-side apply: who owns which fields of an object, and what merging a configuration into it does.
//!
//! Reading order: [`element`](Element) and [`set`](FieldSet) (sets of paths), `fields_v1` (their spelling), `relation` (what
//! the schema says of a value), then one walk over typed values each: `owned` (the fields a value sets), `compare`, `merge`,
//! `remove`. [`managers`](Managers) holds `metadata.managedFields`; `update` and `config` change it for ordinary writes and
//! for applied configurations; `last_applied` knows the annotation of client-side apply.
//!
//! The behaviour is that of sigs.k8s.io/structured-merge-diff and k8s.io/apimachinery/pkg/util/managedfields. All of it is
//! values in, values out: the time is an argument.

mod compare;
mod config;
mod conflict;
mod element;
mod fields_v1;
mod last_applied;
mod managers;
mod merge;
mod owned;
mod relation;
mod remove;
mod set;
mod update;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

pub use compare::Comparison;
pub use config::{ApplyError, Config};
pub use conflict::Conflicts;
pub use element::Element;
pub use managers::{Author, Managers, ManagersError, Operation};
pub use owned::SchemaError;
pub use set::FieldSet;
