//! The node's tunnel: the server asks over it for logs, commands and connections, and this node answers ([`api::tunnel`]).
//!
//! The node opens no port for that: it dials the server, and then serves HTTP/2 on the connection. It is made again as soon as
//! it breaks.

mod body;
mod dial;
mod follow;
mod logs;
mod remote;
mod streams;

use std::{convert::Infallible, sync::Arc, time::Duration};

use api::tunnel::{self, PROTOCOL, PodRef, channel};
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http2, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use runtime::{Runtime, RuntimeError};
use tokio::{sync::watch, time::sleep};

use crate::{
    addresses::Addresses,
    backoff::Backoff,
    client::{Client, encode},
    reconcile::LocalPods,
};
use body::{Inbound, Outbound};

/// What one stream may hold unread.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Above many full streams, so that slow readers do not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const MAX_STREAMS: u32 = 10_000;

/// What the answers come from.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ips: Addresses,
    pub(crate) runtime: Runtime,
    /// The Pods that run here.
    pub(crate) pods: watch::Receiver<LocalPods>,
}

/// Why something cannot be given: an HTTP status and words.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
struct Refusal(StatusCode, String);

impl Refusal {
    fn not_here(what: &str, pod: &PodRef, node: &str) -> Self {
        let PodRef {
            namespace, name, ..
        } = pod;
        let text = format!("{what} of pod {namespace}/{name} is not on node {node}");
        Self(StatusCode::NOT_FOUND, text)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// Answers the server for ever.
pub(crate) async fn run(client: Client, node: Node) {
    let path = format!("/minik/v1/nodes/{}/tunnel", encode(&node.name));
    let node = Arc::new(node);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        match client.upgrade(&path, PROTOCOL).await {
            Ok(connection) => {
                backoff.reset();
                serve(&node, connection).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the tunnel to the server did not open; trying again");
                sleep(backoff.fail()).await;
            }
        }
    }
}

async fn serve(node: &Arc<Node>, connection: Upgraded) {
    let service = service_fn(|request| {
        let node = Arc::clone(node);
        async move { Ok::<_, Infallible>(answer(node, request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        // A client that leaves takes many streams with it at once: no reason to cut off those of the others.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .serve_connection(connection, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "the tunnel to the server ended");
    }
}

async fn answer(node: Arc<Node>, request: Request<Incoming>) -> Response<Outbound> {
    let (code, body) = match asked(&node, request.into_body()).await {
        Ok(body) => (StatusCode::OK, body),
        Err(Refusal(code, text)) => (code, Outbound::text(text)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}

async fn asked(node: &Arc<Node>, body: Incoming) -> Result<Outbound, Refusal> {
    let mut inbound = Inbound::new(body);
    let first = inbound.frame().await?;
    let bad = |text: String| Refusal(StatusCode::BAD_REQUEST, text);
    let Some(first) = first.filter(|frame| frame.channel == channel::REQUEST) else {
        return Err(bad("the first frame is no request".to_owned()));
    };
    let request = serde_json::from_slice(&first.payload)
        .map_err(|error| bad(format!("this agent does not know the request: {error}")))?;
    match request {
        tunnel::Request::Logs(wanted) => logs::serve(node, wanted).await,
        tunnel::Request::Exec(wanted) => remote::exec(node, wanted, inbound).await,
        tunnel::Request::Attach(wanted) => remote::attach(node, wanted, inbound).await,
        tunnel::Request::Dial(wanted) => dial::serve(node, wanted, inbound).await,
    }
}
