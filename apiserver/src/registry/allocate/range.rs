//! Which addresses and ports of a range are given out, and in which order (services.md 1.6).

use std::net::IpAddr;

use ipnet::IpNet;
use rand::Rng as _;

/// `min(max(16, size / divisor), most)`, and nothing for a range so small that it would be all of it.
pub(super) fn static_band(size: u64, divisor: u64, most: u64) -> u64 {
    if size <= 16 {
        return 0;
    }
    (size / divisor).max(16).min(most)
}

/// Every offset once: from a random one above the band, around, then the band itself.
pub(super) fn scan(size: u64, band: u64) -> impl Iterator<Item = u64> + Send {
    let upper = size - band;
    let start = if upper > 0 {
        rand::rng().random_range(0..upper)
    } else {
        0
    };
    let dynamic = (0..upper).map(move |step| band + (start + step) % upper);
    dynamic.chain(0..band)
}

/// How many addresses the range has; as many as can be counted in 62 bits.
pub(super) fn size(cidr: &IpNet) -> u64 {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    1u64 << u32::from(bits).min(62)
}

/// How many addresses can be given out: not the network address, and not the IPv4 broadcast address.
pub(super) fn host_count(cidr: &IpNet) -> u64 {
    let all = size(cidr);
    if cidr.addr().is_ipv4() {
        all.saturating_sub(2)
    } else {
        all - 1
    }
}

/// The address `offset` places after the first one that can be given out.
pub(super) fn nth(cidr: &IpNet, offset: u64) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(network) => {
            let number = u64::from(u32::from(network)) + 1 + offset;
            IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into())
        }
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1 + u128::from(offset)).into()),
    }
}

pub(super) fn is_usable(cidr: &IpNet, ip: IpAddr) -> bool {
    let edge = ip == cidr.network() || (ip.is_ipv4() && ip == cidr.broadcast());
    cidr.contains(&ip) && !edge
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    #[test]
    fn s1_6_the_static_band_is_the_first_sixteenth_within_bounds() {
        for (cidr, wanted) in [
            ("10.0.0.0/28", 0),
            ("10.0.0.0/27", 16),
            ("10.0.0.0/24", 16),
            ("10.0.0.0/23", 32),
            ("10.0.0.0/22", 64),
            ("10.0.0.0/21", 128),
            ("10.0.0.0/20", 256),
            ("10.96.0.0/16", 256),
            ("10.0.0.0/8", 256),
            ("fd00::/124", 0),
            ("fd00::/120", 16),
            ("fd00::/112", 256),
            ("fd00::/64", 256),
        ] {
            assert_eq!(static_band(size(&net(cidr)), 16, 256), wanted, "{cidr}");
        }
        // Node ports: 2768 of them, the static ones being 30000-30085.
        assert_eq!(static_band(2768, 32, 128), 86);
    }

    #[test]
    fn s1_6_network_and_broadcast_addresses_are_never_given_out() {
        for (cidr, first, last) in [
            ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
            ("10.0.0.0/29", "10.0.0.1", "10.0.0.6"),
            ("fd00::/120", "fd00::1", "fd00::ff"),
        ] {
            let cidr = net(cidr);
            let ip = |offset| nth(&cidr, offset).to_string();
            assert_eq!(ip(0), first);
            assert_eq!(ip(host_count(&cidr) - 1), last);
            assert!(!is_usable(&cidr, cidr.network()));
            assert_eq!(is_usable(&cidr, cidr.broadcast()), cidr.addr().is_ipv6());
        }
    }

    #[test]
    fn s1_6_the_scan_gives_each_once_and_the_static_band_last() {
        for (count, band) in [(254, 16), (6, 0), (30, 16)] {
            let all: Vec<u64> = scan(count, band).collect();
            let distinct: BTreeSet<u64> = all.iter().copied().collect();
            assert_eq!(distinct, (0..count).collect());
            let (dynamic, last) = all.split_at(all.len() - usize::try_from(band).expect("small"));
            assert!(dynamic.iter().all(|&offset| offset >= band));
            assert!(last.iter().copied().eq(0..band));
        }
    }
}
