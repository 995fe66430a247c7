//! EndpointSlices of Services with a selector.

use api::meta::StringMap;
use serde_json::{Value, json};

use super::*;
use crate::controller::{endpoint_slice::plan, slices::TRIGGER_TIME, world::Trigger};

struct Row {
    /// The rule, by its topic.
    statement: &'static str,
    service: Value,
    pods: Vec<Value>,
    /// As [`shown`] prints it.
    wanted: &'static [&'static str],
}

fn row(
    statement: &'static str,
    service: Value,
    pods: Vec<Value>,
    wanted: &'static [&'static str],
) -> Row {
    Row {
        statement,
        service,
        pods,
        wanted,
    }
}

fn check(rows: Vec<Row>) {
    for Row {
        statement,
        service: patch,
        pods,
        wanted,
    } in rows
    {
        let mut world = world(&service(&patch), &pods);
        let actions = plan(&world, &key(), Trigger::default());
        carry_out(&mut world, &actions, 2);
        assert_eq!(shown(&slices(&world)), wanted, "{statement}");
        let again = plan(&world, &key(), Trigger::default());
        assert_eq!(again, [], "{statement}: a second look changes nothing");
    }
}

const NONE: &[&str] = &["IPv4 |"];

#[test]
fn which_pods_are_endpoints_and_in_which_condition() {
    let same = || json!({});
    let everything = || json!({"spec": {"publishNotReadyAddresses": true}});
    let failed = || json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    let lost = || json!({"spec": {"nodeName": "n9"}});
    check(vec![
        row(
            "skipped: type ExternalName",
            json!({"spec": {"type": "ExternalName"}}),
            vec![same()],
            &[],
        ),
        row(
            "skipped: no selector",
            json!({"spec": {"selector": null}}),
            vec![same()],
            &[],
        ),
        row(
            "skipped: an empty selector counts as none",
            json!({"spec": {"selector": {"app": null}}}),
            vec![same()],
            &[],
        ),
        row(
            "membership: matches the selector",
            same(),
            vec![json!({"metadata": {"labels": {"app": "b"}}})],
            NONE,
        ),
        row(
            "membership: in the namespace",
            same(),
            vec![json!({"metadata": {"namespace": "e"}})],
            NONE,
        ),
        row(
            "membership: not Succeeded",
            same(),
            vec![json!({"status": {"phase": "Succeeded"}})],
            NONE,
        ),
        row(
            "membership: evicted Pods leave even with publishNotReadyAddresses",
            everything(),
            vec![failed()],
            NONE,
        ),
        row(
            "membership: has an IP",
            same(),
            vec![json!({"status": {"podIPs": null}})],
            NONE,
        ),
        row(
            "membership and conditions: a terminating Pod is included",
            same(),
            vec![terminating()],
            &["IPv4 http:8080/TCP | 10.1.0.1 -ST n1 z1"],
        ),
        row(
            "conditions: serving is the Pod's Ready",
            same(),
            vec![same(), unready()],
            &["IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1 10.1.0.2 --- n1 z1"],
        ),
        row(
            "conditions: publishNotReadyAddresses makes all ready",
            everything(),
            vec![unready(), terminating()],
            &["IPv4 http:8080/TCP | 10.1.0.1 R-- n1 z1 10.1.0.2 RST n1 z1"],
        ),
        row(
            "node missing: the endpoint is skipped",
            same(),
            vec![lost()],
            NONE,
        ),
        row(
            "node missing: with publishNotReadyAddresses included without zone",
            everything(),
            vec![lost()],
            &["IPv4 http:8080/TCP | 10.1.0.1 RS- n9"],
        ),
        row(
            "zone: of the node, when it says one",
            same(),
            vec![json!({"spec": {"nodeName": "n2"}})],
            &["IPv4 http:8080/TCP | 10.1.0.1 RS- n2"],
        ),
        row(
            "hostname: with the Service's name as subdomain",
            same(),
            vec![
                json!({"spec": {"hostname": "h", "subdomain": "s"}}),
                json!({"spec": {"hostname": "h", "subdomain": "t"}}),
            ],
            &["IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1 h 10.1.0.2 RS- n1 z1"],
        ),
    ]);
}

