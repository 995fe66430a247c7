//! Old Pods are replaced: removed first as far as nodes may be without, or joined by a new one as far as surge allows.
//! Source: kubernetes/kubernetes pkg/controller/daemon/update.go, rollingUpdate.

use api::core::Pod;

use super::{Change, Look, manage::is_going};

/// The Pods of a node that stay: of the present template, and of another one.
struct Pair<'a> {
    new: Option<&'a Pod>,
    old: Option<&'a Pod>,
}

impl<'a> Look<'a> {
    /// One step of a rolling update; nothing for `OnDelete`.
    pub(super) fn replace_old(&self) -> Change<'a> {
        if &*self.set.spec.update_strategy.r#type == "OnDelete" {
            return Change::default();
        }
        let (surge, unavailable) = self.fence();
        if surge == 0 {
            self.remove_old(unavailable)
        } else {
            self.join_old(surge)
        }
    }

    /// The nodes that have a Pod or should, with what they have; nothing for one with more than that.
    fn pairs(&self) -> impl Iterator<Item = (&'a str, Option<Pair<'a>>)> {
        let nodes = self.nodes.iter().filter(|node| {
            self.fitness.is_wanted(node) || !self.on(&node.metadata.name).is_empty()
        });
        nodes.map(|node| {
            let staying = self.on(&node.metadata.name).iter().copied();
            let staying = staying.filter(|pod| !is_going(pod));
            let (new, old): (Vec<&Pod>, Vec<&Pod>) = staying.partition(|pod| self.is_new(pod));
            let pair = (new.len() <= 1 && old.len() <= 1).then(|| Pair {
                new: new.first().copied(),
                old: old.first().copied(),
            });
            (&*node.metadata.name, pair)
        })
    }

    /// Removes old Pods: all that are of no use, and as many others as nodes may be without.
    fn remove_old(&self, may_be_missing: usize) -> Change<'a> {
        let mut missing = 0;
        let (mut useless, mut candidates) = (Vec::new(), Vec::new());
        for (_, pair) in self.pairs() {
            match pair {
                Some(Pair {
                    new: Some(new),
                    old: None,
                }) => missing += usize::from(!self.is_available(new)),
                Some(Pair {
                    new: None,
                    old: Some(old),
                }) if self.is_available(old) => candidates.push(old),
                Some(Pair {
                    new: None,
                    old: Some(old),
                }) => {
                    missing += 1;
                    useless.push(old);
                }
                // Being made or removed.
                _ => missing += 1,
            }
        }
        let room = may_be_missing.saturating_sub(missing);
        useless.extend(candidates.into_iter().take(room));
        Change {
            pods: useless,
            ..Change::default()
        }
    }

    /// Makes new Pods beside old ones, and removes the old ones where the new one is available.
    fn join_old(&self, surge: usize) -> Change<'a> {
        let mut surging = 0;
        let (mut useless, mut candidates, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for (node, pair) in self.pairs() {
            match pair {
                None => surging += 1,
                Some(Pair { old: None, .. }) => {}
                Some(Pair {
                    new: None,
                    old: Some(old),
                }) if self.is_available(old) => candidates.push(node),
                Some(Pair { new: None, .. }) => useless.push(node),
                Some(Pair {
                    new: Some(new),
                    old: Some(old),
                }) if self.is_available(new) => done.push(old),
                Some(_) => surging += 1,
            }
        }
        let room = surge.saturating_sub(surging);
        useless.extend(candidates.into_iter().take(room));
        Change {
            nodes: useless,
            pods: done,
            ..Change::default()
        }
    }
}
