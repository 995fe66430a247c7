//! ServiceCIDR objects: services.md 1.6.

use apiserver::applied::Applied;
use serde_json::{Value, json};

use crate::common::{
    Api, SERVICES,
    cluster::{self, NODE_GRACE, eventually},
    service,
};

const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

/// A cluster with room for a few Services.
async fn small() -> Api {
    let context = apiserver::registry::Context {
        service_cidrs: vec!["10.96.0.0/28".parse().unwrap()],
        ..apiserver::registry::Context::default()
    };
    Api::with(context).await
}

async fn add(api: &Api, name: &str, cidrs: &[&str]) -> Value {
    let body = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
    api.made(CIDRS, body).await
}

fn path(name: &str) -> String {
    format!("{CIDRS}/{name}")
}

/// Makes Services until the configured range is full.
async fn fill(api: &Api) {
    for at in 0.. {
        let (code, answer) = api.post(SERVICES, service(&format!("fill-{at}"))).await;
        if code == 500 {
            return;
        }
        assert_eq!(code, 201, "{answer}");
    }
}

async fn with_ip(api: &Api, name: &str, ip: &str) -> (u16, Value) {
    let mut body = service(name);
    body["spec"]["clusterIP"] = ip.into();
    let (code, answer) = api.post(SERVICES, body).await;
    (code.as_u16(), answer)
}

fn ready(cidr: &Value) -> &Value {
    let condition = &cidr["status"]["conditions"][0];
    assert_eq!(condition["type"], "Ready");
    &condition["status"]
}

#[tokio::test]
async fn s1_6_addresses_come_from_added_ranges_when_the_first_is_full() {
    let api = small().await;
    fill(&api).await;
    assert_eq!(with_ip(&api, "a", "10.97.0.5").await.0, 422);
    let more = add(&api, "more", &["10.97.0.0/28"]).await;
    assert_eq!(ready(&more), "True");
    let held = json!(["networking.k8s.io/service-cidr-finalizer"]);
    assert_eq!(more["metadata"]["finalizers"], held);
    let (code, answer) = with_ip(&api, "a", "10.97.0.5").await;
    assert_eq!(code, 201, "{answer}");
    let next = api.made(SERVICES, service("b")).await;
    let ip = next["spec"]["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.97.0."), "{ip}");
}

#[tokio::test]
async fn s1_6_a_service_cidr_grows_by_the_other_family_only_and_keeps_its_finalizer() {
    let api = small().await;
    let mut more = add(&api, "more", &["10.97.0.0/28"]).await;
    let cidrs = |cidrs: &[&str]| json!({"spec": {"cidrs": cidrs}});
    let (code, answer) = api.merge(&path("more"), cidrs(&["10.98.0.0/28"])).await;
    assert_eq!(code, 422, "{answer}");
    let both = cidrs(&["10.97.0.0/28", "fd00:97::/112"]);
    let (code, answer) = api.merge(&path("more"), both.clone()).await;
    assert_eq!(code, 200, "{answer}");
    more["metadata"] = json!({"name": "more"});
    more["spec"] = both["spec"].clone();
    let (code, answer) = api.put(&path("more"), more).await;
    assert_eq!(code, 200, "{answer}");
    assert!(answer["metadata"]["finalizers"].is_array(), "{answer}");
}

#[tokio::test]
async fn s1_6_a_service_cidr_stays_while_an_address_needs_it() {
    let api = small().await;
    let _running = cluster::start(&api, NODE_GRACE, Applied::default()).await;
    fill(&api).await;
    add(&api, "more", &["10.97.0.0/28"]).await;
    assert_eq!(with_ip(&api, "a", "10.97.0.5").await.0, 201);
    let (code, going) = api.delete(&path("more")).await;
    assert_eq!((code.as_u16(), ready(&going)), (200, &json!("False")));
    // Nothing is taken from it any more.
    assert_eq!(with_ip(&api, "b", "10.97.0.6").await.0, 422);
    assert_eq!(api.post(SERVICES, service("b")).await.0, 500);
    // Another that goes shows that this one was looked at, and stays.
    add(&api, "other", &["10.98.0.0/28"]).await;
    api.delete(&path("other")).await;
    let gone = |got: &Value| got["code"] == 404;
    eventually(&api, &path("other"), "no address needs it", gone).await;
    assert_eq!(api.get(&path("more")).await.0, 200);
    api.delete(&format!("{SERVICES}/a")).await;
    eventually(&api, &path("more"), "its last address is free", gone).await;
}

#[tokio::test]
async fn s1_6_a_service_cidr_goes_when_another_has_its_addresses() {
    let api = small().await;
    let _running = cluster::start(&api, NODE_GRACE, Applied::default()).await;
    add(&api, "more", &["10.97.0.0/28"]).await;
    assert_eq!(with_ip(&api, "a", "10.97.0.5").await.0, 201);
    api.delete(&path("more")).await;
    add(&api, "wider", &["10.97.0.0/24"]).await;
    let gone = |got: &Value| got["code"] == 404;
    eventually(&api, &path("more"), "its addresses are in another", gone).await;
    let (code, service) = api.get(&format!("{SERVICES}/a")).await;
    assert_eq!(code, 200, "{service}");
}

#[tokio::test]
async fn s1_6_an_address_of_an_added_range_is_no_endpoint() {
    let api = small().await;
    let _running = cluster::start(&api, NODE_GRACE, Applied::default()).await;
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let both = |name: &str| {
        let metadata = json!({"name": name});
        let old = json!({
            "metadata": metadata,
            "subsets": [{"addresses": [{"ip": "10.97.0.9"}], "ports": [{"port": 80}]}],
        });
        let new = json!({
            "metadata": metadata, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.97.0.9"]}], "ports": [{"port": 80}],
        });
        [(endpoints, old), (slices, new)]
    };
    for (path, body) in both("before") {
        api.made(path, body).await;
    }
    add(&api, "more", &["10.97.0.0/28"]).await;
    for (path, body) in both("after") {
        let (code, answer) = api.post(path, body).await;
        let said = answer["message"].as_str().unwrap_or_default();
        assert_eq!(code, 422, "{path}: {answer}");
        let why = "may not be a ClusterIP: it is in the service range 10.97.0.0/28";
        assert!(said.contains(why), "{path}: {said}");
    }
    api.delete(&path("more")).await;
    let gone = |got: &Value| got["code"] == 404;
    eventually(&api, &path("more"), "no address needs it", gone).await;
    for (path, body) in both("after") {
        api.made(path, body).await;
    }
}

#[tokio::test]
async fn s1_6_the_configured_ranges_stay() {
    let api = small().await;
    let _running = cluster::start(&api, NODE_GRACE, Applied::default()).await;
    let (code, answer) = api.delete(&path("kubernetes")).await;
    assert_eq!(code, 403, "{answer}");
}

#[tokio::test]
async fn s1_7_the_service_of_the_api_comes_back_with_its_address() {
    let api = small().await;
    let _running = cluster::start(&api, NODE_GRACE, Applied::default()).await;
    for path in [
        format!("{SERVICES}/kubernetes"),
        "/api/v1/namespaces/kube-system/services/kube-dns".to_owned(),
    ] {
        let (_, before) = api.get(&path).await;
        api.delete(&path).await;
        let back = eventually(&api, &path, "it comes back", |got| {
            got["metadata"]["uid"].is_string()
                && got["metadata"]["uid"] != before["metadata"]["uid"]
        })
        .await;
        assert_eq!(back["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    }
}
