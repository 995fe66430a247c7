//! UDP flows that an endpoint left behind.
//!
//! A TCP client notices when its endpoint goes; a UDP client that keeps sending from one port keeps its flow alive, and the
//! flow keeps the endpoint it once got. So flows of Services whose endpoints changed are looked through, and exactly those
//! that lead to an endpoint which is not there any more are deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU16,
};

use super::{KernelError, Netlink};
use crate::{
    model::{Endpoint, Family, Frontend, Protocol},
    wire::{self, UdpFlow},
};

/// The endpoints that may keep their flows, by UDP frontend. A frontend without any is left alone: nobody else could answer.
pub type Serving = BTreeMap<Frontend, BTreeSet<Endpoint>>;

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
        let mut stale = Vec::new();
        let dump = self.request(&wire::flows_request(seq, family), seq, |message| {
            let flow = wire::parse_udp_flow(message, family);
            stale.extend(flow.filter(|flow| is_stale(flow, family, serving)));
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

/// A client's address wins over a NodePort of the same number, as in the rules.
fn is_stale(flow: &UdpFlow, family: Family, serving: &Serving) -> bool {
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
    let endpoints = serving.get(&by_address).or_else(|| serving.get(&by_port));
    endpoints.is_some_and(|serving| !serving.is_empty() && !serving.contains(&answered_by))
}

fn endpoint(addr: SocketAddr) -> Option<Endpoint> {
    Some(Endpoint {
        addr: addr.ip(),
        port: NonZeroU16::new(addr.port())?,
    })
}
