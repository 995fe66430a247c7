//! The schemas of the OpenAPI documents.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Schemas by their short name, such as `core.v1.Service`.
pub(crate) type Schemas = BTreeMap<String, Map<String, Value>>;

/// Reads every `*.json` of the directory. The first document that has a schema wins; they differ only in which group's
/// `DeleteOptions` they announce.
pub(crate) fn read(directory: &Path) -> Result<Schemas> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    paths.sort();
    let mut schemas = Schemas::new();
    for path in paths {
        let document: Value = serde_json::from_slice(&std::fs::read(&path)?)
            .with_context(|| path.display().to_string())?;
        let of_document = document
            .pointer("/components/schemas")
            .and_then(Value::as_object);
        for (name, schema) in
            of_document.with_context(|| format!("{}: no schemas", path.display()))?
        {
            let schema = schema
                .as_object()
                .with_context(|| format!("{name}: not an object"))?;
            schemas
                .entry(short_name(name).to_owned())
                .or_insert_with(|| schema.clone());
        }
    }
    Ok(schemas)
}

/// The last three segments, which are unique: `core.v1.Service`, `meta.v1.Time`, `util.intstr.IntOrString`.
pub(crate) fn short_name(name: &str) -> &str {
    let start = name.rmatch_indices('.').nth(2).map_or(0, |(at, _)| at + 1);
    &name[start..]
}
