//! Turning a request into another protocol: which one the client asks for, and the answer that begins it.

use std::sync::PoisonError;

use axum::{body::Body, response::Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::super::Call;
use crate::registry::ApiError;

/// The protocols that clients offer in SPDY upgrades, one or more to a line, several lines (S5).
pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";
/// The longest message of a client that is read; theirs have some 32 KiB.
const MESSAGE_BYTES: usize = 16 << 20;

/// What a request wants to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    WebSocket,
    Spdy,
    Nothing,
}

pub(super) fn wanted(call: &Call) -> Wanted {
    let upgrade = call.header(header::UPGRADE);
    let connection = call.headers.get_all(header::CONNECTION).iter();
    let mut words = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    if !words.any(|word| word.trim().eq_ignore_ascii_case("upgrade")) {
        return Wanted::Nothing;
    }
    if upgrade.eq_ignore_ascii_case("websocket") {
        Wanted::WebSocket
    } else if upgrade.eq_ignore_ascii_case(SPDY) {
        Wanted::Spdy
    } else {
        Wanted::Nothing
    }
}

/// The words of all lines of a header.
pub(super) fn offered(call: &Call, name: &HeaderName) -> Vec<String> {
    let lines = call.headers.get_all(name).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

fn pending(call: &mut Call) -> Result<OnUpgrade, ApiError> {
    let upgrade = call.upgrade.get_mut();
    let upgrade = upgrade.unwrap_or_else(PoisonError::into_inner).take();
    upgrade.ok_or_else(required)
}

/// A request that is of no use without an upgrade.
pub(super) fn required() -> ApiError {
    ApiError::BadRequest("Upgrade request required".into())
}

fn switching(upgrade: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    response
}

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers that this is a WebSocket from now on, with this subprotocol (RFC 6455, section 4.2.2), and then does `use_it`.
pub(super) fn to_websocket<F>(
    call: &mut Call,
    subprotocol: Option<&str>,
    use_it: impl FnOnce(Socket) -> F + Send + 'static,
) -> Result<Response, ApiError>
where
    F: Future<Output = ()> + Send,
{
    let bad = |what: &str| ApiError::BadRequest(format!("this is no WebSocket handshake: {what}"));
    if call.header(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(bad("Sec-WebSocket-Version is not 13"));
    }
    let key = call.headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = pending(call)?;
    let mut response = switching("websocket");
    let headers = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| bad("a header"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, value(&accept)?);
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value(subprotocol)?);
    }
    tokio::spawn(async move {
        let Some(io) = upgraded(upgrade).await else {
            return;
        };
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        use_it(socket).await;
    });
    Ok(response)
}

/// Answers that this is SPDY/3.1 from now on, with this protocol on its streams, and then does `use_it`.
pub(super) fn to_spdy<F>(
    call: &mut Call,
    protocol: &'static str,
    use_it: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<Response, ApiError>
where
    F: Future<Output = ()> + Send,
{
    let upgrade = pending(call)?;
    let mut response = switching(SPDY);
    let protocol = HeaderValue::from_static(protocol);
    response.headers_mut().insert(STREAM_PROTOCOL, protocol);
    tokio::spawn(async move {
        if let Some(io) = upgraded(upgrade).await {
            use_it(io).await;
        }
    });
    Ok(response)
}

async fn upgraded(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match upgrade.await {
        Ok(io) => Some(TokioIo::new(io)),
        Err(error) => {
            tracing::debug!(%error, "a client's upgrade");
            None
        }
    }
}
