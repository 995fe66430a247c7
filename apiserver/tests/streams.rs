//! Logs over a WebSocket (S10), and what is passed on to Pods, Services and nodes (S11), with a node that a test answers for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{body::Body, response::Response};
use common::{
    Api, PODS, SERVICES,
    node::{LOG, connect, running_pod},
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Answers what it was asked, or switches to a protocol that says everything in capitals.
async fn echo(mut request: Request<Incoming>) -> Result<Response, Infallible> {
    if request.uri().path() == "/switch" {
        let upgrade = hyper::upgrade::on(&mut request);
        let protocol = request.headers()["upgrade"].clone();
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 64];
            while let Ok(length @ 1..) = io.read(&mut bytes).await {
                bytes.make_ascii_uppercase();
                io.write_all(&bytes[..length]).await.unwrap();
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("upgrade", protocol);
        response
            .headers_mut()
            .insert("connection", "upgrade".parse().unwrap());
        return Ok(response);
    }
    if request.uri().path() == "/away" {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        let elsewhere = request.headers()["x-elsewhere"].clone();
        response.headers_mut().insert("location", elsewhere);
        return Ok(response);
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]))
        .collect();
    let seen = json!({
        "method": head.method.as_str(), "target": head.uri.to_string(), "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let mut response = Response::new(Body::from(seen.to_string()));
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    response
        .headers_mut()
        .insert("x-own", "kept".parse().unwrap());
    Ok(response)
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(echo))
        .with_upgrades();
    // A client that leaves is none of its business.
    let _ = connection.await;
}

/// Something that answers HTTP, or HTTPS with a certificate that nobody knows.
async fn backend(tls: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["elsewhere.example".into()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        );
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if !tls {
                    serve(stream).await;
                } else if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream).await;
                }
            });
        }
    });
    address
}

/// An API with node `n`, its Pod `p` and the Service `s` before it, all of which lead to the backend.
async fn api(tls: bool) -> Api {
    let api = Api::new().await;
    connect(&api.tunnels, "n", backend(tls).await);
    running_pod(&api, "p", "n").await;
    api.made("/api/v1/nodes", json!({"metadata": {"name": "n"}}))
        .await;
    let addresses =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    let (code, answer) = api.merge("/api/v1/nodes/n/status", addresses).await;
    assert_eq!(code, 200, "{answer}");
    let mut service = common::service("s");
    service["spec"]["ports"] = json!([{"name": "web", "port": 80, "targetPort": 8080}]);
    api.made(SERVICES, service).await;
    let slice = json!({
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
        "endpoints": [{
            "addresses": ["10.244.0.2"], "nodeName": "n",
            "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"},
        }],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    api.made(slices, slice).await;
    api
}

async fn text(response: Response) -> (u16, HeaderMap, String) {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (head.status.as_u16(), head.headers, text)
}

#[tokio::test]
async fn s11_any_method_is_passed_on_with_path_query_and_body_as_they_are() {
    let api = api(false).await;
    let tail = "/a//b/%2Fc/../d;e=1?x=1&x=2&y=%20&watch=true";
    let objects = [
        "/api/v1/namespaces/default/pods/p:8080",
        "/api/v1/namespaces/default/services/s",
        "/api/v1/namespaces/default/services/s:web",
        "/api/v1/namespaces/default/services/http:s:80",
        "/api/v1/nodes/n:9000",
    ];
    for (object, method) in objects.into_iter().flat_map(|object| {
        ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].map(|method| (object, method))
    }) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{object}/proxy{tail}"))
            .header("content-type", "text/x-own")
            .body(Body::from("what is said"));
        let (code, headers, seen) = text(api.send(request.unwrap()).await).await;
        assert_eq!(code, 418, "{object} {method}: {seen}");
        assert_eq!(headers["x-own"], "kept");
        let seen: Value = serde_json::from_str(&seen).unwrap();
        let wanted = (json!(method), json!(tail), json!("what is said"));
        let got = (&seen["method"], &seen["target"], &seen["body"]);
        assert_eq!(got, (&wanted.0, &wanted.1, &wanted.2), "{object}");
    }
    let request = Request::head(format!("{PODS}/p/proxy/x")).body(Body::empty());
    let (code, _, body) = text(api.send(request.unwrap()).await).await;
    assert_eq!((code, body.as_str()), (418, ""));
    let request = Request::builder()
        .method("TRACE")
        .uri(format!("{PODS}/p/proxy/"));
    let refused = api.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(refused.status(), 405);
    // Without the slash, relative links would lead elsewhere.
    let request = Request::get(format!("{PODS}/p:8080/proxy?x=1")).body(Body::empty());
    let (code, headers, _) = text(api.send(request.unwrap()).await).await;
    assert_eq!(code, 301);
    assert_eq!(headers["location"], format!("{PODS}/p:8080/proxy/?x=1"));
}

