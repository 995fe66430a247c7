//! Sockets and threads: one current-thread runtime and one `SO_REUSEPORT` socket per address and DNS thread.
//!
//! Each address is bound by itself, never the wildcard: a reply must leave from the address that was asked, and the
//! UDP code underneath does not choose a source address.

mod fit;
mod handler;
mod tcp;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Zone;
use crate::forward::Forwarder;
use handler::Handler;

/// A burst of questions waits in the kernel instead of being lost.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// How long questions under way may take when the server stops.
const GRACE: Duration = Duration::from_secs(1);
/// Tries at finding a port that is free for both UDP and TCP, when asked for port 0.
const PORT_TRIES: usize = 16;

/// Where to listen and whom to ask.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to answer on, UDP and TCP each. They must be on an interface already. Port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// Where names outside the zone are asked; with none they are REFUSED.
    pub upstreams: Vec<SocketAddr>,
    /// DNS threads; one is enough for 100 000 answers a second.
    pub threads: NonZeroUsize,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A socket could not be bound.
    #[error(
        "cannot answer DNS on {protocol} {addr} (--cluster-dns){}",
        hint(source)
    )]
    Bind {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// The address asked for.
        addr: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// An upstream is one of the addresses listened on: its questions would go round for ever.
    #[error("DNS upstream {0} is this server itself (--dns-upstream)")]
    OwnUpstream(SocketAddr),
    /// The upstreams could not be set up.
    #[error("cannot forward DNS to {upstreams:?}")]
    Upstreams {
        /// The upstreams asked for.
        upstreams: Vec<SocketAddr>,
        /// Why.
        source: hickory_resolver::net::NetError,
    },
    /// A DNS thread could not be started.
    #[error("cannot start a DNS thread")]
    Thread(#[source] io::Error),
}

/// What a bind error means here, and what to do about it.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrInUse => {
            ": another DNS server holds the port; stop it or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => ": no interface of this host has the address",
        _ => "",
    }
}

/// Sockets bound, nothing answered yet.
pub struct Server {
    workers: Vec<Worker>,
    addrs: Vec<SocketAddr>,
}

/// What one DNS thread takes over.
struct Worker {
    handler: Handler,
    sockets: Vec<(UdpSocket, TcpListener)>,
}

impl Server {
    /// Binds every address, in the caller's network namespace.
    ///
    /// # Errors
    /// When an address cannot be bound, is held by another process, or is also an upstream.
    pub fn bind(config: Config, zone: Zone) -> Result<Server, ServerError> {
        if let Some(own) = config
            .upstreams
            .iter()
            .find(|addr| config.listen.contains(addr))
        {
            return Err(ServerError::OwnUpstream(*own));
        }
        let addrs = config
            .listen
            .iter()
            .map(|addr| probe(*addr))
            .collect::<Result<Vec<_>, _>>()?;
        let worker = || {
            Ok(Worker {
                handler: Handler::new(zone.clone(), forwarder(&config.upstreams)?),
                sockets: addrs
                    .iter()
                    .map(|addr| sockets(*addr))
                    .collect::<Result<_, _>>()?,
            })
        };
        let workers = (0..config.threads.get())
            .map(|_| worker())
            .collect::<Result<_, ServerError>>()?;
        Ok(Server { workers, addrs })
    }

    /// The addresses bound, with the ports that port 0 became.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn serve(self) -> Result<Running, ServerError> {
        let (stop, stopped) = watch::channel(());
        let mut running = Running {
            stop: Some(stop),
            threads: Vec::new(),
            alive: Vec::new(),
        };
        for worker in self.workers {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(ServerError::Thread)?;
            let stopped = stopped.clone();
            let (alive, lives) = watch::channel(());
            running.alive.push(lives);
            let run = move || {
                runtime.block_on(worker.run(stopped));
                drop(alive);
            };
            let thread = std::thread::Builder::new()
                .name("dns".to_owned())
                .spawn(run);
            running.threads.push(thread.map_err(ServerError::Thread)?);
        }
        Ok(running)
    }
}

