//! An answer that comes piece by piece, over a WebSocket: a message for each piece (W16, S10).

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::{
    super::Call,
    upgrade::{Socket, Wanted, offered, to_websocket, wanted},
};
use crate::registry::ApiError;

/// The subprotocol whose messages are bytes as they come.
const BINARY: &str = "binary.k8s.io";

/// The events of a watch as text, if the client wants a WebSocket; anything else but such an answer passes as it is.
///
/// # Errors
/// [`ApiError::BadRequest`] for what is no WebSocket handshake, [`ApiError::TooManyConnections`].
pub(in crate::http) fn of_watch(call: &mut Call, response: Response) -> Result<Response, ApiError> {
    if !becomes_websocket(call, &response) {
        return Ok(response);
    }
    let place = call.connection(None)?;
    let body = response.into_body();
    to_websocket(call, None, |socket| async move {
        let text = |piece: Bytes| String::from_utf8_lossy(&piece).into_owned().into();
        pass(body, socket, text).await;
        drop(place);
    })
}

/// A log as bytes, likewise.
///
/// # Errors
/// [`ApiError::BadRequest`] for what is no WebSocket handshake.
pub(super) fn of_log(call: &mut Call, response: Response) -> Result<Response, ApiError> {
    if !becomes_websocket(call, &response) {
        return Ok(response);
    }
    let offers = offered(call, &http::header::SEC_WEBSOCKET_PROTOCOL);
    let subprotocol = offers.iter().any(|offer| offer == BINARY).then_some(BINARY);
    let body = response.into_body();
    to_websocket(call, subprotocol, |socket| {
        pass(body, socket, Message::Binary)
    })
}

fn becomes_websocket(call: &Call, response: &Response) -> bool {
    wanted(call) == Wanted::WebSocket && response.status() == StatusCode::OK
}

/// Sends what comes until it ends or the client goes. What the client says is not listened to; its pings are answered.
async fn pass(mut body: Body, mut socket: Socket, message: fn(Bytes) -> Message) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            said = socket.next() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let Some(Ok(frame)) = frame else { break };
        // The last piece may be nothing but the end.
        if let Ok(piece) = frame.into_data()
            && !piece.is_empty()
            && socket.send(message(piece)).await.is_err()
        {
            return;
        }
    }
    // The client may be gone already.
    let _ = socket.close(None).await;
}
