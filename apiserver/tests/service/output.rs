//! What people get to read: columns and warnings (services.md 1.2).

use serde_json::{Value, json};

use crate::{
    Context,
    common::{Api, SERVICES, service},
    of_type, with_external_ips, with_spec,
};

#[tokio::test]
async fn s1_2_columns() {
    let net = |text: &str| text.parse().unwrap();
    let api = Api::with(Context {
        service_cidrs: vec![net("10.96.0.0/16"), net("fd00:96::/112")],
        allowed_external_ips: vec![net("198.51.100.0/24")],
        ..Context::default()
    })
    .await;
    let ip = "10.96.0.8";
    let rows = [
        (
            json!({"clusterIP": ip}),
            json!(["row", "ClusterIP", ip, "<none>", "80/TCP"]),
            "app=web",
        ),
        (
            json!({"clusterIP": "None", "ports": null, "selector": null}),
            json!(["row", "ClusterIP", "None", "<none>", "<none>"]),
            "<none>",
        ),
        (
            json!({"clusterIP": ip, "externalIPs": ["198.51.100.1", "198.51.100.2"]}),
            json!([
                "row",
                "ClusterIP",
                ip,
                "198.51.100.1,198.51.100.2",
                "80/TCP"
            ]),
            "app=web",
        ),
        (
            json!({"clusterIP": ip, "type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30053}]}),
            json!(["row", "NodePort", ip, "<none>", "80:30080/TCP,53:30053/UDP"]),
            "app=web",
        ),
        (
            json!({"clusterIP": ip, "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}),
            json!(["row", "LoadBalancer", ip, "<pending>", "80/TCP"]),
            "app=web",
        ),
        (
            json!({"type": "ExternalName", "externalName": "db.example.com", "ports": null}),
            json!(["row", "ExternalName", "<none>", "db.example.com", "<none>"]),
            "app=web",
        ),
    ];
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (spec, cells, selector) in rows {
        api.made(SERVICES, with_spec("row", &spec)).await;
        let (_, answer) = api.get_as(&format!("{SERVICES}/row"), table).await;
        let got = answer["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(json!(got[..5]), cells);
        assert_eq!(got[6], selector);
        api.delete(&format!("{SERVICES}/row")).await;
    }
    api.made(SERVICES, of_type("lb", "LoadBalancer")).await;
    let points = json!([{"hostname": "lb.example.com"}, {"ip": "192.0.2.1"}]);
    let status = json!({"status": {"loadBalancer": {"ingress": points}}});
    api.merge(&format!("{SERVICES}/lb/status"), status).await;
    let (_, answer) = api.get_as(&format!("{SERVICES}/lb"), table).await;
    assert_eq!(answer["rows"][0]["cells"][3], "192.0.2.1,lb.example.com");
}

#[tokio::test]
async fn s1_6_address_columns() {
    let api = Api::new().await;
    api.made(SERVICES, with_spec("a", &json!({"clusterIP": "10.96.0.8"})))
        .await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, answer) = api
        .get_as("/apis/networking.k8s.io/v1/ipaddresses", table)
        .await;
    let names = |answer: &Value| -> Vec<String> {
        let columns = answer["columnDefinitions"].as_array().unwrap().iter();
        columns
            .map(|column| column["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&answer), ["Name", "ParentRef"]);
    assert_eq!(
        answer["rows"][0]["cells"],
        json!(["10.96.0.8", "services/default/a"])
    );
    let (_, answer) = api
        .get_as("/apis/networking.k8s.io/v1/servicecidrs", table)
        .await;
    assert_eq!(names(&answer), ["Name", "CIDRs", "Age"]);
}

#[tokio::test]
async fn s1_2_warnings() {
    let api = with_external_ips().await;
    let deprecated =
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
    let ip = |value: &str| json!({"type": "LoadBalancer", "loadBalancerIP": value});
    let ranges = |value: &str| json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [value]});
    for (spec, wanted) in [
        (json!({}), &[][..]),
        (json!({"externalIPs": ["198.51.100.1"]}), &[deprecated]),
        (
            json!({"externalIPs": ["2001:DB8:5::1"]}),
            &[
                "spec.externalIPs[0]: IPv6 address \"2001:DB8:5::1\" should be in RFC 5952 canonical format (\"2001:db8:5::1\")",
                deprecated,
            ],
        ),
        (
            json!({"clusterIP": "None", "externalIPs": ["198.51.100.1"], "sessionAffinity": "ClientIP", "loadBalancerIP": "192.0.2.1"}),
            &[
                "spec.loadBalancerIP is ignored for headless services",
                "spec.externalIPs is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services",
            ],
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.b", "externalIPs": ["198.51.100.1"]}),
            &["spec.externalIPs is ignored when spec.type is \"ExternalName\""],
        ),
        (
            json!({"externalName": "a.b"}),
            &["spec.externalName is ignored when spec.type is not \"ExternalName\""],
        ),
        (
            json!({"trafficDistribution": "PreferClose"}),
            &["spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""],
        ),
        (ip("192.0.2.1"), &[]),
        (ip("anything"), &[]),
        (
            ip("192.0.2.01"),
            &[
                "spec.loadBalancerIP: non-standard IP address \"192.0.2.01\" will be considered invalid in a future Kubernetes release: use \"192.0.2.1\"",
            ],
        ),
        (ranges("10.0.0.0/8"), &[]),
        (
            ranges("FD00::/8"),
            &[
                "spec.loadBalancerSourceRanges[0]: IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")",
            ],
        ),
        (
            ranges(" 10.0.0.0/8"),
            &[
                "spec.loadBalancerSourceRanges[0]: non-standard CIDR value \" 10.0.0.0/8\" will be considered invalid in a future Kubernetes release: use \"10.0.0.0/8\"",
            ],
        ),
    ] {
        assert_eq!(
            warnings(&api, "POST", SERVICES, &with_spec("row", &spec)).await,
            wanted,
            "{spec}"
        );
        api.delete(&format!("{SERVICES}/row")).await;
    }
    let mut body = service("hints");
    body["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-aware-hints": "Auto"});
    let hints = "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead";
    assert_eq!(warnings(&api, "POST", SERVICES, &body).await, [hints]);
    let path = format!("{SERVICES}/hints");
    assert_eq!(warnings(&api, "PUT", &path, &body).await, [hints]);
    assert_eq!(
        warnings(
            &api,
            "PATCH",
            &path,
            &json!({"spec": {"externalName": "a.b"}})
        )
        .await
        .len(),
        2
    );
    assert_eq!(
        warnings(&api, "PATCH", &format!("{path}/status"), &json!({})).await,
        [""; 0]
    );
}

/// Sends a body; the texts of the warnings that come back.
async fn warnings(api: &Api, method: &str, path: &str, body: &Value) -> Vec<String> {
    let media_type = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header("content-type", media_type);
    let body = axum::body::Body::from(body.to_string());
    let response = api.send(request.body(body).unwrap()).await;
    assert!(
        response.status().is_success(),
        "{path}: {}",
        response.status()
    );
    let headers = response.headers().get_all("warning").iter();
    let texts = headers.map(|header| header.to_str().unwrap().replace("\\\"", "\""));
    texts
        .map(|text| {
            text.strip_prefix("299 - \"")
                .unwrap()
                .strip_suffix('"')
                .unwrap()
                .to_owned()
        })
        .collect()
}
