//! The sockets: one for the node itself, one for each family of each Service with a health check.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dataplane::model::Family;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{Health, Moment, event::report, service::Answer};
use crate::{backoff::Backoff, client::Client, objects::Key};

/// How long a question may take: these ports are open to the network.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions answered at once, for each socket.
const AT_ONCE: usize = 64;
const BACKLOG: u32 = 128;
/// A port that is taken is tried again at most this late.
const BIND_AGAIN: Duration = Duration::from_secs(30);

/// A health-check node port in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listen {
    port: NonZeroU16,
    family: Family,
}

impl Listen {
    /// Every address of the family.
    fn addr(self) -> SocketAddr {
        let addr: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(addr, self.port.get())
    }

    /// Binds every address of the family, and none of the other.
    fn bind(self) -> io::Result<TcpListener> {
        let socket = match self.family {
            Family::V4 => TcpSocket::new_v4()?,
            Family::V6 => {
                let socket = TcpSocket::new_v6()?;
                setsockopt(&socket, Ipv6V6Only, &true)?;
                socket
            }
        };
        socket.set_reuseaddr(true)?;
        socket.bind(self.addr())?;
        socket.listen(BACKLOG)
    }
}

impl Health {
    /// Answers for the node: `/healthz` and `/livez`. Never ends; while the port is taken it is tried again.
    pub(crate) async fn serve_node(self, addr: SocketAddr) {
        let mut backoff = Backoff::new(Duration::from_secs(1), BIND_AGAIN);
        let listener = loop {
            match TcpListener::bind(addr).await {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::error!(%addr, %error, "the node's health cannot be asked for: nothing listens");
                    sleep(backoff.fail()).await;
                }
            }
        };
        accept(listener, move |path| {
            let (proxy, now) = (self.proxy(), Moment::now());
            match path {
                "/healthz" => Some(proxy.healthz(now)),
                "/livez" => Some(proxy.livez(now)),
                _ => None,
            }
        })
        .await;
    }

    /// Answers on the health-check node ports, as they come and go. Never ends.
    pub(crate) async fn serve_services(self, client: Client, node: String) {
        let mut changes = self.checks.subscribe();
        let mut sockets = Sockets {
            health: self,
            open: BTreeMap::new(),
            reported: BTreeSet::new(),
            tasks: JoinSet::new(),
        };
        let mut backoff = Backoff::new(Duration::from_secs(1), BIND_AGAIN);
        loop {
            let wanted = wanted(&changes.borrow_and_update());
            let failed = sockets.follow(wanted).await;
            for (listen, key, error) in &failed {
                let port = listen.port;
                tracing::warn!(service = %key, %port, %error, "the health-check node port cannot be served");
                if sockets.reported.insert((*listen, key.clone())) {
                    report(&client, &node, key, listen.addr(), error).await;
                }
            }
            let again = if failed.is_empty() {
                backoff.reset();
                Duration::MAX
            } else {
                backoff.fail()
            };
            // The sender lives in the sockets' health.
            let _ = timeout(again, changes.changed()).await;
        }
    }
}

/// The sockets that should be open, each with the Service it speaks for.
fn wanted(checks: &BTreeMap<Key, super::HealthCheck>) -> BTreeMap<Listen, Key> {
    let listens = |(key, check): (&Key, &super::HealthCheck)| {
        let (key, port) = (key.clone(), check.port);
        let families: Vec<Family> = check.local_endpoints.keys().copied().collect();
        families
            .into_iter()
            .map(move |family| (Listen { port, family }, key.clone()))
    };
    checks.iter().flat_map(listens).collect()
}

struct Sockets {
    health: Health,
    open: BTreeMap<Listen, (Key, AbortHandle)>,
    /// What could not be opened and was said to the user.
    reported: BTreeSet<(Listen, Key)>,
    tasks: JoinSet<()>,
}

impl Sockets {
    /// Closes and opens. Returns what could not be opened.
    async fn follow(&mut self, wanted: BTreeMap<Listen, Key>) -> Vec<(Listen, Key, io::Error)> {
        let mut closing = 0;
        self.open.retain(|listen, (key, task)| {
            let stays = wanted.get(listen) == Some(key);
            if !stays {
                task.abort();
                closing += 1;
            }
            stays
        });
        // No other ones end; a port may be wanted again at once, by another Service.
        for _ in 0..closing {
            self.tasks.join_next().await;
        }
        self.reported
            .retain(|(listen, key)| wanted.get(listen) == Some(key));
        let mut failed = Vec::new();
        for (listen, key) in wanted {
            if self.open.contains_key(&listen) {
                continue;
            }
            match listen.bind() {
                Ok(listener) => self.open(listen, key, listener),
                Err(error) => failed.push((listen, key, error)),
            }
        }
        failed
    }

    fn open(&mut self, listen: Listen, key: Key, listener: TcpListener) {
        let (health, of) = (self.health.clone(), key.clone());
        let answer = move |_: &str| {
            let checks = health.checks.borrow();
            let check = checks.get(&of)?;
            Some(check.answer(&of, listen.family, &health.proxy(), Moment::now()))
        };
        let task = self.tasks.spawn(accept(listener, answer));
        self.reported.remove(&(listen, key.clone()));
        self.open.insert(listen, (key, task));
    }
}

