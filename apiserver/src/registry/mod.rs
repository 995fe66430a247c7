//! The rules of every kind, over the store: names and defaults, validation, allocation, deletion, lists and watches.
//!
//! Reading order: [`kind`] (what a kind is), [`kinds`] (all that are built in), [`catalog`] (what is served now), [`custom`] (what CustomResourceDefinitions make), [`object`] (one version of one object),
//! [`options`] (how a caller wants things), then the verbs: `read`, `write`, `apply`, `delete`, `watch`. [`error`] says what
//! can go wrong, [`meta`] holds the rules every kind shares, `managed` who owns which fields, [`allocate`] addresses and ports, [`table`] what
//! `kubectl get` prints.

use std::{ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;

use crate::store::{Backend, Revision};

pub mod allocate;
mod apply;
pub mod binding;
pub mod catalog;
pub mod causes;
pub mod custom;
mod delete;
pub mod error;
pub(crate) mod eviction;
pub mod kind;
pub mod kinds;
mod managed;
pub mod meta;
pub mod object;
pub mod options;
mod read;
mod scale;
mod service_account_admission;
mod sketch;
pub mod table;
pub mod watch;
mod write;

pub use apply::{Apply, Check};
pub use binding::Binding;
pub use catalog::Catalog;
pub use causes::{Cause, CauseReason, Causes};
pub use error::ApiError;
pub use kind::Kind;
pub use object::Object;
pub use options::{
    Bookmarks, DeleteOptions, Deleted, Freshness, List, ListQuery, Part, Propagation, Selection,
    WatchQuery, WatchStart, WriteOptions,
};
pub use scale::SCALES;
pub use watch::{Change, ChangeKind, WatchItem, WatchStream};

/// What of the cluster's configuration the rules depend on.
#[derive(Clone, Debug)]
pub struct Context {
    /// The ranges ClusterIPs come from, the primary one first; one per family.
    pub service_cidrs: Vec<IpNet>,
    /// The ranges of Pods.
    pub pod_cidrs: Vec<IpNet>,
    /// The ports NodePorts come from.
    pub node_ports: RangeInclusive<u16>,
    /// How long Pods that do not say stay on a node that is not fit any more.
    pub default_tolerations: DefaultTolerations,
    /// The external IPs that Services may claim; none by default, since whoever claims an address gets its traffic from
    /// every node (CVE-2020-8554). Flag `--allow-external-ips`.
    pub allowed_external_ips: Vec<IpNet>,
    /// The addresses of nodes and of the API that Endpoints written by hand may name all the same. Flag
    /// `--allow-endpoint-ips`.
    pub allowed_endpoint_ips: Vec<IpNet>,
    /// The users, besides administrators, that may say where a Service is reached. Flag `--load-balancer-controller`.
    pub load_balancer_controllers: Vec<String>,
    /// Whether Pods get what their ServiceAccounts give. Not where nobody makes the accounts of namespaces.
    pub service_accounts: bool,
}

/// For how many seconds Pods tolerate the NoExecute taints of a node that is not ready, or not reachable, unless they say so
/// themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultTolerations {
    /// `node.kubernetes.io/not-ready`. Flag `--default-not-ready-toleration-seconds`.
    pub not_ready_secs: i64,
    /// `node.kubernetes.io/unreachable`. Flag `--default-unreachable-toleration-seconds`.
    pub unreachable_secs: i64,
}

impl Default for DefaultTolerations {
    /// Upstream's five minutes.
    fn default() -> Self {
        Self {
            not_ready_secs: 300,
            unreachable_secs: 300,
        }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self {
            service_cidrs: vec![IpNet::from(
                ipnet::Ipv4Net::new([10, 96, 0, 0].into(), 16).expect("16 is a prefix length"),
            )],
            pod_cidrs: Vec::new(),
            node_ports: 30000..=32767,
            default_tolerations: DefaultTolerations::default(),
            allowed_external_ips: Vec::new(),
            allowed_endpoint_ips: Vec::new(),
            load_balancer_controllers: Vec::new(),
            service_accounts: false,
        }
    }
}

/// The objects of the cluster.
#[derive(Clone)]
pub struct Registry {
    backend: Arc<dyn Backend>,
    context: Arc<Context>,
    memos: Arc<watch::Memos>,
    catalog: Arc<tokio::sync::watch::Sender<Arc<Catalog>>>,
    /// The kinds that definitions made.
    custom: Arc<custom::Served>,
    /// The newest revision that somebody waits for nodes to have applied.
    awaited: tokio::sync::watch::Sender<Revision>,
}

impl Registry {
    /// A registry over a store.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, context: Context) -> Self {
        Self {
            backend,
            context: Arc::new(context),
            memos: Arc::default(),
            catalog: Arc::default(),
            custom: Arc::default(),
            awaited: tokio::sync::watch::Sender::default(),
        }
    }

    /// The store.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Somebody waits for nodes to have applied this revision: their watches tell how far they have come as soon as they
    /// have come so far, instead of with the next bookmark.
    ///
    /// A revision that does not exist yet counts as the newest.
    pub fn await_applied(&self, revision: Revision) {
        let revision = revision.min(self.backend.current());
        self.awaited.send_if_modified(|awaited| {
            let newer = revision > *awaited;
            *awaited = revision.max(*awaited);
            newer
        });
    }

    /// The configuration the rules depend on.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }
}
