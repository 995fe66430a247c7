//! A server without TLS on a loopback port, over a store in memory.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses its own part of this"
)]

pub mod cluster;
pub mod kubectl;
pub mod node;

use std::{net::SocketAddr, sync::Arc};

use apiserver::{
    auth::{Attributes, Authorizer, Decision, User, service_account::Tokens},
    http::{Check, Limits, State, limited_router, router},
    metrics::Metrics,
    registry::{Context, Registry, WriteOptions, kinds},
    store::{EmbeddedStore, engine::MemoryEngine},
    tunnels::Tunnels,
};
use async_trait::async_trait;
use axum::{Router, body::Body};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Everyone may do everything, except a user named `nobody`.
struct Lenient;

#[async_trait]
impl Authorizer for Lenient {
    async fn authorize(&self, user: &User, _attributes: &Attributes<'_>) -> Decision {
        if user.name == "nobody" {
            Decision::Deny(String::new())
        } else {
            Decision::allow()
        }
    }

    fn rules(&self, _user: &User, _namespace: Option<&str>) -> Vec<api::rbac::PolicyRule> {
        Vec::new()
    }
}

/// Tokens by a key of this process.
pub fn tokens() -> Arc<Tokens> {
    Arc::new(Tokens::ephemeral("https://kubernetes.default.svc".into()).unwrap())
}

/// The API, called in process.
pub struct Api {
    pub registry: Registry,
    pub router: Router,
    /// Where nodes are connected.
    pub tunnels: Tunnels,
    /// What requests accept when they do not say.
    pub accept: &'static str,
}

impl Api {
    /// An empty cluster with the namespace `default`.
    pub async fn new() -> Self {
        Self::with(Context::default()).await
    }

    /// The same with another configuration.
    pub async fn with(context: Context) -> Self {
        Self::with_authorizer(context, Lenient).await
    }

    /// The same, where somebody else decides who may do what.
    pub async fn with_authorizer(context: Context, authorizer: impl Authorizer + 'static) -> Self {
        let store = EmbeddedStore::with_engine(MemoryEngine::default(), None).unwrap();
        let registry = Registry::new(Arc::new(store), context);
        tokio::spawn(apiserver::controller::definitions::run(registry.clone()));
        let tunnels = Tunnels::default();
        let router = router(State {
            registry: registry.clone(),
            authorizer: Arc::new(authorizer),
            tokens: tokens(),
            checks: Arc::new(Vec::new()),
            metrics: Metrics::default(),
            tunnels: tunnels.clone(),
        });
        let api = Self {
            registry,
            router,
            tunnels,
            accept: "application/json",
        };
        let namespace = json!({"metadata": {"name": "default"}});
        let options = WriteOptions::default();
        api.registry
            .create(&kinds::NAMESPACES, None, namespace, &options)
            .await
            .unwrap();
        api
    }

    /// An empty cluster whose server takes on no more than this, and looks at these checks.
    pub async fn limited(limits: Limits, checks: Vec<Check>) -> Self {
        let mut api = Self::new().await;
        let state = State {
            registry: api.registry.clone(),
            authorizer: Arc::new(Lenient),
            tokens: tokens(),
            checks: Arc::new(checks),
            metrics: Metrics::default(),
            tunnels: api.tunnels.clone(),
        };
        api.router = limited_router(state, limits);
        api
    }

    /// Sends one request.
    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a JSON body (or none) and reads a JSON answer.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.call_as(method, path, "application/json", body).await
    }

    /// The same, with a media type for the body.
    pub async fn call_as(
        &self,
        method: &str,
        path: &str,
        media_type: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header("content-type", media_type)
            .header("accept", self.accept)
            .body(body)
            .unwrap();
        let response = self.send(request).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Sends a merge patch as this user.
    pub async fn merge_by(&self, user: User, path: &str, body: Value) -> (StatusCode, Value) {
        let media_type = "application/merge-patch+json";
        self.call_by(user, "PATCH", path, media_type, body).await
    }

    pub async fn call_by(
        &self,
        user: User,
        method: &str,
        path: &str,
        media_type: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media_type)
            .extension(user);
        let request = request.body(Body::from(body.to_string())).unwrap();
        let response = self.send(request).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap())
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call("GET", path, Value::Null).await
    }

    /// Reads with an Accept header.
    pub async fn get_as(&self, path: &str, accept: &str) -> (StatusCode, Value) {
        let request = Request::builder().uri(path).header("accept", accept);
        let response = self.send(request.body(Body::empty()).unwrap()).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call("PUT", path, body).await
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.call("DELETE", path, Value::Null).await
    }

    pub async fn merge(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call_as("PATCH", path, "application/merge-patch+json", body)
            .await
    }

    /// Creates an object that must be accepted.
    pub async fn made(&self, path: &str, body: Value) -> Value {
        let (code, made) = self.post(path, body).await;
        assert_eq!(code, 201, "{made}");
        made
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Events {
        let request = Request::builder().uri(path).header("accept", self.accept);
        let response = self.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        Events::new(response.into_body())
    }

    /// Serves on a loopback port for as long as the runtime lives.
    pub async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router.clone();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }
}

/// The events of a watch, line by line.
pub struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    pub fn new(body: Body) -> Self {
        Self {
            body,
            buffer: Vec::new(),
        }
    }

    /// The next event; panics after ten seconds without one.
    pub async fn next(&mut self) -> Option<Value> {
        let wait = std::time::Duration::from_secs(10);
        tokio::time::timeout(wait, self.read())
            .await
            .expect("no event for ten seconds")
    }

    /// The same, however long it takes.
    pub async fn read(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// `TYPE name` of the next event.
    pub async fn told(&mut self) -> String {
        let event = self.next().await.expect("the watch ended");
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A ConfigMap with one key.
pub fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"key": "value"}})
}

/// A Pod with one container.
pub fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "minik.dev/echo:1"}]},
    })
}

/// A Service with one port.
pub fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    })
}
