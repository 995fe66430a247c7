//! The one connection that every request and watch shares, made again when it breaks.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::{
    client::conn::{
        http1,
        http2::{self, SendRequest},
    },
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ClientError, Server};
use crate::backoff::Backoff;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A dead peer is noticed within the sum of the two.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(10);
/// What one stream may hold unread. All readers drain at once, so this bounds memory and not speed.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Above several full streams, so that one slow reader does not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Until the server's SETTINGS frame tells its own limit.
const MAX_STREAMS: usize = 1000;

pub(super) type Sender = SendRequest<Full<Bytes>>;

pub(super) struct Connection {
    server: Server,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    state: Mutex<State>,
}

struct State {
    sender: Option<Sender>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Connection {
    pub(super) fn new(server: Server, tls: Arc<ClientConfig>) -> Result<Self, ClientError> {
        let name =
            ServerName::try_from(server.host.clone()).map_err(|_| ClientError::BadServer {
                value: server.to_string(),
                reason: "the host is neither an IP address nor a DNS name",
            })?;
        Ok(Self::unconnected(server, name, tls))
    }

    /// Another one to the same server.
    pub(super) fn apart(&self) -> Self {
        Self::unconnected(
            self.server.clone(),
            self.name.clone(),
            Arc::clone(&self.tls),
        )
    }

    fn unconnected(server: Server, name: ServerName<'static>, tls: Arc<ClientConfig>) -> Self {
        Self {
            server,
            name,
            tls,
            state: Mutex::new(State {
                sender: None,
                backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
                not_before: None,
            }),
        }
    }

    pub(super) const fn server(&self) -> &Server {
        &self.server
    }

    /// A handle on a live connection. The first attempt is made at once; after a failure the next caller waits a
    /// jittered, growing time first, and callers queue behind one attempt.
    pub(super) async fn sender(&self) -> Result<Sender, ClientError> {
        let mut state = self.state.lock().await;
        if let Some(sender) = state.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        state.sender = None;
        if let Some(not_before) = state.not_before {
            sleep_until(not_before).await;
        }
        let attempt = timeout(CONNECT_LIMIT, self.connect())
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Timeout {
                    server: self.server.to_string(),
                    what: "the connection".to_owned(),
                    limit: CONNECT_LIMIT,
                })
            });
        match attempt {
            Ok(sender) => {
                state.backoff.reset();
                state.not_before = None;
                state.sender = Some(sender.clone());
                Ok(sender)
            }
            Err(error) => {
                state.not_before = Some(Instant::now() + state.backoff.fail());
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Sender, ClientError> {
        let tls = self.dial(Arc::clone(&self.tls)).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(MAX_STREAMS)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| ClientError::Broken {
                method: Method::CONNECT,
                path: self.server.to_string(),
                source,
            })?;
        // The task ends with the connection; whoever waits on a stream of it gets the error.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the server ended");
            }
        });
        Ok(sender)
    }

    async fn dial(&self, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, ClientError> {
        let refused = |source| ClientError::Connect {
            server: self.server.to_string(),
            source,
        };
        let tcp = TcpStream::connect((self.server.host.as_str(), self.server.port))
            .await
            .map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        let connecting = TlsConnector::from(tls).connect(self.name.clone(), tcp);
        connecting.await.map_err(|source| ClientError::Tls {
            server: self.server.to_string(),
            source,
        })
    }

    /// A connection of its own that becomes `protocol` by the request to this path.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        protocol: &'static str,
    ) -> Result<Upgraded, ClientError> {
        let upgrading = async {
            // HTTP/2 has no upgrades: this one asks for nothing by ALPN, and so gets HTTP/1.1.
            let mut tls = (*self.tls).clone();
            tls.alpn_protocols.clear();
            let stream = self.dial(Arc::new(tls)).await?;
            keep_alive(stream.get_ref().0).map_err(|source| ClientError::Connect {
                server: self.server.to_string(),
                source,
            })?;
            self.switch(stream, path, protocol).await
        };
        let upgrading = timeout(CONNECT_LIMIT, upgrading).await;
        upgrading.unwrap_or_else(|_| {
            Err(ClientError::Timeout {
                server: self.server.to_string(),
                what: path.to_owned(),
                limit: CONNECT_LIMIT,
            })
        })
    }

    async fn switch(
        &self,
        stream: TlsStream<TcpStream>,
        path: &str,
        protocol: &'static str,
    ) -> Result<Upgraded, ClientError> {
        let broken = |source| ClientError::Broken {
            method: Method::GET,
            path: path.to_owned(),
            source,
        };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(path)
            .header(
                header::HOST,
                self.server.to_string().replace("https://", ""),
            )
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol)
            .body(Full::<Bytes>::default())
            .map_err(|source| ClientError::BadRequest {
                path: path.to_owned(),
                source,
            })?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = answer.status();
            let body = super::collect(&Method::GET, path, answer.into_body()).await?;
            return Err(ClientError::from_answer(Method::GET, path, code, &body));
        }
        hyper::upgrade::on(answer).await.map_err(broken)
    }
}

/// The kernel notices that the server is gone, also while there is nothing to say (tcp(7)): nothing wakes for it here.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new()
        .with_time(PING_EVERY)
        .with_interval(Duration::from_secs(5))
        .with_retries(2);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(PING_EVERY + PING_LIMIT))
}
