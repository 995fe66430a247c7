//! The ConfigMaps and Secrets that volumes on this node are made of, followed: their files change when they do.
//!
//! Each object has one watch, however many Pods name it; the watch ends with the last of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use api::core::{ConfigMap, Secret};
use futures_util::future::select_all;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use super::env;
use crate::{
    client::{Client, Path},
    objects::{Object, Revision},
    reflector::{self, Delta},
};

/// Watches of one node at most: all of its requests share a connection, which carries only so many streams. The files of what is
/// not followed change with the next token, or the next Pod.
const MOST: usize = 1000;

/// Kind, namespace, name.
type Name = (&'static str, String, String);

/// What is followed on this node.
#[derive(Default)]
pub(super) struct Followed {
    objects: Mutex<HashMap<Name, Weak<Source>>>,
}

/// One object.
struct Source {
    /// The revision of the object as it is now; `None` when there is none, or when that is not known yet.
    revision: watch::Receiver<Option<Revision>>,
    task: AbortHandle,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One Pod's interest in one object.
pub(super) struct Following {
    kind: &'static str,
    name: String,
    revision: watch::Receiver<Option<Revision>>,
    /// What the Pod's files were made from.
    read: Option<Revision>,
    _source: Arc<Source>,
}

impl Followed {
    /// Follows an object from the revision that was read; `None` for one that did not exist.
    pub(super) fn follow(
        &self,
        client: &Client,
        (kind, namespace, name): (&'static str, &str, &str),
        read: Option<Revision>,
    ) -> Option<Following> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, namespace.to_owned(), name.to_owned());
        let known = objects.get(&key).and_then(Weak::upgrade);
        let source = match known {
            Some(source) => source,
            None => {
                objects.retain(|_, source| source.strong_count() > 0);
                if objects.len() >= MOST {
                    tracing::warn!(
                        kind,
                        namespace,
                        name,
                        "not followed: this node follows {MOST} others already"
                    );
                    return None;
                }
                let source = Arc::new(Source::start(client.clone(), &key));
                objects.insert(key, Arc::downgrade(&source));
                source
            }
        };
        Some(Following {
            kind,
            name: name.to_owned(),
            revision: source.revision.clone(),
            read,
            _source: source,
        })
    }
}

impl Source {
    fn start(client: Client, (kind, namespace, name): &Name) -> Self {
        let path = |resource| {
            let selector = format!("metadata.name={name}");
            Path::core(resource)
                .namespace(namespace)
                .query("fieldSelector", &selector)
        };
        let (to, revision) = watch::channel(None);
        let task = if *kind == env::CONFIG_MAP {
            tokio::spawn(follow::<ConfigMap>(client, path("configmaps"), to))
        } else {
            tokio::spawn(follow::<Secret>(client, path("secrets"), to))
        };
        Self {
            revision,
            task: task.abort_handle(),
        }
    }
}

async fn follow<T: Object>(client: Client, path: Path, to: watch::Sender<Option<Revision>>) {
    let (sender, mut deltas) = mpsc::channel::<Vec<Delta<T>>>(1);
    let taking_in = async {
        while let Some(batch) = deltas.recv().await {
            for delta in batch {
                match delta {
                    Delta::Replace { items, .. } => {
                        to.send_replace(items.first().map(|object| object.revision()));
                    }
                    Delta::Put(object) => _ = to.send_replace(Some(object.revision())),
                    Delta::Remove { .. } => _ = to.send_replace(None),
                    Delta::Progress(_) => {}
                }
            }
        }
    };
    tokio::join!(reflector::run::<T>(client, path, sender), taking_in);
}

/// Waits until one of them is not as it was read. Dropping the future loses nothing.
pub(super) async fn changed(all: &mut [Following]) {
    if all.is_empty() {
        return std::future::pending().await;
    }
    let each = all.iter_mut().map(|one| Box::pin(one.changed()));
    select_all(each).await;
}

impl Following {
    pub(super) fn is_of(&self, kind: &str, name: &str) -> bool {
        self.kind == kind && self.name == name
    }

    /// It was read again. What the watch has told of before is not told again, even if the watch lags behind what was read.
    pub(super) fn read_again(&mut self, revision: Option<Revision>) {
        self.read = revision;
    }

    async fn changed(&mut self) {
        let read = self.read;
        // It is told once of each change, however the revisions compare then: what is read next may be newer than the watch.
        while self.revision.changed().await.is_ok() {
            if *self.revision.borrow_and_update() != read {
                return;
            }
        }
        // The watch never ends before the interest in it does.
        std::future::pending().await
    }
}
