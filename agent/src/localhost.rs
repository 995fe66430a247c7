//! NodePorts on loopback, for those who ask for it (`--localhost-nodeports`).
//!
//! The rules never translate what is sent to a loopback address: that needs `route_localnet`, by which neighbours reach what a
//! host keeps on loopback (CVE-2020-8558). So the agent itself listens on 127.0.0.1 and ::1 and carries the bytes. KEP-6032
//! does so for TCP only, since UDP has no end by which to know when to forget a client; here time decides, and room, as in
//! connection tracking. SCTP is left out. A process of this node is inside the cluster, so it gets every endpoint whatever the
//! external policy; where no endpoint is, nothing listens, and the client is refused as everywhere.

mod datagrams;
mod relay;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use dataplane::model::{Family, Fate, Frontend, Protocol};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::backoff::Backoff;
use datagrams::{Clients, Limits};
use relay::Relay;

/// Connections carried at once, by all ports: who comes later waits in the listener's queue.
const AT_ONCE: usize = 1024;
/// Clients of UDP at once, by all ports; a newcomer takes the place of the one of his port that was silent for longest.
const CLIENTS_AT_ONCE: usize = 1024;
const BACKLOG: u32 = 128;
/// A port that is taken is tried again at most this late.
const BIND_AGAIN: Duration = Duration::from_secs(30);

/// A port on the loopback address of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    number: NonZeroU16,
    family: Family,
    spoken: Spoken,
}

/// The protocols that are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spoken {
    Tcp,
    Udp,
}

/// What a port is served by.
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Port {
    fn of(frontend: &Frontend) -> Option<Self> {
        let Frontend::NodePort {
            family,
            protocol,
            port: number,
        } = *frontend
        else {
            return None;
        };
        let spoken = match protocol {
            Protocol::Tcp => Spoken::Tcp,
            Protocol::Udp => Spoken::Udp,
            Protocol::Sctp => return None,
        };
        Some(Self {
            number,
            family,
            spoken,
        })
    }

    fn addr(self) -> SocketAddr {
        let addr: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(addr, self.number.get())
    }

    fn bind(self) -> io::Result<Socket> {
        match self.spoken {
            Spoken::Tcp => self.listen().map(Socket::Tcp),
            Spoken::Udp => UdpSocket::bind(self.addr()).map(Socket::Udp),
        }
    }

    fn listen(self) -> io::Result<TcpListener> {
        let socket = match self.family {
            Family::V4 => TcpSocket::new_v4()?,
            Family::V6 => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(self.addr())?;
        socket.listen(BACKLOG)
    }
}

/// The NodePorts among some frontends.
#[derive(Debug)]
pub(crate) struct Ports(BTreeMap<Port, Fate>);

/// Those that changed; `None` for one that is not served any more.
#[derive(Debug)]
pub(crate) struct Changes(Vec<(Port, Option<Fate>)>);

/// The NodePorts to serve on loopback, shared by those who learn them and those who serve them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalhostNodePorts {
    wanted: Arc<watch::Sender<BTreeMap<Port, Fate>>>,
}

