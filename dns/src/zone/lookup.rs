//! Lookup -> answer: a pure function of the snapshot and the question.
//!
//! The name grammar, from the right (Kubernetes DNS-Based Service Discovery 1.1.0, with what CoreDNS adds):
//!
//! ```text
//!   <domain>                                SOA, NS
//!   dns-version.<domain>                    TXT "1.1.0"
//!   ns.dns.<domain>                         the name server's own addresses
//!   <service>.<ns>.svc.<domain>             A, AAAA, SRV of every port, or the CNAME of an external name
//!   <hostname>.<service>.<ns>.svc.<domain>  one endpoint of a headless service
//!   _<port>._<proto>.<service>.<ns>.svc...  SRV of one named port (the underscores may be left out)
//!   <a-b-c-d>.<ns>.pod.<domain>             the address in the name
//! ```

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::{Entry, Kind, NamedHost, Snapshot};
use crate::records::Port;

/// The version of the naming rules, and how long it may be remembered.
const SCHEMA_VERSION: &str = "1.1.0";
const SCHEMA_VERSION_TTL_SECS: u32 = 28_800;

/// How many aliases of our own zone one answer follows.
const MAX_ALIASES: usize = 10;

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The name is ours: this is the whole truth about it.
    Ours(Reply),
    /// The name is not ours: ask an upstream or refuse.
    Elsewhere,
}

/// The sections of a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// NOERROR (also for NODATA: then `answers` is empty), NXDOMAIN or SERVFAIL.
    pub code: ResponseCode,
    /// The answer, aliases first.
    pub answers: Vec<Record>,
    /// The SOA of a negative answer.
    pub authorities: Vec<Record>,
    /// Addresses of the SRV and NS targets. May be left out when space is short.
    pub additionals: Vec<Record>,
    /// The answer ends at an alias to this name outside the zone; its records belong after it.
    pub chase: Option<Name>,
}

impl Reply {
    /// A reply without records.
    pub fn code(code: ResponseCode) -> Reply {
        Reply {
            code,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            chase: None,
        }
    }
}

