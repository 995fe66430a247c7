//! The zone: an immutable snapshot behind an atomic pointer, replaced by each batch of changes.
//!
//! Snapshots share structure (persistent hash maps), so a change costs what it changes, however many names exist,
//! and readers never wait.

mod lookup;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use hickory_proto::rr::Name;
use ipnet::IpNet;
use rpds::HashTrieMapSync;

use crate::records::{Change, Host, Port, Service};

pub use lookup::{Answer, Reply};

/// What a zone begins with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster domain, for example `cluster.local`.
    pub domain: Box<str>,
    /// Time to live of every record, also of negative answers (except `dns-version`, 28800).
    pub ttl_secs: u32,
    /// The addresses this name server is reached at (the cluster DNS address): `ns.dns.<domain>`.
    pub nameservers: Vec<IpAddr>,
    /// The Service and Pod ranges: an address in them that has no name is NXDOMAIN and never asked upstream.
    pub reverse: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            domain: "cluster.local".into(),
            ttl_secs: 5,
            nameservers: Vec::new(),
            reverse: Vec::new(),
        }
    }
}

/// The cluster domain is not a DNS name.
#[derive(Debug, thiserror::Error)]
#[error("cluster domain {domain:?} is not a DNS name")]
pub struct InvalidDomain {
    domain: Box<str>,
    source: hickory_proto::ProtoError,
}

/// A handle to the zone: cheap to clone, shared by the one who changes it and those who answer from it.
#[derive(Clone, Debug)]
pub struct Zone {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    /// Held while a new snapshot is made, so that two writers do not lose each other's changes.
    writer: Mutex<()>,
}

impl Zone {
    /// An empty zone that answers SERVFAIL until [`set_synced`](Zone::set_synced).
    ///
    /// # Errors
    /// When the domain is not a DNS name.
    pub fn new(config: Config) -> Result<Zone, InvalidDomain> {
        let snapshot = ArcSwap::from_pointee(Snapshot::empty(config)?);
        let writer = Mutex::new(());
        Ok(Zone {
            shared: Arc::new(Shared { snapshot, writer }),
        })
    }

    /// Applies a batch of changes: a query sees all of them or none.
    pub fn apply(&self, changes: Vec<Change>) {
        self.replace(|snapshot| {
            snapshot.serial = snapshot.serial.wrapping_add(1);
            changes
                .into_iter()
                .for_each(|change| snapshot.apply(change));
        });
    }

    /// Whether the zone holds the whole cluster. Before that, answers for it are SERVFAIL: an absent name may only be late.
    pub fn set_synced(&self, synced: bool) {
        self.replace(|snapshot| snapshot.synced = synced);
    }

    /// Other ranges than those of [`Config::reverse`] from now on.
    pub fn set_reverse(&self, ranges: Vec<IpNet>) {
        if self.shared.snapshot.load().reverse != ranges {
            self.replace(|snapshot| snapshot.reverse = ranges);
        }
    }

    /// The zone as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    fn replace(&self, change: impl FnOnce(&mut Snapshot)) {
        let _writer = self
            .shared
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = Snapshot::clone(&self.shared.snapshot.load());
        change(&mut snapshot);
        self.shared.snapshot.store(Arc::new(snapshot));
    }
}

/// The zone at one moment. Cloning copies pointers, not names.
#[derive(Clone, Debug)]
pub struct Snapshot {
    fixed: Arc<Fixed>,
    synced: bool,
    serial: u32,
    /// Where an address without a name does not exist.
    reverse: Vec<IpNet>,
    namespaces: HashTrieMapSync<Arc<str>, Namespace>,
    /// Which services an address belongs to, sorted; nearly always one.
    addresses: HashTrieMapSync<IpAddr, Arc<[ServiceKey]>>,
}

/// The configuration, with its names parsed.
#[derive(Debug)]
struct Fixed {
    origin: Name,
    ttl_secs: u32,
    nameservers: Vec<IpAddr>,
    /// `ns.dns.<domain>`, where the SOA and NS records point.
    nameserver: Name,
    /// `hostmaster.<domain>`.
    hostmaster: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ServiceKey {
    namespace: Arc<str>,
    name: Arc<str>,
}

/// A namespace exists when it was declared or holds a service: order within a batch does not matter.
#[derive(Clone, Debug, Default)]
struct Namespace {
    declared: bool,
    services: HashTrieMapSync<Arc<str>, Arc<Entry>>,
}

/// One service, with the names below it worked out.
#[derive(Debug)]
struct Entry {
    /// `<service>.<namespace>.svc.<domain>`.
    name: Name,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Virtual {
        addrs: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    Headless {
        hosts: Vec<NamedHost>,
    },
    /// `None` when the target is no name to point at: an address, or the service itself.
    Alias {
        target: Option<Name>,
    },
}

/// An endpoint of a headless service.
#[derive(Debug)]
struct NamedHost {
    /// The leftmost label, lower case.
    hostname: Arc<str>,
    /// `<hostname>.<service>.<namespace>.svc.<domain>`.
    name: Name,
    addr: IpAddr,
    ports: Vec<Port>,
}

impl Snapshot {
    fn empty(mut config: Config) -> Result<Snapshot, InvalidDomain> {
        let reverse = std::mem::take(&mut config.reverse);
        let parse = || -> Result<Fixed, hickory_proto::ProtoError> {
            let mut origin = Name::from_ascii(&config.domain)?.to_lowercase();
            origin.set_fqdn(true);
            Ok(Fixed {
                ttl_secs: config.ttl_secs,
                nameserver: Name::from_labels(["ns", "dns"])?.append_domain(&origin)?,
                hostmaster: origin.prepend_label("hostmaster")?,
                nameservers: config.nameservers,
                origin,
            })
        };
        let fixed = parse().map_err(|source| InvalidDomain {
            domain: config.domain,
            source,
        })?;
        Ok(Snapshot {
            fixed: Arc::new(fixed),
            synced: false,
            serial: 0,
            reverse,
            namespaces: HashTrieMapSync::default(),
            addresses: HashTrieMapSync::default(),
        })
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace { name, exists } => {
                let name = lower(&name);
                let mut namespace = self.namespaces.get(&name).cloned().unwrap_or_default();
                namespace.declared = exists;
                self.set_namespace(name, namespace);
            }
            Change::Service {
                namespace,
                name,
                records,
            } => {
                let key = ServiceKey {
                    namespace: lower(&namespace),
                    name: lower(&name),
                };
                let entry = records.and_then(|records| self.entry(&key, records));
                self.set_service(key, entry);
            }
        }
    }

