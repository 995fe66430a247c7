//! The real kernel agrees: in private network namespaces, needs root.

use std::{collections::BTreeMap, net::IpAddr};

use crate::common::random::{after, change, desired};
use crate::common::{
    Netns, address, balance, from, local, need, node_port, open, run, with_affinity,
};
use dataplane::{
    Dataplane, DataplaneError, Verified,
    kernel::{Kernel, KernelError, Netlink, Ownership},
    model::{Change, Desired, Family, Fate, LocalDetector, Protocol},
    plan::{Action, Operation},
    ruleset::sets,
};
use proptest::{
    collection::vec,
    test_runner::{Config, TestRunner},
};

/// Something of everything.
fn zoo() -> Desired {
    Desired {
        frontends: BTreeMap::from([
            (
                address("10.96.0.1", Protocol::Tcp, 443),
                balance(&["192.0.2.1:6443"]),
            ),
            (
                address("10.96.0.2", Protocol::Tcp, 80),
                balance(&["10.244.0.2:8080", "10.244.0.3:8080", "10.244.1.2:8080"]),
            ),
            (
                address("10.96.0.2", Protocol::Udp, 53),
                balance(&["10.244.0.2:53", "10.244.0.3:53"]),
            ),
            (
                address("10.96.0.3", Protocol::Sctp, 9),
                with_affinity(balance(&["10.244.0.2:9", "10.244.0.3:9"]), 10_800),
            ),
            (address("10.96.0.4", Protocol::Tcp, 80), Fate::Reject),
            (address("10.96.0.5", Protocol::Tcp, 80), Fate::Drop),
            (
                address("fd00:96::2", Protocol::Tcp, 80),
                balance(&["[fd00:244::2]:80", "[fd00:244::3]:80"]),
            ),
            (
                address("fd00:96::3", Protocol::Tcp, 80),
                with_affinity(balance(&["[fd00:244::2]:80"]), 60),
            ),
            (
                node_port(Family::V4, 30080),
                balance(&["10.244.0.2:8080", "10.244.0.3:8080"]),
            ),
            (node_port(Family::V4, 30081), Fate::Reject),
            (
                node_port(Family::V4, 30083),
                local(
                    &["10.244.0.2:8080"],
                    &["10.244.0.2:8080", "10.244.1.2:8080"],
                ),
            ),
            (
                address("198.51.100.7", Protocol::Tcp, 80),
                with_affinity(local(&[], &["10.244.0.2:8080", "10.244.1.2:8080"]), 60),
            ),
            (
                address("198.51.100.8", Protocol::Tcp, 80),
                from(
                    &[
                        "192.0.2.0/24",
                        "198.51.100.0/25",
                        "198.51.100.128/25",
                        "203.0.113.7/32",
                    ],
                    balance(&["10.244.0.2:8080"]),
                ),
            ),
            (
                address("198.51.100.9", Protocol::Tcp, 80),
                from(&["2001:db8::/32"], balance(&["10.244.0.2:8080"])),
            ),
            (
                address("2001:db8::7", Protocol::Tcp, 80),
                from(
                    &["2001:db8:7::/48", "2001:db8:9::9/128"],
                    local(&["[fd00:244::2]:80"], &["[fd00:244::2]:80"]),
                ),
            ),
            (
                node_port(Family::V4, 30082),
                with_affinity(balance(&["10.244.0.2:8080"]), 10_800),
            ),
            (node_port(Family::V6, 30080), balance(&["[fd00:244::2]:80"])),
        ]),
        service_networks: ["10.96.0.0/16", "fd00:96::/108"]
            .map(|net| net.parse().expect("a network"))
            .into(),
        pod_networks: ["10.244.0.0/16", "fd00:244::/56"]
            .map(|net| net.parse().expect("a network"))
            .into(),
        local_pods: ["10.244.0.2", "fd00:244::2"]
            .map(|addr| addr.parse::<IpAddr>().expect("an address"))
            .into(),
        local_listeners: [
            address("10.96.0.10", Protocol::Udp, 53),
            address("10.96.0.10", Protocol::Tcp, 53),
        ]
        .into(),
        node_port_networks: ["192.0.2.0/24".parse().expect("a network")].into(),
        masquerade_egress: true,
        ..Desired::default()
    }
}

