//! Who gets which address.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use api::core::{Node, Service};

use super::{CLASS, Pool, WANTED, addresses, ingress, is_ours, list};
use crate::controller::{
    pods::{Family, families},
    world::{Key, World, key_of},
};

/// Why a Service has no address, in words for its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    OfAnotherClass(Box<str>),
    NoPool,
    NoFamily(Vec<Family>),
    Exhausted,
    Malformed(Box<str>),
    NotInPool(IpAddr),
    WrongFamily(IpAddr),
    TwoOfAFamily(Box<str>),
    Taken(IpAddr, Key),
    OfNode(IpAddr),
    NoNode { local: bool },
    NoNodeOfFamily(Vec<Family>),
    NoSuchNode(IpAddr),
    PortTaken(i32, Box<str>, Key),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfAnotherClass(class) => write!(
                f,
                "No address: spec.loadBalancerClass is {class:?}, whose implementation has to give one; minik serves Services without \
                 a class, and {CLASS:?}"
            ),
            Self::NoPool => f.write_str(
                "No address: the server was started without --load-balancer-pool: give it a range of free addresses of the \
                 nodes' network, or the word nodes",
            ),
            Self::NoFamily(families) => {
                let names: Vec<_> = families.iter().map(|family| family.name()).collect();
                let names = names.join(" or ");
                write!(f, "No address: no --load-balancer-pool has {names} addresses")
            }
            Self::Exhausted => f.write_str(
                "No address: every one of --load-balancer-pool is taken: delete a Service of type LoadBalancer, or give the \
                 server another --load-balancer-pool",
            ),
            Self::Malformed(text) => write!(f, "No address: {text:?} was asked for, which is no IP address"),
            Self::NotInPool(address) => {
                write!(f, "No address: {address} was asked for, which is not in --load-balancer-pool")
            }
            Self::WrongFamily(address) => {
                write!(f, "No address: {address} was asked for, which is of no family in spec.ipFamilies")
            }
            Self::TwoOfAFamily(text) => {
                write!(f, "No address: {text:?} was asked for: give one address of each family at most")
            }
            Self::Taken(address, (namespace, name)) => {
                write!(f, "No address: {address} was asked for, which Service {namespace}/{name} has")
            }
            Self::OfNode(address) => write!(f, "No address: {address} was asked for, which is a node's own"),
            Self::NoNode { local: true } => f.write_str(
                "No address: externalTrafficPolicy is Local, and no ready node has a ready endpoint of this Service",
            ),
            Self::NoNode { local: false } => f.write_str(
                "No address: no node is ready and free of the label node.kubernetes.io/exclude-from-external-load-balancers",
            ),
            Self::NoNodeOfFamily(families) => {
                let names: Vec<_> = families.iter().map(|family| family.name()).collect();
                let names = names.join(" or ");
                write!(f, "No address: no node that may answer has an {names} address, and --load-balancer-pool is nodes")
            }
            Self::NoSuchNode(address) => write!(
                f,
                "No address: {address} was asked for, which is of no node that may answer: --load-balancer-pool is nodes"
            ),
            Self::PortTaken(port, protocol, (namespace, name)) => write!(
                f,
                "No address: port {port}/{protocol} of the nodes is taken by Service {namespace}/{name}: choose another port, or \
                 give the server a range as --load-balancer-pool"
            ),
        }
    }
}

/// What is taken, during one round.
pub(super) struct Allocation<'a> {
    world: &'a World,
    pool: &'a Pool,
    /// Addresses with their Services; those of nodes have none.
    taken: BTreeMap<IpAddr, Option<Key>>,
    /// Families of which nothing is left: nobody needs to look again.
    exhausted: BTreeSet<bool>,
}

impl<'a> Allocation<'a> {
    pub(super) fn new(world: &'a World, pool: &'a Pool) -> Self {
        let mut taken = BTreeMap::new();
        for node in world.nodes.all() {
            taken.extend(addresses(node).into_iter().map(|address| (address, None)));
        }
        if !pool.is_nodes() {
            let services = world
                .balanced
                .iter()
                .filter_map(|key| world.services.get(key));
            for service in services.filter(|service| is_ours(service)) {
                for address in ingress(service).into_iter().filter(|ip| pool.contains(*ip)) {
                    taken.entry(address).or_insert(Some(key_of(&**service)));
                }
            }
        }
        Self {
            world,
            pool,
            taken,
            exhausted: BTreeSet::new(),
        }
    }

