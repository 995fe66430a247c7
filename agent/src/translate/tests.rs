//! Objects in, fates out. What a fate needs of a Service is written as text: see [`endpoint`] and [`say`].

mod fates;
mod laws;
mod policy;

use std::{net::SocketAddr, time::Duration};

use dns::records::Service as Records;
use serde_json::{Value, json};

use super::*;

fn here() -> Here {
    Here {
        node: "n1".into(),
        zone: Some("z1".into()),
        addresses: Some("192.0.2.1".parse::<IpAddr>().expect("address").into()),
    }
}

fn service(spec: Value) -> Service {
    let mut whole = json!({
        "metadata": {"namespace": "default", "name": "web", "resourceVersion": "1"},
        "spec": {
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"port": 80, "nodePort": 30080, "targetPort": 9376}],
        },
    });
    let fields = spec.as_object().expect("object").clone();
    whole["spec"]
        .as_object_mut()
        .expect("object")
        .extend(fields);
    serde_json::from_value(whole).expect("service")
}

/// `"10.244.1.2@n1 ready zone=z1 node=n1"`: address, node, a state, and the hints.
///
/// The states: `ready`; `unready`; `starting`, which serves but may not be used yet; `published`, which goes away but is
/// called ready by publishNotReadyAddresses; `serving` while it goes away; `terminating`, which goes away without serving;
/// `mirrored-unready`, of which only the readiness is known.
fn endpoint(text: &str) -> Value {
    let mut words = text.split(' ');
    let (addr, node) = words
        .next()
        .and_then(|place| place.split_once('@'))
        .expect("address and node");
    let conditions = match words.next().expect("a state") {
        "ready" => json!({"ready": true, "serving": true, "terminating": false}),
        "unready" => json!({"ready": false, "serving": false, "terminating": false}),
        "starting" => json!({"ready": false, "serving": true, "terminating": false}),
        "published" => json!({"ready": true, "serving": false, "terminating": true}),
        "serving" => json!({"ready": false, "serving": true, "terminating": true}),
        "terminating" => json!({"ready": false, "serving": false, "terminating": true}),
        "mirrored-unready" => json!({"ready": false}),
        other => panic!("{other}"),
    };
    let mut hints = json!({});
    for word in words {
        match word.split_once('=') {
            Some(("zone", name)) => hints["forZones"] = json!([{"name": name}]),
            Some(("node", name)) => hints["forNodes"] = json!([{"name": name}]),
            _ => panic!("{word}"),
        }
    }
    json!({"addresses": [addr], "nodeName": node, "conditions": conditions, "hints": hints})
}

fn slice(endpoints: &[&str]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints.iter().map(|text| endpoint(text)).collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web-1", "resourceVersion": "1"},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 9376}],
    }))
    .expect("slice")
}

/// Says a fate in a line: `10.244.1.2:9376 masquerade Always`, `outside 10.244.1.2:9376, inside 10.244.1.2:9376`.
fn say(fate: Option<&Fate>) -> String {
    match fate {
        None => "nothing".to_owned(),
        Some(Fate::Reject) => "reject".to_owned(),
        Some(Fate::Drop) => "drop".to_owned(),
        Some(Fate::From { sources, fate }) => {
            let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
            format!("from [{}] {}", sources.join(" "), say(Some(fate)))
        }
        Some(Fate::Balance {
            endpoints,
            masquerade,
            affinity,
        }) => format!(
            "{} masquerade {masquerade:?}{}",
            list(endpoints),
            say_affinity(*affinity)
        ),
        Some(Fate::Local {
            outside,
            inside,
            affinity,
        }) => format!(
            "outside {}, inside {}{}",
            list(outside),
            list(inside),
            say_affinity(*affinity)
        ),
    }
}

fn list(endpoints: &[model::Endpoint]) -> String {
    let words: Vec<_> = endpoints
        .iter()
        .map(|endpoint| SocketAddr::new(endpoint.addr, endpoint.port.get()).to_string())
        .collect();
    if words.is_empty() {
        "drop".to_owned()
    } else {
        words.join(" ")
    }
}

fn say_affinity(affinity: Option<Affinity>) -> String {
    let Some(Affinity {
        timeout,
        memory: Memory { port, scope },
    }) = affinity
    else {
        return String::new();
    };
    let Frontend::Address { addr, port, .. } = port else {
        panic!("{port:?} is no address");
    };
    let at = SocketAddr::new(addr, port.get());
    format!(" affinity {at} {scope:?} {}s", timeout.as_secs())
}

