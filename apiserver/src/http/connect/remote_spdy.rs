//! exec and attach over SPDY: a stream for each of the container's, and one for how it ended (S5).

use std::time::Duration;

use api::tunnel::{Decoder, Streams, channel, encode};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{channels::failure_text, remote::Remote};
use crate::{
    registry::ApiError,
    spdy::{Output, Piece, Session, Stream},
};

/// How long a client may take to open all streams it has promised.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// More than any size of a terminal has.
const SIZE_BYTES: usize = 1 << 10;
/// Frames for the node that it has not taken yet.
const QUEUE: usize = 4;

/// In the server's order of preference, with the version.
const NAMES: [(&str, u8); 4] = [
    ("v4.channel.k8s.io", 4),
    ("v3.channel.k8s.io", 3),
    ("v2.channel.k8s.io", 2),
    ("channel.k8s.io", 1),
];

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(u8);

impl Version {
    /// The one to speak, with its name. Who offers none speaks the first.
    pub(super) fn choose(offers: &[String]) -> Result<(&'static str, Self), ApiError> {
        let mut known = NAMES.iter();
        let found = if offers.is_empty() {
            known.next_back()
        } else {
            known.find(|(name, _)| offers.iter().any(|offer| offer == name))
        };
        match found {
            Some(&(name, version)) => Ok((name, Self(version))),
            None => Err(ApiError::BadRequest(format!(
                "unable to upgrade: no protocol of {offers:?} is known; wanted is v4.channel.k8s.io or an older one"
            ))),
        }
    }

    /// The kinds of streams a client is to open.
    fn promised(self, streams: Streams) -> Vec<&'static str> {
        let kinds = [
            ("error", true),
            ("stdin", streams.stdin),
            ("stdout", streams.stdout),
            ("stderr", streams.stderr),
            ("resize", streams.tty && self.0 >= 3),
        ];
        let wanted = kinds.into_iter().filter(|(_, wanted)| *wanted);
        wanted.map(|(kind, _)| kind).collect()
    }
}

/// What the server writes on.
struct Outputs {
    error: Option<Output>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

/// Passes on what client and container say to each other, to the end.
pub(super) async fn serve(io: TokioIo<Upgraded>, version: Version, remote: Remote) {
    let (from, to) = tokio::io::split(io);
    let mut session = Session::start(from, to);
    let Some(streams) = opened(&mut session, &version.promised(remote.streams)).await else {
        return tracing::debug!("a client did not open the streams it had promised");
    };
    let (frames, input) = mpsc::channel(QUEUE);
    let mut outputs = Outputs {
        error: None,
        stdout: None,
        stderr: None,
    };
    let mut inputs = JoinSet::new();
    for Stream {
        headers,
        input,
        output,
        ..
    } in streams
    {
        match headers.get("streamtype").map(String::as_str) {
            Some("stdin") => drop(inputs.spawn(read_stdin(input, frames.clone(), output))),
            Some("resize") => drop(inputs.spawn(read_sizes(input, frames.clone(), output))),
            Some("stdout") => outputs.stdout = Some(output),
            Some("stderr") => outputs.stderr = Some(output),
            _ => outputs.error = Some(output),
        }
    }
    drop(frames);
    let input = stream::unfold(input, |mut input| async {
        let frame: Bytes = input.recv().await?;
        Some((Ok::<_, axum::Error>(frame), input))
    });
    let status = tokio::select! {
        status = async {
            match remote.begin(Body::from_stream(input)).await {
                Ok(from) => write(from, &outputs).await,
                Err(error) => error.to_status().to_string().into(),
            }
        } => status,
        // No stream comes any more but the end of the connection.
        () = async { while session.next().await.is_some() {} } => return,
    };
    for output in [outputs.stdout, outputs.stderr].into_iter().flatten() {
        output.finish().await;
    }
    if let Some(error) = outputs.error {
        let text = if version.0 >= 4 {
            Some(status.to_vec())
        } else {
            failure_text(&status)
        };
        // Who is gone does not ask.
        let _ = error.send(&text.unwrap_or_default()).await;
        error.finish().await;
    }
    inputs.shutdown().await;
    session.close().await;
}

/// The streams a client has promised; `None` when they do not come.
async fn opened(session: &mut Session, promised: &[&str]) -> Option<Vec<Stream>> {
    let deadline = Instant::now() + OPEN_LIMIT;
    let mut streams: Vec<Stream> = Vec::new();
    let is = |stream: &Stream, kind: &str| {
        stream
            .headers
            .get("streamtype")
            .is_some_and(|is| is == kind)
    };
    while !promised
        .iter()
        .all(|kind| streams.iter().any(|stream| is(stream, kind)))
    {
        streams.push(timeout_at(deadline, session.next()).await.ok()??);
    }
    Some(streams)
}

/// The client's half of a stream; the server's has nothing to say, and is kept open until the client's ends.
async fn read_stdin(mut from: mpsc::Receiver<Piece>, to: mpsc::Sender<Bytes>, own: Output) {
    while let Some(piece) = from.recv().await {
        let frame = match &piece {
            Piece::Data(bytes) => encode(channel::STDIN, bytes),
            Piece::End => encode(channel::CLOSE, &[channel::STDIN]),
        };
        // What nobody wants is dropped, so that the connection goes on.
        let _ = to.send(frame).await;
    }
    own.finish().await;
}

/// Sizes come as JSON values, one behind the other.
async fn read_sizes(mut from: mpsc::Receiver<Piece>, to: mpsc::Sender<Bytes>, own: Output) {
    let mut text = Vec::new();
    while let Some(Piece::Data(bytes)) = from.recv().await {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.iter().position(|byte| *byte == b'}') {
            let size: Vec<u8> = text.drain(..=end).collect();
            let _ = to.send(encode(channel::RESIZE, size.trim_ascii())).await;
        }
        if text.len() > SIZE_BYTES {
            break;
        }
    }
    own.finish().await;
}

/// Sends what the node says, and returns the status it ends with.
async fn write(mut from: Body, outputs: &Outputs) -> Bytes {
    let mut decoder = Decoder::default();
    let failed = |reason: String| Bytes::from(ApiError::Internal(reason).to_status().to_string());
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
                // The client must not take it for success.
                _ => return failed("the connection to the node broke".into()),
            },
            Err(error) => return failed(error.to_string()),
        };
        let output = match frame.channel {
            channel::STATUS => return frame.payload,
            channel::STDERR => &outputs.stderr,
            _ => &outputs.stdout,
        };
        if let Some(output) = output {
            // A client that is gone is noticed by who reads from it.
            let _ = output.send(&frame.payload).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_the_newest_protocol_that_is_offered_is_spoken() {
        let offers = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let chosen = |names: &[&str]| Version::choose(&offers(names)).map(|(name, _)| name);
        assert_eq!(chosen(&[]).unwrap(), "channel.k8s.io");
        let all = ["channel.k8s.io", "v2.channel.k8s.io", "v4.channel.k8s.io"];
        assert_eq!(chosen(&all).unwrap(), "v4.channel.k8s.io");
        assert!(chosen(&["v5.channel.k8s.io"]).is_err());
    }

    #[test]
    fn s5_the_query_promises_the_streams() {
        let terminal = Streams {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        assert_eq!(
            Version(4).promised(terminal),
            ["error", "stdin", "stdout", "resize"]
        );
        assert_eq!(Version(2).promised(terminal), ["error", "stdin", "stdout"]);
    }
}
