//! The fields a value sets.

use std::collections::BTreeMap;

use serde_json::Value;

use super::relation::Relation;
use super::set::Node;
use super::{Element, FieldSet};
use crate::schema::Type;

/// A configuration that does not fit the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct SchemaError {
    /// Where, such as `.spec.ports`.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

impl SchemaError {
    fn new(problem: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            problem: problem.into(),
        }
    }

    /// The same error, seen from one step above.
    fn below(mut self, element: &Element) -> Self {
        self.path.insert_str(0, &element.to_string());
        self
    }
}

impl Type {
    /// The fields an object of this type sets: those whose owner its author becomes by applying it.
    ///
    /// # Errors
    /// A field the schema does not know, an item of a list without its keys, or two items with the same.
    pub fn field_set(&self, value: &Value) -> Result<FieldSet, SchemaError> {
        fields(Relation::Struct(self), value, Reading::Config)
    }

    /// The same of an object as it is, which ordinary writes may have given what no configuration may have: items that the
    /// schema cannot tell apart are taken as one.
    pub(super) fn present_fields(&self, value: &Value) -> FieldSet {
        fields(Relation::Struct(self), value, Reading::Object).unwrap_or_default()
    }

    /// The set, with every declared field in it that has a path of the set below. The keys of maps and the items of lists
    /// are left as they are: only they are removed with what is below them.
    pub(super) fn with_named_fields(&self, set: &FieldSet) -> FieldSet {
        named(Relation::Struct(self), set)
    }
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// A configuration: what is wrong with it is an error.
    Config,
    /// An object: what has no step is left out.
    Object,
}

/// The set below a value; a leaf is in its parent's.
fn fields(
    relation: Relation<'_>,
    value: &Value,
    reading: Reading,
) -> Result<FieldSet, SchemaError> {
    if let Some(object) = relation.object(Some(value)) {
        let mut nodes = Vec::with_capacity(object.len());
        for (name, value) in object {
            let element = relation.step(name);
            let Some(child) = relation.child(name) else {
                if reading == Reading::Object {
                    continue;
                }
                return Err(SchemaError::new("field not declared in schema").below(&element));
            };
            let declared = relation.declares(name);
            let children = fields(child, value, reading).map_err(|error| error.below(&element))?;
            let whole =
                is_whole(child, value) || value.as_object().is_some_and(|map| map.is_empty());
            nodes.push(Node {
                element,
                member: whole || value.is_null() || !declared,
                children,
            });
        }
        return Ok(FieldSet::from_nodes(nodes));
    }
    match value {
        Value::Array(items) if relation.is_list() => list(relation, items, reading),
        _ => Ok(FieldSet::default()),
    }
}

fn list(
    relation: Relation<'_>,
    items: &[Value],
    reading: Reading,
) -> Result<FieldSet, SchemaError> {
    let mut nodes = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let element = match (relation.element(item), reading) {
            (Ok(element), _) => element,
            (Err(_), Reading::Object) => continue,
            (Err(problem), Reading::Config) => {
                return Err(SchemaError::new(format!("element {index}: {problem}")));
            }
        };
        let known = nodes.contains_key(&element);
        if known && reading == Reading::Config {
            return Err(SchemaError::new(format!(
                "duplicate entries for key {element}"
            )));
        }
        let children = if known {
            FieldSet::default()
        } else {
            fields(relation.item(), item, reading).map_err(|error| error.below(&element))?
        };
        nodes.insert(element, children);
    }
    let node = |(element, children)| Node {
        element,
        member: true,
        children,
    };
    Ok(FieldSet::from_nodes(nodes.into_iter().map(node).collect()))
}

/// Whether a value is owned as a whole, not by its parts.
fn is_whole(relation: Relation<'_>, value: &Value) -> bool {
    let parts = match value {
        Value::Object(_) => relation.object(Some(value)).is_some(),
        Value::Array(_) => relation.is_list(),
        _ => false,
    };
    !parts
}

fn named(relation: Relation<'_>, set: &FieldSet) -> FieldSet {
    let node = |node: &Node| {
        let (child, declared) = match &node.element {
            Element::Field(name) => (relation.child(name), relation.declares(name)),
            Element::Key(_) => (Some(relation.item()), false),
            Element::Value(_) | Element::Index(_) => (None, false),
        };
        Node {
            element: node.element.clone(),
            member: node.member || (declared && !node.children.is_empty()),
            children: named(child.unwrap_or(Relation::Leaf), &node.children),
        }
    };
    FieldSet::from_nodes(set.nodes.iter().map(node).collect())
}
