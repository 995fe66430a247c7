//! The addresses that Services of type LoadBalancer get, as `--load-balancer-pool` names them.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// One value of `--load-balancer-pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolEntry {
    /// Every address from the first to the last, both of one family.
    Range(IpAddr, IpAddr),
    /// The addresses of the nodes themselves.
    Nodes,
}

/// Why a value of `--load-balancer-pool` is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PoolEntryError {
    /// It reads like nothing known.
    #[error("give a range like 192.0.2.0/28 or 192.0.2.10-192.0.2.20, or the word nodes")]
    Form,
    /// The last address is before the first, or of the other family.
    #[error("the last address must not be before the first, and of the same IP family")]
    Order,
    /// Nobody can be reached there.
    #[error("{0} is no address that a host can have")]
    NotUnicast(IpAddr),
}

impl FromStr for PoolEntry {
    type Err = PoolEntryError;

    fn from_str(text: &str) -> Result<Self, PoolEntryError> {
        if text == "nodes" {
            return Ok(Self::Nodes);
        }
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => {
                let parse = |text: &str| text.trim().parse().map_err(|_| PoolEntryError::Form);
                (parse(first)?, parse(last)?)
            }
            None => hosts_of(text.parse().map_err(|_| PoolEntryError::Form)?),
        };
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(PoolEntryError::Order);
        }
        for address in [first, last] {
            if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
                return Err(PoolEntryError::NotUnicast(address));
            }
        }
        Ok(Self::Range(first, last))
    }
}

/// The first and the last address of a network that a host can have: of IPv4 neither its own nor the broadcast address, of
/// IPv6 not the anycast address of its routers (RFC 4291, section 2.6.1).
fn hosts_of(net: IpNet) -> (IpAddr, IpAddr) {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let edge = u32::from(net.prefix_len() < 31);
            (
                IpAddr::V4((first + edge).into()),
                IpAddr::V4((last - edge).into()),
            )
        }
        IpNet::V6(net) => {
            let edge = u128::from(net.prefix_len() < 127);
            (
                IpAddr::V6((net.network().to_bits() + edge).into()),
                IpAddr::V6(net.broadcast()),
            )
        }
    }
}

impl fmt::Display for PoolEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Nodes => f.write_str("nodes"),
        }
    }
}

impl PoolEntry {
    /// Whether it has an address in common with a network.
    #[must_use]
    pub fn overlaps(&self, net: &IpNet) -> bool {
        match self {
            Self::Range(first, last) => {
                first.is_ipv4() == net.addr().is_ipv4()
                    && *first <= net.broadcast()
                    && *last >= net.network()
            }
            Self::Nodes => false,
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Range(first, last) => {
                first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
            }
            Self::Nodes => false,
        }
    }
}

/// The whole pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool(pub Vec<PoolEntry>);

impl Pool {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether Services answer on the nodes' own addresses.
    pub(super) fn is_nodes(&self) -> bool {
        self.0.contains(&PoolEntry::Nodes)
    }

    /// Whether an address is in one of the ranges.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|entry| entry.contains(address))
    }

    /// Whether it has addresses of a family.
    pub(super) fn has_family(&self, ipv4: bool) -> bool {
        let mut ranges = self.0.iter();
        ranges.any(|entry| matches!(entry, PoolEntry::Range(first, _) if first.is_ipv4() == ipv4))
    }

    /// The lowest address of a family that nobody has. Takes as many steps as addresses before it are taken.
    pub(super) fn free<T>(&self, ipv4: bool, taken: &BTreeMap<IpAddr, T>) -> Option<IpAddr> {
        self.0.iter().find_map(|entry| {
            let PoolEntry::Range(first, last) = *entry else {
                return None;
            };
            let mut candidate = Some(first).filter(|first| first.is_ipv4() == ipv4);
            while let Some(address) = candidate.filter(|address| *address <= last) {
                if !taken.contains_key(&address) {
                    return Some(address);
                }
                candidate = next(address);
            }
            None
        })
    }
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => Some(IpAddr::V4(address.to_bits().checked_add(1)?.into())),
        IpAddr::V6(address) => Some(IpAddr::V6(address.to_bits().checked_add(1)?.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_read_from_both_its_forms_and_anything_else_is_refused() {
        let range = |first, last| Ok(PoolEntry::Range(ip(first), ip(last)));
        for (text, wanted) in [
            ("192.0.2.0/29", range("192.0.2.1", "192.0.2.6")),
            ("192.0.2.7/32", range("192.0.2.7", "192.0.2.7")),
            ("192.0.2.8/31", range("192.0.2.8", "192.0.2.9")),
            ("192.0.2.10-192.0.2.12", range("192.0.2.10", "192.0.2.12")),
            ("2001:db8::/126", range("2001:db8::1", "2001:db8::3")),
            ("nodes", Ok(PoolEntry::Nodes)),
            ("", Err(PoolEntryError::Form)),
            ("192.0.2.1", Err(PoolEntryError::Form)),
            ("node", Err(PoolEntryError::Form)),
            ("192.0.2.9-192.0.2.8", Err(PoolEntryError::Order)),
            ("192.0.2.9-2001:db8::1", Err(PoolEntryError::Order)),
            (
                "224.0.0.1-224.0.0.9",
                Err(PoolEntryError::NotUnicast(ip("224.0.0.1"))),
            ),
        ] {
            assert_eq!(text.parse(), wanted, "{text}");
        }
    }

    #[test]
    fn the_lowest_free_address_is_given_until_none_is_left() {
        let pool = Pool(vec![
            "192.0.2.0/30".parse().unwrap(),
            "192.0.2.9-192.0.2.9".parse().unwrap(),
        ]);
        let mut taken = BTreeMap::new();
        for wanted in ["192.0.2.1", "192.0.2.2", "192.0.2.9"] {
            assert_eq!(pool.free(true, &taken), Some(ip(wanted)));
            taken.insert(ip(wanted), ());
        }
        assert_eq!(pool.free(true, &taken), None);
        assert_eq!(pool.free(false, &taken), None);
        assert!(pool.contains(ip("192.0.2.2")) && !pool.contains(ip("192.0.2.3")));
    }
}
