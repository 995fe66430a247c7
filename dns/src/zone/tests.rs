//! One table of questions and answers (the shape of CoreDNS's handler_test.go), and the laws of changes.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use proptest::prelude::*;

use super::{Answer, Config, Reply, Zone};
use crate::records::{Change, Host, Port, Service};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(ip).collect()
}

/// `name/protocol/number`, several separated by blanks; the name may be empty.
fn ports(text: &str) -> Vec<Port> {
    let port = |text: &str| {
        let [name, protocol, number] = text.split('/').collect::<Vec<_>>().try_into().unwrap();
        Port {
            name: name.into(),
            protocol: ["tcp", "udp", "sctp"]
                .into_iter()
                .find(|known| *known == protocol)
                .unwrap(),
            number: number.parse().unwrap(),
        }
    };
    text.split_whitespace().map(port).collect()
}

/// `address` or `hostname@address`, several separated by blanks.
fn hosts(text: &str, ports_of_each: &str) -> Vec<Host> {
    let host = |text: &str| {
        let (hostname, addr) = text.split_once('@').unwrap_or(("", text));
        Host {
            hostname: (!hostname.is_empty()).then(|| hostname.into()),
            addr: ip(addr),
            ports: ports(ports_of_each),
        }
    };
    text.split_whitespace().map(host).collect()
}

fn virtual_ip(addrs: &str, named: &str) -> Service {
    Service::Virtual {
        addrs: ips(addrs),
        ports: ports(named),
    }
}

fn headless(endpoints: &str, named: &str) -> Service {
    Service::Headless {
        hosts: hosts(endpoints, named),
    }
}

fn alias(target: &str) -> Service {
    Service::Alias {
        target: target.into(),
    }
}

fn set(name: &str, records: Service) -> Change {
    Change::Service {
        namespace: "ns".into(),
        name: name.into(),
        records: Some(records),
    }
}

fn namespace(name: &str, exists: bool) -> Change {
    Change::Namespace {
        name: name.into(),
        exists,
    }
}

fn config() -> Config {
    Config {
        nameservers: ips("10.96.0.10"),
        reverse: vec![
            "10.96.0.0/16".parse().unwrap(),
            "10.244.0.0/16".parse().unwrap(),
            "fd00:96::/112".parse().unwrap(),
        ],
        ..Config::default()
    }
}

fn a_zone() -> Zone {
    let zone = Zone::new(config()).unwrap();
    zone.apply(vec![
        namespace("ns", true),
        namespace("empty", true),
        set("web", virtual_ip("10.96.0.1", "http/tcp/80 dns/udp/53")),
        set("plain", virtual_ip("10.96.0.2", "/tcp/80")),
        set("six", virtual_ip("fd00:96::1", "http/tcp/80")),
        set("dual", virtual_ip("10.96.0.3 fd00:96::3", "http/tcp/80")),
        set(
            "set",
            headless(
                "10.244.1.1 db-0@10.244.1.2 db-0@10.244.1.3 fd00:244::",
                "pg/tcp/5432",
            ),
        ),
        set("portless", headless("10.244.1.9", "")),
        set("none-ready", headless("", "")),
        set("ext", alias("db.Example.org")),
        set("ext-web", alias("web.ns.svc.cluster.local")),
        set("ext-ext", alias("ext.ns.svc.cluster.local")),
        set("ext-none", alias("nobody.ns.svc.cluster.local")),
        set("ext-self", alias("ext-self.ns.svc.cluster.local")),
        set("ext-ip", alias("192.0.2.1")),
        set("loop-a", alias("loop-b.ns.svc.cluster.local")),
        set("loop-b", alias("loop-a.ns.svc.cluster.local")),
        // A Pod of `set` is also behind `more`; 10.96.0.1 is an endpoint of `odd` too.
        set("more", headless("10.244.1.1", "")),
        set("odd", headless("10.96.0.1", "")),
    ]);
    zone.set_synced(true);
    zone
}

fn ask(zone: &Zone, qname: &str, qtype: RecordType) -> Answer {
    zone.snapshot()
        .answer(&Name::from_ascii(qname).unwrap(), qtype)
}

fn ours(zone: &Zone, qname: &str, qtype: RecordType) -> Reply {
    match ask(zone, qname, qtype) {
        Answer::Ours(reply) => reply,
        Answer::Elsewhere => panic!("{qname} {qtype} is not ours"),
    }
}

