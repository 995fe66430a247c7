//! The rules by which a Service's endpoints become the fate of a frontend, one row each.

use std::collections::BTreeSet;

use super::*;

/// A Service and its slices, and what that means on node n1 of zone z1.
struct Row {
    rule: &'static str,
    spec: Value,
    slices: &'static [&'static [&'static str]],
    /// The ClusterIP's fate.
    cluster_ip: &'static str,
    /// The fate of the NodePort, an externalIP and a load balancer's VIP, which share one.
    external: &'static str,
}

/// A Service of every frontend there is.
fn everywhere(spec: &Value) -> Service {
    let mut service = service(json!({
        "type": "LoadBalancer", "externalIPs": ["198.51.100.1"],
    }));
    service.status = serde_json::from_value(json!({
        "loadBalancer": {"ingress": [{"ip": "198.51.100.2", "ipMode": "VIP"}]},
    }))
    .expect("status");
    let policy = |field: &str| {
        spec.get(field)
            .map(|value| serde_json::from_value(value.clone()).expect("a policy"))
    };
    service.spec.internal_traffic_policy = policy("internalTrafficPolicy");
    service.spec.external_traffic_policy = policy("externalTrafficPolicy");
    service
}

fn check(rows: &[Row]) {
    for row in rows {
        let slices: Vec<_> = row
            .slices
            .iter()
            .map(|endpoints| slice(endpoints))
            .collect();
        let slices: Vec<_> = slices.iter().collect();
        let got = frontends(&everywhere(&row.spec), &slices, &here());
        let (rule, cluster_ip) = (row.rule, at("10.96.0.7", 80));
        assert_eq!(
            say(got.get(&cluster_ip)),
            row.cluster_ip,
            "{rule}: ClusterIP"
        );
        for (name, frontend) in [
            ("NodePort", node_port(30080)),
            ("externalIP", at("198.51.100.1", 80)),
            ("VIP", at("198.51.100.2", 80)),
        ] {
            assert_eq!(say(got.get(&frontend)), row.external, "{rule}: {name}");
        }
    }
}

#[test]
fn a_traffic_policy_chooses_among_the_ready_endpoints() {
    check(&[
        Row {
            rule: "Cluster: all ready ones",
            spec: json!({}),
            slices: &[BOTH_NODES],
            cluster_ip: "10.244.1.2:9376 10.244.2.2:9376 masquerade NonPodSources",
            external: "10.244.1.2:9376 10.244.2.2:9376 masquerade Always",
        },
        Row {
            rule: "no endpoints at all",
            spec: json!({}),
            slices: &[],
            cluster_ip: "reject",
            external: "reject",
        },
        Row {
            rule: "no endpoints at all, Local",
            spec: json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
            slices: &[&[]],
            cluster_ip: "reject",
            external: "reject",
        },
        Row {
            rule: "internalTrafficPolicy Local: this node's, and external ones do not care",
            spec: json!({"internalTrafficPolicy": "Local"}),
            slices: &[BOTH_NODES],
            cluster_ip: "10.244.1.2:9376 masquerade NonPodSources",
            external: "10.244.1.2:9376 10.244.2.2:9376 masquerade Always",
        },
        Row {
            rule: "internalTrafficPolicy Local, endpoints elsewhere only",
            spec: json!({"internalTrafficPolicy": "Local"}),
            slices: &[&["10.244.2.2@n2 ready"]],
            cluster_ip: "drop",
            external: "10.244.2.2:9376 masquerade Always",
        },
        Row {
            rule: "externalTrafficPolicy Local: this node's, and the ClusterIP does not care",
            spec: json!({"externalTrafficPolicy": "Local"}),
            slices: &[BOTH_NODES],
            cluster_ip: "10.244.1.2:9376 10.244.2.2:9376 masquerade NonPodSources",
            external: "outside 10.244.1.2:9376, inside 10.244.1.2:9376 10.244.2.2:9376",
        },
        Row {
            rule: "externalTrafficPolicy Local, endpoints elsewhere only",
            spec: json!({"externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.2.2@n2 ready"]],
            cluster_ip: "10.244.2.2:9376 masquerade NonPodSources",
            external: "outside drop, inside 10.244.2.2:9376",
        },
    ]);
}

#[test]
fn terminating_endpoints_serve_only_when_their_whole_scope_has_no_ready_one() {
    check(&[
        Row {
            rule: "Cluster: one ready endpoint anywhere, and no terminating one is used",
            spec: json!({"externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.1.2@n1 serving", "10.244.2.2@n2 ready"]],
            cluster_ip: "10.244.2.2:9376 masquerade NonPodSources",
            external: "outside 10.244.1.2:9376, inside 10.244.2.2:9376",
        },
        Row {
            rule: "Cluster: none ready, so all that serve while they terminate",
            spec: json!({}),
            slices: &[&[
                "10.244.1.2@n1 serving",
                "10.244.1.3@n1 terminating",
                "10.244.2.2@n2 serving",
            ]],
            cluster_ip: "10.244.1.2:9376 10.244.2.2:9376 masquerade NonPodSources",
            external: "10.244.1.2:9376 10.244.2.2:9376 masquerade Always",
        },
        Row {
            rule: "Local: a ready one of this node before its terminating ones",
            spec: json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.1.2@n1 serving", "10.244.1.3@n1 ready"]],
            cluster_ip: "10.244.1.3:9376 masquerade NonPodSources",
            external: "outside 10.244.1.3:9376, inside 10.244.1.3:9376",
        },
        Row {
            rule: "Local never goes remote: its own terminating one before another node's ready one",
            spec: json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.1.2@n1 serving", "10.244.2.2@n2 ready"]],
            cluster_ip: "10.244.1.2:9376 masquerade NonPodSources",
            external: "outside 10.244.1.2:9376, inside 10.244.2.2:9376",
        },
        Row {
            rule: "terminating endpoints elsewhere are endpoints: dropped here, not refused",
            spec: json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.2.2@n2 serving"]],
            cluster_ip: "drop",
            external: "outside drop, inside 10.244.2.2:9376",
        },
        Row {
            rule: "what terminates without serving is no endpoint",
            spec: json!({}),
            slices: &[&["10.244.1.2@n1 terminating"]],
            cluster_ip: "reject",
            external: "reject",
        },
    ]);
}

#[test]
fn what_is_not_ready_is_used_only_when_it_is_published() {
    check(&[
        Row {
            rule: "neither ready nor terminating: never, even when nothing else is there",
            spec: json!({"externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.1.2@n1 unready", "10.244.1.3@n1 starting"]],
            cluster_ip: "reject",
            external: "reject",
        },
        Row {
            rule: "mirrored and not ready: serving is unknown, and it is not used either",
            spec: json!({}),
            slices: &[&["10.244.1.2@n1 mirrored-unready"]],
            cluster_ip: "reject",
            external: "reject",
        },
        Row {
            rule: "publishNotReadyAddresses calls it ready, terminating or not",
            spec: json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.1.2@n1 published", "10.244.1.3@n1 serving"]],
            cluster_ip: "10.244.1.2:9376 masquerade NonPodSources",
            external: "outside 10.244.1.2:9376, inside 10.244.1.2:9376",
        },
    ]);
}

#[test]
fn an_address_in_two_slices_is_taken_from_the_pod_that_lives() {
    const OLD: &[&str] = &["10.244.1.2@n1 serving"];
    const NEW: &[&str] = &["10.244.1.2@n1 ready"];
    const STARTING: &[&str] = &["10.244.1.2@n1 unready"];
    let ready = "10.244.1.2:9376 masquerade NonPodSources";
    let row = |rule, slices, cluster_ip, external| Row {
        rule,
        spec: json!({}),
        slices,
        cluster_ip,
        external,
    };
    let always = "10.244.1.2:9376 masquerade Always";
    check(&[
        row("the old Pod's slice first", &[OLD, NEW], ready, always),
        row("the new Pod's slice first", &[NEW, OLD], ready, always),
        row(
            "a new Pod that is not ready yet",
            &[OLD, STARTING],
            "reject",
            "reject",
        ),
        row(
            "the same, its slice first",
            &[STARTING, OLD],
            "reject",
            "reject",
        ),
    ]);
}

#[test]
fn hints_count_when_every_ready_endpoint_has_one_and_some_name_this_place() {
    let row = |rule, slices, cluster_ip, external| Row {
        rule,
        spec: json!({}),
        slices,
        cluster_ip,
        external,
    };
    let (first, first_external) = (
        "10.244.1.2:9376 masquerade NonPodSources",
        "10.244.1.2:9376 masquerade Always",
    );
    let (all, all_external) = (
        "10.244.1.2:9376 10.244.2.2:9376 masquerade NonPodSources",
        "10.244.1.2:9376 10.244.2.2:9376 masquerade Always",
    );
    check(&[
        row(
            "zone hints: this zone's",
            &[&["10.244.1.2@n1 ready zone=z1", "10.244.2.2@n2 ready zone=z2"]],
            first,
            first_external,
        ),
        row(
            "one without: nobody's count",
            &[&["10.244.1.2@n1 ready zone=z1", "10.244.2.2@n2 ready"]],
            all,
            all_external,
        ),
        row(
            "none for this zone",
            &[&["10.244.1.2@n1 ready zone=z2", "10.244.2.2@n2 ready zone=z3"]],
            all,
            all_external,
        ),
        row(
            "only ready endpoints are asked",
            &[&[
                "10.244.1.2@n1 ready zone=z1",
                "10.244.2.2@n2 ready zone=z2",
                "10.244.2.3@n2 unready",
                "10.244.2.4@n2 serving",
            ]],
            first,
            first_external,
        ),
        row(
            "node hints before zone hints",
            &[&[
                "10.244.1.2@n1 ready zone=z1 node=n1",
                "10.244.1.3@n2 ready zone=z1 node=n2",
            ]],
            first,
            first_external,
        ),
        row(
            "node hints that do not name this node: the zone decides",
            &[&[
                "10.244.1.2@n3 ready zone=z1 node=n3",
                "10.244.2.2@n2 ready zone=z2 node=n2",
            ]],
            first,
            first_external,
        ),
        row(
            "the last endpoints that terminate are used wherever their hints point",
            &[&[
                "10.244.1.2@n1 serving zone=z2",
                "10.244.2.2@n2 serving zone=z2",
            ]],
            all,
            all_external,
        ),
        Row {
            rule: "Local does not look at hints",
            spec: json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
            slices: &[&["10.244.1.2@n1 ready zone=z2", "10.244.2.2@n2 ready zone=z1"]],
            cluster_ip: first,
            external: "outside 10.244.1.2:9376, inside 10.244.2.2:9376",
        },
    ]);
}

#[test]
fn a_node_without_a_zone_uses_every_zone() {
    let slice = slice(&["10.244.1.2@n1 ready zone=z1", "10.244.2.2@n2 ready zone=z2"]);
    let here = Here {
        zone: None,
        ..here()
    };
    let got = frontends(&service(json!({})), &[&slice], &here);
    assert_eq!(
        say(got.get(&at("10.96.0.7", 80))),
        "10.244.1.2:9376 10.244.2.2:9376 masquerade NonPodSources"
    );
}

#[test]
fn what_has_no_cluster_ip_of_a_family_has_no_frontends_of_it() {
    let slice = slice(BOTH_NODES);
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"], "externalIPs": ["198.51.100.1"]}),
        json!({"type": "ExternalName", "externalName": "a.b", "externalIPs": ["198.51.100.1"]}),
        json!({"type": "NodePort", "clusterIP": "", "clusterIPs": [], "externalIPs": ["198.51.100.1"]}),
    ] {
        let got = frontends(&service(spec.clone()), &[&slice], &here());
        assert!(got.is_empty(), "{spec}: {got:?}");
    }
    let single = json!({"type": "NodePort", "externalIPs": ["2001:db8::7"]});
    let got = frontends(&service(single), &[&slice], &here());
    let families: BTreeSet<_> = got.keys().map(Frontend::family).collect();
    assert_eq!(families, BTreeSet::from([Family::V4]));
}

