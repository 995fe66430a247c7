//! exec and attach over a WebSocket: each message is one byte of channel and what it carries (S2-S4).

use std::time::Duration;

use api::tunnel::{Decoder, channel, encode};
use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{self, SplitSink, SplitStream},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{remote::Remote, upgrade::Socket};
use crate::registry::ApiError;

/// What a client may be sent in one message.
const MESSAGE_BYTES: usize = 32 << 10;
/// What the node gets in one frame.
const FRAME_BYTES: usize = 1 << 20;
/// Frames of a client that the node has not taken yet.
const QUEUE: usize = 4;
/// How long a client may take to answer that the connection is to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    version: u8,
    /// Whether messages are text, in base64 behind the digit of the channel.
    base64: bool,
}

/// In the server's order of preference.
const NAMES: [(&str, u8); 5] = [
    ("v5.channel.k8s.io", 5),
    ("v4.channel.k8s.io", 4),
    ("v3.channel.k8s.io", 3),
    ("v2.channel.k8s.io", 2),
    ("channel.k8s.io", 1),
];
const BASE64: &str = "base64.";

impl Protocol {
    /// The one to speak, and its name if it is to be told. Who offers none speaks the first.
    pub(super) fn choose(offers: &[String]) -> Result<(Option<&str>, Self), ApiError> {
        if offers.is_empty() {
            let first = Self {
                version: 1,
                base64: false,
            };
            return Ok((None, first));
        }
        let plain = NAMES.iter().map(|(name, version)| (*name, *version, false));
        let coded = NAMES.iter().map(|(name, version)| (*name, *version, true));
        for (name, version, base64) in plain.chain(coded.filter(|(_, version, _)| *version != 5)) {
            let is_it = |offer: &&String| {
                let offer = offer.as_str();
                if base64 {
                    offer.strip_prefix(BASE64) == Some(name)
                } else {
                    offer == name
                }
            };
            if let Some(offer) = offers.iter().find(is_it) {
                return Ok((Some(offer), Self { version, base64 }));
            }
        }
        Err(ApiError::BadRequest(format!(
            "unable to upgrade: no protocol of {offers:?} is known; wanted is v5.channel.k8s.io or an older one"
        )))
    }

    fn message(self, channel: u8, payload: &[u8]) -> Message {
        if self.base64 {
            let text = format!("{}{}", channel, STANDARD.encode(payload));
            return Message::text(text);
        }
        let mut message = Vec::with_capacity(payload.len() + 1);
        message.push(channel);
        message.extend_from_slice(payload);
        Message::binary(message)
    }

    /// A client's message as frames of the tunnel, which are shorter than messages may be; `None` when it says nothing.
    fn frames(self, message: &Message) -> Option<Vec<Bytes>> {
        let decoded;
        let bytes: &[u8] = match message {
            Message::Binary(bytes) if !self.base64 => bytes,
            // The official Python client sends a string as one.
            Message::Text(text) if !self.base64 => text.as_bytes(),
            Message::Text(text) if self.base64 => {
                let (digit, rest) = text.split_at_checked(1)?;
                let mut bytes = vec![digit.parse().ok()?];
                STANDARD.decode_vec(rest, &mut bytes).ok()?;
                decoded = bytes;
                &decoded
            }
            _ => return None,
        };
        match bytes.split_first()? {
            (&channel::CLOSE, ended) if self.version >= 5 => {
                Some(vec![encode(channel::CLOSE, ended)])
            }
            (&channel @ (channel::STDIN | channel::RESIZE), payload) if !payload.is_empty() => {
                let pieces = payload.chunks(FRAME_BYTES);
                Some(pieces.map(|piece| encode(channel, piece)).collect())
            }
            // Zero-length frames open channels, and others are not the client's to write.
            _ => None,
        }
    }

    /// How the end is told: as a Status since version 4, before as text, and only when something went wrong.
    fn status(self, status: &[u8]) -> Option<Vec<u8>> {
        if self.version >= 4 {
            return Some(status.to_vec());
        }
        failure_text(status)
    }
}

/// The message of a Status, unless it says that all went well.
pub(super) fn failure_text(status: &[u8]) -> Option<Vec<u8>> {
    let status: Value = serde_json::from_slice(status).ok()?;
    if status["status"] == "Success" {
        return None;
    }
    Some(status["message"].as_str().unwrap_or_default().into())
}

/// Passes on what client and container say to each other, to the end.
pub(super) async fn serve(socket: Socket, protocol: Protocol, remote: Remote) {
    let (mut to, from) = socket.split();
    let (frames, input) = mpsc::channel(QUEUE);
    let mut reading = tokio::spawn(read(from, protocol, frames));
    let input = stream::unfold(input, |mut input| async {
        let frame: Bytes = input.recv().await?;
        Some((Ok::<_, axum::Error>(frame), input))
    });
    let answered = async {
        match remote.begin(Body::from_stream(input)).await {
            Ok(output) => write(output, &mut to, protocol).await,
            Err(error) => {
                let status = error.to_status().to_string();
                tell(&mut to, protocol, status.as_bytes()).await;
            }
        }
    };
    tokio::select! {
        () = answered => {}
        // The client is gone; the node sees that its stream ends.
        _ = &mut reading => return,
    }
    let close = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    if to.send(Message::Close(Some(close))).await.is_ok() {
        // Closing with something unread would take back what the client has not read yet (RFC 1122, section 4.2.2.13).
        let _ = timeout(CLOSE_LIMIT, &mut reading).await;
    }
    reading.abort();
}

