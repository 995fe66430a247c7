//! Deletion: preconditions, grace, finalizers, release of what the object held (X1-X7).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    ApiError, DeleteOptions, Deleted, Kind, List, ListQuery, Object, Propagation, Registry,
    allocate, meta,
    object::{canonical, managed_of},
    write::{contention, parse},
};
use crate::store::{Expect, Operation, Outcome, Record, Write};

/// How often a deletion is tried again when others were faster.
const ATTEMPTS: usize = 64;

impl Registry {
    /// Deletes an object, or begins to: finalizers and grace keep it for a while.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::Conflict`] when a precondition does not hold, or the store's.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        if kind.rules.permanent.contains(&name) {
            return Err(ApiError::Refused {
                kind,
                name: name.to_owned(),
                detail: format!("this {} may not be deleted", kind.singular),
            });
        }
        for _ in 0..ATTEMPTS {
            let record = self.record(kind, namespace, name).await?;
            let old = parse(kind, &record);
            let version = record.modified.0.to_string();
            options.check(kind, name, &old, &version)?;
            let new = match next_state(kind, &old, options, Timestamp::now()) {
                Next::Unchanged => {
                    let object = Object::from_record(kind, &record);
                    return Ok(Deleted {
                        object,
                        gone: false,
                    });
                }
                Next::Gone => {
                    match self
                        .remove_record(kind, &record, &old, options.dry_run)
                        .await?
                    {
                        Some(object) => return Ok(Deleted { object, gone: true }),
                        None => continue,
                    }
                }
                Next::Terminating(new) => new,
            };
            if let Some(object) = self.put_terminating(kind, &record, &new, options).await? {
                return Ok(Deleted {
                    object,
                    gone: false,
                });
            }
        }
        Err(contention(kind, name))
    }

    async fn put_terminating(
        &self,
        kind: &'static Kind,
        record: &Record,
        new: &Value,
        options: &DeleteOptions,
    ) -> Result<Option<Object>, ApiError> {
        let json = canonical(kind, new, managed_of(&record.value));
        if options.dry_run {
            return Ok(Some(Object::new(kind, json, record.modified)));
        }
        let write = Write {
            key: record.key.clone(),
            expect: Expect::Modified(record.modified),
            operation: Operation::Put {
                value: json.clone(),
                ttl: kind.rules.ttl,
            },
        };
        let outcome = self
            .backend
            .commit(vec![write], kind.rules.durability)
            .await?;
        Ok(match outcome {
            Outcome::Committed { revision, .. } => Some(Object::new(kind, json, revision)),
            Outcome::Conflict { .. } => None,
        })
    }

    /// Removes the object with all it holds, in one transaction; `last` is what the DELETED event and the answer show.
    /// `None` when somebody else wrote first.
    pub(super) async fn remove_record(
        &self,
        kind: &'static Kind,
        record: &Record,
        last: &Value,
        dry_run: bool,
    ) -> Result<Option<Object>, ApiError> {
        let json = canonical(kind, last, managed_of(&record.value));
        if dry_run {
            return Ok(Some(Object::new(kind, json, record.modified)));
        }
        let mut writes = vec![Write {
            key: record.key.clone(),
            expect: Expect::Modified(record.modified),
            operation: Operation::Delete,
        }];
        // What the stored version holds, whatever the last writer made of it: that may even name what others hold.
        writes.extend(allocate::release_all(kind, &parse(kind, record)));
        Ok(
            match self.backend.commit(writes, kind.rules.durability).await? {
                Outcome::Committed { revision, .. } => Some(Object::new(kind, json, revision)),
                Outcome::Conflict { .. } => None,
            },
        )
    }

    /// Deletes every selected object; answers those it deleted and the revision of the list.
    ///
    /// # Errors
    /// Those of [`Registry::list`] and [`Registry::delete`]; objects that vanish meanwhile are no error.
    pub async fn delete_collection(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &ListQuery,
        options: &DeleteOptions,
    ) -> Result<List, ApiError> {
        let list = self.list(kind, namespace, query).await?;
        let mut deleted = Vec::with_capacity(list.objects.len());
        for object in &list.objects {
            let value = object.value();
            let namespace = kind.namespaced.then(|| meta::text(&value, "namespace"));
            let name = meta::text(&value, "name");
            match self.delete(kind, namespace, name, options).await {
                Ok(done) => deleted.push(done.object),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(List {
            objects: deleted,
            ..list
        })
    }
}

/// What a DELETE makes of an object.
#[derive(Debug, PartialEq)]
enum Next {
    /// It is terminating already, and this changes nothing.
    Unchanged,
    /// It goes at once.
    Gone,
    /// It stays for now, like this.
    Terminating(Value),
}

/// Decides between removal, termination and nothing.
fn next_state(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Next {
    // A negative grace means one second, as upstream has it.
    let asked_secs = options
        .grace_secs
        .map(|secs| if secs < 0 { 1 } else { secs });
    let mut grace = (kind.rules.grace)(old, asked_secs);
    let finalizers = finalizers_after(old, options.propagation);
    let held = !finalizers.is_empty() || (kind.rules.held_back)(old);
    let terminating = meta::is_terminating(old);
    if terminating {
        let current = old["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        // A second DELETE may only shorten the grace, and only when it says so.
        let shortened = asked_secs.is_some() && grace < current;
        if !shortened && (current > 0 || held && finalizers == meta::finalizers(old)) {
            return Next::Unchanged;
        }
        grace = grace.min(current);
    }
    if grace == 0 && !held {
        return Next::Gone;
    }
    let mut new = old.clone();
    if !terminating && kind.rules.generation {
        meta::raise_generation(&mut new);
    }
    let metadata = meta::metadata_mut(&mut new);
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    if terminating && old["metadata"]["deletionGracePeriodSeconds"] == grace {
        return Next::Terminating(new);
    }
    let end = now
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    metadata.insert("deletionTimestamp".into(), meta::timestamp(end).into());
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    (kind.rules.on_terminating)(&mut new);
    Next::Terminating(new)
}

/// The finalizers once a DELETE has said what becomes of dependents (X7).
fn finalizers_after(old: &Value, propagation: Option<Propagation>) -> Vec<&str> {
    let mut finalizers = meta::finalizers(old);
    let Some(propagation) = propagation else {
        return finalizers;
    };
    let wanted = propagation.finalizer();
    finalizers.retain(|finalizer| {
        !Propagation::FINALIZERS.contains(finalizer) || Some(*finalizer) == wanted
    });
    if let Some(wanted) = wanted.filter(|wanted| !finalizers.contains(wanted)) {
        finalizers.push(wanted);
    }
    finalizers
}

impl DeleteOptions {
    /// Whether the object may be meant.
    ///
    /// # Errors
    /// [`ApiError::Conflict`].
    pub(super) fn check(
        &self,
        kind: &'static Kind,
        name: &str,
        object: &Value,
        version: &str,
    ) -> Result<(), ApiError> {
        let uid = meta::text(object, "uid");
        let detail = match (&self.uid, &self.resource_version) {
            (Some(wanted), _) if wanted != uid => {
                format!(
                    "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
                )
            }
            (_, Some(wanted)) if wanted != version => format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
            ),
            _ => return Ok(()),
        };
        Err(ApiError::Conflict {
            kind,
            name: name.to_owned(),
            detail,
        })
    }
}