/// Sorted `owner ttl type data`, with the cluster domain as `~`.
fn text(records: &[Record]) -> Vec<String> {
    let line = |record: &Record| {
        let line = format!(
            "{} {} {} {}",
            record.name,
            record.ttl,
            record.record_type(),
            record.data
        );
        line.replace("cluster.local.", "~")
    };
    let mut lines: Vec<_> = records.iter().map(line).collect();
    lines.sort();
    lines
}

/// What a row wants.
enum Want {
    /// These answers, and these additionals.
    Records(&'static [&'static str], &'static [&'static str]),
    NoData,
    NxDomain,
    ServFail,
}
use Want::{NoData, NxDomain, Records, ServFail};

const fn records(answers: &'static [&'static str]) -> Want {
    Records(answers, &[])
}

fn table() -> Vec<(&'static str, RecordType, Want)> {
    use RecordType::{A, AAAA, ANY, CNAME, MX, NS, SOA, SRV, TXT};
    vec![
        // A Service with a ClusterIP.
        ("web.ns.svc.~", A, records(&["web.ns.svc.~ 5 A 10.96.0.1"])),
        ("WEB.ns.Svc.~", A, records(&["WEB.ns.Svc.~ 5 A 10.96.0.1"])),
        (
            "web.ns.svc.~",
            ANY,
            records(&["web.ns.svc.~ 5 A 10.96.0.1"]),
        ),
        ("web.ns.svc.~", AAAA, NoData),
        ("web.ns.svc.~", MX, NoData),
        ("web.ns.svc.~", SOA, NoData),
        (
            "six.ns.svc.~",
            AAAA,
            records(&["six.ns.svc.~ 5 AAAA fd00:96::1"]),
        ),
        ("six.ns.svc.~", A, NoData),
        (
            "dual.ns.svc.~",
            A,
            records(&["dual.ns.svc.~ 5 A 10.96.0.3"]),
        ),
        (
            "dual.ns.svc.~",
            AAAA,
            records(&["dual.ns.svc.~ 5 AAAA fd00:96::3"]),
        ),
        // Its ports.
        (
            "_http._tcp.web.ns.svc.~",
            SRV,
            Records(
                &["_http._tcp.web.ns.svc.~ 5 SRV 0 100 80 web.ns.svc.~"],
                &["web.ns.svc.~ 5 A 10.96.0.1"],
            ),
        ),
        (
            "http.tcp.web.ns.svc.~",
            SRV,
            Records(
                &["http.tcp.web.ns.svc.~ 5 SRV 0 100 80 web.ns.svc.~"],
                &["web.ns.svc.~ 5 A 10.96.0.1"],
            ),
        ),
        (
            "web.ns.svc.~",
            SRV,
            Records(
                &[
                    "web.ns.svc.~ 5 SRV 0 50 53 web.ns.svc.~",
                    "web.ns.svc.~ 5 SRV 0 50 80 web.ns.svc.~",
                ],
                &["web.ns.svc.~ 5 A 10.96.0.1"],
            ),
        ),
        (
            "_http._tcp.dual.ns.svc.~",
            SRV,
            Records(
                &["_http._tcp.dual.ns.svc.~ 5 SRV 0 100 80 dual.ns.svc.~"],
                &[
                    "dual.ns.svc.~ 5 A 10.96.0.3",
                    "dual.ns.svc.~ 5 AAAA fd00:96::3",
                ],
            ),
        ),
        ("_http._tcp.web.ns.svc.~", A, NoData),
        ("_tcp.web.ns.svc.~", A, NoData),
        ("_sctp.web.ns.svc.~", A, NxDomain),
        ("_http._udp.web.ns.svc.~", SRV, NxDomain),
        ("_none._tcp.web.ns.svc.~", SRV, NxDomain),
        ("_tcp.plain.ns.svc.~", SRV, NxDomain),
        ("a._http._tcp.web.ns.svc.~", SRV, NxDomain),
        ("a.web.ns.svc.~", A, NxDomain),
        // A headless Service.
        (
            "set.ns.svc.~",
            A,
            records(&[
                "set.ns.svc.~ 5 A 10.244.1.1",
                "set.ns.svc.~ 5 A 10.244.1.2",
                "set.ns.svc.~ 5 A 10.244.1.3",
            ]),
        ),
        (
            "set.ns.svc.~",
            AAAA,
            records(&["set.ns.svc.~ 5 AAAA fd00:244::"]),
        ),
        (
            "db-0.set.ns.svc.~",
            A,
            records(&[
                "db-0.set.ns.svc.~ 5 A 10.244.1.2",
                "db-0.set.ns.svc.~ 5 A 10.244.1.3",
            ]),
        ),
        ("DB-0.set.ns.svc.~", AAAA, NoData),
        (
            "10-244-1-1.set.ns.svc.~",
            A,
            records(&["10-244-1-1.set.ns.svc.~ 5 A 10.244.1.1"]),
        ),
        (
            "fd00-244--0.set.ns.svc.~",
            AAAA,
            records(&["fd00-244--0.set.ns.svc.~ 5 AAAA fd00:244::"]),
        ),
        ("10-244-1-2.set.ns.svc.~", A, NxDomain),
        ("other.set.ns.svc.~", A, NxDomain),
        (
            "_pg._tcp.set.ns.svc.~",
            SRV,
            Records(
                &[
                    "_pg._tcp.set.ns.svc.~ 5 SRV 0 33 5432 10-244-1-1.set.ns.svc.~",
                    "_pg._tcp.set.ns.svc.~ 5 SRV 0 33 5432 db-0.set.ns.svc.~",
                    "_pg._tcp.set.ns.svc.~ 5 SRV 0 33 5432 fd00-244--0.set.ns.svc.~",
                ],
                &[
                    "10-244-1-1.set.ns.svc.~ 5 A 10.244.1.1",
                    "db-0.set.ns.svc.~ 5 A 10.244.1.2",
                    "db-0.set.ns.svc.~ 5 A 10.244.1.3",
                    "fd00-244--0.set.ns.svc.~ 5 AAAA fd00:244::",
                ],
            ),
        ),
        (
            "portless.ns.svc.~",
            A,
            records(&["portless.ns.svc.~ 5 A 10.244.1.9"]),
        ),
        ("portless.ns.svc.~", AAAA, NoData),
        ("portless.ns.svc.~", SRV, NoData),
        ("none-ready.ns.svc.~", A, NxDomain),
        // An external name.
        (
            "ext.ns.svc.~",
            CNAME,
            records(&["ext.ns.svc.~ 5 CNAME db.example.org."]),
        ),
        (
            "ext.ns.svc.~",
            A,
            records(&["ext.ns.svc.~ 5 CNAME db.example.org."]),
        ),
        ("a.ext.ns.svc.~", A, NxDomain),
        ("_http._tcp.ext.ns.svc.~", SRV, NxDomain),
        (
            "ext-web.ns.svc.~",
            A,
            records(&[
                "ext-web.ns.svc.~ 5 CNAME web.ns.svc.~",
                "web.ns.svc.~ 5 A 10.96.0.1",
            ]),
        ),
        (
            "ext-ext.ns.svc.~",
            A,
            records(&[
                "ext-ext.ns.svc.~ 5 CNAME ext.ns.svc.~",
                "ext.ns.svc.~ 5 CNAME db.example.org.",
            ]),
        ),
        ("ext-self.ns.svc.~", A, NoData),
        ("ext-ip.ns.svc.~", A, NoData),
        ("loop-a.ns.svc.~", A, ServFail),
        // What is not there, and what is only a step on the way.
        ("nobody.ns.svc.~", A, NxDomain),
        ("nobody.ns.svc.~", MX, NxDomain),
        ("a.nobody.ns.svc.~", A, NxDomain),
        ("web.nowhere.svc.~", A, NxDomain),
        ("web.empty.svc.~", A, NxDomain),
        ("nowhere.svc.~", A, NxDomain),
        ("ns.svc.~", A, NoData),
        ("empty.svc.~", NS, NoData),
        ("svc.~", A, NoData),
        ("pod.~", A, NoData),
        ("dns.~", A, NoData),
        ("foo.~", A, NxDomain),
        ("my-service.default.svc.cluster.local.svc.~", A, NxDomain),
        // Pods by address.
        (
            "10-244-7-8.ns.pod.~",
            A,
            records(&["10-244-7-8.ns.pod.~ 5 A 10.244.7.8"]),
        ),
        ("10-244-7-8.ns.pod.~", AAAA, NoData),
        (
            "fd00--7.ns.pod.~",
            AAAA,
            records(&["fd00--7.ns.pod.~ 5 AAAA fd00::7"]),
        ),
        ("ns.pod.~", A, NoData),
        ("10-244-7.ns.pod.~", A, NxDomain),
        ("a.10-244-7-8.ns.pod.~", A, NxDomain),
        ("10-244-7-8.nowhere.pod.~", A, NxDomain),
        // The zone itself.
        (
            "~",
            SOA,
            records(&["~ 5 SOA ns.dns.~ hostmaster.~ 1 7200 1800 86400 5"]),
        ),
        (
            "~",
            NS,
            Records(&["~ 5 NS ns.dns.~"], &["ns.dns.~ 5 A 10.96.0.10"]),
        ),
        ("~", A, NoData),
        ("ns.dns.~", A, records(&["ns.dns.~ 5 A 10.96.0.10"])),
        (
            "dns-version.~",
            TXT,
            records(&["dns-version.~ 28800 TXT 1.1.0"]),
        ),
        ("dns-version.~", A, NoData),
    ]
}

