//! One connection: TLS, then its requests, each with the caller it comes from.

use std::{
    convert::Infallible,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::Watcher},
};
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{node::JOIN_PATH, socket};
use crate::{
    audit::{self, Stage},
    auth::{
        User,
        authentication::{Authenticator, Caller},
        certificate::{Certificate, ClientCa},
    },
    http as rest,
    registry::ApiError,
};

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may stay without its first request. Later ones have hyper's own limits: 30 s for the head of a
/// request, and pings on HTTP/2.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// What paths of nodes' tunnels begin with.
const TUNNELS: &str = "/minik/";
/// Streams per HTTP/2 connection: an agent or client with more watches than this would stall silently.
const MAX_STREAMS: u32 = 2000;

/// What every connection shares.
#[derive(Clone)]
pub(super) struct Gate {
    tls: TlsAcceptor,
    client_ca: ClientCa,
    router: Router,
    authenticator: Authenticator,
    audit: Option<audit::Log>,
    stop: CancellationToken,
    builder: Arc<auto::Builder<TokioExecutor>>,
    first_request: Duration,
    patience: Duration,
    /// The socket of a connection that may be upgraded.
    socket: Option<Arc<OwnedFd>>,
}

impl Gate {
    /// A gate to `router`; its watches end when `stop` is cancelled.
    pub(super) fn new(
        tls: Arc<ServerConfig>,
        client_ca: ClientCa,
        router: Router,
        authenticator: Authenticator,
        audit: Option<audit::Log>,
        stop: CancellationToken,
    ) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Duration::from_secs(30));
        Self {
            tls: tls.into(),
            client_ca,
            router,
            authenticator,
            audit,
            stop,
            builder: Arc::new(builder),
            first_request: FIRST_REQUEST,
            patience: socket::PATIENCE,
            socket: None,
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn connection(mut self, stream: TcpStream, watcher: Watcher) {
        let source = stream.peer_addr().ok().map(|peer| peer.ip());
        if let Err(error) = socket::prepare(&stream, self.patience) {
            tracing::debug!(%error, "socket options");
        }
        let stream = match tokio::time::timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        };
        let (tcp, session) = stream.get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        let origin = Origin {
            certificate: self.client_ca.judge(chain, Timestamp::now()),
            source,
        };
        // HTTP/2 has no upgrades, and most connections speak it: they need no second descriptor.
        if session.alpn_protocol() != Some(b"h2") {
            self.socket = tcp.as_fd().try_clone_to_owned().ok().map(Arc::new);
        }
        self.requests(stream, origin, watcher).await;
    }

    /// Answers the requests that come over a stream, or gives it up when none comes: whoever is silent after the
    /// handshake would otherwise keep a descriptor for ever.
    async fn requests<S>(self, stream: S, origin: Origin, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let builder = self.builder.clone();
        let first_request = self.first_request;
        let asked = Arc::new(Notify::new());
        let asking = asked.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            asking.notify_one();
            let (gate, origin) = (self.clone(), origin.clone());
            async move { Ok::<_, Infallible>(gate.answer(origin, request.map(Body::new)).await) }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let silence = async {
            let first = tokio::time::timeout(first_request, asked.notified()).await;
            if first.is_ok() {
                std::future::pending().await
            }
        };
        tokio::select! {
            result = watcher.watch(connection.into_owned()) => {
                if let Err(error) = result {
                    tracing::debug!(error, "connection");
                }
            }
            () = silence => tracing::debug!("a connection without a request was closed"),
        }
    }

    async fn answer(self, origin: Origin, request: Request<Body>) -> Response {
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="));
        let is_tunnel = request.uri().path().starts_with(TUNNELS);
        let audit = self.audit.clone();
        let asked = audit.map(|log| (log, audit::Asked::of(&request, origin.source)));
        let (caller, mut response) = match self.admit(&origin.certificate, request).await {
            Err(error) => (None, rest::status_of(&error)),
            Ok((caller, mut request)) => {
                request.extensions_mut().insert(audit::Wanted);
                if let Some(source) = origin.source {
                    let source = rest::Source(source.to_canonical());
                    request.extensions_mut().insert(source);
                }
                let response = match self.router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                (Some(caller), response)
            }
        };
        rest::finish::identify(&mut response);
        if let Some((log, asked)) = asked
            && !asked.is_routine(caller.as_ref(), response.status())
        {
            response = audited(log, asked, caller, response).await;
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        // An agent always reads.
        if let (true, false, Some(socket)) = (upgraded, is_tunnel, &self.socket)
            && let Err(error) = socket::be_patient(socket)
        {
            tracing::debug!(%error, "socket options");
        }
        if is_watch {
            return until(response, self.stop);
        }
        response
    }

    /// The request with its caller, if credentials and headers are acceptable.
    async fn admit(
        &self,
        certificate: &Certificate,
        mut request: Request<Body>,
    ) -> Result<(Caller, Request<Body>), ApiError> {
        // What comes to join brings a token of another sort, which is looked at there.
        let caller = if request.uri().path() == JOIN_PATH {
            let user = certificate.user(Timestamp::now()).cloned();
            let user = user.unwrap_or_else(User::anonymous);
            Caller {
                credentials: user.clone(),
                user,
            }
        } else {
            let headers = request.headers();
            self.authenticator.caller(certificate, headers).await?
        };
        request.extensions_mut().insert(caller.user.clone());
        Ok((caller, request))
    }
}

