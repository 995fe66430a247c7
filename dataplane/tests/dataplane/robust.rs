//! Damage and repair with a client at work: what is not damaged is never missed, and one pass brings back the rest.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use dataplane::{
    Verified,
    kernel::{Kernel, Netlink, Ownership},
    model::{Change, Family, LocalDetector, Protocol},
    plan::plan,
    ruleset::Ruleset,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, TestRunner},
};

use crate::{
    common::{
        Netns, address, balance, need, node_port, of_another_make, open, random, run, with_affinity,
    },
    net::{ALL, Met, Net, SOON, desired, tcp, web},
};

/// Connects all the time while `what` happens; returns what was met other than an endpoint.
fn while_connecting(net: &Net, to: &str, what: impl FnOnce()) -> Vec<Met> {
    let (stop, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut missed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match tcp(&net.client, to) {
                    Met::Server(..) => _ = connections.fetch_add(1, Ordering::Relaxed),
                    other => missed.push(other),
                }
            }
            missed
        });
        let at_least = |count: usize| {
            let deadline = Instant::now() + SOON;
            while connections.load(Ordering::Relaxed) < count && !client.is_finished() {
                assert!(Instant::now() < deadline, "the client does not get on");
                thread::sleep(Duration::from_millis(1));
            }
        };
        at_least(3);
        what();
        at_least(connections.load(Ordering::Relaxed) + 3);
        stop.store(true, Ordering::Relaxed);
        client.join().expect("client")
    })
}

/// What the kernel holds, as far as it can be read.
fn held() -> Ruleset {
    let mut reader = Netlink::open(Ownership::Never).expect("a socket");
    reader.read().expect("read").ruleset
}

/// Makes the kernel hold another ruleset, as somebody else would.
fn spoil(to: &Ruleset) {
    let mut stranger = Netlink::open(Ownership::Never).expect("a socket");
    for operations in plan(&held(), to).transactions {
        stranger.commit(&operations, None).expect("commit");
    }
}

#[test]
fn any_state_converges_in_one_pass_and_an_undamaged_service_is_never_missed() {
    let net = Net::new();
    let right = desired([
        (web(), balance(&ALL)),
        (node_port(Family::V4, 30_080), balance(&ALL)),
    ]);
    let mut dataplane = net.node.run(|| {
        let mut dataplane = open(Ownership::Never);
        dataplane.replace(&right).expect("replace");
        dataplane
    });
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::default()
    });
    let missed = while_connecting(&net, "10.96.0.2:80", || {
        net.node.run(|| {
            for round in 0..24 {
                let tree = random::desired().new_tree(&mut runner).expect("a state");
                let mut damaged = tree.current();
                damaged.frontends.insert(web(), balance(&ALL));
                damaged.local_listeners.clear();
                damaged.pod_networks.clone_from(&right.pod_networks);
                if round % 3 == 0 {
                    // The constant rules of another minik, or of other flags.
                    damaged.local_detector = LocalDetector::InterfacePrefix("veth".into());
                }
                spoil(&Ruleset::compile(&damaged, &held()));
                assert_eq!(dataplane.verify().expect("verify"), Verified::Repaired);
                assert_eq!(dataplane.verify().expect("verify"), Verified::Intact);
                assert_eq!(
                    dataplane.replace(&right).expect("replace").transactions,
                    0,
                    "one pass was enough"
                );
            }
        });
    });
    assert_eq!(missed, []);
}

#[test]
fn maps_of_another_make_are_replaced_without_a_miss() {
    let net = Net::new();
    let right = desired([(web(), balance(&ALL))]);
    let mut dataplane = net.node.run(|| {
        let mut dataplane = open(Ownership::Never);
        dataplane.replace(&right).expect("replace");
        dataplane
    });
    let missed = while_connecting(&net, "10.96.0.2:80", || {
        net.node.run(|| {
            for _ in 0..8 {
                let other = of_another_make(&Ruleset::compile(&right, &held()));
                spoil(&other);
                assert_eq!(held(), other);
                assert_eq!(dataplane.verify().expect("verify"), Verified::Repaired);
                assert_eq!(held(), Ruleset::compile(&right, &held()));
            }
        });
    });
    assert_eq!(missed, []);
}

