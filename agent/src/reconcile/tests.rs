use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::objects::{Object, Revision};

/// Rules in memory that keep a log and fail when told to.
#[derive(Clone, Default)]
struct FakeRules {
    state: Arc<Mutex<FakeState>>,
}

#[derive(Default)]
struct FakeState {
    frontends: BTreeMap<Frontend, Fate>,
    /// What was there before the reconciler.
    left_behind: BTreeSet<Frontend>,
    service_networks: BTreeSet<IpNet>,
    log: Vec<String>,
    failures: usize,
}

impl Rules for FakeRules {
    type Error = &'static str;

    fn left_behind(&self) -> BTreeSet<Frontend> {
        self.state.lock().expect("lock").left_behind.clone()
    }

    fn replace(&mut self, desired: Desired) -> Result<(), Self::Error> {
        let mut state = self.state.lock().expect("lock");
        state
            .log
            .push(format!("replace {}", desired.frontends.len()));
        state.frontends = desired.frontends;
        state.service_networks = desired.service_networks;
        Ok(())
    }

    fn update(&mut self, change: Change) -> Result<(), Self::Error> {
        let mut state = self.state.lock().expect("lock");
        if state.failures > 0 {
            state.failures -= 1;
            state.log.push("failed".to_owned());
            return Err("told to fail");
        }
        for (frontend, fate) in change.frontends {
            state.log.push(format!(
                "{} {}",
                if fate.is_some() { "put" } else { "remove" },
                frontend.port()
            ));
            match fate {
                Some(fate) => state.frontends.insert(frontend, fate),
                None => state.frontends.remove(&frontend),
            };
        }
        Ok(())
    }

    fn forget_flows(&mut self, serving: Serving) -> Result<usize, Self::Error> {
        let mut state = self.state.lock().expect("lock");
        let frontends = serving.iter().map(|(frontend, endpoints)| {
            let gone = if endpoints.is_none() { "gone " } else { "" };
            format!("{gone}{}", frontend.port())
        });
        let frontends: Vec<_> = frontends.collect();
        state.log.push(format!("flows {}", frontends.join(" ")));
        Ok(0)
    }

    fn verify(&mut self) -> Result<bool, Self::Error> {
        Ok(false)
    }
}

fn service(name: &str, ip: &str, revision: u64) -> Service {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "resourceVersion": revision.to_string()},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]},
    }))
    .expect("service")
}

struct Bench {
    reconciler: Reconciler,
    rules: FakeRules,
    applied: watch::Receiver<Option<Position>>,
    pods: watch::Sender<LocalPods>,
}

fn bench() -> Bench {
    bench_on(BTreeSet::new())
}

/// On rules that a former agent has left.
fn bench_on(left_behind: BTreeSet<Frontend>) -> Bench {
    let rules = FakeRules::default();
    rules.state.lock().expect("lock").left_behind = left_behind;
    let zone = Zone::new(dns::zone::Config::default()).expect("zone");
    let (pods, local_pods) = watch::channel(LocalPods::default());
    let (reconciler, applied) = Reconciler::new(
        Here::default(),
        Desired::default(),
        SharedView::default(),
        zone,
        local_pods,
        rules.clone(),
        (
            Health::new([]),
            Announcements::default(),
            LocalhostNodePorts::default(),
        ),
    )
    .expect("thread");
    Bench {
        reconciler,
        rules,
        applied,
        pods,
    }
}

impl Bench {
    fn sync(&self, services: Vec<Service>) {
        let mut view = lock(&self.reconciler.view);
        let revision = Revision(10);
        view.apply_services(vec![Delta::Replace {
            items: services,
            revision,
        }]);
        view.apply_slices(vec![Delta::Replace {
            items: Vec::new(),
            revision,
        }]);
        view.apply_namespaces(vec![Delta::Replace {
            items: Vec::new(),
            revision,
        }]);
        view.apply_service_cidrs(vec![Delta::Replace {
            items: Vec::new(),
            revision,
        }]);
    }

