//! Services: defaults, transitions, addresses and ports (services.md 1), and addresses that are refused as endpoints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use apiserver::{
    registry::{Context, kinds},
    store::{Durability, Expect, Operation, Write},
};
use common::{Api, SERVICES, service};
use serde_json::{Value, json};

const NODE_PORT_MESSAGE: &str = "provided port is already allocated";

fn of_type(name: &str, kind: &str) -> Value {
    let mut body = service(name);
    body["spec"]["type"] = kind.into();
    body
}

fn cause(status: &Value) -> (&str, &str) {
    let cause = &status["details"]["causes"][0];
    (
        cause["field"].as_str().unwrap_or_default(),
        cause["message"].as_str().unwrap_or_default(),
    )
}

async fn ip_is_taken(api: &Api, ip: &Value) -> bool {
    let ip = ip.as_str().unwrap();
    api.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
        .await
        .0
        == 200
}

async fn port_is_taken(api: &Api, port: &Value) -> bool {
    let key = format!("/minik/nodeports/{port}");
    api.registry
        .backend()
        .get(key.as_bytes(), None)
        .await
        .unwrap()
        .is_some()
}

#[tokio::test]
async fn m13_a_service_gets_its_defaults() {
    let api = Api::new().await;
    let made = api.made(SERVICES, service("a")).await;
    let spec = &made["spec"];
    for (field, wanted) in [
        ("type", json!("ClusterIP")),
        ("sessionAffinity", json!("None")),
        ("internalTrafficPolicy", json!("Cluster")),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
        (
            "ports",
            json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]),
        ),
        ("externalTrafficPolicy", Value::Null),
    ] {
        assert_eq!(spec[field], wanted, "{field}");
    }
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    let ip: std::net::Ipv4Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    let offset = u32::from(ip) - u32::from(std::net::Ipv4Addr::new(10, 96, 0, 0));
    assert!(
        (257..65_535).contains(&offset),
        "{ip} is not from the dynamic band"
    );
    assert!(ip_is_taken(&api, &spec["clusterIP"]).await);
}

#[tokio::test]
async fn a_cluster_ip_asked_for_is_given_once() {
    let api = Api::new().await;
    let mut body = service("a");
    body["spec"]["clusterIP"] = "10.96.0.10".into();
    let made = api.made(SERVICES, body.clone()).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    body["metadata"]["name"] = "b".into();
    let (code, status) = api.post(SERVICES, body.clone()).await;
    assert_eq!(code, 422);
    let (field, message) = cause(&status);
    assert_eq!(field, "spec.clusterIPs");
    assert!(
        message.ends_with("failed to allocate IP 10.96.0.10: provided IP is already allocated"),
        "{message}"
    );
    body["spec"]["clusterIP"] = "192.168.0.1".into();
    let (code, status) = api.post(SERVICES, body.clone()).await;
    assert_eq!(code, 422);
    assert!(
        cause(&status)
            .1
            .contains("the provided network does not match the current range")
    );
    api.delete(&format!("{SERVICES}/a")).await;
    body["spec"]["clusterIP"] = "10.96.0.10".into();
    api.made(SERVICES, body).await;
}

#[tokio::test]
async fn a_put_of_the_original_manifest_keeps_addresses_and_ports() {
    let api = Api::new().await;
    let made = api.made(SERVICES, of_type("a", "NodePort")).await;
    let mut manifest = of_type("a", "NodePort");
    manifest["spec"]["selector"] = json!({"app": "other"});
    let (code, changed) = api.put(&format!("{SERVICES}/a"), manifest).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(changed["spec"]["ports"], made["spec"]["ports"]);
}