fn at(addr: &str, port: u16) -> Frontend {
    Frontend::Address {
        addr: addr.parse().expect("address"),
        protocol: model::Protocol::Tcp,
        port: NonZeroU16::new(port).expect("port"),
    }
}

fn node_port(port: u16) -> Frontend {
    Frontend::NodePort {
        family: Family::V4,
        protocol: model::Protocol::Tcp,
        port: NonZeroU16::new(port).expect("port"),
    }
}

const BOTH_NODES: &[&str] = &["10.244.1.2@n1 ready", "10.244.2.2@n2 ready"];

#[test]
fn external_ips_and_vips_follow_the_external_policy_and_mode_proxy_is_left_alone() {
    let mut service = service(json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.1"]}));
    service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "198.51.100.2", "ipMode": "VIP"}, {"ip": "198.51.100.3", "ipMode": "Proxy"}, {"hostname": "lb"},
    ]}}))
    .expect("status");
    let slice = slice(&["10.244.2.2@n2 ready"]);
    let got = frontends(&service, &[&slice], &here());
    for addr in ["198.51.100.1", "198.51.100.2"] {
        assert_eq!(
            say(got.get(&at(addr, 80))),
            "10.244.2.2:9376 masquerade Always",
            "{addr}"
        );
    }
    assert_eq!(say(got.get(&at("198.51.100.3", 80))), "nothing");
}

#[test]
fn source_ranges_limit_vips_only_and_in_both_families() {
    let all = "10.244.2.2:9376 masquerade Always";
    let all6 = "[fd00:244::2]:9376 masquerade Always";
    let rows: &[(&[&str], String, String)] = &[
        (&[], all.into(), all6.into()),
        (
            &[" 203.0.113.0/24 ", "2001:db8::/32\n"],
            format!("from [203.0.113.0/24] {all}"),
            format!("from [2001:db8::/32] {all6}"),
        ),
        (
            &["203.0.113.0/24"],
            format!("from [203.0.113.0/24] {all}"),
            format!("from [] {all6}"),
        ),
        (
            &["203.0.113.0/24", "::/0"],
            format!("from [203.0.113.0/24] {all}"),
            all6.into(),
        ),
        (
            &["192.0.2.0/28"],
            format!("from [192.0.2.0/28 198.51.100.2/32] {all}"),
            format!("from [] {all6}"),
        ),
    ];
    for (ranges, v4, v6) in rows {
        let mut service = service(json!({
            "type": "LoadBalancer", "externalIPs": ["198.51.100.1"], "clusterIPs": ["10.96.0.7", "fd00:96::7"],
            "loadBalancerSourceRanges": ranges,
        }));
        service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
            {"ip": "198.51.100.2"}, {"ip": "2001:db8::2"},
        ]}}))
        .expect("status");
        let slice = slice(&["10.244.2.2@n2 ready", "fd00:244::2@n2 ready"]);
        let got = frontends(&service, &[&slice], &here());
        assert_eq!(say(got.get(&at("198.51.100.2", 80))), *v4, "{ranges:?}");
        assert_eq!(say(got.get(&at("2001:db8::2", 80))), *v6, "{ranges:?}");
        assert_eq!(say(got.get(&at("198.51.100.1", 80))), all, "an externalIP");
        assert_eq!(say(got.get(&node_port(30080))), all, "its NodePort");
    }
}

#[test]
fn a_service_of_another_proxy_has_names_but_no_frontends() {
    let mut service = service(json!({}));
    service.metadata.labels.insert(
        "service.kubernetes.io/service-proxy-name".into(),
        "other".into(),
    );
    assert!(frontends(&service, &[&slice(BOTH_NODES)], &here()).is_empty());
    assert!(records(&service, &[]).is_some());
}

