//! Loops that watch objects and write objects.
//!
//! Each controller is a pure function (objects in, writes out) and a small loop. What they read comes from one set of
//! [`caches`], fed by the registry's watches in this process: a change reaches a controller without a poll or a timer.
//! Changes become keys in a [`queue`], where equal keys coalesce; a worker takes a key, reads the caches and makes the
//! world fit. So every pass starts from the newest state, and a missed, doubled or late event costs nothing.
//!
//! Reading order: [`reflector`], [`queue`], [`caches`], [`bootstrap`], then one file or directory per controller.

mod bootstrap;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use api::core::Node;
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::bootstrap::bootstrap;
use crate::registry::{ApiError, Registry};

/// What the controllers must know of the cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The CA's certificate in PEM, for every namespace's `kube-root-ca.crt`.
    pub ca_pem: String,
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
///
/// # Errors
/// The store's, when the first lists fail.
pub async fn start(
    registry: Registry,
    cluster: Cluster,
    stop: CancellationToken,
) -> Result<Controllers, ApiError> {
    let _ = (registry, cluster, stop);
    Ok(Controllers {
        tasks: JoinSet::new(),
    })
}

/// Whether a node says, or is believed, to be ready.
#[must_use]
pub fn node_is_ready(node: &Node) -> bool {
    let conditions = &node.status.conditions;
    conditions
        .iter()
        .any(|condition| &*condition.r#type == "Ready" && &*condition.status == "True")
}
