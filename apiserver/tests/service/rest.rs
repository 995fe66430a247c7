//! Verbs, subresources, selectors (services.md 1.2).

use serde_json::{Value, json};

use crate::{
    cause,
    common::{Api, SERVICES, service},
    dual_stack, ip_is_taken, of_type, port_is_taken, with_spec,
};

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
async fn s1_1_a_load_balancer_says_in_its_status_where_it_is_reached() {
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
async fn s1_2_put_creates_and_status_is_a_path_of_its_own() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/a");
    let mut body = of_type("a", "LoadBalancer");
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}});
    body["status"] = status.clone();
    let (code, made) = api.put(&path, body.clone()).await;
    assert_eq!(
        (code.as_u16(), &made["status"]),
        (201, &json!({"loadBalancer": {}}))
    );
    let (code, put) = api.put(&path, body.clone()).await;
    assert_eq!(
        (code.as_u16(), &put["status"]),
        (200, &json!({"loadBalancer": {}}))
    );
    // Without a resourceVersion, which is allowed; and the spec is not looked at.
    body["spec"]["selector"] = json!({"app": "other"});
    let (code, put) = api.put(&format!("{path}/status"), body).await;
    assert_eq!(code, 200, "{put}");
    assert_eq!(
        (&put["status"], &put["spec"]["selector"]),
        (&status, &json!({"app": "web"}))
    );
    let (code, deleted) = api.delete(&path).await;
    assert_eq!((code.as_u16(), &deleted["kind"]), (200, &json!("Service")));
    assert_eq!(deleted["metadata"]["uid"], made["metadata"]["uid"]);
}

#[tokio::test]
async fn s1_2_the_last_finalizer_removed_through_status_releases_what_was_held() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/a");
    let mut body = of_type("a", "NodePort");
    body["metadata"]["finalizers"] = json!(["service.kubernetes.io/load-balancer-cleanup"]);
    let made = api.made(SERVICES, body).await;
    api.delete(&path).await;
    let port = &made["spec"]["ports"][0]["nodePort"];
    assert!(port_is_taken(&api, port).await);
    let last = json!({"metadata": {"finalizers": null}});
    let (code, answer) = api.merge(&format!("{path}/status"), last).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(api.get(&path).await.0, 404);
    assert!(!port_is_taken(&api, port).await);
    assert!(!ip_is_taken(&api, &made["spec"]["clusterIP"]).await);
}

#[tokio::test]
async fn s1_2_a_collection_is_deleted_by_label() {
    let api = Api::new().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut body = service(name);
        body["metadata"]["labels"] = json!({"l": label});
        api.made(SERVICES, body).await;
    }
    let (code, gone) = api.delete(&format!("{SERVICES}?labelSelector=l%3Dx")).await;
    assert_eq!(
        (code.as_u16(), gone["items"].as_array().unwrap().len()),
        (200, 2)
    );
    let (_, left) = api.get(SERVICES).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    for service in gone["items"].as_array().unwrap() {
        assert!(!ip_is_taken(&api, &service["spec"]["clusterIP"]).await);
    }
}

#[tokio::test]
async fn s1_2_field_selectors() {
    let api = Api::new().await;
    api.made(SERVICES, with_spec("a", &json!({"clusterIP": "10.96.0.9"})))
        .await;
    api.made(SERVICES, with_spec("b", &json!({"clusterIP": "None"})))
        .await;
    api.made(SERVICES, of_type("c", "NodePort")).await;
    for (selector, wanted) in [
        ("metadata.name=a", &["a"][..]),
        ("metadata.namespace=default", &["a", "b", "c"]),
        ("spec.clusterIP=10.96.0.9", &["a"]),
        ("spec.clusterIP=None", &["b"]),
        ("spec.clusterIP!=None", &["a", "c"]),
        ("spec.type=NodePort", &["c"]),
        ("spec.type!=NodePort", &["a", "b"]),
        ("spec.type=ClusterIP,spec.clusterIP!=None", &["a"]),
    ] {
        let query = selector.replace('=', "%3D");
        let (code, list) = api.get(&format!("{SERVICES}?fieldSelector={query}")).await;
        assert_eq!(code, 200, "{list}");
        let items = list["items"].as_array().unwrap().iter();
        let names: Vec<_> = items
            .map(|item| item["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, wanted, "{selector}");
    }
    // What kube-proxy asks for.
    let path = format!(
        "{SERVICES}?labelSelector=%21service.kubernetes.io/service-proxy-name&fieldSelector=spec.clusterIP%21%3DNone"
    );
    assert_eq!(api.get(&path).await.1["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        api.get(&format!("{SERVICES}?fieldSelector=spec.ports%3D80"))
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn s1_2_a_strategic_patch_merges_ports_by_number_only() {
    let api = Api::new().await;
    let ports = json!([{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}, {"name": "c", "port": 80}]);
    api.made(SERVICES, with_spec("a", &json!({"ports": ports})))
        .await;
    let patch = |port: Value| json!({"spec": {"ports": [port]}});
    let path = format!("{SERVICES}/a");
    let strategic = "application/strategic-merge-patch+json";
    let (code, answer) = api
        .call_as(
            "PATCH",
            &path,
            strategic,
            patch(json!({"port": 80, "targetPort": 81})),
        )
        .await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(
        answer["spec"]["ports"][2],
        json!({"name": "c", "port": 80, "protocol": "TCP", "targetPort": 81})
    );
    // The entry that is meant and the one that is found differ: the two protocols collide.
    let (code, answer) = api
        .call_as(
            "PATCH",
            &path,
            strategic,
            patch(json!({"port": 53, "protocol": "UDP", "targetPort": 54})),
        )
        .await;
    assert_eq!(code, 422, "{answer}");
    // An apply knows them apart.
    let config = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"name": "b", "port": 53, "protocol": "UDP", "targetPort": 54}]},
    });
    let target = format!("{path}?fieldManager=me&force=true");
    let (code, answer) = api
        .call_as("PATCH", &target, "application/apply-patch+yaml", config)
        .await;
    assert_eq!(code, 200, "{answer}");
    let targets: Vec<_> = answer["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["targetPort"].as_i64().unwrap())
        .collect();
    assert_eq!(targets, [53, 54, 81]);
}

#[tokio::test]
async fn s1_2_a_dry_run_takes_nothing_and_shows_the_network_address() {
    let api = dual_stack().await;
    let mut body = of_type("a", "NodePort");
    body["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    let (code, answer) = api.post(&format!("{SERVICES}?dryRun=All"), body).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(
        answer["spec"]["clusterIPs"],
        json!(["10.96.0.0", "fd00:96::"])
    );
    assert!(!port_is_taken(&api, &answer["spec"]["ports"][0]["nodePort"]).await);
    assert_eq!(api.get(&format!("{SERVICES}/a")).await.0, 404);
    let (_, addresses) = api.get("/apis/networking.k8s.io/v1/ipaddresses").await;
    assert_eq!(addresses["items"], json!([]));
    // What is asked for is checked all the same.
    api.made(SERVICES, with_spec("b", &json!({"clusterIP": "10.96.0.9"})))
        .await;
    let taken = with_spec("c", &json!({"clusterIP": "10.96.0.9"}));
    assert_eq!(
        api.post(&format!("{SERVICES}?dryRun=All"), taken).await.0,
        422
    );
}
