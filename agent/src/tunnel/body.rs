//! The two directions of a stream of the tunnel.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use api::tunnel::{Decoder, Frame};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::mpsc;

/// Pieces on their way to the server that it has not taken yet; each is some kilobytes.
const QUEUE: usize = 4;

/// What the server sends.
pub(super) struct Inbound {
    body: Incoming,
    decoder: Decoder,
}

impl Inbound {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            decoder: Decoder::default(),
        }
    }

    /// The next frame; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.pop().map_err(io::Error::other)? {
                return Ok(Some(frame));
            }
            match piece(&mut self.body).await? {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Ok(None),
            }
        }
    }

    /// The next bytes, in no frames; `None` at the end.
    pub(super) async fn bytes(&mut self) -> io::Result<Option<Bytes>> {
        // What came together with the first frame.
        let rest = std::mem::take(&mut self.decoder).rest();
        if !rest.is_empty() {
            return Ok(Some(rest));
        }
        piece(&mut self.body).await
    }
}

/// The next bytes of a body; `None` at the end.
async fn piece(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
            Some(Err(error)) => return Err(io::Error::other(error)),
        }
    }
}

/// What the server gets: pieces from a task, until its sender is dropped. An error cuts the stream off.
pub(super) struct Outbound(mpsc::Receiver<io::Result<Bytes>>);

pub(super) type Sender = mpsc::Sender<io::Result<Bytes>>;

impl Outbound {
    pub(super) fn new() -> (Sender, Self) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (sender, Self(receiver))
    }

    pub(super) fn text(text: String) -> Self {
        let (sender, body) = Self::new();
        // There is room for it.
        let _ = sender.try_send(Ok(text.into()));
        body
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<hyper::body::Frame<Bytes>>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| piece.map(hyper::body::Frame::data)))
    }
}
