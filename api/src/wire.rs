//! How slim structs meet JSON: one macro gives every struct the same serde rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::core::{IntOrString, Json};

/// Reads JSON `null` as an absent field: clients send `creationTimestamp: null` and the like.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de> + Compact,
{
    let mut field: T = Option::deserialize(deserializer)?.unwrap_or_default();
    field.compact();
    Ok(field)
}

/// Gives back the room a field was read into but does not fill. A list grows to four items for its first one: of ten thousand
/// Pods with one container each, three quarters of the memory would be air.
pub(crate) trait Compact {
    fn compact(&mut self) {}
}

impl<T> Compact for Vec<T> {
    fn compact(&mut self) {
        self.shrink_to_fit();
    }
}

impl<T> Compact for Option<T> {}
impl<K, V> Compact for BTreeMap<K, V> {}
impl Compact for Box<str> {}
impl Compact for bool {}
impl Compact for i32 {}
impl Compact for i64 {}
impl Compact for u16 {}
impl Compact for IntOrString {}
impl Compact for Json {}

/// True for the value an absent field stands for; such fields are not written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares slim structs: camelCase, unknown fields skipped, absent and `null` fields read as their default.
///
/// A field is written unless it holds its default. Fields in a leading `[always] { .. }` block are written whatever they hold:
/// Kubernetes declares them without `omitempty`, and a merge patch must be able to set them back to `false` or `0`.
///
/// A leading `kind("group", "version", "Kind", "plural")` makes the struct a [`Resource`](crate::meta::Resource).
macro_rules! wire {
    ($($(#[$doc:meta])*
        $(kind($group:literal, $version:literal, $kind:literal, $plural:literal))?
        pub struct $name:ident { $([always] { $($(#[$kept_attr:meta])* $kept:ident: $kept_type:ty,)* })?
            $($(#[$attr:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            #[allow(missing_docs, reason = "the Kubernetes API reference documents the fields; the names are the same")]
            pub struct $name {
                $($(
                    #[serde(deserialize_with = "crate::wire::nullable")]
                    $(#[$kept_attr])*
                    pub $kept: $kept_type,
                )*)?
                $(
                    #[serde(deserialize_with = "crate::wire::nullable", skip_serializing_if = "crate::wire::is_default")]
                    $(#[$attr])*
                    pub $field: $type,
                )*
            }

            impl crate::wire::Compact for $name {}

            $(
                impl crate::meta::Resource for $name {
                    const GROUP: &'static str = $group;
                    const VERSION: &'static str = $version;
                    const KIND: &'static str = $kind;
                    const PLURAL: &'static str = $plural;

                    fn metadata(&self) -> &crate::meta::ObjectMeta {
                        &self.metadata
                    }

                    fn metadata_mut(&mut self) -> &mut crate::meta::ObjectMeta {
                        &mut self.metadata
                    }
                }
            )?
        )*
    };
}
pub(crate) use wire;
