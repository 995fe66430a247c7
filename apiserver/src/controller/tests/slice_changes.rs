//! What a later look changes in EndpointSlices that are there.

use api::meta::StringMap;
use serde_json::{Value, json};

use super::*;
use crate::controller::{endpoint_slice::plan, slices::TRIGGER_TIME, world::Trigger};

/// A world in which the first look has been carried out.
fn settled(patch: &Value, pods: &[Value]) -> World {
    let mut world = world(&service(patch), pods);
    let actions = plan(&world, &key(), Trigger::default());
    carry_out(&mut world, &actions, 2);
    world
}

#[test]
fn the_first_and_the_last_pod_change_the_slice_that_is_there() {
    let mut world = settled(&json!({}), &[]);
    let name = slices(&world)[0].metadata.name.clone();
    world.put(Revision(3), pod(1, &json!({})));
    let actions = plan(&world, &key(), Trigger::default());
    assert_eq!(verbs(&actions), [format!("update {name}")], "the first Pod");
    carry_out(&mut world, &actions, 4);
    assert_eq!(
        shown(&slices(&world)),
        ["IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1"]
    );
    world.remove::<Pod>(Revision(5), &("d".into(), "p1".into()));
    let actions = plan(&world, &key(), Trigger::default());
    assert_eq!(verbs(&actions), [format!("update {name}")], "the last Pod");
    carry_out(&mut world, &actions, 6);
    assert_eq!(shown(&slices(&world)), ["IPv4 |"]);
}

#[test]
fn a_slice_is_not_taken_for_another_family() {
    let mut world = settled(&json!({}), &[]);
    let name = slices(&world)[0].metadata.name.clone();
    world.put(
        Revision(3),
        service(&json!({"spec": {"ipFamilies": ["IPv6"]}})),
    );
    let actions = plan(&world, &key(), Trigger::default());
    assert_eq!(
        verbs(&actions),
        ["create".to_owned(), format!("delete {name}")],
        "slices of a family no longer in the spec"
    );
}

#[test]
fn annotations_of_others_stay_and_labels_mirror_the_service() {
    let mut world = settled(
        &json!({"metadata": {"labels": {"tier": "x"}}}),
        &[json!({})],
    );
    let mut edited = slices(&world).remove(0);
    edited
        .metadata
        .annotations
        .insert("other/annotation".into(), "kept".into());
    world.put(Revision(3), edited.clone());
    assert_eq!(
        plan(&world, &key(), Trigger::default()),
        [],
        "an annotation alone is nobody's business"
    );
    edited
        .metadata
        .labels
        .insert("other".into(), "label".into());
    world.put(Revision(4), edited);
    world.put(
        Revision(5),
        service(&json!({"metadata": {"labels": {"tier": "y"}}})),
    );
    let actions = plan(&world, &key(), Trigger::default());
    carry_out(&mut world, &actions, 6);
    let [slice] = &slices(&world)[..] else {
        panic!("one slice")
    };
    let annotations: StringMap = [("other/annotation".into(), "kept".into())].into();
    assert_eq!(slice.metadata.annotations, annotations);
    assert_eq!(
        slice.metadata.labels.get("tier").map(|tier| &**tier),
        Some("y")
    );
    assert!(
        !slice.metadata.labels.contains_key("other"),
        "labels: a copy of the Service's"
    );
}

#[test]
fn a_terminating_service_gets_no_new_slices_and_keeps_the_old_ones_right() {
    let going =
        json!({"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["x/y"]}});
    let empty = world(&service(&going), &[json!({})]);
    assert_eq!(
        plan(&empty, &key(), Trigger::default()),
        [],
        "pending delete: no creates"
    );
    let mut world = settled(&json!({}), &[json!({})]);
    world.put(Revision(3), service(&going));
    world.put(Revision(3), pod(1, &unready()));
    let actions = plan(&world, &key(), Trigger::default());
    carry_out(&mut world, &actions, 4);
    assert_eq!(
        shown(&slices(&world)),
        ["IPv4 http:8080/TCP | 10.1.0.1 --- n1 z1"]
    );
    world.remove::<Service>(Revision(5), &key());
    let actions = plan(&world, &key(), Trigger::default());
    assert_eq!(verbs(&actions).len(), 1, "a deleted Service's slices go");
    carry_out(&mut world, &actions, 6);
    assert_eq!(slices(&world), []);
}

/// What the world marked for the Service since it was last asked.
fn triggered(world: &mut World) -> Trigger {
    world.dirty.services.remove(&key()).unwrap_or_default()
}

fn ready_since(time: &str) -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}})
}

#[test]
fn the_trigger_time_is_the_creation_then_the_earliest_change_and_goes_when_none_is_known() {
    let mut world = world(&service(&json!({})), &[ready_since("2026-01-01T00:00:05Z")]);
    let mut revision = 2;
    let mut annotation = |world: &mut World| {
        let trigger = triggered(world);
        let actions = plan(world, &key(), trigger);
        revision += 1;
        carry_out(world, &actions, revision);
        let slice = slices(world).remove(0);
        slice
            .metadata
            .annotations
            .get(TRIGGER_TIME)
            .map(|time| time.to_string())
    };
    assert_eq!(
        annotation(&mut world).as_deref(),
        Some("2026-01-01T00:00:00Z"),
        "first: the Service's creation"
    );
    world.put(Revision(10), pod(2, &ready_since("2026-01-01T00:00:20Z")));
    world.put(Revision(11), pod(3, &ready_since("2026-01-01T00:00:10Z")));
    assert_eq!(
        annotation(&mut world).as_deref(),
        Some("2026-01-01T00:00:10Z"),
        "then: the earliest change"
    );
    world.put(
        Revision(12),
        pod(
            3,
            &merged(
                ready_since("2026-01-01T00:00:10Z"),
                &json!({"metadata": {"annotations": {"a": "b"}}}),
            ),
        ),
    );
    assert_eq!(
        annotation(&mut world).as_deref(),
        Some("2026-01-01T00:00:10Z"),
        "nothing is written for nothing"
    );
    world.remove::<Pod>(Revision(13), &("d".into(), "p3".into()));
    assert_eq!(annotation(&mut world), None, "a Pod that went has no time");
}
