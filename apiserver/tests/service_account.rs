//! Tokens of ServiceAccounts: asked for, shown, judged, over TLS and by the real kubectl.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use api::{core::ServiceAccount, meta::ObjectMeta};
use apiserver::{
    auth::service_account::{
        Tokens,
        claims::{Bound, Claims, Reference},
        key::{Keys, SigningKey},
    },
    registry::{Registry, WriteOptions, kinds},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use control::{Client, Running, eventually};
use jiff::Timestamp;
use serde_json::{Value, json};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const DEFAULT: &str = "/api/v1/namespaces/default";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A server with the ServiceAccount `robot`, which may read Pods.
async fn server() -> Running {
    let server = Running::start().await;
    let admin = server.admin();
    let robot = json!({"metadata": {"name": "robot"}});
    let made = admin
        .post(&format!("{DEFAULT}/serviceaccounts"), robot)
        .await;
    assert_eq!(made.0, 201, "{}", made.1);
    let binding = json!({
        "metadata": {"name": "robot"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let made = admin.post(bindings, binding).await;
    assert_eq!(made.0, 201, "{}", made.1);
    server
}

async fn request(server: &Running, spec: Value) -> (u16, Value) {
    let path = format!("{DEFAULT}/serviceaccounts/robot/token");
    server.admin().post(&path, json!({"spec": spec})).await
}

/// A token that must be given.
async fn token(server: &Running, spec: Value) -> String {
    let (code, answer) = request(server, spec).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"]["token"].as_str().unwrap().to_owned()
}

fn bearing(server: &Running, token: &str) -> Client {
    let value = format!("Bearer {token}");
    server.anonymous().with_header("authorization", value)
}

fn claims_of(token: &str) -> Value {
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

async fn review(server: &Running, token: &str, audiences: Value) -> Value {
    let body = json!({"spec": {"token": token, "audiences": audiences}});
    let (code, answer) = server.admin().post(REVIEWS, body).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"].clone()
}

async fn made(server: &Running, plural: &str, body: Value) -> String {
    let (code, made) = server
        .admin()
        .post(&format!("{DEFAULT}/{plural}"), body)
        .await;
    assert_eq!(code, 201, "{made}");
    made["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn pod(account: &str) -> Value {
    json!({
        "metadata": {"name": "p"},
        "spec": {"serviceAccountName": account, "containers": [{"name": "c", "image": "minik.dev/echo:1"}]},
    })
}

#[tokio::test]
async fn u4_a_token_is_asked_for_and_says_what_u3_wants() {
    let server = server().await;
    let uid = made(&server, "pods", pod("robot")).await;
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid});
    let (code, answer) = request(&server, json!({"boundObjectRef": bound})).await;
    assert_eq!((code, &answer["kind"]), (201, &json!("TokenRequest")));
    assert_eq!(answer["metadata"]["name"], "robot");
    let claims = claims_of(answer["status"]["token"].as_str().unwrap());
    let number = |name: &str| claims[name].as_i64().unwrap();
    assert_eq!(number("exp") - number("iat"), 3600);
    assert_eq!(number("nbf"), number("iat"));
    let ends = Timestamp::from_second(number("exp")).unwrap().to_string();
    assert_eq!(answer["status"]["expirationTimestamp"], ends);
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["aud"], json!([ISSUER]));
    assert_eq!(claims["sub"], "system:serviceaccount:default:robot");
    assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
    let own = &claims["kubernetes.io"];
    assert_eq!(own["namespace"], "default");
    assert_eq!(own["serviceaccount"]["name"], "robot");
    assert_eq!(own["pod"], json!({"name": "p", "uid": uid}));
    let header = answer["status"]["token"]
        .as_str()
        .unwrap()
        .split('.')
        .next();
    let header = URL_SAFE_NO_PAD.decode(header.unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(header["alg"], "ES256");

    let token = token(
        &server,
        json!({"audiences": ["vault"], "expirationSeconds": 600}),
    )
    .await;
    let claims = claims_of(&token);
    assert_eq!(claims["aud"], json!(["vault"]));
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        600
    );
    server.stop().await;
}

#[tokio::test]
async fn u4_what_cannot_be_asked_for_is_refused_in_words() {
    let server = server().await;
    made(&server, "pods", pod("default")).await;
    made(&server, "secrets", json!({"metadata": {"name": "s"}})).await;
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
    for (spec, wanted, words) in [
        (
            json!({"expirationSeconds": 599}),
            422,
            "less than 10 minutes",
        ),
        (
            json!({"expirationSeconds": 4_294_967_297_u64}),
            422,
            "larger than 2^32",
        ),
        (bound("Pod", "p", ""), 400, "different serviceaccount name"),
        (bound("Pod", "q", ""), 404, "pods \"q\" not found"),
        (
            bound("Secret", "s", "other"),
            409,
            "does not match the UID in record",
        ),
        (
            bound("ConfigMap", "c", ""),
            400,
            "cannot bind token for object of type",
        ),
    ] {
        let (code, answer) = request(&server, spec.clone()).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            code == wanted && message.contains(words),
            "{spec}: {answer}"
        );
    }
    let path = format!("{DEFAULT}/serviceaccounts/nobody/token");
    assert_eq!(server.admin().post(&path, json!({})).await.0, 404);
    let path = format!("{DEFAULT}/serviceaccounts/robot/token");
    assert_eq!(server.admin().get(&path).await.0, 405);
    let other = json!({"metadata": {"name": "other"}});
    assert_eq!(server.admin().post(&path, other).await.0, 400);
    server.stop().await;
}

#[tokio::test]
async fn u1_u3_a_token_is_its_account_and_roles_decide() {
    let server = server().await;
    let robot = bearing(&server, &token(&server, json!({})).await);
    let pods = format!("{DEFAULT}/pods");
    eventually("the binding holds", async || {
        (robot.get(&pods).await.0 == 200).then_some(())
    })
    .await;
    let (code, status) = robot.get(&format!("{DEFAULT}/secrets")).await;
    assert_eq!(code, 403);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("\"system:serviceaccount:default:robot\""),
        "{message}"
    );
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (_, answer) = robot.post(path, json!({})).await;
    let user = &answer["status"]["userInfo"];
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ];
    assert_eq!(user["groups"], json!(groups));
    assert_eq!(user["uid"].as_str().unwrap().len(), 36);
    let id = user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str();
    assert!(id.unwrap().starts_with("JTI="), "{user}");
    // A certificate counts before a token.
    let both = server
        .admin()
        .with_header("authorization", "Bearer x".into());
    assert_eq!(both.get(&pods).await.0, 200);
    for bad in ["Bearer x", "Bearer ", "Bearer", "Basic YTpi"] {
        let client = server.anonymous().with_header("authorization", bad.into());
        assert_eq!(client.get("/livez").await.0, 401, "{bad}");
    }
    server.stop().await;
}

