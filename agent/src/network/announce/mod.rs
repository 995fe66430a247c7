//! Announces addresses of load balancers on the node's links: answers ARP and NDP for those this node was chosen for.
//!
//! The answers come from this process and not from an address on the link: with the agent they end, so that a node whose agent
//! died cannot answer beside the one that took over. Rules stay in the kernel; whoever still sends here is still served.
//!
//! While there is something to announce, the node reports so to the server several times a second
//! (`PUT /minik/v1/nodes/NAME/announcing`); without, nothing is sent and no socket is open.
//!
//! How long all that takes, and why no two nodes answer for an address at once, is told in ARCHITECTURE.md.
//!
//! Reading order: `arp` and `ndp` (bytes), `packet` (either), `standing` (whether the server agrees), `segment` (what to say),
//! `link` (sockets), then [`Announcements`] and the loops here.

mod arp;
mod link;
mod ndp;
mod packet;
mod segment;
mod standing;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dataplane::model::Family;
use http::Method;
use serde::{Deserialize, de::IgnoredAny};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, sleep_until, timeout},
};

use self::{
    link::{Link, LinkSocket, link_for},
    segment::Segment,
    standing::{CERTAIN, Standing},
};
use super::link::LinkChanges;
use crate::{
    Addresses,
    client::{Client, ClientError},
    objects::{Key, Revision},
    view::Position,
};

/// How often the server hears that this node announces. It gives up on a node after seven of them.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// So long the node tries to be as new as the server before it asks again how new that is.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Nothing is due: as good as never.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
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

    /// Announces and reports for ever. `applied` tells how far the node's rules, and with them this, have come.
    pub(crate) async fn run(
        self,
        client: Client,
        node: String,
        node_ips: Addresses,
        applied: watch::Receiver<Option<Position>>,
    ) {
        let (standing, reader) = watch::channel(None);
        tokio::join!(
            report(client.clone(), node, self.0.subscribe(), &standing),
            catch_up(client, applied, &standing),
            announce(self.0.subscribe(), reader, node_ips),
        );
    }
}

/// Of a node that announces something.
type Standings = watch::Sender<Option<Standing>>;

/// Tells the server that this node is there, as long as it announces anything; and once more when the server has not heard the
/// last report, so that a node that was cut off is known to be back.
async fn report(
    client: Client,
    node: String,
    mut wanted: watch::Receiver<BTreeMap<Key, Vec<IpAddr>>>,
    standing: &Standings,
) {
    let path = format!(
        "/minik/v1/nodes/{}/announcing",
        crate::client::encode(&node)
    );
    // Behind nothing else, and with none of the pauses that TCP makes on a connection on which nothing came through.
    let mut own = client.apart();
    let mut unheard = false;
    loop {
        if wanted.borrow().is_empty() && !unheard {
            if wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
                return;
            }
            standing.send_replace(Some(Standing::chosen(Instant::now())));
        }
        let sent = Instant::now();
        let answer = timeout(CERTAIN, own.send(Method::PUT, &path, None, Bytes::new())).await;
        unheard = match answer {
            Ok(Ok(_)) => {
                standing.send_modify(|standing| {
                    let new = standing.get_or_insert(Standing::chosen(sent));
                    new.acknowledge(sent);
                });
                false
            }
            // Heard, but too late: others have its addresses.
            Ok(Err(error)) if error.is_conflict() => false,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the server does not hear that this node announces addresses");
                true
            }
            Err(_) => true,
        };
        if unheard {
            own = client.apart();
        }
        sleep_until((sent + REPORT_EVERY).into()).await;
    }
}

/// After each gap in the acknowledgements, sees to it that this node has applied what the server knows by then.
async fn catch_up(
    client: Client,
    mut applied: watch::Receiver<Option<Position>>,
    standing: &Standings,
) {
    let mut changes = standing.subscribe();
    loop {
        let asks_at = |standing: &Option<Standing>| standing.and_then(|known| known.asks_at());
        let after_a_gap = changes.wait_for(|standing| asks_at(standing).is_some());
        let Some(at) = after_a_gap
            .await
            .ok()
            .and_then(|standing| asks_at(&standing))
        else {
            return;
        };
        sleep_until(at.into()).await;
        match timeout(CATCH_UP, apply_newest(&client, &mut applied)).await {
            Ok(Ok(())) => {
                standing.send_modify(|standing| {
                    if let Some(standing) = standing {
                        standing.learn(at);
                    }
                });
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the server does not say what was decided meanwhile");
                sleep(REPORT_EVERY).await;
            }
            Err(_) => {}
        }
    }
}

/// Waits until everything that the server has now is applied here.
async fn apply_newest(
    client: &Client,
    applied: &mut watch::Receiver<Option<Position>>,
) -> Result<(), ClientError> {
    #[derive(Deserialize)]
    struct Newest {
        revision: Revision,
    }
    let Newest { revision } = client.get("/minik/v1/applied").await?;
    // So the watches tell at once how far they are, even if nothing happens.
    let path = format!("/minik/v1/applied?atLeast={revision}&timeoutSeconds=0");
    client.get::<IgnoredAny>(&path).await?;
    let is_newest = |position: &Option<Position>| position.is_some_and(|at| at.both() >= revision);
    if applied.wait_for(is_newest).await.is_err() {
        std::future::pending::<()>().await;
    }
    Ok(())
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
    standing: watch::Receiver<Option<Standing>>,
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
            let task = tokio::spawn(on_link((link.clone(), family), receiver, standing.clone()));
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
    standing: watch::Receiver<Option<Standing>>,
) {
    loop {
        let ended = match LinkSocket::open(&link, family) {
            Ok(mut socket) => serve(&mut socket, &link, &mut addresses, &standing).await,
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
    standing: &watch::Receiver<Option<Standing>>,
) -> std::io::Error {
    let mut segment = Segment::new(link.station);
    addresses.mark_changed();
    loop {
        let certain_until = standing_until(standing);
        let next = [segment.next(), certain_until].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| Instant::now() + FOREVER);
        let mut wanted = None;
        let received = tokio::select! {
            changed = addresses.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                wanted = Some(addresses.borrow_and_update().clone());
                Vec::new()
            }
            received = socket.receive() => match received {
                Ok(packets) => packets,
                Err(error) => return error,
            },
            () = sleep_until(next.into()) => Vec::new(),
        };
        let now = Instant::now();
        let mut packets = Vec::new();
        if let Some(wanted) = wanted {
            tracing::info!(link = link.name, addresses = ?wanted, "announcing load-balancer addresses");
            socket.listen_for(&wanted);
            segment.set(&wanted, now);
        }
        packets.extend(segment.look(standing_until(standing).is_some(), now));
        packets.extend(segment.receive(&received, now));
        for packet in &packets {
            if let Err(error) = socket.send(packet) {
                return error;
            }
        }
    }
}

/// Until when the server agrees that this node announces what it does.
fn standing_until(standing: &watch::Receiver<Option<Standing>>) -> Option<Instant> {
    let standing = *standing.borrow();
    standing?.certain_until(Instant::now())
}