/// Whom a connection comes from.
#[derive(Clone, Debug, Default)]
struct Origin {
    /// What its certificate is worth.
    certificate: Certificate,
    /// Its other end.
    source: Option<IpAddr>,
}

/// Tells the audit log of an answer; of a watch when it begins and when it ends.
async fn audited(
    log: audit::Log,
    asked: audit::Asked,
    caller: Option<Caller>,
    response: Response,
) -> Response {
    let answer = audit::Answer::of(&response);
    let now = Timestamp::now();
    if !asked.is_watch(&answer) {
        let stage = Stage::ResponseComplete;
        let event = asked.event(caller.as_ref(), &answer, stage, now);
        log.write(&event).await;
        return response;
    }
    let event = asked.event(caller.as_ref(), &answer, Stage::ResponseStarted, now);
    log.write(&event).await;
    let ended = Ended {
        log,
        asked,
        caller,
        answer,
    };
    response.map(|body| {
        let frames = body.into_data_stream();
        Body::from_stream(frames.inspect(move |_| {
            let _ = &ended;
        }))
    })
}

/// A watch that the audit log is told the end of, by whatever it ends.
struct Ended {
    log: audit::Log,
    asked: audit::Asked,
    caller: Option<Caller>,
    answer: audit::Answer,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let (caller, now) = (self.caller.as_ref(), Timestamp::now());
        let stage = Stage::ResponseComplete;
        let event = self.asked.event(caller, &self.answer, stage, now);
        self.log.write_now(&event);
    }
}

