//! The loop: take in what was seen, look at what it touched, write, take in what was written.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    Cluster, bootstrap, endpoint_slice, endpoints, join_token,
    load_balancer::{Liveness, LoadBalancers},
    mirroring,
    namespace::Endings,
    node::{self, Evictions, Heartbeats},
    scheduler, service_account,
    watch::{self, Seen},
    workload::Workloads,
    world::{Dirty, Key, Trigger, World},
    write::{Action, Done, absorb, execute},
};
use crate::{announcers::Announcers, registry::Registry};

/// The pause after a failure that is not the other side's being faster.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How long an edit of an object of ours stands. Source: kubernetes/kubernetes
/// pkg/controller/endpointslice/endpointslice_controller.go, endpointSliceChangeMinSyncDelay.
const EDITED: Duration = Duration::from_secs(1);
/// At most this much is taken in before what it touched is looked at.
const SEEN_AT_ONCE: usize = 4096;
/// So many writes are on their way at a time: they share the store's commits.
const WRITES_AT_ONCE: usize = 64;
/// Nothing is due: as good as never.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Runs the controllers for ever.
pub(super) async fn run(registry: Registry, cluster: Cluster, announcers: Announcers) {
    let (sender, mut seen) = mpsc::channel(SEEN_AT_ONCE);
    let watches = watch::all(&registry, &sender);
    drop(sender);
    let mut lists_missing = watches.len();
    let mut controllers = Controllers::new(registry, cluster, announcers.clone());
    loop {
        let wait = controllers.idle_time();
        let first = tokio::select! {
            first = seen.recv() => match first {
                Some(first) => Some(first),
                None => return,
            },
            () = announcers.returned() => None,
            () = tokio::time::sleep(wait) => None,
        };
        let mut next = first;
        let mut count = 0;
        while let Some(step) = next {
            // Nothing is written before everything is known: absence would be mistaken for deletion.
            lists_missing -= usize::from(matches!(step, Seen::List(..)) && lists_missing > 0);
            step.absorb(&mut controllers.world);
            count += 1;
            next = if count < SEEN_AT_ONCE {
                seen.try_recv().ok()
            } else {
                None
            };
        }
        if lists_missing == 0 {
            controllers.reconcile().await;
        }
    }
}

struct Controllers {
    registry: Registry,
    cluster: Cluster,
    world: World,
    heartbeats: Heartbeats,
    evictions: Evictions,
    endings: Endings,
    load_balancers: LoadBalancers,
    workloads: Workloads,
    /// What failed, to be looked at again at this time.
    later: Option<(Instant, Dirty)>,
    next_token: Option<Timestamp>,
    /// Whether what was left behind while no controller ran is gone.
    swept: bool,
}

impl Controllers {
    fn new(registry: Registry, cluster: Cluster, announcers: Announcers) -> Self {
        let pool = cluster.load_balancer_pool.clone();
        Self {
            load_balancers: LoadBalancers::new(pool, Liveness::new(announcers)),
            registry,
            cluster,
            world: World::default(),
            heartbeats: Heartbeats::default(),
            evictions: Evictions::default(),
            endings: Endings::default(),
            workloads: Workloads::default(),
            later: None,
            next_token: None,
            swept: false,
        }
    }

