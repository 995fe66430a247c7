//! One connection: TLS, then its requests, each with the caller it comes from.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use futures_util::StreamExt as _;
use http::{Request, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::Watcher},
};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::node::JOIN_PATH;
use crate::{
    auth::{User, certificate, impersonation, node_restriction},
    http as rest,
    registry::ApiError,
};

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams per HTTP/2 connection: an agent or client with more watches than this would stall silently.
const MAX_STREAMS: u32 = 2000;

/// What every connection shares.
#[derive(Clone)]
pub(super) struct Gate {
    tls: TlsAcceptor,
    router: Router,
    stop: CancellationToken,
    builder: Arc<auto::Builder<TokioExecutor>>,
}

impl Gate {
    /// A gate to `router`; its watches end when `stop` is cancelled.
    pub(super) fn new(tls: Arc<ServerConfig>, router: Router, stop: CancellationToken) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Duration::from_secs(30));
        Self {
            tls: tls.into(),
            router,
            stop,
            builder: Arc::new(builder),
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn connection(self, stream: TcpStream, watcher: Watcher) {
        // Small answers and watch events must not wait for a full segment.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let stream = match tokio::time::timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        };
        let caller = caller(&stream);
        let builder = self.builder.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (gate, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(gate.answer(caller, request.map(Body::new)).await) }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection.into_owned()).await {
            tracing::debug!(error, "connection");
        }
    }

    async fn answer(self, caller: Option<User>, request: Request<Body>) -> Response {
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="));
        let request = match admit(caller, request).await {
            Ok(request) => request,
            Err(error) => return rest::status_of(&error),
        };
        let response = match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if is_watch {
            return until(response, self.stop);
        }
        response
    }
}

/// The caller a connection belongs to: the verified client certificate says so. `None` without one.
fn caller(stream: &TlsStream<TcpStream>) -> Option<User> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates()?.first()?;
    certificate::user(certificate)
}

/// The request with its caller, if credentials and headers are acceptable.
async fn admit(caller: Option<User>, request: Request<Body>) -> Result<Request<Body>, ApiError> {
    let has_token = request.headers().contains_key(header::AUTHORIZATION);
    let caller = match caller {
        Some(caller) => caller,
        // Tokens open nothing but the way in; a bad credential is not the same as none (U1).
        None if has_token && request.uri().path() != JOIN_PATH => {
            return Err(ApiError::Unauthorized);
        }
        None => User::anonymous(),
    };
    let user = impersonation::effective(&caller, request.headers())?;
    let mut request = node_restriction::check(&user, request).await?;
    request.extensions_mut().insert(user);
    Ok(request)
}

/// The response with a body that ends, between two events, when the server stops.
fn until(response: Response, stop: CancellationToken) -> Response {
    response.map(|body| {
        let frames = body.into_data_stream();
        Body::from_stream(frames.take_until(stop.cancelled_owned()))
    })
}
