//! A node that is none: what is asked over its tunnel a test answers.

use std::{convert::Infallible, net::SocketAddr};

use apiserver::tunnels::Tunnels;
use axum::{body::Body, response::Response};
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_util::io::ReaderStream;

use super::{Api, PODS, pod};

/// What its containers have said.
pub const LOG: &str = "a line\n";

/// Connects a node whose logs say one line and nothing more while they are followed. Whatever is dialled, this is reached.
pub fn connect(tunnels: &Tunnels, name: &'static str, backend: SocketAddr) {
    let (server, agent) = tokio::io::duplex(1 << 16);
    let serving = tunnels.clone();
    tokio::spawn(async move { serving.serve(name, TokioIo::new(server)).await });
    let service = service_fn(move |request: Request<Incoming>| async move {
        Ok::<_, Infallible>(Response::new(answer(request.into_body(), backend).await))
    });
    tokio::spawn(
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(agent), service),
    );
}

async fn answer(mut asked: Incoming, backend: SocketAddr) -> Body {
    let first = asked.frame().await.unwrap().unwrap().into_data().unwrap();
    let request = String::from_utf8_lossy(&first).into_owned();
    if !request.contains("Dial") {
        let said = stream::once(async { Ok::<_, Infallible>(LOG) });
        if request.contains("\"follow\":true") {
            return Body::from_stream(said.chain(stream::pending()));
        }
        return Body::from_stream(said);
    }
    let (from, mut to) = TcpStream::connect(backend).await.unwrap().into_split();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = asked.frame().await {
            if let Ok(bytes) = frame.into_data()
                && to.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    });
    Body::from_stream(ReaderStream::new(from))
}

/// Makes a Pod that runs on a node of this name, at an address of its own.
pub async fn running_pod(api: &Api, name: &str, node: &str) {
    let mut body = pod(name);
    body["spec"]["nodeName"] = json!(node);
    api.made(PODS, body).await;
    let status = json!({
        "phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
        "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
        }],
    });
    let path = format!("{PODS}/{name}/status");
    let (code, answer) = api.merge(&path, json!({"status": status})).await;
    assert_eq!(code, 200, "{answer}");
}
