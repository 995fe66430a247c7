//! The API server under load, over TLS, with the store on disk: latency and throughput of each verb with 1, 16 and 256 clients;
//! 1 000 watchers; what Pods cost. Clients and server share this machine, so the server's own processor time stands beside.
//!
//! Prints a table, and each row again as a line of JSON. Run by `make bench`.

mod measure;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, future::join_all, stream};
use integration::server::Server;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use measure::{Report, cpu, rss_kb};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

/// How many requests of each verb the clients send together, however many they are.
const REQUESTS: usize = 2048;
/// How many watches are open at once.
const WATCHERS: usize = 1000;
/// How many Pods are stored and listed.
const PODS: usize = 10_000;
/// No part may take longer.
const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let server = Server::start("bench-api");
    let pid = server.process.as_ref().expect("it runs").0.id();
    let kubeconfig = Kubeconfig::read_from(server.dir.join("server/admin.kubeconfig"))
        .expect("the administrator's kubeconfig");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut bench = Bench {
        kubeconfig,
        pid,
        report: Report::of("api"),
    };
    runtime.block_on(async {
        for clients in [1, 16, 256] {
            bench.verbs(clients).await;
        }
        bench.watchers(Audience::One, 1000).await;
        bench.watchers(Audience::Everybody, 50).await;
        bench.pods().await;
    });
    bench.report.print();
}

/// Who is told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// The one watcher whose selector selects it, as nodes watch their own Pods.
    One,
    /// Every watcher.
    Everybody,
}

struct Bench {
    kubeconfig: Kubeconfig,
    pid: u32,
    report: Report,
}

impl Bench {
    /// A client with a connection of its own.
    async fn client(&self) -> Client {
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(self.kubeconfig.clone(), &options)
            .await
            .expect("a kubeconfig that kube-rs understands");
        config.proxy_url = None;
        Client::try_from(config).expect("a client")
    }

    async fn verbs(&mut self, clients: usize) {
        let maps = join_all((0..clients).map(|_| self.client())).await;
        let maps: Vec<Api<ConfigMap>> = maps.into_iter().map(Api::default_namespaced).collect();
        // Connections are made before the clock runs.
        let _ = join_all(maps.iter().map(|maps| maps.get_opt("none"))).await;
        self.verb("create", &maps, async |maps, name| {
            let map = config_map(&name, "app", "verbs");
            let _ = maps
                .create(&PostParams::default(), &map)
                .await
                .expect("create");
        })
        .await;
        self.verb("update", &maps, async |maps, name| {
            let map = config_map(&name, "app", "updated");
            let _ = maps
                .replace(&name, &PostParams::default(), &map)
                .await
                .expect("update");
        })
        .await;
        self.verb("get", &maps, async |maps, name| {
            let _ = maps.get(&name).await.expect("get");
        })
        .await;
        self.verb("list a page of 100", &maps, async |maps, _| {
            let page = maps.list(&ListParams::default().limit(100)).await;
            assert_eq!(page.expect("list").items.len(), 100);
        })
        .await;
        self.verb("list, one selected", &maps, async |maps, _| {
            let query = ListParams::default().fields("metadata.name=kube-root-ca.crt");
            let _ = maps.list(&query).await.expect("list");
        })
        .await;
    }

    /// Every client sends its share of the requests, one after the other, each about an object of its own.
    async fn verb<F>(
        &mut self,
        verb: &str,
        clients: &[Api<ConfigMap>],
        request: impl Fn(Api<ConfigMap>, String) -> F + Copy + Send + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let (before, started) = (cpu(self.pid), Instant::now());
        let count = clients.len();
        let share = REQUESTS / count;
        let mut tasks = JoinSet::new();
        for (index, client) in clients.iter().cloned().enumerate() {
            tasks.spawn(async move {
                let mut times = Vec::with_capacity(share);
                for number in 0..share {
                    let name = format!("c{count}-{}", index * share + number);
                    let sent = Instant::now();
                    request(client.clone(), name).await;
                    times.push(sent.elapsed());
                }
                times
            });
        }
        let times = timeout(LIMIT, tasks.join_all())
            .await
            .expect("in time")
            .concat();
        let requests = times.len() as f64;
        let what = format!("{verb}, {count} clients");
        self.times(&what, times);
        let per_second = requests / started.elapsed().as_secs_f64();
        self.report
            .row(&format!("{what}, each second"), per_second, "requests", "");
        let each = (cpu(self.pid) - before).as_secs_f64() * 1e6 / requests;
        self.report
            .row(&format!("{what}, the server's CPU"), each, "us/request", "");
    }

    fn times(&mut self, what: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        for percent in [50, 99] {
            let time = times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
            self.report
                .row(&format!("{what}, p{percent}"), time, "ms", "");
        }
    }

