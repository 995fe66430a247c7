//! A connection and its streams.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::{
    frame::{self, Decoder, Frame, FrameError, Reset},
    headers::{HeaderError, Headers, Reader, Writer},
};
use crate::budget::Budget;

/// Pieces of a stream that have not been taken yet. A stream that nobody reads stops the connection at last.
const QUEUE: usize = 32;
/// Frames that the client has not taken yet.
const OUT_QUEUE: usize = 8;
/// Streams at once: two for each forwarded connection. One counts until both halves are over.
const MAX_STREAMS: usize = 2000;
/// The most of a stream that is sent at once.
const PIECE_BYTES: usize = 32 << 10;
/// How long a client may take to leave when all is over.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// A connection. The client's streams come one by one.
#[derive(Debug)]
pub struct Session {
    streams: mpsc::Receiver<Stream>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// A stream that the client has opened.
#[derive(Debug)]
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// What the client said about it.
    pub headers: Headers,
    /// What the client sends. It ends without a [`Piece::End`] when the client gives the stream up, or is gone.
    pub input: mpsc::Receiver<Piece>,
    /// What the client gets.
    pub output: Output,
}

/// Some of what a client sends on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// It was all.
    End,
}

/// The server's half of a stream. It ends in order by [`Output::finish`] only; dropped, it is reset.
#[derive(Debug)]
pub struct Output {
    id: u32,
    to: mpsc::Sender<Bytes>,
    finished: bool,
    _place: OwnedSemaphorePermit,
}

/// The client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

impl Output {
    /// Sends bytes.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn send(&self, bytes: &[u8]) -> Result<(), Gone> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let frame = frame::data(self.id, false, piece);
            self.to.send(frame).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Says that it was all.
    pub async fn finish(mut self) {
        self.finished = true;
        let frame = frame::data(self.id, true, b"");
        // Who is gone does not ask.
        let _ = self.to.send(frame).await;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            // With the queue full the client learns it when the connection ends.
            let _ = self.to.try_send(frame::reset(self.id, Reset::Cancel));
        }
    }
}

impl Session {
    /// Serves a connection in tasks of its own.
    pub fn start(
        from: impl AsyncRead + Send + Unpin + 'static,
        to: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let (opened, streams) = mpsc::channel(QUEUE);
        let (out, frames) = mpsc::channel(OUT_QUEUE);
        let mut incoming = Incoming {
            out,
            opened,
            headers: Reader::default(),
            reply: Writer::default(),
            inputs: HashMap::new(),
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            budget: Budget::default(),
        };
        let reading = tokio::spawn(async move {
            if let Err(error) = incoming.read(from).await {
                tracing::debug!(%error, "a client's SPDY connection");
            }
        });
        let writing = tokio::spawn(write(to, frames));
        Self {
            streams,
            reading,
            writing,
        }
    }

