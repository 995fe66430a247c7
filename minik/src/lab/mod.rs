//! `minik lab`: a multi-node cluster from network namespaces on one machine.
//!
//! Every host of the lab (switch, control, nodes, a client and a database outside the cluster) is one set of namespaces
//! held by one process. Nothing of this machine's own network, mounts or host name is changed, and when those processes
//! end the lab is gone. Reading order: [`topology`] (which hosts), [`host`] (the first process of each), [`network`] (the
//! cables), [`up`], [`down`].

mod down;
mod exec;
mod fault;
mod host;
mod lock;
mod namespace;
mod network;
mod state;
mod status;
mod topology;
mod up;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

pub(crate) use host::{HostArgs, run as run_host};

/// Which lab a command is about.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// Name of the lab: several can run side by side.
    #[arg(long, default_value = "minik", global = true, env = "MINIK_LAB")]
    name: String,
}

/// `minik lab ...`
#[derive(Args, Debug)]
pub(crate) struct LabArgs {
    #[command(flatten)]
    which: Which,
    #[command(subcommand)]
    command: LabCommand,
}

impl LabArgs {
    /// Whether the command leaves the lab as it is and only tells of it.
    pub(crate) fn only_prints(&self) -> bool {
        matches!(self.command, LabCommand::Status)
    }
}

#[derive(Subcommand, Debug)]
enum LabCommand {
    /// Build and start a lab: control host, worker nodes, an outside client and an outside database.
    Up(up::UpArgs),
    /// Stop a lab and remove every trace of it.
    Down,
    /// Show the hosts and what runs on them.
    Status,
    /// Run a command on a host, or in a Pod with --pod.
    Exec(exec::ExecArgs),
    /// Kill -9 the server (host control) or the agent (a node).
    Kill(fault::HostArg),
    /// Start again what `kill` ended.
    Start(fault::HostArg),
    /// Cut the cable between a host and the switch.
    Partition(fault::HostArg),
    /// Mend the cable that `partition` cut.
    Heal(fault::HostArg),
}

/// Runs `minik lab ...`; the value is the process's exit code.
pub(crate) fn run(args: &LabArgs) -> Result<u8> {
    let lab = state::Lab::named(&args.which.name)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab is made of network namespaces, which needs root: run this with sudo");
    }
    match &args.command {
        LabCommand::Up(up) => up::run(&lab, up),
        LabCommand::Down => down::run(&lab).map(|()| 0),
        LabCommand::Status => status::run(&lab).map(|()| 0),
        LabCommand::Exec(exec) => exec::run(&lab, exec),
        LabCommand::Kill(host) => fault::kill(&lab, &host.host).map(|()| 0),
        LabCommand::Start(host) => fault::start(&lab, &host.host).map(|()| 0),
        LabCommand::Partition(host) => fault::partition(&lab, &host.host).map(|()| 0),
        LabCommand::Heal(host) => fault::heal(&lab, &host.host).map(|()| 0),
    }
}
