//! Server-side apply (A1-A13): a configuration becomes part of an object, and its manager the owner of what it says.

use std::sync::Arc;

use api::schema::{
    Type,
    apply::{ApplyError, Config, Managers, Operation},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ApiError, Kind, Object, Part, Registry, WriteOptions, managed, meta,
    object::managed_of,
    write::{ATTEMPTS, New, Tried, Update, contention, parse},
};
use crate::store::Record;

/// A configuration, and how to apply it.
#[derive(Clone, Debug)]
pub struct Apply {
    /// The fields its manager wants, with kind and apiVersion.
    pub config: Value,
    /// What of the object it may change.
    pub part: Part,
    /// Take fields from other managers instead of reporting a conflict.
    pub force: bool,
    /// Whether an object that does not exist is created.
    pub may_create: bool,
    /// The manager, and whether anything is stored.
    pub options: WriteOptions,
}

/// Refuses what the caller may not make of an object: as it is, if it is, and as it would become.
pub type Check<'a> = dyn Fn(Option<&Value>, &Value) -> Result<(), ApiError> + Sync + 'a;

impl Registry {
    /// Applies a configuration to an object, or creates it. Answers whether it was created.
    ///
    /// # Errors
    /// What `check` says, [`ApiError::ApplyConflict`], [`ApiError::BadRequest`] for a configuration that does not fit path or schema,
    /// [`ApiError::Conflict`] for a resourceVersion or uid that is not the object's, those of [`Registry::create`] and
    /// [`Registry::modify`].
    pub async fn apply(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        mut apply: Apply,
        check: &Check<'_>,
    ) -> Result<(Object, bool), ApiError> {
        let of = managed::type_of(kind).ok_or(ApiError::UnknownPath)?;
        check_config(kind, namespace, name, &mut apply.config)?;
        let metadata = meta::metadata_mut(&mut apply.config);
        let version = metadata.shift_remove("resourceVersion");
        let version = version.as_ref().and_then(Value::as_str).unwrap_or_default();
        let applying = Applying {
            registry: self,
            of: &of,
            kind,
            namespace,
            name,
            apply: &apply,
            check,
        };
        let key = kind.key(namespace, name);
        for _ in 0..ATTEMPTS {
            let record = self.backend.get(key.as_bytes(), None).await?;
            let done = match record {
                Some(record) => {
                    let pinned = !matches!(version, "" | "0");
                    if pinned && version != record.modified.0.to_string() {
                        return Err(ApiError::modified(kind, name));
                    }
                    let object = applying.update(&record).await?;
                    object.map(|object| (object, false))
                }
                None if apply.part != Part::Main || !apply.may_create => {
                    return Err(ApiError::NotFound {
                        kind,
                        name: name.to_owned(),
                    });
                }
                None if !version.is_empty() => return Err(ApiError::modified(kind, name)),
                None => match applying.create().await {
                    Err(error) if error.is_already_exists() => None,
                    object => Some((object?, true)),
                },
            };
            if let Some(done) = done {
                return Ok(done);
            }
        }
        Err(contention(kind, name))
    }
}

/// One apply under way.
struct Applying<'a> {
    registry: &'a Registry,
    of: &'a Type,
    kind: &'static Kind,
    namespace: Option<&'a str>,
    name: &'a str,
    apply: &'a Apply,
    check: &'a Check<'a>,
}

