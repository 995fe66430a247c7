//! The Pods of this node: a worker for each, which makes it run, watches it, reports it, and ends it in good order.
//!
//! ```text
//!   watch of own Pods ──> Pods ──> Worker per Pod ──> Sandbox (shim + network) ──> containers
//!                                     │   ▲ state changes
//!                                     └───┴──> status of the Pod object
//! ```
//!
//! What can be decided without doing is decided in pure modules: [`container`] (when to start what), [`env`], [`files`],
//! [`probe`]'s `health` and `schedule` (when to ask what, and what the answers come to), [`spec`], [`status`]. A [`handler`] is what
//! a probe or a hook does once; `worker::care` is where the two begin and end.

mod container;
mod drain;
mod env;
mod events;
mod files;
mod handler;
mod host_ports;
mod probe;
mod sandbox;
mod sources;
mod spec;
mod status;
mod volumes;
mod worker;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    net::IpAddr,
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use api::core::Pod;
use runtime::{PodSpec, Runtime};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use crate::{
    Addresses,
    backoff::Backoff,
    client::Client,
    network::{Network, NetworkError},
    objects::{Key, Object},
    reconcile::{LocalPods, SharedView},
    reflector::Delta,
    translate,
    view::Position,
};
use files::{DnsSetup, ResolvConf};
use host_ports::HostPorts;
use sandbox::{Sandbox, SandboxError};
use sources::Followed;
use worker::Worker;

/// What every worker uses.
pub(crate) struct Context {
    client: Client,
    runtime: Runtime,
    network: Network,
    node_ips: Addresses,
    view: SharedView,
    applied: watch::Receiver<Option<Position>>,
    local_pods: watch::Sender<LocalPods>,
    dns: DnsSetup,
    /// The node's own `/etc/hosts`, for Pods on its network.
    host_hosts: String,
    host_ports: HostPorts,
    /// What volumes are made of.
    followed: Followed,
}

/// What a [`Context`] is made of.
pub(crate) struct Setup {
    pub(crate) client: Client,
    pub(crate) runtime: Runtime,
    pub(crate) network: Network,
    pub(crate) node_ips: Addresses,
    pub(crate) view: SharedView,
    pub(crate) applied: watch::Receiver<Option<Position>>,
    pub(crate) local_pods: watch::Sender<LocalPods>,
    pub(crate) cluster_dns: IpAddr,
    pub(crate) cluster_domain: String,
}

impl Context {
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup {
            client,
            runtime,
            network,
            node_ips,
            view,
            applied,
            local_pods,
            ..
        } = setup;
        let host = ResolvConf::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        let dns = DnsSetup {
            cluster_dns: setup.cluster_dns,
            domain: setup.cluster_domain,
            host,
        };
        let host_hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        Self {
            client,
            runtime,
            network,
            node_ips,
            view,
            applied,
            local_pods,
            dns,
            host_hosts,
            host_ports: HostPorts::default(),
            followed: Followed::default(),
        }
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Whether the node knows every Service, which it does once its rules hold them all: a container is told of those that
    /// exist when it starts, and never again.
    fn knows_services(&self) -> bool {
        self.applied.borrow().is_some()
    }

    /// Removes the logs of a Pod whose object is gone: nobody can ask for them any more.
    async fn remove_logs(&self, namespace: &str, name: &str, uid: &str) {
        let runtime = self.runtime.clone();
        let [namespace, name, uid] = [namespace, name, uid].map(str::to_owned);
        let removed =
            tokio::task::spawn_blocking(move || runtime.remove_logs(&namespace, &name, &uid));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, "the logs of a deleted Pod stay");
        }
    }

    /// Tells the rules that a Pod with these addresses has come. One on the node's own network changes nothing for them.
    fn local_pod_came(&self, spec: &PodSpec, addresses: Addresses) {
        if spec.network == runtime::Network::Host {
            return;
        }
        self.local_pods.send_modify(|pods| {
            pods.addresses.extend(addresses);
            let ports = translate::host_ports(&spec.host_ports, addresses);
            if !ports.is_empty() {
                pods.host_ports.insert(spec.uid.as_str().into(), ports);
            }
        });
    }

    /// Tells the rules that it has left.
    fn local_pod_left(&self, uid: &str, addresses: Addresses) {
        self.local_pods.send_modify(|pods| {
            for address in addresses {
                pods.addresses.remove(&address);
            }
            pods.host_ports.remove(uid);
        });
    }
}

/// What a worker is to do.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// The Pod as the server has it, which may be on its way out.
    Run(Arc<Pod>),
    /// The object is gone: end everything, report nothing.
    Gone,
}

/// A worker's inbox, by the Pod's name.
struct Inbox {
    uid: Box<str>,
    wanted: watch::Sender<Wanted>,
}

/// All Pods of the node.
pub(crate) struct Pods {
    context: Arc<Context>,
    workers: HashMap<Key, Inbox>,
    /// Pods that an earlier agent started, by uid, until the first full list says whose they are.
    adopted: HashMap<String, Sandbox>,
}

