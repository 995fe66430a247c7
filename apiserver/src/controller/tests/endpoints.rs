//! Endpoints of Services with a selector.

use serde_json::{Value, json};

use super::*;
use crate::controller::{
    endpoints::{plan, sweep},
    slices::TRIGGER_TIME,
    subsets::{repack, truncate},
    world::Trigger,
};

/// One text per subset: `ready; not ready; ports`.
fn shown(subsets: &[api::core::EndpointSubset]) -> Vec<String> {
    let list = |addresses: &[api::core::EndpointAddress]| -> String {
        let addresses = addresses.iter().map(|address| &*address.ip);
        addresses.collect::<Vec<_>>().join(",")
    };
    let lines = subsets.iter().map(|subset| {
        let ports = subset.ports.iter();
        let ports: Vec<_> = ports
            .map(|port| format!("{}:{}/{}", port.name, port.port, port.protocol))
            .collect();
        format!(
            "{};{};{}",
            list(&subset.addresses),
            list(&subset.not_ready_addresses),
            ports.join(",")
        )
    });
    lines.collect()
}

fn object(world: &World, trigger: Trigger) -> Option<Endpoints> {
    match &plan(world, &key(), trigger)[..] {
        [] => None,
        [Action::Create(_, value) | Action::Update(_, value)] => {
            Some(serde_json::from_value((**value).clone()).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn which_addresses_are_in_which_subset() {
    let same = || json!({});
    let everything = || json!({"spec": {"publishNotReadyAddresses": true}});
    let two_ports = || {
        json!({"spec": {"ports": [
            {"name": "b", "port": 81, "targetPort": "web"}, {"name": "a", "port": 80, "targetPort": 8080},
        ]}})
    };
    let web = |number: u16| json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": number}]}]}});
    let both = json!({"status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]}});
    let rows: Vec<(&str, Value, Vec<Value>, &[&str])> = vec![
        ("no subset without addresses", same(), vec![], &[]),
        (
            "ready Pods",
            same(),
            vec![same(), same()],
            &["10.1.0.1,10.1.0.2;;http:8080/TCP"],
        ),
        (
            "not-ready Pods in notReadyAddresses",
            same(),
            vec![same(), unready()],
            &["10.1.0.1;10.1.0.2;http:8080/TCP"],
        ),
        (
            "terminating Pods are excluded",
            same(),
            vec![terminating()],
            &[],
        ),
        (
            "terminating Pods with publishNotReadyAddresses",
            everything(),
            vec![terminating(), unready()],
            &["10.1.0.1,10.1.0.2;;http:8080/TCP"],
        ),
        (
            "finished Pods even then not",
            everything(),
            vec![json!({"status": {"phase": "Failed"}})],
            &[],
        ),
        (
            "primary family only",
            json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}}),
            vec![both, same()],
            &["fd00::1;;http:8080/TCP"],
        ),
        (
            "identical address sets share a subset",
            two_ports(),
            vec![web(9), web(9)],
            &["10.1.0.1,10.1.0.2;;a:8080/TCP,b:9/TCP"],
        ),
        (
            "different ones do not",
            two_ports(),
            vec![web(9), same()],
            &["10.1.0.1;;b:9/TCP", "10.1.0.1,10.1.0.2;;a:8080/TCP"],
        ),
        (
            "headless without ports",
            json!({"spec": {"clusterIP": "None", "ports": null}}),
            vec![same()],
            &["10.1.0.1;;"],
        ),
        (
            "a Pod without any of the ports is absent",
            json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}]}}),
            vec![same()],
            &[],
        ),
        (
            "a node that is not there does not matter",
            same(),
            vec![json!({"spec": {"nodeName": "n9"}})],
            &["10.1.0.1;;http:8080/TCP"],
        ),
    ];
    for (statement, patch, pods, wanted) in rows {
        let mut world = world(&service(&patch), &pods);
        let actions = plan(&world, &key(), Trigger::default());
        carry_out(&mut world, &actions, 2);
        let endpoints = world.endpoints.get(&key()).unwrap();
        assert_eq!(shown(&endpoints.subsets), wanted, "{statement}");
        assert_eq!(
            plan(&world, &key(), Trigger::default()),
            [],
            "{statement}: a second look changes nothing"
        );
    }
}

