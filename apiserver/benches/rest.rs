//! What a request costs: `cargo bench -p apiserver --bench rest`. The store is in memory, the router is called in
//! process: this is our own time, without disk, TLS and sockets.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

use std::time::{Duration, Instant};

#[path = "../tests/common/mod.rs"]
mod common;

use ::api::rbac::{PolicyRule, RoleRef, Subject};
use apiserver::auth::{
    Attributes, User,
    rbac::{Binding, Index, RoleKey},
};
use apiserver::{
    registry::kinds,
    store::{Durability, Expect, Operation, Write},
};
use common::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, service};
use serde_json::json;

const OBJECTS: u32 = 5_000;
const WATCHERS: usize = 50;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    authorization();
    runtime.block_on(async {
        let mut api = Api::new().await;
        // As the agents ask: who owns which fields costs those who look at it.
        api.accept = "application/json;managedFields=false";
        creates(&api).await;
        patches(&api).await;
        lists(&api).await;
        fan_out(&api).await;
        selective_lists().await;
    });
}

/// When something began: by the clock, and by the processor time of this thread, which other load does not stretch.
struct Started {
    at: Instant,
    cpu: Duration,
}

impl Started {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            cpu: cpu_time(),
        }
    }
}

/// The first number of schedstat: nanoseconds this thread has run (proc_pid_schedstat in the kernel's documentation).
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn print(what: &str, started: Started, count: u32) {
    let micros = |time: Duration| (time / count).as_secs_f64() * 1e6;
    let (wall, cpu) = (started.at.elapsed(), cpu_time() - started.cpu);
    println!(
        "{what:<44} {:>9.1} us, of processor time {:>8.1} us",
        micros(wall),
        micros(cpu)
    );
}

/// A user with a group, one binding of each in every one of 10 000 namespaces, who may not do what they ask: every rule is
/// looked at.
fn authorization() {
    let rule = |resource: &str| PolicyRule {
        verbs: vec!["get".into(), "list".into(), "watch".into()],
        api_groups: vec!["".into()],
        resources: vec![resource.into()],
        ..PolicyRule::default()
    };
    let mut index = Index::default();
    let key = RoleKey {
        namespace: "".into(),
        name: "reader".into(),
    };
    let rules = (0..20).map(|number| rule(&format!("kind{number}")));
    index.set_role(key, Some(rules.collect()));
    for number in 0..10_000 {
        let subject = |kind: &str, name: &str| Subject {
            kind: kind.into(),
            name: name.into(),
            ..Subject::default()
        };
        let binding = Binding {
            role: RoleRef {
                kind: "ClusterRole".into(),
                name: "reader".into(),
                ..RoleRef::default()
            },
            subjects: vec![subject("User", "jane"), subject("Group", "dev")],
        };
        index.set_binding(&format!("n{number}"), "readers", Some(binding));
    }
    let user = User {
        name: "jane".into(),
        groups: vec!["dev".into(), "system:authenticated".into()],
        ..User::default()
    };
    let attributes = Attributes {
        verb: "get",
        resource: "pods",
        namespace: Some("n77"),
        name: Some("a"),
        ..Attributes::default()
    };
    let rounds = 1_000_000;
    let started = Started::now();
    for _ in 0..rounds {
        let allowed_by = index.allowed_by(std::hint::black_box(&user), &attributes);
        assert!(allowed_by.is_none());
    }
    print("refuse by 10 000 bindings and 40 rules", started, rounds);
}

async fn creates(api: &Api) {
    let started = Started::now();
    for index in 0..OBJECTS {
        api.made(SERVICES, service(&format!("s{index}"))).await;
    }
    print("create a Service", started, OBJECTS);
    let started = Started::now();
    for index in 0..OBJECTS {
        api.made(PODS, pod(&format!("p{index}"))).await;
    }
    print("create a Pod", started, OBJECTS);
}

async fn patches(api: &Api) {
    let started = Started::now();
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
        let started = Started::now();
        let (code, _) = api.get(&format!("{PODS}{query}")).await;
        assert_eq!(code, 200);
        print(what, started, OBJECTS);
    }
}

/// 300 000 small objects, of which a selector selects none; with the memory that each takes.
async fn selective_lists() {
    const SMALL: u32 = 300_000;
    const BATCH: u32 = 1000;
    let api = Api::new().await;
    let before = resident_bytes();
    let template = api.made(CONFIG_MAPS, config_map("template")).await;
    let key = |name: &str| bytes::Bytes::from(kinds::CONFIG_MAPS.key(Some("default"), name));
    let stored = api.registry.backend().get(&key("template"), None).await;
    let stored = stored.unwrap().unwrap().value.clone();
    let stored = String::from_utf8(stored.to_vec()).unwrap();
    assert!(stored.contains("template"), "{template}");
    for first in (0..SMALL).step_by(BATCH as usize) {
        let writes = (first..first + BATCH).map(|number| {
            let name = format!("object{number:06}");
            Write {
                key: key(&name),
                expect: Expect::Absent,
                operation: Operation::Put {
                    value: stored.replace("template", &name).into(),
                    ttl: None,
                },
            }
        });
        let commit = api.registry.backend();
        commit
            .commit(writes.collect(), Durability::Strict)
            .await
            .unwrap();
    }
    let each = (resident_bytes() - before) / u64::from(SMALL);
    println!(
        "{:<44} {each:>9} bytes",
        "memory of a small object, with its label"
    );
    let mut times = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        let (code, list) = api
            .get(&format!("{CONFIG_MAPS}?labelSelector=app=nothing"))
            .await;
        times.push(started.elapsed());
        assert_eq!((code.as_u16(), &list["items"]), (200, &json!([])));
    }
    println!(
        "{:<44} {:>9.1} ms",
        "list 300 000, none selected: the first",
        times[0].as_secs_f64() * 1e3
    );
    times.sort_unstable();
    println!(
        "{:<44} {:>9.1} ms",
        "list 300 000, none selected: p50",
        times[10].as_secs_f64() * 1e3
    );
}

/// The second number of statm, in pages (proc_pid_statm in the kernel's documentation).
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
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
    let started = Started::now();
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
