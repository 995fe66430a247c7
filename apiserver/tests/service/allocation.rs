//! Addresses and ports (services.md 1.6).

use serde_json::{Value, json};

use crate::{
    Context, cause,
    common::{Api, SERVICES, service},
    ip_is_taken, of_type, port_is_taken,
};

const NODE_PORT_MESSAGE: &str = "provided port is already allocated";

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

#[tokio::test]
async fn s1_6_a_full_range_is_a_500() {
    let api = Api::with(Context {
        service_cidrs: vec!["10.96.0.0/29".parse().unwrap()],
        node_ports: 30_000..=30_001,
        ..Context::default()
    })
    .await;
    for index in 0..2 {
        api.made(SERVICES, of_type(&format!("n{index}"), "NodePort"))
            .await;
    }
    let (code, status) = api.post(SERVICES, of_type("n2", "NodePort")).await;
    assert_eq!(code, 500, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("failed to allocate a nodePort"),
        "{message}"
    );
    // Eight addresses, two of which are never used.
    for index in 2..6 {
        api.made(SERVICES, service(&format!("s{index}"))).await;
    }
    let (code, status) = api.post(SERVICES, service("s6")).await;
    assert_eq!(code, 500, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("range is full"), "{message}");
    api.delete(&format!("{SERVICES}/s2")).await;
    api.made(SERVICES, service("s6")).await;
}

#[tokio::test]
async fn s1_6_on_update_each_protocol_gets_its_own_node_port() {
    let api = Api::new().await;
    let mut body = of_type("a", "NodePort");
    body["spec"]["ports"] = json!([{"name": "tcp", "port": 53}]);
    api.made(SERVICES, body).await;
    let two = json!({"spec": {"ports": [
        {"name": "tcp", "port": 53},
        {"name": "udp", "port": 53, "protocol": "UDP"},
    ]}});
    let (code, changed) = api.merge(&format!("{SERVICES}/a"), two).await;
    assert_eq!(code, 200, "{changed}");
    let ports = &changed["spec"]["ports"];
    assert_ne!(ports[0]["nodePort"], ports[1]["nodePort"], "{ports}");
}

#[tokio::test]
async fn s1_6_a_taken_health_check_port_is_a_500() {
    let api = Api::new().await;
    let mut body = of_type("a", "NodePort");
    body["spec"]["ports"][0]["nodePort"] = 30_040.into();
    api.made(SERVICES, body).await;
    let mut body = of_type("b", "LoadBalancer");
    body["spec"]["externalTrafficPolicy"] = "Local".into();
    body["spec"]["healthCheckNodePort"] = 30_040.into();
    let (code, status) = api.post(SERVICES, body).await;
    assert_eq!(code, 500, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("HealthCheck NodePort 30040"), "{message}");
}
