//! Wires a lab's hosts together, over rtnetlink, inside their namespaces only.

use std::{collections::BTreeSet, fs, future::Future, net::IpAddr, net::Ipv4Addr};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use netlink_packet_route::link::LinkFlags;
use nix::unistd::Pid;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use super::{
    namespace::inside_network,
    topology::{GATEWAYS, Host, PREFIX_LEN, Role},
};

const BRIDGE: &str = "underlay";
const INTERFACE: &str = "eth0";

/// A host with its first process.
pub(crate) type Placed = (Host, Pid);

/// Builds the switch and connects every other host to it.
pub(crate) fn wire(hosts: &[Placed]) -> Result<()> {
    let switch = hosts
        .iter()
        .find(|(host, _)| host.role == Role::Switch)
        .context("a lab has a switch")?
        .1;
    in_namespace(switch, build_switch)?;
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
    let (port, addr, gateway) = (port_name(&host.name), host.addr, host.gateway);
    let switch_id = u32::try_from(switch.as_raw()).context("process number")?;
    let far_end = port.clone();
    in_namespace(pid, move |handle| async move {
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
        add_address(&handle, index, addr).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build();
        handle
            .route()
            .add(route)
            .execute()
            .await
            .context("add the default route")
    })
}

async fn build_switch(handle: Handle) -> Result<()> {
    up(&handle, "lo").await?;
    handle
        .link()
        .add(LinkBridge::new(BRIDGE).up().build())
        .execute()
        .await
        .context("add the bridge")?;
    let index = index_of(&handle, BRIDGE).await?;
    for gateway in GATEWAYS {
        add_address(&handle, index, gateway).await?;
    }
    // /proc/sys/net shows the network namespace of the thread that opens it, and this one is the switch's.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("let the switch route")
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

async fn add_address(handle: &Handle, index: u32, addr: Ipv4Addr) -> Result<()> {
    let request = handle.address().add(index, IpAddr::V4(addr), PREFIX_LEN);
    request
        .execute()
        .await
        .with_context(|| format!("add address {addr}"))
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
