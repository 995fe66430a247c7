//! Services: services.md 1, statement by statement. A test is named after the section and what it says; most are tables.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../common/mod.rs"]
mod common;

mod admission;
mod allocation;
mod dual_stack;
mod fields;
mod output;
mod rest;
mod service_cidrs;
mod updates;

use apiserver::{
    registry::{Context, kinds},
    store::{Durability, Expect, Operation, Write},
};
use common::{Api, SERVICES, service};
use serde_json::{Value, json};

fn of_type(name: &str, kind: &str) -> Value {
    with_spec(name, &json!({"type": kind}))
}

/// The usual Service with some fields of its spec set, or (null) without them.
fn with_spec(name: &str, spec: &Value) -> Value {
    let mut body = service(name);
    for (field, value) in spec.as_object().unwrap() {
        body["spec"][field] = value.clone();
    }
    body
}

/// What is to come of a write.
enum Wanted {
    /// It is accepted, and these fields of the spec are so; null is absent.
    Spec(Value),
    /// 422 with a cause at this field whose message contains these words.
    Refused(&'static str, &'static str),
}
use Wanted::{Refused, Spec};

impl Wanted {
    fn check(&self, says: &str, code: u16, answer: &Value) {
        match self {
            Spec(fields) => {
                assert!(matches!(code, 200 | 201), "{says}: {answer}");
                for (field, wanted) in fields.as_object().unwrap() {
                    assert_eq!(&answer["spec"][field], wanted, "{says}: {field}");
                }
            }
            Refused(field, words) => {
                assert_eq!(code, 422, "{says}: {answer}");
                let causes = answer["details"]["causes"].as_array().unwrap();
                let found = causes.iter().any(|cause| {
                    cause["field"] == **field && cause["message"].as_str().unwrap().contains(words)
                });
                assert!(found, "{says}: {answer}");
            }
        }
    }
}

/// Creates one Service for each row: statement, fields of the spec, outcome.
async fn check_creates(api: &Api, rows: Vec<(&str, Value, Wanted)>) {
    for (says, spec, wanted) in rows {
        let (code, answer) = api.post(SERVICES, with_spec("row", &spec)).await;
        wanted.check(says, code.as_u16(), &answer);
        api.delete(&format!("{SERVICES}/row")).await;
    }
}

/// Creates a Service and merges a change into its spec for each row: statement, fields, change, outcome.
async fn check_updates(api: &Api, rows: Vec<(&str, Value, Value, Wanted)>) {
    let path = format!("{SERVICES}/row");
    for (says, spec, change, wanted) in rows {
        api.made(SERVICES, with_spec("row", &spec)).await;
        let (code, answer) = api.merge(&path, json!({"spec": change})).await;
        wanted.check(says, code.as_u16(), &answer);
        api.delete(&path).await;
    }
}

async fn dual_stack() -> Api {
    let net = |text: &str| text.parse().unwrap();
    Api::with(Context {
        service_cidrs: vec![net("10.96.0.0/16"), net("fd00:96::/112")],
        ..Context::default()
    })
    .await
}

/// A cluster whose Services may claim some external IPs.
async fn with_external_ips() -> Api {
    let net = |text: &str| text.parse().unwrap();
    Api::with(Context {
        allowed_external_ips: vec![net("198.51.100.0/24"), net("2001:db8:5::/64")],
        ..Context::default()
    })
    .await
}

fn cause(status: &Value) -> (&str, &str) {
    let cause = &status["details"]["causes"][0];
    (
        cause["field"].as_str().unwrap_or_default(),
        cause["message"].as_str().unwrap_or_default(),
    )
}

async fn ip_is_taken(api: &Api, ip: &Value) -> bool {
    let ip = ip.as_str().unwrap();
    api.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
        .await
        .0
        == 200
}

async fn port_is_taken(api: &Api, port: &Value) -> bool {
    let key = format!("/minik/nodeports/{port}");
    api.registry
        .backend()
        .get(key.as_bytes(), None)
        .await
        .unwrap()
        .is_some()
}

/// Puts a Service into the store as it is, whatever the rules of today say of it.
async fn store(api: &Api, name: &str, stored: &Value) {
    let write = Write {
        key: kinds::SERVICES.key(Some("default"), name).into(),
        expect: Expect::Any,
        operation: Operation::Put {
            value: stored.to_string().into(),
            ttl: None,
        },
    };
    let backend = api.registry.backend();
    backend
        .commit(vec![write], Durability::Strict)
        .await
        .unwrap();
}