#[test]
fn skipped_services_get_none() {
    for (statement, patch) in [
        (
            "type ExternalName",
            json!({"spec": {"type": "ExternalName"}}),
        ),
        ("no selector", json!({"spec": {"selector": null}})),
        (
            "pending delete",
            json!({"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}}),
        ),
    ] {
        let world = world(&service(&patch), &[json!({})]);
        assert_eq!(plan(&world, &key(), Trigger::default()), [], "{statement}");
    }
}

#[test]
fn labels_are_the_services_and_annotations_of_others_stay() {
    let labels = json!({"metadata": {"labels": {"tier": "x"}}});
    let mut world = world(&service(&labels), &[json!({})]);
    let trigger = world.dirty.services[&key()];
    let mut made = object(&world, trigger).unwrap();
    let wanted = json!({
        "namespace": "d",
        "labels": {"tier": "x", "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
        "annotations": {TRIGGER_TIME: "2026-01-01T00:00:00Z"},
    });
    assert_eq!(
        metadata(&made),
        wanted,
        "created with the Service's creation as the time of the change"
    );
    made.metadata
        .annotations
        .insert("other".into(), "kept".into());
    made.metadata.labels.insert("other".into(), "goes".into());
    world.put(Revision(2), made);
    world.put(
        Revision(3),
        service(&merged(labels, &json!({"spec": {"clusterIP": "None"}}))),
    );
    let wanted = json!({
        "namespace": "d",
        "labels": {
            "tier": "x", "endpoints.kubernetes.io/managed-by": "endpoint-controller", "service.kubernetes.io/headless": "",
        },
        "annotations": {"other": "kept"},
    });
    assert_eq!(
        metadata(&object(&world, Trigger::default()).unwrap()),
        wanted,
        "headless label, no time known"
    );
}

fn subset(addresses: &[&str], not_ready: &[&str], ports: &[i32]) -> api::core::EndpointSubset {
    let list = |addresses: &[&str]| -> Vec<Value> {
        addresses.iter().map(|ip| json!({"ip": ip})).collect()
    };
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": "p", "port": port, "protocol": "TCP"}))
        .collect();
    let subset =
        json!({"addresses": list(addresses), "notReadyAddresses": list(not_ready), "ports": ports});
    serde_json::from_value(subset).unwrap()
}

#[test]
fn subsets_are_repacked_canonically() {
    let rows = [
        (
            "same addresses join",
            vec![subset(&["1"], &[], &[80]), subset(&["1"], &[], &[81])],
            vec!["1;;p:80/TCP,p:81/TCP"],
        ),
        (
            "same ports join",
            vec![subset(&["2"], &[], &[80]), subset(&["1"], &[], &[80])],
            vec!["1,2;;p:80/TCP"],
        ),
        (
            "not ready wins for one address and port",
            vec![subset(&["1"], &[], &[80]), subset(&[], &["1"], &[80])],
            vec![";1;p:80/TCP"],
        ),
        (
            "readiness is part of the address set",
            vec![subset(&["1"], &[], &[80]), subset(&[], &["1"], &[81])],
            vec![";1;p:81/TCP", "1;;p:80/TCP"],
        ),
        (
            "without ports",
            vec![subset(&["1"], &[], &[]), subset(&["2"], &[], &[])],
            vec!["1,2;;"],
        ),
    ];
    for (statement, subsets, wanted) in rows {
        let once = repack(subsets);
        assert_eq!(shown(&once), wanted, "{statement}");
        assert_eq!(
            repack(once.clone()),
            once,
            "{statement}: it is a normal form"
        );
    }
}

#[test]
fn more_than_a_thousand_addresses_are_cut_in_proportion() {
    let many =
        |count: usize| -> Vec<String> { (0..count).map(|number| number.to_string()).collect() };
    let of = |ready: usize, not_ready: usize| {
        let (ready, not_ready) = (many(ready), many(not_ready));
        let ready: Vec<&str> = ready.iter().map(String::as_str).collect();
        let not_ready: Vec<&str> = not_ready.iter().map(String::as_str).collect();
        subset(&ready, &not_ready, &[80])
    };
    for (statement, mut subsets, cut, wanted) in [
        (
            "a thousand fit",
            vec![of(600, 400)],
            false,
            vec![(600, 400)],
        ),
        (
            "ready ones first",
            vec![of(900, 50), of(50, 50)],
            true,
            vec![(900, 25), (50, 25)],
        ),
        (
            "no room for others",
            vec![of(1500, 9), of(500, 9)],
            true,
            vec![(750, 0), (250, 0)],
        ),
        (
            "a subset without a share goes",
            vec![of(1000, 0), of(0, 5)],
            true,
            vec![(1000, 0)],
        ),
    ] {
        assert_eq!(truncate(&mut subsets), cut, "{statement}");
        let sizes: Vec<_> = subsets
            .iter()
            .map(|subset| (subset.addresses.len(), subset.not_ready_addresses.len()))
            .collect();
        assert_eq!(sizes, wanted, "{statement}");
    }
}

#[test]
fn a_start_deletes_endpoints_without_a_service() {
    let mut world = world(&service(&json!({})), &[]);
    for (name, annotations) in [
        ("s", json!({})),
        ("orphan", json!({})),
        (
            "election",
            json!({"control-plane.alpha.kubernetes.io/leader": "{}"}),
        ),
    ] {
        let endpoints =
            json!({"metadata": {"name": name, "namespace": "d", "annotations": annotations}});
        put::<Endpoints>(&mut world, &endpoints, 2);
    }
    assert_eq!(verbs(&sweep(&world)), ["delete orphan"]);
}
