//! The loop that makes the node's rules and names follow the cluster.
//!
//! Events only mark Services dirty. A few milliseconds later the difference is translated and applied in this order:
//! rules that come or change, then names, then rules that go. So a name never leads to an address without rules. After
//! a failure the state of the rules counts as unknown: back off, then replace them whole.

mod claims;
mod local_pods;
mod programmer;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use dataplane::{
    Serving,
    model::{Change, Desired, Fate, Frontend, Protocol},
};
use dns::{Zone, records};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    backoff::Backoff,
    health::{Health, HealthCheck},
    localhost::LocalhostNodePorts,
    network::Announcements,
    objects::{EndpointSlice, Key, Service},
    reflector::Delta,
    translate::{self, Here},
    view::{Dirty, Position, View},
};
use claims::Claims;
use local_pods::Claimant;
pub(crate) use local_pods::LocalPods;
pub(crate) use programmer::Rules;
use programmer::{Programmer, RulesError, Step};

/// How long changes are collected before they are applied.
const COALESCE: Duration = Duration::from_millis(3);
/// How often the kernel is asked whether somebody else changed our rules.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// The view, shared with those who read it (Pods' environments).
pub(crate) type SharedView = Arc<Mutex<View>>;

/// Locks the view for a moment.
pub(crate) fn lock(view: &SharedView) -> MutexGuard<'_, View> {
    view.lock().expect("no holder of this lock panics")
}

/// What makes the loop run.
pub(crate) struct Sources {
    pub(crate) services: mpsc::Receiver<Vec<Delta<Service>>>,
    pub(crate) slices: mpsc::Receiver<Vec<Delta<EndpointSlice>>>,
    pub(crate) namespaces: mpsc::Receiver<Vec<Delta<api::core::Namespace>>>,
    pub(crate) service_cidrs: mpsc::Receiver<Vec<Delta<api::networking::ServiceCidr>>>,
    /// The node's zone, which hints of endpoints name.
    pub(crate) zone: watch::Receiver<Option<Box<str>>>,
}

/// The loop's state.
pub(crate) struct Reconciler {
    here: Here,
    /// What does not depend on Services: networks, local listeners.
    base: Desired,
    /// The ranges of ClusterIPs that the server was configured with; ServiceCIDRs add others.
    configured: BTreeSet<IpNet>,
    view: SharedView,
    zone: Zone,
    rules: Programmer,
    health: Health,
    announcements: Announcements,
    localhost: LocalhostNodePorts,
    claims: Claims<Claimant>,
    /// The Pods on this node, and those the rules have.
    local_pods: watch::Receiver<LocalPods>,
    applied_pods: LocalPods,
    /// What the rules do not have yet.
    pending: Dirty,
    /// UDP frontends that are gone, whose flows were not looked through since.
    gone: BTreeSet<Frontend>,
    /// Whether the rules are as the claims say.
    known: bool,
    backoff: Backoff,
    applied: watch::Sender<Option<Position>>,
}

impl Reconciler {
    /// # Errors
    /// When the thread for the rules cannot be started.
    pub(crate) fn new<R: Rules>(
        here: Here,
        base: Desired,
        view: SharedView,
        zone: Zone,
        local_pods: watch::Receiver<LocalPods>,
        rules: R,
        (health, announcements, localhost): (Health, Announcements, LocalhostNodePorts),
    ) -> std::io::Result<(Self, watch::Receiver<Option<Position>>)> {
        let (applied, reader) = watch::channel(None);
        let left_behind = rules.left_behind();
        let reconciler = Self {
            here,
            configured: base.service_networks.clone(),
            base,
            view,
            zone,
            rules: Programmer::start(rules)?,
            health,
            announcements,
            localhost,
            claims: Claims::default(),
            local_pods,
            applied_pods: LocalPods::default(),
            pending: Dirty::default(),
            // Those that are still wanted are claimed before anything is done about this.
            gone: udp(left_behind.iter()).collect(),
            known: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            applied,
        };
        Ok((reconciler, reader))
    }

