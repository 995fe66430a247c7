//! Datagrams: who asked, and which endpoint answers him.
//!
//! Nothing says when a client of UDP is done, so a client is what connection tracking makes of one: an address and port that
//! sent to ours. It keeps its endpoint, by a socket of its own, until neither side has sent anything for a while, until the
//! endpoint takes no new clients any more, or until somebody needs the place who came later.

use std::{
    collections::HashMap,
    io,
    net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use dataplane::model::{Endpoint, Family, Fate};
use nix::sys::socket::{self, MsgFlags, SockaddrStorage};
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::relay::{Relay, choices, random};

/// A client that is silent so long, and is not answered either, is forgotten: connection tracking's time for a flow that has
/// been answered.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// The largest datagram.
const LARGEST: usize = 65_535;
/// Datagrams that are taken from a socket before others get their turn.
const BURST: usize = 64;

/// Sends at once or not at all. (The runtime's own calls say "would block" of a new socket until it has looked at it.)
fn send(socket: &UdpSocket, datagram: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
    let (socket, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    match to {
        None => socket::send(socket, datagram, flags)?,
        Some(to) => socket::sendto(socket, datagram, &SockaddrStorage::from(to), flags)?,
    };
    Ok(())
}

/// How many clients there may be, and how long a silent one is one.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) places: Arc<Semaphore>,
    pub(super) idle: Duration,
}

/// A client and its endpoint.
struct Session {
    endpoint: Endpoint,
    towards: Arc<UdpSocket>,
    /// When one of the two last sent something.
    last: Arc<Mutex<Instant>>,
    answers: JoinHandle<()>,
    _place: OwnedSemaphorePermit,
}

impl Session {
    fn start(
        endpoint: Endpoint,
        client: SocketAddr,
        listener: &Arc<UdpSocket>,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let any: IpAddr = match Family::of(endpoint.addr) {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = net::UdpSocket::bind((any, 0))?;
        // From here on it receives from the endpoint alone.
        socket.connect((endpoint.addr, endpoint.port.get()))?;
        socket.set_nonblocking(true)?;
        let towards = Arc::new(UdpSocket::from_std(socket)?);
        let last = Arc::new(Mutex::new(Instant::now()));
        let (listener, known) = (Arc::downgrade(listener), Arc::clone(&last));
        let answers = answers(Arc::clone(&towards), listener, client, known);
        Ok(Self {
            endpoint,
            towards,
            last,
            answers: tokio::spawn(answers),
            _place: place,
        })
    }

    fn last(&self) -> Instant {
        *self.last.lock().expect("no holder of this lock panics")
    }

    /// An error means that the endpoint refused this one or one before it.
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        touch(&self.last);
        match send(&self.towards, datagram, None) {
            // Datagrams may get lost: better this one than those of others behind it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

fn touch(last: &Mutex<Instant>) {
    *last.lock().expect("no holder of this lock panics") = Instant::now();
}

/// Gives the client what its endpoint sends, until that refuses. It does not keep the port open.
async fn answers(
    towards: Arc<UdpSocket>,
    listener: Weak<UdpSocket>,
    client: SocketAddr,
    last: Arc<Mutex<Instant>>,
) {
    while towards.readable().await.is_ok() {
        // Only for as long as there is something: a thousand clients are silent most of the time.
        let mut buffer = vec![0; LARGEST];
        for _ in 0..BURST {
            match towards.try_recv(&mut buffer) {
                Ok(length) => {
                    touch(&last);
                    let Some(listener) = listener.upgrade() else {
                        return;
                    };
                    if let Err(error) = send(&listener, &buffer[..length], Some(client)) {
                        tracing::debug!(%client, %error, "an answer by a NodePort on loopback was lost");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
    }
}

/// The clients of one port.
pub(super) struct Clients {
    listener: Arc<UdpSocket>,
    limits: Limits,
    relay: Relay,
    sessions: HashMap<SocketAddr, Session>,
}

impl Clients {
    pub(super) fn new(socket: net::UdpSocket, limits: Limits) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            listener: Arc::new(UdpSocket::from_std(socket)?),
            limits,
            relay: Relay::default(),
            sessions: HashMap::new(),
        })
    }

    /// Passes on what clients send, by the fate of the moment. Never ends; the clients end with it.
    pub(super) async fn serve(mut self, fate: impl Fn() -> Option<Fate>) {
        let listener = Arc::clone(&self.listener);
        // When to look for the silent: not before anybody can be silent for long enough.
        let mut look = None;
        loop {
            let at = look.unwrap_or_else(Instant::now);
            tokio::select! {
                ready = listener.readable() => if ready.is_err() {
                    // The runtime ends.
                    return;
                },
                () = sleep_until(at), if look.is_some() => {
                    look = self.forget_silent();
                    continue;
                }
            }
            self.take_in(&fate);
            look = look.or_else(|| self.next_look());
        }
    }

    /// Everything that has come, up to a burst.
    fn take_in(&mut self, fate: &impl Fn() -> Option<Fate>) {
        let listener = Arc::clone(&self.listener);
        let mut buffer = vec![0; LARGEST];
        for _ in 0..BURST {
            match listener.try_recv_from(&mut buffer) {
                Ok((length, client)) => {
                    if let Some(fate) = fate() {
                        self.pass_on(client, &buffer[..length], &fate);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "a datagram to a NodePort on loopback was not received");
                }
            }
        }
    }

    fn pass_on(&mut self, client: SocketAddr, datagram: &[u8], fate: &Fate) {
        let (endpoints, _) = choices(fate);
        let known = self.sessions.get(&client);
        let known = known.filter(|session| {
            endpoints.contains(&session.endpoint) && !session.answers.is_finished()
        });
        if known.is_some_and(|session| session.send(datagram).is_ok()) {
            return;
        }
        self.sessions.remove(&client);
        match self.begin(client, fate) {
            Some(session) => {
                // A refusal shows when the next one is sent.
                let _ = session.send(datagram);
                self.sessions.insert(client, session);
            }
            None => tracing::debug!(%client, "a datagram to a NodePort on loopback was dropped"),
        }
    }

    /// `None` when there is no place or no way.
    fn begin(&mut self, client: SocketAddr, fate: &Fate) -> Option<Session> {
        let (endpoints, affinity) = choices(fate);
        let now = std::time::Instant::now();
        let order = self.relay.order(endpoints, affinity, random(), now);
        let endpoint = *order.first()?;
        let place = self.place()?;
        match Session::start(endpoint, client, &self.listener, place) {
            Ok(session) => {
                self.relay.remember(endpoint, affinity);
                Some(session)
            }
            Err(error) => {
                tracing::debug!(?endpoint, %error, "a client of a NodePort on loopback has no way to its endpoint");
                None
            }
        }
    }

    /// A place that is free, or else the one of the client of this port that has been silent for longest.
    fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        let free = || Arc::clone(&self.limits.places).try_acquire_owned().ok();
        if let Some(place) = free() {
            return Some(place);
        }
        let silent = self
            .sessions
            .iter()
            .min_by_key(|(_, session)| session.last());
        let silent = *silent?.0;
        self.sessions.remove(&silent);
        Arc::clone(&self.limits.places).try_acquire_owned().ok()
    }

    /// Returns when to do it again.
    fn forget_silent(&mut self) -> Option<Instant> {
        let (now, idle) = (Instant::now(), self.limits.idle);
        self.sessions
            .retain(|_, session| now < session.last() + idle);
        self.next_look()
    }

    fn next_look(&self) -> Option<Instant> {
        let longest = self.sessions.values().map(Session::last).min();
        longest.map(|last| last + self.limits.idle)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU16, thread};

    use dataplane::model::Masquerade;
    use tokio::{sync::watch, task::JoinHandle};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Answers with its name, what it got and from whom.
    fn endpoint(name: &'static str, family: Family) -> Endpoint {
        let socket = net::UdpSocket::bind(any(family)).expect("bind");
        let addr = socket.local_addr().expect("address");
        thread::spawn(move || {
            let mut buffer = vec![0; LARGEST];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let got = String::from_utf8_lossy(&buffer[..length]);
                let answer = format!("{name} {got} {}", from.port());
                let _ = socket.send_to(answer.as_bytes(), from);
            }
        });
        Endpoint {
            addr: addr.ip(),
            port: NonZeroU16::new(addr.port()).expect("a port"),
        }
    }

    fn any(family: Family) -> &'static str {
        match family {
            Family::V4 => "127.0.0.1:0",
            Family::V6 => "[::1]:0",
        }
    }

    fn to(endpoints: &[Endpoint]) -> Option<Fate> {
        Some(Fate::Balance {
            endpoints: endpoints.into(),
            masquerade: Masquerade::Always,
            affinity: None,
        })
    }

    struct Port {
        addr: SocketAddr,
        fate: watch::Sender<Option<Fate>>,
        places: Arc<Semaphore>,
        serving: JoinHandle<()>,
    }

    impl Port {
        fn serve(family: Family, fate: Option<Fate>, places: usize, idle: Duration) -> Self {
            let socket = net::UdpSocket::bind(any(family)).expect("bind");
            let (addr, places) = (
                socket.local_addr().expect("address"),
                Arc::new(Semaphore::new(places)),
            );
            let limits = Limits {
                places: Arc::clone(&places),
                idle,
            };
            let clients = Clients::new(socket, limits).expect("registered");
            let (fate, wanted) = watch::channel(fate);
            let serving = tokio::spawn(clients.serve(move || wanted.borrow().clone()));
            Self {
                addr,
                fate,
                places,
                serving,
            }
        }

        async fn client(&self) -> UdpSocket {
            let any = any(Family::of(self.addr.ip()));
            let client = UdpSocket::bind(any).await.expect("bind");
            client.connect(self.addr).await.expect("connect");
            client
        }

        async fn free(&self, wanted: usize) {
            let deadline = Instant::now() + PATIENCE;
            while self.places.available_permits() != wanted {
                assert!(
                    Instant::now() < deadline,
                    "{} are free",
                    self.places.available_permits()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    impl Drop for Port {
        fn drop(&mut self) {
            self.serving.abort();
        }
    }

    /// Who answered, what, and the port from which it was asked.
    async fn ask(client: &UdpSocket, words: &str) -> (String, String, u16) {
        let mut buffer = vec![0; LARGEST];
        client.send(words.as_bytes()).await.expect("send");
        let length = tokio::time::timeout(PATIENCE, client.recv(&mut buffer));
        let length = length.await.expect("in time").expect("an answer");
        let answer = String::from_utf8_lossy(&buffer[..length]);
        let words: Vec<_> = answer.splitn(3, ' ').collect();
        (
            words[0].to_owned(),
            words[1].to_owned(),
            words[2].parse().expect("a port"),
        )
    }

    #[tokio::test]
    async fn a_client_keeps_its_endpoint_as_long_as_that_is_one() {
        for family in Family::ALL {
            let (a, b) = (endpoint("a", family), endpoint("b", family));
            let port = Port::serve(family, to(&[a]), 16, PATIENCE);
            let (one, two) = (port.client().await, port.client().await);
            let (name, words, first) = ask(&one, "hello").await;
            assert_eq!((&*name, &*words), ("a", "hello"));
            let (.., other) = ask(&two, "hello").await;
            assert_ne!(first, other, "each client has a socket of its own");
            // Another endpoint is nothing to those who have one.
            port.fate.send_replace(to(&[a, b]));
            for _ in 0..8 {
                assert_eq!(
                    ask(&one, "again").await,
                    ("a".to_owned(), "again".to_owned(), first)
                );
            }
            port.fate.send_replace(to(&[b]));
            assert_eq!(ask(&one, "moved").await.0, "b");
            assert_eq!(ask(&two, "moved").await.0, "b");
            port.free(14).await;
        }
    }

    #[tokio::test]
    async fn datagrams_of_every_size_pass_whole() {
        let port = Port::serve(Family::V4, to(&[endpoint("a", Family::V4)]), 4, PATIENCE);
        let client = port.client().await;
        for size in [1, 1500, 9000, 60_000] {
            let words = "x".repeat(size);
            assert_eq!(ask(&client, &words).await.1.len(), size);
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_forgotten_and_begins_anew() {
        let idle = Duration::from_secs(1);
        let port = Port::serve(Family::V4, to(&[endpoint("a", Family::V4)]), 4, idle);
        let client = port.client().await;
        let (.., first) = ask(&client, "hello").await;
        assert_eq!(port.places.available_permits(), 3);
        port.free(4).await;
        let (name, _, second) = ask(&client, "hello").await;
        assert_eq!(name, "a");
        assert_ne!(first, second, "the former socket is gone");
        port.free(4).await;
    }

    #[tokio::test]
    async fn a_newcomer_gets_the_place_of_who_was_silent_for_longest() {
        let port = Port::serve(Family::V4, to(&[endpoint("a", Family::V4)]), 2, PATIENCE);
        let (one, two, three) = (
            port.client().await,
            port.client().await,
            port.client().await,
        );
        let (.., first) = ask(&one, "hello").await;
        let (.., second) = ask(&two, "hello").await;
        assert_eq!(ask(&one, "hello").await.2, first);
        let (name, ..) = ask(&three, "hello").await;
        assert_eq!((&*name, port.places.available_permits()), ("a", 0));
        assert_eq!(ask(&one, "hello").await.2, first, "it was not silent");
        assert_ne!(ask(&two, "hello").await.2, second, "it was");
    }

    #[tokio::test]
    async fn without_a_place_of_its_own_a_port_drops() {
        let places = Arc::new(Semaphore::new(0));
        let limits = Limits {
            places: Arc::clone(&places),
            idle: PATIENCE,
        };
        let socket = net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let mut clients = Clients::new(socket, limits).expect("registered");
        let fate = to(&[endpoint("a", Family::V4)]).expect("a fate");
        let client = "127.0.0.1:9".parse().expect("an address");
        clients.pass_on(client, b"hello", &fate);
        assert_eq!(clients.sessions.len(), 0, "others have all places");
        places.add_permits(1);
        clients.pass_on(client, b"hello", &fate);
        assert_eq!(clients.sessions.len(), 1);
    }

    #[tokio::test]
    async fn a_port_that_goes_is_free_at_once() {
        let socket = net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let addr = socket.local_addr().expect("address");
        let limits = Limits {
            places: Arc::new(Semaphore::new(1)),
            idle: PATIENCE,
        };
        let mut clients = Clients::new(socket, limits).expect("registered");
        let fate = to(&[endpoint("a", Family::V4)]).expect("a fate");
        clients.pass_on("127.0.0.1:9".parse().expect("an address"), b"hello", &fate);
        // It waits for answers now.
        tokio::task::yield_now().await;
        drop(clients);
        net::UdpSocket::bind(addr).expect("nobody has it any more");
    }

    #[tokio::test]
    async fn an_endpoint_that_refuses_is_left_for_another() {
        let gone = net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let addr = gone.local_addr().expect("address");
        let gone_endpoint = Endpoint {
            addr: addr.ip(),
            port: NonZeroU16::new(addr.port()).expect("a port"),
        };
        drop(gone);
        let alive = endpoint("a", Family::V4);
        let port = Port::serve(Family::V4, to(&[gone_endpoint, alive]), 4, PATIENCE);
        let client = port.client().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            client.send(b"hello").await.expect("send");
            let mut buffer = [0; 64];
            let answer = tokio::time::timeout(Duration::from_millis(100), client.recv(&mut buffer));
            if answer.await.is_ok() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "it stays with an endpoint that is not there"
            );
        }
    }
}
