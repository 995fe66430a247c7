//! What a change concerns, and what is done about it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Collector, Subject,
    index::Index,
    judge::{OwnerState, Verdict, judge, owners, state_of},
};
use crate::{
    registry::{Context, Registry, kinds::CONFIG_MAPS},
    store::{EmbeddedStore, engine::MemoryEngine},
};

fn bytes(value: &Value) -> Bytes {
    value.to_string().into()
}

fn key(name: &str) -> Bytes {
    Bytes::from(format!("/registry/core/configmaps/default/{name}"))
}

/// An object named `name` whose uid is its name, owned by these; `!` before an owner's uid: it waits for this one.
fn owned(name: &str, owners: &[&str]) -> Value {
    let owners = owners.iter().map(|owner| {
        let uid = owner.trim_start_matches('!');
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid,
            "blockOwnerDeletion": owner.starts_with('!'),
        })
    });
    let owners: Vec<Value> = owners.collect();
    json!({"metadata": {"name": name, "uid": name, "ownerReferences": owners}})
}

/// The same, being deleted with this finalizer.
fn ending(mut object: Value, finalizer: &str) -> Value {
    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    object["metadata"]["finalizers"] = json!([finalizer]);
    object
}

/// An index that has seen these, and nothing to look at.
fn index(objects: &[Value]) -> Index {
    let mut index = Index::default();
    for object in objects {
        put(&mut index, object);
    }
    dirty(&mut index);
    index
}

fn put(index: &mut Index, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    index.put(&key(name), None, &bytes(object));
}

/// The names of what is to be looked at; nothing is afterwards.
fn dirty(index: &mut Index) -> Vec<String> {
    let keys = index.take_dirty(usize::MAX);
    let name = |key: &Bytes| {
        String::from_utf8_lossy(key)
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned()
    };
    keys.iter().map(name).collect()
}

#[test]
fn the_end_of_an_object_concerns_those_that_name_its_uid() {
    let mut index = index(&[
        owned("a", &["x"]),
        owned("b", &["x", "y"]),
        owned("c", &["y"]),
    ]);
    index.remove(&key("x"), Some(&bytes(&owned("x", &[]))));
    assert_eq!(dirty(&mut index), ["a", "b"]);
    index.remove(&key("c"), Some(&bytes(&owned("c", &["y"]))));
    index.remove(&key("y"), Some(&bytes(&owned("y", &[]))));
    assert_eq!(dirty(&mut index), ["b"]);
}

#[test]
fn an_owner_that_was_seen_to_go_is_known_to_be_gone_as_long_as_somebody_names_it() {
    let before = owned("a", &["x"]);
    let mut index = index(std::slice::from_ref(&before));
    assert!(!index.is_gone("x"), "it was not seen");
    index.remove(&key("x"), Some(&bytes(&owned("x", &[]))));
    index.remove(&key("y"), Some(&bytes(&owned("y", &[]))));
    assert!(index.is_gone("x"));
    assert!(!index.is_gone("y"), "nobody names it");
    let other = owned("a", &["x", "z"]);
    index.put(&key("a"), Some(&bytes(&before)), &bytes(&other));
    assert!(index.is_gone("x"), "it still names it");
    index.remove(&key("a"), Some(&bytes(&other)));
    assert!(!index.is_gone("x"), "nobody does any more");
}

/// The end of a definition is the end of its objects and of their kind: what they own goes all the same.
#[tokio::test]
async fn an_owner_whose_kind_went_with_it_is_absent_when_it_was_seen_to_go() {
    let store = EmbeddedStore::with_engine(MemoryEngine::default(), None).unwrap();
    let registry = Registry::new(Arc::new(store), Context::default());
    let mut collector = Collector::new(registry);
    let mut value = owned("a", &["x"]);
    value["metadata"]["ownerReferences"][0]["kind"] = "Tab".into();
    value["metadata"]["ownerReferences"][0]["apiVersion"] = "example.com/v1".into();
    put(&mut collector.index, &value);
    let subject = Subject {
        kind: &CONFIG_MAPS,
        namespace: Some("default"),
        name: "a",
        value: value.clone(),
    };
    let owner = &owners(&value)[0];
    let unknown = OwnerState::Unknown("its kind is not served here");
    let state = collector.look_up(&subject, owner).await.unwrap();
    assert_eq!(state, unknown, "it may be there");
    let last = bytes(&owned("x", &[]));
    collector.index.remove(&key("x"), Some(&last));
    let state = collector.look_up(&subject, owner).await.unwrap();
    assert_eq!(state, OwnerState::Absent);
}

