//! Descriptors that can be waited for.

use std::{io, os::fd::AsRawFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor to be waited for until it can be read.
pub(crate) fn readable<T: AsRawFd + Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    register(owner, Interest::READABLE)
}

/// Registers a descriptor to be waited for until it can be written.
pub(crate) fn writable<T: AsRawFd + Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    register(owner, Interest::WRITABLE)
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
fn register<T: AsRawFd + Owner>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `Owner` gives the same descriptor as long as it lives, and closes it when dropped.
    unsafe { AsyncFd::register_with_interest(owner, interest) }
        .map_err(|error| error.into_parts().1)
}

/// What owns one descriptor for as long as it lives.
pub(crate) trait Owner {}

impl Owner for runtime::Exec {}
impl Owner for runtime::Subscription {}
impl Owner for std::os::fd::OwnedFd {}
