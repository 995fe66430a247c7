//! Deletion: preconditions, grace, finalizers, release of what the object held (X1-X6).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    ApiError, DeleteOptions, Deleted, Kind, List, ListQuery, Object, Registry, allocate, meta,
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
            let old = parse(&record);
            preconditions(kind, name, &record, &old, options)?;
            let new = match next_state(kind, &old, options.grace_secs, Timestamp::now()) {
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
        writes.extend(allocate::release_all(kind, &parse(record)));
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
fn next_state(kind: &Kind, old: &Value, asked_secs: Option<i64>, now: Timestamp) -> Next {
    // A negative grace means one second, as upstream has it.
    let asked_secs = asked_secs.map(|secs| if secs < 0 { 1 } else { secs });
    let grace = (kind.rules.grace)(old, asked_secs);
    let held = !meta::finalizers(old).is_empty() || (kind.rules.held_back)(old);
    if meta::is_terminating(old) {
        let current = old["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        // A second DELETE may only shorten the grace, and only when it says so.
        if asked_secs.is_none() || grace >= current {
            return if held || current > 0 {
                Next::Unchanged
            } else {
                Next::Gone
            };
        }
        if grace == 0 && !held {
            return Next::Gone;
        }
    } else if grace == 0 && !held {
        return Next::Gone;
    }
    let mut new = old.clone();
    if !meta::is_terminating(old) && kind.rules.generation {
        meta::raise_generation(&mut new);
    }
    let end = now
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    let metadata = meta::metadata_mut(&mut new);
    metadata.insert("deletionTimestamp".into(), meta::timestamp(end).into());
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    (kind.rules.on_terminating)(&mut new);
    Next::Terminating(new)
}

fn preconditions(
    kind: &'static Kind,
    name: &str,
    record: &Record,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let version = record.modified.0.to_string();
    let uid = meta::text(old, "uid");
    let detail = match options {
        DeleteOptions {
            uid: Some(wanted), ..
        } if wanted != uid => {
            format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}")
        }
        DeleteOptions {
            resource_version: Some(wanted),
            ..
        } if *wanted != version => format!(
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