impl LocalhostNodePorts {
    /// What changes of frontends, `None` for one that is gone, mean to the NodePorts among them.
    pub(crate) fn changes<'a>(
        frontends: impl Iterator<Item = (&'a Frontend, &'a Option<Fate>)>,
    ) -> Changes {
        let changed = |(frontend, fate): (&Frontend, &Option<Fate>)| {
            let fate = fate.as_ref().filter(|fate| relay::has_endpoints(fate));
            Some((Port::of(frontend)?, fate.cloned()))
        };
        Changes(frontends.filter_map(changed).collect())
    }

    /// Takes them in.
    pub(crate) fn apply(&self, Changes(changes): Changes) {
        self.wanted.send_if_modified(|wanted| {
            let mut changed = false;
            for (port, fate) in changes {
                changed |= match fate {
                    Some(fate) => wanted.insert(port, fate.clone()) != Some(fate),
                    None => wanted.remove(&port).is_some(),
                };
            }
            changed
        });
    }

    /// Like [`Self::apply`]; what is not named is gone.
    pub(crate) fn replace(&self, Ports(all): Ports) {
        self.wanted
            .send_if_modified(|wanted| std::mem::replace(wanted, all) != *wanted);
    }

    /// Those of these frontends that would be served.
    pub(crate) fn of(frontends: &BTreeMap<Frontend, Fate>) -> Ports {
        let served = frontends
            .iter()
            .filter(|(_, fate)| relay::has_endpoints(fate));
        let ports = served.filter_map(|(frontend, fate)| Some((Port::of(frontend)?, fate.clone())));
        Ports(ports.collect())
    }

    /// Serves them as they come and go. Never ends. Connections outlive their NodePort, as translated ones do; clients of UDP
    /// do not, as their flows.
    pub(crate) async fn serve(self) {
        let mut changes = self.wanted.subscribe();
        let mut listeners = Listeners {
            open: BTreeMap::new(),
            tasks: JoinSet::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            clients: Limits {
                places: Arc::new(Semaphore::new(CLIENTS_AT_ONCE)),
                idle: datagrams::IDLE,
            },
            wanted: changes.clone(),
        };
        let mut backoff = Backoff::new(Duration::from_secs(1), BIND_AGAIN);
        loop {
            let ports: Vec<Port> = changes.borrow_and_update().keys().copied().collect();
            let failed = listeners.follow(&ports).await;
            let again = if failed == 0 {
                backoff.reset();
                Duration::MAX
            } else {
                backoff.fail()
            };
            // The sender lives in `self`.
            let _ = timeout(again, changes.changed()).await;
        }
    }
}

struct Listeners {
    open: BTreeMap<Port, AbortHandle>,
    tasks: JoinSet<()>,
    places: Arc<Semaphore>,
    clients: Limits,
    wanted: watch::Receiver<BTreeMap<Port, Fate>>,
}

impl Listeners {
    /// Closes and opens; returns how many could not be opened.
    async fn follow(&mut self, ports: &[Port]) -> usize {
        let mut closing = 0;
        self.open.retain(|port, task| {
            let stays = ports.binary_search(port).is_ok();
            if !stays {
                task.abort();
                closing += 1;
            }
            stays
        });
        // No other ones end; when this returns, the port is free for others.
        for _ in 0..closing {
            self.tasks.join_next().await;
        }
        let mut failed = 0;
        for port in ports {
            if self.open.contains_key(port) {
                continue;
            }
            let opened = port.bind().and_then(|socket| self.open(*port, socket));
            if let Err(error) = opened {
                failed += 1;
                tracing::warn!(addr = %port.addr(), protocol = ?port.spoken, %error, "a NodePort cannot be served on loopback");
            }
        }
        failed
    }

    fn open(&mut self, port: Port, socket: Socket) -> io::Result<()> {
        let wanted = self.wanted.clone();
        let task = match socket {
            Socket::Tcp(listener) => {
                let places = Arc::clone(&self.places);
                self.tasks.spawn(accept(listener, port, places, wanted))
            }
            Socket::Udp(socket) => {
                let clients = Clients::new(socket, self.clients.clone())?;
                let fate = move || wanted.borrow().get(&port).cloned();
                self.tasks.spawn(clients.serve(fate))
            }
        };
        self.open.insert(port, task);
        Ok(())
    }
}

/// Carries every connection that comes, as long as there is a place for it.
async fn accept(
    listener: TcpListener,
    port: Port,
    places: Arc<Semaphore>,
    wanted: watch::Receiver<BTreeMap<Port, Fate>>,
) {
    let relay = Arc::new(Relay::default());
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Out of descriptors, or a client that went away.
                tracing::debug!(%error, "a connection to a NodePort on loopback could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let fate = wanted.borrow().get(&port).cloned();
        let relay = Arc::clone(&relay);
        tokio::spawn(async move {
            if let Some(fate) = fate {
                relay.carry(client, &fate).await;
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
