//! Strategic merge patch: JSON merge patch that knows which lists are merged, by which key, and takes directives.
//!
//! `null` deletes; `$patch: replace | delete` on maps and list items; `$retainKeys`; `$setElementOrder/<list>`;
//! `$deleteFromPrimitiveList/<list>`. Source: `k8s.io/apimachinery/pkg/util/strategicpatch/patch.go`, and the
//! design in kubernetes/community contributors/devel/sig-api-machinery/strategic-merge-patch.md.

use serde_json::{Map, Value};

use super::{Merge, Shape, Strategy, Type};

/// The longest lists that are merged; those of real objects have dozens of items.
const MAX_ITEMS: usize = 5000;
const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// A patch that makes no sense; the API answers 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The object or the patch is no JSON object.
    #[error("a strategic merge patch and what it patches must be objects")]
    NotAnObject,
    /// A directive that does not exist, or not here.
    #[error("unknown patch directive or bad value of one: {0}")]
    Directive(Box<str>),
    /// An item of a list that does not say which one it is.
    #[error("map: does not contain declared merge key: {0}")]
    MergeKey(Box<str>),
    /// A list of maps that the schema merges by no key.
    #[error("cannot merge lists without merge key")]
    NoMergeKey,
    /// A list so long that comparing each item with each other one would take seconds.
    #[error(
        "a list of more than {MAX_ITEMS} items cannot be merged: replace it by a JSON or merge patch"
    )]
    TooManyItems,
    /// Scalars and maps in one list.
    #[error("list of mixed types")]
    MixedList,
    /// A key of the patch is not among those to retain.
    #[error("invalid patch format of retainKeys: {0} is not in the list")]
    RetainKeys(Box<str>),
    /// Items of the patch are not among those to order, or in another order.
    #[error("the order in patch list of {0} doesn't match its $setElementOrder list")]
    Order(Box<str>),
}

type Result<T> = std::result::Result<T, PatchError>;
type Object = Map<String, Value>;

impl Type {
    /// Merges a patch into an object of this type. Directives and nulls of the patch do not get into the object.
    ///
    /// # Errors
    /// When the patch makes no sense; the object may then be changed in part, and is to be thrown away.
    pub fn strategic_merge(&self, target: &mut Value, patch: &Value) -> Result<()> {
        let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
            return Err(PatchError::NotAnObject);
        };
        merge_object(Node::Message(self), target, patch)
    }
}

/// What the schema says of an object.
#[derive(Clone, Copy)]
enum Node<'a> {
    Message(&'a Type),
    /// All values have this shape.
    Map(&'a Shape),
    /// Nothing.
    Opaque,
}

impl<'a> Node<'a> {
    fn of(shape: &'a Shape) -> Self {
        match shape {
            Shape::Message(_) | Shape::Object(_) => {
                shape.message().map_or(Node::Opaque, Node::Message)
            }
            Shape::Map(values) => Node::Map(values),
            Shape::List(_) | Shape::Scalar(_) => Node::Opaque,
        }
    }

    /// What it says of a field: of the object it holds, or of the objects it lists; and how it merges.
    fn child(self, name: &str) -> (Node<'a>, Merge) {
        let (shape, merge) = match self {
            Node::Message(of) => match of.field(name) {
                Some(field) => (&field.shape, field.merge),
                None => return (Node::Opaque, Merge::default()),
            },
            Node::Map(values) => (values, Merge::default()),
            Node::Opaque => return (Node::Opaque, Merge::default()),
        };
        match shape {
            Shape::List(items) => (Node::of(items), merge),
            other => (Node::of(other), merge),
        }
    }
}

fn merge_object(node: Node<'_>, target: &mut Object, patch: &Object) -> Result<()> {
    match patch
        .get(PATCH)
        .map(|directive| directive.as_str().unwrap_or_default())
    {
        None => {}
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("replace") => {
            let rest = patch.iter().filter(|(name, _)| *name != PATCH);
            *target = rest
                .filter_map(|(name, value)| Some((name.clone(), without_directives(value)?)))
                .collect();
            return Ok(());
        }
        Some(other) => return Err(PatchError::Directive(other.into())),
    }
    retain_keys(target, patch)?;
    for (name, order) in patch {
        if let Some(list) = name.strip_prefix(ORDER) {
            merge_ordered(node, target, patch, list, order)?;
        }
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE) {
            delete_scalars(target, list, value)?;
        } else if !is_directive(name) && !patch.contains_key(&format!("{ORDER}{name}")) {
            merge_field(node, target, name, value)?;
        }
    }
    Ok(())
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN_KEYS || name.starts_with(ORDER) || name.starts_with(DELETE)
}

