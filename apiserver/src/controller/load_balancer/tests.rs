//! Addresses, announcing nodes and Events, object by object.

use api::{core::Node, discovery::EndpointSlice};

use super::*;
use crate::{announcers::Announcers, store::Revision};

/// A cluster of objects, and the controller with its pool.
struct Cluster {
    world: World,
    balancers: LoadBalancers,
    announcers: Announcers,
    revision: u64,
}

impl Cluster {
    /// Nodes n1, n2 and n3, all ready.
    fn new(pool: &[&str]) -> Self {
        let pool = pool.iter().map(|entry| entry.parse().unwrap()).collect();
        let announcers = Announcers::default();
        let mut cluster = Self {
            world: World::default(),
            balancers: LoadBalancers::new(Pool(pool), Liveness::new(announcers.clone())),
            announcers,
            revision: 0,
        };
        for number in 1..=3 {
            cluster.node(number, json!({}));
        }
        cluster.settle();
        cluster
    }

    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }

    fn node(&mut self, number: usize, patch: Value) {
        let mut node = json!({
            "metadata": {"name": format!("n{number}"), "labels": {}},
            "status": {
                "addresses": [{"type": "InternalIP", "address": format!("198.18.0.1{number}")}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        json_patch::merge(&mut node, &patch);
        let node: Node = serde_json::from_value(node).unwrap();
        let revision = self.next_revision();
        self.world.put(revision, node);
    }

    fn service(&mut self, name: &str, patch: Value) {
        let key = ("d".into(), name.into());
        let mut service = match self.world.services.get(&key) {
            Some(known) => known.to_value(),
            None => json!({
                "metadata": {"name": name, "namespace": "d", "uid": name},
                "spec": {
                    "type": "LoadBalancer",
                    "ipFamilies": ["IPv4"],
                    "externalTrafficPolicy": "Cluster",
                    "ports": [{"port": 80, "protocol": "TCP"}],
                },
            }),
        };
        json_patch::merge(&mut service, &patch);
        self.put_service(service);
    }

    fn put_service(&mut self, mut service: Value) {
        let revision = self.next_revision();
        service["metadata"]["resourceVersion"] = json!(revision.0.to_string());
        let service: Service = serde_json::from_value(service).unwrap();
        self.world.put(revision, service);
    }

    fn endpoints(&mut self, service: &str, nodes: &[(&str, bool)]) {
        let endpoints: Vec<Value> = nodes
            .iter()
            .map(|(node, ready)| json!({"addresses": ["10.1.0.1"], "nodeName": node, "conditions": {"ready": ready}}))
            .collect();
        let slice = json!({
            "metadata": {"name": service, "namespace": "d", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [],
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        let revision = self.next_revision();
        self.world.put(revision, slice);
    }

    /// Lets the controller work until it is content; returns the Events it wrote, as `reason: message`.
    fn settle(&mut self) -> Vec<String> {
        self.settle_at(Instant::now())
    }

    fn settle_at(&mut self, now: Instant) -> Vec<String> {
        let mut events = Vec::new();
        self.balancers.due(&mut self.world, now);
        for _ in 0..10 {
            let dirty = std::mem::take(&mut self.world.dirty).balanced;
            if dirty.is_empty() {
                return events;
            }
            for action in self.balancers.plan(&self.world, &dirty, now) {
                match action {
                    Action::Create(_, event) => events.push(format!(
                        "{}: {}",
                        event["reason"].as_str().unwrap(),
                        event["message"].as_str().unwrap()
                    )),
                    Action::Merge(_, key, Part::Status, patch) => {
                        let mut service = self.world.services.get(&key).unwrap().to_value();
                        json_patch::merge(&mut service, &patch);
                        self.put_service(service);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        panic!("the controller does not come to rest");
    }

    /// Lets time pass as the loop does that runs the controller.
    fn settle_from(&mut self, from: Instant, to: Instant) -> Vec<String> {
        let mut events = Vec::new();
        let mut now = from;
        while now < to {
            events.extend(self.settle_at(now));
            let next = self.balancers.next().unwrap_or(to);
            now = next.max(now + Duration::from_millis(1));
        }
        events.extend(self.settle_at(to));
        events
    }

    fn get(&self, name: &str) -> &Service {
        self.world.services.get(&("d".into(), name.into())).unwrap()
    }

    /// The first address.
    fn address(&self, name: &str) -> String {
        let addresses = ingress(self.get(name));
        addresses.first().map(IpAddr::to_string).unwrap_or_default()
    }

    /// The node that announces it.
    fn node_of(&self, name: &str) -> String {
        let nodes = announced_by(self.get(name));
        nodes.into_values().next().unwrap_or_default().into()
    }

    /// What the controller says when this Service is made.
    fn told(&mut self, name: &str, patch: Value) -> Vec<String> {
        self.service(name, patch);
        self.settle()
    }
}

#[test]
fn a_service_gets_an_address_a_node_a_finalizer_and_events() {
    let mut cluster = Cluster::new(&["192.0.2.8-192.0.2.9"]);
    let told = cluster.told("a", json!({}));
    let node = cluster.node_of("a");
    assert_eq!(
        told,
        [
            "IPAllocated: Assigned 192.0.2.8".to_owned(),
            format!("Announced: 192.0.2.8 is announced by node {node}"),
        ]
    );
    let service = cluster.get("a");
    assert!(is_held(service));
    let point = &service.status.load_balancer.ingress[0];
    assert_eq!(
        (&*point.ip, point.ip_mode.as_deref()),
        ("192.0.2.8", Some("VIP"))
    );
    cluster.service("a", json!({"metadata": {"labels": {"x": "y"}}}));
    assert!(cluster.settle().is_empty(), "told once");
}

#[test]
fn an_exhausted_pool_is_told_and_a_deleted_service_makes_room() {
    let mut cluster = Cluster::new(&["192.0.2.8-192.0.2.8"]);
    cluster.told("a", json!({}));
    let told = cluster.told("b", json!({}));
    assert!(
        told.len() == 1 && told[0].starts_with("SyncLoadBalancerFailed: No address: every one of"),
        "{told:?}"
    );
    assert_eq!(cluster.address("b"), "");

    cluster.service(
        "a",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    let told = cluster.settle();
    assert!(!is_held(cluster.get("a")), "it may go");
    assert_eq!(cluster.address("b"), "192.0.2.8", "{told:?}");
}

#[test]
fn a_change_of_type_gives_the_address_back() {
    let mut cluster = Cluster::new(&["192.0.2.8-192.0.2.8"]);
    cluster.told("a", json!({}));
    // What the registry does: status.loadBalancer goes with the type.
    cluster.service(
        "a",
        json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {"ingress": null}}}),
    );
    cluster.settle();
    assert!(!is_held(cluster.get("a")));
    assert_eq!(cluster.node_of("a"), "");
    assert!(!cluster.world.balanced.contains(&("d".into(), "a".into())));
    cluster.told("b", json!({}));
    assert_eq!(cluster.address("b"), "192.0.2.8");
}

#[test]
fn only_services_without_a_class_or_with_ours_are_ours() {
    let mut cluster = Cluster::new(&["192.0.2.0/28"]);
    let theirs = json!({"spec": {"loadBalancerClass": "example.com/other"}});
    let told = cluster.told("theirs", theirs);
    assert_eq!(
        told,
        [
            "SyncLoadBalancerFailed: No address: spec.loadBalancerClass is \"example.com/other\", whose implementation has to give \
          one; minik serves Services without a class, and \"minik.dev/layer2\""
        ]
    );
    let given =
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}});
    assert!(cluster.told("theirs", given).is_empty());
    assert!(!is_held(cluster.get("theirs")));
    assert_eq!(cluster.address("theirs"), "192.0.2.1");
    cluster.told(
        "ours",
        json!({"spec": {"loadBalancerClass": "minik.dev/layer2"}}),
    );
    assert_eq!(cluster.address("ours"), "192.0.2.1");
}

#[test]
fn without_a_pool_a_service_is_told_so_and_otherwise_left_alone() {
    let mut cluster = Cluster::new(&[]);
    let told = cluster.told("a", json!({}));
    assert!(
        told.len() == 1 && told[0].contains("started without --load-balancer-pool"),
        "{told:?}"
    );
    assert!(!is_held(cluster.get("a")));
    let elsewhere =
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}}});
    cluster.told("a", elsewhere);
    assert_eq!(
        cluster.address("a"),
        "203.0.113.1",
        "another implementation's"
    );
}

#[test]
fn addresses_that_are_asked_for_are_given_or_it_is_told_why_not() {
    let mut cluster = Cluster::new(&["192.0.2.0/28", "198.18.0.11-198.18.0.12"]);
    cluster.told("a", json!({"spec": {"loadBalancerIP": "192.0.2.7"}}));
    assert_eq!(cluster.address("a"), "192.0.2.7");
    let annotated = |addresses: &str| json!({"metadata": {"annotations": {WANTED: addresses}}, "spec": {"loadBalancerIP": "192.0.2.9"}});
    cluster.told("b", annotated("192.0.2.5"));
    assert_eq!(
        cluster.address("b"),
        "192.0.2.5",
        "the annotation goes first"
    );
    for (name, wanted, why) in [
        ("c", "192.0.2.7", "which Service d/a has"),
        ("d", "203.0.113.7", "which is not in --load-balancer-pool"),
        ("e", "192.0.2", "which is no IP address"),
        ("f", "2001:db8::1", "of no family in spec.ipFamilies"),
        (
            "g",
            "192.0.2.1,192.0.2.2",
            "one address of each family at most",
        ),
        ("h", "198.18.0.11", "which is a node's own"),
    ] {
        let told = cluster.told(name, annotated(wanted));
        assert!(
            told.len() == 1
                && told[0].starts_with("SyncLoadBalancerFailed: ")
                && told[0].contains(why),
            "{wanted}: {told:?}"
        );
        assert_eq!(cluster.address(name), "");
    }
    // Another wish moves it.
    cluster.told("a", json!({"spec": {"loadBalancerIP": "192.0.2.8"}}));
    assert_eq!(cluster.address("a"), "192.0.2.8");
    assert_eq!(cluster.address("c"), "192.0.2.7", "who waited for it");
}

#[test]
fn an_address_of_each_family_that_the_pool_has_is_given() {
    let dual =
        |policy: &str| json!({"spec": {"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": policy}});
    let mut cluster = Cluster::new(&["192.0.2.0/28", "2001:db8::/64"]);
    cluster.told("a", dual("RequireDualStack"));
    let addresses: Vec<String> = ingress(cluster.get("a"))
        .iter()
        .map(IpAddr::to_string)
        .collect();
    assert_eq!(addresses, ["2001:db8::1", "192.0.2.1"]);
    let mut cluster = Cluster::new(&["192.0.2.0/28"]);
    cluster.told("a", dual("PreferDualStack"));
    assert_eq!(ingress(cluster.get("a")).len(), 1);
    let alone = json!({"spec": {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}});
    for (name, wish) in [("b", dual("RequireDualStack")), ("c", alone)] {
        let told = cluster.told(name, wish);
        assert!(
            told.len() == 1
                && told[0].starts_with("SyncLoadBalancerFailed: ")
                && told[0].contains("no --load-balancer-pool has IPv6"),
            "{name}: {told:?}"
        );
        assert_eq!(cluster.address(name), "");
    }
}

/// What is asked of the nodes' own addresses, and cannot be had.
#[test]
fn with_the_nodes_as_pool_it_is_told_why_none_of_them_answers() {
    let mut cluster = Cluster::new(&["nodes"]);
    let port = |port: u16, spec: Value| {
        let mut service = json!({"spec": {"ports": [{"port": port, "protocol": "TCP"}]}});
        json_patch::merge(&mut service["spec"], &spec);
        service
    };
    for (name, wish, why) in [
        (
            "a",
            port(1, json!({"externalTrafficPolicy": "Local"})),
            "no ready node has a ready endpoint",
        ),
        (
            "b",
            port(2, json!({"loadBalancerIP": "192.0.2.7"})),
            "192.0.2.7 was asked for, which is of no node",
        ),
        (
            "c",
            port(3, json!({"ipFamilies": ["IPv6"]})),
            "no node that may answer has an IPv6 address",
        ),
    ] {
        let told = cluster.told(name, wish);
        assert!(
            told.len() == 1
                && told[0].starts_with("SyncLoadBalancerFailed: ")
                && told[0].contains(why),
            "{name}: {told:?}"
        );
        assert_eq!(cluster.address(name), "");
    }
    for number in 1..=3 {
        cluster.node(number, json!({"metadata": {"labels": {EXCLUDED: ""}}}));
    }
    let told = cluster.told("d", port(4, json!({})));
    let why = "no node is ready and free of the label";
    assert!(told.iter().any(|told| told.contains(why)), "{told:?}");
    assert_eq!(cluster.address("d"), "");
}

#[test]
fn an_address_that_no_node_may_announce_is_told_and_what_is_wrong_is_told_again() {
    let mut cluster = Cluster::new(&["192.0.2.0/28"]);
    for number in 1..=3 {
        cluster.node(number, json!({"metadata": {"labels": {EXCLUDED: ""}}}));
    }
    let told = cluster.told("a", json!({}));
    let why = "NotAnnounced: No node answers: none is ready and free of the label";
    assert!(told.iter().any(|told| told.starts_with(why)), "{told:?}");
    let now = Instant::now();
    assert!(cluster.settle_at(now).is_empty(), "told once");
    let again = cluster.settle_at(now + TELL_AGAIN);
    assert!(again.len() == 1 && again[0].starts_with(why), "{again:?}");
}

#[test]
fn an_address_that_left_the_pool_is_replaced() {
    let mut cluster = Cluster::new(&["192.0.2.0/28"]);
    cluster.service(
        "a",
        json!({
            "metadata": {"finalizers": [FINALIZER]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}},
        }),
    );
    cluster.settle();
    assert_eq!(cluster.address("a"), "192.0.2.1");
}