/// Answers every connection with one answer, by the path asked for.
async fn accept(
    listener: TcpListener,
    answer: impl Fn(&str) -> Option<Answer> + Clone + Send + Sync + 'static,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a client that went away.
                tracing::debug!(%error, "a health check could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Who comes while all places are taken is refused: a balancer asks again.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, connection(stream, answer)).await;
            drop(place);
        });
    }
}

async fn connection(
    stream: TcpStream,
    answer: impl Fn(&str) -> Option<Answer> + Clone + Send + Sync + 'static,
) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let response = respond(answer(request.uri().path()));
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a health check ended early");
    }
}

fn respond(answer: Option<Answer>) -> Response<Full<Bytes>> {
    let Some(answer) = answer else {
        let mut response = Response::new(Full::from("404 page not found\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let mut response = Response::new(Full::from(answer.body));
    if !answer.is_good {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    let is = http::HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, is("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, is("nosniff"));
    if let Some(weight) = answer.weight {
        headers.insert("x-load-balancing-endpoint-weight", weight.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::health::HealthCheck;

    /// A port that nobody has at the moment, in either family.
    fn free_port() -> NonZeroU16 {
        let socket = std::net::TcpListener::bind("[::]:0").expect("bind");
        NonZeroU16::new(socket.local_addr().expect("address").port()).expect("a port")
    }

    async fn ask(addr: &str, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    fn check(port: NonZeroU16, v4: usize) -> HealthCheck {
        HealthCheck {
            port,
            local_endpoints: BTreeMap::from([(Family::V4, v4), (Family::V6, 0)]),
        }
    }

    fn sockets(health: &Health) -> Sockets {
        Sockets {
            health: health.clone(),
            open: BTreeMap::new(),
            reported: BTreeSet::new(),
            tasks: JoinSet::new(),
        }
    }

    #[tokio::test]
    async fn a_health_check_port_answers_any_path_and_goes_with_its_service() {
        let health = Health::new([Family::V4, Family::V6]);
        health.updated();
        let (port, web, other) = (
            free_port(),
            Key::new("default", "web"),
            Key::new("a", "other"),
        );
        let mut sockets = sockets(&health);
        health.apply(vec![(web.clone(), Some(check(port, 2)))]);
        let wants = wanted(&health.checks.borrow());
        assert!(sockets.follow(wants).await.is_empty());
        let at4 = format!("127.0.0.1:{port}");
        let at6 = format!("[::1]:{port}");
        for path in ["/", "/healthz", "/any/thing?x=1"] {
            let answer = ask(&at4, path).await.expect("an answer").to_lowercase();
            assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
            for header in [
                "content-type: application/json",
                "x-content-type-options: nosniff",
                "x-load-balancing-endpoint-weight: 2",
            ] {
                assert!(answer.contains(header), "{header} in {answer}");
            }
        }
        let answer = ask(&at6, "/").await.expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.1 503 "),
            "none of IPv6: {answer}"
        );
        // The endpoints change: the socket stays, the answer is new.
        health.apply(vec![(web.clone(), Some(check(port, 0)))]);
        let answer = ask(&at4, "/").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        // Another Service gets the port.
        health.apply(vec![(web, None), (other.clone(), Some(check(port, 1)))]);
        let wants = wanted(&health.checks.borrow());
        assert!(
            sockets.follow(wants).await.is_empty(),
            "the port is free at once"
        );
        let answer = ask(&at4, "/").await.expect("an answer");
        assert!(answer.contains("\"name\": \"other\""), "{answer}");
        health.apply(vec![(other, None)]);
        let wants = wanted(&health.checks.borrow());
        assert!(sockets.follow(wants).await.is_empty());
        let refused = ask(&at4, "/").await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_and_opened_when_it_is_free() {
        let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("bind");
        let port = taken.local_addr().expect("address").port();
        let port = NonZeroU16::new(port).expect("a port");
        let health = Health::new([Family::V4]);
        let mut sockets = sockets(&health);
        let listen = Listen {
            port,
            family: Family::V4,
        };
        let wants = || BTreeMap::from([(listen, Key::new("default", "web"))]);
        let failed = sockets.follow(wants()).await;
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].2.kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        assert!(sockets.follow(wants()).await.is_empty());
    }

    #[tokio::test]
    async fn the_node_answers_for_itself() {
        let port = free_port();
        let addr = SocketAddr::from(([127, 0, 0, 1], port.get()));
        let health = Health::new([Family::V4]);
        let mut tasks = JoinSet::new();
        tasks.spawn(health.clone().serve_node(addr));
        let at = addr.to_string();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let first = loop {
            match ask(&at, "/healthz").await {
                Ok(answer) => break answer,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
        health.set_node_eligible(false);
        let answer = ask(&at, "/healthz").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\"nodeEligible\":false"), "{answer}");
        let answer = ask(&at, "/livez").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let answer = ask(&at, "/metrics").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}