/// Reads until the client is gone. With nobody to take its frames any more they are dropped. Pings are answered by the reading.
async fn read(mut from: SplitStream<Socket>, protocol: Protocol, to: mpsc::Sender<Bytes>) {
    while let Some(Ok(message)) = from.next().await {
        for frame in protocol.frames(&message).into_iter().flatten() {
            let _ = to.send(frame).await;
        }
    }
}

/// Sends what the node says. An end without a status is a broken connection, and the client must not take it for success.
async fn write(mut from: Body, to: &mut SplitSink<Socket, Message>, protocol: Protocol) {
    let mut decoder = Decoder::default();
    loop {
        let frame = match decoder.pop() {
            Ok(Some(frame)) => frame,
            Ok(None) => match from.frame().await {
                Some(Ok(more)) => {
                    if let Ok(bytes) = more.into_data() {
                        decoder.push(&bytes);
                    }
                    continue;
                }
                _ => {
                    let error = ApiError::Internal("the connection to the node broke".into());
                    return tell(to, protocol, error.to_status().to_string().as_bytes()).await;
                }
            },
            Err(error) => {
                let error = ApiError::Internal(error.to_string());
                return tell(to, protocol, error.to_status().to_string().as_bytes()).await;
            }
        };
        if frame.channel == channel::STATUS {
            return tell(to, protocol, &frame.payload).await;
        }
        for piece in frame.payload.chunks(MESSAGE_BYTES) {
            if to
                .send(protocol.message(frame.channel, piece))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

async fn tell(to: &mut SplitSink<Socket, Message>, protocol: Protocol, status: &[u8]) {
    if let Some(text) = protocol.status(status) {
        // Who is gone does not ask.
        let _ = to.send(protocol.message(channel::STATUS, &text)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(offers: &[String]) -> (Option<&str>, u8, bool) {
        let (name, protocol) = Protocol::choose(offers).unwrap();
        (name, protocol.version, protocol.base64)
    }

    #[test]
    fn s2_the_newest_protocol_that_is_offered_is_spoken() {
        let offers = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let cases: [(&[&str], _); 5] = [
            (&[], (None, 1, false)),
            (
                &["v4.channel.k8s.io", "v5.channel.k8s.io"],
                (Some("v5.channel.k8s.io"), 5, false),
            ),
            (
                &["channel.k8s.io", "v3.channel.k8s.io", "x"],
                (Some("v3.channel.k8s.io"), 3, false),
            ),
            (
                &["base64.channel.k8s.io"],
                (Some("base64.channel.k8s.io"), 1, true),
            ),
            (
                &["base64.v4.channel.k8s.io", "channel.k8s.io"],
                (Some("channel.k8s.io"), 1, false),
            ),
        ];
        for (names, wanted) in cases {
            assert_eq!(chosen(&offers(names)), wanted);
        }
        assert!(Protocol::choose(&offers(&["v6.channel.k8s.io"])).is_err());
    }

    #[test]
    fn s3_messages_are_a_channel_and_what_it_carries() {
        let protocol = |version, base64| Protocol { version, base64 };
        let five = protocol(5, false);
        let binary = |bytes: &[u8]| Message::binary(bytes.to_vec());
        let cases = [
            (five, binary(b"\x00in"), Some(encode(channel::STDIN, b"in"))),
            (five, binary(b"\x00"), None),
            (five, binary(b""), None),
            (five, binary(b"\x01no"), None),
            (
                five,
                binary(b"\xff\x00"),
                Some(encode(channel::CLOSE, b"\x00")),
            ),
            (protocol(4, false), binary(b"\xff\x00"), None),
            (
                five,
                Message::text("\0in"),
                Some(encode(channel::STDIN, b"in")),
            ),
            (five, Message::text("0aW4="), None),
            (
                protocol(1, true),
                Message::text("0aW4="),
                Some(encode(channel::STDIN, b"in")),
            ),
        ];
        for (protocol, message, wanted) in cases {
            let wanted = wanted.map(|frame| vec![frame]);
            assert_eq!(protocol.frames(&message), wanted, "{message:?}");
        }
        // The longest message is longer than the longest frame.
        let long = vec![0; FRAME_BYTES + 2];
        let frames = five.frames(&binary(&long)).unwrap();
        let lengths: Vec<usize> = frames.iter().map(Bytes::len).collect();
        let head = encode(channel::STDIN, b"").len();
        assert_eq!(lengths, [head + FRAME_BYTES, head + 1]);
        assert_eq!(five.message(1, b"out"), binary(b"\x01out"));
        assert_eq!(protocol(4, true).message(1, b"out"), Message::text("1b3V0"));
    }

    #[test]
    fn s4_older_versions_are_told_failures_only_and_as_text() {
        let failure = br#"{"status":"Failure","message":"exit status 3"}"#;
        let success = br#"{"metadata":{},"status":"Success"}"#;
        let protocol = |version| Protocol {
            version,
            base64: false,
        };
        assert_eq!(protocol(4).status(success), Some(success.to_vec()));
        assert_eq!(protocol(3).status(success), None);
        assert_eq!(protocol(1).status(failure), Some(b"exit status 3".to_vec()));
    }
}