/// What stands at a name of the zone.
enum Node<'a> {
    /// Nothing here nor below: NXDOMAIN.
    Missing,
    /// Nothing here, but names below: NODATA.
    Empty,
    Apex,
    SchemaVersion,
    Addresses(Vec<IpAddr>),
    Service(&'a Entry),
    Hosts(Vec<&'a NamedHost>),
    Port {
        service: &'a Entry,
        name: &'a str,
        protocol: &'a str,
    },
    Alias(&'a Name),
}

/// Records of one question: the answer and what goes with it.
#[derive(Default)]
struct Found {
    answers: Vec<RData>,
    additionals: Vec<(Name, IpAddr)>,
}

impl Found {
    fn only(answers: impl IntoIterator<Item = RData>) -> Found {
        Found {
            answers: answers.into_iter().collect(),
            additionals: Vec::new(),
        }
    }
}

impl Snapshot {
    /// Answers one question of class IN. The case of `qname` is kept in the records that answer it.
    pub fn answer(&self, qname: &Name, qtype: RecordType) -> Answer {
        if self.fixed.origin.zone_of(qname) {
            return Answer::Ours(match self.synced {
                true => self.forward_answer(qname, qtype),
                false => Reply::code(ResponseCode::ServFail),
            });
        }
        match qname.parse_arpa_name() {
            Ok(net) => self.reverse_answer(qname, qtype, net),
            Err(_) => Answer::Elsewhere,
        }
    }

    fn forward_answer(&self, qname: &Name, qtype: RecordType) -> Reply {
        let mut reply = Reply::code(ResponseCode::NoError);
        let mut name = qname.clone();
        for _ in 0..=MAX_ALIASES {
            let lower = name.to_lowercase();
            let depth = lower.iter().len() - self.fixed.origin.iter().len();
            let labels: Option<Vec<&str>> = lower
                .iter()
                .take(depth)
                .map(|label| str::from_utf8(label).ok())
                .collect();
            let node = labels
                .as_deref()
                .map_or(Node::Missing, |labels| self.locate(labels));
            let Node::Alias(target) = node else {
                self.fill(&mut reply, &name, &node, qtype);
                return reply;
            };
            reply
                .answers
                .push(self.record(&name, RData::CNAME(CNAME(target.clone()))));
            if qtype == RecordType::CNAME {
                return reply;
            }
            if !self.fixed.origin.zone_of(target) {
                reply.chase = Some(target.clone());
                return reply;
            }
            name = target.clone();
        }
        Reply::code(ResponseCode::ServFail)
    }

    fn fill(&self, reply: &mut Reply, name: &Name, node: &Node<'_>, qtype: RecordType) {
        let found = self.found(node, qtype);
        if found.answers.is_empty() {
            reply.authorities.push(self.soa(&self.fixed.origin));
        }
        if matches!(node, Node::Missing) {
            reply.code = ResponseCode::NXDomain;
        }
        let ttl_secs = match node {
            Node::SchemaVersion => SCHEMA_VERSION_TTL_SECS,
            _ => self.fixed.ttl_secs,
        };
        let answers = found.answers.into_iter();
        reply
            .answers
            .extend(answers.map(|data| Record::from_rdata(name.clone(), ttl_secs, data)));
        let additionals = found.additionals.into_iter();
        reply
            .additionals
            .extend(additionals.map(|(name, addr)| self.record(&name, addr.into())));
    }

    /// What stands at a name, given as the lower-case labels left of the domain.
    fn locate<'a>(&'a self, labels: &[&'a str]) -> Node<'a> {
        match labels {
            [] => Node::Apex,
            ["dns-version"] => Node::SchemaVersion,
            ["ns", "dns"] => Node::Addresses(self.fixed.nameservers.clone()),
            ["dns" | "svc" | "pod"] => Node::Empty,
            [namespace, "svc" | "pod"] if self.namespaces.contains_key(*namespace) => Node::Empty,
            [below @ .., service, namespace, "svc"] => match self.entry_of(namespace, service) {
                Some(entry) => entry.locate(below),
                None => Node::Missing,
            },
            [address, namespace, "pod"] if self.namespaces.contains_key(*namespace) => {
                match undashed(address) {
                    Some(addr) => Node::Addresses(vec![addr]),
                    None => Node::Missing,
                }
            }
            _ => Node::Missing,
        }
    }

    fn entry_of(&self, namespace: &str, service: &str) -> Option<&Entry> {
        let entry = self.namespaces.get(namespace)?.services.get(service)?;
        Some(entry)
    }

    fn found(&self, node: &Node<'_>, qtype: RecordType) -> Found {
        match node {
            Node::Missing | Node::Empty | Node::Alias(_) => Found::default(),
            Node::Apex => self.apex(qtype),
            Node::SchemaVersion if qtype == RecordType::TXT => {
                Found::only([RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]))])
            }
            Node::SchemaVersion => Found::default(),
            Node::Addresses(addrs) => addresses(addrs.iter().copied(), qtype),
            Node::Service(entry) if qtype == RecordType::SRV => entry.srv(|_| true),
            Node::Service(entry) => addresses(entry.each_addr(), qtype),
            Node::Hosts(hosts) if qtype == RecordType::SRV => {
                srv_of_hosts(hosts.iter().copied(), |_| true)
            }
            Node::Hosts(hosts) => addresses(hosts.iter().map(|host| host.addr), qtype),
            Node::Port {
                service,
                name,
                protocol,
            } if qtype == RecordType::SRV => service.srv(|port| port.is(name, protocol)),
            Node::Port { .. } => Found::default(),
        }
    }

    fn apex(&self, qtype: RecordType) -> Found {
        let fixed = &self.fixed;
        match qtype {
            RecordType::SOA => Found::only([self.soa(&fixed.origin).data]),
            RecordType::NS => Found {
                answers: vec![RData::NS(NS(fixed.nameserver.clone()))],
                additionals: fixed
                    .nameservers
                    .iter()
                    .map(|addr| (fixed.nameserver.clone(), *addr))
                    .collect(),
            },
            _ => Found::default(),
        }
    }

    /// Answers for an address, or for a part of one (then `net` is wider than an address).
    ///
    /// ClusterIPs win over endpoints, as in CoreDNS. An unknown address of our own ranges is NXDOMAIN here; the
    /// rest of the world's addresses are the upstream's.
    fn reverse_answer(&self, qname: &Name, qtype: RecordType, net: IpNet) -> Answer {
        let ours = self.reverse.iter().find(|range| range.contains(&net));
        let whole = net.prefix_len() == net.max_prefix_len();
        let names = match whole {
            true => self.names_of(net.addr()),
            false => Vec::new(),
        };
        let Some(zone) = ours
            .map(arpa)
            .or_else(|| (!names.is_empty()).then(|| qname.clone()))
        else {
            return Answer::Elsewhere;
        };
        if !self.synced {
            return Answer::Ours(Reply::code(ResponseCode::ServFail));
        }
        let mut reply = Reply::code(match names.is_empty() && whole {
            true => ResponseCode::NXDomain,
            false => ResponseCode::NoError,
        });
        if matches!(qtype, RecordType::PTR | RecordType::ANY) {
            let records = names
                .into_iter()
                .map(|name| self.record(qname, RData::PTR(PTR(name))));
            reply.answers.extend(records);
        }
        if reply.answers.is_empty() {
            reply.authorities.push(self.soa(&zone));
        }
        Answer::Ours(reply)
    }

    fn names_of(&self, addr: IpAddr) -> Vec<Name> {
        let keys = self
            .addresses
            .get(&addr)
            .into_iter()
            .flat_map(|keys| keys.iter());
        let entries = keys.filter_map(|key| self.entry_of(&key.namespace, &key.name));
        let (mut virtuals, mut endpoints) = (Vec::new(), Vec::new());
        for entry in entries {
            match &entry.kind {
                Kind::Virtual { .. } => virtuals.push(entry.name.clone()),
                Kind::Headless { hosts } => {
                    let names = hosts
                        .iter()
                        .filter(|host| host.addr == addr)
                        .map(|host| host.name.clone());
                    endpoints.extend(names);
                }
                Kind::Alias { .. } => {}
            }
        }
        if virtuals.is_empty() {
            endpoints
        } else {
            virtuals
        }
    }

    fn soa(&self, zone: &Name) -> Record {
        let fixed = &self.fixed;
        let (refresh, retry, expire) = (7200, 1800, 86_400);
        let soa = SOA::new(
            fixed.nameserver.clone(),
            fixed.hostmaster.clone(),
            self.serial,
            refresh,
            retry,
            expire,
            fixed.ttl_secs,
        );
        self.record(zone, RData::SOA(soa))
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.fixed.ttl_secs, data)
    }
}

