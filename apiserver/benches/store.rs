//! Durable writes per second of the embedded store, beside what the disk itself can sync, in one run.
//!
//! Prints a table, and each row again as a line of JSON. Values are 2 KiB, as in most objects.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use apiserver::store::{Backend, Durability, EmbeddedStore, Expect, Operation, Write};
use bytes::Bytes;

const VALUE_BYTES: usize = 2048;
const ROUND: Duration = Duration::from_secs(3);
const CLIENTS: [usize; 3] = [1, 16, 64];

fn main() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the disk");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    report("append + fdatasync", 1, &append_and_sync(dir.path()));
    for clients in CLIENTS {
        let store = EmbeddedStore::open(&dir.path().join(clients.to_string())).expect("open");
        let latencies = runtime.block_on(writers(&store, clients));
        report("store commits", clients, &latencies);
        runtime.block_on(store.close()).expect("close");
    }
}

/// What one process gets out of the disk: each append synced before the next.
fn append_and_sync(dir: &Path) -> Vec<Duration> {
    let mut file = File::create(dir.join("append")).expect("create");
    let value = value(0);
    let end = Instant::now() + ROUND;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        file.write_all(&value).expect("append");
        file.sync_data().expect("sync");
        latencies.push(started.elapsed());
    }
    latencies
}

async fn writers(store: &EmbeddedStore, clients: usize) -> Vec<Duration> {
    let store = Arc::new(store.clone());
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { writer(&store, client).await })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("the writer ends"));
    }
    latencies
}

async fn writer(store: &EmbeddedStore, client: usize) -> Vec<Duration> {
    let end = Instant::now() + ROUND;
    let mut latencies = Vec::new();
    for number in 0.. {
        let started = Instant::now();
        if started >= end {
            break;
        }
        let write = Write {
            key: format!("/bench/{client}/{}", number % 1000).into(),
            expect: Expect::Any,
            operation: Operation::Put {
                value: value(number),
                ttl: None,
            },
        };
        let outcome = store.commit(vec![write], Durability::Strict).await;
        outcome.expect("the store accepts the commit");
        latencies.push(started.elapsed());
    }
    latencies
}

/// Bytes that differ from write to write.
fn value(number: usize) -> Bytes {
    let text = format!("{number:016x}");
    text.bytes().cycle().take(VALUE_BYTES).collect()
}

fn report(what: &str, clients: usize, latencies: &[Duration]) {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let per_second = sorted.len() as f64 / ROUND.as_secs_f64();
    let p50_us = sorted[sorted.len() / 2].as_micros();
    let p99_us = sorted[sorted.len() * 99 / 100].as_micros();
    println!(
        "{what:<20} {clients:>3} clients {per_second:>9.0}/s   p50 {p50_us:>6} us   p99 {p99_us:>6} us"
    );
    let json = serde_json::json!({
        "bench": "store", "what": what, "clients": clients,
        "per_second": per_second, "p50_us": p50_us, "p99_us": p99_us,
    });
    println!("{json}");
}
