//! The targets, one file each.

pub mod apply;
pub mod body;
pub mod conntrack;
pub mod dns;
pub mod field_set;
pub mod netlink;
pub mod patch;
pub mod protobuf;
pub mod selector;
pub mod value;

use api::schema::Type;
use serde_json::Value;

/// The type of an object by what it says of itself, or the Pod's.
fn type_of(object: &Value) -> &'static Type {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    named(text("apiVersion"), text("kind"))
}

fn named(api_version: &str, kind: &str) -> &'static Type {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    api::schema::lookup(group, version, kind)
        .or_else(|| api::schema::lookup("", "v1", "Pod"))
        .expect("Pods are in the schema")
}
