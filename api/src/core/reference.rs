//! References to other objects.

use crate::wire::wire;

wire! {
    /// Any object, or a part of it.
    pub struct ObjectReference {
        kind: Box<str>,
        namespace: Box<str>,
        name: Box<str>,
        uid: Box<str>,
        api_version: Box<str>,
        resource_version: Box<str>,
        field_path: Box<str>,
    }

    /// An object of a known kind in the same namespace.
    pub struct LocalObjectReference {
        name: Box<str>,
    }

    /// An object of a named kind in the same namespace.
    pub struct TypedLocalObjectReference {
        [always] {
            kind: Box<str>,
            name: Box<str>,
        }
        api_group: Option<Box<str>>,
    }
}