#[test]
fn every_question_of_the_table_has_its_answer() {
    let zone = a_zone();
    for (qname, qtype, want) in table() {
        let reply = ours(&zone, &qname.replace('~', "cluster.local."), qtype);
        let (code, answers, additionals): (_, &[&str], &[&str]) = match want {
            Records(answers, additionals) => (ResponseCode::NoError, answers, additionals),
            NoData => (ResponseCode::NoError, &[], &[]),
            NxDomain => (ResponseCode::NXDomain, &[], &[]),
            ServFail => (ResponseCode::ServFail, &[], &[]),
        };
        let authorities: &[&str] = match want {
            NoData | NxDomain => &["~ 5 SOA ns.dns.~ hostmaster.~ 1 7200 1800 86400 5"],
            Records(..) | ServFail => &[],
        };
        assert_eq!(reply.code, code, "{qname} {qtype}");
        assert_eq!(text(&reply.answers), answers, "answers of {qname} {qtype}");
        assert_eq!(
            text(&reply.authorities),
            authorities,
            "authorities of {qname} {qtype}"
        );
        assert_eq!(
            text(&reply.additionals),
            additionals,
            "additionals of {qname} {qtype}"
        );
    }
}

#[test]
fn an_alias_to_a_missing_name_of_ours_is_nxdomain_with_the_alias() {
    let reply = ours(&a_zone(), "ext-none.ns.svc.cluster.local.", RecordType::A);
    assert_eq!(reply.code, ResponseCode::NXDomain);
    assert_eq!(
        text(&reply.answers),
        ["ext-none.ns.svc.~ 5 CNAME nobody.ns.svc.~"]
    );
    assert_eq!(reply.authorities.len(), 1);
}