#[tokio::test]
async fn u3_a_token_ends_with_what_it_is_bound_to() {
    let server = server().await;
    let uid = made(&server, "secrets", json!({"metadata": {"name": "s"}})).await;
    let bound =
        json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s", "uid": uid}});
    let of_secret = token(&server, bound).await;
    made(&server, "pods", pod("robot")).await;
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
    let of_pod = token(&server, bound).await;
    let of_account = token(&server, json!({})).await;
    let code = async |token: &str| bearing(&server, token).get("/livez").await.0;
    for token in [&of_secret, &of_pod, &of_account] {
        assert_eq!(code(token).await, 200);
    }
    let admin = server.admin();
    assert_eq!(admin.delete(&format!("{DEFAULT}/pods/p")).await.0, 200);
    assert_eq!(admin.delete(&format!("{DEFAULT}/secrets/s")).await.0, 200);
    assert_eq!((code(&of_pod).await, code(&of_secret).await), (401, 401));
    // Others of the same name are not the same.
    made(&server, "pods", pod("robot")).await;
    made(&server, "secrets", json!({"metadata": {"name": "s"}})).await;
    assert_eq!((code(&of_pod).await, code(&of_secret).await), (401, 401));
    assert_eq!(code(&of_account).await, 200);
    let account = format!("{DEFAULT}/serviceaccounts/robot");
    assert_eq!(admin.delete(&account).await.0, 200);
    assert_eq!(code(&of_account).await, 401);
    made(
        &server,
        "serviceaccounts",
        json!({"metadata": {"name": "robot"}}),
    )
    .await;
    assert_eq!(code(&of_account).await, 401);
    server.stop().await;
}

