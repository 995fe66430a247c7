//! Kernel settings that the Pod network needs.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens a file there.

use std::{fs, io, path::Path};

use super::NetworkError;

const ROOT: &str = "/proc/sys";
const IPV6_LINKS: &str = "net/ipv6/conf";

/// Whether packets of a family are forwarded: between Pods, nodes and the outside. Without it nothing works.
pub(super) fn forward_ipv4() -> Result<(), NetworkError> {
    set("net/ipv4/ip_forward", "1")
}

/// The same for IPv6. A host that forwards ignores router advertisements, and would forget the way out that it has learnt
/// from them; so links that listen to them now are told to do so as a router too.
pub(super) fn forward_ipv6() -> Result<(), NetworkError> {
    const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
    if !has_ipv6() {
        return Err(NetworkError::NoIpv6);
    }
    if get(FORWARDING).is_some_and(|now| now == "1") {
        return Ok(());
    }
    for link in links().map_err(NetworkError::Links)? {
        let path = format!("{IPV6_LINKS}/{link}/accept_ra");
        if link != "all" && get(&path).is_some_and(|now| now == "1") {
            set(&path, "2")?;
        }
    }
    set(FORWARDING, "1")
}

/// The bridge, before it is up for the first time.
pub(super) fn set_up_bridge(bridge: &str, ipv6: bool) -> Result<(), NetworkError> {
    // A packet between two Pods comes and goes by the same link, which is no reason to tell the sender about a shorter
    // way: there is none around the Service translation. Only noise when it stays on.
    for link in ["all", bridge] {
        let path = format!("net/ipv4/conf/{link}/send_redirects");
        if let Err(error) = set(&path, "0") {
            tracing::warn!(%error, "ICMP redirects stay on");
        }
    }
    if ipv6 {
        enable_ipv6(bridge)?;
    }
    set_up_link(bridge)
}

/// A Pod's link, in the Pod's namespace, before it is up.
pub(super) fn set_up_pod(link: &str, ipv6: bool) -> Result<(), NetworkError> {
    if ipv6 {
        enable_ipv6(link)?;
    }
    set_up_link(link)
}

/// A host may have IPv6 off by default for the links it makes.
fn enable_ipv6(link: &str) -> Result<(), NetworkError> {
    if !has_ipv6() {
        return Err(NetworkError::NoIpv6);
    }
    for link in ["lo", link] {
        set(&format!("{IPV6_LINKS}/{link}/disable_ipv6"), "0")?;
    }
    Ok(())
}

/// What IPv6 must not do on our links. A Pod may send router advertisements, and whoever believes them sends its traffic
/// through the Pod (CVE-2020-10749). The node, as a router, tells the sender of a packet between two Pods that they share a
/// link (there is no switch for that): a Pod that believed it would go around the Service translation. And addresses come
/// from us, each once: while their uniqueness were probed for a second, nothing could be sent to a new Pod.
fn set_up_link(link: &str) -> Result<(), NetworkError> {
    if !has_ipv6() {
        return Ok(());
    }
    for name in ["accept_ra", "accept_redirects", "accept_dad"] {
        set(&format!("{IPV6_LINKS}/{link}/{name}"), "0")?;
    }
    Ok(())
}

fn has_ipv6() -> bool {
    Path::new(ROOT).join(IPV6_LINKS).exists()
}

fn links() -> io::Result<Vec<String>> {
    let entries = fs::read_dir(Path::new(ROOT).join(IPV6_LINKS))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

fn get(path: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(path)).ok()?;
    Some(text.trim().to_owned())
}

/// Writes only what differs: a read-only /proc/sys with the right values is fine.
fn set(path: &str, value: &'static str) -> Result<(), NetworkError> {
    if get(path).is_some_and(|now| now == value) {
        return Ok(());
    }
    fs::write(Path::new(ROOT).join(path), value).map_err(|source| NetworkError::Sysctl {
        path: path.to_owned(),
        value,
        source,
    })
}
