//! Which kinds are served now: those built in, and those that CustomResourceDefinitions make.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Kind, Registry, kinds};

/// The kinds served at one time. Another one takes its place when a CustomResourceDefinition comes, changes or goes.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Every served version of every custom kind, sorted by group, then by resource, the preferred version first.
    custom: Vec<&'static Kind>,
}

impl Catalog {
    /// Every kind, in every version it is served in, in the order discovery lists them.
    pub fn all(&self) -> impl Iterator<Item = &'static Kind> {
        kinds::ALL.iter().chain(&self.custom).copied()
    }

    /// Every kind once: the objects of all of them are all objects there are.
    pub fn resources(&self) -> impl Iterator<Item = &'static Kind> {
        let mut last = None;
        self.all().filter(move |kind| {
            let resource = (kind.group, kind.plural);
            last.replace(resource) != Some(resource)
        })
    }

    /// The kind served at this group, version and plural name.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.all()
            .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
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

    /// The kinds served from now on: a loop over all objects begins with what is there, and waits for what comes.
    #[must_use]
    pub fn kind_changes(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }
}