    fn change(&self, deltas: Vec<Delta<Service>>) {
        let mut view = lock(&self.reconciler.view);
        view.apply_slices(vec![Delta::Progress(Revision(1000))]);
        view.apply_services(deltas);
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.rules.state.lock().expect("lock").log)
    }

    fn addresses(&self) -> Vec<String> {
        let state = self.rules.state.lock().expect("lock");
        let address = |frontend: &Frontend| match frontend {
            Frontend::Address { addr, .. } => addr.to_string(),
            Frontend::NodePort { port, .. } => port.to_string(),
        };
        state.frontends.keys().map(address).collect()
    }
}

#[tokio::test]
async fn nothing_is_written_before_every_collection_is_known() {
    let mut bench = bench();
    {
        let mut view = lock(&bench.reconciler.view);
        view.apply_services(vec![Delta::Replace {
            items: vec![service("a", "10.96.0.1", 3)],
            revision: Revision(5),
        }]);
    }
    assert_eq!(bench.reconciler.reconcile().await, None);
    assert!(bench.log().is_empty());
    bench.sync(vec![service("a", "10.96.0.1", 3)]);
    bench.reconciler.reconcile().await;
    assert_eq!(bench.log(), ["replace 1"]);
    assert_eq!(
        bench.applied.borrow().map(Position::both),
        Some(Revision(10))
    );
}

#[tokio::test]
async fn a_change_writes_its_own_difference_and_new_rules_come_before_old_ones_go() {
    let mut bench = bench();
    bench.sync(
        (1..=100)
            .map(|n| service(&format!("s{n}"), &format!("10.96.1.{n}"), n))
            .collect(),
    );
    bench.reconciler.reconcile().await;
    bench.log();
    let mut moved = service("s1", "10.96.2.1", 1001);
    moved.spec.ports[0].port = 81;
    bench.change(vec![Delta::Put(moved)]);
    bench.reconciler.reconcile().await;
    assert_eq!(bench.log(), ["put 81", "remove 80"]);
    assert_eq!(
        bench.applied.borrow().map(Position::both),
        Some(Revision(1000)),
        "the slices are known up to 1000 only"
    );
    bench.pods.send_modify(|pods| {
        _ = pods
            .addresses
            .insert("10.244.1.2".parse().expect("address"))
    });
    bench.reconciler.reconcile().await;
    assert!(bench.log().is_empty(), "a local Pod changes no frontend");
}

#[tokio::test]
async fn the_udp_flows_of_what_changed_are_looked_through_after_its_rules() {
    let mut bench = bench();
    let udp = |name: &str, ip: &str, port: u16, revision: u64| {
        let mut service = service(name, ip, revision);
        service.spec.ports[0].protocol = crate::objects::Protocol::Udp;
        service.spec.ports[0].port = port;
        service
    };
    bench.sync(vec![
        service("web", "10.96.0.1", 3),
        udp("a", "10.96.0.2", 53, 4),
        udp("b", "10.96.0.3", 54, 5),
    ]);
    bench.reconciler.reconcile().await;
    assert_eq!(bench.log(), ["replace 3", "flows 53 54"]);
    bench.change(vec![
        Delta::Put(service("web", "10.96.0.4", 1001)),
        Delta::Put(udp("a", "10.96.0.2", 55, 1002)),
    ]);
    bench.reconciler.reconcile().await;
    let log = bench.log();
    assert_eq!(
        log.last().map(String::as_str),
        Some("flows gone 53 55"),
        "{log:?}"
    );
    // What is gone is remembered until it was looked through, whatever fails.
    bench.rules.state.lock().expect("lock").failures = 1;
    bench.change(vec![Delta::Remove {
        key: udp("a", "", 0, 0).key(),
        revision: Revision(1003),
    }]);
    assert!(bench.reconciler.reconcile().await.is_some());
    assert!(bench.reconciler.reconcile().await.is_none());
    let log = bench.log();
    assert_eq!(
        log.last().map(String::as_str),
        Some("flows gone 55 54"),
        "{log:?}"
    );
}