impl Pods {
    /// Finds the Pods that run already. Their addresses are theirs from now on; nothing is restarted.
    ///
    /// # Errors
    /// When the run directory or a Pod's namespace cannot be read.
    pub(crate) async fn adopt(context: Arc<Context>) -> Result<Self, AdoptError> {
        let runtime = context.runtime.clone();
        let found = tokio::task::spawn_blocking(move || runtime.adopt())
            .await
            .expect("the runtime does not panic")?;
        for error in found.left {
            tracing::error!(%error, "the remains of a dead Pod cannot be removed");
        }
        let mut adopted = HashMap::new();
        for pod in found.pods {
            let (uid, pod) = (pod.uid().to_owned(), Arc::new(pod));
            match adopt_one(&context, &pod).await {
                Ok(Some(sandbox)) => {
                    adopted.insert(uid, sandbox);
                    continue;
                }
                // An agent was killed between shim and cable: nothing runs in it yet.
                Ok(None) => tracing::warn!(pod = uid, "a Pod without an address is removed"),
                // This process lacks something: that says nothing about the Pod, which runs on.
                Err(SandboxError::Network(error)) => return Err(error.into()),
                Err(error) => tracing::warn!(pod = uid, %error, "a Pod died while it was adopted"),
            }
            let _ = tokio::task::spawn_blocking(move || pod.remove()).await;
        }
        tracing::info!(pods = adopted.len(), "adopted running Pods");
        Ok(Self {
            context,
            workers: HashMap::new(),
            adopted,
        })
    }

    /// Follows the server's Pods of this node. Ends when the watch does, which is when the agent stops; Pods run on.
    pub(crate) async fn run(mut self, mut deltas: mpsc::Receiver<Vec<Delta<Pod>>>) {
        while let Some(batch) = deltas.recv().await {
            for delta in batch {
                match delta {
                    Delta::Replace { items, .. } => self.replace(items),
                    Delta::Put(pod) => self.put(pod),
                    Delta::Remove { key, .. } => self.gone(&key),
                    Delta::Progress(_) => {}
                }
            }
        }
    }

    fn replace(&mut self, items: Vec<Pod>) {
        let present: BTreeSet<Key> = items.iter().map(Object::key).collect();
        let missing: Vec<Key> = self
            .workers
            .keys()
            .filter(|key| !present.contains(key))
            .cloned()
            .collect();
        missing.iter().for_each(|key| self.gone(key));
        items.into_iter().for_each(|pod| self.put(pod));
        // Only a full list tells which of the running Pods nobody wants any more.
        for (uid, sandbox) in self.adopted.drain() {
            tracing::info!(
                pod = uid,
                "a running Pod is unknown to the server; ending it"
            );
            let context = Arc::clone(&self.context);
            tokio::spawn(end_unknown(context, sandbox));
        }
    }

    fn put(&mut self, pod: Pod) {
        let key = pod.key();
        let pod = Arc::new(pod);
        if let Some(inbox) = self.workers.get(&key) {
            if inbox.uid == pod.metadata.uid && !inbox.wanted.is_closed() {
                inbox.wanted.send_replace(Wanted::Run(pod));
                return;
            }
            inbox.wanted.send_replace(Wanted::Gone);
        }
        let (wanted, inbox) = watch::channel(Wanted::Run(Arc::clone(&pod)));
        self.workers.insert(
            key,
            Inbox {
                uid: pod.metadata.uid.clone(),
                wanted,
            },
        );
        let adopted = self.adopted.remove(&*pod.metadata.uid);
        tokio::spawn(Worker::new(Arc::clone(&self.context), inbox, pod, adopted).run());
    }

    fn gone(&mut self, key: &Key) {
        if let Some(inbox) = self.workers.remove(key) {
            inbox.wanted.send_replace(Wanted::Gone);
        }
    }
}

/// Takes over one Pod; `None` when it has no address yet.
async fn adopt_one(
    context: &Context,
    pod: &Arc<runtime::Pod>,
) -> Result<Option<Sandbox>, SandboxError> {
    let spec = pod.spec();
    let name = format!("{}/{}", spec.namespace, spec.name);
    let claimed = context.host_ports.claim(&spec.uid, &name, &spec.host_ports);
    if let Err(error) = claimed {
        tracing::error!(pod = name, %error, "two running Pods want one port of this node");
    }
    if spec.network == runtime::Network::Host {
        return Sandbox::watch(Arc::clone(pod), context.node_ips).map(Some);
    }
    let netns = pod.netns()?;
    let Some(addresses) = context.network.adopt(netns.as_fd()).await? else {
        return Ok(None);
    };
    // The agent before may have been killed between the address and the last route: what is there already stays.
    if let Err(error) = context
        .network
        .attach(pod.uid(), netns.as_fd(), addresses)
        .await
    {
        tracing::error!(pod = pod.uid(), %error, "an adopted Pod may be connected in part only");
    }
    match Sandbox::watch(Arc::clone(pod), addresses) {
        Ok(sandbox) => {
            context.local_pod_came(sandbox.spec(), addresses);
            Ok(Some(sandbox))
        }
        Err(error) => {
            context.network.release(pod.uid(), addresses).await;
            Err(error)
        }
    }
}

/// Running Pods could not be found again.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The run directory, or this process lacks something to talk to a shim.
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    /// The networks of Pods cannot be looked at.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// SIGTERM, the default grace period, SIGKILL: its object is gone, so nothing is reported.
async fn end_unknown(context: Arc<Context>, mut sandbox: Sandbox) {
    let addresses = sandbox.addresses;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    while let Err(error) = worker::end(&mut sandbox).await {
        tracing::error!(pod = sandbox.spec().uid, %error, "an unknown Pod cannot be ended; trying again");
        sleep(backoff.fail()).await;
    }
    let spec = sandbox.spec();
    context
        .remove_logs(&spec.namespace, &spec.name, &spec.uid)
        .await;
    context.host_ports.release(&spec.uid);
    if addresses != context.node_ips {
        context.local_pod_left(&spec.uid, addresses);
        context.network.release(&spec.uid, addresses).await;
    }
}