#[test]
fn the_first_service_with_affinity_comes_and_the_last_goes_without_a_miss() {
    let net = Net::new();
    let mut dataplane = net.node.run(|| {
        let mut dataplane = open(Ownership::WhenPossible);
        let right = desired([(web(), balance(&ALL))]);
        dataplane.replace(&right).expect("replace");
        dataplane
    });
    let other = address("10.96.0.3", Protocol::Tcp, 80);
    let missed = while_connecting(&net, "10.96.0.2:80", || {
        net.node.run(|| {
            for round in 0..40 {
                let fate = (round % 2 == 0).then(|| with_affinity(balance(&ALL), 60));
                let change = Change {
                    frontends: [(other, fate)].into(),
                    ..Change::default()
                };
                let applied = dataplane.update(&change).expect("update");
                assert_eq!(applied.transactions, 1, "round {round}");
            }
        });
    });
    assert_eq!(missed, []);
}

/// What an older minik, half a crash or a hand may leave under our name: each is right after one pass.
#[test]
fn half_a_table_and_tables_of_another_make_are_replaced() {
    need("nft");
    let states = [
        // Nothing but the name.
        "nft add table ip minik",
        // A map of our name with another key, in use.
        "nft add table ip minik
         nft add map ip minik service-picks { type ipv4_addr . inet_service : verdict ; }
         nft add chain ip minik services
         nft add rule ip minik services ip daddr . tcp dport vmap @service-picks",
        // A base chain of our name on another hook.
        "nft add table ip minik
         nft add chain ip minik nat-prerouting { type nat hook postrouting priority 0 ; }",
        // Chains and sets that this version does not have, naming each other.
        "nft add table ip6 minik
         nft add chain ip6 minik older
         nft add chain ip6 minik old
         nft add rule ip6 minik old jump older
         nft add set ip6 minik gone { type ipv6_addr ; }
         nft add rule ip6 minik older ip6 daddr @gone drop",
        // Elements that no version of ours has.
        "nft add table ip minik
         nft add set ip minik active-ips { type ipv4_addr ; flags interval ; }
         nft add element ip minik active-ips { 10.0.0.0/8 }",
    ];
    for state in states {
        let netns = Netns::new();
        netns.commands(state);
        netns.run(|| {
            let right = desired([(web(), balance(&ALL))]);
            let mut dataplane = open(Ownership::Never);
            let applied = dataplane.replace(&right).expect("replace");
            assert_ne!(applied.transactions, 0, "{state}");
            drop(dataplane);
            let mut successor = open(Ownership::Never);
            let again = successor.replace(&right).expect("replace");
            assert_eq!(again.transactions, 0, "one pass was enough: {state}");
        });
    }
}

/// `systemctl reload nftables` and firewalld begin with a flush of everything, and then load what is theirs.
const RELOAD: &str = "nft flush ruleset
    nft add table inet firewalld
    nft add chain inet firewalld filter_INPUT { type filter hook input priority 10 ; policy accept ; }
    nft add rule inet firewalld filter_INPUT ct state established accept";

#[test]
fn a_firewalls_reload_is_survived_and_its_own_rules_stay() {
    need("nft");
    let net = Net::new();
    for ownership in [Ownership::WhenPossible, Ownership::Never] {
        let mut dataplane = net.node.run(|| {
            let mut dataplane = open(ownership);
            let right = desired([(web(), balance(&ALL))]);
            dataplane.replace(&right).expect("replace");
            dataplane
        });
        let owned = dataplane.kernel_mut().is_exclusive();
        let missed = while_connecting(&net, "10.96.0.2:80", || {
            for _ in 0..8 {
                net.node.commands(RELOAD);
                net.node.run(|| dataplane.verify().expect("verify"));
            }
        });
        if owned {
            assert_eq!(missed, [], "nobody can flush what we own");
        }
        // Where they could, all is right again at once.
        let after = while_connecting(&net, "10.96.0.2:80", || {});
        assert_eq!(after, [], "{ownership:?}");
        let theirs = net.node.run(|| run("nft list table inet firewalld"));
        assert!(theirs.contains("ct state established accept"), "{theirs}");
        net.node.run(|| dataplane.remove().expect("remove"));
    }
}
