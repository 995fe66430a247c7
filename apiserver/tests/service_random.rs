//! Whatever is asked of Services, in whatever order: what the store says is taken is what the Services hold.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::collections::BTreeSet;

use apiserver::{registry::Context, store::ListOptions};
use bytes::Bytes;
use common::{Api, SERVICES};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A spec that says some of what can be said, sensible or not.
fn spec(rng: &mut SmallRng) -> Value {
    let mut spec = json!({});
    let mut maybe = |chance: f64, field: &str, values: &[Value]| {
        if rng.random_bool(chance) {
            spec[field] = values.choose(rng).unwrap().clone();
        }
    };
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    maybe(0.7, "type", &types.map(Value::from));
    maybe(
        0.3,
        "clusterIP",
        &["", "None", "10.96.0.50", "10.96.0.51"].map(Value::from),
    );
    let lists = [
        json!([]),
        json!(["10.96.0.50"]),
        json!(["None"]),
        json!(["10.96.0.50", "fd00:96::50"]),
        Value::Null,
    ];
    maybe(0.15, "clusterIPs", &lists);
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    maybe(0.4, "ipFamilyPolicy", &policies.map(Value::from));
    let families = [json!(["IPv4"]), json!(["IPv4", "IPv6"]), json!(["IPv6"])];
    maybe(0.15, "ipFamilies", &families);
    maybe(0.5, "externalName", &[json!("example.com"), Value::Null]);
    let policies = ["Cluster", "Local", ""];
    maybe(0.3, "externalTrafficPolicy", &policies.map(Value::from));
    maybe(
        0.1,
        "healthCheckNodePort",
        &[0, 30_001, 30_003].map(Value::from),
    );
    maybe(
        0.1,
        "allocateLoadBalancerNodePorts",
        &[true, false].map(Value::from),
    );
    maybe(0.5, "selector", &[json!({"a": "b"}), Value::Null]);
    maybe(0.3, "externalIPs", &[json!(["192.0.2.1"]), json!([])]);
    let port = |rng: &mut SmallRng, name: &str| {
        let mut port = json!({"name": name, "port": rng.random_range(80..84)});
        if rng.random_bool(0.25) {
            port["nodePort"] = rng.random_range(30_000..30_004).into();
        }
        if rng.random_bool(0.4) {
            port["protocol"] = "UDP".into();
        }
        port
    };
    if rng.random_bool(0.8) {
        let count = rng.random_range(1..3);
        let names = ["x", "y"].iter().take(count);
        spec["ports"] = names.map(|name| port(rng, name)).collect();
    }
    spec
}

/// One request, told in words; whether it was accepted.
async fn step(api: &Api, rng: &mut SmallRng) -> (String, bool) {
    let name = *NAMES.choose(rng).unwrap();
    let path = format!("{SERVICES}/{name}");
    let mut body = json!({"metadata": {"name": name}, "spec": spec(rng)});
    if rng.random_bool(0.2) {
        let lists = [json!(["example.com/hold"]), json!([])];
        body["metadata"]["finalizers"] = lists.choose(rng).unwrap().clone();
    }
    let (method, target, query) = match rng.random_range(0..10) {
        0..3 => ("POST", SERVICES, ""),
        3..5 => ("PUT", &*path, ""),
        5..8 => ("PATCH", &*path, ""),
        8 => ("PATCH", &*path, "/status"),
        _ => ("DELETE", &*path, ""),
    };
    let dry = if rng.random_bool(0.1) {
        "?dryRun=All"
    } else {
        ""
    };
    let target = format!("{target}{query}{dry}");
    let media_type = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let sent = if method == "DELETE" {
        Value::Null
    } else {
        body
    };
    let (code, answer) = api.call_as(method, &target, media_type, sent.clone()).await;
    assert!(
        code.as_u16() < 500 || answer["message"].as_str().unwrap().contains("HealthCheck"),
        "{method} {target} {sent}: {answer}"
    );
    let told = format!("{method} {target} {sent}: {code} {}", answer["message"]);
    (told, code.is_success())
}

async fn keys(api: &Api, prefix: &str) -> BTreeSet<String> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let range = Bytes::from(prefix.to_owned())..Bytes::from(end);
    let page = api.registry.backend().list(range, ListOptions::default());
    let records = page.await.unwrap().records;
    let names = records.iter().map(|record| &record.key[prefix.len()..]);
    names
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect()
}

