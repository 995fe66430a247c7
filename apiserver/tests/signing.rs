//! Requests for client certificates: who may decide on them, and what the cluster's CA makes of an approved one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use control::{Client, Running};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use x509_parser::{pem::parse_x509_pem, prelude::X509Certificate, time::ASN1Time};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const DEADLINE: Duration = Duration::from_secs(30);

/// A request of jane, who wants to be of these groups, and its key in PEM.
fn asked(groups: [&str; 2]) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "jane");
    name.push(DnType::OrganizationName, groups[0]);
    // The same attribute: the library takes one of each name.
    name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), groups[1]);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    (STANDARD.encode(pem), key.serialize_pem())
}

fn request(name: &str, signer: &str, csr: &str, usages: &[&str]) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": csr, "signerName": signer, "usages": usages, "expirationSeconds": 3600},
    })
}

fn decision(kind: &str, at: &str) -> Value {
    json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "r", "lastUpdateTime": at}]}})
}

fn now() -> String {
    ASN1Time::now()
        .to_datetime()
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap()
}

async fn decide(client: &Client, name: &str, decision: Value) -> (u16, Value) {
    let path = format!("{REQUESTS}/{name}/approval");
    client.patch(&path, decision).await
}

/// Reads a request until it is as wanted.
async fn until(client: &Client, name: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let (code, got) = client.get(&format!("{REQUESTS}/{name}")).await;
        if wanted(code, &got) {
            return got;
        }
        assert!(started.elapsed() < DEADLINE, "{code} {got}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_approved_request_becomes_a_certificate_that_names_its_user_and_groups() {
    let server = Running::start().await;
    let admin = server.admin();
    let (csr, key) = asked(["dev", "ops"]);
    let usages = ["digital signature", "key encipherment", "client auth"];
    let (code, made) = admin
        .post(REQUESTS, request("jane", SIGNER, &csr, &usages))
        .await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        decide(&admin, "jane", decision("Approved", &now())).await.0,
        200
    );
    let signed = until(&admin, "jane", |_, csr| {
        csr["status"]["certificate"].is_string()
    })
    .await;
    let pem = STANDARD
        .decode(signed["status"]["certificate"].as_str().unwrap())
        .unwrap();
    let (_, block) = parse_x509_pem(&pem).unwrap();
    let certificate: X509Certificate<'_> = block.parse_x509().unwrap();
    let validity = certificate.validity();
    let lifetime = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(lifetime, 3600 + 300, "an hour was asked for");
    assert!(!certificate.is_ca());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth);

    let pem = String::from_utf8(pem).unwrap();
    let jane = server.anonymous().with_certificate(&pem, &key);
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, review) = jane.post(reviews, json!({})).await;
    assert_eq!(code, 201, "{review}");
    assert_eq!(
        review["status"]["userInfo"],
        json!({"username": "jane", "groups": ["dev", "ops", "system:authenticated"]})
    );
    // What was decided stays so.
    let (code, refused) = decide(&admin, "jane", decision("Denied", &now())).await;
    assert_eq!(code, 422, "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn what_our_signer_does_not_sign_says_why_and_other_signers_requests_are_left_to_them() {
    let server = Running::start().await;
    let admin = server.admin();
    let (csr, _) = asked(["dev", "ops"]);
    for (name, signer, usages) in [
        ("other", "example.com/signer", &["client auth"][..]),
        ("pending", SIGNER, &["client auth"]),
        ("denied", SIGNER, &["client auth"]),
        ("server", SIGNER, &["client auth", "server auth"]),
        ("nothing", SIGNER, &["digital signature"]),
    ] {
        let (code, made) = admin
            .post(REQUESTS, request(name, signer, &csr, usages))
            .await;
        assert_eq!(code, 201, "{made}");
        let decided = match name {
            "pending" => continue,
            "denied" => "Denied",
            _ => "Approved",
        };
        let (code, decided) = decide(&admin, name, decision(decided, &now())).await;
        assert_eq!(code, 200, "{decided}");
    }
    for name in ["server", "nothing"] {
        let failed = until(&admin, name, |_, csr| {
            csr["status"]["conditions"][1]["type"] == "Failed"
        })
        .await;
        let failed = &failed["status"]["conditions"][1];
        assert_eq!(failed["reason"], "SignerValidationFailure");
        let message = failed["message"].as_str().unwrap();
        assert!(
            message.contains("\"client auth\" must be there"),
            "{message}"
        );
    }
    for name in ["other", "pending", "denied"] {
        let (_, csr) = admin.get(&format!("{REQUESTS}/{name}")).await;
        assert!(csr["status"]["certificate"].is_null(), "{csr}");
    }
    // One that was decided an hour ago has served its time.
    let (_, made) = admin
        .post(REQUESTS, request("old", SIGNER, &csr, &["client auth"]))
        .await;
    assert_eq!(made["metadata"]["name"], "old");
    let _ = decide(&admin, "old", decision("Denied", "2026-01-01T00:00:00Z")).await;
    let _ = until(&admin, "old", |code, _| code == 404).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_becomes_an_administrator_by_asking() {
    let server = Running::start().await;
    let admin = server.admin();
    let (csr, _) = asked(["dev", "system:masters"]);
    let root = request("root", SIGNER, &csr, &["client auth"]);
    let (code, refused) = admin.post(REQUESTS, root).await;
    assert_eq!(code, 403, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("system:masters"), "{message}");
    // Another signer's certificates are nothing to us.
    let other = request("other", "example.com/signer", &csr, &["client auth"]);
    assert_eq!(admin.post(REQUESTS, other).await.0, 201);
    server.stop().await;
}

#[tokio::test]
async fn who_decides_must_have_a_say_with_the_signer() {
    let server = Running::start().await;
    let admin = server.admin();
    let (csr, _) = asked(["dev", "ops"]);
    let made = admin
        .post(REQUESTS, request("jane", SIGNER, &csr, &["client auth"]))
        .await;
    assert_eq!(made.0, 201);
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let resources = [
        "certificatesigningrequests/approval",
        "certificatesigningrequests/status",
    ];
    let writes = json!({"verbs": ["update", "patch"], "apiGroups": ["certificates.k8s.io"], "resources": resources});
    let approves = json!({
        "verbs": ["approve"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
        "resourceNames": ["kubernetes.io/*"],
    });
    for (user, rules) in [
        ("writer", json!([writes])),
        ("approver", json!([writes, approves])),
    ] {
        let role = json!({"metadata": {"name": user}, "rules": rules});
        assert_eq!(admin.post(roles, role).await.0, 201);
        let binding = json!({
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        assert_eq!(admin.post(bindings, binding).await.0, 201);
    }
    let by = |user: &str| {
        server
            .admin()
            .with_header("impersonate-user", user.to_owned())
    };
    // The roles count a moment after they are written: then what is refused is refused for the signer.
    let started = Instant::now();
    let refused = loop {
        let (code, refused) = decide(&by("writer"), "jane", decision("Approved", &now())).await;
        assert_eq!(code, 403, "{refused}");
        let message = refused["message"].as_str().unwrap().to_owned();
        if message.contains("signerName") {
            break message;
        }
        assert!(started.elapsed() < DEADLINE, "{message}");
    };
    assert!(
        refused.contains(&format!("approve requests with signerName \"{SIGNER}\"")),
        "{refused}"
    );
    let status = format!("{REQUESTS}/jane/status");
    let forged = json!({"status": {"certificate": "eA=="}});
    let (code, refused) = by("approver").patch(&status, forged).await;
    assert_eq!(code, 403, "approving is not signing: {refused}");
    let (code, approved) = decide(&by("approver"), "jane", decision("Approved", &now())).await;
    assert_eq!(code, 200, "{approved}");
    server.stop().await;
}