impl Applying<'_> {
    /// Into an object that does not exist.
    async fn create(&self) -> Result<Object, ApiError> {
        let Self { kind, name, .. } = *self;
        let uid = meta::text(&self.apply.config, "uid");
        if !uid.is_empty() {
            return Err(ApiError::Conflict {
                kind,
                name: name.to_owned(),
                detail: format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                ),
            });
        }
        let now = Timestamp::now();
        let (mut value, managers) = self.merge(&json!({}), Managers::default(), now)?;
        kind.drop_nulls(&mut value);
        (self.check)(None, &value)?;
        let prefix = meta::prepare_create(kind, self.namespace, &mut value, now)?;
        kind.set_defaults(&mut value);
        let new = New {
            kind,
            namespace: self.namespace,
            managed: (!managers.is_empty()).then(|| managers.to_json()),
            prefix,
        };
        let options = &self.apply.options;
        self.registry.store_new(new, value, options).await
    }

    /// Into the object in a record; `None` when somebody else wrote first.
    async fn update(&self, record: &Arc<Record>) -> Result<Option<Object>, ApiError> {
        let Self { kind, name, .. } = *self;
        let old = parse(kind, record);
        let stored = managed_of(&record.value);
        let before = Managers::read(stored.unwrap_or("[]")).unwrap_or_default();
        let (mut new, after) = self.merge(&old, before.clone(), Timestamp::now())?;
        kind.drop_nulls(&mut new);
        meta::match_path(kind, self.namespace, Some(name), &mut new)?;
        self.registry
            .prepare_update(kind, name, self.apply.part, &old, &mut new)?;
        (self.check)(Some(&old), &new)?;
        let warnings = kind.warnings(self.apply.part, &new);
        if new == old && after.same_but_for_times(&before) {
            let object = Object::from_record(kind, record);
            return Ok(Some(object.with_warnings(warnings)));
        }
        let update = Update {
            kind,
            record,
            old: &old,
            managed: (!after.is_empty()).then(|| after.to_json()),
        };
        let options = &self.apply.options;
        match self.registry.try_update(&update, new, options).await? {
            Tried::Done(object) => Ok(Some(object.with_warnings(warnings))),
            Tried::Again | Tried::Exists => Ok(None),
        }
    }

    fn merge<'m>(
        &self,
        live: &Value,
        managers: Managers<'m>,
        now: Timestamp,
    ) -> Result<(Value, Managers<'m>), ApiError> {
        let Apply {
            config,
            part,
            force,
            options,
            ..
        } = self.apply;
        let api_version = self.kind.api_version();
        let config = Config {
            value: config,
            author: managed::author(&options.manager, Operation::Apply, &api_version, *part),
            force: *force,
            ignored: &managed::ignored(self.kind, *part),
            now: &meta::timestamp(now),
        };
        let applied = config.apply(self.of, live, managers);
        applied.map_err(|error| match error {
            ApplyError::Conflict(conflicts) => ApiError::ApplyConflict(conflicts),
            ApplyError::Schema(error) => self.unfit(&error.to_string()),
        })
    }

    fn unfit(&self, problem: &str) -> ApiError {
        unfit(self.kind, self.namespace, self.name, problem)
    }
}

/// A configuration that does not fit the schema, in upstream's words.
fn unfit(kind: &Kind, namespace: Option<&str>, name: &str, problem: &str) -> ApiError {
    ApiError::BadRequest(format!(
        "failed to create typed patch object ({}/{name}; {}, Kind={}): {problem}",
        namespace.unwrap_or_default(),
        kind.api_version(),
        kind.kind
    ))
}

/// Refuses configurations that do not say what they are, or are of something else (A2).
fn check_config(
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    config: &mut Value,
) -> Result<(), ApiError> {
    if !config.is_object() {
        return Err(ApiError::BadRequest(
            "error decoding YAML: the configuration is not an object".into(),
        ));
    }
    for field in ["apiVersion", "kind"] {
        if config[field].as_str().unwrap_or_default().is_empty() {
            return Err(ApiError::BadRequest(format!(
                "apply patch: {field} is required in the body"
            )));
        }
    }
    if config["apiVersion"] != kind.api_version() {
        return Err(ApiError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            config["apiVersion"].as_str().unwrap_or_default(),
            kind.api_version()
        )));
    }
    if config["metadata"]
        .get("managedFields")
        .is_some_and(|managed| !managed.is_null())
    {
        return Err(ApiError::BadRequest(
            "metadata.managedFields must be nil".into(),
        ));
    }
    if let Some(of) = managed::type_of(kind) {
        let fits = of.check(config);
        fits.map_err(|error| unfit(kind, namespace, name, &error.to_string()))?;
    }
    meta::match_path(kind, namespace, Some(name), config)
}
