//! Everything started in the right order, and stopped.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use api::core::Node;
use dataplane::{
    Dataplane, DataplaneError, Serving, Verified,
    kernel::{KernelError, Netlink, Ownership},
    model::{self, Change, Desired, Family, Frontend},
};
use dns::Zone;
use http::Method;
use ipnet::IpNet;
use runtime::Runtime;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Addresses, Config,
    backoff::Backoff,
    client::{Client, ClientError, Path},
    config::NodeIps,
    health::Health,
    join::{self, ClusterConfig, JoinError},
    localhost::LocalhostNodePorts,
    neighbours::Neighbours,
    network::{self, Announcements, Conntrack, Network, NetworkConfig, NetworkError},
    node::{Readiness, Registration},
    objects::Object,
    pods::{self, AdoptError, Pods},
    reconcile::{LocalPods, Reconciler, Rules, SharedView, Sources},
    reflector::{self, Delta},
    translate::Here,
    tunnel,
    view::Position,
};

/// Batches of changes between a watch and its reader.
const QUEUE: usize = 16;
const DNS_PORT: u16 = 53;
const DNS_TTL_SECS: u32 = 5;
/// Failed reports of the applied revision are repeated at most this late.
const REPORT_AGAIN: Duration = Duration::from_secs(2);
/// An unchanged applied revision is reported again so often: a node that says nothing for half a minute counts as cut off,
/// and a server that was restarted has forgotten what it was told.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Why the agent stops or does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Joining the cluster.
    #[error("joining the cluster: {0}")]
    Join(#[from] JoinError),
    /// Registering the node.
    #[error("registering the node: {0}")]
    Register(ClientError),
    /// The watch of the nodes ended: the agent is stopping.
    #[error("the watch of the nodes ended")]
    NoNodes,
    /// The Pod network.
    #[error("setting up the Pod network: {0}")]
    Network(#[from] NetworkError),
    /// The kernel's packet filter cannot be used.
    #[error("opening nf_tables: {0}")]
    Kernel(#[from] KernelError),
    /// Our tables cannot be read back.
    #[error("reading the rules back: {}", chain(.0))]
    Rules(#[from] DataplaneError),
    /// The cluster's domain.
    #[error(transparent)]
    Domain(#[from] dns::zone::InvalidDomain),
    /// The DNS server.
    #[error(transparent)]
    Dns(#[from] dns::server::ServerError),
    /// The container runtime.
    #[error("the container runtime: {0}")]
    Runtime(#[from] runtime::RuntimeError),
    /// Pods of an earlier run.
    #[error("adopting running Pods: {0}")]
    Adopt(#[from] AdoptError),
    /// No thread for the rules.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
    /// A part of the agent ended by itself.
    #[error("a part of the agent ended: {0}")]
    Ended(String),
}

impl AgentError {
    /// Whether what the agent was told cannot work: a flag, a malformed or missing token.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Join(JoinError::NoToken | JoinError::Token(_)) | Self::Domain(_)
        )
    }

    /// Whether this process, or this node, may not do it: no privileges, a token that is refused, another cluster's CA.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        match self {
            Self::Kernel(KernelError::NotPermitted(_)) => true,
            Self::Join(JoinError::WrongCa { .. } | JoinError::Refused(_)) => true,
            Self::Register(error) => error.is_forbidden() || error.is_unauthorized(),
            error => error.io_kind() == Some(ErrorKind::PermissionDenied),
        }
    }

    /// Whether something that the agent needs is missing or in use: a feature of the kernel, our tables, the port of DNS.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Kernel(KernelError::Unsupported(_))
                | Self::Rules(DataplaneError::Occupied { .. })
                | Self::Dns(dns::server::ServerError::Bind { .. })
        )
    }

    /// Whether a file could not be read or written.
    #[must_use]
    pub fn is_io(&self) -> bool {
        self.io_kind().is_some()
    }

    fn io_kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Join(JoinError::File(error)) => Some(error.source.kind()),
            Self::Runtime(runtime::RuntimeError::Io { source, .. }) => Some(source.kind()),
            _ => None,
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Runs the agent until `shutdown` is ready. Pods, rules and names of the node stay; the DNS server stops with it.
///
/// # Errors
/// See [`AgentError`]. Lost connections are no errors: they are retried for ever.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    tokio::select! {
        result = agent(config) => result,
        () = shutdown => Ok(()),
    }
}

