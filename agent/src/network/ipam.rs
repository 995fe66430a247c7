//! Which address of the node's range belongs to which Pod.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// The addresses of one range. The first is the gateway's; of IPv4 the last is the broadcast address.
#[derive(Clone, Debug)]
pub(crate) struct Ipam {
    range: IpNet,
    /// Those in use, as numbers.
    used: BTreeSet<u128>,
    /// Where the next search begins: a freed address rests as long as possible.
    next: u128,
}

impl Ipam {
    /// `None` for a range without room for Pods.
    pub(crate) fn new(range: IpNet) -> Option<Self> {
        (range.max_prefix_len() - range.prefix_len() >= 2).then(|| Self {
            range: range.trunc(),
            used: BTreeSet::new(),
            next: 0,
        })
    }

    pub(crate) fn range(&self) -> IpNet {
        self.range
    }

    /// The bridge's own address, the Pods' way out.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.address(number(self.range.network()) + 1)
    }

    /// An address that a running Pod has already.
    pub(crate) fn adopt(&mut self, address: IpAddr) {
        self.used.insert(number(address));
    }

    /// A free address, or `None` when all are used.
    pub(crate) fn allocate(&mut self) -> Option<IpAddr> {
        let first = number(self.gateway()) + 1;
        let last = number(self.range.broadcast()) - u128::from(self.range.addr().is_ipv4());
        let next = self.next.max(first);
        let found = (next..=last)
            .chain(first..=last)
            .find(|number| !self.used.contains(number))?;
        self.used.insert(found);
        self.next = found.saturating_add(1);
        Some(self.address(found))
    }

    pub(crate) fn release(&mut self, address: IpAddr) {
        self.used.remove(&number(address));
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.range {
            IpNet::V4(_) => u32::try_from(number)
                .map(Ipv4Addr::from_bits)
                .expect("a number of the range")
                .into(),
            IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(range: &str) -> Ipam {
        Ipam::new(range.parse().expect("range")).expect("room")
    }

    fn all(mut ipam: Ipam) -> Vec<String> {
        std::iter::from_fn(|| ipam.allocate())
            .map(|address| address.to_string())
            .collect()
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given_out() {
        let small = ipam("10.244.1.0/29");
        assert_eq!(small.gateway().to_string(), "10.244.1.1");
        let pods = [2, 3, 4, 5, 6].map(|last| format!("10.244.1.{last}"));
        assert_eq!(all(small), pods);
    }

    #[test]
    fn ipv6_has_no_broadcast_address() {
        let small = ipam("fd00::8/125");
        assert_eq!(small.gateway().to_string(), "fd00::9");
        let pods = ["a", "b", "c", "d", "e", "f"].map(|last| format!("fd00::{last}"));
        assert_eq!(all(small), pods);
        let top = ipam("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126");
        assert_eq!(all(top).len(), 2, "the very last address is no overflow");
    }

    #[test]
    fn a_range_without_room_is_refused() {
        for range in ["10.244.1.0/31", "10.244.1.0/32", "fd00::/127"] {
            assert!(
                Ipam::new(range.parse().expect("range")).is_none(),
                "{range}"
            );
        }
    }

    #[test]
    fn adopted_addresses_are_left_out_and_freed_ones_come_last() {
        let mut ipam = ipam("10.244.1.0/29");
        ipam.adopt("10.244.1.2".parse().expect("address"));
        let first = ipam.allocate().expect("free");
        assert_eq!(first.to_string(), "10.244.1.3");
        ipam.release(first);
        assert_eq!(ipam.allocate().expect("free").to_string(), "10.244.1.4");
    }
}
