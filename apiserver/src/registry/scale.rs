//! The `scale` of a workload: how many Pods it should have, in the same words for every kind (M12).
//! Source: kubernetes/kubernetes pkg/registry/apps/deployment/storage/storage.go, ScaleREST.

use serde_json::{Value, json};

use super::{
    ApiError, Causes, Kind, Object, Part, Registry, WriteOptions,
    custom::ScalePaths,
    kind::{NameRule, Rules},
    kinds::template::{count, selector_text},
    meta,
    object::canonical,
    table::{AGE, Column, NAME, Table},
};

/// Scale (autoscaling/v1). It has no path of its own and is never stored.
pub static SCALES: Kind = Kind {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    plural: "scales",
    singular: "scale",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: &[],
    subresources: &[],
    rules: Rules {
        name: NameRule::Own,
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::integer("Desired", "How many Pods are wanted."),
            Column::integer("Available", "How many Pods there are."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            row.number(count(object, ["spec", "replicas"]));
            row.number(count(object, ["status", "replicas"]));
            row.age(object);
        },
    },
};

/// Where a workload has what its Scale shows.
struct Place(Option<ScalePaths>);

impl Place {
    fn of(kind: &Kind) -> Self {
        Self(kind.custom().and_then(|custom| custom.scale.clone()))
    }

    fn wanted(&self, workload: &Value) -> i64 {
        match &self.0 {
            Some(paths) => at(workload, &paths.wanted).as_i64().unwrap_or(0),
            None => count(workload, ["spec", "replicas"]),
        }
    }

    fn current(&self, workload: &Value) -> i64 {
        match &self.0 {
            Some(paths) => at(workload, &paths.current).as_i64().unwrap_or(0),
            None => count(workload, ["status", "replicas"]),
        }
    }

    fn selector(&self, workload: &Value) -> String {
        match &self.0 {
            Some(paths) if paths.selector.is_empty() => String::new(),
            Some(paths) => {
                let text = at(workload, &paths.selector).as_str();
                text.unwrap_or_default().to_owned()
            }
            None => selector_text(&workload["spec"]["selector"]),
        }
    }

    /// Writes the number of Pods that are wanted; makes the objects on the way.
    fn set_wanted(&self, workload: &mut Value, replicas: i64) {
        let Some(paths) = &self.0 else {
            workload["spec"]["replicas"] = json!(replicas);
            return;
        };
        let place = paths.wanted.iter().fold(workload, |value, name| {
            if !value.is_object() {
                *value = json!({});
            }
            &mut value[name.as_str()]
        });
        *place = json!(replicas);
    }
}

fn at<'v>(value: &'v Value, path: &[String]) -> &'v Value {
    path.iter().fold(value, |value, name| &value[name.as_str()])
}

/// The Scale of a workload.
fn scale_of(kind: &Kind, workload: &Value) -> Value {
    let place = Place::of(kind);
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = workload["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut scale = json!({
        "metadata": metadata,
        "spec": {},
        "status": {"replicas": place.current(workload)},
    });
    // As protobuf has it: none is absent.
    let wanted = place.wanted(workload);
    if wanted != 0 {
        scale["spec"]["replicas"] = json!(wanted);
    }
    let selector = place.selector(workload);
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

impl Object {
    /// The Scale of this workload.
    #[must_use]
    pub fn scale(&self) -> Self {
        let scale = canonical(&SCALES, &scale_of(self.kind(), &self.value()), None);
        Self::new(&SCALES, scale, self.revision())
    }
}

impl Registry {
    /// Changes the Scale of a workload; answers the new one.
    ///
    /// # Errors
    /// Those of [`Registry::modify`]; [`ApiError::Invalid`] for a number of Pods below zero.
    pub async fn modify_scale(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        options: &WriteOptions,
        mut change: impl FnMut(&mut Value) -> Result<(), ApiError> + Send,
    ) -> Result<Object, ApiError> {
        let changed = self.modify(kind, namespace, name, Part::Scale, options, |workload| {
            let mut scale = scale_of(kind, workload);
            change(&mut scale)?;
            take(&mut scale, kind, namespace, name, workload)
        });
        Ok(changed.await?.scale())
    }
}

/// Makes the workload what its Scale says.
fn take(
    scale: &mut Value,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    workload: &mut Value,
) -> Result<(), ApiError> {
    meta::match_path(&SCALES, namespace, Some(name), scale)?;
    let replicas = count(scale, ["spec", "replicas"]);
    if replicas < 0 {
        let mut causes = Causes::default();
        let detail = "must be greater than or equal to 0";
        causes.invalid("spec.replicas", replicas, detail);
        causes.into_result(&SCALES, name)?;
    }
    let uid = meta::text(scale, "uid");
    let own = meta::text(workload, "uid");
    if !uid.is_empty() && uid != own {
        return Err(ApiError::Conflict {
            kind,
            name: name.to_owned(),
            detail: format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {own}"
            ),
        });
    }
    Place::of(kind).set_wanted(workload, replicas);
    let version = meta::text(scale, "resourceVersion").to_owned();
    meta::metadata_mut(workload).insert("resourceVersion".into(), version.into());
    Ok(())
}
