//! Client certificates: whom they name, and that none but a good one names anybody (U1).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use std::{sync::Arc, time::Duration};

use control::{
    Client, Running,
    join::{SECRET, add_token, join_by},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Each version of TLS alone.
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

type Ca = Issuer<'static, KeyPair>;

/// The cluster's own CA.
fn cluster_ca(server: &Running) -> Ca {
    let key = KeyPair::from_pem(&server.tls_file("ca.key")).unwrap();
    Issuer::from_ca_cert_pem(&server.ca_pem, key).unwrap()
}

/// Another one, in PEM too, of this name.
fn other_ca(name: DistinguishedName) -> (Ca, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::from_ca_cert_pem(&pem, key).unwrap(), pem)
}

fn named(pairs: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (part, value) in pairs {
        name.push(part.clone(), *value);
    }
    name
}

/// What the cluster's own is called.
fn ca_name(server: &Running) -> String {
    let der = CertificateDer::from_pem_slice(server.ca_pem.as_bytes()).unwrap();
    let (_, ca) = X509Certificate::from_der(&der).unwrap();
    let mut names = ca.subject().iter_common_name();
    names.next().unwrap().as_str().unwrap().to_owned()
}

/// A certificate that would be an administrator's, if it were good, and its key.
fn admin_by(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&[
        (DnType::CommonName, "mallory"),
        (DnType::OrganizationName, "system:masters"),
    ]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let certificate = params.signed_by(&key, ca).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn showing(server: &Running, (certificate, key): &(String, String)) -> Client {
    server.anonymous().with_certificate(certificate, key)
}

/// Code, and as whom the server knows the client.
async fn known_as(client: &Client) -> (u16, Value) {
    let (code, answer) = client.post(REVIEWS, json!({})).await;
    (code, answer["status"]["userInfo"]["username"].clone())
}

#[tokio::test]
async fn u1_a_certificate_of_the_cluster_names_its_user_and_none_names_nobody() {
    let server = Running::start().await;
    let ca = cluster_ca(&server);
    let mallory = admin_by(&ca, |_| {});
    for versions in VERSIONS {
        let client = showing(&server, &mallory).with_versions(versions);
        assert_eq!(known_as(&client).await, (201, json!("mallory")));
        let nobody = server.anonymous().with_versions(versions);
        assert_eq!(nobody.get("/version").await.0, 200);
        let (code, status) = nobody.get("/api/v1/nodes").await;
        assert_eq!(code, 403);
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("\"system:anonymous\""), "{message}");
    }
    // A certificate without a usage is for every use; one without a name is as good as none.
    let any = admin_by(&ca, |params| params.extended_key_usages.clear());
    let any = showing(&server, &any);
    assert_eq!(known_as(&any).await, (201, json!("mallory")));
    // Of two names the last one counts, as Go reads them.
    let two = admin_by(&ca, |params| {
        let custom = DnType::CustomDnType(vec![2, 5, 4, 3]);
        params.distinguished_name.push(custom, "jane");
    });
    assert_eq!(
        known_as(&showing(&server, &two)).await,
        (201, json!("jane"))
    );
    let nameless = admin_by(&ca, |params| {
        params.distinguished_name = named(&[(DnType::OrganizationName, "system:masters")]);
    });
    assert_eq!(showing(&server, &nameless).get("/version").await.0, 200);
    let (code, status) = showing(&server, &nameless).get("/api/v1/nodes").await;
    assert_eq!(code, 403, "{status}");
    server.stop().await;
}

