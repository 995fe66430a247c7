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
use common::{Api, PODS, SERVICES, pod, service};
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
        assert!(!index.allows(std::hint::black_box(&user), &attributes));
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
