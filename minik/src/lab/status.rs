//! `minik lab status`.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{
    host::{Request, ask},
    network,
    state::Lab,
    topology::{Host, Role},
};

pub(crate) fn run(lab: &Lab) -> Result<()> {
    let hosts = lab.hosts()?;
    let cut = cut_cables(lab, &hosts);
    println!("{:<10} {:<15} {:<9} UNITS", "HOST", "ADDRESS", "PID");
    for host in hosts {
        let (pid, mut units) = match lab.pid(&host.name) {
            Ok(pid) => (pid.to_string(), units(lab, &host.name)),
            Err(error) => ("-".to_owned(), error.to_string()),
        };
        if cut.contains(&host.name) {
            units.push_str(" (cable cut: `heal` mends it)");
        }
        let addresses = host.addresses.iter().map(|address| address.ip.to_string());
        let addresses = addresses.collect::<Vec<_>>().join(",");
        println!("{:<10} {addresses:<15} {pid:<9} {units}", host.name);
    }
    println!("\nlogs and state: {}", lab.dir().display());
    println!("export KUBECONFIG={}", lab.kubeconfig().display());
    Ok(())
}

/// The hosts that `partition` has cut off; none when the switch is dead, which its own line tells.
fn cut_cables(lab: &Lab, hosts: &[Host]) -> BTreeSet<String> {
    let cabled = hosts.iter().filter(|host| host.role != Role::Switch);
    let names = cabled.map(|host| host.name.clone()).collect();
    lab.pid("switch")
        .and_then(|switch| network::cut_cables(switch, names))
        .unwrap_or_default()
}

fn units(lab: &Lab, host: &str) -> String {
    match ask(lab, host, &Request::Units) {
        Ok(reply) if reply.units.is_empty() => "-".to_owned(),
        Ok(reply) => {
            let lines: Vec<_> = reply
                .units
                .iter()
                .map(|(unit, state)| format!("{unit} {state}"))
                .collect();
            lines.join(", ")
        }
        Err(error) => format!("{error:#}"),
    }
}
