//! port-forward over a WebSocket with two channels for each port: data and errors (S8).

use std::{collections::HashMap, time::Duration};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{
    super::query::Query,
    port_forward::{Forward, body},
    upgrade::Socket,
};
use crate::{budget::Budget, registry::ApiError, spdy::Piece};

/// Messages that have not been taken yet, for each port and for the client.
const QUEUE: usize = 8;
/// Channels have one byte, and a port has two.
const MAX_PORTS: usize = 128;
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Binary messages, or text in base64 behind the digit of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// No subprotocol is spoken of.
    Plain,
    Binary,
    Base64,
}

impl Protocol {
    /// The one to speak; `None` when none of the offers is known.
    pub(super) fn choose(offers: &[String]) -> Option<Self> {
        let offered = |name: &str| offers.iter().any(|offer| offer == name);
        if offered("v4.channel.k8s.io") {
            Some(Self::Binary)
        } else if offered("v4.base64.channel.k8s.io") {
            Some(Self::Base64)
        } else {
            offers.is_empty().then_some(Self::Plain)
        }
    }

    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Binary => Some("v4.channel.k8s.io"),
            Self::Base64 => Some("v4.base64.channel.k8s.io"),
        }
    }

    fn message(self, channel: u8, payload: &[u8]) -> Message {
        if self == Self::Base64 {
            return Message::text(format!("{channel}{}", STANDARD.encode(payload)));
        }
        let mut message = Vec::with_capacity(payload.len() + 1);
        message.push(channel);
        message.extend_from_slice(payload);
        Message::binary(message)
    }

    fn read(self, message: &Message) -> Option<(u8, Bytes)> {
        match message {
            Message::Binary(bytes) if self != Self::Base64 => {
                let channel = *bytes.first()?;
                Some((channel, bytes.slice(1..)))
            }
            Message::Text(text) if self != Self::Base64 => {
                let (channel, payload) = text.as_bytes().split_first()?;
                Some((*channel, Bytes::copy_from_slice(payload)))
            }
            Message::Text(text) => {
                let (digit, rest) = text.split_at_checked(1)?;
                Some((digit.parse().ok()?, STANDARD.decode(rest).ok()?.into()))
            }
            _ => None,
        }
    }
}

/// The ports of the query, `ports=80,90` or several of them.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, ApiError> {
    let words = query.all("ports").flat_map(|ports| ports.split(','));
    let ports: Result<Vec<u16>, _> = words.map(|word| number(word.trim())).collect();
    match ports? {
        ports if ports.is_empty() => Err(ApiError::BadRequest(
            "query parameter \"ports\" is required".into(),
        )),
        ports if ports.len() > MAX_PORTS => Err(ApiError::BadRequest(format!(
            "query parameter ports: {} ports: at most {MAX_PORTS} at once",
            ports.len()
        ))),
        ports => Ok(ports),
    }
}

fn number(word: &str) -> Result<u16, ApiError> {
    let port = word.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| {
        ApiError::BadRequest(format!(
            "query parameter ports: \"{word}\" is not a port number"
        ))
    })
}

/// Passes on what comes and goes, until the client is gone or every connection is over.
pub(super) async fn serve(socket: Socket, protocol: Protocol, ports: Vec<u16>, forward: Forward) {
    let (mut to, mut from) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let mut inputs = HashMap::new();
    let mut connections = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let data = u8::try_from(2 * index).expect("as many ports as channels allow");
        let (input, pieces) = mpsc::channel(QUEUE);
        inputs.insert(data, input);
        let channels = Channels {
            protocol,
            data,
            out: out.clone(),
        };
        connections.spawn(forward_port(forward.clone(), port, pieces, channels));
    }
    drop(out);
    let budget = Budget::default();
    let mut reading = tokio::spawn(async move {
        while let Some(Ok(message)) = from.next().await {
            if let Some((channel, bytes)) = protocol.read(&message)
                && let Some(input) = inputs.get(&channel)
                && !bytes.is_empty()
            {
                let bytes = budget.hold(&bytes).await;
                // What nobody wants any more is dropped.
                let _ = input.send(Piece::Data(bytes)).await;
            }
        }
    });
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => if to.send(message).await.is_err() { break },
                None => break,
            },
            _ = &mut reading => return,
        }
    }
    if to.close().await.is_ok() {
        let _ = timeout(CLOSE_LIMIT, &mut reading).await;
    }
    reading.abort();
}

/// The two channels of a port.
struct Channels {
    protocol: Protocol,
    data: u8,
    out: mpsc::Sender<Message>,
}

impl Channels {
    async fn send(&self, channel: u8, payload: &[u8]) -> bool {
        let message = self.protocol.message(channel, payload);
        self.out.send(message).await.is_ok()
    }
}

async fn forward_port(
    forward: Forward,
    port: u16,
    input: mpsc::Receiver<Piece>,
    channels: Channels,
) {
    // The first message on each channel says for which port it is.
    for channel in [channels.data, channels.data + 1] {
        if !channels.send(channel, &port.to_le_bytes()).await {
            return;
        }
    }
    match forward.dial(port, body(input)).await {
        Ok(from) => copy(from, &channels).await,
        Err(text) => drop(channels.send(channels.data + 1, text.as_bytes()).await),
    }
}

async fn copy(mut from: Body, to: &Channels) {
    while let Some(Ok(frame)) = from.frame().await {
        if let Ok(bytes) = frame.into_data()
            && !to.send(to.data, &bytes).await
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_ports_come_in_one_parameter_or_in_several() {
        let of = |query| ports(&Query::parse(query)).map_err(|error| error.to_string());
        assert_eq!(of("ports=80,90"), Ok(vec![80, 90]));
        assert_eq!(of("ports=80&ports=90"), Ok(vec![80, 90]));
        assert!(of("").unwrap_err().contains("ports"));
        assert!(of("ports=0").unwrap_err().contains("\"0\""));
        let many = vec!["1"; 129].join(",");
        assert!(of(&format!("ports={many}")).unwrap_err().contains("129"));
    }

    #[test]
    fn s8_messages_are_a_channel_and_what_it_carries() {
        let message = Protocol::Binary.message(2, b"in");
        assert_eq!(message, Message::binary(b"\x02in".to_vec()));
        let read = Protocol::Binary.read(&message);
        assert_eq!(read, Some((2, Bytes::from_static(b"in"))));
        let message = Protocol::Base64.message(3, b"in");
        assert_eq!(message, Message::text("3aW4="));
        let read = Protocol::Base64.read(&message);
        assert_eq!(read, Some((3, Bytes::from_static(b"in"))));
    }
}
