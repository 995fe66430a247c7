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

use super::Dataplane;
use crate::{
    kernel::{Kernel, KernelError},
    model::{Endpoint, Family, Frontend, Protocol},
    wire::UdpFlow,
};

/// The endpoints that may keep their flows, by UDP frontend: with none, nobody may. `None` is a frontend that is gone: what
/// was translated for its sake ends, and what others make of the address now is not our business.
pub type Serving = BTreeMap<Frontend, Option<BTreeSet<Endpoint>>>;

/// A dump that was interrupted may lack flows: it is made again, this often at most.
const DUMPS: usize = 5;

impl<K: Kernel> Dataplane<K> {
    /// The frontends of the rules as they were last read or written, whatever their fate. Before the first
    /// [`Dataplane::replace`] they are those that a former process left.
    pub fn frontends(&self) -> impl Iterator<Item = Frontend> {
        let tables = self.ruleset.tables.iter();
        tables.flat_map(|(family, table)| table.frontends(*family))
    }

    /// Deletes the UDP flows to these frontends that none of their endpoints answers; returns how many. Every other flow is
    /// left alone, whatever its protocol.
    ///
    /// # Errors
    /// When the kernel does not let us look or delete.
    pub fn forget_udp_flows(&mut self, serving: &Serving) -> Result<usize, KernelError> {
        let (mut forgotten, mut own) = (0, OwnAddresses::default());
        for family in Family::ALL {
            if !serving.keys().any(|frontend| frontend.family() == family) {
                continue;
            }
            for _ in 0..DUMPS {
                let mut stale = Vec::new();
                let dump = self.kernel.udp_flows(family, &mut |flow| {
                    if is_stale(&flow, family, serving, &mut own) {
                        stale.push(flow);
                    }
                });
                // What was read is right, and the next dump has the less to tell.
                for flow in &stale {
                    forgotten += usize::from(self.kernel.delete_flow(flow)?);
                }
                match dump {
                    Ok(()) => break,
                    Err(KernelError::Unsteady | KernelError::AnswersLost) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(forgotten)
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

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;
    use crate::kernel::{Fake, Fault};

    const SERVICE: &str = "10.96.0.1:53";

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// So many flows of one Service that led to an endpoint which left, and one between any two of a bystander.
    fn kernel(stale: u32, faults: impl IntoIterator<Item = Fault>) -> Dataplane<Fake> {
        let flow = |id: u32| match id % 2 {
            0 => UdpFlow::of(at(SERVICE), at("10.244.0.2:53"), id),
            _ => UdpFlow::of(at("10.96.0.2:53"), at("10.244.0.2:53"), id),
        };
        let kernel = Fake {
            flows: (0..2 * stale).map(flow).collect(),
            ..Fake::default()
        };
        let mut dataplane = Dataplane::open(kernel).expect("an open dataplane");
        dataplane.kernel_mut().faults = faults.into_iter().collect();
        dataplane
    }

    fn left() -> Serving {
        let frontend = Frontend::Address {
            addr: at(SERVICE).ip(),
            protocol: Protocol::Udp,
            port: NonZeroU16::new(53).expect("a port"),
        };
        [(frontend, Some(BTreeSet::new()))].into()
    }

    fn left_of(dataplane: &mut Dataplane<Fake>) -> Vec<SocketAddr> {
        let flows = dataplane.kernel_mut().flows.iter();
        flows.map(|flow| flow.sent_to).collect()
    }

    #[test]
    fn an_interrupted_dump_is_used_and_made_again() {
        for interrupted in 0..DUMPS {
            let mut dataplane = kernel(40, repeat_n(Fault::Unsteady, interrupted));
            assert_eq!(dataplane.forget_udp_flows(&left()).expect("done"), 40);
            let left = left_of(&mut dataplane);
            assert_eq!(left, [at("10.96.0.2:53"); 40], "{interrupted} times");
        }
    }

    /// Where every dump is interrupted, as where connections come in thousands: what was seen is gone, and it ends.
    #[test]
    fn dumps_that_are_always_interrupted_are_not_made_for_ever() {
        let mut dataplane = kernel(64, repeat_n(Fault::Unsteady, DUMPS + 1));
        // Each ends half-way.
        let forgotten = dataplane.forget_udp_flows(&left()).expect("done");
        assert!((32..64).contains(&forgotten), "{forgotten}");
        let kernel = dataplane.kernel_mut();
        assert_eq!(kernel.faults.len(), 1, "so often and no more");
        let bystanders = kernel
            .flows
            .iter()
            .filter(|flow| flow.sent_to != at(SERVICE));
        assert_eq!(bystanders.count(), 64);
    }

    #[test]
    fn lost_answers_to_a_dump_are_as_an_interrupted_one() {
        let mut dataplane = kernel(10, [Fault::AnswersLost]);
        assert_eq!(dataplane.forget_udp_flows(&left()).expect("done"), 10);
    }
}