#[tokio::test]
async fn the_udp_flows_of_what_went_while_no_agent_ran_are_looked_through_once() {
    let at = |protocol, port: u16| Frontend::Address {
        addr: "10.96.0.2".parse().expect("address"),
        protocol,
        port: std::num::NonZeroU16::new(port).expect("a port"),
    };
    let left_behind = [
        at(Protocol::Udp, 80),
        at(Protocol::Udp, 54),
        at(Protocol::Tcp, 55),
    ];
    let mut bench = bench_on(left_behind.into());
    let mut stays = service("a", "10.96.0.2", 3);
    stays.spec.ports[0].protocol = crate::objects::Protocol::Udp;
    bench.sync(vec![stays]);
    bench.reconciler.reconcile().await;
    assert_eq!(bench.log(), ["replace 1", "flows gone 54 80"]);
    bench.change(vec![Delta::Put(service("b", "10.96.0.3", 1001))]);
    bench.reconciler.reconcile().await;
    assert_eq!(bench.log(), ["put 80"]);
}

#[tokio::test]
async fn who_inherits_a_frontend_has_its_udp_flows_looked_through() {
    let mut bench = bench();
    let udp = |name: &str, ip: &str| {
        let mut service = service(name, ip, 3);
        service.spec.ports[0].protocol = crate::objects::Protocol::Udp;
        service.spec.external_ips = ["198.51.100.1".into()].into();
        service
    };
    bench.sync(vec![udp("a", "10.96.0.2")]);
    bench.reconciler.reconcile().await;
    bench.change(vec![Delta::Put(udp("b", "10.96.0.3"))]);
    bench.reconciler.reconcile().await;
    bench.log();
    bench.change(vec![Delta::Remove {
        key: udp("a", "").key(),
        revision: Revision(1002),
    }]);
    bench.reconciler.reconcile().await;
    let log = bench.log();
    // The ClusterIP of a is gone; those of b, one of which was a's, are looked through.
    assert_eq!(
        log.last().map(String::as_str),
        Some("flows gone 80 80 80"),
        "{log:?}"
    );
}

#[tokio::test]
async fn a_failed_batch_is_followed_by_a_whole_replacement_that_loses_nothing() {
    let mut bench = bench();
    bench.sync(vec![
        service("a", "10.96.0.1", 3),
        service("b", "10.96.0.2", 4),
    ]);
    bench.reconciler.reconcile().await;
    bench.log();
    bench.rules.state.lock().expect("lock").failures = 1;
    bench.change(vec![
        Delta::Put(service("c", "10.96.0.3", 1001)),
        Delta::Remove {
            key: service("a", "", 0).key(),
            revision: Revision(1002),
        },
    ]);
    assert!(
        bench.reconciler.reconcile().await.is_some(),
        "it is tried again later"
    );
    assert_eq!(
        bench.applied.borrow().map(Position::both),
        Some(Revision(10)),
        "nothing new is claimed as applied"
    );
    assert_eq!(bench.reconciler.reconcile().await, None);
    assert_eq!(bench.log(), ["failed", "replace 2"]);
    assert_eq!(bench.addresses(), ["10.96.0.2", "10.96.0.3"]);
    assert_eq!(
        bench.applied.borrow().map(Position::both),
        Some(Revision(1000))
    );
}