#[test]
fn addresses_are_spread_over_the_nodes_and_stay_while_theirs_may() {
    let mut cluster = Cluster::new(&["192.0.2.0/24"]);
    let names: Vec<String> = (0..30).map(|number| format!("s{number}")).collect();
    for name in &names {
        cluster.told(name, json!({}));
    }
    let place = |cluster: &Cluster| -> Vec<String> {
        names.iter().map(|name| cluster.node_of(name)).collect()
    };
    let before = place(&cluster);
    for node in ["n1", "n2", "n3"] {
        let count = before.iter().filter(|name| *name == node).count();
        assert!((4..=16).contains(&count), "{node}: {count} of 30");
    }
    cluster.node(
        2,
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
    );
    cluster.settle();
    let without = place(&cluster);
    for (before, after) in before.iter().zip(&without) {
        assert!(after != "n2" && (before == "n2" || before == after));
    }
    cluster.node(2, json!({}));
    cluster.settle();
    assert_eq!(place(&cluster), without, "nothing moves without need");
}

#[test]
fn a_node_that_is_silent_excluded_or_going_loses_its_addresses() {
    let mut cluster = Cluster::new(&["192.0.2.0/24"]);
    let now = Instant::now();
    cluster.told("a", json!({}));
    let first = cluster.node_of("a");
    let later = now + Duration::from_secs(60);
    assert!(cluster.announcers.heard(&first, later));
    assert!(cluster.settle_at(later).is_empty());
    let told = cluster.settle_from(later, later + Duration::from_secs(2));
    let second = cluster.node_of("a");
    assert_ne!(first, second, "{told:?}");
    let number = |name: &str| name[1..].parse().unwrap();

    cluster.node(
        number(&second),
        json!({"metadata": {"labels": {EXCLUDED: ""}}}),
    );
    cluster.settle_at(later + Duration::from_secs(2));
    let third = cluster.node_of("a");
    assert!(
        third != first && third != second,
        "{first} {second} {third}"
    );

    // The last one that may, heard of or not, keeps it.
    cluster.settle_from(later, later + Duration::from_secs(9));
    assert_eq!(cluster.node_of("a"), third);
    // Until another one reports: it waits for no heartbeat of a Lease.
    let _ = cluster
        .announcers
        .heard(&first, later + Duration::from_secs(9));
    cluster.settle_at(later + Duration::from_secs(9));
    assert_eq!(cluster.node_of("a"), first);
}

