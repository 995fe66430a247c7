//! The node's side of minik.
#![allow(dead_code, unused_imports)]
pub mod client;
pub mod join;

pub use config::{Config, ConfigError, Options};

mod backoff;
mod config;
pub mod network;
mod objects;
mod reconcile;
mod reflector;
mod translate;
mod view;
