//! The kinds of all definitions that are established.
//!
//! A kind is known to the rest of the server as `&'static Kind`, so one that a definition makes is never freed: it is small
//! (names and flags), and the same definition made again, changed in its schema, or deleted and made again gets the same kind
//! back. What is big, the schema, stands in the kind's [`Slot`], is exchanged with each change, and goes with the definition.

use std::{
    cmp::Reverse,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use super::{
    Slot,
    definition::{Definition, Identity},
};
use crate::registry::{
    Kind,
    kind::{ALL_VERBS, Rules, SCALE, STATUS, Subresource},
    table::Table,
};

/// The kinds that definitions have made since the start.
#[derive(Debug, Default)]
pub(in crate::registry) struct Served(Mutex<Vec<Made>>);

/// A kind that a definition has made.
#[derive(Debug)]
struct Made {
    identity: Identity,
    kind: &'static Kind,
    slot: &'static Slot,
    /// Which edition of the definition the slot says; none when it is empty.
    edition: Option<(String, i64, bool)>,
}

impl Served {
    /// Takes all definitions there are; answers the kinds served now, sorted by group, the preferred version first, then by
    /// name.
    pub(in crate::registry) fn update(&self, definitions: &[Value]) -> Vec<&'static Kind> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kinds: Vec<&'static Kind> = Vec::new();
        let all = definitions.iter().map(Definition);
        for definition in all.filter(|one| one.is_established()) {
            let edition = Some(definition.edition());
            for (identity, version) in definition.versions() {
                let at = known.iter().position(|made| made.identity == identity);
                let at = at.unwrap_or_else(|| {
                    known.push(Made::new(identity.clone()));
                    known.len() - 1
                });
                let made = &mut known[at];
                if made.edition != edition {
                    let custom = definition.custom(&identity, version);
                    made.slot.set(Some(Arc::new(custom)));
                    made.edition.clone_from(&edition);
                }
                kinds.push(made.kind);
            }
        }
        for made in known.iter_mut() {
            if !kinds.iter().any(|served| std::ptr::eq(*served, made.kind)) {
                made.slot.set(None);
                made.edition = None;
            }
        }
        kinds.sort_by_key(|kind| {
            (
                kind.group,
                Reverse(priority(kind.version)),
                kind.version,
                kind.plural,
            )
        });
        kinds
    }
}

impl Made {
    fn new(identity: Identity) -> Self {
        let slot: &'static Slot = Box::leak(Box::default());
        let kind = Box::leak(Box::new(new_kind(&identity, slot)));
        Self {
            identity,
            kind,
            slot,
            edition: None,
        }
    }
}

fn new_kind(identity: &Identity, slot: &'static Slot) -> Kind {
    Kind {
        group: word(&identity.group),
        version: word(&identity.version),
        kind: word(&identity.kind),
        plural: word(&identity.plural),
        singular: word(&identity.singular),
        short_names: words(&identity.short_names),
        categories: words(&identity.categories),
        namespaced: identity.namespaced,
        verbs: ALL_VERBS,
        subresources: subresources(identity),
        rules: Rules {
            custom: Some(slot),
            generation: true,
            has_status: identity.has_status,
            unconditional_update: false,
            prepare_create: if identity.has_status {
                |object| {
                    if let Some(object) = object.as_object_mut() {
                        object.shift_remove("status");
                    }
                }
            } else {
                Rules::GENERIC.prepare_create
            },
            ..Rules::GENERIC
        },
        // The columns are the definition's.
        table: Table {
            columns: &[],
            cells: |_, _| {},
        },
    }
}

fn subresources(identity: &Identity) -> &'static [Subresource] {
    match (identity.has_status, identity.has_scale) {
        (false, false) => &[],
        (true, false) => &[STATUS],
        (false, true) => &[SCALE],
        (true, true) => &[SCALE, STATUS],
    }
}

fn word(text: &str) -> &'static str {
    Box::leak(Box::from(text))
}

fn words(texts: &[String]) -> &'static [&'static str] {
    Vec::leak(texts.iter().map(|text| word(text)).collect())
}

/// What clients should prefer: `v2` to `v1`, `v1` to `v1beta2`, `v1beta1` to `v1alpha3`, those to every other name.
/// Source: k8s.io/apimachinery/pkg/version, CompareKubeAwareVersionStrings.
fn priority(version: &str) -> (u8, u64, u64) {
    let read = || {
        let rest = version.strip_prefix('v')?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major: u64 = rest[..end].parse().ok()?;
        let stage = &rest[end..];
        let minor = |name: &str| stage.strip_prefix(name)?.parse().ok();
        match (stage, minor("beta"), minor("alpha")) {
            ("", ..) => Some((3, major, 0)),
            (_, Some(minor), _) => Some((2, major, minor)),
            (.., Some(minor)) => Some((1, major, minor)),
            _ => None,
        }
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_preferred_as_clients_expect() {
        let mut versions = [
            "foo",
            "v1alpha1",
            "v10",
            "v1",
            "v2beta1",
            "v1beta2",
            "v11alpha2",
            "v1beta1",
            "v2",
        ];
        versions.sort_by_key(|version| Reverse(priority(version)));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v2beta1",
                "v1beta2",
                "v1beta1",
                "v11alpha2",
                "v1alpha1",
                "foo"
            ]
        );
    }

    #[test]
    fn a_definition_made_again_is_the_same_kind_with_the_new_schema() {
        let definition = |of: &str| {
            json!({
                "metadata": {"name": "tabs.example.com"},
                "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "tabs", "singular": "tab", "kind": "Tab"},
                    "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                        {"type": "object", "properties": {"spec": {"type": of}}}}}]},
                "status": {"conditions": [{"type": "Established", "status": "True"}]},
            })
        };
        let served = Served::default();
        let first = served.update(&[definition("object")]);
        let schema = Arc::downgrade(&first[0].custom().unwrap());
        assert!(served.update(&[]).is_empty());
        assert!(schema.upgrade().is_none() && first[0].custom().is_none());
        let second = served.update(&[definition("string")]);
        assert!(std::ptr::eq(first[0], second[0]));
        assert!(
            second[0]
                .custom()
                .unwrap()
                .schema
                .accepts(&json!({"spec": "text"}))
        );
    }
}