#[tokio::test]
async fn s11_a_backend_learns_who_asks_and_gets_no_credentials() {
    let api = api(false).await;
    let mut request = Request::get(format!("{PODS}/p/proxy/x"))
        .header("host", "api.example:6443")
        .header("authorization", "Bearer secret-of-the-caller")
        .header("impersonate-user", "jane")
        .header("impersonate-extra-a", "b")
        .header("x-forwarded-for", "198.51.100.1")
        .header("x-forwarded-for", "198.51.100.2, 198.51.100.3")
        .header("x-forwarded-host", "made-up.example")
        .header("x-forwarded-proto", "made-up")
        .header("x-forwarded-uri", "/made-up")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("x-own", "kept")
        .body(Body::empty())
        .unwrap();
    request
        .extensions_mut()
        .insert(apiserver::http::Source("192.0.2.9".parse().unwrap()));
    let (code, _, seen) = text(api.send(request).await).await;
    assert_eq!(code, 418);
    let seen: Value = serde_json::from_str(&seen).unwrap();
    let mut headers: Vec<(&str, &str)> = seen["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    headers.sort_unstable();
    let wanted = [
        ("host", "api.example:6443"),
        // What came may be made up; who has asked here is the last one.
        (
            "x-forwarded-for",
            "198.51.100.1, 198.51.100.2, 198.51.100.3, 192.0.2.9",
        ),
        ("x-forwarded-host", "api.example:6443"),
        ("x-forwarded-proto", "https"),
        (
            "x-forwarded-uri",
            "/api/v1/namespaces/default/pods/p/proxy/x",
        ),
        ("x-own", "kept"),
    ];
    assert_eq!(headers, wanted);
    // What nobody can vouch for is not passed on as if somebody did.
    let request = Request::get(format!("{PODS}/p/proxy/x"))
        .header("x-forwarded-for", "198.51.100.1")
        .body(Body::empty());
    let (_, _, seen) = text(api.send(request.unwrap()).await).await;
    assert!(!seen.contains("198.51.100.1"), "{seen}");
}

#[tokio::test]
async fn s11_https_is_spoken_with_what_is_asked_for_by_it() {
    let api = api(true).await;
    for object in [
        "/api/v1/namespaces/default/pods/https:p:8443",
        "/api/v1/namespaces/default/pods/https:p:",
        "/api/v1/namespaces/default/services/https:s:web",
        "/api/v1/namespaces/default/services/https:s:80",
        "/api/v1/nodes/https:n:9000",
    ] {
        let path = format!("{object}/proxy/a?b=c");
        let request = Request::post(&path).body(Body::from("said")).unwrap();
        let (code, _, seen) = text(api.send(request).await).await;
        assert_eq!(code, 418, "{object}: {seen}");
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(
            (&seen["target"], &seen["body"]),
            (&json!("/a?b=c"), &json!("said"))
        );
        let plain = path.replace("https:", "http:");
        let request = Request::get(&plain).body(Body::empty()).unwrap();
        let (code, _, words) = text(api.send(request).await).await;
        assert_eq!(code, 503, "{plain}");
        assert!(words.contains("error trying to reach service"), "{words}");
    }
}

/// Sends the head of a request; the head of the answer, and the connection.
async fn asked(at: SocketAddr, path: &str, headers: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap().into());
    }
    (head.to_lowercase(), stream)
}