impl Entry {
    /// What stands at or below a service's name. A headless service without ready endpoints does not exist.
    fn locate<'a>(&'a self, below: &[&'a str]) -> Node<'a> {
        match (&self.kind, below) {
            (Kind::Headless { hosts }, _) if hosts.is_empty() => Node::Missing,
            (
                Kind::Alias {
                    target: Some(target),
                },
                [],
            ) => Node::Alias(target),
            (Kind::Alias { target: None }, []) => Node::Empty,
            (_, []) => Node::Service(self),
            (_, [label]) => self.locate_host(label),
            (_, [port, protocol]) => {
                let (name, protocol) = (bare(port), bare(protocol));
                match self.ports().any(|port| port.is(name, protocol)) {
                    true => Node::Port {
                        service: self,
                        name,
                        protocol,
                    },
                    false => Node::Missing,
                }
            }
            _ => Node::Missing,
        }
    }

    fn locate_host<'a>(&'a self, label: &str) -> Node<'a> {
        if let Kind::Headless { hosts } = &self.kind {
            let found: Vec<_> = hosts
                .iter()
                .filter(|host| &*host.hostname == label)
                .collect();
            if !found.is_empty() {
                return Node::Hosts(found);
            }
        }
        // `_tcp` has no records, but `_http._tcp` below it may have (RFC 8020).
        let protocol = label.strip_prefix('_');
        match protocol.is_some_and(|protocol| {
            self.ports()
                .any(|port| !port.name.is_empty() && port.protocol == protocol)
        }) {
            true => Node::Empty,
            false => Node::Missing,
        }
    }

    fn ports(&self) -> Box<dyn Iterator<Item = &Port> + '_> {
        match &self.kind {
            Kind::Virtual { ports, .. } => Box::new(ports.iter()),
            Kind::Headless { hosts } => Box::new(hosts.iter().flat_map(|host| &host.ports)),
            Kind::Alias { .. } => Box::new(std::iter::empty()),
        }
    }

    fn each_addr(&self) -> Box<dyn Iterator<Item = IpAddr> + '_> {
        match &self.kind {
            Kind::Virtual { addrs, .. } => Box::new(addrs.iter().copied()),
            Kind::Headless { hosts } => Box::new(hosts.iter().map(|host| host.addr)),
            Kind::Alias { .. } => Box::new(std::iter::empty()),
        }
    }

    fn srv(&self, wanted: impl Fn(&Port) -> bool) -> Found {
        match &self.kind {
            Kind::Virtual { addrs, ports } => {
                let numbers: HashSet<u16> = ports
                    .iter()
                    .filter(|port| wanted(port))
                    .map(|port| port.number)
                    .collect();
                let targets = numbers
                    .into_iter()
                    .map(|number| (&self.name, number))
                    .collect();
                srv(targets, addrs.iter().map(|addr| (&self.name, *addr)))
            }
            Kind::Headless { hosts } => srv_of_hosts(hosts.iter(), wanted),
            Kind::Alias { .. } => Found::default(),
        }
    }
}

