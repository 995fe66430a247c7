//! Rulesets that others use, written by `nft`: one static rule, and a chain per Service.
//!
//! A Service's chain has a rule that marks what is to be masqueraded, and one with an anonymous map of the endpoints. kube-proxy
//! has more: a chain for each endpoint too.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{CHANGES, ENDPOINTS, figures::*, net};

/// Services that one transaction brings: the kernel takes the square of it.
const SERVICES_PER_TRANSACTION: u32 = 100;

/// One rule for the first Service's first endpoint.
pub(crate) const STATIC_DNAT: &str = "table ip static {
    chain translate { type nat hook prerouting priority -100; ip daddr 10.96.0.0 tcp dport 80 dnat to 10.128.0.0:8080; }
}";

/// The same on a node that also translates sources: connection tracking then looks at the source of every connection.
pub(crate) const STATIC_MASQUERADE: &str = "table ip static {
    chain translate { type nat hook prerouting priority -100; ip daddr 10.96.0.0 tcp dport 80 dnat to 10.128.0.0:8080; }
    chain sources { type nat hook postrouting priority 100; ip saddr != 10.128.0.0/9 masquerade fully-random; }
}";

/// What is there before the first Service: the checks and the masquerading that kube-proxy's packets meet too.
const SKELETON: &str = "table ip chains {
    map services { type ipv4_addr . inet_proto . inet_service : verdict; }
    map nodeports { type inet_proto . inet_service : verdict; }
    map no-endpoints { type ipv4_addr . inet_proto . inet_service : verdict; }
    map firewall { type ipv4_addr . inet_proto . inet_service : verdict; }
    set cluster-ips { type ipv4_addr; }
    chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
    chain nat-output { type nat hook output priority -100; jump services; }
    chain services {
        ip daddr . meta l4proto . th dport vmap @services
        fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @nodeports
    }
    chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set mark ^ 0x4000
        masquerade fully-random
    }
    chain to-masquerade { meta mark set mark | 0x4000; }
    chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
    chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall; }
    chain filter-forward {
        type filter hook forward priority -110
        ct state new jump endpoints-check
        ct state new jump cluster-ips-check
    }
    chain endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoints; }
    chain cluster-ips-check { ip daddr @cluster-ips reject; }
}";

pub(crate) fn load(services: u32) -> (Cost, Option<Cost>) {
    let mut load = nft(SKELETON);
    for first in (0..services).step_by(SERVICES_PER_TRANSACTION as usize) {
        let mut text = String::new();
        for service in first..services.min(first + SERVICES_PER_TRANSACTION) {
            let (address, port) = (net::service(service), net::SERVICE_PORT);
            let _ = writeln!(
                text,
                "add chain ip chains service-{service}\n{}",
                rule(service, 0)
            );
            let _ = writeln!(
                text,
                "add element ip chains services {{ {address} . tcp . {port} : goto service-{service} }}"
            );
        }
        let cost = nft(&text);
        load = Cost {
            elapsed: load.elapsed + cost.elapsed,
            cpu: load.cpu + cost.cpu,
        };
    }
    let changes: Vec<Cost> = (1..=CHANGES)
        .map(|round| {
            let service = services / 2;
            nft(&format!(
                "flush chain ip chains service-{service}\n{}",
                rule(service, round)
            ))
        })
        .collect();
    (load, Some(median(&changes)))
}

/// With one endpoint more in every other round.
fn rule(service: u32, round: u32) -> String {
    let count = ENDPOINTS + round % 2;
    let endpoints: Vec<String> = (0..count)
        .map(|slot| {
            format!(
                "{slot} : {} . {}",
                net::endpoint(service, slot),
                net::ENDPOINT_PORT
            )
        })
        .collect();
    let (address, port) = (net::service(service), net::SERVICE_PORT);
    format!(
        "add rule ip chains service-{service} ip daddr {address} tcp dport {port} ip saddr != {} jump to-masquerade\n\
         add rule ip chains service-{service} meta l4proto tcp dnat ip to numgen random mod {count} map {{ {} }}",
        net::PODS,
        endpoints.join(", ")
    )
}

/// Runs one transaction of `nft` in the namespace of this thread.
pub(crate) fn nft(text: &str) -> Cost {
    let (status, cost) = timed(|| {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("this benchmark needs nft (Debian: nftables)");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(text.as_bytes()).expect("nft reads");
        drop(input);
        child.wait().expect("nft ends")
    });
    assert!(
        status.success(),
        "nft refused {}",
        &text[..text.len().min(300)]
    );
    cost
}