#[test]
fn an_object_is_looked_at_when_its_owners_change_and_only_then() {
    let mut index = Index::default();
    let mut object = owned("a", &["x"]);
    put(&mut index, &object);
    assert_eq!(dirty(&mut index), ["a"]);
    object["data"] = json!({"changed": "yes"});
    put(&mut index, &object);
    assert!(!index.has_dirty());
    let unowned = owned("a", &[]);
    index.put(&key("a"), Some(&bytes(&object)), &bytes(&unowned));
    dirty(&mut index);
    index.remove(&key("x"), Some(&bytes(&owned("x", &[]))));
    assert!(!index.has_dirty(), "it had let go of x");
}

#[test]
fn a_foreground_deletion_concerns_dependents_and_their_end_concerns_the_owner() {
    let mut index = index(&[owned("a", &["!x"]), owned("b", &["x"])]);
    let owner = ending(owned("x", &[]), "foregroundDeletion");
    put(&mut index, &owner);
    assert_eq!(dirty(&mut index), ["a", "b", "x"]);
    assert_eq!(judge(&key("x"), &owner, &[], &index), Verdict::Keep);
    index.remove(&key("a"), Some(&bytes(&owned("a", &["!x"]))));
    assert_eq!(dirty(&mut index), ["x"]);
    let release = Verdict::Release("foregroundDeletion");
    assert_eq!(
        judge(&key("x"), &owner, &[], &index),
        release,
        "b blocks nobody"
    );
}

#[test]
fn an_owner_that_owns_itself_does_not_wait_for_itself() {
    let owner = ending(owned("x", &["!x"]), "foregroundDeletion");
    let index = index(std::slice::from_ref(&owner));
    let release = Verdict::Release("foregroundDeletion");
    assert_eq!(judge(&key("x"), &owner, &[], &index), release);
}

#[test]
fn orphans_are_let_go_before_their_owner_goes() {
    let owner = ending(owned("x", &[]), "orphan");
    let mut index = index(&[owner.clone(), owned("a", &["x"])]);
    let verdict = judge(&key("x"), &owner, &[], &index);
    assert_eq!(verdict, Verdict::Orphan(vec![key("a")]));
    index.put(
        &key("a"),
        Some(&bytes(&owned("a", &["x"]))),
        &bytes(&owned("a", &[])),
    );
    assert_eq!(dirty(&mut index), ["x"]);
    let verdict = judge(&key("x"), &owner, &[], &index);
    assert_eq!(verdict, Verdict::Release("orphan"));
}

#[test]
fn what_becomes_of_an_object_follows_from_its_owners() {
    use OwnerState::{Absent, Solid, Unknown, Waiting};
    let lost = |uids: &[&str]| Verdict::Disown(uids.iter().map(|&uid| uid.to_owned()).collect());
    let odd = Verdict::Odd {
        owner: "x".into(),
        why: "why",
    };
    for (states, wanted) in [
        (&[][..], Verdict::Keep),
        (&[Solid], Verdict::Keep),
        (&[Absent], Verdict::Delete),
        (&[Waiting], Verdict::Delete),
        (&[Solid, Absent], lost(&["y"])),
        (&[Waiting, Solid], lost(&["x"])),
        (&[Absent, Absent], Verdict::Delete),
        (&[Unknown("why"), Absent], odd),
    ] {
        let owners: Vec<_> = ["x", "y"].into_iter().zip(states.iter().copied()).collect();
        let object = owned("a", &["x", "y"]);
        assert_eq!(
            judge(&key("a"), &object, &owners, &Index::default()),
            wanted,
            "{states:?}"
        );
    }
}

#[test]
fn who_waits_in_a_circle_stops_holding_back_its_owners() {
    let waiting = [("x", OwnerState::Waiting)];
    let middle = owned("m", &["!x"]);
    let index_with = |last: Value| index(&[middle.clone(), last]);
    let plain = index_with(owned("l", &["!m"]));
    let verdict = judge(&key("m"), &middle, &waiting, &plain);
    assert_eq!(verdict, Verdict::DeleteForeground);
    let circle = index_with(ending(owned("x", &["!m"]), "foregroundDeletion"));
    let verdict = judge(&key("m"), &middle, &waiting, &circle);
    assert_eq!(verdict, Verdict::Unblock);
    let unblocked = judge(&key("m"), &owned("m", &["x"]), &waiting, &circle);
    assert_eq!(unblocked, Verdict::DeleteForeground);
}

#[test]
fn an_owner_is_the_one_of_its_uid() {
    let owner = owned("x", &[]);
    assert_eq!(state_of(&owner, "x"), OwnerState::Solid);
    assert_eq!(state_of(&owner, "another"), OwnerState::Absent);
    let waiting = ending(owner.clone(), "foregroundDeletion");
    assert_eq!(state_of(&waiting, "x"), OwnerState::Waiting);
    assert_eq!(
        state_of(&ending(owner, "example.com/held"), "x"),
        OwnerState::Solid
    );
}