#[test]
fn an_alias_out_of_the_zone_is_left_to_an_upstream() {
    let chase = |qname, qtype| {
        ours(&a_zone(), qname, qtype)
            .chase
            .map(|name| name.to_ascii())
    };
    let qname = "ext-ext.ns.svc.cluster.local.";
    assert_eq!(
        chase(qname, RecordType::A).as_deref(),
        Some("db.example.org.")
    );
    assert_eq!(chase(qname, RecordType::CNAME), None);
}

#[test]
fn addresses_have_names_and_a_cluster_ip_wins() {
    let zone = a_zone();
    let names = |addr: &str| {
        let reply = ours(&zone, &Name::from(ip(addr)).to_ascii(), RecordType::PTR);
        let targets = text(&reply.answers)
            .into_iter()
            .map(|line| line.rsplit(' ').next().unwrap().to_owned());
        (reply.code, targets.collect::<Vec<_>>())
    };
    assert_eq!(
        names("10.96.0.1"),
        (ResponseCode::NoError, vec!["web.ns.svc.~".into()])
    );
    assert_eq!(names("fd00:96::3").1, ["dual.ns.svc.~"]);
    assert_eq!(
        names("10.244.1.1").1,
        ["10-244-1-1.more.ns.svc.~", "10-244-1-1.set.ns.svc.~"]
    );
    assert_eq!(names("10.244.1.2").1, ["db-0.set.ns.svc.~"]);
    assert_eq!(
        names("fd00:244::").1,
        ["fd00-244--0.set.ns.svc.~"],
        "outside the ranges, yet known"
    );
    assert_eq!(names("10.244.9.9"), (ResponseCode::NXDomain, vec![]));
}

