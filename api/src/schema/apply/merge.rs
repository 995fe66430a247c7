//! Merging a configuration into an object: nothing is removed, what both set is as the configuration has it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Element;
use super::relation::Relation;
use crate::schema::Type;

impl Type {
    /// The object with the configuration merged into it. Items of lists keep the order of the object, unless the
    /// configuration has them in another.
    pub fn merge(&self, live: &Value, config: &Value) -> Value {
        merge(Relation::Struct(self), Some(live), config)
    }
}

fn merge(relation: Relation<'_>, live: Option<&Value>, config: &Value) -> Value {
    let Some(live) = live else {
        return config.clone();
    };
    match (live, config) {
        // A null says nothing about a value with parts; the live ones stay.
        (Value::Object(before), Value::Null)
            if relation.object(Some(live)).is_some() && !before.is_empty() =>
        {
            live.clone()
        }
        (Value::Array(before), Value::Null) if relation.is_list() && !before.is_empty() => {
            live.clone()
        }
        (Value::Object(before), Value::Object(wanted))
            if relation.object(Some(live)).is_some()
                && !(before.is_empty() && wanted.is_empty()) =>
        {
            Value::Object(merge_objects(relation, before, wanted))
        }
        (Value::Array(before), Value::Array(wanted)) if relation.is_list() => {
            merge_lists(relation, before, wanted).map_or_else(|| config.clone(), Value::Array)
        }
        _ => config.clone(),
    }
}

fn merge_objects(
    relation: Relation<'_>,
    live: &Map<String, Value>,
    config: &Map<String, Value>,
) -> Map<String, Value> {
    let mut merged = live.clone();
    for (name, wanted) in config {
        let child = relation.child(name).unwrap_or(Relation::Leaf);
        let value = merge(child, live.get(name), wanted);
        merged.insert(name.clone(), value);
    }
    merged
}

/// `None` when some item has no step: the configuration's list is then taken as it is.
///
/// The items of the configuration come in its order. Those it does not have keep their place before the next item that both
/// have.
fn merge_lists(relation: Relation<'_>, live: &[Value], config: &[Value]) -> Option<Vec<Value>> {
    let step = |item: &Value| relation.element(item).ok();
    let before: Vec<Element> = live.iter().map(step).collect::<Option<_>>()?;
    let wanted: Vec<Element> = config.iter().map(step).collect::<Option<_>>()?;
    let in_config: BTreeSet<&Element> = wanted.iter().collect();
    // Of live items that share a step none is merged with; the configuration replaces them.
    let mut partners: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, item) in before.iter().zip(live) {
        let known = partners.contains_key(element);
        partners.insert(element, (!known).then_some(item));
    }
    let mut shared = wanted.iter().filter(|step| partners.contains_key(step));
    let mut next_shared = shared.next();
    let mut merged = Vec::with_capacity(before.len().max(wanted.len()));
    let mut rest = before.iter().zip(live).peekable();
    for (element, item) in wanted.iter().zip(config) {
        // Those that both have but that stand elsewhere in the configuration are passed over.
        while let Some((step, item)) = rest.next_if(|(step, _)| Some(*step) != next_shared) {
            if !in_config.contains(step) {
                merged.push(item.clone());
            }
        }
        if Some(element) == next_shared {
            rest.next();
            next_shared = shared.next();
        }
        let partner = partners.get(element).copied().flatten();
        merged.push(merge(relation.item(), partner, item));
    }
    let left = rest.filter(|(step, _)| !in_config.contains(step));
    merged.extend(left.map(|(_, item)| item.clone()));
    Some(merged)
}
