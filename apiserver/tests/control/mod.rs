//! A server in this process, and clients that speak to it over TLS.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod join;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use apiserver::{
    registry::Registry,
    server::{Config, Server, ServerError},
};
use axum::body::Body;
use http::{Request, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Asks until there is an answer; panics after twenty seconds without one.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(20);
    let answer = tokio::time::timeout(patience, asking).await;
    answer.unwrap_or_else(|_| panic!("{what}: not within {patience:?}"))
}

/// A configuration on a free port of loopback, with an address other hosts could use.
pub(crate) fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        bind: "127.0.0.1:0".parse().unwrap(),
        advertise_address: Some("192.0.2.7".parse().unwrap()),
        ..Config::default()
    }
}

/// A server that serves.
pub(crate) struct Running {
    pub(crate) registry: Registry,
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    dir: TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::with(tempfile::tempdir().unwrap(), |_| {}).await
    }

    pub(crate) async fn with(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(dir.path());
        change(&mut config);
        let server = Server::bind(config).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = Self {
            registry: server.registry().clone(),
            address: server.address(),
            ca_pem: server.pki().ca_pem().to_owned(),
            dir,
            stop,
            task: tokio::spawn(server.serve(async {
                let _ = stopped.await;
            })),
        };
        // The socket is open from `bind` on; what is there is there once it answers.
        assert_eq!(running.anonymous().get("/readyz").await.0, 200);
        running
    }

    /// Stops cleanly and hands the data directory back.
    pub(crate) async fn stop(self) -> TempDir {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
        self.dir
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    pub(crate) fn anonymous(&self) -> Client {
        Client {
            address: self.address,
            ca_pem: self.ca_pem.clone(),
            certificate: None,
            headers: Vec::new(),
            alpn: vec!["h2".into()],
            versions: rustls::DEFAULT_VERSIONS,
        }
    }

    pub(crate) fn admin(&self) -> Client {
        self.anonymous()
            .with_certificate(&self.tls_file("admin.crt"), &self.tls_file("admin.key"))
    }

    /// One of the server's own keys and certificates.
    pub(crate) fn tls_file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("tls").join(name)).unwrap()
    }
}

/// A client that makes one connection per request.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    ca_pem: String,
    certificate: Option<(String, String)>,
    headers: Vec<(&'static str, String)>,
    alpn: Vec<String>,
    versions: &'static [&'static SupportedProtocolVersion],
}

impl Client {
    /// Shows a certificate, or a chain that begins with it.
    pub(crate) fn with_certificate(mut self, certificate: &str, key: &str) -> Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn with_alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|&p| p.to_owned()).collect();
        self
    }

    pub(crate) fn with_versions(
        mut self,
        versions: &'static [&'static SupportedProtocolVersion],
    ) -> Self {
        self.versions = versions;
        self
    }

    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        parse(self.send("GET", path, None).await)
    }

    pub(crate) async fn get_text(&self, path: &str) -> (u16, String) {
        self.send("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        parse(
            self.send("POST", path, Some(("application/json", body)))
                .await,
        )
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        parse(
            self.send("PUT", path, Some(("application/json", body)))
                .await,
        )
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        parse(
            self.send("PATCH", path, Some(("application/merge-patch+json", body)))
                .await,
        )
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        parse(self.send("DELETE", path, None).await)
    }

    pub(crate) fn tls(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                    .unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|p| p.clone().into_bytes()).collect();
        Arc::new(config).into()
    }

    /// A connection to a server that must prove to be called this.
    pub(crate) async fn connect(&self, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.tls().connect(name, stream).await
    }

    /// An HTTP/2 connection that lasts as long as what is returned.
    pub(crate) async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        let stream = TokioIo::new(self.connect("localhost").await.unwrap());
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (sender, connection) = shaken.await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Code and headers of an answer.
    pub(crate) async fn head(&self, path: &str) -> (u16, http::HeaderMap) {
        let response = self.exchange("GET", path, None).await.unwrap();
        (response.status().as_u16(), response.headers().clone())
    }

    async fn send(&self, method: &str, path: &str, body: Option<(&str, Value)>) -> (u16, String) {
        let Some(response) = self.exchange(method, path, body).await else {
            return (0, String::new());
        };
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// One request and its answer; `None` when the connection broke.
    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Value)>,
    ) -> Option<http::Response<hyper::body::Incoming>> {
        let stream = TokioIo::new(self.connect("localhost").await.unwrap());
        let mut request = Request::builder().method(method);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let body = match body {
            None => Body::empty(),
            Some((kind, value)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                Body::from(value.to_string())
            }
        };
        if self.alpn == ["h2"] {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = request
                .uri(format!("https://localhost{path}"))
                .body(body)
                .unwrap();
            sender.send_request(request).await.ok()
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = request
                .uri(path)
                .header("host", "localhost")
                .body(body)
                .unwrap();
            sender.send_request(request).await.ok()
        }
    }
}

fn parse((code, text): (u16, String)) -> (u16, Value) {
    (code, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// A certificate signing request and its key, in PEM.
pub(crate) fn csr() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::default();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    (pem, key.serialize_pem())
}