#[test]
fn a_health_check_counts_the_addresses_of_ready_endpoints_here() {
    let spec = |fields: Value| {
        let mut whole = json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "clusterIPs": ["10.96.0.7", "fd00:96::7"],
            "ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}],
        });
        let fields = fields.as_object().expect("object").clone();
        whole.as_object_mut().expect("object").extend(fields);
        service(whole)
    };
    let mut slice = slice(&[
        "10.244.1.2@n1 ready",
        "10.244.1.3@n1 ready",
        "10.244.1.4@n1 serving",
        "10.244.1.5@n1 unready",
        "10.244.2.2@n2 ready",
        "fd00:244::2@n1 ready",
    ]);
    slice.ports = serde_json::from_value(json!([
        {"name": "web", "port": 8080}, {"name": "tls", "port": 8443},
    ]))
    .expect("ports");
    let check = health_check(&spec(json!({})), &[&slice], &here()).expect("a health check");
    assert_eq!(check.port.get(), 32000);
    assert_eq!(
        check.local_endpoints,
        BTreeMap::from([(Family::V4, 2), (Family::V6, 1)])
    );
    for without in [
        json!({"type": "NodePort"}),
        json!({"externalTrafficPolicy": "Cluster"}),
        json!({"healthCheckNodePort": 0}),
    ] {
        let got = health_check(&spec(without.clone()), &[&slice], &here());
        assert_eq!(got, None, "{without}");
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let service = service(json!({"ports": [
        {"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]}));
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web-1", "resourceVersion": "1"},
        "endpoints": [endpoint("10.244.1.2@n1 ready")],
        "ports": [
            {"name": "dns", "protocol": "UDP", "port": 5353}, {"name": "web", "port": 8080},
            {"name": "unnumbered"},
        ],
    }))
    .expect("slice");
    let got = frontends(&service, &[&slice], &here());
    assert_eq!(
        say(got.get(&at("10.96.0.7", 80))),
        "10.244.1.2:8080 masquerade NonPodSources"
    );
    let udp = Frontend::Address {
        addr: "10.96.0.7".parse().expect("address"),
        protocol: model::Protocol::Udp,
        port: NonZeroU16::new(53).expect("port"),
    };
    assert_eq!(
        say(got.get(&udp)),
        "10.244.1.2:5353 masquerade NonPodSources"
    );
}

#[test]
fn affinity_without_a_timeout_lasts_three_hours() {
    let service = service(json!({"sessionAffinity": "ClientIP"}));
    assert_eq!(service.affinity(), Some(Duration::from_secs(10800)));
}

#[test]
fn all_paths_of_a_service_port_share_an_affinity_unless_one_of_them_stays_on_the_node() {
    let affine = |spec: Value| {
        let mut whole = json!({
            "type": "LoadBalancer", "externalIPs": ["198.51.100.1"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        });
        let fields = spec.as_object().expect("object").clone();
        whole.as_object_mut().expect("object").extend(fields);
        let slice = slice(BOTH_NODES);
        let got = frontends(&service(whole), &[&slice], &here());
        [
            at("10.96.0.7", 80),
            node_port(30080),
            at("198.51.100.1", 80),
        ]
        .map(|frontend| say(got.get(&frontend)))
    };
    let (all, here) = ("10.244.1.2:9376 10.244.2.2:9376", "10.244.1.2:9376");
    let cluster = "affinity 10.96.0.7:80 Cluster 60s";
    let always = format!("{all} masquerade Always {cluster}");
    assert_eq!(
        affine(json!({})),
        [
            format!("{all} masquerade NonPodSources {cluster}"),
            always.clone(),
            always.clone()
        ]
    );
    assert_eq!(
        affine(json!({"internalTrafficPolicy": "Local"})),
        [
            format!("{here} masquerade NonPodSources affinity 10.96.0.7:80 Node 60s"),
            always.clone(),
            always
        ]
    );
    let local = format!("outside {here}, inside {all} {cluster}");
    assert_eq!(
        affine(json!({"externalTrafficPolicy": "Local"})),
        [
            format!("{all} masquerade NonPodSources {cluster}"),
            local.clone(),
            local
        ]
    );
}

#[test]
fn names_follow_the_kind_of_service() {
    let slice = slice(&["10.244.1.2@n1 ready", "10.244.1.3@n1 unready"]);
    let virtual_service = records(
        &service(json!({"ports": [{"name": "web", "port": 80}]})),
        &[&slice],
    );
    let Some(Records::Virtual { addrs, ports }) = virtual_service else {
        panic!("{virtual_service:?}")
    };
    assert_eq!(addrs, ["10.96.0.7".parse::<IpAddr>().expect("address")]);
    assert_eq!(
        (&*ports[0].name, ports[0].protocol, ports[0].number),
        ("web", "tcp", 80)
    );

    let headless = records(
        &service(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
        &[&slice],
    );
    let Some(Records::Headless { hosts }) = headless else {
        panic!("{headless:?}")
    };
    assert_eq!(hosts.len(), 1, "only ready endpoints have names");
    assert_eq!(hosts[0].ports[0].number, 9376, "the endpoint's own port");

    let alias = records(
        &service(json!({"type": "ExternalName", "externalName": "db.example."})),
        &[],
    );
    assert_eq!(
        alias,
        Some(Records::Alias {
            target: "db.example".into()
        })
    );

    let unallocated = records(&service(json!({"clusterIP": "", "clusterIPs": []})), &[]);
    assert_eq!(unallocated, None);
}
