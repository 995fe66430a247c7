//! Joining against a small TLS server on loopback: what is sent, to whom, and what is not.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use agent::join::{JoinError, join};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const SECRET: &str = "0123456789abcdefghijklmnopqrstuv";

struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("CA");
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn token(&self) -> String {
        let hash: String = Sha256::digest(&self.certificate)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("minik1.{hash}.abc123.{SECRET}")
    }
}

/// What the server has seen: paths, and every Authorization header.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<(Vec<String>, Vec<String>)>>);

impl Seen {
    fn paths(&self) -> Vec<String> {
        self.0.lock().expect("lock").0.clone()
    }

    fn secrets(&self) -> Vec<String> {
        self.0.lock().expect("lock").1.clone()
    }
}

/// What a server does besides answering.
#[derive(Default)]
struct Manners {
    /// How many connections it closes at once, as one does that is just being stopped.
    broken: AtomicUsize,
    /// Whose client certificates it accepts; without one it asks for none.
    clients_of: Option<Arc<Authority>>,
}

/// A server with a certificate of `own`, which offers `shown` as its CA.
async fn serve(own: Arc<Authority>, shown: Arc<Authority>) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    serve_on(listener, own, shown, Arc::default())
}

fn serve_on(
    listener: TcpListener,
    own: Arc<Authority>,
    shown: Arc<Authority>,
    manners: Arc<Manners>,
) -> (SocketAddr, Seen) {
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
    let certificate = params.signed_by(&key, &own.issuer).expect("certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(client_verifier(&manners))
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = listener.local_addr().expect("address");
    let seen = Seen::default();
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let closes = |left: usize| left.checked_sub(1);
            if manners.broken.fetch_update(SeqCst, SeqCst, closes).is_ok() {
                continue;
            }
            let (acceptor, shown, log) = (acceptor.clone(), Arc::clone(&shown), log.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let service =
                    service_fn(move |request| answer(request, Arc::clone(&shown), log.clone()));
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    });
    (address, seen)
}

fn client_verifier(manners: &Manners) -> Arc<dyn ClientCertVerifier> {
    let Some(authority) = &manners.clients_of else {
        return WebPkiClientVerifier::no_client_auth();
    };
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .expect("a verifier")
}

async fn answer(
    request: Request<Incoming>,
    shown: Arc<Authority>,
    seen: Seen,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    {
        let mut seen = seen.0.lock().expect("lock");
        seen.0.push(path.clone());
        if let Some(value) = request.headers().get(header::AUTHORIZATION) {
            seen.1.push(value.to_str().expect("text").to_owned());
        }
    }
    let cluster = r#""clusterDomain":"cluster.local","clusterDNS":"10.96.0.10","serviceCIDRs":["10.96.0.0/16"],"podCIDRs":["10.244.0.0/16"]"#;
    let (code, body) = match path.as_str() {
        "/minik/v1/ca" => (200, shown.pem.clone()),
        "/minik/v1/config" => (200, format!("{{{cluster}}}")),
        "/minik/v1/join" => {
            let body = request
                .into_body()
                .collect()
                .await
                .expect("body")
                .to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            if body["node"] == "refused" {
                let text = r#"{"kind":"Status","code":401,"reason":"Unauthorized","message":"the join token has expired"}"#;
                (401, text.to_owned())
            } else {
                let csr =
                    CertificateSigningRequestParams::from_pem(body["csr"].as_str().expect("csr"))
                        .expect("csr");
                let certificate = csr.signed_by(&shown.issuer).expect("signed").pem();
                let pems =
                    serde_json::json!({"certificate": certificate, "ca": shown.pem}).to_string();
                (
                    200,
                    format!("{},{cluster}}}", pems.strip_suffix('}').expect("object")),
                )
            }
        }
        _ => (404, String::new()),
    };
    Ok(Response::builder()
        .status(code)
        .body(Full::from(body))
        .expect("response"))
}