/// nft's listing with one element per line and without what depends on versions, sorted where nft sorts otherwise.
fn listing() -> Vec<String> {
    let text = run("nft -y list ruleset");
    let mut lines = Vec::new();
    let mut elements: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(first) = trimmed.strip_prefix("elements = {") {
            elements = Some(String::new());
            collect(first, &mut elements, &mut lines);
        } else if elements.is_some() {
            collect(trimmed, &mut elements, &mut lines);
        } else if !trimmed.is_empty() && trimmed != "flags owner" && !trimmed.starts_with("table") {
            lines.push(trimmed.to_owned());
        }
    }
    lines.sort();
    lines
}

fn collect(part: &str, elements: &mut Option<String>, lines: &mut Vec<String>) {
    let all = elements.get_or_insert_default();
    all.push(' ');
    all.push_str(part);
    if all.ends_with('}') {
        let all = elements.take().expect("just used");
        lines.extend(
            all.trim_end_matches('}')
                .split(',')
                .map(|element| format!("element {}", element.trim())),
        );
    }
}

#[test]
fn the_printed_ruleset_is_what_nft_lists() {
    need("nft");
    let detectors = [
        LocalDetector::PodNetworks,
        LocalDetector::Networks(["10.244.1.0/24".parse().expect("a network")].into()),
        LocalDetector::Interface("minik0".into()),
        LocalDetector::InterfacePrefix("veth".into()),
    ];
    for local_detector in detectors {
        let desired = Desired {
            local_detector,
            ..zoo()
        };
        prints_what_nft_lists(&desired);
    }
}

fn prints_what_nft_lists(desired: &Desired) {
    Netns::new().run(|| {
        let mut dataplane = open(Ownership::WhenPossible);
        dataplane.replace(desired).expect("replace");
        let ours = dataplane.text();
        let mut ours: Vec<&str> = ours
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("table"))
            .collect();
        ours.sort_unstable();
        let theirs = listing();
        let missing: Vec<_> = ours
            .iter()
            .filter(|line| !theirs.iter().any(|their| their == *line))
            .collect();
        let foreign: Vec<_> = theirs
            .iter()
            .filter(|line| !ours.contains(&line.as_str()))
            .collect();
        assert!(
            missing.is_empty() && foreign.is_empty(),
            "only ours: {missing:#?}\nonly nft's: {foreign:#?}"
        );
        assert_eq!(ours.len(), theirs.len());
    });
}

#[test]
fn a_restart_changes_nothing_that_is_right() {
    Netns::new().run(|| {
        for ownership in [Ownership::WhenPossible, Ownership::Never] {
            let mut first = open(ownership);
            first.replace(&zoo()).expect("replace");
            let before = listing_of_nft();
            drop(first);
            let mut second = open(ownership);
            let applied = second.replace(&zoo()).expect("replace");
            assert_eq!(applied.transactions, 0, "{applied:?}");
            assert_eq!(listing_of_nft(), before);
            second.remove().expect("remove");
            assert_eq!(run("nft list tables"), "");
        }
    });
}

fn listing_of_nft() -> String {
    run("nft list ruleset")
}

/// Since Linux 6.9 nobody can flush our tables; before that they are repaired. On either a second process is refused.
#[test]
fn a_foreign_flush_does_no_harm_and_a_second_process_is_refused() {
    for ownership in [Ownership::WhenPossible, Ownership::Never] {
        Netns::new().run(|| {
            let mut dataplane = open(ownership);
            dataplane.replace(&zoo()).expect("replace");
            let before = dataplane.text();
            run("nft add table ip foreign");
            run("nft flush ruleset");
            let flushed = if dataplane.kernel_mut().is_exclusive() {
                Verified::Intact
            } else {
                Verified::Repaired
            };
            assert_eq!(dataplane.verify().expect("verify"), flushed);
            assert_eq!(dataplane.replace(&zoo()).expect("replace").transactions, 0);
            assert_eq!(dataplane.text(), before);
            let second = Netlink::open(ownership).expect("a socket");
            let error = Dataplane::open(second).expect_err("the tables are occupied");
            assert!(matches!(error, DataplaneError::Occupied { .. }), "{error}");
            drop(dataplane);
            let mut successor = open(ownership);
            assert_eq!(successor.replace(&zoo()).expect("replace").transactions, 0);
        });
    }
}

