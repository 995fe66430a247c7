//! Applying a configuration: merge it, remove what its manager no longer wants, settle who owns what.

use serde_json::{Value, json};

use super::last_applied;
use super::managers::{Entry, Fields};
use super::update::UNTRACKED;
use super::{Author, Comparison, Conflicts, FieldSet, Managers, Operation, SchemaError};
use crate::schema::Type;

/// Who is said to own the fields of an object from before its fields were tracked.
const BEFORE: &str = "before-first-apply";
/// The manager whose configurations take part in client-side apply too.
const KUBECTL: &str = "kubectl";

/// A configuration to apply.
#[derive(Clone, Copy, Debug)]
pub struct Config<'c> {
    /// The fields the manager wants to have their values, and no others.
    pub value: &'c Value,
    /// Who applies it; the operation is [`Operation::Apply`].
    pub author: Author<'c>,
    /// Take fields from other managers instead of reporting a conflict.
    pub force: bool,
    /// Fields that this endpoint does not write: they are not owned by setting them.
    pub ignored: &'c FieldSet,
    /// RFC 3339, in seconds.
    pub now: &'c str,
}

/// Why a configuration cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It does not fit the schema.
    #[error("{0}")]
    Schema(#[from] SchemaError),
    /// It sets fields that others own to other values.
    #[error("{0}")]
    Conflict(Conflicts),
}

impl Config<'_> {
    /// Applies it to an object of this type, with these managers; for an object that does not exist both are empty.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn apply<'m>(
        &self,
        of: &Type,
        live: &Value,
        mut managers: Managers<'m>,
    ) -> Result<(Value, Managers<'m>), ApplyError> {
        managers.keep_version(self.author.api_version);
        if managers.is_empty() {
            let everything = of.compare(&json!({}), live).without(self.ignored);
            let before = Author {
                manager: BEFORE,
                operation: Operation::Update,
                subresource: "",
                ..self.author
            };
            managers.update(&before, everything, self.now);
        }
        let applied = self.settle(of, live, managers.clone());
        let (mut object, managers) = match applied {
            Err(ApplyError::Conflict(conflicts)) if self.author.manager == KUBECTL => {
                let api_version = self.author.api_version;
                let allowed = last_applied::fields(of, live, api_version).unwrap_or_default();
                let rest = conflicts.without(&allowed);
                if !rest.is_empty() {
                    return Err(ApplyError::Conflict(rest));
                }
                let forced = Config {
                    force: true,
                    ..*self
                };
                forced.settle(of, live, managers)?
            }
            applied => applied?,
        };
        if self.author.manager == KUBECTL {
            last_applied::refresh(&mut object, self.value);
        }
        Ok((object, managers))
    }

    fn settle<'m>(
        &self,
        of: &Type,
        live: &Value,
        mut managers: Managers<'m>,
    ) -> Result<(Value, Managers<'m>), ApplyError> {
        let mut wanted = of.field_set(self.value)?;
        wanted.cut(self.ignored);
        let own = managers.position(&self.author);
        let last = own.map(|at| managers.entries[at].set().clone());
        let mut everyone = wanted.clone();
        for (at, entry) in managers.entries.iter_mut().enumerate() {
            if Some(at) != own {
                everyone = everyone.union(entry.set());
            }
        }
        let merged = of.merge(live, self.value);
        let object = match &last {
            Some(last) => prune(of, &merged, last, &everyone)?,
            None => merged,
        };
        let difference = of.compare(live, &object).without(self.ignored);
        take_over(&mut managers, own, &difference, self.force)?;
        wanted.subtract(&UNTRACKED);
        self.record(&mut managers, own, wanted, &difference);
        managers.entries.retain(|entry| !entry.is_empty());
        Ok((object, managers))
    }

    /// Writes down what the manager owns now. The time is that of its last change.
    fn record(
        &self,
        managers: &mut Managers<'_>,
        own: Option<usize>,
        wanted: FieldSet,
        difference: &Comparison,
    ) {
        match own.map(|at| &mut managers.entries[at]) {
            Some(entry) => {
                let same = *entry.set() == wanted && entry.api_version == self.author.api_version;
                if same && difference.is_empty() {
                    return;
                }
                *entry = Entry {
                    fields: Fields::Set(wanted),
                    ..Entry::of(&self.author, FieldSet::default(), self.now)
                };
            }
            None => managers
                .entries
                .push(Entry::of(&self.author, wanted, self.now)),
        }
    }
}

/// Takes the changed fields from the other managers, if that is wanted or nobody has them.
fn take_over(
    managers: &mut Managers<'_>,
    own: Option<usize>,
    difference: &Comparison,
    force: bool,
) -> Result<(), ApplyError> {
    let mut conflicts = Conflicts::default();
    let others = |at: usize| Some(at) != own;
    for (at, entry) in managers.entries.iter_mut().enumerate() {
        if others(at) {
            let fields = entry.set().intersection(&difference.changed);
            conflicts.add(entry, fields);
        }
    }
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflict(conflicts));
    }
    for (at, entry) in managers.entries.iter_mut().enumerate() {
        if others(at) {
            entry.lose(&difference.changed);
            entry.lose(&difference.removed);
        }
    }
    Ok(())
}

/// Removes what the manager owned at its last apply and nobody owns now.
///
/// First everything it owned goes, which takes along what stands below; of that comes back what somebody owns; and what the
/// manager itself never owned comes back too.
fn prune(
    of: &Type,
    merged: &Value,
    last: &FieldSet,
    everyone: &FieldSet,
) -> Result<Value, SchemaError> {
    if last.is_empty() {
        return Ok(merged.clone());
    }
    let last = of.with_named_fields(last);
    let everyone = of.with_named_fields(everyone);
    let present = of.with_named_fields(&of.present_fields(merged));
    let without_last = of.remove(merged, &last);
    let kept = of.with_named_fields(&of.present_fields(&without_last));
    let with_owned = of.remove(merged, &present.difference(&kept.union(&everyone)));
    let kept = of.with_named_fields(&of.present_fields(&with_owned));
    Ok(of.remove(merged, &present.difference(&kept).intersection(&last)))
}
