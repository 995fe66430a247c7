//! Connections to nodes, and upgraded ones: one user's do not keep others from theirs (Q2).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::{net::SocketAddr, time::Duration};

use apiserver::{auth::User, http::Limits};
use axum::{body::Body, response::Response};
use common::{
    Api, PODS,
    node::{LOG, connect, running_pod},
};
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Answers `here`, whatever is asked.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(async || "here");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// An API with the Pod `p` on node `n` and the Pod `q` on node `m`.
async fn api(connections_per_user: usize, connections_per_node: usize) -> Api {
    let limits = Limits {
        connections_per_user,
        connections_per_node,
        ..Limits::default()
    };
    let api = Api::limited(limits, Vec::new()).await;
    let backend = backend().await;
    for (pod, node) in [("p", "n"), ("q", "m")] {
        connect(&api.tunnels, node, backend);
        running_pod(&api, pod, node).await;
    }
    api
}

async fn get(api: &Api, user: &str, path: &str) -> Response {
    let mut request = Request::get(format!("{PODS}/{path}"))
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(User {
        name: user.into(),
        ..User::default()
    });
    api.send(request).await
}

/// A log that is followed, of which the first line has come.
async fn followed(api: &Api, user: &str, pod: &str) -> Body {
    first_line(get(api, user, &format!("{pod}/log?follow=true")).await).await
}

async fn first_line(response: Response) -> Body {
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let line = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(line, LOG);
    body
}

/// The words of a refusal that says when to come again.
async fn refusal(response: Response) -> String {
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    status["message"].as_str().unwrap().to_owned()
}

/// Asks until there is an answer other than 429.
async fn when_there_is_room(api: &Api, user: &str, path: &str) -> Response {
    let asking = async {
        loop {
            let response = get(api, user, path).await;
            if response.status() != 429 {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking)
        .await
        .expect("no room after what took it has ended")
}

#[tokio::test]
async fn q2_a_user_with_all_connections_that_are_his_leaves_the_others_theirs() {
    let api = api(2, 3).await;
    let mut held = vec![
        followed(&api, "jane", "p").await,
        followed(&api, "jane", "p").await,
    ];
    for path in ["p/log", "q/log", "p:80/proxy/"] {
        let words = refusal(get(&api, "jane", path).await).await;
        let wanted = "Too many connections: user \"jane\" has 2 connections open";
        assert!(words.starts_with(wanted), "{path}: {words}");
    }
    // Another one is served, by the same node.
    let proxied = get(&api, "jack", "p:80/proxy/").await;
    assert_eq!(proxied.status(), 200);
    let body = proxied.into_body().collect().await.unwrap();
    assert_eq!(&body.to_bytes()[..], b"here");
    // That connection ends by itself, and makes room for the next.
    let response = when_there_is_room(&api, "jack", "p/log?follow=true").await;
    held.push(first_line(response).await);

    let words = refusal(get(&api, "joe", "p/log").await).await;
    let wanted = "Too many connections: node \"n\" has 3 connections open";
    assert!(words.starts_with(wanted), "{words}");
    held.push(followed(&api, "joe", "q").await);

    // What ends makes room for the next.
    drop(held.remove(0));
    let response = when_there_is_room(&api, "joe", "p/log?follow=true").await;
    assert_eq!(response.status(), 200);
}

/// Sends the head of a request that asks for an upgrade; the head of the answer, and the connection.
async fn upgrade(at: SocketAddr, path: &str, protocol: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap().into());
    }
    (head, stream)
}

#[tokio::test]
async fn q2_s6_what_is_too_much_is_refused_before_the_upgrade() {
    let api = api(1, 8000).await;
    let at = api.listen().await;
    let watch = "/api/v1/pods?watch=true";
    let paths = [
        (watch.to_owned(), ""),
        (
            format!("{PODS}/p/exec?command=a&stdout=1"),
            "v5.channel.k8s.io",
        ),
        (format!("{PODS}/p/attach?stdout=1"), "v5.channel.k8s.io"),
        (
            format!("{PODS}/p/portforward"),
            "SPDY/3.1+portforward.k8s.io",
        ),
        (format!("{PODS}/p/log?follow=true"), "binary.k8s.io"),
        (format!("{PODS}/p:80/proxy/"), "chat"),
    ];
    let open = [0, 3];
    for holder in open {
        let (path, protocol) = &paths[holder];
        let (head, held) = upgrade(at, path, protocol).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{path}: {head}");
        for (path, protocol) in &paths {
            let (head, _) = upgrade(at, path, protocol).await;
            assert!(head.starts_with("HTTP/1.1 429 "), "{path}: {head}");
            assert!(head.contains("retry-after: 1\r\n"), "{path}: {head}");
        }
        // Watches of the ordinary sort take no place, nor does somebody else's log ask for one of his.
        let mut events = api.watch(watch).await;
        events.next().await.unwrap();
        drop(followed(&api, "jane", "p").await);
        drop(held);
        let ended = when_there_is_room(&api, "system:anonymous", "p/log?follow=true").await;
        assert_eq!(ended.status(), 200);
        drop(ended);
        let _ = when_there_is_room(&api, "system:anonymous", "p/log?follow=true").await;
    }
}

/// Each port that is forwarded is one more connection; the one too many is told so on its own channel.
#[tokio::test]
async fn q2_forwarded_ports_count_one_by_one() {
    let api = api(2, 8000).await;
    let at = api.listen().await;
    let path = format!("{PODS}/p/portforward?ports=80,81");
    let (head, mut held) = upgrade(at, &path, "v4.channel.k8s.io").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut said = Vec::new();
    let words = b"has 2 connections open";
    let reading = async {
        while !said.windows(words.len()).any(|part| part == words) {
            said.push(held.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .expect("nothing is refused");
}
