//! Create, update and modify: one path for every kind.
//!
//! Fill and default, validate, allocate, then one store transaction that writes the object together with whatever it
//! holds (addresses, ports), on the condition that nothing it was judged by has changed meanwhile.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    ApiError, Causes, Kind, Object, Part, Registry, WriteOptions, allocate,
    kinds::PODS,
    managed, meta,
    object::{canonical, drop_nulls, json_of, managed_of},
};
use crate::store::{Expect, Operation, Outcome, Record, Revision, Write};

/// How often a write is tried again when others were faster.
pub(super) const ATTEMPTS: usize = 64;
/// How often another generated name is tried.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates an object.
    ///
    /// # Errors
    /// [`ApiError::AlreadyExists`], [`ApiError::Invalid`], [`ApiError::BadRequest`], [`ApiError::NotFound`] and
    /// [`ApiError::NamespaceTerminating`] for the namespace, or the store's.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Object, ApiError> {
        kind.drop_nulls(&mut value);
        let now = Timestamp::now();
        let prefix = meta::prepare_create(kind, namespace, &mut value, now)?;
        kind.set_defaults(&mut value);
        let managed = managed::of_new(kind, &value, options, &meta::timestamp(now));
        let new = New {
            kind,
            namespace,
            managed,
            prefix,
        };
        self.store_new(new, value, options).await
    }

    /// Stores an object with its defaults; the rest of it is filled in here.
    pub(super) async fn store_new(
        &self,
        new: New<'_>,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Object, ApiError> {
        let New { kind, prefix, .. } = &new;
        if kind.custom().is_some_and(|custom| custom.terminating) {
            return Err(ApiError::MethodNotAllowed {
                allow: "GET, PUT, PATCH, DELETE".to_owned(),
            });
        }
        (kind.rules.prepare_create)(&mut value);
        (kind.rules.admit)(&self.context, None, &mut value);
        if **kind == PODS && self.context.service_accounts {
            self.admit_account(new.namespace, &mut value).await?;
        }
        let mut names_left = NAME_ATTEMPTS;
        for _ in 0..ATTEMPTS {
            match self.try_create(&new, &value, options).await? {
                Tried::Done(object) => return Ok(object),
                Tried::Again => {}
                Tried::Exists if prefix.is_some() && names_left > 0 => {
                    names_left -= 1;
                    meta::generate_name(&mut value, prefix.as_deref().unwrap_or_default());
                }
                Tried::Exists => {
                    return Err(ApiError::AlreadyExists {
                        kind,
                        name: meta::text(&value, "name").to_owned(),
                    });
                }
            }
        }
        Err(contention(kind, meta::text(&value, "name")))
    }

    async fn try_create(
        &self,
        new: &New<'_>,
        value: &Value,
        options: &WriteOptions,
    ) -> Result<Tried, ApiError> {
        let New {
            kind, namespace, ..
        } = *new;
        let name = meta::text(value, "name");
        let namespace_guard = match namespace {
            Some(namespace) if kind.namespaced => {
                Some(self.open_namespace(kind, name, namespace).await?)
            }
            _ => None,
        };
        self.validate(kind, value, None)?;
        let key = kind.key(namespace, name);
        let mut value = value.clone();
        let held = allocate::plan(self, kind, None, &mut value, options.dry_run).await?;
        let json = canonical(kind, &value, new.managed.as_deref());
        let done = |json, revision| {
            let warnings = kind.warnings(Part::Main, &value);
            Tried::Done(Object::new(kind, json, revision).with_warnings(warnings))
        };
        if options.dry_run {
            if self.backend.get(key.as_bytes(), None).await?.is_some() {
                return Ok(Tried::Exists);
            }
            return Ok(done(json, Revision(0)));
        }
        let mut writes = vec![Write {
            key: key.into(),
            expect: Expect::Absent,
            operation: Operation::Put {
                value: json.clone(),
                ttl: kind.rules.ttl,
            },
        }];
        writes.extend(namespace_guard);
        writes.extend(held.writes());
        match self.backend.commit(writes, kind.rules.durability).await? {
            Outcome::Committed { revision, .. } => Ok(done(json, revision)),
            Outcome::Conflict { index: 0, .. } => Ok(Tried::Exists),
            // Someone took the same address or port, or the namespace changed: looking again finds another one, or
            // the error to report.
            Outcome::Conflict { .. } => Ok(Tried::Again),
        }
    }

    /// A check that the namespace exists and is not going away, which holds until the commit (M3, F3).
    async fn open_namespace(
        &self,
        kind: &'static Kind,
        name: &str,
        namespace: &str,
    ) -> Result<Write, ApiError> {
        let record = self
            .record(&super::kinds::NAMESPACES, None, namespace)
            .await?;
        // Only a terminating namespace has this field; looking for its text first spares parsing the others.
        let needle = b"\"deletionTimestamp\"";
        let suspicious = memchr::memmem::find(&record.value, needle).is_some();
        if suspicious && meta::is_terminating(&parse(&super::kinds::NAMESPACES, &record)) {
            return Err(ApiError::NamespaceTerminating {
                kind,
                name: name.to_owned(),
                namespace: namespace.to_owned(),
            });
        }
        Ok(Write {
            key: record.key.clone(),
            expect: Expect::Modified(record.modified),
            operation: Operation::Check,
        })
    }

    /// Replaces an object, or creates it where the kind allows that. Answers whether it was created.
    ///
    /// # Errors
    /// Those of [`Registry::modify`] and [`Registry::create`].
    pub async fn replace(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        value: Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<(Object, bool), ApiError> {
        let updated = self
            .update(kind, namespace, name, value.clone(), part, options)
            .await;
        match updated {
            Err(error) if error.is_not_found() && may_create(kind, part, &value) => {
                let mut value = value;
                meta::match_path(kind, namespace, Some(name), &mut value)?;
                meta::metadata_mut(&mut value).shift_remove("resourceVersion");
                let created = self.create(kind, namespace, value, options).await?;
                Ok((created, true))
            }
            other => other.map(|object| (object, false)),
        }
    }

    /// Replaces an object that exists. With a resourceVersion in it, only that version.
    ///
    /// # Errors
    /// Those of [`Registry::modify`].
    pub async fn update(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        mut value: Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<Object, ApiError> {
        meta::match_path(kind, namespace, Some(name), &mut value)?;
        if meta::text(&value, "resourceVersion").is_empty() && !kind.rules.unconditional_update {
            let mut causes = Causes::default();
            let field = "metadata.resourceVersion";
            causes.invalid(field, 0, "must be specified for an update");
            causes.into_result(kind, name)?;
        }
        self.modify(kind, namespace, name, part, options, |target| {
            *target = value.clone();
            Ok(())
        })
        .await
    }

    /// Reads, changes, and writes back; again when somebody else wrote in between. `change` sees the object with its
    /// resourceVersion; when it leaves another one there, that is a precondition. Equal results are not written (M8).
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::Conflict`], [`ApiError::Invalid`], what `change` returns, or the store's.
    pub async fn modify(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        part: Part,
        options: &WriteOptions,
        mut change: impl FnMut(&mut Value) -> Result<(), ApiError> + Send,
    ) -> Result<Object, ApiError> {
        for _ in 0..ATTEMPTS {
            let record = self.record(kind, namespace, name).await?;
            let old = parse(kind, &record);
            let stored = managed_of(&record.value);
            let mut new = old.clone();
            let version = record.modified.0.to_string();
            let metadata = meta::metadata_mut(&mut new);
            metadata.insert("resourceVersion".into(), version.clone().into());
            if let Some(stored) = stored.filter(|_| options.sees_managed_fields) {
                let managed = serde_json::from_str(stored).unwrap_or_default();
                metadata.insert("managedFields".into(), managed);
            }
            change(&mut new)?;
            let managers = managed::Before::take(&mut new, stored, part);
            kind.drop_nulls(&mut new);
            meta::match_path(kind, namespace, Some(name), &mut new)?;
            let wanted = meta::text(&new, "resourceVersion");
            let pinned = !matches!(wanted, "" | "0");
            if pinned && wanted != version {
                return Err(ApiError::modified(kind, name));
            }
            meta::metadata_mut(&mut new).shift_remove("resourceVersion");
            self.prepare_update(kind, name, part, &old, &mut new)?;
            let warnings = kind.warnings(part, &new);
            if new == old && !managers.differs_from(stored) {
                return Ok(Object::from_record(kind, &record).with_warnings(warnings));
            }
            let now = meta::timestamp(Timestamp::now());
            let managed = managers.after(kind, part, (&old, &new), options, &now);
            let update = Update {
                kind,
                record: &record,
                old: &old,
                managed,
            };
            match self.try_update(&update, new, options).await? {
                Tried::Done(object) => return Ok(object.with_warnings(warnings)),
                Tried::Again | Tried::Exists => {}
            }
        }
        Err(contention(kind, name))
    }

    /// Everything between what the caller wants and what may be stored.
    pub(super) fn prepare_update(
        &self,
        kind: &'static Kind,
        name: &str,
        part: Part,
        old: &Value,
        new: &mut Value,
    ) -> Result<(), ApiError> {
        meta::prepare_update(kind, name, old, new)?;
        keep_other_parts(kind, part, old, new);
        kind.set_defaults(new);
        if part == Part::Main {
            (kind.rules.prepare_update)(&self.context, old, new);
            (kind.rules.admit)(&self.context, Some(old), new);
        } else {
            let mut causes = Causes::default();
            (kind.rules.prepare_part)(part, old, new, &mut causes);
            causes.into_result(kind, name)?;
        }
        if part == Part::Binding {
            // What only a binding may change is not for the kind's own rules, and a Pod that was put on a node is still
            // what its author wrote.
            let mut causes = Causes::default();
            meta::validate(kind, new, Some(old), &mut causes);
            return causes.into_result(kind, name);
        }
        if new != old {
            self.validate(kind, new, Some(old))?;
            meta::bump_generation(kind, old, new);
        }
        Ok(())
    }

    pub(super) async fn try_update(
        &self,
        update: &Update<'_>,
        mut new: Value,
        options: &WriteOptions,
    ) -> Result<Tried, ApiError> {
        let Update {
            kind, record, old, ..
        } = *update;
        let managed = update.managed.as_deref();
        if may_go(kind, &new) {
            let deleted = self
                .remove_record(kind, record, &new, options.dry_run)
                .await?;
            return Ok(deleted.map_or(Tried::Again, Tried::Done));
        }
        let held = allocate::plan(self, kind, Some(old), &mut new, options.dry_run).await?;
        // What was filled in may be just what was there.
        if new == *old && managed == managed_of(&record.value) {
            return Ok(Tried::Done(Object::from_record(kind, record)));
        }
        let json = canonical(kind, &new, managed);
        if options.dry_run {
            return Ok(Tried::Done(Object::new(kind, json, record.modified)));
        }
        let mut writes = vec![Write {
            key: record.key.clone(),
            expect: Expect::Modified(record.modified),
            operation: Operation::Put {
                value: json.clone(),
                ttl: kind.rules.ttl,
            },
        }];
        writes.extend(held.writes());
        match self.backend.commit(writes, kind.rules.durability).await? {
            Outcome::Committed { revision, .. } => {
                Ok(Tried::Done(Object::new(kind, json, revision)))
            }
            Outcome::Conflict { .. } => Ok(Tried::Again),
        }
    }

    fn validate(
        &self,
        kind: &'static Kind,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut causes = Causes::default();
        meta::validate(kind, new, old, &mut causes);
        if let Some(custom) = kind.custom() {
            custom.validate(new, old, &mut causes);
        }
        (kind.rules.validate)(&self.context, new, old, &mut causes);
        causes.into_result(kind, meta::text(new, "name"))
    }
}

/// An object to be stored for the first time.
pub(super) struct New<'a> {
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<&'a str>,
    /// Its managedFields.
    pub(super) managed: Option<String>,
    /// What its name was made from, when it was made here.
    pub(super) prefix: Option<String>,
}

/// An object to be stored again.
pub(super) struct Update<'a> {
    pub(super) kind: &'static Kind,
    /// What is stored now.
    pub(super) record: &'a Record,
    /// The same, parsed.
    pub(super) old: &'a Value,
    /// Its managedFields after the write.
    pub(super) managed: Option<String>,
}

/// What one attempt came to.
#[derive(Debug)]
pub(super) enum Tried {
    /// Written (or, in a dry run, it would have been).
    Done(Object),
    /// Somebody else was faster: look again.
    Again,
    /// An object of that name exists.
    Exists,
}

/// Whether a terminating object has nothing left to wait for (X3).
pub(super) fn may_go(kind: &Kind, value: &Value) -> bool {
    meta::is_terminating(value)
        && meta::finalizers(value).is_empty()
        && value["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
        && !(kind.rules.held_back)(value)
}

/// Puts back what this endpoint may not change (M10).
fn keep_other_parts(kind: &Kind, part: Part, old: &Value, new: &mut Value) {
    match part {
        Part::Main | Part::Scale if kind.rules.has_status => keep(new, old, "status"),
        Part::Main | Part::Scale | Part::Binding => {}
        Part::Approval => {
            let conditions = new["status"]["conditions"].take();
            *new = old.clone();
            if !conditions.is_null() {
                new["status"]["conditions"] = conditions;
            }
        }
        Part::Status => {
            let mut kept = old.clone();
            if let Some(status) = new.get("status") {
                kept["status"] = status.clone();
            } else if let Some(map) = kept.as_object_mut() {
                map.shift_remove("status");
            }
            for field in ["labels", "annotations", "finalizers"] {
                let metadata = meta::metadata_mut(&mut kept);
                match new["metadata"].get(field) {
                    Some(value) => metadata.insert(field.into(), value.clone()),
                    None => metadata.shift_remove(field),
                };
            }
            *new = kept;
        }
        Part::Finalize => {
            let finalizers = new["spec"]["finalizers"].clone();
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
            drop_nulls(new);
        }
    }
}

fn keep(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else {
        return;
    };
    match old.get(field) {
        Some(kept) => map.insert(field.into(), kept.clone()),
        None => map.shift_remove(field),
    };
}

fn may_create(kind: &Kind, part: Part, value: &Value) -> bool {
    kind.rules.create_on_update
        && part == Part::Main
        && meta::text(value, "resourceVersion").is_empty()
        && meta::text(value, "uid").is_empty()
}

/// The stored object without its managedFields; what we wrote we can read.
pub(super) fn parse(kind: &'static Kind, record: &Record) -> Value {
    let json = json_of(&record.value);
    let mut value = serde_json::from_slice(&json).unwrap_or(Value::Null);
    if let Some(renamed) = kind.rules.renamed {
        renamed.serve(&mut value, &kind.api_version());
    }
    if let Some(custom) = kind.custom().filter(|custom| custom.converts(kind, &json)) {
        custom.convert(kind, &mut value);
    }
    value
}

pub(super) fn contention(kind: &'static Kind, name: &str) -> ApiError {
    ApiError::Contention {
        kind,
        name: name.to_owned(),
    }
}