    fn set_namespace(&mut self, name: Arc<str>, namespace: Namespace) {
        if namespace.declared || !namespace.services.is_empty() {
            self.namespaces.insert_mut(name, namespace);
        } else {
            self.namespaces.remove_mut(&name);
        }
    }

    fn set_service(&mut self, key: ServiceKey, entry: Option<Entry>) {
        let before = self
            .namespaces
            .get(&key.namespace)
            .and_then(|namespace| namespace.services.get(&key.name))
            .map(|entry| entry.addrs())
            .unwrap_or_default();
        let after = entry.as_ref().map(Entry::addrs).unwrap_or_default();
        before
            .difference(&after)
            .for_each(|addr| self.unlink(*addr, &key));
        after
            .difference(&before)
            .for_each(|addr| self.link(*addr, &key));
        if !self.namespaces.contains_key(&key.namespace) {
            self.namespaces
                .insert_mut(Arc::clone(&key.namespace), Namespace::default());
        }
        // In place: a copy of the namespace would share the map of its services, and each change copy a part of that.
        let namespace = self
            .namespaces
            .get_mut(&key.namespace)
            .expect("it was made if it was missing");
        match entry {
            Some(entry) => namespace.services.insert_mut(key.name, Arc::new(entry)),
            None => {
                namespace.services.remove_mut(&key.name);
            }
        }
        if !namespace.declared && namespace.services.is_empty() {
            self.namespaces.remove_mut(&key.namespace);
        }
    }

    fn link(&mut self, addr: IpAddr, key: &ServiceKey) {
        let others = self.addresses.get(&addr).map(|services| services.iter());
        let all: BTreeSet<_> = others.into_iter().flatten().chain([key]).cloned().collect();
        self.addresses.insert_mut(addr, all.into_iter().collect());
    }

    fn unlink(&mut self, addr: IpAddr, key: &ServiceKey) {
        let services = self.addresses.get(&addr).map(|services| services.iter());
        let others = services.into_iter().flatten().filter(|other| *other != key);
        let services: Arc<[ServiceKey]> = others.cloned().collect();
        if services.is_empty() {
            self.addresses.remove_mut(&addr);
        } else {
            self.addresses.insert_mut(addr, services);
        }
    }

    /// `None`, with a warning, when the service's name does not fit into DNS.
    fn entry(&self, key: &ServiceKey, records: Service) -> Option<Entry> {
        let labels = [&key.name[..], &key.namespace[..], "svc"].map(str::as_bytes);
        let name =
            Name::from_labels(labels).and_then(|name| name.append_domain(&self.fixed.origin));
        let name = name
            .inspect_err(|error| {
                tracing::warn!(namespace = %key.namespace, service = %key.name, %error, "the service has no DNS name");
            })
            .ok()?;
        let kind = match records {
            Service::Virtual { addrs, ports } => Kind::Virtual { addrs, ports },
            Service::Headless { hosts } => Kind::Headless {
                hosts: hosts
                    .into_iter()
                    .filter_map(|host| NamedHost::new(host, &name))
                    .collect(),
            },
            Service::Alias { target } => Kind::Alias {
                target: alias_target(&target).filter(|target| *target != name),
            },
        };
        Some(Entry { name, kind })
    }
}

impl Entry {
    fn addrs(&self) -> BTreeSet<IpAddr> {
        match &self.kind {
            Kind::Virtual { addrs, .. } => addrs.iter().copied().collect(),
            Kind::Headless { hosts } => hosts.iter().map(|host| host.addr).collect(),
            Kind::Alias { .. } => BTreeSet::new(),
        }
    }
}

impl NamedHost {
    fn new(host: Host, service: &Name) -> Option<NamedHost> {
        let hostname = host
            .hostname
            .map_or_else(|| dashed(host.addr), |hostname| lower(&hostname));
        let name = service
            .prepend_label(hostname.as_bytes())
            .inspect_err(
                |error| tracing::warn!(%service, %hostname, %error, "the endpoint has no DNS name"),
            )
            .ok()?;
        Some(NamedHost {
            hostname,
            name,
            addr: host.addr,
            ports: host.ports,
        })
    }
}

fn lower(name: &str) -> Arc<str> {
    name.to_ascii_lowercase().into()
}

/// The hostname of an endpoint that has none: its address with `.` and `:` as `-`. A label may not end with a dash,
/// so `fd00::` becomes `fd00--0`.
fn dashed(addr: IpAddr) -> Arc<str> {
    let mut label = addr.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    label.into()
}

fn alias_target(target: &str) -> Option<Name> {
    if target.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut name = Name::from_ascii(target).ok()?.to_lowercase();
    name.set_fqdn(true);
    Some(name)
}
