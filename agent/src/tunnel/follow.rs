//! When to look at a growing log again: when its directory changes, until its container has ended. No clock is involved.

use std::{io, os::fd::OwnedFd, path::Path};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
    unistd::read,
};
use runtime::{Pod, PodState, Subscription};
use tokio::io::unix::AsyncFd;

use crate::ready::readable;

pub(super) struct Follow {
    container: String,
    attempt: u32,
    changes: AsyncFd<OwnedFd>,
    states: Option<AsyncFd<Subscription>>,
}

impl Follow {
    /// Follows the log of a container's attempt in this directory. Without a shim nobody writes to it any more.
    pub(super) fn new(
        dir: &Path,
        pod: Option<&Pod>,
        container: &str,
        attempt: u32,
    ) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // A rotation moves the log away and creates it anew.
        let news = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(dir, news)?;
        let states = pod.and_then(|pod| pod.subscribe().ok());
        Ok(Self {
            container: container.to_owned(),
            attempt,
            changes: readable(OwnedFd::from(inotify))?,
            states: states.map(readable).transpose()?,
        })
    }

    /// Waits until there may be more; `false` when the container has ended, and what is there now is all.
    pub(super) async fn changed(&mut self) -> bool {
        loop {
            let Some(states) = &mut self.states else {
                return false;
            };
            tokio::select! {
                state = next(states) => match state {
                    Some(state) if runs(&state, &self.container, self.attempt) => {}
                    _ => self.states = None,
                },
                changed = drained(&self.changes) => return changed.is_ok(),
            }
        }
    }
}

fn runs(state: &PodState, container: &str, attempt: u32) -> bool {
    let status = state.containers.get(container);
    status.is_some_and(|status| status.attempt == attempt && status.state.is_running())
}

/// The next state; `None` when there will be no more.
async fn next(states: &mut AsyncFd<Subscription>) -> Option<PodState> {
    loop {
        let mut guard = states.readable_mut().await.ok()?;
        match guard.get_inner_mut().try_next() {
            Ok(Some(state)) => return Some(state),
            Ok(None) => guard.clear_ready(),
            Err(_) => return None,
        }
    }
}

/// Waits for events and takes all of them: one look at the log answers them all.
async fn drained(changes: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut events = [0; 4096];
    let mut guard = changes.readable().await?;
    loop {
        match read(changes, &mut events) {
            Ok(_) => {}
            Err(Errno::EAGAIN) => {
                guard.clear_ready();
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