    /// Changes at a steady rate for ten seconds; how long after its acknowledgement each watcher has each change.
    async fn watchers(&mut self, audience: Audience, per_second: usize) {
        let idle_kb = rss_kb(self.pid);
        let changes = per_second * 10;
        let log = Arc::new(Log::new(changes));
        let wanted = match audience {
            Audience::One => changes / WATCHERS,
            Audience::Everybody => changes,
        };
        // Connections are made a few at a time: they are not what is measured.
        let this = &*self;
        let watches = stream::iter(0..WATCHERS).map(async |number| {
            let selector = match audience {
                Audience::One => format!("watcher=w{number}"),
                Audience::Everybody => "watcher".to_owned(),
            };
            watch(Api::default_namespaced(this.client().await), selector).await
        });
        let watches = watches.buffer_unordered(8).collect::<Vec<_>>();
        let watches = timeout(LIMIT, watches).await.expect("every watch is open");
        let mut tasks = JoinSet::new();
        for events in watches {
            tasks.spawn(follow(events, wanted, log.clone()));
        }
        let (kb, before, started) = (rss_kb(self.pid), cpu(self.pid), Instant::now());
        self.changes(audience, per_second, changes, &log).await;
        let took = started.elapsed();
        let _ = timeout(LIMIT, tasks.join_all())
            .await
            .expect("every change is told");
        let what = match audience {
            Audience::One => format!("{WATCHERS} watchers, {per_second} changes/s, each to one"),
            Audience::Everybody => format!("{WATCHERS} watchers, {per_second} changes/s to all"),
        };
        let rate = changes as f64 / took.as_secs_f64();
        self.report
            .row(&format!("{what}: reached"), rate, "changes/s", "");
        let mut times = log.times();
        times.sort_unstable();
        for (percent, goal) in [(50, ""), (99, "5")] {
            let time = times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
            let row = format!("{what}: commit -> watcher, p{percent}");
            self.report.row(&row, time, "ms", goal);
        }
        let share = (cpu(self.pid) - before).as_secs_f64() / took.as_secs_f64() * 100.0;
        self.report
            .row(&format!("{what}: the server's CPU"), share, "%", "");
        let each = (kb.saturating_sub(idle_kb)) as f64 / WATCHERS as f64;
        self.report
            .row(&format!("{what}: memory of a watcher"), each, "KiB", "");
    }

    async fn changes(&self, audience: Audience, per_second: usize, changes: usize, log: &Arc<Log>) {
        const WRITERS: usize = 64;
        let started = tokio::time::Instant::now();
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let maps: Api<ConfigMap> = Api::default_namespaced(self.client().await);
            let log = log.clone();
            tasks.spawn(async move {
                for number in (writer..changes).step_by(WRITERS) {
                    let due = Duration::from_secs(1) * number as u32 / per_second as u32;
                    tokio::time::sleep_until(started + due).await;
                    let name = format!("{audience:?}-{number}").to_lowercase();
                    let map = config_map(&name, "watcher", &format!("w{}", number % WATCHERS));
                    let _ = maps
                        .create(&PostParams::default(), &map)
                        .await
                        .expect("create");
                    log.committed(number);
                }
            });
        }
        let _ = timeout(LIMIT, tasks.join_all()).await.expect("in time");
    }

    /// What 10 000 Pods cost in memory, and a list of them.
    async fn pods(&mut self) {
        let before = rss_kb(self.pid);
        let mut tasks = JoinSet::new();
        for writer in 0..64 {
            let pods: Api<Pod> = Api::default_namespaced(self.client().await);
            tasks.spawn(async move {
                for number in (writer..PODS).step_by(64) {
                    let _ = pods
                        .create(&PostParams::default(), &pod(number))
                        .await
                        .expect("create");
                }
            });
        }
        let _ = timeout(LIMIT, tasks.join_all()).await.expect("in time");
        let grown = rss_kb(self.pid).saturating_sub(before) as f64 / 1024.0;
        self.report.row("memory of 10 000 Pods", grown, "MiB", "");
        let client = self.client().await;
        let mut times = Vec::new();
        for _ in 0..5 {
            let request = http::Request::get("/api/v1/namespaces/default/pods")
                .body(Vec::new())
                .expect("a request");
            let sent = Instant::now();
            let text = client.request_text(request).await.expect("list");
            times.push(sent.elapsed());
            assert!(text.len() > PODS * 100);
        }
        self.times("list 10 000 Pods", times);
    }
}

/// When each change was acknowledged, and told to each watcher.
struct Log {
    committed: Mutex<Vec<Option<Instant>>>,
    told: Mutex<Vec<(usize, Instant)>>,
}

impl Log {
    fn new(changes: usize) -> Self {
        Self {
            committed: Mutex::new(vec![None; changes]),
            told: Mutex::default(),
        }
    }

    fn committed(&self, number: usize) {
        let now = Instant::now();
        let mut committed = self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        committed[number] = Some(now);
    }

    fn told(&self, number: usize) {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push((number, now));
    }

    /// How long each watcher waited for each change after its acknowledgement; zero for those told before.
    fn times(&self) -> Vec<Duration> {
        let committed = self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter()
            .map(|(number, at)| {
                let committed = committed[*number].expect("what is told is committed");
                at.saturating_duration_since(committed)
            })
            .collect()
    }
}

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Send>>;

/// An open watch of what the selector selects, from now on.
async fn watch(maps: Api<ConfigMap>, selector: String) -> Events {
    let newest = maps
        .list(&ListParams::default().labels(&selector).limit(1))
        .await;
    let from = newest
        .expect("list")
        .metadata
        .resource_version
        .expect("a revision");
    let query = WatchParams::default().labels(&selector).timeout(290);
    Box::pin(maps.watch(&query, &from).await.expect("watch"))
}

/// Reads until as many changes have come as are wanted.
async fn follow(mut events: Events, wanted: usize, log: Arc<Log>) {
    let mut told = 0;
    while told < wanted {
        match events.next().await.expect("it goes on").expect("an event") {
            WatchEvent::Added(map) => {
                let name = map.name_any();
                let (_, number) = name.rsplit_once('-').expect("a number");
                log.told(number.parse().expect("a number"));
                told += 1;
            }
            WatchEvent::Bookmark(_) => {}
            other => panic!("only creates are expected: {other:?}"),
        }
    }
}

fn config_map(name: &str, label: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

fn pod(number: usize) -> Pod {
    let pod = json!({"metadata": {"name": format!("pod-{number}"), "labels": {"app": "bench"}}, "spec": {
        "containers": [{"name": "c", "image": "minik.dev/echo:1", "ports": [{"containerPort": 80}]}]}});
    serde_json::from_value(pod).expect("a Pod")
}
