//! How the kernel treats the sockets of clients.

use std::{io, os::fd::OwnedFd, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// How long what was sent may stay unacknowledged, or unread with the client's window closed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Sends small answers and watch events at once, and gives up a peer that takes nothing any more.
///
/// A watcher that stops reading fills its own receive buffer, then ours, and would keep both, and its connection, for as
/// long as it acknowledges the probes of its closed window. `TCP_USER_TIMEOUT` ends that after `patience` (tcp(7); probes
/// count since Linux 5.11), and keep-alive probes find peers that vanished while there was nothing to send.
pub(super) fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &millis)?;
    let secs = u32::try_from(patience.as_secs().max(1)).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpKeepIdle, &secs)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &secs)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    Ok(())
}

/// Lets the client of an upgraded connection rest as long as it wants: somebody may have stopped it, or not read on in what a
/// command writes. That it vanished, keep-alive probes still tell.
pub(super) fn be_patient(socket: &OwnedFd) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpUserTimeout, &0)?;
    Ok(())
}