#[test]
fn foreign_damage_is_repaired_and_foreign_tables_are_left_alone() {
    let slots = sets::SLOTS.map(|map| format!("flush map ip minik {map}"));
    let damages = [
        "nft flush ruleset",
        "nft delete table ip minik",
        "nft delete table ip6 minik",
        "nft flush chain ip minik services",
        "nft add rule ip minik services drop",
        &format!("nft {}", slots.join(" ; ")),
        "nft flush set ip minik masquerade-non-pods-ips",
        "nft add chain ip minik stranger",
        "nft add set ip minik stranger { type mark ; }",
        "nft add element ip minik reject-ips { 10.96.0.1 . tcp . 443 }",
        "nft insert rule ip minik nat-postrouting return",
    ];
    Netns::new().run(|| {
        let mut dataplane = open(Ownership::Never);
        dataplane.replace(&zoo()).expect("replace");
        let right = listing();
        run("nft add table inet foreign");
        run("nft add chain inet foreign c { type filter hook input priority 0 ; }");
        assert_eq!(
            dataplane.verify().expect("verify"),
            Verified::Intact,
            "foreign tables are not ours"
        );
        for damage in damages {
            run(damage);
            assert_eq!(
                dataplane.verify().expect("verify"),
                Verified::Repaired,
                "{damage}"
            );
            let listed = listing()
                .into_iter()
                .filter(|line| !line.contains("priority 0; policy"))
                .collect::<Vec<_>>();
            assert_eq!(without_foreign(listed), right, "{damage}");
            assert_eq!(
                dataplane.verify().expect("verify"),
                Verified::Intact,
                "{damage}"
            );
        }
    });
}

/// Drops the lines of table `inet foreign`, which `flush ruleset` took along.
fn without_foreign(mut lines: Vec<String>) -> Vec<String> {
    if let Some(at) = lines.iter().position(|line| line == "chain c {") {
        lines.remove(at);
        let braces: Vec<usize> = lines
            .iter()
            .enumerate()
            .filter(|(_, line)| *line == "}")
            .map(|(index, _)| index)
            .take(2)
            .collect();
        for index in braces.into_iter().rev() {
            lines.remove(index);
        }
    }
    lines
}

#[test]
fn changes_reach_the_kernel_and_leave_the_rest() {
    Netns::new().run(|| {
        let mut dataplane = open(Ownership::WhenPossible);
        dataplane.replace(&zoo()).expect("replace");
        let web = address("10.96.0.2", Protocol::Tcp, 80);
        let steps = [
            (
                web,
                Some(balance(&[
                    "10.244.0.2:8080",
                    "10.244.0.9:8080",
                    "10.244.1.2:8080",
                ])),
            ),
            (web, Some(balance(&["10.244.0.9:8080"]))),
            (web, Some(Fate::Reject)),
            (
                web,
                Some(with_affinity(
                    balance(&["10.244.0.9:8080", "10.244.0.8:8080"]),
                    7,
                )),
            ),
            (web, None),
            (
                address("10.96.7.7", Protocol::Tcp, 1),
                Some(balance(&["10.244.0.1:1"; 1])),
            ),
            (address("fd00:96::2", Protocol::Tcp, 80), Some(Fate::Drop)),
        ];
        let mut desired = zoo();
        for (frontend, fate) in steps {
            match &fate {
                Some(fate) => _ = desired.frontends.insert(frontend, fate.clone()),
                None => _ = desired.frontends.remove(&frontend),
            }
            let change = Change {
                frontends: [(frontend, fate)].into(),
                ..Change::default()
            };
            let applied = dataplane.update(&change).expect("update");
            assert_eq!(applied.transactions, 1, "{change:?}");
            assert_eq!(
                dataplane.update(&change).expect("update").transactions,
                0,
                "{change:?}"
            );
            assert_eq!(
                dataplane.replace(&desired).expect("replace").transactions,
                0,
                "{change:?}"
            );
        }
        // The kernel's own view, read back by a successor, is the same.
        drop(dataplane);
        assert_eq!(
            open(Ownership::WhenPossible)
                .replace(&desired)
                .expect("replace")
                .transactions,
            0
        );
    });
}