#[tokio::test]
async fn cluster_ips_do_not_change_once_set() {
    let api = Api::new().await;
    api.made(SERVICES, service("a")).await;
    for ip in ["10.96.0.20", "None"] {
        let (code, status) = api
            .merge(&format!("{SERVICES}/a"), json!({"spec": {"clusterIP": ip}}))
            .await;
        assert_eq!(code, 422, "{status}");
        assert!(
            cause(&status).1.ends_with("may not change once set"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn node_ports_are_taken_given_back_and_refused_when_taken() {
    let api = Api::new().await;
    let made = api.made(SERVICES, of_type("a", "NodePort")).await;
    let port = &made["spec"]["ports"][0]["nodePort"];
    assert!((30086..=32767).contains(&port.as_u64().unwrap()), "{port}");
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
    assert!(port_is_taken(&api, port).await);
    let mut body = of_type("b", "NodePort");
    body["spec"]["ports"][0]["nodePort"] = port.clone();
    let (code, status) = api.post(SERVICES, body.clone()).await;
    assert_eq!(code, 422);
    assert_eq!(cause(&status).0, "spec.ports[0].nodePort");
    assert!(cause(&status).1.ends_with(NODE_PORT_MESSAGE));
    body["spec"]["ports"][0]["nodePort"] = 80.into();
    let (_, status) = api.post(SERVICES, body.clone()).await;
    assert!(
        cause(&status)
            .1
            .ends_with("The range of valid ports is 30000-32767"),
        "{status}"
    );
    let to_cluster_ip = json!({"spec": {"type": "ClusterIP"}});
    let (code, changed) = api.merge(&format!("{SERVICES}/a"), to_cluster_ip).await;
    assert_eq!(code, 200, "{changed}");
    assert!(changed["spec"]["ports"][0]["nodePort"].is_null());
    assert!(changed["spec"]["externalTrafficPolicy"].is_null());
    assert!(!port_is_taken(&api, port).await);
    body["spec"]["ports"][0]["nodePort"] = port.clone();
    api.made(SERVICES, body).await;
}

#[tokio::test]
async fn a_refused_write_takes_nothing() {
    let api = Api::new().await;
    let mut body = of_type("a", "NodePort");
    body["spec"]["clusterIP"] = "10.96.0.30".into();
    body["spec"]["ports"][0]["nodePort"] = 30001.into();
    api.made(SERVICES, body.clone()).await;
    body["spec"]["clusterIP"] = "10.96.0.31".into();
    body["spec"]["ports"][0]["nodePort"] = 30002.into();
    let (code, _) = api.post(SERVICES, body).await;
    assert_eq!(code, 409);
    assert!(!ip_is_taken(&api, &json!("10.96.0.31")).await);
    assert!(!port_is_taken(&api, &json!(30002)).await);
}

#[tokio::test]
async fn one_port_number_under_two_protocols_shares_a_node_port_on_create() {
    let api = Api::new().await;
    let mut body = of_type("a", "NodePort");
    body["spec"]["ports"] = json!([
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tcp", "port": 53, "protocol": "TCP"},
    ]);
    let made = api.made(SERVICES, body).await;
    let ports = made["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
}

#[tokio::test]
async fn to_external_name_and_back() {
    let api = Api::new().await;
    let made = api.made(SERVICES, of_type("a", "NodePort")).await;
    let path = format!("{SERVICES}/a");
    let (code, status) = api
        .merge(&path, json!({"spec": {"type": "ExternalName"}}))
        .await;
    assert_eq!(
        (code.as_u16(), cause(&status).0),
        (422, "spec.externalName")
    );
    let change = json!({"spec": {"type": "ExternalName", "externalName": "db.example.com"}});
    let (code, outside) = api.merge(&path, change).await;
    assert_eq!(code, 200, "{outside}");
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(outside["spec"][field].is_null(), "{field}");
    }
    assert!(!ip_is_taken(&api, &made["spec"]["clusterIP"]).await);
    assert!(!port_is_taken(&api, &made["spec"]["ports"][0]["nodePort"]).await);
    let change = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    let (code, back) = api.merge(&path, change).await;
    assert_eq!(code, 200, "{back}");
    assert!(ip_is_taken(&api, &back["spec"]["clusterIP"]).await);
}

#[tokio::test]
async fn headless_services_have_no_address() {
    let api = Api::new().await;
    let mut body = service("a");
    body["spec"]["clusterIP"] = "None".into();
    let made = api.made(SERVICES, body).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    let headless = json!({"metadata": {"name": "b"}, "spec": {"clusterIP": "None"}});
    let made = api.made(SERVICES, headless).await;
    assert_eq!(made["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let mut body = of_type("c", "NodePort");
    body["spec"]["clusterIP"] = "None".into();
    assert_eq!(api.post(SERVICES, body).await.0, 422);
}

#[tokio::test]
async fn families_the_cluster_does_not_have_are_refused() {
    let api = Api::new().await;
    for (field, value, wanted) in [
        (
            "ipFamilies",
            json!(["IPv6"]),
            "IPv6 is not configured on this cluster",
        ),
        (
            "ipFamilyPolicy",
            json!("RequireDualStack"),
            "this cluster is not configured for dual-stack services",
        ),
    ] {
        let mut body = service("a");
        body["spec"][field] = value;
        let (code, status) = api.post(SERVICES, body).await;
        assert_eq!(code, 422);
        assert!(cause(&status).1.ends_with(wanted), "{status}");
    }
    let mut body = service("a");
    body["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let made = api.made(SERVICES, body).await;
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
}

async fn dual_stack() -> Api {
    let net = |text: &str| text.parse().unwrap();
    Api::with(Context {
        service_cidrs: vec![net("10.96.0.0/16"), net("fd00:96::/112")],
        ..Context::default()
    })
    .await
}

#[tokio::test]
async fn the_second_family_goes_only_when_asked_to_and_with_its_address() {
    let api = dual_stack().await;
    let mut body = service("a");
    body["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let made = api.made(SERVICES, body.clone()).await;
    let second = made["spec"]["clusterIPs"][1].clone();
    assert!(ip_is_taken(&api, &second).await, "{made}");
    let path = format!("{SERVICES}/a");
    for fewer in [
        json!({"clusterIPs": [made["spec"]["clusterIP"]]}),
        json!({"ipFamilies": ["IPv4"]}),
    ] {
        let (code, status) = api.merge(&path, json!({"spec": fewer})).await;
        assert_eq!(code, 422, "{status}");
        let (field, message) = cause(&status);
        assert_eq!(field, "spec.ipFamilyPolicy");
        assert!(
            message.contains("must be 'SingleStack' to release the secondary"),
            "{message}"
        );
    }
    // The manifest names neither families nor addresses.
    body["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    let (code, changed) = api.put(&path, body).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(
        changed["spec"]["clusterIPs"],
        json!([made["spec"]["clusterIP"]])
    );
    assert_eq!(changed["spec"]["ipFamilies"], json!(["IPv4"]));
    assert!(!ip_is_taken(&api, &second).await);
}

#[tokio::test]
async fn a_service_that_prefers_two_families_is_not_given_the_second_by_the_way() {
    let api = dual_stack().await;
    let made = api.made(SERVICES, service("a")).await;
    // As one that was made when the cluster had one family.
    let mut stored = made.clone();
    let metadata = stored["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "managedFields"));
    stored["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let write = Write {
        key: kinds::SERVICES.key(Some("default"), "a").into(),
        expect: Expect::Any,
        operation: Operation::Put {
            value: stored.to_string().into(),
            ttl: None,
        },
    };
    api.registry
        .backend()
        .commit(vec![write], Durability::Strict)
        .await
        .unwrap();
    let other = json!({"spec": {"selector": {"app": "other"}}});
    let (code, changed) = api.merge(&format!("{SERVICES}/a"), other).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"]["clusterIPs"], made["spec"]["clusterIPs"]);
    assert_eq!(changed["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test]
async fn a_load_balancer_says_in_its_status_where_it_is_reached() {
    let api = Api::new().await;
    api.made(SERVICES, of_type("lb", "LoadBalancer")).await;
    api.made(SERVICES, service("inner")).await;
    let status = |point: Value| json!({"status": {"loadBalancer": {"ingress": [point]}}});
    for (name, point, field, wanted) in [
        (
            "lb",
            json!({"ip": "bogus"}),
            "ip",
            "must be a valid IP address",
        ),
        (
            "lb",
            json!({"hostname": "a", "ipMode": "VIP"}),
            "ipMode",
            "`ip` is not set",
        ),
        (
            "lb",
            json!({"ip": "192.0.2.1", "ipMode": "x"}),
            "ipMode",
            "Unsupported value",
        ),
        (
            "lb",
            json!({"hostname": "192.0.2.1"}),
            "hostname",
            "not an IP address",
        ),
        (
            "inner",
            json!({"ip": "192.0.2.1"}),
            "",
            "may only be used when",
        ),
    ] {
        let path = format!("{SERVICES}/{name}/status");
        let (code, answer) = api.merge(&path, status(point)).await;
        assert_eq!(code, 422, "{answer}");
        let (got, message) = cause(&answer);
        assert!(
            got.ends_with(field) && message.contains(wanted),
            "{got}: {message}"
        );
    }
    let (code, changed) = api
        .merge(
            &format!("{SERVICES}/lb/status"),
            status(json!({"ip": "192.0.2.1"})),
        )
        .await;
    assert_eq!(code, 200, "{changed}");
    let point = &changed["status"]["loadBalancer"]["ingress"][0];
    assert_eq!(point, &json!({"ip": "192.0.2.1", "ipMode": "VIP"}));
}

#[tokio::test]
async fn what_a_service_may_not_say() {
    let api = Api::new().await;
    let cases = [
        (json!({"ports": []}), "spec.ports"),
        (json!({"type": "Magic"}), "spec.type"),
        (json!({"ports": [{"port": 0}]}), "spec.ports[0].port"),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            "spec.ports[0].name",
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
            "spec.ports[1].name",
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
            "spec.ports[1]",
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "-x"}]}),
            "spec.ports[0].targetPort",
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
            "spec.ports[0].protocol",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            "spec.ports[0].nodePort",
        ),
        (json!({"sessionAffinity": "Sticky"}), "spec.sessionAffinity"),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        (json!({"clusterIP": "10.96"}), "spec.clusterIPs[0]"),
        (json!({"externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]"),
        (
            json!({"externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy",
        ),
        (
            json!({"internalTrafficPolicy": "Nearby"}),
            "spec.internalTrafficPolicy",
        ),
        (
            json!({"trafficDistribution": "Anywhere"}),
            "spec.trafficDistribution",
        ),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "spec.LoadBalancerSourceRanges[0]",
        ),
        (
            json!({"healthCheckNodePort": 30000}),
            "spec.healthCheckNodePort",
        ),
        (json!({"selector": {"a b": "c"}}), "spec.selector"),
    ];
    for (change, field) in cases {
        let mut body = service("a");
        for (key, value) in change.as_object().unwrap() {
            body["spec"][key] = value.clone();
        }
        let (code, status) = api.post(SERVICES, body).await;
        assert_eq!(code, 422, "{change}: {status}");
        assert_eq!(cause(&status).0, field, "{status}");
    }
}

#[tokio::test]
async fn local_load_balancers_get_a_health_check_port() {
    let api = Api::new().await;
    let mut body = of_type("a", "LoadBalancer");
    body["spec"]["externalTrafficPolicy"] = "Local".into();
    let made = api.made(SERVICES, body).await;
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], true);
    let port = made["spec"]["healthCheckNodePort"].clone();
    assert!(port_is_taken(&api, &port).await);
    let change = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
    let (code, changed) = api.merge(&format!("{SERVICES}/a"), change).await;
    assert_eq!(code, 200, "{changed}");
    assert!(changed["spec"]["healthCheckNodePort"].is_null());
    assert!(!port_is_taken(&api, &port).await);
}

#[tokio::test]
async fn deleting_a_service_deletes_its_endpoints() {
    let api = Api::new().await;
    api.made(SERVICES, service("a")).await;
    let endpoints = "/api/v1/namespaces/default/endpoints";
    api.made(endpoints, json!({"metadata": {"name": "a"}}))
        .await;
    api.delete(&format!("{SERVICES}/a")).await;
    assert_eq!(api.get(&format!("{endpoints}/a")).await.0, 404);
}

#[tokio::test]
async fn addresses_that_lead_nowhere_are_refused_as_endpoints() {
    let api = Api::new().await;
    let cases = [
        (
            "10.96.0.10",
            "may not be a ClusterIP: it is in the service range 10.96.0.0/16",
        ),
        ("127.0.0.1", "may not be in the loopback range"),
        ("169.254.1.1", "may not be in the link-local range"),
        ("0.0.0.0", "may not be unspecified"),
        ("224.0.0.1", "may not be in the link-local multicast range"),
        ("database", "must be a valid IP address"),
        ("10.0.0.01", "must not have leading 0s"),
        (
            "::ffff:127.0.0.1",
            "must not be an IPv4-mapped IPv6 address",
        ),
    ];
    for (ip, wanted) in cases {
        let endpoints = json!({"metadata": {"name": "a"}, "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 42}]}]});
        let (code, status) = api
            .post("/api/v1/namespaces/default/endpoints", endpoints)
            .await;
        assert_eq!(code, 422);
        let (field, message) = cause(&status);
        assert_eq!(field, "subsets[0].addresses[0].ip");
        assert!(
            message.contains(wanted) && message.contains(ip),
            "{message}"
        );
        let slice = json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": [ip]}]});
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let (code, status) = api.post(path, slice).await;
        assert_eq!(code, 422);
        assert_eq!(cause(&status).0, "endpoints[0].addresses[0]");
    }
    let endpoints = json!({"metadata": {"name": "a"}, "subsets": [{"addresses": [{"ip": "192.0.2.42"}], "ports": [{"port": 9376}]}]});
    api.made("/api/v1/namespaces/default/endpoints", endpoints)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_services_never_share_an_address_or_port() {
    let api = Api::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..100 {
        let registry = api.registry.clone();
        tasks.spawn(async move {
            let body = of_type(&format!("s{index}"), "NodePort");
            let options = apiserver::registry::WriteOptions::default();
            let kind = &apiserver::registry::kinds::SERVICES;
            registry
                .create(kind, Some("default"), body, &options)
                .await
                .unwrap()
                .value()
        });
    }
    let made = tasks.join_all().await;
    let distinct = |read: fn(&Value) -> String| {
        made.iter()
            .map(read)
            .collect::<std::collections::HashSet<_>>()
            .len()
    };
    assert_eq!(distinct(|s| s["spec"]["clusterIP"].to_string()), 100);
    assert_eq!(
        distinct(|s| s["spec"]["ports"][0]["nodePort"].to_string()),
        100
    );
}

#[tokio::test]
async fn the_write_that_lets_a_service_go_releases_what_the_service_held_and_nothing_else() {
    let api = Api::new().await;
    let with_port = |name: &str, port: u16, ip: &str| {
        let mut body = of_type(name, "NodePort");
        body["spec"]["clusterIP"] = ip.into();
        body["spec"]["ports"][0]["nodePort"] = port.into();
        body
    };
    let mut held = with_port("held", 30010, "10.96.0.40");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.made(SERVICES, held).await;
    api.made(SERVICES, with_port("other", 30011, "10.96.0.41"))
        .await;
    let path = format!("{SERVICES}/held");
    assert_eq!(api.delete(&path).await.0, 200);
    // One write takes the finalizer away and names the port of another Service.
    let last = json!({
        "metadata": {"finalizers": null},
        "spec": {"ports": [{"port": 80, "nodePort": 30011}]},
    });
    let (code, answer) = api.merge(&path, last).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(api.get(&path).await.0, 404);
    assert!(!port_is_taken(&api, &json!(30010)).await);
    assert!(!ip_is_taken(&api, &json!("10.96.0.40")).await);
    assert!(port_is_taken(&api, &json!(30011)).await);
    assert!(ip_is_taken(&api, &json!("10.96.0.41")).await);
}

#[tokio::test]
async fn node_ports_that_are_no_port_numbers_are_refused() {
    let api = Api::new().await;
    for port in [70_000, -1, 65_536 + 30_000] {
        let mut body = of_type("a", "NodePort");
        body["spec"]["ports"][0]["nodePort"] = port.into();
        let (code, status) = api.post(SERVICES, body).await;
        assert_eq!(code, 422, "{port}: {status}");
        let (field, message) = cause(&status);
        assert_eq!(field, "spec.ports[0].nodePort");
        assert!(message.ends_with("is 30000-32767"), "{message}");
        let mut body = of_type("a", "LoadBalancer");
        body["spec"]["externalTrafficPolicy"] = "Local".into();
        body["spec"]["healthCheckNodePort"] = port.into();
        let (code, status) = api.post(SERVICES, body).await;
        assert_eq!(code, 500, "{port}: {status}");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("HealthCheck NodePort"), "{message}");
    }
}
