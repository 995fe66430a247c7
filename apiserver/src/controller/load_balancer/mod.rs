//! Services of type LoadBalancer: an address from the pool, and the node that announces it.
//!
//! An address is in `status.loadBalancer.ingress` and nowhere else. Which node answers ARP or NDP for it is in the Service's
//! annotation `minik.dev/announced-by` (`ADDRESS=NODE,...`): agents watch Services anyway, so nobody watches anything more, and
//! `kubectl describe` shows it. The node is chosen by rendezvous hashing over those that may announce, and it stays as long as
//! it may: connections survive the return of another node.
//!
//! With `--load-balancer-pool nodes` a Service answers on the addresses of the nodes, and nothing is announced.
//!
//! Reading order: [`pool`], [`liveness`], `allocate` (who gets which address), then [`LoadBalancers::plan`] here.

mod allocate;
mod liveness;
mod pool;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use api::{
    core::{LoadBalancerIngress, LoadBalancerStatus, Node, ObjectReference, Service},
    meta::Resource as _,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::allocate::{Allocation, Refusal};
pub(super) use self::liveness::Liveness;
pub use self::pool::{Pool, PoolEntry, PoolEntryError};
use super::{
    event::{self, Level},
    node_is_ready,
    world::{Key, World, key_of},
    write::Action,
};
use crate::registry::{
    Part,
    kinds::{EVENTS, SERVICES},
};

/// On a Service: which node announces which of its addresses.
pub const ANNOUNCED_BY: &str = "minik.dev/announced-by";
/// On a Service: the addresses it wants, separated by commas. Goes before `spec.loadBalancerIP`.
const WANTED: &str = "minik.dev/load-balancer-ips";
/// The class of ours; Services without one are ours too. Source: kubernetes/cloud-provider controllers/service/controller.go,
/// wantsLoadBalancer.
const CLASS: &str = "minik.dev/layer2";
/// Holds a Service back until its address is given up. Source: kubernetes/cloud-provider service/helpers/helper.go.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Nodes with this label take no traffic of load balancers. Source: kubernetes/api core/v1/well_known_labels.go.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
const COMPONENT: &str = "minik-load-balancer";
/// What is wrong is told again before the Event that told it is forgotten.
const TELL_AGAIN: Duration = Duration::from_secs(1800);

/// Whether a Service has a load balancer, or something that one left behind.
pub(super) fn concerns(service: &Service) -> bool {
    &*service.spec.r#type == "LoadBalancer" || is_held(service)
}

fn is_held(service: &Service) -> bool {
    let mut finalizers = service.metadata.finalizers.iter();
    finalizers.any(|finalizer| &**finalizer == FINALIZER)
}

/// Whether the Service is to have a load balancer, and it is for us to make one.
fn is_ours(service: &Service) -> bool {
    let class = service.spec.load_balancer_class.as_deref();
    &*service.spec.r#type == "LoadBalancer"
        && service.metadata.deletion_timestamp.is_none()
        && class.is_none_or(|class| class == CLASS)
}

/// Whether a node may take traffic from outside.
pub(super) fn may_announce(node: &Node) -> bool {
    let going = || {
        let mut taints = node.spec.taints.iter();
        taints.any(|taint| &*taint.key == TO_BE_DELETED)
    };
    node_is_ready(node)
        && node.metadata.deletion_timestamp.is_none()
        && !node.metadata.labels.contains_key(EXCLUDED)
        && !going()
}

/// The addresses by which a node is reached.
pub(super) fn addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.addresses.iter();
    addresses
        .filter(|address| &*address.r#type == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// The addresses a Service has by its status.
fn ingress(service: &Service) -> Vec<IpAddr> {
    let points = service.status.load_balancer.ingress.iter();
    points.filter_map(|point| point.ip.parse().ok()).collect()
}

/// Which node announces which address, by the annotation.
fn announced_by(service: &Service) -> BTreeMap<IpAddr, Box<str>> {
    let text = service.metadata.annotations.get(ANNOUNCED_BY);
    let pairs = text.map_or("", |text| text).split(',');
    pairs
        .filter_map(|pair| {
            let (address, node) = pair.split_once('=')?;
            Some((address.parse().ok()?, node.into()))
        })
        .collect()
}

/// What the controller remembers besides the world.
#[derive(Debug)]
pub(super) struct LoadBalancers {
    pool: Pool,
    pub(super) liveness: Liveness,
    /// What was told last about each Service, and when.
    told: BTreeMap<Key, (String, Instant)>,
}

impl LoadBalancers {
    pub(super) fn new(pool: Pool, liveness: Liveness) -> Self {
        Self {
            pool,
            liveness,
            told: BTreeMap::new(),
        }
    }

    /// When something is due by time alone.
    pub(super) fn next(&self) -> Option<Instant> {
        let again = self.told.values().map(|(_, at)| *at + TELL_AGAIN).min();
        [self.liveness.next(), again].into_iter().flatten().min()
    }

    /// Marks what time has touched: addresses of a node that fell silent, and what is to be told again.
    pub(super) fn due(&mut self, world: &mut World, now: Instant) {
        if self.liveness.look(world, now) {
            world.dirty.balanced.extend(world.balanced.iter().cloned());
        }
        let is_old = |at: &Instant| *at + TELL_AGAIN <= now;
        let again = self.told.iter().filter(|(_, (_, at))| is_old(at));
        let again = again.map(|(key, _)| key.clone());
        world.dirty.balanced.extend(again);
        self.told.retain(|_, (_, at)| !is_old(at));
    }

    /// Looks at the heartbeat of a node.
    pub(super) fn observe(&mut self, world: &mut World, node: &str, now: Instant) {
        if self.liveness.observe(world, node, now) {
            world.dirty.balanced.extend(world.balanced.iter().cloned());
        }
    }

    /// The writes for these Services, and for those that wait for an address.
    pub(super) fn plan(
        &mut self,
        world: &World,
        dirty: &BTreeSet<Key>,
        now: Instant,
    ) -> Vec<Action> {
        if dirty.is_empty() {
            return Vec::new();
        }
        let pool = self.pool.clone();
        let mut allocation = Allocation::new(world, &pool);
        let mut actions = Vec::new();
        let mut appointed = BTreeSet::new();
        self.told.retain(|key, _| world.balanced.contains(key));
        for key in &world.balanced {
            let Some(service) = world.services.get(key) else {
                continue;
            };
            let waits = is_ours(service) && service.status.load_balancer.ingress.is_empty();
            if !dirty.contains(key) && !waits {
                appointed.extend(announced_by(service).into_values());
                continue;
            }
            let fate = if is_ours(service) {
                self.fate(world, service, &mut allocation)
            } else {
                Fate::of_another(service)
            };
            appointed.extend(fate.announced_by.values().cloned());
            if is_ours(service) || is_held(service) {
                actions.extend(write(key, service, &fate));
            }
            actions.extend(self.tell(key, service, &fate, now));
        }
        self.liveness.appoint(appointed, now);
        actions
    }

    /// What a Service of ours is to have.
    fn fate(&self, world: &World, service: &Service, allocation: &mut Allocation<'_>) -> Fate {
        let eligible = eligible(world, service);
        if self.pool.is_nodes() {
            return match allocation.of_nodes(service, &eligible) {
                Ok(addresses) => Fate {
                    held: true,
                    addresses,
                    ..Fate::default()
                },
                Err(refusal) => Fate::refused(refusal, true),
            };
        }
        let addresses = match allocation.of_pool(service) {
            Ok(addresses) => addresses,
            Err(refusal) => return Fate::refused(refusal, !self.pool.is_empty()),
        };
        let before = announced_by(service);
        let names: Vec<&str> = eligible.iter().map(|node| &*node.metadata.name).collect();
        let elected = addresses.iter().filter_map(|address| {
            let before = before.get(address).map(|node| &**node);
            Some((*address, self.elect(*address, &names, before)?.into()))
        });
        Fate {
            held: true,
            announced_by: elected.collect(),
            addresses,
            refusal: None,
        }
    }

    /// The node that announces an address: the one that does, as long as it may; else the winner of the rendezvous of those
    /// that are heard of. When none is, it stays where it is: nobody would do better.
    fn elect<'a>(
        &self,
        address: IpAddr,
        eligible: &[&'a str],
        before: Option<&str>,
    ) -> Option<&'a str> {
        let heard = |node: &&&str| !self.liveness.is_silent(node);
        let stays = eligible.iter().find(|node| Some(**node) == before);
        let mut speaking = eligible.iter().filter(heard).peekable();
        if let Some(stays) = stays.filter(|stays| heard(stays) || speaking.peek().is_none()) {
            return Some(stays);
        }
        let weight = |node: &str| Sha256::digest(format!("{address} {node}"));
        let all = eligible.iter();
        let any = if speaking.peek().is_some() {
            speaking.max_by_key(|node| weight(node))
        } else {
            all.max_by_key(|node| weight(node))
        };
        any.copied()
    }

    /// The Event of what happened, unless it was told.
    fn tell(&mut self, key: &Key, service: &Service, fate: &Fate, now: Instant) -> Vec<Action> {
        let event = |level, reason: &str, message: String| {
            let about = ObjectReference {
                kind: "Service".into(),
                api_version: "v1".into(),
                namespace: key.0.clone(),
                name: key.1.clone(),
                uid: service.metadata.uid.clone(),
                ..ObjectReference::default()
            };
            let event = event::new(about, COMPONENT, level, reason, message);
            Action::create(&EVENTS, &event)
        };
        let mut events = Vec::new();
        if !fate.addresses.is_empty() && fate.addresses != ingress(service) {
            let message = format!("Assigned {}", list(&fate.addresses));
            events.push(event(Level::Normal, "IPAllocated", message));
        }
        let before = announced_by(service);
        for (address, node) in &fate.announced_by {
            if before.get(address) != Some(node) {
                let message = format!("{address} is announced by node {node}");
                events.push(event(Level::Normal, "Announced", message));
            }
        }
        let wrong = match &fate.refusal {
            Some(refusal) => Some(("SyncLoadBalancerFailed", refusal.to_string())),
            None if fate.announced_by.len() < fate.addresses.len() && !self.pool.is_nodes() => {
                Some(("NotAnnounced", why_nobody(service).to_owned()))
            }
            None => None,
        };
        let Some((reason, message)) = wrong else {
            self.told.remove(key);
            return events;
        };
        if self.told.get(key).is_none_or(|(told, _)| *told != message) {
            self.told.insert(key.clone(), (message.clone(), now));
            events.push(event(Level::Warning, reason, message));
        }
        events
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

fn why_nobody(service: &Service) -> &'static str {
    if &*service.spec.external_traffic_policy == "Local" {
        "No node answers: externalTrafficPolicy is Local, and no ready node has a ready endpoint of this Service"
    } else {
        "No node answers: none is ready and free of the label node.kubernetes.io/exclude-from-external-load-balancers"
    }
}

/// The nodes that may take this Service's traffic: with `externalTrafficPolicy: Local` only those with a ready endpoint.
fn eligible<'a>(world: &'a World, service: &Service) -> Vec<&'a Node> {
    let local = &*service.spec.external_traffic_policy == "Local";
    let with_endpoints = if local {
        nodes_with_endpoints(world, &key_of(service))
    } else {
        BTreeSet::new()
    };
    let nodes = world.nodes.all().map(|node| &**node);
    nodes
        .filter(|node| may_announce(node))
        .filter(|node| !local || with_endpoints.contains(&node.metadata.name))
        .collect()
}