async fn agent(config: Config) -> Result<(), AgentError> {
    // A node that cannot program its kernel must not become one. (This socket is only to try it.)
    drop(Netlink::open(Ownership::Never)?);
    let (client, cluster) = join(&config).await?;
    let mut tasks = JoinSet::new();
    let node_ips = node_ips(config.node_ips, &cluster.pod_cidrs).await?;
    let readiness = register(&mut tasks, &client, &config, node_ips).await?;
    let mut nodes = follow::<Node>(&mut tasks, &client, Path::core("nodes"));
    let health = Health::new(families(&cluster));
    let mut neighbours = Neighbours::new(&config.node_name, health.clone());
    let mut sources = Sources {
        zone: neighbours.zone(),
        services: follow(&mut tasks, &client, Path::core("services")),
        slices: follow(
            &mut tasks,
            &client,
            Path::group("discovery.k8s.io/v1", "endpointslices"),
        ),
        namespaces: follow(&mut tasks, &client, Path::core("namespaces")),
        service_cidrs: follow(
            &mut tasks,
            &client,
            Path::group("networking.k8s.io/v1", "servicecidrs"),
        ),
    };
    tasks.spawn(health.clone().serve_node(config.healthz_bind));
    tasks.spawn(
        health
            .clone()
            .serve_services(client.clone(), config.node_name.clone()),
    );
    let pod_cidrs = neighbours.wait_for_own_ranges(&mut nodes).await;
    let pod_cidrs = pod_cidrs.ok_or(AgentError::NoNodes)?;
    let cluster_dns = cluster.cluster_dns;
    let network = Network::open(NetworkConfig {
        pod_cidrs: pod_cidrs.clone(),
        cluster_dns,
        node_ip: node_ips.primary(),
    })
    .await?;
    let (zone, dns) = serve_names(&config, &cluster)?;
    let view = SharedView::default();
    let (local_pods, local_pods_reader) = watch::channel(LocalPods::default());
    let here = Here {
        node: config.node_name.as_str().into(),
        zone: sources.zone.borrow_and_update().clone(),
        addresses: Some(node_ips),
    };
    let announcements = Announcements::default();
    let localhost = LocalhostNodePorts::default();
    let rules = Dataplane::open(Netlink::open(Ownership::WhenPossible)?)?;
    let (reconciler, applied) = Reconciler::new(
        here,
        base(&cluster, &config, node_ips, pod_cidrs),
        view.clone(),
        zone,
        local_pods_reader,
        rules,
        (health, announcements.clone(), localhost.clone()),
    )
    .map_err(AgentError::Thread)?;
    let runtime = open_runtime(&config)?;
    let tunnel = tunnel::Node {
        name: config.node_name.clone(),
        ips: node_ips,
        runtime: runtime.clone(),
        pods: local_pods.subscribe(),
    };
    let context = Arc::new(pods::Context::new(pods::Setup {
        client: client.clone(),
        runtime,
        network,
        node_ips,
        view,
        applied: applied.clone(),
        local_pods,
        cluster_dns,
        cluster_domain: cluster.cluster_domain,
    }));
    // Running Pods keep their addresses: they are known before the first rule is written or the first new Pod starts.
    let running = Pods::adopt(Arc::clone(&context)).await?;
    tasks.spawn(tunnel::run(client.clone(), tunnel));
    tasks.spawn(reconciler.run(sources));
    tasks.spawn(neighbours.keep_routes(context, nodes));
    tasks.spawn(report_applied(
        client.clone(),
        config.node_name.clone(),
        applied.clone(),
    ));
    if config.localhost_node_ports {
        tasks.spawn(localhost.serve());
    }
    tasks.spawn(announcements.run(
        client.clone(),
        config.node_name.clone(),
        node_ips,
        applied.clone(),
    ));
    tasks.spawn(ready_when_applied(applied, readiness, config.conntrack));
    let own_pods = format!("spec.nodeName={}", config.node_name);
    let own_pods = Path::core("pods").query("fieldSelector", &own_pods);
    let own_pods = follow(&mut tasks, &client, own_pods);
    tasks.spawn(running.run(own_pods));
    // None of these ends by itself, so the first that does is a failure.
    let ended = tokio::select! {
        ended = tasks.join_next() => match ended {
            Some(Err(error)) => error.to_string(),
            _ => "a watch has no reader any more".to_owned(),
        },
        () = dns.ended() => "a DNS thread".to_owned(),
    };
    Err(AgentError::Ended(ended))
}

