//! The one connection that every request and watch shares, made again when it breaks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

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
        Ok(Self {
            server,
            name,
            tls,
            state: Mutex::new(State {
                sender: None,
                backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
                not_before: None,
            }),
        })
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
        let refused = |source| ClientError::Connect {
            server: self.server.to_string(),
            source,
        };
        let tcp = TcpStream::connect((self.server.host.as_str(), self.server.port))
            .await
            .map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.name.clone(), tcp)
            .await
            .map_err(|source| ClientError::Tls {
                server: self.server.to_string(),
                source,
            })?;
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
                method: http::Method::CONNECT,
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
}
