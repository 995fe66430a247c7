//! Which kinds are served now: those built in, and those that CustomResourceDefinitions make.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::{Kind, Registry, kinds};

/// The kinds served at one time. Another one takes its place when a CustomResourceDefinition comes, changes or goes.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Every served version of every custom kind, sorted by group, the preferred version first.
    custom: Vec<&'static Kind>,
    openapi_v2_protobuf: OnceLock<Bytes>,
}

impl Catalog {
    /// Every kind, in every version it is served in, in the order discovery lists them.
    pub fn all(&self) -> impl Iterator<Item = &'static Kind> {
        kinds::ALL.iter().chain(&self.custom).copied()
    }

    /// Every kind once: the objects of all of them are all objects there are.
    pub fn resources(&self) -> impl Iterator<Item = &'static Kind> {
        let mut seen = HashSet::new();
        self.all()
            .filter(|kind| kind.rules.renamed.is_none())
            .filter(move |kind| seen.insert((kind.group, kind.plural)))
    }

    /// The kind served at this group, version and plural name.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.all()
            .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }

    /// The kind of this name in a group, whatever the version: what an owner reference means.
    #[must_use]
    pub fn named(&self, group: &str, name: &str) -> Option<&'static Kind> {
        self.all()
            .find(|kind| kind.group == group && kind.kind == name)
    }

    /// The kind, namespace and name of the object stored at a key; see [`Kind::key`].
    #[must_use]
    pub fn at_key<'k>(&self, key: &'k [u8]) -> Option<(&'static Kind, Option<&'k str>, &'k str)> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix("/registry/")?;
        let (group, path) = path.split_once('/')?;
        let (plural, path) = path.split_once('/')?;
        let group = if group == "core" { "" } else { group };
        let kind = self
            .all()
            .find(|kind| kind.group == group && kind.plural == plural)?;
        if !kind.namespaced {
            return Some((kind, None, path));
        }
        let (namespace, name) = path.split_once('/')?;
        Some((kind, Some(namespace), name))
    }

    /// The document of OpenAPI version 2 in protobuf, made when it is asked for first: old clients ask at every start.
    #[must_use]
    pub fn openapi_v2_protobuf(&self, make: impl FnOnce() -> Bytes) -> Bytes {
        self.openapi_v2_protobuf.get_or_init(make).clone()
    }

    /// Whether a group is served.
    #[must_use]
    pub fn has_group(&self, group: &str) -> bool {
        self.all().any(|kind| kind.group == group)
    }

    /// The kinds of a group in one version.
    pub fn of_version(&self, group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
        self.all()
            .filter(move |kind| kind.group == group && kind.version == version)
    }
}

impl Registry {
    /// The kinds served now.
    #[must_use]
    pub fn kinds(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// Serves the kinds of these CustomResourceDefinitions, all there are, and of no others. Those that are not established
    /// are not served.
    pub fn serve_definitions(&self, definitions: &[Value]) {
        let custom = self.custom.update(definitions);
        let catalog = Catalog {
            custom,
            ..Catalog::default()
        };
        self.catalog.send_replace(Arc::new(catalog));
    }

    /// The kinds served from now on: a loop over all objects begins with what is there, and waits for what comes.
    #[must_use]
    pub fn kind_changes(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::kinds::{CLUSTER_ROLES, ENDPOINT_SLICES, PODS};

    #[test]
    fn a_key_leads_back_to_its_kind_and_object() {
        let catalog = Catalog::default();
        for (kind, namespace, name) in [
            (&PODS, Some("a"), "b"),
            (&ENDPOINT_SLICES, Some("a"), "b-1.x"),
            (&CLUSTER_ROLES, None, "system:node"),
        ] {
            let key = kind.key(namespace, name);
            let found = catalog.at_key(key.as_bytes());
            assert_eq!(found, Some((kind, namespace, name)));
        }
        for key in [
            "/minik/nodeports/30000",
            "/registry/core/pods/a",
            "/registry/x/y/z",
        ] {
            assert_eq!(catalog.at_key(key.as_bytes()), None, "{key}");
        }
    }
}
