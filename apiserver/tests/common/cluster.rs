//! An API with its controllers at work.

use std::{sync::Arc, time::Duration};

use apiserver::{
    announcers::Announcers,
    applied::Applied,
    controller::{self, Cluster, Controllers},
    metrics::Metrics,
    pki::{Pki, ServerNames},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Api;

/// How long a Node may be silent when a test does not say.
pub const NODE_GRACE: Duration = Duration::from_secs(50);

/// An API, and its controllers until they are dropped.
pub async fn cluster() -> (Api, Controllers) {
    cluster_with(NODE_GRACE, Applied::default()).await
}

/// The same, with another time after which a silent node is lost, and with nodes that tell what they have applied.
pub async fn cluster_with(node_grace: Duration, applied: Applied) -> (Api, Controllers) {
    let api = Api::new().await;
    let controllers = start(&api, node_grace, applied).await;
    (api, controllers)
}

/// The controllers of an API, until they are dropped.
pub async fn start(api: &Api, node_grace: Duration, applied: Applied) -> Controllers {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &ServerNames::default()).unwrap();
    let cluster = Cluster {
        pki: Arc::new(pki),
        advertise: "192.0.2.7:6443".parse().unwrap(),
        api_service_ip: "10.96.0.1".parse().unwrap(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
        service_cidrs: api.registry.context().service_cidrs.clone(),
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        node_grace,
        load_balancer_pool: controller::Pool::default(),
    };
    controller::bootstrap(&api.registry, &cluster)
        .await
        .unwrap();
    let registry = api.registry.clone();
    let stop = CancellationToken::new();
    controller::start(
        registry,
        cluster,
        (applied, Announcers::default()),
        Metrics::default(),
        stop,
    )
}

/// Reads until what is read is as wanted.
pub async fn eventually(
    api: &Api,
    path: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let (_, got) = api.get(path).await;
        if wanted(&got) {
            return got;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: {path} is still {got:#}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A Node that says it is ready.
pub async fn ready_node(api: &Api, name: &str) {
    api.made("/api/v1/nodes", json!({"metadata": {"name": name}}))
        .await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, node) = api
        .merge(&format!("/api/v1/nodes/{name}/status"), ready)
        .await;
    assert_eq!(code, 200, "{node}");
}