fn nodes_with_endpoints(world: &World, key: &Key) -> BTreeSet<Box<str>> {
    let slices = world.slices_of(key).into_iter();
    slices
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.conditions.ready.unwrap_or(true))
        .filter_map(|endpoint| endpoint.node_name.clone())
        .collect()
}

/// What a Service is to have; by default nothing any more.
#[derive(Debug, Default)]
struct Fate {
    /// Whether the finalizer holds it.
    held: bool,
    addresses: Vec<IpAddr>,
    announced_by: BTreeMap<IpAddr, Box<str>>,
    refusal: Option<Refusal>,
}

impl Fate {
    /// Of a Service that is not ours: whoever waits for another implementation is told so.
    fn of_another(service: &Service) -> Self {
        let class = service.spec.load_balancer_class.clone();
        let pending = &*service.spec.r#type == "LoadBalancer"
            && service.metadata.deletion_timestamp.is_none()
            && service.status.load_balancer.ingress.is_empty();
        Self {
            refusal: class.filter(|_| pending).map(Refusal::OfAnotherClass),
            ..Self::default()
        }
    }

    fn refused(refusal: Refusal, held: bool) -> Self {
        Self {
            held,
            refusal: Some(refusal),
            ..Self::default()
        }
    }
}

/// The write that brings a Service there, if it is not.
fn write(key: &Key, service: &Service, fate: &Fate) -> Option<Action> {
    let mut finalizers = service.metadata.finalizers.clone();
    finalizers.retain(|finalizer| &**finalizer != FINALIZER);
    if fate.held {
        finalizers.push(FINALIZER.into());
    }
    // What somebody else has put there without our finalizer is not ours to clear.
    let theirs = !fate.held && !is_held(service);
    let status = LoadBalancerStatus {
        ingress: fate.addresses.iter().map(|ip| point(*ip)).collect(),
    };
    let pairs: Vec<String> = fate
        .announced_by
        .iter()
        .map(|(address, node)| format!("{address}={node}"))
        .collect();
    let annotation = (!pairs.is_empty()).then(|| pairs.join(","));
    let known = service.metadata.annotations.get(ANNOUNCED_BY);
    let is_there = fate.held == is_held(service)
        && service.status.load_balancer == status
        && known.map(|text| &**text) == annotation.as_deref();
    if is_there || theirs {
        return None;
    }
    let balanced = &*service.spec.r#type == "LoadBalancer";
    let status = if balanced {
        json!({ "ingress": if status.ingress.is_empty() { Value::Null } else { json!(status.ingress) } })
    } else {
        json!({})
    };
    let patch = json!({
        "metadata": {
            "resourceVersion": service.metadata().resource_version,
            "finalizers": if finalizers.is_empty() { Value::Null } else { json!(finalizers) },
            "annotations": { ANNOUNCED_BY: annotation },
        },
        "status": { "loadBalancer": status },
    });
    Some(Action::Merge(
        &SERVICES,
        key.clone(),
        Part::Status,
        Box::new(patch),
    ))
}

fn point(ip: IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: ip.to_string().into(),
        ip_mode: Some("VIP".into()),
        ..LoadBalancerIngress::default()
    }
}