    /// Runs until a source ends, which they do only when the agent stops.
    pub(crate) async fn run(mut self, mut sources: Sources) {
        let mut verify = interval(VERIFY_EVERY);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due: Option<Instant> = None;
        loop {
            let at = due.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = sleep_until(at), if due.is_some() => due = self.reconcile().await,
                open = self.take_in(&mut sources) => {
                    if !open {
                        return;
                    }
                    due = due.or_else(|| Some(Instant::now() + COALESCE));
                }
                _ = verify.tick(), if self.known && due.is_none() => due = self.verify().await,
            }
        }
    }

    /// Waits for one batch of changes and marks what it touches; false when a source has ended.
    async fn take_in(&mut self, sources: &mut Sources) -> bool {
        tokio::select! {
            Some(deltas) = sources.services.recv() => lock(&self.view).apply_services(deltas),
            Some(deltas) = sources.slices.recv() => lock(&self.view).apply_slices(deltas),
            Some(deltas) = sources.namespaces.recv() => lock(&self.view).apply_namespaces(deltas),
            Some(deltas) = sources.service_cidrs.recv() => lock(&self.view).apply_service_cidrs(deltas),
            Ok(()) = self.local_pods.changed() => {}
            Ok(()) = sources.zone.changed() => self.move_to(sources.zone.borrow_and_update().clone()),
            else => return false,
        }
        self.health.queued();
        true
    }

    /// In another zone every Service may prefer other endpoints: all are looked at again.
    fn move_to(&mut self, zone: Option<Box<str>>) {
        if self.here.zone != zone {
            tracing::info!(
                zone = zone.as_deref().unwrap_or_default(),
                "the node is in another zone"
            );
            self.here.zone = zone;
            self.known = false;
        }
    }

    async fn verify(&mut self) -> Option<Instant> {
        match self.rules.run(Step::Verify).await {
            Ok(repaired) => {
                if repaired {
                    tracing::warn!("somebody else changed our rules; repaired");
                }
                None
            }
            Err(error) => Some(self.failed(&error)),
        }
    }

    /// Applies everything pending. Returns when to try again, after a failure.
    async fn reconcile(&mut self) -> Option<Instant> {
        let started = Instant::now();
        let (synced, position) = {
            let mut view = lock(&self.view);
            let Dirty {
                services,
                namespaces,
                service_networks,
            } = view.take_dirty();
            self.pending.service_networks |= service_networks;
            self.pending.services.extend(services);
            self.pending.namespaces.extend(namespaces);
            (view.is_synced(), view.position())
        };
        // Half a picture would cut off what runs.
        if !synced {
            return None;
        }
        self.follow_service_networks();
        let services = self.pending.services.len();
        let done = if self.known {
            self.update().await
        } else {
            self.replace().await
        };
        match done {
            Ok(()) => {
                self.backoff.reset();
                self.health.updated();
                if services > 0 {
                    let elapsed_ms = started.elapsed().as_secs_f64() * 1000.0;
                    tracing::debug!(services, elapsed_ms, "rules and names follow");
                }
                self.applied
                    .send_if_modified(|applied| std::mem::replace(applied, position) != position);
                None
            }
            Err(error) => Some(self.failed(&error)),
        }
    }

    /// Ranges of ClusterIPs come and go with ServiceCIDRs. They are rules, not elements: the rules are replaced whole.
    fn follow_service_networks(&mut self) {
        if !std::mem::take(&mut self.pending.service_networks) {
            return;
        }
        let mut networks = self.configured.clone();
        for net in lock(&self.view).service_networks() {
            if self.would_cut_off(net) {
                tracing::error!(service_cidr = %net, "a ServiceCIDR covers addresses of Pods or of this node, which would not be reached any more: its unused addresses are left alone");
            } else {
                networks.insert(net);
            }
        }
        if networks != self.base.service_networks {
            tracing::info!(service_cidrs = ?networks, "the ranges of Services are others");
            self.base.service_networks = networks;
            self.known = false;
        }
    }

    /// Whether addresses that are no ClusterIPs are in a range. Whatever is sent to one without a Service is dropped.
    fn would_cut_off(&self, net: IpNet) -> bool {
        let mut pods = self.base.pod_networks.iter();
        let mut own = self.here.addresses.into_iter().flatten();
        pods.any(|pods| pods.contains(&net) || net.contains(pods))
            || own.any(|own| net.contains(&own))
    }

    fn failed(&mut self, error: &RulesError) -> Instant {
        self.known = false;
        let delay = self.backoff.fail();
        tracing::error!(%error, retry_ms = delay.as_millis() as u64, "programming the rules failed; they will be replaced whole");
        Instant::now() + delay
    }

    /// The difference only: its cost does not depend on how many Services there are.
    async fn update(&mut self) -> Result<(), RulesError> {
        let pods = self.local_pods.borrow_and_update().clone();
        let (put, names, remove, checks, announced, serving) = {
            let view = lock(&self.view);
            let mut claimants = pods.changed_ports(&self.applied_pods);
            let services = self.pending.services.iter().cloned();
            claimants.extend(services.map(Claimant::Service));
            let (mut put, remove) = self.claims.update(&claimants, |claimant| {
                frontends(&view, &pods, claimant, &self.here)
            });
            put.local_pods = pods.changed_addresses(&self.applied_pods);
            self.gone.extend(udp(remove.frontends.keys()));
            let checks = checks(&view, self.pending.services.iter(), &self.here);
            let changed = self.claims.owners(put.frontends.keys()).chain(&claimants);
            let serving = self.serving(&view, &pods, changed);
            let announced = announced(&view, self.pending.services.iter(), &self.here);
            let names = names(&view, &self.pending);
            (put, names, remove, checks, announced, serving)
        };
        // From here until the end the rules are neither the old nor the new ones.
        self.known = false;
        let frontends = put.frontends.iter().chain(&remove.frontends);
        let on_localhost = LocalhostNodePorts::changes(frontends);
        if put != Change::default() {
            self.rules.run(Step::Update(put)).await?;
        }
        self.zone.apply(names);
        if remove != Change::default() {
            self.rules.run(Step::Update(remove)).await?;
        }
        self.forget_flows(serving).await;
        self.health.apply(checks);
        self.localhost.apply(on_localhost);
        self.announcements.apply(announced);
        self.applied_pods = pods;
        self.settle();
        Ok(())
    }

    /// Everything: at the start and after a failure.
    async fn replace(&mut self) -> Result<(), RulesError> {
        let pods = self.local_pods.borrow_and_update().clone();
        let (desired, names, checks, announced, serving) = {
            let view = lock(&self.view);
            let claimants = claimants(&view, &pods);
            let (claims, fates) = Claims::new(claimants.iter().cloned(), |claimant| {
                frontends(&view, &pods, claimant, &self.here)
            });
            self.gone.extend(udp(self.claims.frontends()));
            self.claims = claims;
            let mut desired = self.base.clone();
            desired.frontends = fates;
            desired.local_pods.clone_from(&pods.addresses);
            let checks = checks(&view, view.service_keys(), &self.here);
            let serving = self.serving(&view, &pods, claimants.iter());
            let announced = announced(&view, view.service_keys(), &self.here);
            let names = names(&view, &self.pending);
            (desired, names, checks, announced, serving)
        };
        let on_localhost = LocalhostNodePorts::of(&desired.frontends);
        let reverse = desired.service_networks.iter().chain(&desired.pod_networks);
        let reverse = reverse.copied().collect();
        self.rules.run(Step::Replace(desired)).await?;
        self.zone.set_reverse(reverse);
        self.zone.apply(names);
        self.zone.set_synced(true);
        self.forget_flows(serving).await;
        self.health.replace(checks);
        self.localhost.replace(on_localhost);
        self.announcements.replace(announced);
        self.applied_pods = pods;
        self.settle();
        // The lists, the rules' first version and the plan to get there were several times what stays.
        dataplane::kernel::release_free_memory();
        Ok(())
    }

    /// Who may keep their UDP flows, of what these claimants have, and of the frontends that are gone.
    fn serving<'a>(
        &self,
        view: &View,
        pods: &LocalPods,
        claimants: impl Iterator<Item = &'a Claimant>,
    ) -> Serving {
        let gone = self.gone.iter().filter(|gone| !self.claims.has(gone));
        let mut all: Serving = gone.map(|frontend| (*frontend, None)).collect();
        for claimant in claimants {
            let serving = match claimant {
                Claimant::Service(key) => view.service(key).map(|service| {
                    let slices: Vec<_> = view.slices(key).collect();
                    translate::serving(service, &slices, &self.here)
                }),
                Claimant::Pod(uid) => Some(pods.serving(uid)),
            };
            let serving = serving.into_iter().flatten();
            all.extend(serving.filter(|(frontend, _)| self.claims.owns(claimant, frontend)));
        }
        all
    }

    /// The rules are right without it, so a failure makes nothing unknown: such a flow ends when its client falls silent.
    async fn forget_flows(&self, serving: Serving) {
        if serving.is_empty() {
            return;
        }
        if let Err(error) = self.rules.run(Step::ForgetFlows(serving)).await {
            tracing::warn!(%error, "UDP flows to endpoints that left may remain until their clients fall silent");
        }
    }

    fn settle(&mut self) {
        self.pending = Dirty::default();
        self.gone.clear();
        self.known = true;
    }
}