    /// The addresses of a Service from the ranges: those asked for, else those it has, else free ones.
    pub(super) fn of_pool(&mut self, service: &Service) -> Result<Vec<IpAddr>, Refusal> {
        if self.pool.is_empty() {
            return Err(Refusal::NoPool);
        }
        let key = key_of(service);
        let wanted = wanted(service)?;
        if wanted.is_empty() {
            return self.any(service, &key);
        }
        for address in &wanted {
            if !self.pool.contains(*address) {
                return Err(Refusal::NotInPool(*address));
            }
            match self.taken.get(address) {
                Some(Some(other)) if *other != key => {
                    return Err(Refusal::Taken(*address, other.clone()));
                }
                Some(None) => return Err(Refusal::OfNode(*address)),
                _ => {}
            }
        }
        for address in &wanted {
            self.taken.insert(*address, Some(key.clone()));
        }
        Ok(wanted)
    }

    fn any(&mut self, service: &Service, key: &Key) -> Result<Vec<IpAddr>, Refusal> {
        let families = families(service);
        let has = |family: &Family| self.pool.has_family(*family == Family::V4);
        let served: Vec<Family> = families.iter().copied().filter(has).collect();
        let all = service.spec.ip_family_policy.as_deref() == Some("RequireDualStack");
        if served.is_empty() || (all && served.len() < families.len()) {
            let missing = families
                .into_iter()
                .filter(|family| !served.contains(family));
            return Err(Refusal::NoFamily(missing.collect()));
        }
        let before = ingress(service);
        let mut given = Vec::new();
        for family in served {
            let ipv4 = family == Family::V4;
            let own = before.iter().find(|address| {
                address.is_ipv4() == ipv4 && self.taken.get(*address) == Some(&Some(key.clone()))
            });
            let address = match own {
                Some(own) => *own,
                None if self.exhausted.contains(&ipv4) => return Err(Refusal::Exhausted),
                None => match self.pool.free(ipv4, &self.taken) {
                    Some(address) => address,
                    None => {
                        self.exhausted.insert(ipv4);
                        return Err(Refusal::Exhausted);
                    }
                },
            };
            given.push(address);
        }
        for address in &given {
            self.taken.insert(*address, Some(key.clone()));
        }
        Ok(given)
    }

    /// The addresses of the nodes that may answer for a Service. Its ports must not be another one's, who came first.
    pub(super) fn of_nodes(
        &self,
        service: &Service,
        eligible: &[&Node],
    ) -> Result<Vec<IpAddr>, Refusal> {
        let wanted = wanted(service)?;
        if let Some((port, protocol, other)) = self.port_taken(service) {
            return Err(Refusal::PortTaken(port, protocol, other));
        }
        let families = families(service);
        let offered: BTreeSet<IpAddr> = eligible
            .iter()
            .flat_map(|node| addresses(node))
            .filter(|address| families.contains(&Family::of(*address)))
            .collect();
        if let Some(foreign) = wanted.iter().find(|address| !offered.contains(*address)) {
            return Err(Refusal::NoSuchNode(*foreign));
        }
        let given: Vec<IpAddr> = if wanted.is_empty() {
            offered.into_iter().collect()
        } else {
            wanted
        };
        if given.is_empty() {
            let local = &*service.spec.external_traffic_policy == "Local";
            return Err(match eligible.is_empty() {
                true => Refusal::NoNode { local },
                false => Refusal::NoNodeOfFamily(families),
            });
        }
        Ok(given)
    }

    fn port_taken(&self, service: &Service) -> Option<(i32, Box<str>, Key)> {
        let age = |service: &Service| (service.metadata.creation_timestamp, key_of(service));
        let own = age(service);
        let others = self
            .world
            .balanced
            .iter()
            .filter_map(|key| self.world.services.get(key));
        for other in others.filter(|other| is_ours(other) && age(other) < own) {
            for port in &service.spec.ports {
                let same = |theirs: &&api::core::ServicePort| {
                    theirs.port == port.port && theirs.protocol == port.protocol
                };
                if other.spec.ports.iter().any(|theirs| same(&theirs)) {
                    return Some((port.port, port.protocol.clone(), key_of(&**other)));
                }
            }
        }
        None
    }
}

/// The addresses that a Service asks for: by annotation, else by `spec.loadBalancerIP`.
fn wanted(service: &Service) -> Result<Vec<IpAddr>, Refusal> {
    let annotation = service.metadata.annotations.get(WANTED);
    let text = annotation.unwrap_or(&service.spec.load_balancer_ip);
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let wanted = parts
        .map(|part| part.parse().map_err(|_| Refusal::Malformed(part.into())))
        .collect::<Result<Vec<IpAddr>, Refusal>>()?;
    let families = families(service);
    if let Some(foreign) = wanted
        .iter()
        .find(|address| !families.contains(&Family::of(**address)))
    {
        return Err(Refusal::WrongFamily(*foreign));
    }
    let of = |ipv4| {
        wanted
            .iter()
            .filter(|address| address.is_ipv4() == ipv4)
            .count()
    };
    if of(true) > 1 || of(false) > 1 {
        return Err(Refusal::TwoOfAFamily(list(&wanted).into()));
    }
    Ok(wanted)
}
