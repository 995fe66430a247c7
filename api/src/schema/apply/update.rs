//! What an ordinary write (create, update, patch) does to the managers of an object.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::managers::Entry;
use super::{Author, Comparison, FieldSet, Managers, Operation};

/// More managers of ordinary writes than this are folded into one.
const MAX_UPDATERS: usize = 10;
/// The one they are folded into.
const ANCIENT: &str = "ancient-changes";

/// What says which object it is, and what the server writes: nobody owns it.
pub(super) static UNTRACKED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

impl Managers<'_> {
    /// Gives the author the fields it changed, and takes them from everyone else; what it removed nobody owns any more.
    /// `now` is RFC 3339, in seconds. When nothing was changed, nothing is touched.
    pub fn update(&mut self, author: &Author<'_>, comparison: Comparison, now: &str) {
        let Comparison {
            mut changed,
            mut removed,
        } = comparison;
        changed.subtract(&UNTRACKED);
        removed.subtract(&UNTRACKED);
        if changed.is_empty() && removed.is_empty() {
            return;
        }
        self.keep_version(author.api_version);
        let own = self.position(author);
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if Some(at) != own {
                entry.lose(&changed);
            }
            entry.lose(&removed);
        }
        match own.map(|at| &mut self.entries[at]) {
            _ if changed.is_empty() => {}
            Some(entry) => {
                let set = entry.set();
                if !set.contains_all(&changed) {
                    *set = set.union(&changed);
                }
                entry.time = Some(Cow::Owned(now.to_owned()));
            }
            None => self.entries.push(Entry::of(author, changed, now)),
        }
        self.entries.retain(|entry| !entry.is_empty());
        self.fold_old();
    }

    /// Folds the oldest ordinary writers into one entry until there are few enough.
    fn fold_old(&mut self) {
        let updaters = |entry: &Entry<'_>| entry.operation == Operation::Update;
        while self.entries.iter().filter(|entry| updaters(entry)).count() > MAX_UPDATERS {
            let mut oldest = self.take_first_updater(|_| true);
            // The fold that is there already, or else the next oldest becomes it.
            let folded = self.entries.iter().any(|entry| entry.is_ancient());
            let mut into = self.take_first_updater(|entry| !folded || entry.is_ancient());
            let union = into.set().union(oldest.set());
            *into.set() = union;
            into.manager = Cow::Borrowed(ANCIENT);
            into.subresource = Cow::Borrowed("");
            into.time = into.time.max(oldest.time);
            self.entries.push(into);
        }
    }
}

impl<'a> Managers<'a> {
    /// Takes out the ordinary writer that wrote longest ago; there must be one.
    fn take_first_updater(&mut self, wanted: impl Fn(&Entry<'a>) -> bool) -> Entry<'a> {
        let entries = self.entries.iter().enumerate();
        let first = entries
            .filter(|(_, entry)| entry.operation == Operation::Update && wanted(entry))
            .min_by(|(_, a), (_, b)| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)))
            .map(|(at, _)| at)
            .expect("the caller counted them");
        self.entries.swap_remove(first)
    }
}

impl Entry<'_> {
    fn is_ancient(&self) -> bool {
        self.operation == Operation::Update && self.manager == ANCIENT
    }

    /// Takes these fields away.
    pub(super) fn lose(&mut self, fields: &FieldSet) {
        if !fields.is_empty() && self.may_own(fields) {
            self.set().subtract(fields);
        }
    }
}
