//! `minik server`.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use apiserver::{
    audit::LogConfig,
    controller::PoolEntry,
    registry::DefaultTolerations,
    server::{Config, Server, inherited},
};
use clap::Args;
use ipnet::IpNet;

use crate::{
    admin::Admin,
    agent_command::{LocalArgs, local_config, run_agent},
    exit_code::Told,
    shutdown, token,
};

/// How long a one-node cluster's own join token is valid: it is used within moments.
const OWN_TOKEN_TTL: Duration = Duration::from_secs(600);

/// Where a server keeps its files unless told otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/minik/server";

/// How the server is to run. The defaults suit one control host.
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    /// Directory of the store and the certificates.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Address and port to listen on.
    #[arg(long, default_value = "0.0.0.0:6443")]
    bind: SocketAddr,
    /// Address by which nodes and Pods reach this server [default: that of --bind, or of the default route].
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Range of the ClusterIPs; twice for one of each IP family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    service_cidr: Vec<IpNet>,
    /// Range of the Pods' addresses; twice for one of each IP family.
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pod_cidr: Vec<IpNet>,
    /// Domain of the Services' names.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Address of the cluster's DNS, within --service-cidr [default: the tenth of the first range].
    #[arg(long)]
    cluster_dns: Option<IpAddr>,
    /// Another name or address for the server's certificate. Can be repeated.
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// Seconds without a heartbeat after which a node counts as lost.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    node_grace_secs: u16,
    /// Seconds a Pod that does not say stays on a node that is not ready.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(i64).range(0..))]
    default_not_ready_toleration_seconds: i64,
    /// Seconds a Pod that does not say stays on a node that is not heard of.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(i64).range(0..))]
    default_unreachable_toleration_seconds: i64,
    /// Range of the external IPs that Services may claim; without it they may claim none. Can be repeated.
    #[arg(long, value_name = "CIDR")]
    allow_external_ips: Vec<IpNet>,
    /// Range of node or API addresses that Endpoints written by hand may name; without it they may name none. Can be
    /// repeated.
    #[arg(long, value_name = "CIDR")]
    allow_endpoint_ips: Vec<IpNet>,
    /// User that may say in the status of Services where they are reached, besides administrators: a load-balancer
    /// controller, for example system:serviceaccount:metallb-system:controller. Can be repeated.
    #[arg(long, value_name = "USER")]
    load_balancer_controller: Vec<String>,
    /// Where Services of type LoadBalancer get their addresses: CIDR, FIRST-LAST (both free addresses of the nodes' network), or
    /// the word nodes for the nodes' own addresses. Can be repeated.
    #[arg(long, value_name = "RANGE")]
    load_balancer_pool: Vec<PoolEntry>,
    /// File that is told of every request: who, what, from where, and whether it was allowed, one line of JSON each. Without it
    /// nothing is written.
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// Megabytes after which that file is replaced by a new one.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    audit_log_maxsize: u32,
    /// How many of its predecessors are kept, as FILE.1, FILE.2 and so on.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(..1000))]
    audit_log_maxbackup: u32,
    /// Run an agent too: a whole cluster on this host.
    #[arg(long)]
    agent: bool,
    /// Directory of that agent's certificate.
    #[arg(long, default_value = "/var/lib/minik/agent")]
    agent_data_dir: PathBuf,
    #[command(flatten)]
    local: LocalArgs,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &ServerArgs) -> Result<()> {
    let inherited = inherited(listen_fds()?).map_err(Told)?;
    let config = Config {
        data_dir: args.data_dir.clone(),
        bind: args.bind,
        inherited,
        advertise_address: args.advertise_address,
        service_cidrs: args.service_cidr.clone(),
        pod_cidrs: args.pod_cidr.clone(),
        cluster_domain: args.cluster_domain.clone(),
        cluster_dns: args
            .cluster_dns
            .unwrap_or_else(|| Config::default_cluster_dns(&args.service_cidr)),
        tls_sans: args.tls_san.clone(),
        node_grace: Duration::from_secs(args.node_grace_secs.into()),
        load_balancer_pool: args.load_balancer_pool.clone(),
        audit: args.audit_log_path.clone().map(|path| LogConfig {
            path,
            max_bytes: u64::from(args.audit_log_maxsize) << 20,
            max_backups: args.audit_log_maxbackup,
        }),
        default_tolerations: DefaultTolerations {
            not_ready_secs: args.default_not_ready_toleration_seconds,
            unreachable_secs: args.default_unreachable_toleration_seconds,
        },
        allowed_external_ips: args.allow_external_ips.clone(),
        allowed_endpoint_ips: args.allow_endpoint_ips.clone(),
        load_balancer_controllers: args.load_balancer_controller.clone(),
    };
    runtime::raise_open_files_limit().context("raise the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let context = runtime.enter();
    shutdown::report_file_size_limit()?;
    let advertised = config.advertised();
    let server = Server::bind(config).map_err(Told)?;
    drop(context);
    let url = format!(
        "https://{}",
        SocketAddr::new(advertised, server.address().port())
    );
    tracing::info!(address = %server.address(), "API server ready: listening");
    eprintln!("export KUBECONFIG={}", server.kubeconfig().display());
    if advertised.is_loopback() {
        eprintln!(
            "no other host can join: this one has no address but loopback (--advertise-address gives one)"
        );
    } else {
        let data_dir = match args.data_dir.as_path() {
            default if default == Path::new(DATA_DIR) => String::new(),
            other => format!(" --data-dir {}", other.display()),
        };
        eprintln!("to join another host: `minik token create{data_dir}` here, and there");
        eprintln!("  minik agent --join {url} --token TOKEN");
    }
    runtime.block_on(async {
        let stop = shutdown::requested()?;
        if args.agent {
            serve_with_agent(server, args, &url, stop).await
        } else {
            Ok(server.serve(stop).await.map_err(Told)?)
        }
    })
}

/// A server and an agent that end together: without one of them a one-node cluster is none, and whoever supervises this
/// process starts both again.
async fn serve_with_agent(
    server: Server,
    args: &ServerArgs,
    url: &str,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let (agent_ended, agent_end) = tokio::sync::oneshot::channel::<()>();
    let (server_ended, server_end) = tokio::sync::oneshot::channel::<()>();
    let serving = async {
        let served = server.serve(async {
            tokio::select! {
                () = stop => {}
                _ = agent_end => {}
            }
        });
        let served = served.await;
        drop(server_ended);
        served
    };
    let running = async {
        let ended = tokio::select! {
            ended = own_agent(args, url) => ended,
            _ = server_end => Ok(()),
        };
        drop(agent_ended);
        ended
    };
    let (served, ended) = tokio::join!(serving, running);
    served.map_err(|error| Told(error).into()).and(ended)
}

/// How many listening sockets were handed over, as `sd_listen_fds(3)` has it.
fn listen_fds() -> Result<usize> {
    match std::env::var("LISTEN_FDS") {
        Err(_) => Ok(0),
        Ok(text) => text
            .parse()
            .with_context(|| format!("LISTEN_FDS {text:?} is not a number of descriptors")),
    }
}

/// The agent of a one-node cluster joins as any other does: through the API, with a token.
async fn own_agent(args: &ServerArgs, url: &str) -> Result<()> {
    let stop = shutdown::requested()?;
    let admin = Admin::read(&args.data_dir)?;
    let client = admin.client(url)?;
    let token = token::create(&client, admin.ca(), OWN_TOKEN_TTL, "this host's own agent").await;
    // A node that joined before needs none, and must come back on a full disk too.
    let token = token
        .inspect_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "no token for this host's own agent"
            )
        })
        .ok();
    let config = local_config(&args.local, &args.agent_data_dir, url.to_owned(), token)?;
    run_agent(config, stop).await
}