#[test]
fn families_ports_and_groups() {
    let same = || json!({});
    let dual = || json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}});
    let both = || json!({"status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00:0:0::1"}]}});
    let targets = |target: Value| json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": target}]}});
    let named = |number: u16, protocol: &str| json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": number, "protocol": protocol}]}]}});
    let init = |policy: Value| json!({"spec": {"initContainers": [{"name": "i", "restartPolicy": policy, "ports": [{"name": "web", "containerPort": 9}]}]}});
    check(vec![
        row(
            "address types: one slice for each family, addresses in canonical form",
            dual(),
            vec![both()],
            &[
                "IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1",
                "IPv6 http:8080/TCP | fd00::1 RS- n1 z1",
            ],
        ),
        row(
            "address types: a Pod without an IP of the family is absent",
            dual(),
            vec![same()],
            &["IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1", "IPv6 |"],
        ),
        row(
            "address types: only the families of the Service",
            json!({"spec": {"ipFamilies": ["IPv6"]}}),
            vec![both()],
            &["IPv6 http:8080/TCP | fd00::1 RS- n1 z1"],
        ),
        row(
            "empty: a placeholder for each family",
            dual(),
            vec![],
            &["IPv4 |", "IPv6 |"],
        ),
        row(
            "ports: a numeric targetPort as it is",
            targets(json!(81)),
            vec![same()],
            &["IPv4 http:81/TCP | 10.1.0.1 RS- n1 z1"],
        ),
        row(
            "ports: no targetPort means the port",
            targets(Value::Null),
            vec![same()],
            &["IPv4 http:80/TCP | 10.1.0.1 RS- n1 z1"],
        ),
        row(
            "ports: a named targetPort is looked up by name and protocol",
            targets(json!("web")),
            vec![named(8, "TCP"), named(8, "UDP")],
            &[
                "IPv4 http:8/TCP | 10.1.0.1 RS- n1 z1",
                "IPv4 | 10.1.0.2 RS- n1 z1",
            ],
        ),
        row(
            "ports: also in init containers that restart, and in no others",
            targets(json!("web")),
            vec![init(json!("Always")), init(Value::Null)],
            &[
                "IPv4 http:9/TCP | 10.1.0.1 RS- n1 z1",
                "IPv4 | 10.1.0.2 RS- n1 z1",
            ],
        ),
        row(
            "ports: a headless Service without ports has an empty list",
            json!({"spec": {"clusterIP": "None", "ports": null}}),
            vec![same()],
            &["IPv4 | 10.1.0.1 RS- n1 z1"],
        ),
        row(
            "grouping: different values of a named port go to different slices",
            targets(json!("web")),
            vec![named(8, "TCP"), named(9, "TCP"), named(8, "TCP")],
            &[
                "IPv4 http:8/TCP | 10.1.0.1 RS- n1 z1 10.1.0.3 RS- n1 z1",
                "IPv4 http:9/TCP | 10.1.0.2 RS- n1 z1",
            ],
        ),
    ]);
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let asks = |how: &str| json!({"spec": {"trafficDistribution": how}});
    let pods = || vec![json!({}), unready(), json!({"spec": {"nodeName": "n2"}})];
    let same_zone: &[&str] =
        &["IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1 for:z1 10.1.0.2 --- n1 z1 10.1.0.3 RS- n2"];
    check(vec![
        row(
            "hints: PreferSameZone, ready endpoints only",
            asks("PreferSameZone"),
            pods(),
            same_zone,
        ),
        row(
            "hints: PreferClose is the same",
            asks("PreferClose"),
            pods(),
            same_zone,
        ),
        row(
            "hints: PreferSameNode names the node too",
            asks("PreferSameNode"),
            pods(),
            &[
                "IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1 for:z1 for:n1 10.1.0.2 --- n1 z1 10.1.0.3 RS- n2 for:n2",
            ],
        ),
        row(
            "hints: none without a traffic distribution",
            json!({}),
            vec![json!({})],
            &["IPv4 http:8080/TCP | 10.1.0.1 RS- n1 z1"],
        ),
    ]);
}

#[test]
fn metadata_of_a_new_slice() {
    let patch = json!({
        "metadata": {"labels": {
            "tier": "x",
            "kubernetes.io/service-name": "stolen",
            "endpointslice.kubernetes.io/managed-by": "stolen",
            "service.kubernetes.io/headless": "stolen",
        }},
    });
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": "s", "uid": "us", "controller": true, "blockOwnerDeletion": true,
    });
    let managed_by = "endpointslice-controller.k8s.io";
    for (statement, patch, headless) in [
        (
            "labels: the Service's, without the three reserved ones",
            patch.clone(),
            None,
        ),
        (
            "labels: headless without a cluster IP",
            merged(patch.clone(), &json!({"spec": {"clusterIP": "None"}})),
            Some(""),
        ),
    ] {
        let mut world = world(&service(&patch), &[json!({})]);
        let actions = plan(&world, &key(), Trigger::default());
        carry_out(&mut world, &actions, 2);
        let [slice] = &slices(&world)[..] else {
            panic!("one slice")
        };
        assert!(
            slice.metadata.name.starts_with("s-"),
            "names: generated from the Service's"
        );
        let mut labels = json!({
            "tier": "x", "kubernetes.io/service-name": "s", "endpointslice.kubernetes.io/managed-by": managed_by,
        });
        if let Some(headless) = headless {
            labels["service.kubernetes.io/headless"] = headless.into();
        }
        let wanted = json!({"namespace": "d", "labels": labels, "ownerReferences": [owner]});
        assert_eq!(metadata(slice), wanted, "{statement}");
        let target = serde_json::to_value(slice.endpoints[0].target_ref.as_ref().unwrap()).unwrap();
        let wanted = json!({"kind": "Pod", "namespace": "d", "name": "p1", "uid": "u1"});
        assert_eq!(target, wanted, "targetRef: without resourceVersion");
    }
}

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
    assert_eq!(shown(&slices(&world)), NONE);
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