#[test]
fn with_a_local_policy_only_nodes_with_a_ready_endpoint_announce() {
    let mut cluster = Cluster::new(&["192.0.2.0/24"]);
    cluster.endpoints("a", &[("n1", false), ("n2", true)]);
    cluster.told("a", json!({"spec": {"externalTrafficPolicy": "Local"}}));
    assert_eq!(cluster.node_of("a"), "n2");
    cluster.endpoints("a", &[("n3", true), ("n2", false)]);
    cluster.settle();
    assert_eq!(cluster.node_of("a"), "n3");
    cluster.endpoints("a", &[("n3", false)]);
    let told = cluster.settle();
    assert_eq!(cluster.node_of("a"), "");
    assert_eq!(cluster.address("a"), "192.0.2.1", "the address stays");
    assert!(told[0].starts_with("NotAnnounced: "), "{told:?}");
}

#[test]
fn with_the_nodes_as_pool_a_service_answers_on_all_of_them_unless_its_port_is_taken() {
    let mut cluster = Cluster::new(&["nodes"]);
    cluster.told(
        "a",
        json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    let all: Vec<String> = ingress(cluster.get("a"))
        .iter()
        .map(IpAddr::to_string)
        .collect();
    assert_eq!(all, ["198.18.0.11", "198.18.0.12", "198.18.0.13"]);
    assert_eq!(
        cluster.node_of("a"),
        "",
        "nodes answer for their addresses anyway"
    );
    let later = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:01Z"}});
    let told = cluster.told("b", later.clone());
    assert!(
        told[0].contains("port 80/TCP of the nodes is taken by Service d/a"),
        "{told:?}"
    );

    cluster.endpoints("c", &[("n2", true)]);
    let mut local = later;
    local["spec"] =
        json!({"externalTrafficPolicy": "Local", "ports": [{"port": 81, "protocol": "TCP"}]});
    cluster.told("c", local);
    assert_eq!(cluster.address("c"), "198.18.0.12");
    cluster.node(
        2,
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
    );
    let told = cluster.settle();
    assert_eq!(ingress(cluster.get("a")).len(), 2);
    assert_eq!(cluster.address("c"), "", "{told:?}");
}
