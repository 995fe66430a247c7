//! Who has attached to containers: each output is copied to them too.
//!
//! Nothing is left out: as long as somebody attached has not taken what came, no more is read from the container, which then
//! waits in its next write, as it would at a slow terminal. Who goes away is forgotten at once.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::PollFlags,
};

/// One output of one container on its way to one who attached.
struct Attachment {
    container: String,
    stream: usize,
    to: File,
    /// What has not been taken yet.
    pending: Vec<u8>,
    /// No more will come.
    ending: bool,
    /// The other end is gone.
    gone: bool,
}

#[derive(Default)]
pub(super) struct Attachments(Vec<Attachment>);

impl Attachments {
    pub(super) fn add(&mut self, container: &str, stream: usize, to: OwnedFd) -> io::Result<()> {
        fcntl(&to, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.0.push(Attachment {
            container: container.to_owned(),
            stream,
            to: to.into(),
            pending: Vec::new(),
            ending: false,
            gone: false,
        });
        Ok(())
    }

    /// Whether somebody has not taken what came of this stream.
    pub(super) fn is_full(&self, container: &str, stream: usize) -> bool {
        self.of(container, stream)
            .any(|one| !one.pending.is_empty())
    }

    fn of(&self, container: &str, stream: usize) -> impl Iterator<Item = &Attachment> {
        self.0
            .iter()
            .filter(move |one| one.container == container && one.stream == stream)
    }

    /// What came of a stream.
    pub(super) fn tee(&mut self, container: &str, stream: usize, bytes: &[u8]) {
        let theirs = |one: &&mut Attachment| one.container == container && one.stream == stream;
        for one in self.0.iter_mut().filter(theirs) {
            one.pending.extend_from_slice(bytes);
            one.flush();
        }
    }

    /// No more will come of a stream.
    pub(super) fn end_stream(&mut self, container: &str, stream: usize) {
        let theirs = |one: &&mut Attachment| one.container == container && one.stream == stream;
        self.0
            .iter_mut()
            .filter(theirs)
            .for_each(|one| one.ending = true);
    }

    /// No more will come of a container.
    pub(super) fn end(&mut self, container: &str) {
        let theirs = |one: &&mut Attachment| one.container == container;
        self.0
            .iter_mut()
            .filter(theirs)
            .for_each(|one| one.ending = true);
    }

    /// What to wait for: room where something waits, and the end of the others (which is always told, poll(2)).
    pub(super) fn wanted(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.0.iter().map(|one| {
            let events = if one.pending.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::POLLOUT
            };
            (one.to.as_fd(), events)
        })
    }

    /// The one at this place of [`Self::wanted`] has room, or is gone.
    pub(super) fn on_ready(&mut self, index: usize) {
        let Some(one) = self.0.get_mut(index) else {
            return;
        };
        if one.pending.is_empty() {
            one.gone = true;
        } else {
            one.flush();
        }
    }

    /// Closes what is of no use any more.
    pub(super) fn forget_ended(&mut self) {
        self.0
            .retain(|one| !(one.gone || one.ending && one.pending.is_empty()));
    }
}

impl Attachment {
    fn flush(&mut self) {
        while !self.pending.is_empty() && !self.gone {
            match self.to.write(&self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
        if self.gone {
            self.pending.clear();
        }
    }
}