#[tokio::test]
async fn the_health_check_of_a_service_comes_and_goes_with_its_rules() {
    let mut bench = bench();
    let mut balanced = service("a", "10.96.0.1", 3);
    balanced.spec.kind = crate::objects::ServiceType::LoadBalancer;
    balanced.spec.external_traffic_policy = Some(crate::objects::TrafficPolicy::Local);
    balanced.spec.health_check_node_port = 32_000;
    let key = balanced.key();
    bench.sync(vec![balanced.clone(), service("b", "10.96.0.2", 4)]);
    let ports = |bench: &Bench| -> Vec<u16> {
        let checks = bench.reconciler.health.checks();
        checks.values().map(|check| check.port.get()).collect()
    };
    assert!(ports(&bench).is_empty(), "not before the rules");
    bench.reconciler.reconcile().await;
    assert_eq!(ports(&bench), [32_000]);
    balanced.spec.health_check_node_port = 32_001;
    bench.change(vec![Delta::Put(balanced)]);
    bench.reconciler.reconcile().await;
    assert_eq!(ports(&bench), [32_001]);
    let revision = Revision(2000);
    bench.change(vec![Delta::Remove { key, revision }]);
    bench.reconciler.reconcile().await;
    assert!(ports(&bench).is_empty());
}

#[tokio::test]
async fn a_node_that_moves_to_another_zone_looks_at_every_service_again() {
    let mut bench = bench();
    let hinted = |zone: &str, addr: &str| {
        json!({
            "addresses": [addr], "conditions": {"ready": true},
            "hints": {"forZones": [{"name": zone}]},
        })
    };
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": "a-1", "resourceVersion": "3",
            "labels": {"kubernetes.io/service-name": "a"},
        },
        "endpoints": [hinted("z1", "10.244.1.2"), hinted("z2", "10.244.2.2")],
        "ports": [{"name": "", "port": 80}],
    }))
    .expect("slice");
    bench.sync(vec![service("a", "10.96.0.1", 3)]);
    lock(&bench.reconciler.view).apply_slices(vec![Delta::Put(slice)]);
    let endpoints = |bench: &Bench| -> Vec<String> {
        let state = bench.rules.state.lock().expect("lock");
        let fates = state.frontends.values();
        let of = |fate: &Fate| match fate {
            Fate::Balance { endpoints, .. } => endpoints.to_vec(),
            other => panic!("{other:?}"),
        };
        fates
            .flat_map(of)
            .map(|endpoint| endpoint.addr.to_string())
            .collect()
    };
    bench.reconciler.reconcile().await;
    assert_eq!(endpoints(&bench), ["10.244.1.2", "10.244.2.2"], "no zone");
    for (zone, wanted) in [("z2", "10.244.2.2"), ("z1", "10.244.1.2")] {
        bench.reconciler.move_to(Some(zone.into()));
        bench.reconciler.reconcile().await;
        assert_eq!(endpoints(&bench), [wanted], "{zone}");
    }
}

#[tokio::test]
async fn an_address_is_announced_by_the_node_that_was_chosen_once_it_has_the_rules() {
    let mut bench = bench();
    bench.reconciler.here.node = "n1".into();
    let mut balanced = service("a", "10.96.0.1", 3);
    balanced.spec.kind = crate::objects::ServiceType::LoadBalancer;
    balanced.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "VIP"},
    ]}}))
    .expect("status");
    balanced.metadata.annotations = serde_json::from_value(
        json!({"minik.dev/announced-by": "192.0.2.1=n1,192.0.2.2=n2,192.0.2.3=n1"}),
    )
    .expect("annotations");
    bench.sync(vec![balanced.clone(), service("b", "10.96.0.2", 4)]);
    let announced = |bench: &Bench| -> Vec<IpAddr> {
        let all = bench.reconciler.announcements.get();
        all.into_values().flatten().collect()
    };
    assert!(announced(&bench).is_empty(), "not before the rules");
    bench.reconciler.reconcile().await;
    assert_eq!(announced(&bench), [IpAddr::from([192, 0, 2, 1])]);
    balanced.metadata.annotations.announced_by = Some("192.0.2.1=n2".into());
    bench.change(vec![Delta::Put(balanced)]);
    bench.reconciler.reconcile().await;
    assert!(announced(&bench).is_empty());
}

