//! `/minik/v1`: how nodes join, and how they tell what they have applied.
//!
//! | method, path | who | what |
//! |---|---|---|
//! | `GET ca` | everybody | the CA's certificate, PEM |
//! | `POST join` | who has a token | a client certificate for a node, and the cluster's configuration |
//! | `GET config` | nodes, administrators | the cluster's configuration |
//! | `PUT nodes/NAME/applied` | that node | the revision up to which it has applied all changes |
//! | `PUT nodes/NAME/announcing` | that node | it is alive and announces what it should; repeated several times a second meanwhile; 409 when that comes too late |
//! | `GET nodes/NAME/tunnel` | that node | upgraded to [`api::tunnel::PROTOCOL`]: from then on the server asks and the node answers |
//! | `GET applied` | administrators, nodes | the newest revision, and each node's; with `?atLeast=R` not before every connected node has applied `R`, or `timeoutSeconds` (2) are over |

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    core::{Node, Secret},
    names, tunnel,
};
use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Config;
use crate::{
    announcers::Announcers,
    applied::{Applied, Report},
    auth::{
        User,
        token::{self, Presented, TokenError},
    },
    controller::node_is_ready,
    http::{
        body::{PATIENCE, collect},
        status_of,
    },
    pki::{Pki, PkiError},
    registry::{
        ApiError, Registry,
        kinds::{NODES, SECRETS},
    },
    store::Revision,
    tunnels::Tunnels,
};

/// More than any body here needs: a signing request is about 1 KiB.
const LIMIT_BYTES: usize = 64 * 1024;
/// Where tokens are accepted.
pub(super) const JOIN_PATH: &str = "/minik/v1/join";

/// How long `GET applied?atLeast=` waits, unless told otherwise, and at most.
const AWAIT_APPLIED: Duration = Duration::from_secs(2);
const AWAIT_APPLIED_MAX: Duration = Duration::from_secs(20);
/// A node that reported nothing for so long is not connected: nobody waits for it. Heartbeats move the revision every few
/// seconds, and with them the reports of a connected node.
const CONNECTED: Duration = Duration::from_secs(30);

/// What the handlers share.
#[derive(Clone)]
pub(super) struct State {
    registry: Registry,
    pki: Arc<Pki>,
    config: Arc<Config>,
    applied: Applied,
    announcers: Announcers,
    tunnels: Tunnels,
}

impl State {
    pub(super) fn new(
        registry: Registry,
        pki: Arc<Pki>,
        config: Arc<Config>,
        (applied, announcers): (Applied, Announcers),
        tunnels: Tunnels,
    ) -> Self {
        Self {
            announcers,
            tunnels,
            registry,
            pki,
            config,
            applied,
        }
    }

    /// What an agent must know of the cluster.
    fn cluster(&self) -> Value {
        json!({
            "ca": self.pki.ca_pem(),
            "clusterDomain": self.config.cluster_domain,
            "clusterDNS": self.config.cluster_dns,
            "serviceCIDRs": self.config.service_cidrs,
            "podCIDRs": self.config.pod_cidrs,
        })
    }
}

/// The paths above.
pub(super) fn router(state: State) -> Router {
    Router::new()
        .route("/minik/v1/ca", get(ca))
        .route(JOIN_PATH, post(join))
        .route("/minik/v1/config", get(config))
        .route("/minik/v1/nodes/{name}/applied", put(set_applied))
        .route("/minik/v1/nodes/{name}/announcing", put(set_announcing))
        .route("/minik/v1/nodes/{name}/tunnel", get(open_tunnel))
        .route("/minik/v1/applied", get(get_applied))
        .with_state(state)
}

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("node name {name:?} cannot be used: {reason}")]
    Name { name: String, reason: String },
    #[error(
        "node name {name:?} belongs to another node, which is alive: give this host another --node-name, or stop that \
         node and wait until it is NotReady, or `kubectl delete node {name}` first"
    )]
    Taken { name: String },
    #[error(transparent)]
    Request(#[from] PkiError),
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl JoinError {
    fn respond(&self) -> Response {
        let (code, reason) = match self {
            Self::Token(_) => (401, "Unauthorized"),
            Self::Name { .. } | Self::Request(_) => (400, "BadRequest"),
            Self::Taken { .. } => (409, "Conflict"),
            Self::Api(error) => return status_of(error),
        };
        let status = api::meta::Status::failure(code, reason, self.to_string());
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, Json(status)).into_response()
    }
}

fn forbidden(user: &User, what: &str) -> Response {
    status_of(&ApiError::Forbidden {
        message: format!("forbidden: User \"{}\" cannot {what}", user.name),
        resource: String::new(),
        group: String::new(),
        name: String::new(),
    })
}

async fn ca(Shared(state): Shared<State>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/x-pem-file")];
    (kind, state.pki.ca_pem().to_owned()).into_response()
}

#[derive(Deserialize)]
struct JoinRequest {
    node: String,
    csr: String,
}

async fn join(Shared(state): Shared<State>, headers: HeaderMap, body: Body) -> Response {
    match admit(&state, &headers, body).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            tracing::warn!(%error, "a node was not let in");
            error.respond()
        }
    }
}

