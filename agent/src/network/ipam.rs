//! Which address of the node's range belongs to which Pod.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// The addresses of one range: the first is the gateway's, the last the broadcast address.
#[derive(Clone, Debug)]
pub(crate) struct Ipam {
    range: Ipv4Net,
    used: BTreeSet<Ipv4Addr>,
    /// Where the next search begins: a freed address rests as long as possible.
    next: Ipv4Addr,
}

impl Ipam {
    pub(crate) fn new(range: Ipv4Net) -> Self {
        Self {
            range,
            used: BTreeSet::new(),
            next: range.network(),
        }
    }

    /// The bridge's own address, the Pods' way out.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.range.network()).saturating_add(1))
    }

    /// An address that a running Pod has already.
    pub(crate) fn adopt(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
    }

    /// A free address, or `None` when all are used.
    pub(crate) fn allocate(&mut self) -> Option<Ipv4Addr> {
        let first = u32::from(self.gateway()) + 1;
        let end = u32::from(self.range.broadcast());
        let next = u32::from(self.next).clamp(first, end.max(first));
        let found = (next..end)
            .chain(first..next.min(end))
            .map(Ipv4Addr::from)
            .find(|address| !self.used.contains(address))?;
        self.used.insert(found);
        self.next = Ipv4Addr::from(u32::from(found) + 1);
        Some(found)
    }

    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Ipam {
        Ipam::new("10.244.1.0/29".parse().expect("range"))
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given_out() {
        let mut ipam = small();
        let all: Vec<String> = std::iter::from_fn(|| ipam.allocate())
            .map(|address| address.to_string())
            .collect();
        assert_eq!(
            all,
            [
                "10.244.1.2",
                "10.244.1.3",
                "10.244.1.4",
                "10.244.1.5",
                "10.244.1.6"
            ]
        );
        assert_eq!(ipam.gateway().to_string(), "10.244.1.1");
    }

    #[test]
    fn adopted_addresses_are_left_out_and_freed_ones_come_last() {
        let mut ipam = small();
        ipam.adopt("10.244.1.2".parse().expect("address"));
        let first = ipam.allocate().expect("free");
        assert_eq!(first.to_string(), "10.244.1.3");
        ipam.release(first);
        assert_eq!(ipam.allocate().expect("free").to_string(), "10.244.1.4");
    }
}