/// `$retainKeys`: everything else goes, and the patch may not set anything else.
fn retain_keys(target: &mut Object, patch: &Object) -> Result<()> {
    let Some(keys) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let keys = keys
        .as_array()
        .ok_or_else(|| PatchError::Directive(RETAIN_KEYS.into()))?;
    limit(&[keys])?;
    let listed = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    let stray = patch
        .iter()
        .find(|(name, value)| !value.is_null() && !is_directive(name) && !listed(name));
    if let Some((name, _)) = stray {
        return Err(PatchError::RetainKeys(name.as_str().into()));
    }
    target.retain(|name, _| listed(name));
    Ok(())
}

fn delete_scalars(target: &mut Object, name: &str, gone: &Value) -> Result<()> {
    let gone = gone
        .as_array()
        .ok_or_else(|| PatchError::Directive(format!("{DELETE}{name}").into()))?;
    if let Some(Value::Array(list)) = target.get_mut(name) {
        limit(&[list, gone])?;
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_field(node: Node<'_>, target: &mut Object, name: &str, patch: &Value) -> Result<()> {
    if patch.is_null() {
        target.shift_remove(name);
        return Ok(());
    }
    let (child, merge) = node.child(name);
    match (target.get_mut(name), patch) {
        (Some(Value::Object(object)), Value::Object(patch))
            if merge.strategy != Strategy::Replace =>
        {
            merge_object(child, object, patch)
        }
        (Some(Value::Array(list)), Value::Array(patch)) if merge.strategy == Strategy::Merge => {
            *list = merge_list(child, merge.key, std::mem::take(list), patch)?;
            Ok(())
        }
        _ => {
            if let Some(value) = without_directives(patch) {
                target.insert(name.to_owned(), value);
            }
            Ok(())
        }
    }
}

/// `$setElementOrder/name`: merges the list of this name, if the patch has it, and puts it in this order.
fn merge_ordered(
    node: Node<'_>,
    target: &mut Object,
    patch: &Object,
    name: &str,
    order: &Value,
) -> Result<()> {
    let order = order
        .as_array()
        .ok_or_else(|| PatchError::Directive(format!("{ORDER}{name}").into()))?;
    let patch = match patch.get(name) {
        None => None,
        Some(Value::Array(list)) => Some(list.as_slice()),
        Some(other) => return merge_field(node, target, name, other),
    };
    let before = target.get(name).and_then(Value::as_array);
    limit(&[
        order,
        patch.unwrap_or_default(),
        before.map_or(&[], Vec::as_slice),
    ])?;
    let (child, merge) = node.child(name);
    check_order(name, merge.key, patch.unwrap_or_default(), order)?;
    let before = match target.get(name) {
        Some(Value::Array(list)) => Some(list.clone()),
        _ => None,
    };
    let merged = match (before.clone(), patch) {
        (None, None) => return Ok(()),
        (Some(before), None) => before,
        (None, Some(patch)) => patch.iter().filter_map(without_directives).collect(),
        (Some(before), Some(patch)) if merge.strategy == Strategy::Merge => {
            merge_list(child, merge.key, before, patch)?
        }
        (Some(_), Some(patch)) => patch.to_vec(),
    };
    let places = places(
        merge.key,
        &merged,
        &before.unwrap_or_default(),
        patch.unwrap_or_default(),
    );
    let arranged = arrange(merge.key, merged, order, &places);
    target.insert(name.to_owned(), Value::Array(arranged));
    Ok(())
}

/// Where items stood before, for [`arrange`]: in place of deleted ones stand new ones. That is how it comes out in Go, whose
/// slices share memory, and so how it comes out of every other API server.
fn places(key: Option<&str>, merged: &[Value], before: &[Value], patch: &[Value]) -> Vec<Value> {
    let has = |list: &[Value], item: &Value| {
        list.iter()
            .any(|other| identity(key, other) == identity(key, item))
    };
    let kept = before.iter().filter(|item| has(merged, item));
    let new = patch
        .iter()
        .filter(|item| has(merged, item) && !has(before, item));
    kept.chain(new).take(before.len()).cloned().collect()
}

/// The items the patch sets must stand in the order list, in the same order. An empty order list asks for nothing.
fn check_order(name: &str, key: Option<&str>, patch: &[Value], order: &[Value]) -> Result<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut order = order.iter();
    let set = patch.iter().filter(|item| item.get(PATCH).is_none());
    for item in set {
        if !order.any(|listed| identity(key, listed) == identity(key, item)) {
            return Err(PatchError::Order(name.into()));
        }
    }
    Ok(())
}

fn limit(lists: &[&[Value]]) -> Result<()> {
    if lists.iter().any(|list| list.len() > MAX_ITEMS) {
        return Err(PatchError::TooManyItems);
    }
    Ok(())
}

fn merge_list(
    node: Node<'_>,
    key: Option<&str>,
    target: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>> {
    limit(&[&target, patch])?;
    let objects = target
        .iter()
        .chain(patch)
        .filter(|item| item.is_object())
        .count();
    if objects == 0 {
        return Ok(union(target, patch));
    }
    if objects != target.len() + patch.len() {
        return Err(PatchError::MixedList);
    }
    merge_objects(node, key.ok_or(PatchError::NoMergeKey)?, target, patch)
}

/// The set union of two lists of scalars.
fn union(target: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(target.len() + patch.len());
    for item in target.iter().chain(patch) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    arrange(None, merged, patch, &target)
}

/// Merges lists of objects that a key tells apart: those in both are merged, new ones are added.
fn merge_objects(
    node: Node<'_>,
    key: &str,
    mut target: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>> {
    let key_of = |item: &Value| {
        item.get(key)
            .cloned()
            .ok_or_else(|| PatchError::MergeKey(key.into()))
    };
    let mut set = Vec::new();
    let mut replaces = false;
    for item in patch {
        match item
            .get(PATCH)
            .map(|directive| directive.as_str().unwrap_or_default())
        {
            None => set.push(item.clone()),
            Some("replace") => replaces = true,
            Some("delete") => {
                let gone = key_of(item)?;
                target.retain(|item| item.get(key) != Some(&gone));
            }
            Some(other) => return Err(PatchError::Directive(other.into())),
        }
    }
    if replaces {
        return Ok(set.iter().filter_map(without_directives).collect());
    }
    let before = target.clone();
    for item in &set {
        let wanted = key_of(item)?;
        match (
            target
                .iter_mut()
                .find(|item| item.get(key) == Some(&wanted)),
            item,
        ) {
            (Some(Value::Object(object)), Value::Object(patch)) => {
                merge_object(node, object, patch)?
            }
            _ => target.extend(without_directives(item)),
        }
    }
    Ok(arrange(Some(key), target, &set, &before))
}

/// What makes two items of lists the same.
fn identity<'a>(key: Option<&str>, item: &'a Value) -> Option<&'a Value> {
    match key {
        Some(key) => item.get(key),
        None => Some(item),
    }
}

/// Orders a merged list: items of `order` in its order; the others, which only the server knew, in the order they had
/// before, each ahead of the first item it preceded then.
fn arrange(key: Option<&str>, merged: Vec<Value>, order: &[Value], before: &[Value]) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| {
        let wanted = identity(key, item);
        list.iter().position(|other| identity(key, other) == wanted)
    };
    let (mut ordered, mut others): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .partition(|item| place(order, item).is_some());
    ordered.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in ordered {
        let here = place(before, &item);
        while let Some(other) =
            others.next_if(|other| here.is_some() && place(before, other) < here)
        {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others);
    result
}

/// A value of the patch as it is stored when there was none before; none when it only says what to delete.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(object) if object.contains_key(PATCH) => None,
        Value::Object(object) => {
            let kept = object.iter().filter(|(name, _)| !is_directive(name));
            let kept =
                kept.filter_map(|(name, value)| Some((name.clone(), without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(
            list.iter().filter_map(without_directives).collect(),
        )),
        scalar => Some(scalar.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::lookup;

    fn merge(group: &str, kind: &str, mut target: Value, patch: Value) -> Result<Value> {
        lookup(group, "v1", kind)
            .unwrap()
            .strategic_merge(&mut target, &patch)?;
        Ok(target)
    }

    #[test]
    fn maps_merge_and_null_deletes() {
        let service =
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"type": "NodePort"}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": "3", "d": null}, "annotations": {}}, "spec": {"selector": {"x": "y"}}});
        assert_eq!(
            merge("", "Service", service, patch).unwrap(),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}, "annotations": {}}, "spec": {"type": "NodePort", "selector": {"x": "y"}}})
        );
    }

    #[test]
    fn ports_of_a_service_merge_by_number_alone() {
        let service = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 80, "nodePort": 30080}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 443}, {"$patch": "delete", "port": 53}]}});
        assert_eq!(
            merge("", "Service", service, patch).unwrap(),
            json!({"spec": {"ports": [{"port": 80, "nodePort": 30080, "name": "web"}, {"port": 443}]}})
        );
    }

    #[test]
    fn lists_without_strategy_are_replaced() {
        let pod = json!({"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "c", "args": ["1"]}]}});
        let patch = json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "c", "args": ["2"]}]}});
        assert_eq!(merge("", "Pod", pod, patch.clone()).unwrap(), patch);
    }

    #[test]
    fn scalars_are_united_ordered_and_deleted() {
        let pod = json!({"metadata": {"finalizers": ["a/b", "c/d"]}});
        let united = merge(
            "",
            "Pod",
            pod.clone(),
            json!({"metadata": {"finalizers": ["e/f", "a/b"]}}),
        )
        .unwrap();
        assert_eq!(
            united["metadata"]["finalizers"],
            json!(["e/f", "a/b", "c/d"])
        );
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"], "$setElementOrder/finalizers": ["x/y", "c/d"], "finalizers": ["x/y"]}});
        assert_eq!(
            merge("", "Pod", pod, patch).unwrap()["metadata"],
            json!({"finalizers": ["x/y", "c/d"]})
        );
    }

    #[test]
    fn items_are_put_in_the_order_asked_for() {
        let named = |names: &[&str]| {
            names
                .iter()
                .map(|name| json!({"name": name}))
                .collect::<Vec<_>>()
        };
        let pod = json!({"spec": {"containers": named(&["a", "server", "b", "c"])}});
        let patch = json!({"spec": {"$setElementOrder/containers": named(&["c", "new", "a", "b"]), "containers": named(&["new"])}});
        let merged = merge("", "Pod", pod, patch).unwrap();
        assert_eq!(
            merged,
            json!({"spec": {"containers": named(&["server", "c", "new", "a", "b"])}})
        );
    }

    #[test]
    fn lists_too_long_to_be_compared_are_refused() {
        let names: Vec<String> = (0..=MAX_ITEMS).map(|index| format!("a/{index}")).collect();
        for patch in [
            json!({"metadata": {"finalizers": names}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": names}}),
            json!({"metadata": {"$setElementOrder/finalizers": names}}),
        ] {
            let pod = json!({"metadata": {"finalizers": ["b/c"]}});
            assert_eq!(merge("", "Pod", pod, patch), Err(PatchError::TooManyItems));
        }
    }

    #[test]
    fn items_missing_from_the_order_are_refused() {
        let pod = json!({"spec": {"containers": [{"name": "a"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}});
        assert_eq!(
            merge("", "Pod", pod, patch),
            Err(PatchError::Order("containers".into()))
        );
    }

    #[test]
    fn retained_keys_drop_the_rest() {
        let deployment = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            merge("apps", "Deployment", deployment.clone(), patch).unwrap(),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
        let stray = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
        assert_eq!(
            merge("apps", "Deployment", deployment, stray),
            Err(PatchError::RetainKeys("rollingUpdate".into()))
        );
    }

    #[test]
    fn maps_and_lists_can_be_replaced_or_emptied() {
        let pod = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let patch = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}, "spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}});
        assert_eq!(
            merge("", "Pod", pod.clone(), patch).unwrap(),
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"containers": [{"name": "c"}]}})
        );
        let patch = json!({"metadata": {"labels": {"$patch": "delete"}}});
        assert_eq!(
            merge("", "Pod", pod, patch).unwrap()["metadata"],
            json!({"labels": {}})
        );
    }

    #[test]
    fn a_field_whose_strategy_is_replace_is_replaced() {
        let budget = json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}});
        let patch = json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}});
        assert_eq!(
            merge("policy", "PodDisruptionBudget", budget, patch.clone()).unwrap(),
            patch
        );
    }

    #[test]
    fn directives_are_never_stored() {
        let patch = json!({"spec": {"$retainKeys": ["containers"], "$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "$setElementOrder/ports": [], "env": [{"name": "x", "$patch": "delete"}]}, {"$patch": "delete", "name": "z"}]}});
        assert_eq!(
            merge("", "Pod", json!({}), patch).unwrap(),
            json!({"spec": {"containers": [{"name": "a", "env": []}]}})
        );
    }

    #[test]
    fn patches_that_make_no_sense_are_refused() {
        let pod = || json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"finalizers": ["a/b"]}});
        let cases = [
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                PatchError::MergeKey("name".into()),
            ),
            (
                json!({"spec": {"containers": [{"$patch": "delete"}]}}),
                PatchError::MergeKey("name".into()),
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
                PatchError::Directive("merge".into()),
            ),
            (
                json!({"spec": {"$patch": "x"}}),
                PatchError::Directive("x".into()),
            ),
            (
                json!({"spec": {"containers": ["a"]}}),
                PatchError::MixedList,
            ),
            (json!([]), PatchError::NotAnObject),
        ];
        for (patch, wanted) in cases {
            assert_eq!(
                merge("", "Pod", pod(), patch.clone()),
                Err(wanted),
                "{patch}"
            );
        }
    }
}
