//! What a request costs: `cargo bench -p apiserver --bench rest`. The store is in memory, the router is called in
//! process: this is our own time, without disk, TLS and sockets.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

use std::time::Instant;

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Api, PODS, SERVICES, pod, service};
use serde_json::json;

const OBJECTS: u32 = 5_000;
const WATCHERS: usize = 50;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let api = Api::new().await;
        creates(&api).await;
        patches(&api).await;
        lists(&api).await;
        fan_out(&api).await;
    });
}

fn print(what: &str, started: Instant, count: u32) {
    let each = started.elapsed() / count;
    println!("{what:<44} {:>9.1} us", each.as_secs_f64() * 1e6);
}

async fn creates(api: &Api) {
    let started = Instant::now();
    for index in 0..OBJECTS {
        api.made(SERVICES, service(&format!("s{index}"))).await;
    }
    print("create a Service", started, OBJECTS);
    let started = Instant::now();
    for index in 0..OBJECTS {
        api.made(PODS, pod(&format!("p{index}"))).await;
    }
    print("create a Pod", started, OBJECTS);
}

async fn patches(api: &Api) {
    let started = Instant::now();
    for index in 0..OBJECTS {
        let path = format!("{PODS}/p{index}/status");
        api.merge(&path, json!({"status": {"phase": "Running"}}))
            .await;
    }
    print("patch the status of a Pod", started, OBJECTS);
}

async fn lists(api: &Api) {
    for (what, query) in [
        ("list, per Pod", ""),
        ("list by label, per Pod", "?labelSelector=app=web"),
        (
            "list by field, per Pod",
            "?fieldSelector=spec.nodeName=none",
        ),
    ] {
        let started = Instant::now();
        let (code, _) = api.get(&format!("{PODS}{query}")).await;
        assert_eq!(code, 200);
        print(what, started, OBJECTS);
    }
}

async fn fan_out(api: &Api) {
    let path = format!(
        "{PODS}?watch=true&resourceVersion={}",
        api.registry.backend().current().0
    );
    let mut watches = Vec::new();
    for _ in 0..WATCHERS {
        watches.push(api.watch(&path).await);
    }
    let rounds = 500;
    let started = Instant::now();
    for index in 0..rounds {
        let path = format!("{PODS}/p{index}/status");
        api.merge(&path, json!({"status": {"message": "x"}})).await;
        for watch in &mut watches {
            watch.next().await.unwrap();
        }
    }
    print(
        &format!("one event to {WATCHERS} watchers, parsed"),
        started,
        rounds,
    );
}
