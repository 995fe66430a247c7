//! One connection: which endpoint it gets, and the bytes both ways.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use dataplane::model::{Affinity, Endpoint, Fate};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use tokio::{io::copy_bidirectional, net::TcpStream, time::timeout};

/// How long one endpoint may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;
/// A silent connection is asked after so long whether the other side is still there: else it would hold a place for ever.
const KEEP_ALIVE_SECS: u32 = 300;

/// Where a process of this node may go, and whether it comes back to the same.
pub(super) fn choices(fate: &Fate) -> (&[Endpoint], Option<Affinity>) {
    match fate {
        Fate::Balance {
            endpoints,
            affinity,
            ..
        } => (endpoints, *affinity),
        Fate::Local {
            inside, affinity, ..
        } => (inside, *affinity),
        Fate::From { fate, .. } => choices(fate),
        Fate::Reject | Fate::Drop => (&[], None),
    }
}

/// Whether there is anybody to send to.
pub(super) fn has_endpoints(fate: &Fate) -> bool {
    !choices(fate).0.is_empty()
}

/// The clients of one port. All come from this host's loopback, so one memory is enough for session affinity.
#[derive(Debug, Default)]
pub(super) struct Relay {
    last: Mutex<Option<(Endpoint, Instant)>>,
}

impl Relay {
    /// Carries a connection until both sides have closed. A client for whom no endpoint was found is reset.
    pub(super) async fn carry(&self, mut client: TcpStream, fate: &Fate) {
        let Some(mut server) = self.connect(fate).await else {
            return reset(&client);
        };
        for stream in [&client, &server] {
            prepare(stream);
        }
        // A side that closes is passed on as such, and the other may go on sending.
        if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
            tracing::debug!(%error, "a connection to a NodePort on loopback broke");
            reset(&client);
            reset(&server);
        }
    }

    async fn connect(&self, fate: &Fate) -> Option<TcpStream> {
        let (endpoints, affinity) = choices(fate);
        for endpoint in self.order(endpoints, affinity, random(), Instant::now()) {
            let addr = SocketAddr::new(endpoint.addr, endpoint.port.get());
            match timeout(CONNECT, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => {
                    self.remember(endpoint, affinity);
                    return Some(stream);
                }
                Ok(Err(error)) => {
                    tracing::debug!(endpoint = %addr, %error, "an endpoint refused a connection from loopback");
                }
                Err(_) => {
                    tracing::debug!(endpoint = %addr, "an endpoint did not answer a connection from loopback");
                }
            }
        }
        None
    }

    /// What session affinity has to know of the endpoint that was chosen.
    pub(super) fn remember(&self, endpoint: Endpoint, affinity: Option<Affinity>) {
        let mut last = self.last.lock().expect("no holder of this lock panics");
        *last = affinity.map(|_| (endpoint, Instant::now()));
    }

    /// The endpoints to try: the one remembered first, if it is one still, then others from a random one on.
    pub(super) fn order(
        &self,
        endpoints: &[Endpoint],
        affinity: Option<Affinity>,
        random: u64,
        now: Instant,
    ) -> Vec<Endpoint> {
        let last = *self.last.lock().expect("no holder of this lock panics");
        let remembered = last
            .zip(affinity)
            .filter(|((_, at), affinity)| now.saturating_duration_since(*at) < affinity.timeout)
            .map(|((endpoint, _), _)| endpoint)
            .filter(|endpoint| endpoints.contains(endpoint));
        let start = random as usize % endpoints.len().max(1);
        let others = endpoints.iter().cycle().skip(start).take(endpoints.len());
        let others = others.copied().filter(|other| Some(*other) != remembered);
        remembered
            .into_iter()
            .chain(others)
            .take(ATTEMPTS)
            .collect()
    }
}

/// The standard library seeds its hashers at random; nothing secret depends on it here.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn prepare(stream: &TcpStream) {
    let set = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_SECS)?;
        Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "a connection keeps the system's options");
    }
}

/// Closing it will tell the other side that this was no regular end.
fn reset(stream: &TcpStream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    if let Err(error) = setsockopt(stream, sockopt::Linger, &at_once) {
        tracing::debug!(%error, "a connection is closed, not reset");
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use dataplane::model::{Family, Frontend, Memory, Scope};

    use super::*;

    fn endpoints(count: u8) -> Vec<Endpoint> {
        let port = NonZeroU16::new(80).expect("a port");
        let one = |host| Endpoint {
            addr: [10, 244, 0, host].into(),
            port,
        };
        (1..=count).map(one).collect()
    }

    #[test]
    fn a_connection_tries_a_random_endpoint_first_and_few_others() {
        let (relay, now, all) = (Relay::default(), Instant::now(), endpoints(4));
        assert_eq!(relay.order(&all, None, 2, now), [all[2], all[3], all[0]]);
        assert_eq!(relay.order(&all, None, 7, now), [all[3], all[0], all[1]]);
        assert_eq!(relay.order(&[], None, 7, now), []);
    }

    #[test]
    fn session_affinity_is_kept_until_its_timeout_or_the_endpoint_leaves() {
        let (now, all) = (Instant::now(), endpoints(3));
        let affinity = Some(Affinity {
            timeout: Duration::from_secs(60),
            memory: Memory {
                port: Frontend::NodePort {
                    family: Family::V4,
                    protocol: dataplane::model::Protocol::Tcp,
                    port: all[0].port,
                },
                scope: Scope::Cluster,
            },
        });
        let relay = Relay {
            last: Mutex::new(Some((all[1], now))),
        };
        let after = |secs| now + Duration::from_secs(secs);
        assert_eq!(
            relay.order(&all, affinity, 0, after(59)),
            [all[1], all[0], all[2]]
        );
        assert_eq!(
            relay.order(&all, affinity, 0, after(60))[0],
            all[0],
            "forgotten"
        );
        assert_eq!(
            relay.order(&all[2..], affinity, 0, now),
            [all[2]],
            "it left"
        );
        assert_eq!(relay.order(&all, None, 0, now)[0], all[0], "not asked for");
    }
}
