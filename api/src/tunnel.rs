//! What server and node say to each other over the node's tunnel.
//!
//! A node opens no port. It keeps one connection to `POST /minik/v1/nodes/NAME/tunnel`, upgraded to [`PROTOCOL`], on which the
//! roles of HTTP/2 are swapped: the server asks, the node answers. Each exchange is one HTTP/2 stream, `POST /`, whose body
//! begins with one [`Frame`] that holds a [`Request`] as JSON.
//!
//! | request | rest of the body, to the node | the answer's body, to the server |
//! |---|---|---|
//! | [`Request::Logs`] | nothing | the text |
//! | [`Request::Exec`], [`Request::Attach`] | frames: STDIN, RESIZE, CLOSE | frames: STDOUT, STDERR, at last one STATUS |
//! | [`Request::Dial`] | the connection's bytes | the connection's bytes |
//!
//! An answer other than 200 has the reason as its text: 404 when there is no such Pod or container here, 502 when nobody
//! answers at the port.
//!
//! Both ends may be of different versions: fields are only ever added, and always with a default.

use std::net::IpAddr;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::meta::Time;

/// The name of the protocol in the `Upgrade` header.
pub const PROTOCOL: &str = "minik-tunnel";

/// The channels of a [`Frame`]. Their numbers are those of the Kubernetes remote command protocol,
/// `k8s.io/apimachinery/pkg/util/remotecommand`.
pub mod channel {
    /// Standard input.
    pub const STDIN: u8 = 0;
    /// Standard output.
    pub const STDOUT: u8 = 1;
    /// Standard error.
    pub const STDERR: u8 = 2;
    /// How it ended: a `Status` as JSON, once, at the end.
    pub const STATUS: u8 = 3;
    /// A new size of the terminal: `{"Width":80,"Height":24}`.
    pub const RESIZE: u8 = 4;
    /// What the exchange is about, once, at the beginning. Ours.
    pub const REQUEST: u8 = 254;
    /// The channel whose number is the payload's one byte has ended.
    pub const CLOSE: u8 = 255;
}

/// What the server asks a node for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A container's log.
    Logs(Logs),
    /// To run a program in a container.
    Exec(Exec),
    /// The streams of a container's own first process.
    Attach(Attach),
    /// A TCP connection.
    Dial(Destination),
}

/// A Pod of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: another Pod of that name is another Pod.
    pub uid: String,
}

/// Which part of a container's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The Pod.
    pub pod: PodRef,
    /// The container.
    pub container: String,
    /// How often the container was started before.
    pub attempt: u32,
    /// Whether to go on until the container ends.
    #[serde(default)]
    pub follow: bool,
    /// Whether each line begins with its time.
    #[serde(default)]
    pub timestamps: bool,
    /// Nothing older than so many seconds.
    #[serde(default)]
    pub since_seconds: Option<i64>,
    /// Nothing older than this.
    #[serde(default)]
    pub since_time: Option<Time>,
    /// Only so many lines before the end.
    #[serde(default)]
    pub tail_lines: Option<u64>,
    /// No more than so many bytes.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    /// Only `stdout` or `stderr`.
    #[serde(default)]
    pub stream: Option<String>,
}

/// Which standard streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal, which has one output only.
    pub stderr: bool,
    /// Whether they are a terminal.
    pub tty: bool,
}

/// A program to run in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The Pod.
    pub pod: PodRef,
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its streams.
    pub streams: Streams,
}

/// A container to attach to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The Pod.
    pub pod: PodRef,
    /// The container.
    pub container: String,
    /// Its streams.
    pub streams: Streams,
}

/// Where a connection leads. A node dials nothing else than its own Pods and itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// `localhost` as the Pod sees it.
    Inside {
        /// The Pod.
        pod: PodRef,
        /// The port.
        port: u16,
    },
    /// An address of a Pod of the node, or the node's own, from the node.
    Address {
        /// The address.
        ip: IpAddr,
        /// The port.
        port: u16,
    },
}

/// The longest payload that is read: a command line of the longest request the API takes fits.
const MAX_BYTES: usize = 4 << 20;
const HEAD_BYTES: usize = 5;

/// A piece of one channel: one byte of channel, four bytes of length (big endian), the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of [`channel`].
    pub channel: u8,
    /// What it carries.
    pub payload: Bytes,
}

/// A frame that says it is longer than any frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes on channel {1}: the longest has {MAX_BYTES}")]
pub struct TooLong(usize, u8);

/// The bytes of a frame.
#[must_use]
pub fn encode(channel: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    bytes.put_u8(channel);
    bytes.put_u32(u32::try_from(payload.len()).expect("pieces are kilobytes"));
    bytes.put_slice(payload);
    bytes.freeze()
}

/// Cuts a byte stream into frames, however it arrives.
#[derive(Debug, Default)]
pub struct Decoder(BytesMut);

impl Decoder {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`TooLong`]: the stream is of no use any more.
    pub fn pop(&mut self) -> Result<Option<Frame>, TooLong> {
        let [channel, a, b, c, d] = match self.0.first_chunk::<HEAD_BYTES>() {
            Some(head) => *head,
            None => return Ok(None),
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_BYTES {
            return Err(TooLong(length, channel));
        }
        if self.0.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.0.advance(HEAD_BYTES);
        Ok(Some(Frame {
            channel,
            payload: self.0.split_to(length).freeze(),
        }))
    }

    /// What came behind the last whole frame.
    #[must_use]
    pub fn rest(self) -> Bytes {
        self.0.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_arrive_whole_however_the_bytes_were_cut(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..8),
            cuts in prop::collection::vec(1_usize..20, 1..50),
        ) {
            let mut bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(channel, payload)| encode(*channel, payload))
                .collect();
            bytes.extend_from_slice(b"\x01");
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            let mut left = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = left.split_at((*cut).min(left.len()));
                decoder.push(now);
                while let Some(frame) = decoder.pop().unwrap() {
                    got.push((frame.channel, frame.payload.to_vec()));
                }
                left = later;
                if left.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert_eq!(&decoder.rest()[..], b"\x01");
        }
    }

    #[test]
    fn a_length_without_bound_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[1, 255, 255, 255, 255]);
        assert_eq!(decoder.pop(), Err(TooLong(u32::MAX as usize, 1)));
    }

    #[test]
    fn requests_of_the_first_version_are_understood() {
        let pod = r#"{"namespace":"n","name":"p","uid":"u"}"#;
        for text in [
            format!(r#"{{"Logs":{{"pod":{pod},"container":"c","attempt":0}}}}"#),
            format!(
                r#"{{"Exec":{{"pod":{pod},"container":"c","command":["a"],"streams":{{"stdin":false,"stdout":true,"stderr":true,"tty":false}}}}}}"#
            ),
            format!(
                r#"{{"Attach":{{"pod":{pod},"container":"c","streams":{{"stdin":true,"stdout":true,"stderr":false,"tty":true}}}}}}"#
            ),
            format!(r#"{{"Dial":{{"Inside":{{"pod":{pod},"port":80}}}}}}"#),
            r#"{"Dial":{"Address":{"ip":"10.244.0.2","port":80}}}"#.to_owned(),
        ] {
            serde_json::from_str::<Request>(&text).expect(&text);
        }
    }
}
