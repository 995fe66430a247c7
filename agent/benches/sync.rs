//! What an agent needs from the events of its watches to rules in the kernel and names in the zone, at 1 000, 10 000 and
//! 30 000 Services: everything at the start, one endpoint that changes, a restart, and memory. Each size runs in a process
//! and a network namespace of its own, as root.
//!
//! Prints a table and one JSON line per size. `cargo bench -p agent --bench sync [-- SERVICESxENDPOINTS...]`

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use agent::bench::{Kind, Pipeline};
use nix::{
    sched::{CloneFlags, unshare},
    time::{ClockId, clock_gettime},
};

const SIZES: [(u32, u32); 4] = [(1_000, 10), (10_000, 10), (30_000, 4), (30_000, 10)];
const CHANGES: u64 = 31;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    if let [child, size] = &args[..]
        && child == "child"
    {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("this benchmark needs root, for network namespaces of its own");
        return run(parse(size).expect("SERVICESxENDPOINTS"));
    }
    let wanted: Vec<_> = args.iter().filter_map(|arg| parse(arg)).collect();
    let wanted = if wanted.is_empty() {
        SIZES.to_vec()
    } else {
        wanted
    };
    let heads = [
        "Services x endpoints",
        "decode ms",
        "sync ms",
        "sync CPU ms",
        "endpoint changed ms",
        "restart ms",
        "restart CPU ms",
        "RSS MB",
        "RSS before rules MB",
    ];
    println!("{}", heads.map(|head| format!("{head:>20}")).concat());
    for (services, endpoints) in wanted {
        let exe = std::env::current_exe().expect("this program's path");
        let child = Command::new(exe)
            .args(["child", &format!("{services}x{endpoints}")])
            .status();
        assert!(
            child.expect("start a child").success(),
            "the benchmark failed"
        );
    }
}

fn parse(text: &str) -> Option<(u32, u32)> {
    let (services, endpoints) = text.split_once('x')?;
    Some((services.parse().ok()?, endpoints.parse().ok()?))
}

fn run((services, endpoints): (u32, u32)) {
    // As in the agent: one thread for the watches, one for the rules.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut pipeline = Pipeline::start();
        let first = fill(&mut pipeline, services, endpoints).await;
        let (rss, before) = (rss_mb(), first.rss_before_mb);
        let mut changes = Vec::new();
        for round in 0..CHANGES {
            let revision = u64::from(services) + 10 + round;
            let line = slice(services / 2, endpoints, Some(round as u32 % 2), revision);
            let start = Instant::now();
            pipeline.line(Kind::EndpointSlice, line.as_bytes()).await;
            pipeline.applied(0, revision).await;
            changes.push(start.elapsed().as_secs_f64() * 1e3);
        }
        changes.sort_by(f64::total_cmp);
        let changed = changes[changes.len() / 2];
        pipeline.stop().await;
        let (start, cpu) = (Instant::now(), cpu_ms());
        let mut successor = Pipeline::start();
        let opened = (start.elapsed().as_secs_f64() * 1e3, cpu_ms() - cpu);
        let again = fill(&mut successor, services, endpoints).await;
        let columns = [
            ("decode_ms", first.decode_ms, 1),
            ("sync_ms", first.sync_ms, 1),
            ("sync_cpu_ms", first.sync_cpu_ms, 1),
            ("endpoint_changed_ms", changed, 2),
            ("restart_ms", opened.0 + again.sync_ms, 1),
            ("restart_cpu_ms", opened.1 + again.sync_cpu_ms, 1),
            ("rss_mb", rss, 1),
            ("rss_before_rules_mb", before, 1),
        ];
        let cells = columns.map(|(_, value, digits)| format!("{value:>20.digits$}"));
        println!(
            "{:>20}{}",
            format!("{services} x {endpoints}"),
            cells.concat()
        );
        let fields = columns.map(|(name, value, _)| format!(",\"{name}\":{value:.3}"));
        println!(
            "{{\"bench\":\"agent sync\",\"services\":{services},\"endpoints\":{endpoints}{}}}",
            fields.concat()
        );
    });
}

