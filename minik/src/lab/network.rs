//! Wires a lab's hosts together, over rtnetlink, inside their namespaces only.

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use netlink_packet_route::link::LinkFlags;
use nix::unistd::Pid;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use super::{
    namespace::inside_network,
    topology::{Address, Host, Role},
};

const BRIDGE: &str = "underlay";
const INTERFACE: &str = "eth0";

/// A host with its first process.
pub(crate) type Placed = (Host, Pid);

/// Builds the switch and connects every other host to it.
pub(crate) fn wire(hosts: &[Placed]) -> Result<()> {
    let (host, switch) = hosts
        .iter()
        .find(|(host, _)| host.role == Role::Switch)
        .context("a lab has a switch")?;
    let (switch, gateways) = (*switch, host.addresses.clone());
    in_namespace(switch, |handle| build_switch(handle, gateways))?;
    for (host, pid) in hosts.iter().filter(|(host, _)| host.role != Role::Switch) {
        connect(host, *pid, switch).with_context(|| format!("connect {}", host.name))?;
    }
    Ok(())
}

/// Cuts (or mends) the cable between a host and the switch.
pub(crate) fn set_cable(switch: Pid, host: &str, connected: bool) -> Result<()> {
    let port = port_name(host);
    in_namespace(switch, move |handle| async move {
        let index = index_of(&handle, &port).await?;
        let link = LinkUnspec::new_with_index(index);
        let link = if connected { link.up() } else { link.down() };
        handle
            .link()
            .set(link.build())
            .execute()
            .await
            .with_context(|| format!("set the state of {port}"))
    })
}

/// The hosts whose cable is cut, of those given.
pub(crate) fn cut_cables(switch: Pid, hosts: Vec<String>) -> Result<BTreeSet<String>> {
    in_namespace(switch, move |handle| async move {
        let mut cut = BTreeSet::new();
        for host in hosts {
            let port = port_name(&host);
            let mut links = handle.link().get().match_name(port.clone()).execute();
            let link = links
                .try_next()
                .await
                .with_context(|| format!("look up {port}"))?;
            if link.is_none_or(|link| !link.header.flags.contains(LinkFlags::Up)) {
                cut.insert(host);
            }
        }
        Ok(cut)
    })
}

/// The switch's end of a host's cable. An interface name has at most 15 characters.
fn port_name(host: &str) -> String {
    format!("to-{host}")
}

fn connect(host: &Host, pid: Pid, switch: Pid) -> Result<()> {
    let (port, addresses) = (port_name(&host.name), host.addresses.clone());
    let switch_id = u32::try_from(switch.as_raw()).context("process number")?;
    let far_end = port.clone();
    in_namespace(pid, move |handle| async move {
        do_not_probe_addresses()?;
        handle
            .link()
            .add(LinkVeth::new(INTERFACE, &far_end).build())
            .execute()
            .await
            .context("add the cable")?;
        let far = LinkUnspec::new_with_name(&far_end)
            .setns_by_pid(switch_id)
            .build();
        handle
            .link()
            .set(far)
            .execute()
            .await
            .context("plug the cable into the switch")?;
        Ok(())
    })?;
    in_namespace(switch, move |handle| async move {
        let bridge = index_of(&handle, BRIDGE).await?;
        let port = LinkUnspec::new_with_name(&port)
            .controller(bridge)
            .up()
            .build();
        handle
            .link()
            .set(port)
            .execute()
            .await
            .context("add the port to the bridge")
    })?;
    in_namespace(pid, move |handle| async move {
        up(&handle, "lo").await?;
        up(&handle, INTERFACE).await?;
        let index = index_of(&handle, INTERFACE).await?;
        for address in addresses {
            add_address(&handle, index, address).await?;
            add_default_route(&handle, address.gateway).await?;
        }
        Ok(())
    })
}

async fn add_default_route(handle: &Handle, gateway: IpAddr) -> Result<()> {
    let route = match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(gateway)
            .build(),
    };
    let request = handle.route().add(route);
    request.execute().await.context("add the default route")
}

/// Lets IPv6 addresses of links that are made from now on be used at once. The lab gives each to one host only.
fn do_not_probe_addresses() -> Result<()> {
    match fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0") {
        // This kernel has no IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.context("switch the probing of IPv6 addresses off"),
    }
}

async fn build_switch(handle: Handle, gateways: Vec<Address>) -> Result<()> {
    do_not_probe_addresses()?;
    up(&handle, "lo").await?;
    handle
        .link()
        .add(LinkBridge::new(BRIDGE).up().build())
        .execute()
        .await
        .context("add the bridge")?;
    let index = index_of(&handle, BRIDGE).await?;
    for gateway in &gateways {
        add_address(&handle, index, *gateway).await?;
    }
    // /proc/sys/net shows the network namespace of the thread that opens it, and this one is the switch's.
    for (forwarding, wanted) in [
        ("ipv4/ip_forward", true),
        (
            "ipv6/conf/all/forwarding",
            gateways.iter().any(|gateway| gateway.ip.is_ipv6()),
        ),
    ] {
        if wanted {
            let path = format!("/proc/sys/net/{forwarding}");
            fs::write(path, "1").context("let the switch route")?;
        }
    }
    Ok(())
}

async fn up(handle: &Handle, name: &str) -> Result<()> {
    let link = LinkUnspec::new_with_name(name).up().build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .with_context(|| format!("bring {name} up"))
}

async fn add_address(handle: &Handle, index: u32, address: Address) -> Result<()> {
    let Address { ip, prefix_len, .. } = address;
    let request = handle.address().add(index, ip, prefix_len);
    request
        .execute()
        .await
        .with_context(|| format!("add address {ip}"))
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("look up {name}"))?;
    Ok(link
        .with_context(|| format!("there is no interface {name}"))?
        .header
        .index)
}

/// Runs rtnetlink requests inside the network namespace of `pid`.
fn in_namespace<T, F, Work>(pid: Pid, work: Work) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
    Work: FnOnce(Handle) -> F + Send + 'static,
{
    inside_network(pid, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("start a small runtime")?;
        runtime.block_on(async {
            let (connection, handle, _) = new_connection().context("open a netlink socket")?;
            tokio::spawn(connection);
            work(handle).await
        })
    })
}