#[tokio::test]
async fn u6_a_token_review_says_whose_a_token_is_and_for_whom() {
    let server = server().await;
    let own = token(&server, json!({})).await;
    let status = review(&server, &own, json!([])).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    assert_eq!(status["audiences"], json!([ISSUER]));
    let foreign = token(&server, json!({"audiences": ["vault", "other"]})).await;
    let status = review(&server, &foreign, json!(["vault", "third"])).await;
    assert_eq!(
        (&status["authenticated"], &status["audiences"]),
        (&json!(true), &json!(["vault"]))
    );
    // It opens nothing here.
    assert_eq!(bearing(&server, &foreign).get("/livez").await.0, 401);
    let status = review(&server, &foreign, json!([])).await;
    assert_eq!(status["authenticated"], Value::Null);
    assert!(
        status["error"].as_str().unwrap().contains("audiences"),
        "{status}"
    );
    let status = review(&server, "x", json!([])).await;
    assert!(
        status["error"].as_str().unwrap().contains("JSON Web Token"),
        "{status}"
    );
    let (code, _) = server.admin().post(REVIEWS, json!({"spec": {}})).await;
    assert_eq!(code, 400);
    server.stop().await;
}

#[tokio::test]
async fn u9_everybody_with_an_account_reads_the_keys() {
    let server = server().await;
    let robot = bearing(&server, &token(&server, json!({})).await);
    let (code, answer) = robot.get("/.well-known/openid-configuration").await;
    assert_eq!((code, &answer["issuer"]), (200, &json!(ISSUER)));
    let keys = format!("https://192.0.2.7:{}/openid/v1/jwks", server.address.port());
    assert_eq!(answer["jwks_uri"], keys);
    let (code, answer) = robot.get("/openid/v1/jwks").await;
    let key = &answer["keys"][0];
    assert_eq!(
        (code, &key["kty"], &key["crv"], &key["alg"]),
        (200, &json!("EC"), &json!("P-256"), &json!("ES256"))
    );
    assert_eq!(server.anonymous().get("/openid/v1/jwks").await.0, 403);
    server.stop().await;
}

#[tokio::test]
async fn u3_a_restart_keeps_the_key_and_a_renamed_one_still_counts() {
    let server = server().await;
    let first = token(&server, json!({"expirationSeconds": 86400})).await;
    let dir = server.stop().await;
    let server = Running::with(dir, |_| {}).await;
    assert_eq!(bearing(&server, &first).get("/livez").await.0, 200);
    let dir = server.stop().await;
    let tls = dir.path().join("tls");
    let old = tls.join("service-account-old.key");
    std::fs::rename(tls.join("service-account.key"), &old).unwrap();
    let server = Running::with(dir, |_| {}).await;
    assert_eq!(bearing(&server, &first).get("/livez").await.0, 200);
    let second = token(&server, json!({})).await;
    let dir = server.stop().await;
    std::fs::remove_file(old).unwrap();
    let server = Running::with(dir, |_| {}).await;
    assert_eq!(bearing(&server, &first).get("/livez").await.0, 401);
    assert_eq!(bearing(&server, &second).get("/livez").await.0, 200);
    server.stop().await;
}