struct Filled {
    /// From the first line of JSON to the last object.
    decode_ms: f64,
    /// From the last object to rules and names.
    sync_ms: f64,
    sync_cpu_ms: f64,
    rss_before_mb: f64,
}

/// Plays the initial events of all three watches.
async fn fill(pipeline: &mut Pipeline, services: u32, endpoints: u32) -> Filled {
    let last = u64::from(services) + 1;
    let start = Instant::now();
    for number in 0..services {
        pipeline
            .line(Kind::Service, service(number).as_bytes())
            .await;
    }
    for number in 0..services {
        pipeline
            .line(
                Kind::EndpointSlice,
                slice(number, endpoints, None, 2).as_bytes(),
            )
            .await;
    }
    let namespace =
        r#"{"type":"ADDED","object":{"metadata":{"name":"default","resourceVersion":"1"}}}"#;
    pipeline.line(Kind::Namespace, namespace.as_bytes()).await;
    let decode_ms = start.elapsed().as_secs_f64() * 1e3;
    let rss_before_mb = rss_mb();
    let (start, cpu) = (Instant::now(), cpu_ms());
    for kind in [Kind::Service, Kind::Namespace, Kind::EndpointSlice] {
        pipeline.line(kind, bookmark(last).as_bytes()).await;
    }
    pipeline.applied(last, last).await;
    Filled {
        decode_ms,
        sync_ms: start.elapsed().as_secs_f64() * 1e3,
        sync_cpu_ms: cpu_ms() - cpu,
        rss_before_mb,
    }
}

fn bookmark(revision: u64) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{revision}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
    )
}

/// A Service as the server stores it.
fn service(number: u32) -> String {
    let ip = std::net::Ipv4Addr::from_bits(0x0a60_0000 + number);
    format!(
        r#"{{"type":"ADDED","object":{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"service-{number}","namespace":"default","uid":"{uid}","resourceVersion":"2","creationTimestamp":"2025-01-01T00:00:00Z","labels":{{"app":"app-{number}"}}}},"spec":{{"ports":[{{"name":"http","protocol":"TCP","port":80,"targetPort":8080}}],"selector":{{"app":"app-{number}"}},"clusterIP":"{ip}","clusterIPs":["{ip}"],"type":"ClusterIP","sessionAffinity":"None","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"}},"status":{{"loadBalancer":{{}}}}}}}}"#,
        uid = uid(number, 999),
    )
}

fn uid(service: u32, slot: u32) -> String {
    format!("{service:08x}-0000-4000-8000-{slot:012x}")
}

/// Its EndpointSlice; with `other` the last endpoint is one of two others.
fn slice(service: u32, endpoints: u32, other: Option<u32>, revision: u64) -> String {
    let items: Vec<String> = (0..endpoints)
        .map(|slot| {
            let slot = match other {
                Some(other) if slot == endpoints - 1 => endpoints + other,
                _ => slot,
            };
            let ip = std::net::Ipv4Addr::from_bits(0x0a80_0000 + service * 16 + slot);
            format!(
                r#"{{"addresses":["{ip}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"targetRef":{{"kind":"Pod","namespace":"default","name":"app-{service}-{slot}","uid":"{uid}"}},"nodeName":"node{node}"}}"#,
                uid = uid(service, slot),
                node = (service + slot) % 100,
            )
        })
        .collect();
    let (kind, items) = (
        if revision == 2 { "ADDED" } else { "MODIFIED" },
        items.join(","),
    );
    format!(
        r#"{{"type":"{kind}","object":{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{{"name":"service-{service}-abcde","namespace":"default","uid":"{uid}","resourceVersion":"{revision}","labels":{{"app":"app-{service}","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"service-{service}"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"service-{service}","uid":"{uid}","controller":true,"blockOwnerDeletion":true}}]}},"addressType":"IPv4","endpoints":[{items}],"ports":[{{"name":"http","protocol":"TCP","port":8080}}]}}}}"#,
        uid = uid(service, 998),
    )
}

/// CPU time of this process so far, user and kernel, ended threads too, in milliseconds: what it took on a machine that others
/// use.
fn cpu_ms() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has it");
    Duration::from(now).as_secs_f64() * 1e3
}

fn rss_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let kilobytes: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("kilobytes");
    kilobytes / 1e3
}
