//! How `kubectl get` prints custom resources: `additionalPrinterColumns` (T4).
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor.

use serde_json::{Value, json};

use super::json_path::JsonPath;
use crate::registry::table::Row;

/// A column a CustomResourceDefinition names.
#[derive(Debug)]
pub(super) struct Column {
    definition: Value,
    of: Cell,
    path: JsonPath,
}

#[derive(Clone, Copy, Debug)]
enum Cell {
    Text,
    Number,
    Boolean,
    /// Shown as how long ago it was.
    Date,
}

impl Column {
    /// The columns of a version, the name first; without any of its own, the age.
    pub(super) fn read(columns: &Value) -> Vec<Self> {
        let own = columns.as_array().into_iter().flatten();
        let own: Vec<Self> = own.filter_map(Self::read_one).collect();
        if !own.is_empty() {
            return own;
        }
        let age = json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": crate::registry::table::AGE.description,
        });
        Self::read_one(&age).into_iter().collect()
    }

    fn read_one(json: &Value) -> Option<Self> {
        let of = json["type"].as_str()?;
        Some(Self {
            definition: json!({
                "name": json["name"], "type": of,
                "format": json["format"].as_str().unwrap_or_default(),
                "description": json["description"].as_str().map_or_else(
                    || format!("Custom resource definition column (in JSONPath format): {}", json["jsonPath"].as_str().unwrap_or_default()),
                    str::to_owned,
                ),
                "priority": json["priority"].as_i64().unwrap_or(0),
            }),
            of: match of {
                "integer" | "number" => Cell::Number,
                "boolean" => Cell::Boolean,
                "date" => Cell::Date,
                _ => Cell::Text,
            },
            path: json["jsonPath"].as_str()?.parse().ok()?,
        })
    }

    /// As a `columnDefinitions` entry.
    pub(super) fn definition(&self) -> Value {
        self.definition.clone()
    }

    /// Its cell of an object; null where there is nothing to show.
    pub(super) fn fill(&self, object: &Value, row: &mut Row) {
        let found = self.path.find(object);
        let cell = match (self.of, found.as_slice()) {
            (_, [] | [Value::Null]) => Value::Null,
            (Cell::Number, [number @ Value::Number(_), ..]) => (*number).clone(),
            (Cell::Boolean, [boolean @ Value::Bool(_), ..]) => (*boolean).clone(),
            (Cell::Number | Cell::Boolean, _) => Value::Null,
            (Cell::Date, [Value::String(time), ..]) => row.elapsed(time).into(),
            (Cell::Date, _) => "<unknown>".into(),
            (Cell::Text, values) => {
                let word = |value: &&Value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                };
                values.iter().map(word).collect::<Vec<_>>().join(",").into()
            }
        };
        row.cells.push(cell);
    }
}
