//! Custom resources: the kinds that CustomResourceDefinitions make.
//!
//! Reading order: [`schema`] (what a definition says of a value), [`structural`] (which schemas are accepted), then one file for
//! each thing done with it: [`shape`] (pruning, nulls, defaults), [`validate`], [`apply_type`] (server-side apply), [`openapi`],
//! [`columns`]; [`json_path`], [`pattern`] and [`format`](mod@format) serve them. [`definition`] turns a CustomResourceDefinition into kinds,
//! [`served`] keeps those that are served.

mod apply_type;
mod columns;
pub(super) mod definition;
mod format;
pub(super) mod json_path;
mod openapi;
mod pattern;
mod schema;
mod served;
mod shape;
pub(super) mod structural;
mod validate;

use std::sync::{Arc, PoisonError, RwLock};

use api::schema::Type;
use serde_json::Value;

use self::{columns::Column, json_path::JsonPath, schema::Schema};
use super::{Causes, Kind, table::Row};

pub use definition::{Definition, conditions};
pub use openapi::OpenApi;
pub(super) use served::Served;

/// What one version of a CustomResourceDefinition says of its objects.
#[derive(Debug)]
pub struct Custom {
    pub(super) schema: Schema,
    /// The same for server-side apply.
    pub(super) of: Type,
    columns: Vec<Column>,
    /// The fields besides the metadata that selectors may name.
    selectable: Vec<(String, JsonPath)>,
    pub(super) scale: Option<ScalePaths>,
    /// What is stored says this version, whichever it was written in.
    pub(super) stored_api_version: String,
    /// What users of this version are told.
    deprecation: Option<String>,
    list_kind: String,
    has_defaults: bool,
    openapi: OpenApi,
    /// The definition is on its way out: no more objects are made.
    pub(super) terminating: bool,
}

/// Where an object has the parts of its scale, as names of fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScalePaths {
    pub(super) wanted: Vec<String>,
    pub(super) current: Vec<String>,
    /// A selector as text.
    pub(super) selector: Vec<String>,
}

/// What a kind's definition says now; nothing once it is deleted.
#[derive(Debug, Default)]
pub struct Slot(RwLock<Option<Arc<Custom>>>);

impl Slot {
    fn get(&self) -> Option<Arc<Custom>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, custom: Option<Arc<Custom>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = custom;
    }
}

impl Kind {
    /// Whether a CustomResourceDefinition made this kind.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.rules.custom.is_some()
    }

    /// What the definition says that made this kind; `None` for built-in kinds, and once the definition is gone.
    #[must_use]
    pub fn custom(&self) -> Option<Arc<Custom>> {
        self.rules.custom?.get()
    }
}

impl Kind {
    /// The kind of its lists.
    #[must_use]
    pub fn list_kind(&self) -> String {
        self.custom().map_or_else(
            || format!("{}List", self.kind),
            |custom| custom.list_kind.clone(),
        )
    }

    /// The `columnDefinitions` of its Tables.
    #[must_use]
    pub fn column_definitions(&self) -> Vec<Value> {
        match self.custom() {
            Some(custom) => custom.column_definitions(),
            None => self.table.columns.iter().map(|one| one.to_json()).collect(),
        }
    }

    /// Fills the row of an object.
    pub fn fill(&self, object: &Value, row: &mut Row) {
        match self.custom() {
            Some(custom) => custom.fill(object, row),
            None => (self.table.cells)(object, row),
        }
    }
}

impl Custom {
    /// Drops unknown fields; answers their paths.
    pub(crate) fn prune(&self, object: &mut Value) -> Vec<String> {
        self.schema.prune(object)
    }

    pub(super) fn validate(&self, new: &Value, old: Option<&Value>, causes: &mut Causes) {
        self.schema.validate(new, old, causes);
    }

    /// Whether stored JSON may have to be changed to be read: another version may have written it, or a default may have been
    /// declared since.
    pub(super) fn converts(&self, kind: &Kind, stored: &[u8]) -> bool {
        let head = format!(
            r#"{{"kind":"{}","apiVersion":"{}","#,
            kind.kind,
            kind.api_version()
        );
        self.has_defaults || !stored.starts_with(head.as_bytes())
    }

    /// Makes an object what this version has it as.
    pub(super) fn convert(&self, kind: &Kind, value: &mut Value) {
        value["apiVersion"] = kind.api_version().into();
        self.schema.prune(value);
        self.schema.set_defaults(value);
    }

    /// The values of the selectable fields of an object.
    pub(super) fn field(&self, object: &Value, label: &str) -> String {
        let path = self.selectable.iter().find(|(name, _)| name == label);
        let found = path.map(|(_, path)| path.find(object)).unwrap_or_default();
        match found.first() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// The labels that field selectors may name besides those of the metadata.
    pub(super) fn field_labels(&self) -> impl Iterator<Item = &str> {
        self.selectable.iter().map(|(label, _)| label.as_str())
    }

    fn column_definitions(&self) -> Vec<Value> {
        let name = super::table::NAME.to_json();
        std::iter::once(name)
            .chain(self.columns.iter().map(Column::definition))
            .collect()
    }

    fn fill(&self, object: &Value, row: &mut Row) {
        row.name(object);
        self.columns
            .iter()
            .for_each(|column| column.fill(object, row));
    }

    /// A warning for users of this version, when it is deprecated.
    pub(crate) fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    /// What OpenAPI says of it.
    #[must_use]
    pub fn openapi(&self) -> &OpenApi {
        &self.openapi
    }
}
