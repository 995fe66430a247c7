//! Laws of field sets, merging and applying, over random Services.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ApplyError, Author, Comparison, Config, Element, FieldSet, Managers, Operation};
use crate::schema::{Type, lookup};

fn of() -> &'static Type {
    lookup("", "v1", "Service").unwrap()
}

/// Maps, a list with keys, a set, an atomic list and an atomic map, each there or not.
fn service() -> impl Strategy<Value = Value> {
    let text = || proptest::sample::select(vec!["a", "b", "c"]);
    let map = move || proptest::collection::btree_map(text(), text(), 1..3);
    let port = (
        1..4_u16,
        proptest::option::of(text()),
        proptest::option::of(1..3_u16),
    );
    (
        proptest::option::of(map()),
        proptest::option::of(proptest::collection::btree_set(text(), 1..3)),
        proptest::option::of(map()),
        proptest::option::of(proptest::collection::vec(text(), 1..3)),
        proptest::option::of(proptest::collection::btree_map(1..4_u16, port, 1..4)),
        proptest::option::of(text()),
    )
        .prop_map(|(labels, finalizers, selector, ips, ports, kind)| {
            let mut value = json!({"metadata": {}, "spec": {}});
            let mut set = |part: &str, name: &str, field: Option<Value>| {
                if let Some(field) = field {
                    value[part][name] = field;
                }
            };
            set("metadata", "labels", labels.map(|map| json!(map)));
            set("metadata", "finalizers", finalizers.map(|set| json!(set)));
            set("spec", "selector", selector.map(|map| json!(map)));
            set("spec", "externalIPs", ips.map(|list| json!(list)));
            set("spec", "type", kind.map(|text| json!(text)));
            set(
                "spec",
                "ports",
                ports.map(|map| map.into_iter().map(port_of).collect()),
            );
            for part in ["metadata", "spec"] {
                if value[part].as_object().is_some_and(|map| map.is_empty()) {
                    value.as_object_mut().unwrap().shift_remove(part);
                }
            }
            value
        })
}

fn port_of((key, (_, name, target)): (u16, (u16, Option<&str>, Option<u16>))) -> Value {
    // Two of three spell the default protocol out.
    let mut port = match key {
        1 => json!({"port": 80}),
        2 => json!({"port": 80, "protocol": "UDP"}),
        _ => json!({"port": 81, "protocol": "TCP"}),
    };
    if let Some(name) = name {
        port["name"] = name.into();
    }
    if let Some(target) = target {
        port["targetPort"] = target.into();
    }
    port
}

fn set() -> impl Strategy<Value = FieldSet> {
    let element = prop_oneof![
        proptest::sample::select(vec!["a", "b", ".", "\"q\""])
            .prop_map(|name| Element::Field(name.into())),
        proptest::sample::select(vec![json!(1), json!("x"), json!(true), json!(-2.5)])
            .prop_map(Element::Value),
        (0..2_u8, proptest::option::of("[ab\"\\\\é]{0,2}")).prop_map(|(port, name)| {
            let mut key = vec![("port".into(), json!(port))];
            key.extend(name.map(|name| ("name".into(), json!(name))));
            Element::key(key)
        }),
        (0..3_i64).prop_map(Element::Index),
    ];
    let path = proptest::collection::vec(element, 1..4);
    proptest::collection::vec(path, 0..6).prop_map(|paths| {
        let mut set = FieldSet::default();
        for path in paths {
            set.insert(&path);
        }
        set
    })
}

fn author(manager: &str, operation: Operation) -> Author<'_> {
    Author {
        manager,
        operation,
        api_version: "v1",
        subresource: "",
    }
}

fn apply<'m>(
    manager: &str,
    value: &Value,
    force: bool,
    (live, managers): &(Value, Managers<'m>),
) -> Result<(Value, Managers<'m>), ApplyError> {
    let config = Config {
        value,
        author: author(manager, Operation::Apply),
        force,
        ignored: &FieldSet::default(),
        now: "2026-01-01T00:00:00Z",
    };
    config.apply(of(), live, managers.clone())
}

/// An object that one ordinary writer made.
fn made(value: &Value) -> (Value, Managers<'static>) {
    let mut managers = Managers::default();
    let everything = of().compare(&json!({}), value);
    managers.update(
        &author("maker", Operation::Update),
        everything,
        "2025-01-01T00:00:00Z",
    );
    (value.clone(), managers)
}