/// The response with a body that ends, between two events, when the server stops.
fn until(response: Response, stop: CancellationToken) -> Response {
    response.map(|body| {
        let frames = body.into_data_stream();
        Body::from_stream(frames.take_until(stop.cancelled_owned()))
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use futures_util::stream;
    use hyper_util::server::graceful::GracefulShutdown;
    use rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::watch,
    };
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{
        auth::{
            node::{NodeAuthorizer, graph::Graph},
            policy::Policy,
            service_account::Tokens,
        },
        pki::{Pki, ServerNames},
        registry::{Context, Registry},
        store::{EmbeddedStore, engine::MemoryEngine},
    };

    fn gate(first_request: Duration) -> Gate {
        Gate {
            first_request,
            ..gate_and_ca().0
        }
    }

    /// A gate to an answer that ends and one that does not, and its CA in PEM.
    fn gate_and_ca() -> (Gate, String) {
        let dir = tempfile::tempdir().unwrap();
        let names = ServerNames {
            dns: vec!["localhost".into()],
            ..ServerNames::default()
        };
        let pki = Pki::open(dir.path(), &names).unwrap();
        let endless = async || {
            let lines = stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 1 << 16]));
            Body::from_stream(lines)
        };
        let router = Router::new()
            .route("/livez", get(async || "ok"))
            .route("/upgrade", get(async || StatusCode::SWITCHING_PROTOCOLS))
            .route("/endless", get(endless));
        let client_ca = super::super::client_ca(&pki).unwrap();
        let tls = super::super::tls(&pki, &client_ca).unwrap();
        let store = EmbeddedStore::with_engine(MemoryEngine::default(), None).unwrap();
        let registry = Registry::new(Arc::new(store), Context::default());
        let authenticator = Authenticator {
            tokens: Arc::new(Tokens::ephemeral("https://issuer".into()).unwrap()),
            authorizer: Policy::new(
                NodeAuthorizer::new(registry.clone(), watch::channel(Graph::default()).1),
                Arc::default(),
            ),
            registry,
        };
        let stop = CancellationToken::new();
        let gate = Gate::new(tls, client_ca, router, authenticator, None, stop);
        (gate, pki.ca_pem().to_owned())
    }

    /// A client over TLS, its serving, and the server's socket.
    async fn connected(
        gate: Gate,
        ca_pem: &str,
    ) -> (
        tokio_rustls::client::TlsStream<TcpStream>,
        tokio::task::JoinHandle<()>,
        (OwnedFd, GracefulShutdown),
    ) {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(stream, listener.accept());
        let accepted = accepted.unwrap().0;
        let socket = accepted.as_fd().try_clone_to_owned().unwrap();
        let graceful = GracefulShutdown::new();
        let serving = tokio::spawn(gate.connection(accepted, graceful.watcher()));
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let client = connector.connect(name, client.unwrap()).await.unwrap();
        // Dropped, it would end the connection.
        (client, serving, (socket, graceful))
    }

    #[tokio::test]
    async fn w13_a_watcher_that_stops_reading_is_cut() {
        let (gate, ca_pem) = gate_and_ca();
        let gate = Gate {
            patience: Duration::from_secs(1),
            ..gate
        };
        let (mut client, serving, _held) = connected(gate, &ca_pem).await;
        let request = b"GET /endless?watch=true HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut head = [0; 15];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        // The client is there, and its kernel acknowledges every probe; only nobody reads.
        let cut = tokio::time::timeout(Duration::from_secs(60), serving).await;
        cut.expect("the connection is still open").unwrap();
        drop(client);
    }

    #[tokio::test]
    async fn a_client_of_an_upgraded_connection_may_rest() {
        use nix::sys::socket::{getsockopt, sockopt};
        let (gate, ca_pem) = gate_and_ca();
        let (mut client, _serving, (socket, _graceful)) = connected(gate, &ca_pem).await;
        let limit = |socket: &OwnedFd| getsockopt(socket, sockopt::TcpUserTimeout).unwrap();
        for (path, code, patient) in [("/livez", b"200", false), ("/upgrade", b"101", true)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut head = [0; 4096];
            let length = client.read(&mut head).await.unwrap();
            assert_eq!(
                &head[9..12],
                code,
                "{:?}",
                String::from_utf8_lossy(&head[..length])
            );
            assert_eq!(limit(&socket) == 0, patient, "{path}");
        }
    }

    /// Whether a connection over which this is sent is closed by the server within ten seconds.
    async fn is_given_up(sent: &[u8]) -> bool {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(sent).await.unwrap();
        let graceful = GracefulShutdown::new();
        let gate = gate(Duration::from_millis(20));
        tokio::spawn(gate.requests(server, Origin::default(), graceful.watcher()));
        let mut received = Vec::new();
        let end = client.read_to_end(&mut received);
        let end = tokio::time::timeout(Duration::from_secs(10), end).await;
        end.is_ok()
    }

    #[tokio::test]
    async fn a_connection_without_a_request_is_given_up() {
        assert!(is_given_up(b"").await, "nothing");
        assert!(is_given_up(b"PRI * HTTP/2.0\r\n").await, "half a preface");
        assert!(is_given_up(b"GET /livez HT").await, "half a request");
    }

    #[tokio::test]
    async fn a_connection_with_a_request_stays_open_for_the_next_one() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let graceful = GracefulShutdown::new();
        let gate = gate(Duration::from_millis(20));
        let mut serving =
            tokio::spawn(gate.requests(server, Origin::default(), graceful.watcher()));
        for _ in 0..2 {
            client
                .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let mut answer = [0; 15];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            // Longer than a silent connection lives.
            let ended = tokio::time::timeout(Duration::from_millis(100), &mut serving).await;
            assert!(ended.is_err(), "the connection was closed");
            let mut rest = [0; 4096];
            let _ = client.read(&mut rest).await.unwrap();
        }
    }
}
