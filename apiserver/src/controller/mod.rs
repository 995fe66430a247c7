//! Loops that watch objects and write objects.
//!
//! One task watches what the controllers need, keeps it in a [`world::World`] of slim values, and marks what a change touches.
//! Each controller is a pure function from the world to [`write::Action`]s; the task carries them out and takes their results
//! into the world at once, so that no controller ever acts on a state older than its own writes. A missed, doubled or late
//! event costs nothing, and nothing runs on a timer where an event exists. [`garbage`] follows every kind, and keeps only who
//! owns whom.
//!
//! Reading order: [`world`], [`write`], [`watch`], [`run`], [`bootstrap`], then one file per controller. [`rbac`] and
//! [`node_graph`] are apart: the authorizers need them before the first request.

mod bootstrap;
mod certificates;
pub mod definitions;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod event;
mod garbage;
mod hints;
mod join_token;
mod load_balancer;
mod mirroring;
mod namespace;
mod node;
pub mod node_graph;
mod pods;
mod programmed;
pub mod rbac;
mod run;
mod scheduler;
mod service_account;
mod service_cidr;
mod slices;
mod subsets;
#[cfg(test)]
mod tests;
mod watch;
mod workload;
mod world;
mod write;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::core::Node;
use futures_util::{FutureExt as _, future::BoxFuture};
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::{
    bootstrap::bootstrap,
    load_balancer::{ANNOUNCED_BY, Pool, PoolEntry, PoolEntryError},
    programmed::CONDITION as PROGRAMMED,
};
use crate::{
    announcers::Announcers, applied::Applied, metrics::Metrics, pki::Pki, registry::Registry,
};

/// What the controllers must know of the cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The CA: its certificate is in every namespace's `kube-root-ca.crt`, and it signs what users ask for.
    pub pki: Arc<Pki>,
    /// Where the API is reached.
    pub advertise: SocketAddr,
    /// The ClusterIP of `default/kubernetes`.
    pub api_service_ip: IpAddr,
    /// The ClusterIP of `kube-system/kube-dns`.
    pub cluster_dns: IpAddr,
    /// Where ClusterIPs come from.
    pub service_cidrs: Vec<IpNet>,
    /// Where the nodes' Pod ranges come from.
    pub pod_cidrs: Vec<IpNet>,
    /// How long a node may be silent before it counts as lost.
    pub node_grace: Duration,
    /// Where Services of type LoadBalancer get their addresses.
    pub load_balancer_pool: Pool,
}

/// The running controllers.
pub struct Controllers {
    tasks: JoinSet<()>,
}

impl Controllers {
    /// Waits until all have stopped.
    pub async fn join(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts every controller; they stop when `stop` is cancelled.
#[must_use]
pub fn start(
    registry: Registry,
    cluster: Cluster,
    (applied, announcers): (Applied, Announcers),
    metrics: Metrics,
    stop: CancellationToken,
) -> Controllers {
    let mut tasks = JoinSet::new();
    // A controller can be stopped between any two writes: the next start looks at everything again.
    let programmed = programmed::run(registry.clone(), applied, metrics);
    let garbage = garbage::run(registry.clone());
    let disruption = disruption::run(registry.clone());
    let service_cidr = service_cidr::run(registry.clone());
    let definitions = definitions::run(registry.clone());
    let certificates = certificates::run(registry.clone(), cluster.pki.clone());
    let main = run::run(registry, cluster, announcers);
    let loops: [BoxFuture<'static, ()>; 7] = [
        programmed.boxed(),
        garbage.boxed(),
        disruption.boxed(),
        service_cidr.boxed(),
        definitions.boxed(),
        certificates.boxed(),
        main.boxed(),
    ];
    for each in loops {
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(each).await;
        });
    }
    Controllers { tasks }
}

/// Whether a node says, or is believed, to be ready.
#[must_use]
pub fn node_is_ready(node: &Node) -> bool {
    let conditions = &node.status.conditions;
    conditions
        .iter()
        .any(|condition| &*condition.r#type == "Ready" && &*condition.status == "True")
}
