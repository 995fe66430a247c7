//! The `scale` of a workload: how many Pods it should have, in the same words for every kind (M12).
//! Source: kubernetes/kubernetes pkg/registry/apps/deployment/storage/storage.go, ScaleREST.

use serde_json::{Value, json};

use super::{
    ApiError, Causes, Kind, Object, Part, Registry, WriteOptions,
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

/// The Scale of a workload.
fn scale_of(workload: &Value) -> Value {
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
        "status": {"replicas": count(workload, ["status", "replicas"])},
    });
    // As protobuf has it: none is absent.
    let wanted = count(workload, ["spec", "replicas"]);
    if wanted != 0 {
        scale["spec"]["replicas"] = json!(wanted);
    }
    let selector = selector_text(&workload["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

impl Object {
    /// The Scale of this workload.
    #[must_use]
    pub fn scale(&self) -> Self {
        let scale = canonical(&SCALES, &scale_of(&self.value()), None);
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
            let mut scale = scale_of(workload);
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
    workload["spec"]["replicas"] = json!(replicas);
    let version = meta::text(scale, "resourceVersion").to_owned();
    meta::metadata_mut(workload).insert("resourceVersion".into(), version.into());
    Ok(())
}
