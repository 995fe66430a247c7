//! Announces addresses of load balancers on the node's links: answers ARP and NDP for those this node was chosen for.
//!
//! The answers come from this process and not from an address on the link: with the agent they end, so that a node whose agent
//! died cannot answer beside the one that took over. Rules stay in the kernel; whoever still sends here is still served.
//!
//! While there is something to announce, the node reports so to the server several times a second
//! (`PUT /minik/v1/nodes/NAME/announcing`); without, nothing is sent and no socket is open.
//!
//! Reading order: `arp` and `ndp` (bytes), `packet` (either), `segment` (what to say), `link` (sockets), then [`Announcements`] and the loops here.

mod arp;
mod link;
mod ndp;
mod packet;
mod segment;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dataplane::model::Family;
use http::Method;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    link::{Link, LinkSocket, link_for},
    segment::{CERTAIN, Segment, TICK},
};
use super::link::LinkChanges;
use crate::{Addresses, client::Client, objects::Key};

/// How often the server hears that this node announces. It gives up on a node after four of them.
const REPORT_EVERY: Duration = Duration::from_millis(300);
/// After a socket failed, as it does while its link is away.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// The addresses this node announces, by Service; shared by who learns them and who announces them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announcements(Arc<watch::Sender<BTreeMap<Key, Vec<IpAddr>>>>);

impl Announcements {
    /// Takes in what Services want now.
    pub(crate) fn apply(&self, changes: Vec<(Key, Vec<IpAddr>)>) {
        self.0.send_if_modified(|all| {
            let mut changed = false;
            for (key, addresses) in changes {
                changed |= if addresses.is_empty() {
                    all.remove(&key).is_some()
                } else {
                    all.insert(key, addresses.clone()) != Some(addresses)
                };
            }
            changed
        });
    }

    /// Like [`Announcements::apply`]; Services that are not named want nothing.
    pub(crate) fn replace(&self, all: Vec<(Key, Vec<IpAddr>)>) {
        let wanted = all
            .into_iter()
            .filter(|(_, addresses)| !addresses.is_empty());
        let wanted: BTreeMap<_, _> = wanted.collect();
        self.0.send_if_modified(|known| {
            let before = std::mem::replace(known, wanted);
            before != *known
        });
    }

    /// What is announced, for tests.
    #[cfg(test)]
    pub(crate) fn get(&self) -> BTreeMap<Key, Vec<IpAddr>> {
        self.0.borrow().clone()
    }

    /// Announces and reports for ever.
    pub(crate) async fn run(self, client: Client, node: String, node_ips: Addresses) {
        let (acknowledged, reader) = watch::channel(None);
        tokio::join!(
            report(client, node, self.0.subscribe(), acknowledged),
            announce(self.0.subscribe(), reader, node_ips),
        );
    }
}

/// When the server last acknowledged a report.
type Acknowledged = Option<Instant>;

/// Tells the server that this node is there, as long as it announces anything.
async fn report(
    client: Client,
    node: String,
    mut wanted: watch::Receiver<BTreeMap<Key, Vec<IpAddr>>>,
    acknowledged: watch::Sender<Acknowledged>,
) {
    let path = format!(
        "/minik/v1/nodes/{}/announcing",
        crate::client::encode(&node)
    );
    while wanted.wait_for(|wanted| !wanted.is_empty()).await.is_ok() {
        let sent = client.send(Method::PUT, &path, None, Bytes::new());
        match timeout(CERTAIN, sent).await {
            Ok(Ok(_)) => _ = acknowledged.send_replace(Some(Instant::now())),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the server does not hear that this node announces addresses")
            }
            Err(_) => {}
        }
        sleep(REPORT_EVERY).await;
    }
}

