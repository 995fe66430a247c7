//! Taking fields out of an object.

use serde_json::Value;

use super::FieldSet;
use super::relation::Relation;
use crate::schema::Type;

impl Type {
    /// The object without the fields and items of the set. What has nothing left in it goes too.
    pub fn remove(&self, value: &Value, set: &FieldSet) -> Value {
        let mut value = value.clone();
        remove(Relation::Struct(self), &mut value, set);
        value
    }
}

/// Takes the fields out; answers whether the value had parts and has none left.
fn remove(relation: Relation<'_>, value: &mut Value, set: &FieldSet) -> bool {
    if set.is_empty() {
        return false;
    }
    let granular = relation.object(Some(value)).is_some();
    match value {
        Value::Object(map) if granular => {
            let before = map.len();
            map.retain(|name, value| {
                let Some(node) = set.below(&relation.step(name)) else {
                    return true;
                };
                let child = relation.child(name).unwrap_or(Relation::Leaf);
                !node.member && !remove(child, value, &node.children)
            });
            before > 0 && map.is_empty()
        }
        Value::Array(items) if relation.is_list() => {
            let before = items.len();
            items.retain_mut(|item| {
                let element = relation.element(item).ok();
                let Some(node) = element.and_then(|element| set.below(&element)) else {
                    return true;
                };
                // An item that loses all but itself stays: its keys say which one it is.
                remove(relation.item(), item, &node.children);
                !node.member
            });
            before > 0 && items.is_empty()
        }
        _ => false,
    }
}