async fn admit(state: &State, headers: &HeaderMap, body: Body) -> Result<Value, JoinError> {
    let header = headers.get(header::AUTHORIZATION);
    let header = header
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let presented = Presented::parse(header)?;
    let stored = stored_token(&state.registry, &presented).await?;
    presented.verify(stored.as_ref(), Timestamp::now())?;
    // Only now is anything of the request read: strangers cannot make us keep it.
    let body = collect(body, LIMIT_BYTES, PATIENCE).await?;
    let request: JoinRequest = serde_json::from_slice(&body)
        .map_err(|error| ApiError::BadRequest(format!("the body is no join request: {error}")))?;
    names::dns1123_subdomain(&request.node).map_err(|reason| JoinError::Name {
        name: request.node.clone(),
        reason,
    })?;
    if is_alive(&state.registry, &request.node).await? {
        return Err(JoinError::Taken { name: request.node });
    }
    let mut answer = state.cluster();
    answer["certificate"] = state.pki.sign_node(&request.node, &request.csr)?.into();
    tracing::info!(node = request.node, token = presented.id, "node joined");
    Ok(answer)
}

async fn stored_token(
    registry: &Registry,
    presented: &Presented<'_>,
) -> Result<Option<Secret>, ApiError> {
    let name = presented.secret_name();
    match registry.get(&SECRETS, Some(token::NAMESPACE), &name).await {
        Ok(secret) => secret.decode().map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A node that is Ready sends heartbeats: the name is in use. One that is lost may be replaced.
async fn is_alive(registry: &Registry, node: &str) -> Result<bool, ApiError> {
    match registry.get(&NODES, None, node).await {
        Ok(node) => Ok(node_is_ready(&node.decode::<Node>()?)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn config(Shared(state): Shared<State>, Extension(user): Extension<User>) -> Response {
    if user.node().is_none() && !user.is_master() {
        return forbidden(&user, "get path \"/minik/v1/config\"");
    }
    Json(state.cluster()).into_response()
}

#[derive(Deserialize)]
struct AppliedRequest {
    revision: String,
}

async fn set_applied(
    Shared(state): Shared<State>,
    Extension(user): Extension<User>,
    Path(node): Path<String>,
    body: Body,
) -> Response {
    if user.node() != Some(&node) && !user.is_master() {
        return forbidden(&user, &format!("report what node {node} has applied"));
    }
    let body = match collect(body, LIMIT_BYTES, PATIENCE).await {
        Ok(body) => body,
        Err(error) => return status_of(&error),
    };
    let request = serde_json::from_slice::<AppliedRequest>(&body).ok();
    let Some(revision) = request.and_then(|request| request.revision.parse().ok()) else {
        let wanted = "the body must be {\"revision\": \"<resourceVersion>\"}";
        return status_of(&ApiError::BadRequest(wanted.into()));
    };
    state.applied.report(node, Revision(revision));
    StatusCode::NO_CONTENT.into_response()
}

async fn set_announcing(
    Shared(state): Shared<State>,
    Extension(user): Extension<User>,
    Path(node): Path<String>,
) -> Response {
    if user.node() != Some(&node) && !user.is_master() {
        return forbidden(&user, &format!("report what node {node} announces"));
    }
    if state.announcers.heard(&node, Instant::now()) {
        return StatusCode::NO_CONTENT.into_response();
    }
    status_of(&ApiError::Conflict {
        kind: &NODES,
        name: node,
        detail: "the node was silent, and its load-balancer addresses went to others".into(),
    })
}

async fn open_tunnel(
    Shared(state): Shared<State>,
    Extension(user): Extension<User>,
    Path(node): Path<String>,
    mut request: axum::extract::Request,
) -> Response {
    // Not even an administrator: what goes through it is believed to come from the node.
    if user.node() != Some(&node) {
        return forbidden(&user, &format!("answer for node {node}"));
    }
    let asked = request.headers().get(header::UPGRADE);
    if asked.is_none_or(|protocol| protocol != tunnel::PROTOCOL) {
        let wanted = format!("wanted is HTTP/1.1 with \"Upgrade: {}\"", tunnel::PROTOCOL);
        return status_of(&ApiError::BadRequest(wanted));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => state.tunnels.serve(&node, io).await,
            Err(error) => tracing::warn!(node, %error, "the node's tunnel did not open"),
        }
    });
    let headers = [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, tunnel::PROTOCOL),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppliedQuery {
    at_least: Option<u64>,
    timeout_seconds: Option<u64>,
}

async fn get_applied(
    Shared(state): Shared<State>,
    Extension(user): Extension<User>,
    Query(query): Query<AppliedQuery>,
) -> Response {
    // A node asks before it stops a Pod: nobody may send new connections there any more.
    if !user.is_master() && user.node().is_none() {
        return forbidden(&user, "get path \"/minik/v1/applied\"");
    }
    let mut reports = state.applied.subscribe();
    if let Some(revision) = query.at_least {
        state.registry.await_applied(Revision(revision));
        let limit = query
            .timeout_seconds
            .map_or(AWAIT_APPLIED, Duration::from_secs);
        let everywhere = reports.wait_for(|nodes| have_applied(nodes, Revision(revision)));
        // Too late is no error: the answer says who is behind.
        let _ = timeout(limit.min(AWAIT_APPLIED_MAX), everywhere).await;
    }
    let current = state.registry.backend().current();
    let nodes = reports.borrow();
    Json(json!({"revision": current.0.to_string(), "nodes": *nodes})).into_response()
}

/// Whether every connected node has applied a revision.
fn have_applied(nodes: &BTreeMap<String, Report>, revision: Revision) -> bool {
    let oldest = Timestamp::now() - CONNECTED;
    nodes
        .values()
        .filter(|node| node.at.timestamp() >= oldest)
        .all(|node| node.revision >= revision)
}