#[test]
fn each_family_of_a_dual_stack_service_has_its_own_endpoints() {
    let service = service(json!({
        "type": "NodePort", "clusterIPs": ["10.96.0.7", "fd00:96::7"],
    }));
    let (v4, v6) = (
        slice(&["10.244.1.2@n1 ready"]),
        slice(&["fd00:244::2@n2 unready"]),
    );
    let got = frontends(&service, &[&v4, &v6], &here());
    let v6_port = Frontend::NodePort {
        family: Family::V6,
        protocol: model::Protocol::Tcp,
        port: NonZeroU16::new(30080).expect("port"),
    };
    assert_eq!(say(got.get(&at("fd00:96::7", 80))), "reject");
    assert_eq!(say(got.get(&v6_port)), "reject");
    assert_eq!(
        say(got.get(&node_port(30080))),
        "10.244.1.2:9376 masquerade Always"
    );
}

#[test]
fn slices_of_a_headless_service_and_ports_without_a_name_are_not_balanced() {
    let mut headless = slice(BOTH_NODES);
    headless
        .metadata
        .labels
        .insert("service.kubernetes.io/headless".into(), "".into());
    let mut unnamed = slice(BOTH_NODES);
    unnamed.ports[0].name = None;
    let mut zero = slice(BOTH_NODES);
    zero.ports[0].port = Some(0);
    for slice in [headless, unnamed, zero] {
        let got = frontends(&service(json!({})), &[&slice], &here());
        assert_eq!(say(got.get(&at("10.96.0.7", 80))), "reject", "{slice:?}");
    }
}
