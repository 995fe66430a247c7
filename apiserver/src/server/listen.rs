//! Listening sockets: our own, and those somebody else opened for us.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{FromRawFd as _, RawFd},
    time::Duration,
};

use tokio::{net::TcpStream, sync::mpsc};

use super::ServerError;

/// The first descriptor that is passed on, by the convention of `sd_listen_fds(3)`.
const FIRST_FD: RawFd = 3;
/// How long to wait when the process has no descriptor left for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens our own socket.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listener = TcpListener::bind(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::AddressInUse { address },
        _ => ServerError::Bind { address, source },
    })?;
    prepare(listener)
}

/// Makes a socket ready for the runtime.
pub(super) fn prepare(listener: TcpListener) -> Result<TcpListener, ServerError> {
    let result = listener.set_nonblocking(true);
    result.map_err(|source| failed(&listener, source))?;
    Ok(listener)
}

/// Where a socket listens.
pub(super) fn address(listener: &TcpListener) -> Result<SocketAddr, ServerError> {
    listener
        .local_addr()
        .map_err(|source| failed(listener, source))
}

/// The socket in the runtime's terms.
pub(super) fn into_tokio(listener: &TcpListener) -> Result<tokio::net::TcpListener, ServerError> {
    let clone = listener.try_clone();
    clone
        .and_then(tokio::net::TcpListener::from_std)
        .map_err(|source| failed(listener, source))
}

fn failed(listener: &TcpListener, source: io::Error) -> ServerError {
    let address = listener.local_addr();
    ServerError::Listen {
        address: address.map_or_else(|_| "an inherited socket".into(), |at| at.to_string()),
        source,
    }
}

/// Takes over the `count` sockets that were passed on from descriptor 3 on, as `LISTEN_FDS` says. To be called once,
/// before anything else opens files.
///
/// # Errors
/// [`ServerError::Inherited`] for a descriptor that is no TCP socket.
pub fn inherited(count: usize) -> Result<Vec<TcpListener>, ServerError> {
    let count = RawFd::try_from(count).unwrap_or(0);
    (FIRST_FD..FIRST_FD + count)
        .map(|fd| {
            #[expect(
                unsafe_code,
                reason = "descriptors that are passed on have no owner yet"
            )]
            // SAFETY: whoever set LISTEN_FDS passed these descriptors on to this process, and this is called once: nobody
            // else owns them. One that is not open only makes the next line fail; it is then never closed.
            let listener = unsafe { TcpListener::from_raw_fd(fd) };
            match listener.local_addr() {
                Ok(_) => Ok(listener),
                Err(source) => {
                    std::mem::forget(listener);
                    Err(ServerError::Inherited { fd, source })
                }
            }
        })
        .collect()
}

/// Hands on connections until nobody wants them.
pub(super) async fn accept(listener: tokio::net::TcpListener, sender: mpsc::Sender<TcpStream>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if sender.send(stream).await.is_err() {
                    return;
                }
            }
            // The client is gone again, or descriptors have run out: both pass.
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