/// What the Services say they hold, each but once.
fn held(services: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for service in services["items"].as_array().unwrap() {
        let spec = &service["spec"];
        let own = spec["clusterIPs"].as_array().into_iter().flatten();
        for ip in own.filter_map(Value::as_str).filter(|ip| *ip != "None") {
            assert!(ips.insert(ip.to_owned()), "{ip} twice: {services}");
        }
        let own = spec["ports"].as_array().into_iter().flatten();
        let own = own.map(|port| &port["nodePort"]);
        let own = own.chain([&spec["healthCheckNodePort"]]);
        let own: BTreeSet<String> = own
            .filter_map(Value::as_u64)
            .map(|port| port.to_string())
            .collect();
        for port in own {
            assert!(ports.insert(port.clone()), "{port} twice: {services}");
        }
    }
    (ips, ports)
}

/// What holds of every Service that was accepted.
fn is_sound(service: &Value) -> Result<(), &'static str> {
    let spec = &service["spec"];
    let kind = spec["type"].as_str().ok_or("no type")?;
    let ips = spec["clusterIPs"].as_array().map_or(0, Vec::len);
    let says = |wanted: bool, what| if wanted { Ok(()) } else { Err(what) };
    says(
        spec["clusterIP"] == spec["clusterIPs"][0],
        "clusterIP is not the first of clusterIPs",
    )?;
    says(
        (kind == "ExternalName") == (ips == 0),
        "wrong number of clusterIPs",
    )?;
    let families = spec["ipFamilies"].as_array().map_or(0, Vec::len);
    says(
        (kind == "ExternalName") == (families == 0),
        "wrong number of families",
    )?;
    let headless = spec["clusterIP"] == "None";
    says(headless || families == ips, "a family without an address")?;
    let outside = matches!(kind, "NodePort" | "LoadBalancer");
    says(!(outside && headless), "headless and from outside")?;
    let ports = spec["ports"].as_array().cloned().unwrap_or_default();
    let with_node_port = ports
        .iter()
        .filter(|port| port["nodePort"].is_u64())
        .count();
    says(
        outside || with_node_port == 0,
        "nodePort of a Service without",
    )?;
    says(
        kind != "NodePort" || with_node_port == ports.len(),
        "no nodePort",
    )?;
    let check = kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    says(
        check == spec["healthCheckNodePort"].is_u64(),
        "healthCheckNodePort",
    )?;
    let external = outside || (kind == "ClusterIP" && spec["externalIPs"][0].is_string());
    says(
        external == spec["externalTrafficPolicy"].is_string(),
        "externalTrafficPolicy",
    )
}

#[tokio::test]
async fn what_is_taken_is_what_services_hold_whatever_was_asked() {
    always_consistent(&["10.96.0.0/16"]).await;
}

#[tokio::test]
async fn what_is_taken_is_what_services_of_two_families_hold_whatever_was_asked() {
    always_consistent(&["10.96.0.0/16", "fd00:96::/112"]).await;
}

async fn always_consistent(service_cidrs: &[&str]) {
    let api = Api::with(Context {
        service_cidrs: service_cidrs
            .iter()
            .map(|net| net.parse().unwrap())
            .collect(),
        allowed_external_ips: vec!["192.0.2.0/24".parse().unwrap()],
        ..Context::default()
    })
    .await;
    let mut accepted_count = 0;
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut done = Vec::new();
        for _ in 0..50 {
            let (told, accepted) = step(&api, &mut rng).await;
            done.push(told);
            accepted_count += usize::from(accepted);
            let (_, services) = api.get(SERVICES).await;
            let (ips, ports) = held(&services);
            let story = || done[done.len().saturating_sub(4)..].join("\n");
            for service in services["items"].as_array().unwrap() {
                if let Err(what) = is_sound(service) {
                    panic!("seed {seed}: {what}: {service}\nafter\n{}", story());
                }
            }
            let taken = keys(&api, "/registry/networking.k8s.io/ipaddresses/").await;
            assert_eq!(taken, ips, "seed {seed}: addresses after\n{}", story());
            let taken = keys(&api, "/minik/nodeports/").await;
            assert_eq!(taken, ports, "seed {seed}: ports after\n{}", story());
        }
    }
    assert!(
        accepted_count > 400,
        "only {accepted_count} of 2000 did anything"
    );
}