impl Port {
    fn is(&self, name: &str, protocol: &str) -> bool {
        !self.name.is_empty() && self.name.eq_ignore_ascii_case(name) && self.protocol == protocol
    }
}

fn srv_of_hosts<'a>(
    hosts: impl Iterator<Item = &'a NamedHost> + Clone,
    wanted: impl Fn(&Port) -> bool,
) -> Found {
    let with_port = hosts.filter(|host| host.ports.iter().any(&wanted));
    let ports_of = |host: &'a NamedHost| host.ports.iter().map(move |port| (host, port));
    let targets = with_port
        .clone()
        .flat_map(ports_of)
        .filter(|(_, port)| wanted(port));
    srv(
        targets
            .map(|(host, port)| (&host.name, port.number))
            .collect(),
        with_port.map(|host| (&host.name, host.addr)),
    )
}

/// Equal weights that share 100, as CoreDNS gives.
fn srv<'a>(
    targets: HashSet<(&Name, u16)>,
    addrs: impl Iterator<Item = (&'a Name, IpAddr)>,
) -> Found {
    if targets.is_empty() {
        return Found::default();
    }
    let weight = (100 / targets.len()).max(1) as u16;
    let record =
        |(target, port): (&Name, u16)| RData::SRV(SRV::new(0, weight, port, target.clone()));
    Found {
        answers: targets.into_iter().map(record).collect(),
        additionals: addrs.map(|(name, addr)| (name.clone(), addr)).collect(),
    }
}

/// The addresses of the asked family; ANY asks for both (RFC 8482 lets us give a part of all there is).
fn addresses(addrs: impl Iterator<Item = IpAddr>, qtype: RecordType) -> Found {
    let wanted = |addr: &IpAddr| match qtype {
        RecordType::A => addr.is_ipv4(),
        RecordType::AAAA => addr.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let mut seen = HashSet::new();
    Found::only(
        addrs
            .filter(wanted)
            .filter(|addr| seen.insert(*addr))
            .map(RData::from),
    )
}

fn bare(label: &str) -> &str {
    label.strip_prefix('_').unwrap_or(label)
}

/// The address written as a label: `10-244-1-7` or `fd00--7`.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

/// The reverse zone that holds a range: cut to whole labels, 8 bits each for IPv4 and 4 for IPv6.
fn arpa(range: &IpNet) -> Name {
    let bits_per_label = match range {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    };
    let labels = range.prefix_len() / bits_per_label + 2;
    Name::from(range.addr()).trim_to(usize::from(labels))
}
