//! The endpoints controllers, statement by statement: each row names the rule it shows.

mod endpoint_slice;
mod endpoints;
mod mirroring;
mod slice_changes;

use api::{
    core::{Endpoints, Node, Pod, Service},
    discovery::{Endpoint, EndpointSlice},
    meta::Resource,
};
use serde_json::{Value, json};

use super::{
    world::{Key, World, key_of},
    write::Action,
};
use crate::{registry::kinds::ENDPOINT_SLICES, store::Revision};

/// `base`, changed by a merge patch.
fn merged(mut base: Value, patch: &Value) -> Value {
    json_patch::merge(&mut base, patch);
    base
}

/// Service `d/s`, with one port, for the Pods labelled `app: a`.
fn service(patch: &Value) -> Service {
    let base = json!({
        "metadata": {"name": "s", "namespace": "d", "uid": "us", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "clusterIP": "10.96.0.9",
            "ipFamilies": ["IPv4"],
            "selector": {"app": "a"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    });
    serde_json::from_value(merged(base, patch)).unwrap()
}

/// Pod `d/p<number>` at 10.1.0.<number> on node n1, ready.
fn pod(number: usize, patch: &Value) -> Pod {
    let base = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "d", "uid": format!("u{number}"), "labels": {"app": "a"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": format!("10.1.0.{number}")}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    serde_json::from_value(merged(base, patch)).unwrap()
}

/// Conditions of a Pod that is not ready.
fn unready() -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
}

fn terminating() -> Value {
    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
}

/// The Service, Pods numbered from 1, and the nodes n1 (in zone z1) and n2 (in none).
fn world(service: &Service, pods: &[Value]) -> World {
    let mut world = World::default();
    for (name, labels) in [
        ("n1", json!({"topology.kubernetes.io/zone": "z1"})),
        ("n2", json!({})),
    ] {
        let node = json!({"metadata": {"name": name, "labels": labels}});
        let node: Node = serde_json::from_value(node).unwrap();
        world.put(Revision(1), node);
    }
    for (index, patch) in pods.iter().enumerate() {
        world.put(Revision(1), pod(index + 1, patch));
    }
    world.put(Revision(1), service.clone());
    world
}

fn key() -> Key {
    ("d".into(), "s".into())
}

/// Takes the objects of creates and updates in, and forgets those that are deleted: what the writes lead to.
fn carry_out(world: &mut World, actions: &[Action], revision: u64) {
    for action in actions {
        match action {
            Action::Create(kind, value) | Action::Update(kind, value) => match kind.kind {
                "EndpointSlice" => put::<EndpointSlice>(world, value, revision),
                "Endpoints" => put::<Endpoints>(world, value, revision),
                _ => {}
            },
            Action::Delete(kind, key, _) if *kind == &ENDPOINT_SLICES => {
                world.remove::<EndpointSlice>(Revision(revision), key);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn put<T: super::world::Kept>(world: &mut World, value: &Value, revision: u64) {
    let object: T = serde_json::from_value(value.clone()).unwrap();
    world.put(Revision(revision), object);
}

/// `create name`, `update name` or `delete name`, names of new slices left out.
fn verbs(actions: &[Action]) -> Vec<String> {
    let verbs = actions.iter().map(|action| match action {
        Action::Create(..) => "create".to_owned(),
        Action::Update(_, value) => {
            format!("update {}", value["metadata"]["name"].as_str().unwrap())
        }
        Action::Delete(_, (_, name), _) => format!("delete {name}"),
        other => panic!("{other:?}"),
    });
    verbs.collect()
}

fn slices(world: &World) -> Vec<EndpointSlice> {
    let slices = world.slices_of(&key()).into_iter();
    slices.map(|slice| EndpointSlice::clone(slice)).collect()
}

/// One line per slice, in order: family, ports, then per endpoint address, conditions (R, S, T; `-` false, `?` absent), node,
/// zone, hostname, hints.
fn shown(slices: &[EndpointSlice]) -> Vec<String> {
    let mut lines: Vec<String> = slices
        .iter()
        .map(|slice| {
            let ports = slice.ports.iter().map(|port| {
                let (name, protocol) = (port.name.as_deref(), port.protocol.as_deref());
                let number = port.port.unwrap_or_default();
                format!(
                    " {}:{number}/{}",
                    name.unwrap_or("?"),
                    protocol.unwrap_or("?")
                )
            });
            let endpoints = slice.endpoints.iter().map(endpoint);
            let (ports, mut endpoints): (String, Vec<String>) =
                (ports.collect(), endpoints.collect());
            endpoints.sort_unstable();
            format!("{}{ports} |{}", slice.address_type, endpoints.concat())
        })
        .collect();
    lines.sort_unstable();
    lines
}

fn endpoint(endpoint: &Endpoint) -> String {
    let condition = |value: Option<bool>, letter: char| match value {
        Some(true) => letter,
        Some(false) => '-',
        None => '?',
    };
    let conditions = &endpoint.conditions;
    let mut text = format!(
        " {} {}{}{}",
        endpoint.addresses.join(","),
        condition(conditions.ready, 'R'),
        condition(conditions.serving, 'S'),
        condition(conditions.terminating, 'T'),
    );
    for part in [&endpoint.node_name, &endpoint.zone, &endpoint.hostname]
        .into_iter()
        .flatten()
    {
        text += &format!(" {part}");
    }
    if let Some(hints) = &endpoint.hints {
        let zones = hints
            .for_zones
            .iter()
            .map(|zone| format!(" for:{}", zone.name));
        let nodes = hints
            .for_nodes
            .iter()
            .map(|node| format!(" for:{}", node.name));
        text += &zones.chain(nodes).collect::<String>();
    }
    text
}

/// The metadata as JSON, without what differs from run to run.
fn metadata<T: Resource>(object: &T) -> Value {
    let mut value = serde_json::to_value(object.metadata()).unwrap();
    value.as_object_mut().unwrap().remove("name");
    assert_eq!(key_of(object).0, "d".into());
    value
}
