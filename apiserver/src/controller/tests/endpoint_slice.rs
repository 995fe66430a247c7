//! EndpointSlices of Services with a selector.

use serde_json::{Value, json};

use super::*;
use crate::controller::{endpoint_slice::plan, world::Trigger};

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