    /// How long nothing has to be done unless something is seen.
    fn idle_time(&self) -> Duration {
        let now = Instant::now();
        let loss = self.heartbeats.next_loss(self.cluster.node_grace);
        let retry = self.later.as_ref().map(|(at, _)| *at);
        let due = [loss, retry, self.load_balancers.next()]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now));
        let by_the_clock = [
            self.next_token,
            self.evictions.next(),
            self.workloads.next(),
        ];
        let by_the_clock =
            by_the_clock.into_iter().flatten().min().map(|at| {
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
            });
        [due, by_the_clock]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(FOREVER)
    }

    /// Looks at everything that was touched until nothing is.
    async fn reconcile(&mut self) {
        let now = Instant::now();
        let touched: Vec<Box<str>> = self.world.dirty.nodes.iter().cloned().collect();
        for name in &touched {
            self.heartbeats.observe(&self.world, name, now);
            self.load_balancers.observe(&mut self.world, name, now);
        }
        self.due(now);
        self.keep_own_services().await;
        while !self.world.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.world.dirty);
            self.look_later(std::mem::take(&mut dirty.edited));
            let actions = self.plan(&dirty);
            self.carry_out(actions, dirty).await;
            // Addresses of a lost node do not wait until everything else is done.
            self.load_balancers.due(&mut self.world, Instant::now());
        }
    }

    /// The cluster's own Services come back when they are deleted by mistake.
    async fn keep_own_services(&mut self) {
        let own = [("default", "kubernetes"), ("kube-system", "kube-dns")];
        let there = |(namespace, name): (&str, &str)| {
            self.world
                .services
                .get(&(namespace.into(), name.into()))
                .is_some()
        };
        if !own.into_iter().all(there)
            && let Err(error) = bootstrap::ensure_services(&self.registry, &self.cluster).await
        {
            tracing::warn!(%error, "the cluster's own Services cannot be written");
            self.again(RETRY, Dirty::default());
        }
    }

    /// Marks what time alone has touched.
    fn due(&mut self, now: Instant) {
        if let Some((_, dirty)) = self.later.take_if(|(at, _)| *at <= now) {
            self.world.dirty.merge(dirty);
        }
        let lost = self.heartbeats.take_lost(self.cluster.node_grace, now);
        let evicting = self.evictions.take_due(Timestamp::now());
        self.world.dirty.nodes.extend(lost);
        self.world.dirty.nodes.extend(evicting);
        self.load_balancers.due(&mut self.world, now);
        self.workloads.due(&mut self.world.dirty, Timestamp::now());
        self.world.dirty.join_tokens |= self.next_token.is_some_and(|at| at <= Timestamp::now());
    }

    fn plan(&mut self, dirty: &Dirty) -> Vec<Action> {
        let world = &self.world;
        // First, since somebody may wait for an address whose node is lost.
        let mut actions = self
            .load_balancers
            .plan(world, &dirty.balanced, Instant::now());
        // A round gives out one Pod range: the next is chosen when this one is in the world.
        let mut given = false;
        let mut next_round = Vec::new();
        for name in &dirty.nodes {
            let node = world.nodes.get(&(Box::default(), name.clone()));
            if node.is_some_and(|node| node.spec.pod_cidr.is_empty())
                && std::mem::replace(&mut given, true)
            {
                next_round.push(name.clone());
                continue;
            }
            let lost = self.heartbeats.is_lost(name);
            actions.extend(node::plan(world, &self.cluster, name, lost));
            actions.extend(self.evictions.plan(world, name, Timestamp::now()));
        }
        for name in &dirty.fallen {
            actions.extend(node::plan_fallen(world, name));
        }
        for name in &dirty.namespaces {
            match world.namespaces.get(&(Box::default(), name.clone())) {
                Some(namespace) if namespace.metadata.deletion_timestamp.is_some() => {
                    self.endings.watch_over(&self.registry, namespace);
                }
                Some(namespace) => {
                    actions.extend(service_account::plan(world, &self.cluster, namespace));
                }
                None => {}
            }
        }
        self.workloads.forget(world, dirty);
        actions.extend(self.workloads.plan(world, dirty, Timestamp::now()));
        actions.extend(scheduler::plan(world, dirty.unscheduled.iter().cloned()));
        // Slices of all Services before any Endpoints: nodes act on slices, and a Pod that ends waits for the last of them.
        for (key, trigger) in &dirty.services {
            actions.extend(endpoint_slice::plan(world, key, *trigger));
        }
        for (key, trigger) in &dirty.services {
            actions.extend(endpoints::plan(world, key, *trigger));
        }
        if !std::mem::replace(&mut self.swept, true) {
            actions.extend(endpoints::sweep(world));
        }
        for key in &dirty.endpoints {
            actions.extend(mirroring::plan(world, key));
        }
        if dirty.join_tokens {
            let (over, next) = join_token::plan(world, Timestamp::now());
            actions.extend(over);
            self.next_token = next;
        }
        self.world.dirty.nodes.extend(next_round);
        actions
    }

    /// Writes, takes the results in, and remembers what to look at again.
    async fn carry_out(&mut self, actions: Vec<Action>, dirty: Dirty) {
        let registry = &self.registry;
        let results: Vec<_> = stream::iter(actions)
            .map(|action| async move { execute(registry, action).await })
            .buffer_unordered(WRITES_AT_ONCE)
            .collect()
            .await;
        let mut failed = false;
        // What was edited by others came before these results; what they edit is right.
        let edited = std::mem::take(&mut self.world.dirty.edited);
        for result in results {
            match result {
                Ok(done) => {
                    absorb(&mut self.world, &done);
                    if let Done::Dependents(made) = &done {
                        self.workloads
                            .learn(&mut self.world.dirty, made, Timestamp::now());
                    }
                }
                // Its namespace is going away: nothing is wrong.
                Err(error) if error.is_namespace_terminating() => {}
                Err(error) => {
                    failed = true;
                    tracing::warn!(%error, "a controller's write failed: trying again");
                }
            }
        }
        self.world.dirty.edited = edited;
        if failed {
            self.again(RETRY, dirty);
        }
    }

    /// What others wrote into our objects is set right a little later.
    fn look_later(&mut self, edited: BTreeSet<Key>) {
        if edited.is_empty() {
            return;
        }
        let later = Dirty {
            services: edited
                .iter()
                .map(|key| (key.clone(), Trigger::default()))
                .collect(),
            endpoints: edited,
            ..Dirty::default()
        };
        self.again(EDITED, later);
    }

    fn again(&mut self, after: Duration, dirty: Dirty) {
        let at = Instant::now() + after;
        match &mut self.later {
            None => self.later = Some((at, dirty)),
            Some((known, later)) => {
                *known = (*known).min(at);
                later.merge(dirty);
            }
        }
    }
}