/// A link's addresses, and the task that announces them.
struct Running {
    addresses: watch::Sender<BTreeSet<IpAddr>>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn announce(
    mut wanted: watch::Receiver<BTreeMap<Key, Vec<IpAddr>>>,
    acknowledged: watch::Receiver<Acknowledged>,
    node_ips: Addresses,
) {
    let mut running: BTreeMap<Place, (Link, Running)> = BTreeMap::new();
    // There as long as there is something to announce.
    let mut links: Option<LinkChanges> = None;
    loop {
        let addresses: BTreeSet<IpAddr> = {
            let wanted = wanted.borrow_and_update();
            wanted.values().flatten().copied().collect()
        };
        // Before the links are looked at, so that no change is missed.
        links = match links {
            _ if addresses.is_empty() => None,
            None => LinkChanges::open(),
            open => open,
        };
        let by_link = by_link(&addresses, node_ips);
        running.retain(|place, (link, _)| by_link.get(place).is_some_and(|(now, _)| now == link));
        for (place, (link, addresses)) in by_link {
            if let Some((_, known)) = running.get(&place) {
                known.addresses.send_if_modified(|known| {
                    let before = std::mem::replace(known, addresses);
                    before != *known
                });
                continue;
            }
            let family = place.1;
            let (sender, receiver) = watch::channel(addresses);
            let task = tokio::spawn(on_link(
                (link.clone(), family),
                receiver,
                acknowledged.clone(),
            ));
            let started = Running {
                addresses: sender,
                task: task.abort_handle(),
            };
            running.insert(place, (link, started));
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = link_changed(&mut links) => {}
        }
    }
}

/// Waits until a link or an address of the node has changed.
async fn link_changed(links: &mut Option<LinkChanges>) {
    match links {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Where a family's addresses are announced: the link's name.
type Place = (String, Family);

/// The addresses by the link on which each is announced.
fn by_link(
    addresses: &BTreeSet<IpAddr>,
    node_ips: Addresses,
) -> BTreeMap<Place, (Link, BTreeSet<IpAddr>)> {
    let mut links: BTreeMap<Place, (Link, BTreeSet<IpAddr>)> = BTreeMap::new();
    for &address in addresses {
        match link_for(address, node_ips.alike(address)) {
            Ok(Some(link)) => {
                let entry = links.entry((link.name.clone(), Family::of(address)));
                entry.or_insert((link, BTreeSet::new())).1.insert(address);
            }
            Ok(None) => {
                tracing::warn!(%address, "this node has no link to announce the address on")
            }
            Err(error) => tracing::warn!(%address, %error, "the node's links cannot be read"),
        }
    }
    links
}

/// Announces a link's addresses for ever.
async fn on_link(
    (link, family): (Link, Family),
    mut addresses: watch::Receiver<BTreeSet<IpAddr>>,
    acknowledged: watch::Receiver<Acknowledged>,
) {
    loop {
        let ended = match LinkSocket::open(&link, family) {
            Ok(mut socket) => serve(&mut socket, &link, &mut addresses, &acknowledged).await,
            Err(error) => error,
        };
        tracing::warn!(link = link.name, error = %ended, "questions for load-balancer addresses cannot be answered: trying again");
        sleep(OPEN_AGAIN).await;
    }
}

/// Answers until the socket fails; returns why it did.
async fn serve(
    socket: &mut LinkSocket,
    link: &Link,
    addresses: &mut watch::Receiver<BTreeSet<IpAddr>>,
    acknowledged: &watch::Receiver<Acknowledged>,
) -> std::io::Error {
    let mut segment = Segment::new(link.station);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    addresses.mark_changed();
    let started = Instant::now();
    loop {
        // A node that has just been chosen was heard a moment ago.
        let certain = || {
            let last = acknowledged.borrow().unwrap_or(started);
            last.elapsed() < CERTAIN
        };
        let packets = tokio::select! {
            changed = addresses.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                let wanted = addresses.borrow_and_update().clone();
                tracing::info!(link = link.name, addresses = ?wanted, "announcing load-balancer addresses");
                socket.listen_for(&wanted);
                segment.set(&wanted)
            }
            received = socket.receive() => match received {
                Ok(packet) => segment.receive(&packet, certain()),
                Err(error) => return error,
            },
            _ = tick.tick() => segment.tick(certain(), Instant::now()),
        };
        for packet in &packets {
            if let Err(error) = socket.send(packet) {
                return error;
            }
        }
    }
}