#[test]
fn a_set_grows_and_shrinks_by_tens_of_thousands_of_elements() {
    Netns::new().run(|| {
        let mut dataplane = open(Ownership::WhenPossible);
        dataplane.replace(&zoo()).expect("replace");
        let many: Vec<String> = (0..20_000)
            .map(|n| format!("10.244.{}.{}:80", n / 250, n % 250))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let frontend = address("10.96.0.2", Protocol::Tcp, 80);
        let mut desired = zoo();
        for count in [10, 15_000, 20_000, 3] {
            let fate = balance(&many[..count]);
            desired.frontends.insert(frontend, fate.clone());
            dataplane
                .update(&Change {
                    frontends: [(frontend, Some(fate))].into(),
                    ..Change::default()
                })
                .expect("update");
        }
        drop(dataplane);
        assert_eq!(
            open(Ownership::WhenPossible)
                .replace(&desired)
                .expect("replace")
                .transactions,
            0
        );
    });
}

#[test]
fn without_privileges_the_error_says_so() {
    Netns::new().run(|| {
        let output = std::process::Command::new("setpriv")
            .args([
                "--bounding-set",
                "-all",
                "--inh-caps",
                "-all",
                "--reuid",
                "65534",
                "--clear-groups",
                "--no-new-privs",
            ])
            .arg(std::env::current_exe().expect("own path"))
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "kernel::unprivileged_child",
            ])
            .output()
            .expect("this test needs `setpriv` (Debian: util-linux)");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    });
}

/// Run by `without_privileges_the_error_says_so` only.
#[test]
#[ignore = "the unprivileged half of another test"]
fn unprivileged_child() {
    match Netlink::open(Ownership::WhenPossible) {
        Ok(_) => println!("opened"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn random_states_converge_in_the_kernel_and_read_back_equal() {
    let mut runner = TestRunner::new(Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    });
    let states = (desired(), vec(change(), 0..4), desired());
    runner
        .run(&states, |(start, changes, end)| {
            Netns::new().run(|| {
                let mut dataplane = open(Ownership::WhenPossible);
                dataplane.replace(&start).expect("replace");
                let mut wanted = start.clone();
                for change in &changes {
                    dataplane.update(change).expect("update");
                    wanted = after(wanted, change);
                }
                drop(dataplane);
                let mut successor = open(Ownership::WhenPossible);
                let applied = successor.replace(&wanted).expect("replace");
                assert_eq!(applied.transactions, 0, "the kernel holds what was wanted");
                successor.replace(&end).expect("replace");
                drop(successor);
                assert_eq!(
                    open(Ownership::WhenPossible)
                        .replace(&end)
                        .expect("replace")
                        .transactions,
                    0
                );
            });
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_refused_operation_is_named_and_nothing_of_its_transaction_stays() {
    Netns::new().run(|| {
        let mut kernel = Netlink::open(Ownership::WhenPossible).expect("a netlink socket");
        let operations = |actions: Vec<Action>| {
            actions
                .into_iter()
                .map(|action| Operation {
                    family: Family::V4,
                    action,
                })
                .collect::<Vec<_>>()
        };
        let bad = operations(vec![
            Action::AddTable,
            Action::AddChain {
                name: "good".into(),
                base: None,
            },
            Action::FlushChain {
                name: "missing".into(),
            },
        ]);
        let error = kernel.commit(&bad, None).expect_err("no such chain");
        assert!(error.is_not_found());
        let said = error.to_string();
        assert!(
            said.contains("flush chain missing of table ip minik"),
            "{said}"
        );
        assert_eq!(run("nft list tables"), "");

        let generation = kernel.generation().expect("generation");
        kernel
            .commit(&operations(vec![Action::AddTable]), Some(generation))
            .expect("nobody interfered");
        run("nft add table ip foreign");
        let error = kernel
            .commit(&operations(vec![Action::DeleteTable]), Some(generation + 1))
            .expect_err("stale");
        assert!(matches!(error, KernelError::Stale), "{error}");
        assert_eq!(
            kernel.holders().expect("holders").len(),
            1,
            "nothing was applied"
        );
    });
}
