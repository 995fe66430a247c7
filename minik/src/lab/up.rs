//! `minik lab up`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agent::client::Client;
use anyhow::{Context, Result, anyhow, bail};
use api::core::Node;
use apiserver::controller::PoolEntry;
use bytes::Bytes;
use clap::Args;
use http::Method;
use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    down,
    host::{Request, ask},
    lock::{self, LabLock},
    network,
    state::Lab,
    topology::{self, Host, IpFamily, MAX_NODES, Role},
};
use crate::{admin::Admin, progress::Progress, token};

/// How long the server, and then the nodes, get to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often a file or port that another process is about to open is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How long after a failure the signal that caused it may take to be seen.
const ECHO: Duration = Duration::from_millis(20);
/// The port of the API server on the control host.
const API_PORT: u16 = 6443;
/// The port of `examples/external-database.yaml`.
const DATABASE_PORT: u16 = 9376;

/// What kind of lab.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Number of worker nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: u16,
    /// Port on this machine's loopback for kubectl; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    api_port: u16,
    /// Seconds without a heartbeat after which the server takes a node for lost.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    node_grace_secs: u16,
    /// Where Services of type LoadBalancer get their addresses, as for `minik server`; can be repeated [default: free
    /// addresses of the nodes' network].
    #[arg(long, value_name = "RANGE")]
    load_balancer_pool: Vec<PoolEntry>,
    /// Range of the external IPs that Services may claim, as for `minik server`. Can be repeated.
    #[arg(long, value_name = "CIDR")]
    allow_external_ips: Vec<IpNet>,
    /// The IP families of hosts, Pods and Services, the primary one first.
    #[arg(
        long,
        value_name = "FAMILIES",
        value_enum,
        value_delimiter = ',',
        default_value = "ipv4"
    )]
    ip_families: Vec<IpFamily>,
}

/// Builds the lab, or leaves nothing behind.
pub(crate) fn run(lab: &Lab, args: &UpArgs) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let mut interruption = Interruption::listen()?;
        let lock = tokio::select! {
            biased;
            code = interruption.next() => return Ok(code),
            lock = acquire(lab) => lock?,
        };
        if lab.is_up() {
            bail!(
                "lab {:?} is already up: `minik lab down --name {}` first, or choose another --name",
                lab.name,
                lab.name
            );
        }
        let outcome = tokio::select! {
            biased;
            code = interruption.next() => Ok(code),
            done = bring_up(lab, args, &lock) => done.map(|()| 0),
        };
        // A signal to a whole process group may have ended a child that had not left it yet, before it was seen here.
        let outcome = match outcome {
            Err(error) => match tokio::time::timeout(ECHO, interruption.next()).await {
                Ok(code) => Ok(code),
                Err(_) => Err(error),
            },
            other => other,
        };
        match outcome {
            Ok(0) => Ok(0),
            Ok(code) => {
                down::clean(lab)?;
                eprintln!("interrupted: lab {:?} was removed", lab.name);
                Ok(code)
            }
            Err(error) => {
                let error = anyhow!("the lab did not come up: {error:#}{}", last_words(lab));
                if let Err(cleaning) = down::clean(lab) {
                    eprintln!("could not remove the half-built lab: {cleaning:#}");
                }
                Err(error)
            }
        }
    })
}

/// The signals that end a command: its terminal's, its supervisor's, and that of a terminal that was closed.
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interruption {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The exit code of a command that such a signal ended: 128 and its number.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hangup.recv() => 129,
        }
    }
}

async fn acquire(lab: &Lab) -> Result<LabLock> {
    let deadline = Instant::now() + lock::PATIENCE;
    loop {
        match lab.try_lock()? {
            Some(lock) => return Ok(lock),
            None if Instant::now() > deadline => return Err(lab.busy()),
            None => tokio::time::sleep(lock::POLL).await,
        }
    }
}

async fn bring_up(lab: &Lab, args: &UpArgs, lock: &LabLock) -> Result<()> {
    let progress = Progress::start();
    if lab.has_hosts() {
        down::clean(lab)?;
        progress.done("removed what an interrupted lab had left behind");
    }
    if let [first, second, ..] = args.ip_families[..]
        && (first == second || args.ip_families.len() > 2)
    {
        bail!("--ip-families: give each of ipv4 and ipv6 once at most");
    }
    let hosts = topology::hosts(args.nodes, &args.ip_families);
    lab.create(&hosts)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.api_port))
        .with_context(|| format!("--api-port {}: cannot listen on loopback", args.api_port))?;
    let api = listener.local_addr().context("find the loopback port")?;

    progress.doing("starting hosts");
    start_hosts(lab, &hosts, listener, lock)?;
    let placed: Vec<network::Placed> = hosts
        .iter()
        .map(|host| Ok((host.clone(), lab.pid(&host.name)?)))
        .collect::<Result<_>>()?;
    network::wire(&placed)?;
    progress.done(format!(
        "{} hosts are wired: {}",
        hosts.len(),
        names(&hosts)
    ));

    progress.doing("starting the API server");
    start_server(lab, &hosts, args)?;
    let (admin, client) = wait_for_api(lab, api).await?;
    progress.done(format!("API server answers on https://{api}"));

    progress.doing("joining nodes");
    let token = token::create(&client, admin.ca(), Duration::from_secs(3600), "lab").await?;
    for host in &hosts {
        match host.role {
            Role::Node => start_agent(lab, host, &hosts, &token)?,
            Role::Database => start_database(lab, host)?,
            Role::Switch | Role::Control | Role::Client => {}
        }
    }
    wait_for_nodes(lab, &client, args.nodes, &progress).await?;
    lab.mark_ready()?;
    progress.done(format!("lab {:?} is up", lab.name));
    eprintln!("export KUBECONFIG={}", lab.kubeconfig().display());
    Ok(())
}

