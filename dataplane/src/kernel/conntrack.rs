//! UDP flows that an endpoint left behind.
//!
//! A TCP client notices when its endpoint goes; a UDP client that keeps sending from one port keeps its flow alive, and the
//! flow keeps the endpoint it once got. So flows of Services whose endpoints changed are looked through, and exactly those
//! that lead to an endpoint which is not there any more are deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroU16,
};

use super::{KernelError, Netlink};
use crate::{
    model::{Endpoint, Family, Frontend, Protocol},
    wire::{self, UdpFlow},
};

/// The endpoints that may keep their flows, by UDP frontend: with none, nobody may. `None` is a frontend that is gone: what
/// was translated for its sake ends, and what others make of the address now is not our business.
pub type Serving = BTreeMap<Frontend, Option<BTreeSet<Endpoint>>>;

impl Netlink {
    /// Deletes the UDP flows to these frontends that none of their endpoints answers; returns how many. Every other flow is
    /// left alone, whatever its protocol.
    ///
    /// # Errors
    /// When the kernel does not let us look or delete.
    pub fn forget_udp_flows(&mut self, serving: &Serving) -> Result<usize, KernelError> {
        let mut forgotten = 0;
        for family in Family::ALL {
            if serving.keys().any(|frontend| frontend.family() == family) {
                for flow in self.stale_flows(family, serving)? {
                    forgotten += usize::from(self.delete_flow(&flow)?);
                }
            }
        }
        Ok(forgotten)
    }

    fn stale_flows(
        &mut self,
        family: Family,
        serving: &Serving,
    ) -> Result<Vec<UdpFlow>, KernelError> {
        let seq = self.next_seq();
        let (mut stale, mut own) = (Vec::new(), OwnAddresses::default());
        let dump = self.request(&wire::flows_request(seq, family), seq, |message| {
            let flow = wire::parse_udp_flow(message, family);
            stale.extend(flow.filter(|flow| is_stale(flow, family, serving, &mut own)));
            Ok(())
        });
        match dump {
            // Flows come and go under every dump: one that it missed is a new one.
            Ok(()) | Err(KernelError::Unsteady) => Ok(stale),
            Err(error) => Err(error),
        }
    }

    /// False when it ended by itself meanwhile.
    fn delete_flow(&mut self, flow: &UdpFlow) -> Result<bool, KernelError> {
        let seq = self.next_seq();
        match self.request(&wire::delete_flow_request(seq, flow), seq, |_| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(KernelError::Refused { detail, errno, .. }) => Err(KernelError::Refused {
                operation: format!("delete the UDP flow to {}", flow.sent_to),
                detail,
                errno,
            }),
            Err(error) => Err(error),
        }
    }
}

/// The client's address wins over a NodePort of the same number, as in the rules. A NodePort is one of this node's addresses
/// only: to another host's port of that number clients may send what they like.
fn is_stale(flow: &UdpFlow, family: Family, serving: &Serving, own: &mut OwnAddresses) -> bool {
    let protocol = Protocol::Udp;
    let (Some(port), Some(answered_by)) = (
        NonZeroU16::new(flow.sent_to.port()),
        endpoint(flow.answered_by),
    ) else {
        return false;
    };
    let addr = flow.sent_to.ip();
    let by_address = Frontend::Address {
        addr,
        protocol,
        port,
    };
    let by_port = Frontend::NodePort {
        family,
        protocol,
        port,
    };
    let of_node_port = || {
        let serving = serving.get(&by_port)?;
        own.contain(addr).then_some(serving)
    };
    match serving.get(&by_address).or_else(of_node_port) {
        None => false,
        Some(None) => flow.answered_by != flow.sent_to,
        Some(Some(endpoints)) => !endpoints.contains(&answered_by),
    }
}

/// Which addresses are this node's, each looked up once.
#[derive(Default)]
struct OwnAddresses(BTreeMap<IpAddr, bool>);

impl OwnAddresses {
    /// Asks the kernel by binding a socket, which sends nothing. On loopback no NodePort is served.
    fn contain(&mut self, addr: IpAddr) -> bool {
        let can_bind = || !addr.is_loopback() && UdpSocket::bind((addr, 0)).is_ok();
        *self.0.entry(addr).or_insert_with(can_bind)
    }
}

fn endpoint(addr: SocketAddr) -> Option<Endpoint> {
    Some(Endpoint {
        addr: addr.ip(),
        port: NonZeroU16::new(addr.port())?,
    })
}