/// An account in a store in memory, and a signed statement about it with a change.
async fn judged(change: impl FnOnce(&mut Claims)) -> Result<String, String> {
    let store = apiserver::store::EmbeddedStore::with_engine(
        apiserver::store::engine::MemoryEngine::default(),
        None,
    );
    let registry = Registry::new(std::sync::Arc::new(store.unwrap()), Default::default());
    let options = WriteOptions::default();
    let namespace = json!({"metadata": {"name": "ns"}});
    let created = registry.create(&kinds::NAMESPACES, None, namespace, &options);
    created.await.unwrap();
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: "robot".into(),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let account = serde_json::to_value(account).unwrap();
    let created = registry.create(&kinds::SERVICE_ACCOUNTS, Some("ns"), account, &options);
    let uid = created.await.unwrap().value()["metadata"]["uid"].clone();
    let mut claims = Claims {
        aud: vec![ISSUER.into()],
        exp: 2000,
        iat: 1000,
        nbf: 1000,
        iss: ISSUER.into(),
        jti: "j".into(),
        kubernetes: Bound {
            namespace: "ns".into(),
            serviceaccount: Reference::new("robot", uid.as_str().unwrap()),
            ..Bound::default()
        },
        sub: "system:serviceaccount:ns:robot".into(),
    };
    change(&mut claims);
    let keys = Keys::new(SigningKey::generate().unwrap(), Vec::new());
    let tokens = Tokens::new(ISSUER.into(), ISSUER, std::sync::Arc::new(keys));
    let token = tokens.sign(&claims).unwrap();
    let now = Timestamp::from_second(1500).unwrap();
    let known = tokens.authenticate(&registry, &token, &[], now).await;
    known
        .map(|(user, _)| user.name)
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn u3_each_claim_is_checked() {
    assert_eq!(
        judged(|_| {}).await.unwrap(),
        "system:serviceaccount:ns:robot"
    );
    type Change = fn(&mut Claims);
    let cases: [(Change, &str); 9] = [
        (|claims| claims.exp = 1500, "expired"),
        (|claims| claims.nbf = 1501, "not valid before"),
        (|claims| claims.iss = "https://other".into(), "issuer"),
        (|claims| claims.aud = vec!["vault".into()], "audiences"),
        (|claims| claims.aud.clear(), "audiences"),
        (
            |claims| claims.sub = "system:serviceaccount:ns:admin".into(),
            "whose it is",
        ),
        (
            |claims| claims.kubernetes.serviceaccount.uid = "other".into(),
            "another one",
        ),
        (
            |claims| claims.kubernetes.pod = Some(Reference::new("p", "u")),
            "pod ns/p has been deleted",
        ),
        (
            |claims| claims.kubernetes.node = Some(Reference::new("n", "u")),
            "node n has been deleted",
        ),
    ];
    for (change, wanted) in cases {
        let refused = judged(change).await.unwrap_err();
        assert!(refused.contains(wanted), "{refused}, wanted {wanted}");
    }
}

#[tokio::test]
async fn u4_u6_kubectl_makes_tokens_and_asks_whose_they_are() {
    let server = server().await;
    let run = async |arguments: &[&str]| {
        let home = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new("/usr/bin/kubectl");
        command.env_clear().env("HOME", home.path()).args([
            "--kubeconfig",
            &server.kubeconfig().to_string_lossy(),
            &format!("--server=https://{}", server.address),
        ]);
        let output = command.args(arguments).output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    let made = run(&[
        "create",
        "token",
        "robot",
        "--duration=20m",
        "--audience=vault",
    ])
    .await;
    let claims = claims_of(made.trim());
    assert_eq!(claims["aud"], json!(["vault"]));
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(life, 1200);
    let made = run(&["create", "token", "robot"]).await;
    assert_eq!(bearing(&server, made.trim()).get("/livez").await.0, 200);
    let short = run(&["create", "token", "robot", "--duration=1m"]).await;
    assert!(short.contains("10 minutes"), "{short}");
    server.stop().await;
}