/// What of an object is in a set.
fn extract(value: &Value, set: &FieldSet) -> Value {
    let present = of().with_named_fields(&of().present_fields(value));
    of().remove(value, &present.difference(&of().with_named_fields(set)))
}

/// Lists in which order tells nothing, in one order; protocols spelled out.
fn settled(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(ports) = value
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
    {
        let sorted: BTreeMap<String, Value> = ports
            .iter_mut()
            .map(|port| {
                if port["protocol"].is_null() {
                    port["protocol"] = "TCP".into();
                }
                (
                    format!("{}{}", port["port"], port["protocol"]),
                    port.clone(),
                )
            })
            .collect();
        *ports = sorted.into_values().collect();
    }
    if let Some(list) = value
        .pointer_mut("/metadata/finalizers")
        .and_then(Value::as_array_mut)
    {
        list.sort_by_key(Value::to_string);
    }
    value
}

proptest! {
    #[test]
    fn a_set_survives_its_spelling(set in set()) {
        prop_assert_eq!(FieldSet::from_json(&set.to_json()).unwrap(), set);
    }

    #[test]
    fn sets_obey_the_algebra_of_sets(a in set(), b in set()) {
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert!(!a.difference(&b).intersects(&b));
        prop_assert_eq!(a.intersects(&b), !a.intersection(&b).is_empty());
        prop_assert!(a.union(&b).contains_all(&a));
        prop_assert_eq!(b.contains_all(&a), a.difference(&b).is_empty());
        let (mut subtracted, mut cut) = (a.clone(), a.clone());
        subtracted.subtract(&b);
        prop_assert_eq!(&subtracted, &a.difference(&b));
        cut.cut(&b);
        prop_assert!(subtracted.contains_all(&cut));
    }

    #[test]
    fn an_object_does_not_differ_from_itself_and_merging_it_changes_nothing(value in service()) {
        prop_assert_eq!(of().compare(&value, &value), Comparison::default());
        prop_assert_eq!(of().merge(&value, &value), value);
    }

    #[test]
    fn what_comparing_finds_is_what_merging_changed(live in service(), config in service()) {
        let merged = of().merge(&live, &config);
        let wanted = of().field_set(&config).unwrap();
        let difference = of().compare(&live, &merged);
        prop_assert!(difference.removed.is_empty());
        prop_assert_eq!(settled(&of().merge(&merged, &config)), settled(&merged));
        // Leaves, that is: a container that came with them is in the difference only.
        let leaves = of().with_named_fields(&wanted);
        for path in difference.changed.difference(&leaves).paths() {
            prop_assert!([".metadata.labels", ".metadata.finalizers", ".spec.ports"].contains(&path.as_str()), "{}", path);
        }
    }

    /// A12.
    #[test]
    fn applying_twice_is_applying_once(live in service(), config in service()) {
        let once = apply("a", &config, true, &made(&live)).unwrap();
        let twice = apply("a", &config, false, &once).unwrap();
        prop_assert_eq!(&twice.0, &once.0);
        prop_assert_eq!(twice.1.to_json(), once.1.to_json());
    }

    #[test]
    fn what_a_manager_owns_is_what_it_applied(live in service(), config in service()) {
        let (object, _) = apply("a", &config, true, &made(&live)).unwrap();
        let wanted = of().field_set(&config).unwrap();
        prop_assert_eq!(settled(&extract(&object, &wanted)), settled(&config));
    }

    /// A5: what was merged and is no longer applied goes, and nothing else.
    #[test]
    fn merging_and_then_applying_nothing_gives_the_original(live in service(), config in service()) {
        let before = made(&live);
        let Ok(applied) = apply("a", &config, false, &before) else {
            return Ok(());
        };
        let (object, managers) = apply("a", &json!({}), false, &applied).unwrap();
        prop_assert_eq!(settled(&object), settled(&live));
        prop_assert_eq!(managers.to_json(), before.1.to_json());
    }

    /// A6: without force nobody loses a field, with force the conflicting ones change hands.
    #[test]
    fn conflicts_are_fields_of_others_with_other_values(live in service(), config in service()) {
        let before = made(&live);
        let forced = apply("a", &config, true, &before).unwrap();
        match apply("a", &config, false, &before) {
            Ok(applied) => {
                prop_assert_eq!(&applied.0, &forced.0);
                prop_assert_eq!(applied.1.to_json(), forced.1.to_json());
            }
            Err(ApplyError::Conflict(conflicts)) => {
                prop_assert!(!conflicts.is_empty());
                prop_assert!(forced.0 != live);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
