//! Kernel settings that the Pod network needs, in the namespace of the agent.

use std::{fs, path::Path};

use super::NetworkError;

/// Packets between Pods, nodes and the outside are forwarded: without this nothing works.
const FORWARDING: &str = "net/ipv4/ip_forward";

pub(super) fn set_up(bridge: &str) -> Result<(), NetworkError> {
    set(FORWARDING, "1")?;
    // A packet between two Pods comes and goes by the same link, which is no reason to tell the sender about a shorter
    // way: there is none around the Service translation. Only noise when it stays on.
    for link in ["all", bridge] {
        let path = format!("net/ipv4/conf/{link}/send_redirects");
        if let Err(error) = set(&path, "0") {
            tracing::warn!(%error, "ICMP redirects stay on");
        }
    }
    // A Pod may send router advertisements, and a node that believes them sends its traffic through the Pod (CVE-2020-10749).
    let path = format!("net/ipv6/conf/{bridge}/accept_ra");
    if Path::new("/proc/sys").join(&path).exists() {
        set(&path, "0")?;
    }
    Ok(())
}

/// Writes only what differs: a read-only /proc/sys with the right values is fine.
fn set(path: &str, value: &'static str) -> Result<(), NetworkError> {
    let file = Path::new("/proc/sys").join(path);
    if fs::read_to_string(&file).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&file, value).map_err(|source| NetworkError::Sysctl {
        path: path.to_owned(),
        value,
        source,
    })
}