/// The node's addresses, in the order of the Pods' families: those given, or the one that leads to the server and that of the
/// other family on the same link.
async fn node_ips(known: NodeIps, pod_cidrs: &[IpNet]) -> Result<Addresses, AgentError> {
    let address = match known {
        NodeIps::Given(addresses) => return Ok(addresses),
        NodeIps::TowardsServer(address) => address,
    };
    let mut found = vec![address];
    found.extend(network::addresses_beside(address).await?);
    let found = Addresses::of_each_family(found).unwrap_or(address.into());
    let in_order = pod_cidrs.iter().filter_map(|range| {
        let own = found.alike(range.addr());
        if own.is_none() {
            tracing::warn!(pod_cidr = %range, "this node has no address of the family of these Pods: other nodes cannot reach them (--node-ip gives one of each)");
        }
        own
    });
    Ok(Addresses::of_each_family(in_order).unwrap_or(address.into()))
}

/// Registers the node and keeps it alive; readiness is told through what this returns.
async fn register(
    tasks: &mut JoinSet<()>,
    client: &Client,
    config: &Config,
    addresses: Addresses,
) -> Result<watch::Sender<Readiness>, AgentError> {
    let starting = Readiness::Starting("network, rules and names are being set up");
    let registration = Registration::new(client.clone(), config, addresses);
    registration
        .register(&starting)
        .await
        .map_err(AgentError::Register)?;
    let (readiness, reader) = watch::channel(starting.clone());
    tasks.spawn(registration.keep(starting, reader));
    Ok(readiness)
}

/// A zone that knows what is the cluster's, so that nobody else is asked for it. Ranges that come with ServiceCIDRs are set with
/// the rules.
fn empty_zone(cluster: &ClusterConfig) -> Result<Zone, dns::zone::InvalidDomain> {
    let reverse = cluster.service_cidrs.iter().chain(&cluster.pod_cidrs);
    Zone::new(dns::zone::Config {
        domain: cluster.cluster_domain.as_str().into(),
        ttl_secs: DNS_TTL_SECS,
        nameservers: vec![cluster.cluster_dns],
        reverse: reverse.copied().collect(),
    })
}

/// The zone, and the server that answers from it: SERVFAIL until the zone is filled.
fn serve_names(
    config: &Config,
    cluster: &ClusterConfig,
) -> Result<(Zone, dns::server::Running), AgentError> {
    let zone = empty_zone(cluster)?;
    let listen = dns::server::Config {
        listen: vec![SocketAddr::new(cluster.cluster_dns, DNS_PORT)],
        upstreams: config.dns_upstreams.clone(),
        threads: NonZeroUsize::MIN,
    };
    let running = dns::Server::bind(listen, zone.clone())?.serve()?;
    Ok((zone, running))
}

/// Joins, trying again while the server cannot be reached.
async fn join(config: &Config) -> Result<(Client, ClusterConfig), JoinError> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        let attempt = join::join(
            &config.server,
            config.token.as_deref(),
            &config.node_name,
            &config.data_dir,
        );
        match attempt.await {
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "not joined yet; trying again");
                sleep(backoff.fail()).await;
            }
            result => return result,
        }
    }
}

/// Follows a collection in a task of its own.
fn follow<T: Object>(
    tasks: &mut JoinSet<()>,
    client: &Client,
    path: Path,
) -> mpsc::Receiver<Vec<Delta<T>>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tasks.spawn(reflector::run(client.clone(), path, sender));
    receiver
}

fn open_runtime(config: &Config) -> Result<Runtime, runtime::RuntimeError> {
    Runtime::new(runtime::Config {
        run_dir: config.run_dir.clone(),
        log_dir: config.log_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        exe: config.executable.clone(),
        built_in: config.executable.clone(),
    })
}

