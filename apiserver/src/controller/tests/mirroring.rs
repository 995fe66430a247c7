//! EndpointSlices of Endpoints written by hand.

use serde_json::{Value, json};

use super::*;
use crate::controller::mirroring::plan;

/// A Service without selector, and Endpoints of its name.
fn world_with(service_patch: &Value, endpoints: &Value) -> World {
    let base = json!({"spec": {"selector": null}});
    let mut world = world(&service(&merged(base, service_patch)), &[]);
    let base = json!({
        "metadata": {"name": "s", "namespace": "d", "uid": "ue"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}],
    });
    put::<Endpoints>(&mut world, &merged(base, endpoints), 1);
    world
}

/// The slices after one look, and the reasons of the events.
fn mirrored(world: &mut World) -> (Vec<String>, Vec<String>) {
    let actions = plan(world, &key());
    let events = actions.iter().filter_map(|action| match action {
        Action::Create(kind, value) if kind.kind == "Event" => {
            Some(value["reason"].as_str().unwrap().to_owned())
        }
        _ => None,
    });
    let events = events.collect();
    carry_out(world, &actions, 2);
    assert_eq!(plan(world, &key()), [], "a second look changes nothing");
    (shown(&slices(world)), events)
}

#[test]
fn what_is_mirrored_and_how() {
    let same = || json!({});
    let port = |number: u16| json!({"name": "p", "port": number, "protocol": "TCP"});
    let one: &[&str] = &["IPv4 http:80/TCP | 192.0.2.1 R??"];
    let rows: Vec<(&str, Value, Value, &[&str])> = vec![
        ("only ready is set", same(), same(), one),
        (
            "not with a selector",
            json!({"spec": {"selector": {"app": "a"}}}),
            same(),
            &[],
        ),
        (
            "not with skip-mirror=true",
            same(),
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}),
            &[],
        ),
        (
            "with another value of it",
            same(),
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "no"}}}),
            one,
        ),
        (
            "not for leader elections",
            same(),
            json!({"metadata": {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}}),
            &[],
        ),
        (
            "one slice per family",
            same(),
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [port(80)]}]}),
            &[
                "IPv4 p:80/TCP | 192.0.2.1 R??",
                "IPv6 p:80/TCP | 2001:db8::1 R??",
            ],
        ),
        (
            "not ready",
            same(),
            json!({"subsets": [{"notReadyAddresses": [{"ip": "192.0.2.1"}], "ports": [port(80)]}]}),
            &["IPv4 p:80/TCP | 192.0.2.1 -??"],
        ),
        (
            "the same IP in two subsets with different ports yields both ports",
            same(),
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [port(80)]}, {"addresses": [{"ip": "192.0.2.1"}], "ports": [port(81)]}]}),
            &["IPv4 p:80/TCP p:81/TCP | 192.0.2.1 R??"],
        ),
        (
            "one slice per port set",
            same(),
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [port(80)]}, {"addresses": [{"ip": "192.0.2.2"}], "ports": [port(81)]}]}),
            &[
                "IPv4 p:80/TCP | 192.0.2.1 R??",
                "IPv4 p:81/TCP | 192.0.2.2 R??",
            ],
        ),
        (
            "hostname and node",
            same(),
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.1", "hostname": "h", "nodeName": "n1"}], "ports": [port(80)]}]}),
            &["IPv4 p:80/TCP | 192.0.2.1 R?? n1 h"],
        ),
        (
            "no slice without addresses",
            same(),
            json!({"subsets": null}),
            &[],
        ),
    ];
    for (statement, service, endpoints, wanted) in rows {
        let mut world = world_with(&service, &endpoints);
        assert_eq!(
            mirrored(&mut world),
            (
                wanted.iter().map(|line| (*line).to_owned()).collect(),
                Vec::new()
            ),
            "{statement}"
        );
    }
}

#[test]
fn metadata_is_that_of_the_endpoints() {
    let patch = json!({"metadata": {
        "labels": {"a": "b", "kubernetes.io/service-name": "stolen"},
        "annotations": {
            "kept": "yes",
            "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        },
    }});
    let mut world = world_with(&json!({}), &patch);
    mirrored(&mut world);
    let wanted = json!({
        "namespace": "d",
        "labels": {
            "a": "b",
            "kubernetes.io/service-name": "s",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        },
        "annotations": {"kept": "yes"},
        "ownerReferences": [{
            "apiVersion": "v1", "kind": "Endpoints", "name": "s", "uid": "ue", "controller": true, "blockOwnerDeletion": true,
        }],
    });
    assert_eq!(metadata(&slices(&world)[0]), wanted);
}

#[test]
fn what_cannot_be_mirrored_is_told() {
    let addresses = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|number| json!({"ip": format!("192.0.{}.{}", number / 250, number % 250 + 1)}))
            .collect()
    };
    let subsets = |addresses: Vec<Value>| json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    let mut world = world_with(&json!({}), &subsets(addresses(1000)));
    assert_eq!(mirrored(&mut world).1, Vec::<String>::new());
    assert_eq!(
        slices(&world)[0].endpoints.len(),
        1000,
        "a thousand addresses in one slice"
    );
    let mut world = world_with(&json!({}), &subsets(addresses(1001)));
    assert_eq!(mirrored(&mut world).1, ["TooManyAddressesToMirror"]);
    let mut world = world_with(
        &json!({}),
        &subsets(vec![json!({"ip": "192.0.2.1"}), json!({"ip": "300.0.0.1"})]),
    );
    assert_eq!(
        mirrored(&mut world),
        (
            vec!["IPv4 :80/TCP | 192.0.2.1 R??".to_owned()],
            vec!["InvalidIPAddress".to_owned()]
        )
    );
}

#[test]
fn mirrored_slices_go_with_their_reason() {
    let selector = service(&json!({}));
    let mut world = world_with(&json!({}), &json!({}));
    mirrored(&mut world);
    world.put(Revision(3), selector);
    assert_eq!(
        verbs(&plan(&world, &key())).len(),
        1,
        "a selector was added"
    );
    let mut world = world_with(&json!({}), &json!({}));
    mirrored(&mut world);
    world.remove::<Endpoints>(Revision(3), &key());
    assert_eq!(
        verbs(&plan(&world, &key())).len(),
        1,
        "the Endpoints are gone"
    );
}
