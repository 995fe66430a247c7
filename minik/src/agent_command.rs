//! `minik agent`.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use agent::{Config, Options, network::Conntrack};
use anyhow::{Context, Result};
use clap::Args;

use crate::{duration::parse_duration, exit_code::Told, shutdown};

/// How a node is to run; shared with `minik server --agent`.
#[derive(Args, Debug)]
pub(crate) struct LocalArgs {
    /// Name of the node [default: this host's name].
    #[arg(long)]
    node_name: Option<String>,
    /// Address by which other nodes reach this one; twice for one of each IP family [default: the one that leads to the
    /// server, and with Pods of both families the other one of the same link].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Directory of running Pods; a reboot may empty it.
    #[arg(long, default_value = "/run/minik")]
    run_dir: PathBuf,
    /// Directory of the containers' logs.
    #[arg(long, default_value = "/var/log/pods")]
    log_dir: PathBuf,
    /// The cgroup, below the root of each hierarchy, that holds the Pods.
    #[arg(long, default_value = "minik")]
    cgroup_parent: String,
    /// DNS server for names outside the cluster; without one they do not resolve. Can be repeated.
    #[arg(long, value_name = "IP")]
    dns_upstream: Vec<IpAddr>,
    /// Network whose addresses of this node answer on NodePorts, or `primary`; can be repeated [default: all].
    #[arg(long, value_name = "CIDR|primary")]
    nodeport_address: Vec<String>,
    /// Serve NodePorts on 127.0.0.1 and ::1, too: the agent carries the bytes of TCP and UDP; 1024 connections and 1024 clients
    /// of UDP at once, of which one that is silent for two minutes is forgotten.
    #[arg(long)]
    localhost_nodeports: bool,
    /// What tells Pods' connections, which keep their source, from others: ClusterCIDR, NodeCIDR, BridgeInterface or
    /// InterfaceNamePrefix.
    #[arg(long, value_name = "MODE", default_value = "ClusterCIDR")]
    detect_local_mode: String,
    /// For --detect-local-mode=BridgeInterface: the bridge that the node's Pods are ports of [default: minik0].
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// For --detect-local-mode=InterfaceNamePrefix: what the names of the Pods' interfaces begin with.
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Masquerade connections to ClusterIPs whoever makes them.
    #[arg(long)]
    masquerade_all: bool,
    #[command(flatten)]
    conntrack: ConntrackArgs,
    /// Where the node answers /healthz and /livez for load balancers [default: every address, port 10256].
    #[arg(long, value_name = "IP:PORT")]
    healthz_bind_address: Option<SocketAddr>,
    /// Label of the node. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
}

/// What connection tracking must have at least: raised when the node starts, never lowered.
#[derive(Args, Debug)]
struct ConntrackArgs {
    /// Connections that can be tracked at least, for each CPU; 0 leaves the kernel's setting alone.
    #[arg(long, value_name = "N", default_value_t = Conntrack::default().max_per_core)]
    conntrack_max_per_core: u32,
    /// Connections that can be tracked at least, however few CPUs there are.
    #[arg(long, value_name = "N", default_value_t = Conntrack::default().min)]
    conntrack_min: u32,
    /// How long a silent TCP connection is remembered at least; 0 leaves the kernel's setting alone.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration_or_zero)]
    conntrack_tcp_timeout_established: Duration,
    /// How long a TCP connection that one side has closed is remembered at least.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration_or_zero)]
    conntrack_tcp_timeout_close_wait: Duration,
    /// How long a UDP flow without an answer is remembered at least.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration_or_zero)]
    conntrack_udp_timeout: Duration,
    /// How long an answered UDP flow is remembered at least.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration_or_zero)]
    conntrack_udp_timeout_stream: Duration,
    /// Let TCP segments outside of the window pass as part of their connection.
    #[arg(long)]
    conntrack_tcp_be_liberal: bool,
}

impl ConntrackArgs {
    fn settings(&self) -> Conntrack {
        Conntrack {
            max_per_core: self.conntrack_max_per_core,
            min: self.conntrack_min,
            tcp_timeout_established: self.conntrack_tcp_timeout_established,
            tcp_timeout_close_wait: self.conntrack_tcp_timeout_close_wait,
            udp_timeout: self.conntrack_udp_timeout,
            udp_timeout_stream: self.conntrack_udp_timeout_stream,
            tcp_be_liberal: self.conntrack_tcp_be_liberal,
        }
    }
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        other => parse_duration(other),
    }
}

/// How to join, and how to run.
#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    /// The server: https://HOST:6443.
    #[arg(long, value_name = "URL")]
    join: String,
    /// The token that `minik token create` printed; not needed by a node that joined before.
    #[arg(long, env = "MINIK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Directory of the node's certificate.
    #[arg(long, default_value = "/var/lib/minik/agent")]
    data_dir: PathBuf,
    #[command(flatten)]
    local: LocalArgs,
}

/// Runs until SIGTERM or SIGINT. Pods, rules and names stay.
pub(crate) fn run(args: &AgentArgs) -> Result<()> {
    let config = local_config(
        &args.local,
        &args.data_dir,
        args.join.clone(),
        args.token.clone(),
    )?;
    runtime::raise_open_files_limit().context("raise the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async { run_agent(config, shutdown::requested()?).await })
}

/// Runs an agent.
pub(crate) async fn run_agent(config: Config, stop: impl Future<Output = ()>) -> Result<()> {
    Ok(agent::run(config, stop).await.map_err(Told)?)
}

/// The checked configuration of an agent.
pub(crate) fn local_config(
    args: &LocalArgs,
    data_dir: &Path,
    join: String,
    token: Option<String>,
) -> Result<Config> {
    // Pods outlive the agent, and the next one may be started from elsewhere.
    let absolute = |flag: &str, path: &Path| {
        std::path::absolute(path).with_context(|| format!("{flag} {:?}", path.display()))
    };
    let options = Options {
        join,
        token,
        node_name: args.node_name.clone(),
        node_ips: args.node_ip.clone(),
        data_dir: absolute("--data-dir", data_dir)?,
        run_dir: absolute("--run-dir", &args.run_dir)?,
        log_dir: absolute("--log-dir", &args.log_dir)?,
        cgroup_parent: args.cgroup_parent.clone(),
        dns_upstreams: args.dns_upstream.clone(),
        node_port_addresses: args.nodeport_address.clone(),
        localhost_node_ports: args.localhost_nodeports,
        detect_local_mode: args.detect_local_mode.clone(),
        pod_bridge_interface: args.pod_bridge_interface.clone(),
        pod_interface_name_prefix: args.pod_interface_name_prefix.clone(),
        masquerade_all: args.masquerade_all,
        conntrack: args.conntrack.settings(),
        healthz_bind: args.healthz_bind_address,
        labels: args.label.clone(),
        executable: std::env::current_exe().context("find this program's own file")?,
    };
    Ok(options.validate().map_err(Told)?)
}
