//! The faults of a lab: `kill` and `start`, `partition` and `heal`.

use anyhow::{Result, bail};
use clap::Args;
use nix::sys::signal::Signal;

use super::{
    host::{Request, ask},
    network,
    state::Lab,
    topology::Role,
};

/// A command about one host.
#[derive(Args, Debug)]
pub(crate) struct HostArg {
    /// Name of the host, as `minik lab status` lists it.
    pub(crate) host: String,
}

pub(crate) fn kill(lab: &Lab, host: &str) -> Result<()> {
    let unit = lab.unit_of(host)?.to_owned();
    ask(
        lab,
        host,
        &Request::Kill {
            unit,
            signal: Signal::SIGKILL as i32,
        },
    )
    .map(drop)
}

pub(crate) fn start(lab: &Lab, host: &str) -> Result<()> {
    let unit = lab.unit_of(host)?.to_owned();
    ask(lab, host, &Request::Restart { unit }).map(drop)
}

pub(crate) fn partition(lab: &Lab, host: &str) -> Result<()> {
    set_cable(lab, host, false)
}

pub(crate) fn heal(lab: &Lab, host: &str) -> Result<()> {
    set_cable(lab, host, true)
}

fn set_cable(lab: &Lab, host: &str, connected: bool) -> Result<()> {
    if lab.host(host)?.role == Role::Switch {
        bail!("the switch has no cable of its own: name the host at the other end");
    }
    network::set_cable(lab.pid("switch")?, host, connected)
}