/// The server at work; dropping it stops it.
pub struct Running {
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    /// Each thread holds a sender of each as long as it answers.
    alive: Vec<watch::Receiver<()>>,
}

impl Running {
    /// Waits until a thread has ended by itself, which none should: from then on some questions stay without answer.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut threads: JoinSet<()> = JoinSet::new();
        for mut thread in self.alive.iter().cloned() {
            threads.spawn(async move { while thread.changed().await.is_ok() {} });
        }
        async move {
            threads.join_next().await;
        }
    }

    /// Stops answering and waits for the threads, a second at most for questions under way.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.take();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a DNS thread had panicked");
            }
        }
    }
}

impl Worker {
    async fn run(self, mut stopped: watch::Receiver<()>) {
        let mut server = hickory_server::Server::new(self.handler.clone());
        let mut connections = JoinSet::new();
        for (udp, tcp) in self.sockets {
            match (
                tokio::net::UdpSocket::from_std(udp),
                tokio::net::TcpListener::from_std(tcp),
            ) {
                (Ok(udp), Ok(tcp)) => {
                    server.register_socket(udp);
                    connections.spawn(tcp::serve(tcp, self.handler.clone()));
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%error, "a DNS socket cannot be watched: its address is not answered");
                }
            }
        }
        tokio::select! {
            // The channel carries nothing; it closes.
            _ = stopped.changed() => {
                let _ended_or_too_slow = tokio::time::timeout(GRACE, server.shutdown_gracefully()).await;
            }
            ended = server.block_until_done() => {
                tracing::error!(?ended, "a DNS thread ended: its sockets are not answered any more");
            }
            Some(ended) = connections.join_next() => {
                tracing::error!(?ended, "a DNS thread ended: its sockets are not answered any more");
            }
        }
    }
}

fn forwarder(upstreams: &[SocketAddr]) -> Result<Option<Forwarder>, ServerError> {
    if upstreams.is_empty() {
        return Ok(None);
    }
    let forwarder = Forwarder::new(upstreams).map_err(|source| ServerError::Upstreams {
        upstreams: upstreams.to_vec(),
        source,
    })?;
    Ok(Some(forwarder))
}

/// Whether two sockets may share an address: ours do, between our threads.
#[derive(Clone, Copy, PartialEq)]
enum Port {
    Exclusive,
    Shared,
}

/// Binds an address alone and lets go of it: `SO_REUSEPORT` would share the port silently with another server of the
/// same user. Returns the address with its port, chosen here when it was 0.
fn probe(addr: SocketAddr) -> Result<SocketAddr, ServerError> {
    let mut tries = PORT_TRIES;
    loop {
        let udp = udp_socket(addr, Port::Exclusive)?;
        let bound = udp
            .local_addr()
            .map_err(|source| bind_error("UDP", addr, source))?;
        match tcp_listener(bound, Port::Exclusive) {
            Ok(_) => return Ok(bound),
            Err(_) if addr.port() == 0 && tries > 1 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}

fn sockets(addr: SocketAddr) -> Result<(UdpSocket, TcpListener), ServerError> {
    Ok((
        udp_socket(addr, Port::Shared)?,
        tcp_listener(addr, Port::Shared)?,
    ))
}

fn udp_socket(addr: SocketAddr, port: Port) -> Result<UdpSocket, ServerError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(port == Port::Shared)?;
        enlarge_receive_buffer(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| bind_error("UDP", addr, source))
}

/// Past net.core.rmem_max when privileged, up to it otherwise.
fn enlarge_receive_buffer(socket: &Socket) -> io::Result<()> {
    setsockopt(socket, RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES))
}

fn tcp_listener(addr: SocketAddr, port: Port) -> Result<TcpListener, ServerError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of a server that just stopped do not keep the next one from starting.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(port == Port::Shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    open().map_err(|source| bind_error("TCP", addr, source))
}

fn bind_error(protocol: &'static str, addr: SocketAddr, source: io::Error) -> ServerError {
    ServerError::Bind {
        protocol,
        addr,
        source,
    }
}