#[tokio::test]
async fn u1_a_certificate_that_is_not_good_is_a_401_and_names_nobody() {
    let server = Running::start().await;
    let ca = cluster_ca(&server);
    let now = OffsetDateTime::now_utc();
    let (day, hour) = (Duration::from_secs(86_400), Duration::from_secs(3600));
    let (other, _) = other_ca(named(&[(DnType::CommonName, "another cluster")]));
    let (namesake, namesake_pem) = other_ca(named(&[(DnType::CommonName, &ca_name(&server))]));
    let with_chain = |(own, key): (String, String), more: &str| (format!("{own}{more}"), key);
    let own_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut selfmade = CertificateParams::default();
    selfmade.distinguished_name = named(&[
        (DnType::CommonName, "mallory"),
        (DnType::OrganizationName, "system:masters"),
    ]);
    let selfmade = selfmade.self_signed(&own_key).unwrap().pem();
    let node = admin_by(&ca, |_| {});
    let node_key = KeyPair::from_pem(&node.1).unwrap();
    // A client's certificate signs no other.
    let mut client = CertificateParams::default();
    client.distinguished_name = named(&[
        (DnType::CommonName, "mallory"),
        (DnType::OrganizationName, "system:masters"),
    ]);
    let below_client = Issuer::new(client, node_key);
    let cases = [
        ("of another CA", admin_by(&other, |_| {})),
        ("of a CA of the same name", admin_by(&namesake, |_| {})),
        (
            "with the CA of the same name",
            with_chain(admin_by(&namesake, |_| {}), &namesake_pem),
        ),
        (
            "with our CA's certificate behind it",
            with_chain(admin_by(&other, |_| {}), &server.ca_pem),
        ),
        ("signed by itself", (selfmade, own_key.serialize_pem())),
        (
            "expired",
            admin_by(&ca, |params| {
                params.not_before = now - 2 * day;
                params.not_after = now - hour;
            }),
        ),
        (
            "of tomorrow",
            admin_by(&ca, |params| params.not_before = now + day),
        ),
        (
            "for servers",
            admin_by(&ca, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
        (
            "the server's own",
            (server.tls_file("server.crt"), server.tls_file("server.key")),
        ),
        (
            "the CA's own",
            (server.ca_pem.clone(), server.tls_file("ca.key")),
        ),
        (
            "signed by a client",
            with_chain(admin_by(&below_client, |_| {}), &node.0),
        ),
    ];
    for (what, shown) in cases {
        for versions in VERSIONS {
            let client = showing(&server, &shown).with_versions(versions);
            for path in ["/api/v1/nodes", "/livez", "/minik/v1/config"] {
                let (code, status) = client.get(path).await;
                assert_eq!(
                    (code, &status["reason"]),
                    (401, &json!("Unauthorized")),
                    "{what}: {path}"
                );
            }
            assert_eq!(known_as(&client).await.0, 401, "{what}");
            // Nor does it lend a name to who wants to act as somebody else.
            let lending = client.with_header("impersonate-user", "minik-admin".into());
            assert_eq!(lending.get("/version").await.0, 401, "{what}");
        }
    }
    server.stop().await;
}

/// As upstream: certificates first, then tokens; one that is good is enough.
#[tokio::test]
async fn u1_a_good_certificate_counts_before_a_token_and_a_good_token_in_spite_of_a_bad_certificate()
 {
    let server = Running::start().await;
    let made = server
        .admin()
        .post(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "robot"}}),
        )
        .await;
    assert_eq!(made.0, 201);
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let (_, answer) = server.admin().post(path, json!({})).await;
    let good_token = answer["status"]["token"].as_str().unwrap();
    let robot = json!("system:serviceaccount:default:robot");
    let good = admin_by(&cluster_ca(&server), |_| {});
    let bad = admin_by(&other_ca(named(&[(DnType::CommonName, "x")])).0, |_| {});
    let cases = [
        (&good, Some(good_token), 201, json!("mallory")),
        (&good, Some("x"), 201, json!("mallory")),
        (&bad, Some(good_token), 201, robot),
        (&bad, Some("x"), 401, Value::Null),
        (&bad, None, 401, Value::Null),
    ];
    for (certificate, token, code, name) in cases {
        let mut client = showing(&server, certificate);
        if let Some(token) = token {
            client = client.with_header("authorization", format!("Bearer {token}"));
        }
        assert_eq!(known_as(&client).await, (code, name), "{token:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn u1_a_node_joins_by_its_token_whatever_certificate_it_shows() {
    let server = Running::start().await;
    add_token(&server, "good00", "2099-01-01T00:00:00Z").await;
    let bad = admin_by(&other_ca(named(&[(DnType::CommonName, "x")])).0, |_| {});
    let client = showing(&server, &bad);
    let (code, answer) = join_by(client.clone(), "good00", SECRET, "n1").await;
    assert_eq!(code, 200, "{answer}");
    let (code, _) = join_by(client, "good00", &SECRET.replace('a', "b"), "n2").await;
    assert_eq!(code, 401);
    server.stop().await;
}

/// Shows a certificate and signs with a key that is not its own.
#[derive(Debug)]
struct Stolen(Arc<CertifiedKey>);

impl ResolvesClientCert for Stolen {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn u1_a_certificate_without_its_key_does_not_get_through_the_handshake() {
    let server = Running::start().await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = server.tls_file("admin.crt");
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(server.ca_pem.as_bytes());
    roots.add(ca.unwrap()).unwrap();
    let own = server.tls_file("admin.key");
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    for (key, is_its_own) in [(own, true), (other.serialize_pem(), false)] {
        for version in [&TLS12, &TLS13] {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let key = provider.key_provider.load_private_key(key).unwrap();
            let stolen = CertifiedKey::new(vec![certificate.clone()], key);
            let config = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_client_cert_resolver(Arc::new(Stolen(Arc::new(stolen))));
            let answer = ask(&Arc::new(config).into(), &server, "/api/v1/nodes").await;
            assert_eq!(answer.is_ok(), is_its_own, "{version:?}: {answer:?}");
        }
    }
    server.stop().await;
}

/// The code of an answer and what sort of handshake there was.
async fn ask(
    connector: &TlsConnector,
    server: &Running,
    path: &str,
) -> std::io::Result<(String, Option<HandshakeKind>)> {
    let stream = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.get(9..12).unwrap_or_default().to_owned();
    Ok((code, stream.get_ref().1.handshake_kind()))
}

/// A resumed session skips the certificates on the wire: what they are worth is asked again all the same.
#[tokio::test]
async fn u1_a_resumed_session_is_worth_what_its_certificate_is() {
    let server = Running::start().await;
    let bad = admin_by(&other_ca(named(&[(DnType::CommonName, "x")])).0, |_| {});
    let good = admin_by(&cluster_ca(&server), |_| {});
    for (shown, code) in [(bad, "401"), (good, "200")] {
        for versions in VERSIONS {
            let client = showing(&server, &shown).with_versions(versions);
            let connector = client.with_alpn(&[]).tls();
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let (got, kind) = ask(&connector, &server, "/api/v1/nodes").await.unwrap();
                assert_eq!(got, code, "{versions:?}");
                kinds.extend(kind);
            }
            assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
        }
    }
    server.stop().await;
}
