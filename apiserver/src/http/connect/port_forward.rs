//! port-forward (S7): pairs of SPDY streams, over an upgraded connection or in the messages of a WebSocket; and the protocol
//! of channels (S8).

use std::collections::HashMap;

use api::tunnel::{Destination, PodRef, Request};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::header;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::{
    super::{Call, route::Target},
    pod, port_channels,
    upgrade::{self, STREAM_PROTOCOL, Socket, Wanted},
};
use crate::{
    http::connections::{Connections, Place},
    registry::ApiError,
    spdy::{Output, Piece, Session, Stream},
    tunnels::Tunnels,
};

/// The protocol on SPDY streams.
const PROTOCOL: &str = "portforward.k8s.io";
/// The same in the messages of a WebSocket.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// The Pod that connections are made to.
#[derive(Clone)]
pub(super) struct Forward {
    tunnels: Tunnels,
    node: String,
    pod: PodRef,
    /// Each connection that is made counts, and the client's own.
    connections: Connections,
    user: String,
    _place: Place,
}

impl Forward {
    /// Connects to a port; `input` are the client's bytes.
    ///
    /// # Errors
    /// Words for the client.
    pub(super) async fn dial(&self, port: u16, input: Body) -> Result<Body, String> {
        let pod = self.pod.clone();
        let destination = Request::Dial(Destination::Inside { pod, port });
        let dialled = match self.connections.open(&self.user, Some(&self.node)) {
            Ok(place) => {
                let asked = self.tunnels.ask(&self.node, &destination, input, place);
                asked.await
            }
            Err(error) => Err(error),
        };
        dialled.map_err(|error| {
            let PodRef { name, uid, .. } = &self.pod;
            format!("error forwarding port {port} to pod {name}, uid {uid}: {error}")
        })
    }
}

pub(super) async fn serve(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let pod = pod::read(call, target).await?;
    let node = pod::node(&pod)?.to_owned();
    if &*pod.status.phase != "Running" {
        let text = format!(
            "unable to forward port because pod is not running. Current status={}",
            pod.status.phase
        );
        return Err(ApiError::BadRequest(text));
    }
    let wanted = upgrade::wanted(call);
    if wanted == Wanted::Nothing {
        return Err(upgrade::required());
    }
    let place = call.connection(None)?;
    let tunnels = call.state.tunnels.clone();
    tunnels.connected(&node).await?;
    let forward = Forward {
        tunnels,
        node,
        pod: pod::reference(&pod),
        connections: call.lanes.connections().clone(),
        user: call.user.name.clone(),
        _place: place,
    };
    if wanted == Wanted::Spdy {
        let offers = upgrade::offered(call, &STREAM_PROTOCOL);
        if !offers.is_empty() && !offers.iter().any(|offer| offer == PROTOCOL) {
            return Err(unknown(&offers));
        }
        return upgrade::to_spdy(call, PROTOCOL, |io| {
            let (from, to) = tokio::io::split(io);
            forward_streams(Session::start(from, to), forward)
        });
    }
    let offers = upgrade::offered(call, &header::SEC_WEBSOCKET_PROTOCOL);
    if offers.iter().any(|offer| offer == TUNNELLED) {
        return upgrade::to_websocket(call, Some(TUNNELLED), |socket| {
            forward_streams(tunnelled(socket), forward)
        });
    }
    let Some(protocol) = port_channels::Protocol::choose(&offers) else {
        return Err(unknown(&offers));
    };
    let ports = port_channels::ports(&call.query)?;
    upgrade::to_websocket(call, protocol.name(), move |socket| {
        port_channels::serve(socket, protocol, ports, forward)
    })
}

fn unknown(offers: &[String]) -> ApiError {
    ApiError::BadRequest(format!(
        "unable to upgrade: no protocol of {offers:?} is known; wanted is {TUNNELLED}, v4.channel.k8s.io, or SPDY with {PROTOCOL}"
    ))
}

/// SPDY in the binary messages of a WebSocket, whose borders mean nothing.
fn tunnelled(socket: Socket) -> Session {
    let (to, from) = socket.split();
    let bytes = from.filter_map(|message| async {
        match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(std::io::Error::other(error))),
        }
    });
    let messages = to
        .sink_map_err(std::io::Error::other)
        .with(|bytes: Bytes| async { Ok::<_, std::io::Error>(Message::Binary(bytes)) });
    let from = StreamReader::new(Box::pin(bytes));
    let to = SinkWriter::new(CopyToBytes::new(Box::pin(messages)));
    Session::start(from, to)
}

/// Makes a connection for each pair of streams, until the client is gone.
async fn forward_streams(mut session: Session, forward: Forward) {
    let mut halves: HashMap<String, Stream> = HashMap::new();
    while let Some(stream) = session.next().await {
        let Some(request) = request(&stream) else {
            // Dropped, it is reset.
            continue;
        };
        let Some(other) = halves.remove(&request) else {
            halves.insert(request, stream);
            continue;
        };
        let (error, data) = match kind(&stream) {
            "error" => (stream, other),
            _ => (other, stream),
        };
        tokio::spawn(forward_pair(error.output, data, forward.clone()));
    }
    session.close().await;
}

fn kind(stream: &Stream) -> &str {
    stream.headers.get("streamtype").map_or("", String::as_str)
}

/// What the two streams of a connection have in common. Clients of long ago gave no number: their data follows their error.
fn request(stream: &Stream) -> Option<String> {
    let number = stream.headers.get("requestid").cloned();
    match kind(stream) {
        "error" => number.or_else(|| Some(stream.id.to_string())),
        "data" => number.or_else(|| Some(stream.id.checked_sub(2)?.to_string())),
        _ => None,
    }
}

/// One connection. Both streams end in order whatever happens: a client waits for the end of the error stream (trap 35).
async fn forward_pair(error: Output, data: Stream, forward: Forward) {
    let Stream {
        headers,
        input,
        output,
        ..
    } = data;
    let port = headers.get("port").and_then(|port| port.parse().ok());
    let connected = match port {
        Some(port) => forward.dial(port, body(input)).await,
        None => Err("the header port of the stream is not a port number".to_owned()),
    };
    match connected {
        Ok(from) => copy(from, &output).await,
        Err(text) => {
            // Who is gone does not ask.
            let _ = error.send(text.as_bytes()).await;
        }
    }
    output.finish().await;
    error.finish().await;
}

/// A client's half of a connection. One that does not end in order breaks off on the other side too.
pub(super) fn body(input: mpsc::Receiver<Piece>) -> Body {
    let pieces = stream::unfold(Some(input), |input| async {
        let mut input = input?;
        match input.recv().await {
            Some(Piece::Data(bytes)) => Some((Ok(bytes), Some(input))),
            Some(Piece::End) => None,
            None => Some((Err(tungstenite::Error::ConnectionClosed), None)),
        }
    });
    Body::from_stream(pieces)
}

async fn copy(mut from: Body, to: &Output) {
    while let Some(Ok(frame)) = from.frame().await {
        if let Ok(bytes) = frame.into_data()
            && to.send(&bytes).await.is_err()
        {
            return;
        }
    }
}