#[tokio::test]
async fn the_token_of_another_cluster_is_never_sent() {
    let (ours, theirs) = (Authority::new(), Arc::new(Authority::new()));
    let (address, seen) = serve(Arc::clone(&theirs), theirs).await;
    let dir = tempfile::tempdir().expect("tempdir");
    let error = join(
        &format!("https://{address}"),
        Some(&ours.token()),
        "n1",
        dir.path(),
    )
    .await
    .expect_err("refused");
    assert!(matches!(error, JoinError::WrongCa { .. }), "{error}");
    assert!(
        error.to_string().contains("The token was not sent"),
        "{error}"
    );
    assert_eq!(seen.paths(), ["/minik/v1/ca"]);
    assert_eq!(seen.secrets(), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_shows_the_right_ca_without_its_certificate_gets_nothing() {
    let (real, thief) = (Arc::new(Authority::new()), Arc::new(Authority::new()));
    let (address, seen) = serve(thief, Arc::clone(&real)).await;
    let dir = tempfile::tempdir().expect("tempdir");
    let error = join(
        &format!("https://{address}"),
        Some(&real.token()),
        "n1",
        dir.path(),
    )
    .await
    .expect_err("refused");
    assert!(error.to_string().contains("TLS with"), "{error}");
    assert_eq!(seen.paths(), ["/minik/v1/ca"]);
    assert_eq!(seen.secrets(), Vec::<String>::new());
    assert!(!dir.path().join("node.crt").exists());
}

#[tokio::test]
async fn a_node_joins_with_its_token_once_and_comes_back_with_its_certificate() {
    let authority = Arc::new(Authority::new());
    let (address, seen) = serve(Arc::clone(&authority), Arc::clone(&authority)).await;
    let dir = tempfile::tempdir().expect("tempdir");
    let server = format!("https://{address}");
    let (_, cluster) = join(&server, Some(&authority.token()), "n1", dir.path())
        .await
        .expect("joined");
    assert_eq!(cluster.cluster_dns.to_string(), "10.96.0.10");
    assert_eq!(seen.paths(), ["/minik/v1/ca", "/minik/v1/join"]);
    assert_eq!(seen.secrets(), [format!("Bearer abc123.{SECRET}")]);
    let renamed = join(&server, Some(&authority.token()), "n2", dir.path())
        .await
        .expect_err("the certificate is that of n1");
    let message = renamed.to_string();
    assert!(
        message.starts_with("--node-name \"n2\"") && message.contains("joined as \"n1\""),
        "{message}"
    );
    join(&server, None, "n1", dir.path())
        .await
        .expect("joined again without a token");
    assert_eq!(seen.paths()[2..], ["/minik/v1/config"]);
    assert_eq!(seen.secrets().len(), 1);
}

#[tokio::test]
async fn a_handshake_that_breaks_off_does_not_use_the_token() {
    let authority = Arc::new(Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (own, manners) = (Arc::clone(&authority), Arc::new(Manners::default()));
    let (address, seen) = serve_on(listener, own, Arc::clone(&authority), Arc::clone(&manners));
    let dir = tempfile::tempdir().expect("tempdir");
    let (server, token) = (format!("https://{address}"), authority.token());
    let joined = join(&server, Some(&token), "n1", dir.path()).await;
    joined.expect("joined");
    manners.broken.store(1, SeqCst);
    let error = join(&server, Some(&token), "n1", dir.path())
        .await
        .expect_err("the connection broke");
    assert!(error.is_retryable(), "{error}");
    let joined = join(&server, Some(&token), "n1", dir.path()).await;
    joined.expect("back with the certificate");
    assert_eq!(seen.paths()[2..], ["/minik/v1/config"]);
}

#[tokio::test]
async fn a_certificate_that_the_server_does_not_accept_is_replaced_with_the_token() {
    let (authority, other) = (Arc::new(Authority::new()), Arc::new(Authority::new()));
    let dir = tempfile::tempdir().expect("tempdir");
    let token = authority.token();
    let (address, _) = serve(Arc::clone(&authority), Arc::clone(&authority)).await;
    let server = format!("https://{address}");
    let joined = join(&server, Some(&token), "n1", dir.path()).await;
    joined.expect("joined");

    // The same certificate, to a server that takes those of another authority only: as if it had run out.
    let manners = Manners {
        clients_of: Some(other),
        ..Manners::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (address, seen) = serve_on(
        listener,
        Arc::clone(&authority),
        authority,
        Arc::new(manners),
    );
    let server = format!("https://{address}");
    std::fs::write(dir.path().join("server"), &server).expect("write");
    let error = join(&server, None, "n1", dir.path()).await;
    assert!(error.is_err(), "without a token there is no way in");
    let joined = join(&server, Some(&token), "n1", dir.path()).await;
    joined.expect("joined anew");
    assert_eq!(seen.paths(), ["/minik/v1/ca", "/minik/v1/join"]);
}

#[tokio::test]
async fn a_key_that_is_not_the_certificates_is_replaced_with_the_token() {
    let authority = Arc::new(Authority::new());
    let (address, _) = serve(Arc::clone(&authority), Arc::clone(&authority)).await;
    let dir = tempfile::tempdir().expect("tempdir");
    let (server, token) = (format!("https://{address}"), authority.token());
    let joined = join(&server, Some(&token), "n1", dir.path()).await;
    joined.expect("joined");
    let key = KeyPair::generate().expect("key").serialize_pem();
    std::fs::write(dir.path().join("node.key"), key).expect("write");
    let joined = join(&server, Some(&token), "n1", dir.path()).await;
    joined.expect("joined anew");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words_and_a_missing_token_by_its_flag() {
    let authority = Arc::new(Authority::new());
    let (address, _) = serve(Arc::clone(&authority), Arc::clone(&authority)).await;
    let dir = tempfile::tempdir().expect("tempdir");
    let server = format!("https://{address}");
    let error = join(&server, Some(&authority.token()), "refused", dir.path())
        .await
        .expect_err("refused");
    assert!(!error.is_retryable());
    assert!(
        error.to_string().contains("the join token has expired"),
        "{error}"
    );
    let error = join(&server, None, "n1", dir.path())
        .await
        .expect_err("no token");
    assert!(error.to_string().contains("--token"), "{error}");
    let error = join(&server, Some("minik1.x"), "n1", dir.path())
        .await
        .expect_err("bad token");
    assert!(error.to_string().starts_with("--token:"), "{error}");
}