    /// The next stream; `None` when the client is gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Waits until the client leaves, for a while, and closes the connection.
    pub async fn close(mut self) {
        self.streams.close();
        // Closing with something unread would take back what the client has not read yet (RFC 1122, section 4.2.2.13).
        if timeout(LEAVE_LIMIT, &mut self.reading).await.is_err() {
            self.reading.abort();
        }
        let _ = timeout(LEAVE_LIMIT, &mut self.writing).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reading.abort();
        // What is left to write goes out as long as somebody holds an output.
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Headers(#[from] HeaderError),
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// The reading half of a connection.
struct Incoming {
    out: mpsc::Sender<Bytes>,
    opened: mpsc::Sender<Stream>,
    headers: Reader,
    reply: Writer,
    inputs: HashMap<u32, mpsc::Sender<Piece>>,
    /// For the server's halves: a client may end its own at once.
    places: Arc<Semaphore>,
    budget: Budget,
}

impl Incoming {
    async fn read(&mut self, mut from: impl AsyncRead + Unpin) -> Result<(), ReadError> {
        let mut decoder = Decoder::default();
        loop {
            while let Some(frame) = decoder.pop()? {
                self.on_frame(frame).await?;
            }
            if from.read_buf(decoder.buffer()).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn on_frame(&mut self, frame: Frame) -> Result<(), ReadError> {
        match frame {
            Frame::Open { stream, fin, block } => self.open(stream, fin, &block).await?,
            Frame::Headers { stream, fin, block } => {
                self.headers.read(&block)?;
                self.take(stream, fin, Bytes::new()).await;
            }
            Frame::Data {
                stream,
                fin,
                payload,
            } => self.take(stream, fin, payload).await,
            Frame::Reset { stream } => drop(self.inputs.remove(&stream)),
            // Odd numbers are the client's own; even ones would be answers to ours.
            Frame::Ping { id } if !id.is_multiple_of(2) => self.send(frame::ping(id)).await?,
            Frame::Ping { .. } | Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, block: &[u8]) -> Result<(), ReadError> {
        let headers = self.headers.read(block)?;
        self.inputs.retain(|_, input| !input.is_closed());
        if id.is_multiple_of(2) || self.inputs.contains_key(&id) {
            return Ok(self.send(frame::reset(id, Reset::ProtocolError)).await?);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let Some(place) = place.filter(|_| self.inputs.len() < MAX_STREAMS) else {
            return Ok(self.send(frame::reset(id, Reset::Refused)).await?);
        };
        let reply = frame::reply(id, &self.reply.empty());
        self.send(reply).await?;
        let (input, pieces) = mpsc::channel(QUEUE);
        let stream = Stream {
            id,
            headers,
            input: pieces,
            output: Output {
                id,
                to: self.out.clone(),
                finished: false,
                _place: place,
            },
        };
        self.inputs.insert(id, input);
        self.take(id, fin, Bytes::new()).await;
        // With nobody who wants streams any more it is reset by being dropped.
        let _ = self.opened.send(stream).await;
        Ok(())
    }

    /// Hands on what came on a stream. What nobody wants is dropped.
    async fn take(&mut self, stream: u32, fin: bool, payload: Bytes) {
        let Some(input) = self.inputs.get(&stream) else {
            return;
        };
        if !payload.is_empty() && !input.is_closed() {
            let payload = self.budget.hold(&payload).await;
            let _ = input.send(Piece::Data(payload)).await;
        }
        if fin {
            let _ = input.send(Piece::End).await;
            self.inputs.remove(&stream);
        }
    }

    async fn send(&self, frame: Bytes) -> Result<(), Gone> {
        self.out.send(frame).await.map_err(|_| Gone)
    }
}

async fn write(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        let written = async {
            to.write_all(&frame).await?;
            to.flush().await
        };
        if written.await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYN_STREAM 1 (error, FIN) and 3 (data) with the blocks of `headers`, made by the same program.
    const OPEN_ERROR: &str = "800300010100003c0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc64610024398b209198094adc8c0600000000ffff";
    const OPEN_DATA: &str = "800300010000001800000003000000000000c2aa15540a2512d209000000ffff";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = (0..hex.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn s7_a_clients_streams_are_answered_and_closed_apart() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (from, to) = tokio::io::split(server);
        let mut session = Session::start(from, to);
        client.write_all(&bytes(OPEN_ERROR)).await.unwrap();
        client.write_all(&bytes(OPEN_DATA)).await.unwrap();
        client
            .write_all(&frame::data(3, true, b"hello"))
            .await
            .unwrap();
        client.write_all(&frame::ping(1)).await.unwrap();
        let mut error = session.next().await.unwrap();
        let mut data = session.next().await.unwrap();
        assert_eq!((error.id, &*error.headers["streamtype"]), (1, "error"));
        assert_eq!((data.id, &*data.headers["streamtype"]), (3, "data"));
        assert_eq!(error.input.recv().await, Some(Piece::End));
        let hello = Piece::Data(Bytes::from_static(b"hello"));
        assert_eq!(data.input.recv().await, Some(hello));
        assert_eq!(data.input.recv().await, Some(Piece::End));
        assert_eq!(data.input.recv().await, None);
        data.output.send(b"world").await.unwrap();
        data.output.finish().await;
        drop(error.output);
        client.shutdown().await.unwrap();
        session.close().await;
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        let mut reply = Writer::default();
        let wanted = [
            frame::reply(1, &reply.empty()),
            frame::reply(3, &reply.empty()),
            frame::ping(1),
            frame::data(3, false, b"world"),
            frame::data(3, true, b""),
            frame::reset(1, Reset::Cancel),
        ];
        assert_eq!(got, wanted.concat());
    }

    #[tokio::test]
    async fn streams_count_until_the_server_is_done_with_them() {
        let (out, mut frames) = mpsc::channel(OUT_QUEUE);
        let (opened, mut streams) = mpsc::channel(QUEUE);
        let mut incoming = Incoming {
            out,
            opened,
            headers: Reader::default(),
            reply: Writer::default(),
            inputs: HashMap::new(),
            places: Arc::new(Semaphore::new(1)),
            budget: Budget::default(),
        };
        let mut writer = Writer::default();
        let mut held = None;
        for id in [1, 3, 5] {
            // The client's half is over at once.
            incoming.open(id, true, &writer.empty()).await.unwrap();
            let answer = frames.recv().await.unwrap();
            if id == 3 {
                assert_eq!(answer, frame::reset(3, Reset::Refused));
                held = None;
            } else {
                held = streams.recv().await;
                assert_eq!(held.as_ref().map(|stream| stream.id), Some(id));
            }
        }
        drop(held);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_its_streams_without_an_end() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (from, to) = tokio::io::split(server);
        let mut session = Session::start(from, to);
        client.write_all(&bytes(OPEN_ERROR)).await.unwrap();
        client.write_all(&bytes(OPEN_DATA)).await.unwrap();
        let mut error = session.next().await.unwrap();
        let mut data = session.next().await.unwrap();
        drop(client);
        assert_eq!(error.input.recv().await, Some(Piece::End));
        assert_eq!(data.input.recv().await, None);
        assert!(session.next().await.is_none());
    }
}