/// The families of the cluster's Services.
fn families(cluster: &ClusterConfig) -> BTreeSet<Family> {
    let networks = cluster.service_cidrs.iter();
    networks.map(|net| Family::of(net.addr())).collect()
}

/// What the rules hold besides Services.
fn base(
    cluster: &ClusterConfig,
    config: &Config,
    node: Addresses,
    own_pod_cidrs: Vec<IpNet>,
) -> Desired {
    let port = NonZeroU16::new(DNS_PORT).expect("53 is not 0");
    let listener = |protocol| Frontend::Address {
        addr: cluster.cluster_dns,
        protocol,
        port,
    };
    Desired {
        service_networks: cluster.service_cidrs.iter().copied().collect(),
        pod_networks: cluster.pod_cidrs.iter().copied().collect(),
        local_listeners: [model::Protocol::Udp, model::Protocol::Tcp]
            .map(listener)
            .into(),
        node_port_networks: config.node_port_networks(node),
        local_detector: config
            .detect_local
            .detector(own_pod_cidrs.into_iter().collect()),
        masquerade_all: config.masquerade_all,
        masquerade_egress: true,
        ..Desired::default()
    }
}

impl Rules for Dataplane<Netlink> {
    type Error = String;

    fn left_behind(&self) -> BTreeSet<Frontend> {
        self.frontends().collect()
    }

    fn replace(&mut self, desired: Desired) -> Result<(), String> {
        Self::replace(self, &desired)
            .map(drop)
            .map_err(|error| chain(&error))
    }

    fn update(&mut self, change: Change) -> Result<(), String> {
        Self::update(self, &change)
            .map(drop)
            .map_err(|error| chain(&error))
    }

    fn forget_flows(&mut self, serving: Serving) -> Result<usize, String> {
        let forgotten = Self::forget_udp_flows(self, &serving);
        forgotten.map_err(|error| chain(&error))
    }

    fn verify(&mut self) -> Result<bool, String> {
        let verified = Self::verify(self).map_err(|error| chain(&error))?;
        Ok(verified == Verified::Repaired)
    }
}

/// Tells the server how far this node's rules and names have come: when it changes, and now and then.
async fn report_applied(
    client: Client,
    node: String,
    mut applied: watch::Receiver<Option<Position>>,
) {
    let path = format!("/minik/v1/nodes/{}/applied", crate::client::encode(&node));
    loop {
        // An interval that has passed brings the same news again.
        if let Ok(Err(_)) = timeout(REPORT_EVERY, applied.changed()).await {
            return;
        }
        let Some(position) = *applied.borrow_and_update() else {
            continue;
        };
        let body = json!({"revision": position.both().to_string()}).to_string();
        let sent = client
            .send(Method::PUT, &path, Some("application/json"), body.into())
            .await;
        if let Err(error) = sent {
            tracing::warn!(%error, "the applied revision was not reported");
            sleep(REPORT_AGAIN).await;
            applied.mark_changed();
        }
    }
}

/// The node is ready once the rules and names of the whole cluster are in place for the first time.
async fn ready_when_applied(
    mut applied: watch::Receiver<Option<Position>>,
    readiness: watch::Sender<Readiness>,
    conntrack: Conntrack,
) {
    if applied.wait_for(Option::is_some).await.is_ok() {
        // The rules have loaded it.
        conntrack.raise();
        readiness.send_replace(Readiness::Ready);
        tracing::info!("the node is ready");
    }
    // The sender must live as long as its reader.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_is_asked_for_the_clusters_addresses_before_its_names_are_known() {
        let cluster = ClusterConfig {
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: "10.96.0.10".parse().expect("an address"),
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        };
        let zone = empty_zone(&cluster).expect("a zone");
        let is_ours = |name: &str| {
            let (name, kind) = (name.parse().expect("a name"), "PTR".parse());
            let answer = zone.snapshot().answer(&name, kind.expect("a type"));
            matches!(answer, dns::zone::Answer::Ours(_))
        };
        assert!(is_ours("1.0.96.10.in-addr.arpa."));
        assert!(is_ours("9.7.244.10.in-addr.arpa."));
        assert!(!is_ours("1.1.1.1.in-addr.arpa."));
    }
}