/// A port of the node comes and goes with its Pod; a Service that has it keeps it, and leaves it to the Pod when it goes.
#[tokio::test]
async fn a_port_of_the_node_leads_to_its_pod_as_long_as_the_pod_is_there() {
    let mut bench = bench();
    let node_port = |port: u16| Frontend::NodePort {
        family: dataplane::model::Family::V4,
        protocol: dataplane::model::Protocol::Udp,
        port: std::num::NonZeroU16::new(port).expect("a port"),
    };
    let endpoint = dataplane::model::Endpoint {
        addr: "10.244.1.2".parse().expect("address"),
        port: std::num::NonZeroU16::MIN,
    };
    bench.sync(Vec::new());
    bench.pods.send_modify(|pods| {
        let ports = [(node_port(8080), endpoint)].into();
        pods.host_ports.insert("uid-1".into(), ports);
    });
    bench.reconciler.reconcile().await;
    assert_eq!(bench.log(), ["replace 1", "flows 8080"]);
    let fate = bench.rules.state.lock().expect("lock").frontends[&node_port(8080)].clone();
    assert_eq!(fate, crate::translate::host_port_fate(endpoint));

    bench.pods.send_modify(|pods| {
        let ports = [(node_port(8081), endpoint)].into();
        pods.host_ports.insert("uid-2".into(), ports);
    });
    bench.reconciler.reconcile().await;
    assert_eq!(bench.log(), ["put 8081", "flows 8081"]);
    bench.pods.send_modify(|pods| pods.host_ports.clear());
    bench.reconciler.reconcile().await;
    let mut log = bench.log();
    log.sort();
    let wanted = ["flows gone 8080 gone 8081", "remove 8080", "remove 8081"];
    assert_eq!(log, wanted);
}

#[tokio::test]
async fn ranges_of_services_follow_their_objects_and_never_cover_pods_or_the_node() {
    let mut bench = bench();
    let net = |text: &str| -> IpNet { text.parse().expect("a network") };
    bench.reconciler.configured = BTreeSet::from([net("10.96.0.0/16")]);
    bench.reconciler.base.service_networks = bench.reconciler.configured.clone();
    bench.reconciler.base.pod_networks = BTreeSet::from([net("10.244.0.0/16")]);
    bench.reconciler.here.addresses = Some(IpAddr::from([192, 0, 2, 1]).into());
    bench.sync(Vec::new());
    bench.reconciler.reconcile().await;
    let networks = |bench: &Bench| -> Vec<String> {
        let state = bench.rules.state.lock().expect("lock");
        let networks = state.service_networks.iter();
        networks.map(ToString::to_string).collect()
    };
    assert_eq!(networks(&bench), ["10.96.0.0/16"]);
    let put = |bench: &Bench, name: &str, range: &str| {
        let cidr = serde_json::from_value(json!({
            "metadata": {"name": name, "resourceVersion": "20"}, "spec": {"cidrs": [range]},
        }));
        let cidr = cidr.expect("a ServiceCIDR");
        lock(&bench.reconciler.view).apply_service_cidrs(vec![Delta::Put(cidr)]);
    };
    for (name, range) in [
        ("more", "10.100.0.0/24"),
        ("pods", "10.244.7.0/24"),
        ("all-pods", "10.128.0.0/9"),
        ("node", "192.0.2.0/24"),
    ] {
        put(&bench, name, range);
        bench.reconciler.reconcile().await;
    }
    assert_eq!(networks(&bench), ["10.96.0.0/16", "10.100.0.0/24"]);
    lock(&bench.reconciler.view).apply_service_cidrs(vec![Delta::Remove {
        key: Key::new("", "more"),
        revision: Revision(30),
    }]);
    bench.reconciler.reconcile().await;
    assert_eq!(networks(&bench), ["10.96.0.0/16"]);
}
