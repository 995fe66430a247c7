//! The tunnels of the nodes: how the server asks nodes for logs, commands and connections ([`api::tunnel`]).
//!
//! A node opens no port; its agent dials, and then answers. Nothing is sent while nobody asks.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::tunnel::{self, channel};
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, BodyStream, Limited};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    rt::{Read, Write},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{
    io::{AsyncRead, DuplexStream},
    sync::watch,
    time::timeout,
};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::{http::connections::Place, registry::ApiError};

/// What one stream may hold unread. A stream that nobody reads holds this much and no more.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Above many full streams, so that slow readers do not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// While anything is asked, a node that is cut off is noticed within the sum of the two.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(10);
/// An agent that lost its server comes back within this.
const AWAIT_TUNNEL: Duration = Duration::from_secs(3);
/// How long a node may take until it knows whether it can do what is asked; a connection attempt takes 10 s at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// What a connection's writer may be ahead of the node.
const PIPE_BYTES: usize = 64 << 10;
/// The longest reason a node gives for a refusal.
const REASON_BYTES: usize = 16 << 10;

type Sender = SendRequest<Body>;
type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// A connection that a node has made.
pub type Dialled = tokio::io::Join<Reader, DuplexStream>;

/// Every node that is connected.
#[derive(Clone, Debug)]
pub struct Tunnels {
    nodes: Arc<watch::Sender<HashMap<String, (u64, Sender)>>>,
    count: Arc<AtomicU64>,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            nodes: Arc::new(watch::Sender::new(HashMap::new())),
            count: Arc::default(),
        }
    }
}

impl Tunnels {
    /// Asks a node over this connection from now on, until it ends. A newer one of the same node takes the place of an older.
    pub async fn serve<S>(&self, node: &str, io: S)
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let connected = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(io)
            .await;
        let (sender, connection) = match connected {
            Ok(connected) => connected,
            Err(error) => return tracing::warn!(node, %error, "the node's tunnel"),
        };
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.nodes.send_modify(|nodes| {
            nodes.insert(node.to_owned(), (number, sender));
        });
        tracing::debug!(node, "the node's tunnel is open");
        if let Err(error) = connection.await {
            tracing::debug!(node, %error, "the node's tunnel ended");
        }
        self.nodes.send_if_modified(|nodes| {
            let ours = nodes.get(node).is_some_and(|(known, _)| *known == number);
            if ours {
                nodes.remove(node);
            }
            ours
        });
    }

    /// Whether a node can be asked, before a client is told that it can be.
    ///
    /// # Errors
    /// [`ApiError::NodeUnreachable`].
    pub async fn connected(&self, node: &str) -> Result<(), ApiError> {
        self.sender(node).await.map(drop)
    }

    /// Asks a node. `rest` follows the request in its body. The place is kept until neither side can say more.
    ///
    /// # Errors
    /// [`ApiError::NodeUnreachable`], or what the node refuses.
    pub(crate) async fn ask(
        &self,
        node: &str,
        request: &tunnel::Request,
        rest: Body,
        place: Place,
    ) -> Result<Body, ApiError> {
        let json = serde_json::to_vec(request).expect("plain values are JSON");
        let first = tunnel::encode(channel::REQUEST, &json);
        let first = stream::once(async { Ok::<Bytes, axum::Error>(first) });
        let held = Arc::clone(&place);
        let rest = rest.into_data_stream().inspect(move |_| {
            let _ = &held;
        });
        let body = Body::from_stream(first.chain(rest));
        let request = Request::post("http://node/").body(body);
        let request = request.expect("the parts are constants");
        let mut sender = self.sender(node).await?;
        let answer = timeout(ANSWER_LIMIT, sender.send_request(request)).await;
        match answer {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => {
                Ok(Body::new(answer.into_body().map_frame(move |frame| {
                    let _ = &place;
                    frame
                })))
            }
            Ok(Ok(answer)) => Err(refusal(answer).await),
            Ok(Err(error)) => Err(unreachable(node, &format!("its connection broke: {error}"))),
            Err(_) => {
                let reason = format!("it did not answer within {} s", ANSWER_LIMIT.as_secs());
                Err(unreachable(node, &reason))
            }
        }
    }

    /// A connection to an address of the node or of a Pod on it, made by the node.
    ///
    /// # Errors
    /// [`ApiError::BadGateway`] when nobody answers there; as [`Self::ask`].
    pub(crate) async fn dial(
        &self,
        node: &str,
        address: SocketAddr,
        place: Place,
    ) -> Result<Dialled, ApiError> {
        let destination = tunnel::Request::Dial(tunnel::Destination::Address {
            ip: address.ip(),
            port: address.port(),
        });
        let (writer, written) = tokio::io::duplex(PIPE_BYTES);
        let input = Body::from_stream(ReaderStream::new(written));
        let output = self.ask(node, &destination, input, place).await?;
        let output = BodyStream::new(output).filter_map(|frame| async {
            let frame = frame.map(|frame| frame.into_data().ok());
            frame.map_err(std::io::Error::other).transpose()
        });
        let reader: Reader = Box::new(StreamReader::new(Box::pin(output)));
        Ok(tokio::io::join(reader, writer))
    }

    /// The node's connection. One that was lost a moment ago is waited for.
    async fn sender(&self, node: &str) -> Result<Sender, ApiError> {
        let mut nodes = self.nodes.subscribe();
        let live = |nodes: &HashMap<String, (u64, Sender)>| {
            let (_, sender) = nodes.get(node)?;
            (!sender.is_closed()).then(|| sender.clone())
        };
        let found = timeout(AWAIT_TUNNEL, nodes.wait_for(|nodes| live(nodes).is_some())).await;
        match found {
            Ok(Ok(nodes)) => live(&nodes),
            _ => None,
        }
        .ok_or_else(|| unreachable(node, "its agent is not connected to this server"))
    }
}

fn unreachable(node: &str, reason: &str) -> ApiError {
    ApiError::NodeUnreachable {
        node: node.to_owned(),
        reason: reason.to_owned(),
    }
}

/// What a node says instead of 200.
async fn refusal(answer: Response<Incoming>) -> ApiError {
    let code = answer.status();
    let text = Limited::new(answer.into_body(), REASON_BYTES);
    let text = text.collect().await.map(|text| text.to_bytes());
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    match code {
        StatusCode::BAD_REQUEST => ApiError::BadRequest(text),
        StatusCode::BAD_GATEWAY => ApiError::BadGateway(text),
        _ => ApiError::Internal(text),
    }
}