#[test]
fn the_ranges_of_reverse_names_can_change() {
    let zone = a_zone();
    let qname = Name::from_ascii("9.0.100.10.in-addr.arpa.").unwrap();
    let code = || match zone.snapshot().answer(&qname, RecordType::PTR) {
        Answer::Ours(reply) => Some(reply.code),
        Answer::Elsewhere => None,
    };
    assert_eq!(code(), None, "an address of the world outside");
    zone.set_reverse(vec!["10.100.0.0/24".parse().unwrap()]);
    assert_eq!(code(), Some(ResponseCode::NXDomain));
    zone.set_reverse(Vec::new());
    assert_eq!(code(), None);
}

#[test]
fn a_negative_reverse_answer_carries_the_soa_of_its_range() {
    let zone = a_zone();
    let authority = |qname, qtype| {
        let reply = ours(&zone, qname, qtype);
        assert!(reply.answers.is_empty());
        (reply.code, reply.authorities[0].name.to_ascii())
    };
    let missing = (ResponseCode::NXDomain, "244.10.in-addr.arpa.".to_owned());
    assert_eq!(
        authority("9.9.244.10.in-addr.arpa.", RecordType::PTR),
        missing
    );
    let no_data = (ResponseCode::NoError, "96.10.in-addr.arpa.".to_owned());
    assert_eq!(authority("1.0.96.10.in-addr.arpa.", RecordType::A), no_data);
    assert_eq!(
        authority("0.96.10.in-addr.arpa.", RecordType::PTR),
        no_data,
        "a step on the way"
    );
}

#[test]
fn names_and_addresses_of_others_are_not_answered() {
    let zone = a_zone();
    for qname in [
        "www.example.org.",
        "local.",
        ".",
        "xcluster.local.",
        "1.0.0.127.in-addr.arpa.",
        "in-addr.arpa.",
        "x.arpa.",
    ] {
        assert_eq!(
            ask(&zone, qname, RecordType::PTR),
            Answer::Elsewhere,
            "{qname}"
        );
    }
}

#[test]
fn nothing_of_ours_is_denied_before_the_zone_is_synced() {
    let zone = Zone::new(config()).unwrap();
    for qname in ["web.ns.svc.cluster.local.", "1.0.96.10.in-addr.arpa."] {
        assert_eq!(
            ours(&zone, qname, RecordType::A),
            Reply::code(ResponseCode::ServFail),
            "{qname}"
        );
    }
    assert_eq!(
        ask(&zone, "www.example.org.", RecordType::A),
        Answer::Elsewhere
    );
    zone.set_synced(true);
    assert_eq!(
        ours(&zone, "web.ns.svc.cluster.local.", RecordType::A).code,
        ResponseCode::NXDomain
    );
}

#[test]
fn a_removed_service_takes_its_names_and_addresses_along() {
    let zone = a_zone();
    zone.apply(vec![Change::Service {
        namespace: "ns".into(),
        name: "web".into(),
        records: None,
    }]);
    assert_eq!(
        ours(&zone, "web.ns.svc.cluster.local.", RecordType::A).code,
        ResponseCode::NXDomain
    );
    let pointer = ours(&zone, "1.0.96.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(
        text(&pointer.answers),
        ["1.0.96.10.in-addr.arpa. 5 PTR 10-96-0-1.odd.ns.svc.~"]
    );
}

#[test]
fn a_namespace_exists_until_it_is_neither_declared_nor_used() {
    let zone = a_zone();
    let code = |qname| ours(&zone, qname, RecordType::A).code;
    zone.apply(vec![namespace("empty", false), namespace("ns", false)]);
    assert_eq!(code("empty.svc.cluster.local."), ResponseCode::NXDomain);
    assert_eq!(code("ns.svc.cluster.local."), ResponseCode::NoError);
    assert_eq!(code("web.ns.svc.cluster.local."), ResponseCode::NoError);
}