fn names(hosts: &[Host]) -> String {
    let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.join(", ")
}

fn start_hosts(lab: &Lab, hosts: &[Host], listener: TcpListener, lock: &LabLock) -> Result<()> {
    let mut listener = Some(OwnedFd::from(listener));
    let mut starting = Vec::new();
    let mut outcome = Ok(());
    for host in hosts {
        let inherited = (host.role == Role::Control)
            .then(|| listener.take())
            .flatten();
        match spawn_host(lab, host, inherited, lock) {
            Ok(child) => starting.push((host, child)),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    // All of them, also after a failure: one that is still starting could not be removed.
    for (host, mut child) in starting {
        let status = child.wait().context("wait for a host to start")?;
        if !status.success() {
            let log = lab.host_dir(&host.name).join("log/host.log");
            let failure = anyhow!("host {} did not start: {}", host.name, telling_line(&log));
            outcome = outcome.and(Err(failure));
        }
    }
    outcome
}

fn spawn_host(
    lab: &Lab,
    host: &Host,
    listener: Option<OwnedFd>,
    lock: &LabLock,
) -> Result<std::process::Child> {
    let path = lab.host_dir(&host.name).join("log/host.log");
    let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut command = Command::new(own_exe()?);
    command.args(["lab-host", "--lab", &lab.name, "--host", &host.name]);
    command
        .stdin(lock.share()?)
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C is for this command, which then ends what it has started.
        .process_group(0);
    if let Some(listener) = listener {
        command.arg("--inherit-listener");
        super::host::hand_over(&mut command, listener.into());
    }
    command
        .spawn()
        .with_context(|| format!("start host {}", host.name))
}

fn start_server(lab: &Lab, hosts: &[Host], args: &UpArgs) -> Result<()> {
    let control = hosts
        .iter()
        .find(|host| host.role == Role::Control)
        .context("a lab has a control host")?;
    let mut argv = vec![own_exe()?, "server".to_owned()];
    let mut flag = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    flag("--data-dir", path_text(&lab.server_data_dir())?);
    flag("--bind", api_address(control).to_string());
    flag("--advertise-address", control.addr().to_string());
    for range in &args.allow_external_ips {
        flag("--allow-external-ips", range.to_string());
    }
    for family in &args.ip_families {
        flag("--service-cidr", family.service_cidr().to_owned());
        flag("--pod-cidr", family.pod_cidr().to_owned());
    }
    flag("--node-grace-secs", args.node_grace_secs.to_string());
    let own: Vec<_> = match &args.load_balancer_pool[..] {
        [] => args
            .ip_families
            .iter()
            .map(|family| family.load_balancer_pool().to_owned())
            .collect(),
        given => given.iter().map(PoolEntry::to_string).collect(),
    };
    for entry in own {
        flag("--load-balancer-pool", entry);
    }
    let log = lab.host_dir(&control.name).join("log/server.log");
    let start = Request::Start {
        unit: "server".to_owned(),
        argv,
        log,
        listener: true,
        env: BTreeMap::new(),
    };
    ask(lab, &control.name, &start).map(drop)
}

fn api_address(control: &Host) -> SocketAddr {
    SocketAddr::new(control.addr(), API_PORT)
}

fn start_agent(lab: &Lab, host: &Host, hosts: &[Host], token: &str) -> Result<()> {
    let control = hosts
        .iter()
        .find(|host| host.role == Role::Control)
        .context("a lab has a control host")?;
    let dir = lab.host_dir(&host.name);
    let mut argv = vec![own_exe()?, "agent".to_owned()];
    let mut flag = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    flag("--join", format!("https://{}", api_address(control)));
    flag("--node-name", host.name.clone());
    for address in &host.addresses {
        flag("--node-ip", address.ip.to_string());
    }
    flag("--data-dir", path_text(&dir.join("lib"))?);
    flag("--run-dir", path_text(&dir.join("run"))?);
    flag("--log-dir", path_text(&dir.join("pods"))?);
    flag("--cgroup-parent", lab.cgroup(&host.name));
    let log = dir.join("log/agent.log");
    // Arguments are for every user of the machine to see, the environment is not.
    let env = BTreeMap::from([("MINIK_TOKEN".to_owned(), token.to_owned())]);
    ask(
        lab,
        &host.name,
        &Request::Start {
            unit: "agent".to_owned(),
            argv,
            log,
            listener: false,
            env,
        },
    )
    .map(drop)
}

fn start_database(lab: &Lab, host: &Host) -> Result<()> {
    let argv = vec![
        own_exe()?,
        "echo".to_owned(),
        "--http".to_owned(),
        DATABASE_PORT.to_string(),
    ];
    let log = lab.host_dir(&host.name).join("log/echo.log");
    ask(
        lab,
        &host.name,
        &Request::Start {
            unit: "echo".to_owned(),
            argv,
            log,
            listener: false,
            env: BTreeMap::new(),
        },
    )
    .map(drop)
}

/// Waits for the server's first start to write its credentials, then for it to answer.
async fn wait_for_api(lab: &Lab, api: SocketAddr) -> Result<(Admin, Client)> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let outcome = match Admin::read(&lab.server_data_dir()) {
            Ok(admin) => connect(lab, &admin, api)
                .await
                .map(|client| (admin, client)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(connected) => return Ok(connected),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context(format!(
                    "the server did not answer within {} s",
                    READY_DEADLINE.as_secs()
                ));
            }
            // Not yet, or never: only a server that still runs is worth waiting for.
            Err(_) => unit_must_run(lab, "control", "server")?,
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn connect(lab: &Lab, admin: &Admin, api: SocketAddr) -> Result<Client> {
    let client = admin.client(&format!("https://{api}"))?;
    client
        .send(Method::GET, "/readyz", None, Bytes::new())
        .await
        .context("ask /readyz")?;
    lab.write_kubeconfig(&admin.kubeconfig(&format!("https://{api}")))?;
    Ok(client)
}

async fn wait_for_nodes(
    lab: &Lab,
    client: &Client,
    wanted: u16,
    progress: &Progress,
) -> Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    let mut ready: Vec<String> = Vec::new();
    while ready.len() < usize::from(wanted) {
        let nodes = client
            .list::<Node>("/api/v1/nodes")
            .await
            .context("list the nodes")?;
        for node in nodes.items.iter().filter(|node| is_ready(node)) {
            let name = node.metadata.name.to_string();
            if !ready.contains(&name) {
                progress.done(format!("{name} is ready"));
                ready.push(name);
            }
        }
        for number in 1..=wanted {
            unit_must_run(lab, &format!("node{number}"), "agent")?;
        }
        if Instant::now() > deadline {
            bail!(
                "only {} of {wanted} nodes became ready within {} s",
                ready.len(),
                READY_DEADLINE.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    node.status
        .conditions
        .iter()
        .any(|condition| &*condition.r#type == "Ready" && &*condition.status == "True")
}

/// A unit that ended tells why in its log; waiting for it longer is pointless.
fn unit_must_run(lab: &Lab, host: &str, unit: &str) -> Result<()> {
    let reply = ask(lab, host, &Request::Units)?;
    match reply.units.get(unit) {
        Some(state) if state.starts_with("running") => Ok(()),
        Some(state) => bail!("{unit} on {host} {state}"),
        None => bail!("{unit} on {host} was never started"),
    }
}

/// What each unit said last: the lab is removed after a failure, and its logs with it.
fn last_words(lab: &Lab) -> String {
    let mut words = String::new();
    for host in lab.hosts().unwrap_or_default() {
        for unit in ["server", "agent"] {
            let path = lab.host_dir(&host.name).join(format!("log/{unit}.log"));
            if path.exists() {
                let line = telling_line(&path);
                words.push_str(&format!("\n  {} {unit} said last: {line}", host.name));
            }
        }
    }
    words
}

/// The error of a program that ended with one, otherwise the last line of its log.
fn telling_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let error = lines().rfind(|line| line.starts_with("minik: ") || line.starts_with("error: "));
    error
        .or_else(|| lines().next_back())
        .unwrap_or("(nothing)")
        .to_owned()
}

fn own_exe() -> Result<String> {
    path_text(&std::env::current_exe().context("find this program's own file")?)
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_program_is_more_telling_than_what_follows_it() {
        let dir = std::env::temp_dir().join(format!("minik-telling-{}", std::process::id()));
        for (log, wanted) in [
            (
                "INFO up\nerror: invalid value\n\nFor more information, try '--help'.\n",
                "error: invalid value",
            ),
            ("INFO up\nminik: no space\n", "minik: no space"),
            ("INFO up\nINFO ready\n\n", "INFO ready"),
            ("", "(nothing)"),
        ] {
            fs::write(&dir, log).expect("write a log");
            assert_eq!(telling_line(&dir), wanted, "{log:?}");
        }
        fs::remove_file(&dir).expect("remove the log");
    }
}
