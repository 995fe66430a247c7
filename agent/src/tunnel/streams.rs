//! Standard streams between frames of the tunnel and descriptors of the node.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use api::tunnel::{channel, encode};
use nix::{
    errno::Errno,
    unistd::{read, write},
};
use serde::Deserialize;
use tokio::{io::unix::AsyncFd, sync::watch};

use super::body::{Inbound, Sender};
use crate::ready::{readable, writable};

/// How much of an output is sent at once; clients take no longer pieces (S3).
const PIECE_BYTES: usize = 32 << 10;

/// What a client can write to.
pub(super) struct Input {
    /// The descriptor, until the client has closed it.
    to: Option<AsyncFd<OwnedFd>>,
    /// Whether the program wants to read what the client sends.
    is_wanted: bool,
    /// The master of the terminal, if there is one: it takes the sizes of the client's window.
    terminal: Option<OwnedFd>,
}

/// A message on [`channel::RESIZE`].
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

impl Input {
    /// A pipe, a terminal's master, or nothing. None of them waits.
    pub(super) fn new(to: Option<OwnedFd>, is_wanted: bool, is_terminal: bool) -> io::Result<Self> {
        let terminal = to.as_ref().filter(|_| is_terminal);
        Ok(Self {
            terminal: terminal.map(OwnedFd::try_clone).transpose()?,
            to: to.map(writable).transpose()?,
            is_wanted,
        })
    }

    /// Does what the client sends, until it sends no more.
    pub(super) async fn follow(mut self, mut from: Inbound) {
        while let Ok(Some(frame)) = from.frame().await {
            match frame.channel {
                channel::STDIN if self.is_wanted => self.write(&frame.payload).await,
                channel::CLOSE if frame.payload.first() == Some(&channel::STDIN) => self.to = None,
                channel::RESIZE => self.resize(&frame.payload),
                _ => {}
            }
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) {
        while let Some(to) = &self.to
            && !bytes.is_empty()
        {
            let Ok(mut guard) = to.writable().await else {
                return;
            };
            match write(to.as_fd(), bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                // Nobody reads any more: what else comes is dropped.
                Err(_) => {
                    drop(guard);
                    self.to = None;
                }
            }
        }
    }

    fn resize(&self, message: &[u8]) {
        let (Some(terminal), Ok(size)) = (&self.terminal, serde_json::from_slice::<Size>(message))
        else {
            return;
        };
        // A terminal that is gone has no size.
        let _ = runtime::resize(terminal.as_fd(), size.width, size.height);
    }
}

/// Sends what comes out of a descriptor, until it ends. Once `ended`, everything that the program itself wrote is there
/// already: then this goes on only as long as there is something to read at once, and does not wait for programs that it left
/// behind.
pub(super) async fn copy_out(
    from: OwnedFd,
    channel: u8,
    to: Sender,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let from = readable(from)?;
    let mut bytes = vec![0; PIECE_BYTES];
    let mut is_over = false;
    loop {
        let outcome = if is_over {
            read_some(&from, &mut bytes)
        } else {
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => {
                    is_over = true;
                    continue;
                }
                guard = from.readable() => match guard?.try_io(|from| read_some(from, &mut bytes)) {
                    Ok(outcome) => outcome,
                    Err(_not_yet) => continue,
                },
            }
        };
        let length = match outcome {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let frame = encode(channel, &bytes[..length]);
        if to.send(Ok(frame)).await.is_err() {
            return Ok(());
        }
    }
}

fn read_some(from: &AsyncFd<OwnedFd>, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match read(from.get_ref(), bytes) {
            Err(Errno::EINTR) => {}
            // The master of a terminal that nobody has open any more.
            Err(Errno::EIO) => return Ok(0),
            other => return Ok(other?),
        }
    }
}
