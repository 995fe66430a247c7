//! Which fields differ between two versions of an object.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::relation::{Relation, always_there};
use super::set::Node;
use super::{Element, FieldSet};
use crate::schema::{Shape, Type};

/// The difference of two versions of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Fields that are new, or have another value.
    pub changed: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
}

/// The same of one value: below it, and of itself.
#[derive(Default)]
struct Difference {
    below: Comparison,
    changed: bool,
    removed: bool,
}

static EMPTY_OBJECT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NULL: Value = Value::Null;

impl Type {
    /// Compares two objects of this type. Equal objects cost one walk and nothing else.
    pub fn compare(&self, old: &Value, new: &Value) -> Comparison {
        compare(Relation::Struct(self), Some(old), Some(new)).below
    }
}

impl Comparison {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    /// Leaves these fields, and all below them, out.
    #[must_use]
    pub fn without(mut self, ignored: &FieldSet) -> Self {
        self.changed.cut(ignored);
        self.removed.cut(ignored);
        self
    }
}

fn compare(relation: Relation<'_>, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut difference = Difference::default();
    let objects = (relation.object(old), relation.object(new));
    match objects {
        // Both empty: what counts is whether it is there.
        (old, new)
            if old.is_some_and(|map| !map.is_empty()) || new.is_some_and(|map| !map.is_empty()) =>
        {
            difference.below = compare_objects(relation, old, new);
        }
        _ if relation.is_list() && (has_items(old) || has_items(new)) => {
            match compare_lists(relation, items(old), items(new)) {
                Some(below) => difference.below = below,
                None => return whole(old, new),
            }
        }
        _ => return whole(old, new),
    }
    difference.changed = old.is_none();
    difference.removed = new.is_none();
    difference
}

/// Compares what has no parts.
fn whole(old: Option<&Value>, new: Option<&Value>) -> Difference {
    Difference {
        below: Comparison::default(),
        changed: new.is_some() && old != new,
        removed: new.is_none() && old.is_some(),
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn has_items(value: Option<&Value>) -> bool {
    !items(value).is_empty()
}

/// Gathers the differences of the parts of a value.
#[derive(Default)]
struct Parts {
    changed: Vec<Node>,
    removed: Vec<Node>,
}

impl Parts {
    fn add(&mut self, element: impl FnOnce() -> Element, difference: Difference) {
        let Difference {
            below,
            changed,
            removed,
        } = difference;
        if !changed && !removed && below.is_empty() {
            return;
        }
        let element = element();
        if changed || !below.changed.is_empty() {
            self.changed.push(Node {
                element: element.clone(),
                member: changed,
                children: below.changed,
            });
        }
        if removed || !below.removed.is_empty() {
            self.removed.push(Node {
                element,
                member: removed,
                children: below.removed,
            });
        }
    }

    fn finish(self) -> Comparison {
        Comparison {
            changed: FieldSet::from_nodes(self.changed),
            removed: FieldSet::from_nodes(self.removed),
        }
    }
}

fn compare_objects(
    relation: Relation<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
) -> Comparison {
    let mut parts = Parts::default();
    let mut part = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        let Some(child) = relation.child(name) else {
            return;
        };
        let difference = compare(child, old, new);
        parts.add(|| relation.step(name), difference);
    };
    // A field Go always has, of an object that is there. Those that differ only in being there do not differ.
    let absent = |name: &str, there: bool| match relation {
        Relation::Struct(of) if there => {
            of.field(name)
                .filter(|field| always_there(field))
                .map(|field| match field.shape {
                    Shape::Message(_) => &*EMPTY_OBJECT,
                    _ => &NULL,
                })
        }
        _ => None,
    };
    // The newer version is mostly a changed copy of the older: the same keys in the same order, found without looking up.
    let mut beside = old.into_iter().flatten();
    for (name, value) in new.into_iter().flatten() {
        let before = match beside.next() {
            Some((same, before)) if same == name => Some(before),
            _ => old.and_then(|old| old.get(name)),
        };
        part(
            name,
            before.or_else(|| absent(name, old.is_some())),
            Some(value),
        );
    }
    for (name, value) in old.into_iter().flatten() {
        if new.is_none_or(|new| !new.contains_key(name)) {
            part(name, Some(value), absent(name, new.is_some()));
        }
    }
    // The fields Go has in an object that came or went as a whole.
    if let (Relation::Struct(of), true) = (relation, old.is_none() || new.is_none()) {
        let there = old.or(new);
        for field in of.fields.iter().filter(|field| always_there(field)) {
            let said = there.is_some_and(|map| map.contains_key(&*field.name));
            if !said && matches!(field.shape, Shape::Message(_)) {
                part(
                    &field.name,
                    absent(&field.name, old.is_some()),
                    absent(&field.name, new.is_some()),
                );
            }
        }
    }
    parts.finish()
}

/// Compares items by their keys or values. `None` when some item has none: such a list has no parts.
fn compare_lists(relation: Relation<'_>, old: &[Value], new: &[Value]) -> Option<Comparison> {
    if old == new {
        return Some(Comparison::default());
    }
    let mut sides: BTreeMap<Element, [Vec<&Value>; 2]> = BTreeMap::new();
    for (side, list) in [old, new].into_iter().enumerate() {
        for item in list {
            let element = relation.element(item).ok()?;
            sides.entry(element).or_default()[side].push(item);
        }
    }
    let mut parts = Parts::default();
    for (element, [old, new]) in sides {
        let difference = compare_items(relation, &old, &new);
        parts.add(|| element, difference);
    }
    Some(parts.finish())
}

/// Items that share a step, which only ordinary writes can leave behind, are taken as a whole.
fn compare_items(relation: Relation<'_>, old: &[&Value], new: &[&Value]) -> Difference {
    match (old, new) {
        ([_] | [], [_] | []) => {
            compare(relation.item(), old.first().copied(), new.first().copied())
        }
        _ => Difference {
            below: Comparison::default(),
            changed: !new.is_empty() && old != new,
            removed: new.is_empty(),
        },
    }
}