#[tokio::test]
async fn s11_a_connection_is_upgraded_to_what_the_backend_agrees_to() {
    for (tls, scheme) in [(false, ""), (true, "https:")] {
        let api = api(tls).await;
        let at = api.listen().await;
        for object in ["pods", "services"] {
            let name = if object == "pods" { "p" } else { "s" };
            let object = format!("/api/v1/namespaces/default/{object}/{scheme}{name}:");
            let path = format!("{object}/proxy/switch?a=b");
            let upgrade = "Connection: Upgrade\r\nUpgrade: x-capitals\r\n";
            let (head, mut stream) = asked(at, &path, upgrade).await;
            assert!(head.starts_with("http/1.1 101 "), "{path}: {head}");
            assert!(head.contains("\r\nupgrade: x-capitals\r\n"), "{head}");
            for (sent, wanted) in [("one", b"ONE"), ("two", b"TWO")] {
                stream.write_all(sent.as_bytes()).await.unwrap();
                let mut got = [0; 3];
                stream.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, wanted, "{path}");
            }
            // The end of one side is the end of the other.
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "{path}");

            // A backend that does not want to answers as ever.
            let path = format!("{object}/proxy/no");
            let (head, _) = asked(at, &path, upgrade).await;
            assert!(head.starts_with("http/1.1 418 "), "{path}: {head}");
        }
    }
}

/// An upgrade that a backend refuses leaves no way to it behind: what the client sends next is a request of its own.
#[tokio::test]
async fn cve_2018_1002105_after_a_refused_upgrade_nothing_more_reaches_the_backend() {
    let api = api(false).await;
    let at = api.listen().await;
    let path = format!("{PODS}/p:/proxy/no");
    let upgrade = "Connection: Upgrade\r\nUpgrade: x-capitals\r\n";
    let (head, mut stream) = asked(at, &path, upgrade).await;
    assert!(head.starts_with("http/1.1 418 "), "{head}");
    let next = "GET /secret-of-the-backend HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(next.as_bytes()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    // The backend's own answer first, which tells of the first request only; then the server's.
    let (first, second) = rest.split_once("HTTP/1.1 ").unwrap();
    assert!(
        first.contains("/no") && !first.contains("secret"),
        "{first}"
    );
    assert!(second.starts_with("404 "), "{second}");
}

/// Where a backend sends a client, the server does not go by itself.
#[tokio::test]
async fn cve_2020_8559_a_redirect_is_passed_on_and_not_followed() {
    let api = api(false).await;
    let at = api.listen().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = elsewhere.local_addr().unwrap();
    for upgrade in ["", "Connection: Upgrade\r\nUpgrade: x-capitals\r\n"] {
        let headers = format!("{upgrade}X-Elsewhere: http://{other}/switch\r\n");
        let path = format!("{PODS}/p:/proxy/away");
        let (head, _) = asked(at, &path, &headers).await;
        assert!(head.starts_with("http/1.1 307 "), "{head}");
        assert!(
            head.contains(&format!("\r\nlocation: http://{other}/switch\r\n")),
            "{head}"
        );
    }
    // Whoever had followed would have connected before the answer came.
    let accepted = elsewhere.into_std().unwrap().accept();
    let error = accepted.expect_err("somebody followed");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

/// One frame of a server: its first byte, and what it carries.
async fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.unwrap();
    let length = stream.read_u8().await.unwrap();
    assert!(length < 126, "a short one, not masked: {length}");
    let mut payload = vec![0; length.into()];
    stream.read_exact(&mut payload).await.unwrap();
    (first, payload)
}

#[tokio::test]
async fn s10_logs_come_over_a_websocket_as_binary_messages_without_a_channel() {
    let api = api(false).await;
    let at = api.listen().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (offered, chosen) in [
        ("Sec-WebSocket-Protocol: binary.k8s.io\r\n", true),
        ("Sec-WebSocket-Protocol: other, binary.k8s.io\r\n", true),
        ("", false),
    ] {
        let path = format!("{PODS}/p/log");
        let (head, mut stream) = asked(at, &path, &format!("{upgrade}{offered}")).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        // RFC 6455, section 1.3.
        let accept = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
        assert!(head.contains(accept), "{head}");
        let told = head.contains("\r\nsec-websocket-protocol: binary.k8s.io\r\n");
        assert_eq!(told, chosen, "{head}");
        // A whole binary message, then the end.
        assert_eq!(frame(&mut stream).await, (0x82, LOG.as_bytes().to_vec()));
        assert_eq!(frame(&mut stream).await.0, 0x88, "{offered}");
    }
    // What cannot be given is an ordinary answer.
    let path = format!("{PODS}/p/log?container=x");
    let (head, _) = asked(at, &path, upgrade).await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
}
