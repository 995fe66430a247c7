//! `minik lab status`.

use anyhow::Result;

use super::{
    host::{Request, ask},
    state::Lab,
};

pub(crate) fn run(lab: &Lab) -> Result<()> {
    println!("{:<10} {:<15} {:<9} UNITS", "HOST", "ADDRESS", "PID");
    for host in lab.hosts()? {
        let (pid, units) = match lab.pid(&host.name) {
            Ok(pid) => (pid.to_string(), units(lab, &host.name)),
            Err(error) => ("-".to_owned(), error.to_string()),
        };
        println!("{:<10} {:<15} {:<9} {units}", host.name, host.addr, pid);
    }
    println!("\nlogs and state: {}", lab.dir().display());
    println!("export KUBECONFIG={}", lab.kubeconfig().display());
    Ok(())
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
