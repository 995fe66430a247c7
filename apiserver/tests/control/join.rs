//! How nodes join a server of a test.

use api::core::Secret;
use apiserver::{
    auth::token,
    registry::{WriteOptions, kinds::SECRETS},
};
use serde_json::{Value, json};

use super::{Client, Running, csr};

/// A token's Secret; `secret` is the part only its owner knows.
fn token_secret(id: &str, secret: &str, expiration: &str) -> Value {
    json!({
        "metadata": {"name": format!("{}{id}", token::NAME_PREFIX)},
        "type": token::SECRET_TYPE,
        "stringData": {
            "secret-sha256": apiserver::pki::sha256_hex(secret.as_bytes()),
            "expiration": expiration,
        },
    })
}

/// The part of each token that only its owner knows.
pub(crate) const SECRET: &str = "abcdefghijklmnopqrstuvwxyz012345";

pub(crate) async fn add_token(server: &Running, id: &str, expiration: &str) {
    let value = token_secret(id, SECRET, expiration);
    let options = WriteOptions::default();
    let created = server
        .registry
        .create(&SECRETS, Some(token::NAMESPACE), value, &options);
    created.await.unwrap().decode::<Secret>().unwrap();
}

pub(crate) async fn join(server: &Running, id: &str, secret: &str, node: &str) -> (u16, Value) {
    join_by(server.anonymous(), id, secret, node).await
}

/// The same by a client of one's own.
pub(crate) async fn join_by(client: Client, id: &str, secret: &str, node: &str) -> (u16, Value) {
    let (pem, _) = csr();
    let client = client.with_header("authorization", format!("Bearer {id}.{secret}"));
    client
        .post("/minik/v1/join", json!({"node": node, "csr": pem}))
        .await
}

/// The client of a node that has joined.
pub(crate) async fn joined(server: &Running, node: &str) -> Client {
    let (pem, key) = csr();
    let client = server
        .anonymous()
        .with_header("authorization", format!("Bearer good00.{SECRET}"));
    let (code, answer) = client
        .post("/minik/v1/join", json!({"node": node, "csr": pem}))
        .await;
    assert_eq!(code, 200, "{answer}");
    server
        .anonymous()
        .with_certificate(answer["certificate"].as_str().unwrap(), &key)
}