fn udp<'a>(
    frontends: impl Iterator<Item = &'a Frontend> + 'a,
) -> impl Iterator<Item = Frontend> + 'a {
    let udp = |frontend: &&Frontend| frontend.protocol() == Protocol::Udp;
    frontends.filter(udp).copied()
}

/// Everybody who may want a frontend: Services first.
fn claimants(view: &View, pods: &LocalPods) -> Vec<Claimant> {
    let services = view.service_keys().cloned().map(Claimant::Service);
    let ports = pods.host_ports.keys().cloned().map(Claimant::Pod);
    services.chain(ports).collect()
}

fn frontends(
    view: &View,
    pods: &LocalPods,
    claimant: &Claimant,
    here: &Here,
) -> BTreeMap<Frontend, Fate> {
    match claimant {
        Claimant::Service(key) => match view.service(key) {
            Some(service) => {
                let slices: Vec<_> = view.slices(key).collect();
                translate::frontends(service, &slices, here)
            }
            None => BTreeMap::new(),
        },
        Claimant::Pod(uid) => {
            let ports = pods.host_ports.get(uid).into_iter().flatten();
            ports
                .map(|(frontend, endpoint)| (*frontend, translate::host_port_fate(*endpoint)))
                .collect()
        }
    }
}

/// The health checks of Services.
fn checks<'a>(
    view: &View,
    services: impl Iterator<Item = &'a Key>,
    here: &Here,
) -> Vec<(Key, Option<HealthCheck>)> {
    let check = |key: &Key| {
        let service = view.service(key)?;
        let slices: Vec<_> = view.slices(key).collect();
        translate::health_check(service, &slices, here)
    };
    services.map(|key| (key.clone(), check(key))).collect()
}

/// The addresses that this node is to announce: only once its rules know them.
fn announced<'a>(
    view: &View,
    services: impl Iterator<Item = &'a Key>,
    here: &Here,
) -> Vec<(Key, Vec<IpAddr>)> {
    let of = |key: &Key| {
        view.service(key)
            .map(|service| service.announced_by(&here.node))
    };
    services
        .map(|key| (key.clone(), of(key).unwrap_or_default()))
        .collect()
}

/// What dirty namespaces and Services mean to the zone.
fn names(view: &View, dirty: &Dirty) -> Vec<records::Change> {
    let namespaces = dirty
        .namespaces
        .iter()
        .map(|name| records::Change::Namespace {
            name: name.clone(),
            exists: view.has_namespace(name),
        });
    let services = dirty.services.iter().map(|key| records::Change::Service {
        namespace: (*key.namespace).into(),
        name: (*key.name).into(),
        records: view
            .service(key)
            .and_then(|service| translate::records(service, &view.slices(key).collect::<Vec<_>>())),
    });
    namespaces.chain(services).collect()
}