#[test]
fn a_name_too_long_for_dns_is_left_out() {
    let zone = a_zone();
    zone.apply(vec![set(&"x".repeat(64), virtual_ip("10.96.0.9", ""))]);
    assert_eq!(
        ours(&zone, "9.0.96.10.in-addr.arpa.", RecordType::PTR).code,
        ResponseCode::NXDomain
    );
}

#[test]
fn a_domain_that_is_no_name_is_an_error_that_quotes_it() {
    let domain = "a..b".into();
    let error = Zone::new(Config {
        domain,
        ..Config::default()
    })
    .err()
    .unwrap();
    assert!(error.to_string().contains("\"a..b\""), "{error}");
}

fn some_change() -> impl Strategy<Value = Change> {
    let name = || prop::sample::select(vec!["a", "b", "c", "A"]);
    let addrs = || prop::collection::vec((0..6u8).prop_map(|n| IpAddr::from([10, 96, 0, n])), 0..3);
    let service = prop_oneof![
        addrs().prop_map(|addrs| Service::Virtual {
            addrs,
            ports: ports("http/tcp/80")
        }),
        addrs().prop_map(|addrs| Service::Headless {
            hosts: addrs
                .into_iter()
                .map(|addr| Host {
                    hostname: None,
                    addr,
                    ports: vec![]
                })
                .collect(),
        }),
        name().prop_map(|name| alias(&format!("{name}.a.svc.cluster.local"))),
    ];
    prop_oneof![
        (name(), any::<bool>()).prop_map(|(name, exists)| namespace(name, exists)),
        (name(), name(), prop::option::of(service)).prop_map(|(namespace, name, records)| {
            Change::Service {
                namespace: namespace.into(),
                name: name.into(),
                records,
            }
        }),
    ]
}

/// Every answer there is to the names and addresses `some_change` can make.
fn all_answers(zone: &Zone) -> Vec<(ResponseCode, Vec<String>)> {
    let names = ["a", "b", "c"];
    let services = names.iter().flat_map(|ns| {
        names
            .iter()
            .map(move |name| format!("{name}.{ns}.svc.cluster.local."))
    });
    let namespaces = names.iter().map(|ns| format!("{ns}.svc.cluster.local."));
    let forward = services
        .chain(namespaces)
        .flat_map(|name| [(name.clone(), RecordType::A), (name, RecordType::SRV)]);
    let reverse = (0..6).map(|n| (format!("{n}.0.96.10.in-addr.arpa."), RecordType::PTR));
    let asked = forward
        .chain(reverse)
        .map(|(qname, qtype)| ours(zone, &qname, qtype));
    asked
        .map(|reply| (reply.code, text(&reply.answers)))
        .collect()
}

/// The last word on every namespace and service, in an order of its own.
fn final_state(changes: &[Change]) -> Vec<Change> {
    let mut last = std::collections::BTreeMap::new();
    for change in changes {
        let key = match change {
            Change::Namespace { name, .. } => (name.to_ascii_lowercase(), None),
            Change::Service {
                namespace, name, ..
            } => (
                namespace.to_ascii_lowercase(),
                Some(name.to_ascii_lowercase()),
            ),
        };
        last.insert(key, change.clone());
    }
    last.into_values().rev().collect()
}

proptest! {
    #[test]
    fn changes_one_by_one_make_the_zone_that_their_result_makes_at_once(
        changes in prop::collection::vec(some_change(), 0..40)
    ) {
        let step_by_step = Zone::new(config()).unwrap();
        changes.iter().for_each(|change| step_by_step.apply(vec![change.clone()]));
        let at_once = Zone::new(config()).unwrap();
        at_once.apply(final_state(&changes));
        for zone in [&step_by_step, &at_once] {
            zone.set_synced(true);
        }
        prop_assert_eq!(all_answers(&step_by_step), all_answers(&at_once));
    }

    #[test]
    fn a_snapshot_in_use_does_not_see_later_changes(changes in prop::collection::vec(some_change(), 0..10)) {
        let zone = a_zone();
        let before = zone.snapshot();
        zone.apply(changes);
        let name = Name::from_ascii("set.ns.svc.cluster.local.").unwrap();
        let Answer::Ours(reply) = before.answer(&name, RecordType::A) else { panic!("ours") };
        prop_assert_eq!(reply.answers.len(), 3);
    }
}
