//! `minik lab up`.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agent::client::Client;
use anyhow::{Context, Result, anyhow, bail};
use api::core::Node;
use bytes::Bytes;
use clap::Args;
use http::Method;

use super::{
    down,
    host::{Request, ask},
    network,
    state::Lab,
    topology::{self, Host, MAX_NODES, Role},
};
use crate::{admin::Admin, progress::Progress, token};

/// How long the server, and then the nodes, get to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often a file or port that another process is about to open is looked at.
const POLL: Duration = Duration::from_millis(5);
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
    #[arg(long, default_value_t = 50)]
    node_grace_secs: u16,
}

/// Builds the lab, or leaves nothing behind.
pub(crate) fn run(lab: &Lab, args: &UpArgs) -> Result<u8> {
    if lab.is_up() {
        bail!(
            "lab {:?} is already up: `minik lab down --name {}` first, or choose another --name",
            lab.name,
            lab.name
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Ok(false),
            done = bring_up(lab, args) => done.map(|()| true),
        }
    });
    match outcome {
        Ok(true) => Ok(0),
        Ok(false) => {
            down::clean(lab)?;
            eprintln!("interrupted: lab {:?} was removed", lab.name);
            Ok(130)
        }
        Err(error) => {
            let error = error.context(last_words(lab));
            if let Err(cleaning) = down::clean(lab) {
                eprintln!("could not remove the half-built lab: {cleaning:#}");
            }
            Err(error)
        }
    }
}

async fn bring_up(lab: &Lab, args: &UpArgs) -> Result<()> {
    let progress = Progress::start();
    if lab.exists() {
        down::clean(lab)?;
        progress.done("removed what an interrupted lab had left behind");
    }
    let hosts = topology::hosts(args.nodes);
    lab.create(&hosts)?;
    let _working = lock(lab)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.api_port))
        .with_context(|| format!("--api-port {}: cannot listen on loopback", args.api_port))?;
    let api = listener.local_addr().context("find the loopback port")?;

    progress.doing("starting hosts");
    start_hosts(lab, &hosts, listener)?;
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

/// Two `up` of one lab would tear down each other's work.
fn lock(lab: &Lab) -> Result<File> {
    let dir = File::open(lab.dir()).context("open the lab's directory")?;
    #[expect(
        deprecated,
        reason = "the Flock type of nix wants to own a file opened for writing; this is a directory"
    )]
    nix::fcntl::flock(
        std::os::fd::AsRawFd::as_raw_fd(&dir),
        nix::fcntl::FlockArg::LockExclusiveNonblock,
    )
    .map_err(|_| anyhow!("another `minik lab up --name {}` is at work", lab.name))?;
    Ok(dir)
}

fn names(hosts: &[Host]) -> String {
    let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.join(", ")
}

fn start_hosts(lab: &Lab, hosts: &[Host], listener: TcpListener) -> Result<()> {
    let mut listener = Some(OwnedFd::from(listener));
    let mut starting = Vec::new();
    for host in hosts {
        let inherited = (host.role == Role::Control)
            .then(|| listener.take())
            .flatten();
        starting.push((host, spawn_host(lab, host, inherited)?));
    }
    for (host, mut child) in starting {
        let status = child.wait().context("wait for a host to start")?;
        if !status.success() {
            let log = lab.host_dir(&host.name).join("log/host.log");
            bail!("host {} did not start: {}", host.name, last_line(&log));
        }
    }
    Ok(())
}

fn spawn_host(lab: &Lab, host: &Host, listener: Option<OwnedFd>) -> Result<std::process::Child> {
    let path = lab.host_dir(&host.name).join("log/host.log");
    let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut command = Command::new(own_exe()?);
    command.args(["lab-host", "--lab", &lab.name, "--host", &host.name]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
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
    flag("--bind", format!("{}:{API_PORT}", control.addr));
    flag("--advertise-address", control.addr.to_string());
    flag("--node-grace-secs", args.node_grace_secs.to_string());
    let log = lab.host_dir(&control.name).join("log/server.log");
    let start = Request::Start {
        unit: "server".to_owned(),
        argv,
        log,
        listener: true,
    };
    ask(lab, &control.name, &start).map(drop)
}

fn start_agent(lab: &Lab, host: &Host, hosts: &[Host], token: &str) -> Result<()> {
    let control = hosts
        .iter()
        .find(|host| host.role == Role::Control)
        .context("a lab has a control host")?;
    let dir = lab.host_dir(&host.name);
    let mut argv = vec![own_exe()?, "agent".to_owned()];
    let mut flag = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    flag("--join", format!("https://{}:{API_PORT}", control.addr));
    flag("--token", token.to_owned());
    flag("--node-name", host.name.clone());
    flag("--node-ip", host.addr.to_string());
    flag("--data-dir", path_text(&dir.join("lib"))?);
    flag("--run-dir", path_text(&dir.join("run"))?);
    flag("--log-dir", path_text(&dir.join("pods"))?);
    flag("--cgroup-parent", lab.cgroup(&host.name));
    let log = dir.join("log/agent.log");
    ask(
        lab,
        &host.name,
        &Request::Start {
            unit: "agent".to_owned(),
            argv,
            log,
            listener: false,
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
            Err(error) => unit_must_run(lab, "control", "server")
                .map_err(|ended| ended.context(error.to_string()))?,
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
    let path = lab.kubeconfig();
    fs::write(&path, admin.kubeconfig(&format!("https://{api}")))
        .with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .context("protect the kubeconfig")?;
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

/// The last log line of each unit: the lab is removed after a failure, and its logs with it.
fn last_words(lab: &Lab) -> String {
    let mut words = String::from("the lab did not come up");
    for host in lab.hosts().unwrap_or_default() {
        for unit in ["server", "agent"] {
            let path = lab.host_dir(&host.name).join(format!("log/{unit}.log"));
            if path.exists() {
                words.push_str(&format!("\n  {} {unit}: {}", host.name, last_line(&path)));
            }
        }
    }
    words
}

fn last_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().last().unwrap_or("(no output)").to_owned()
}

fn own_exe() -> Result<String> {
    path_text(&std::env::current_exe().context("find this program's own file")?)
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
