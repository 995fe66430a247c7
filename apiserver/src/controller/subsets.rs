//! Subsets of Endpoints in the one form that stands for them.
//! Source: kubernetes/kubernetes pkg/api/v1/endpoints/util.go (RepackSubsets), pkg/controller/endpoint (truncateEndpoints).

use std::collections::BTreeMap;

use api::core::{EndpointAddress, EndpointPort, EndpointSubset};

/// The most addresses of one Endpoints object, ready or not.
pub(super) const MAX_ADDRESSES: usize = 1000;

/// Two addresses with these in common are one.
type AddressKey = (Box<str>, Box<str>);
/// A port in an order; none stands for a subset without ports.
type PortKey = Option<(Box<str>, i32, Box<str>, Option<Box<str>>)>;

/// Puts the ports that have the same addresses, in the same readiness, into one subset; sorts everything. Of an address that
/// is both ready and not ready for a port, not ready counts.
pub(super) fn repack(subsets: impl IntoIterator<Item = EndpointSubset>) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<PortKey, BTreeMap<AddressKey, bool>> = BTreeMap::new();
    for subset in subsets {
        let mut ports: Vec<PortKey> = subset
            .ports
            .into_iter()
            .map(|port| Some(key(port)))
            .collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let ready = subset.addresses.into_iter().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.into_iter();
        for (address, ready) in ready.chain(not_ready.map(|address| (address, false))) {
            let uid = address.target_ref.as_ref().map(|target| target.uid.clone());
            let place: AddressKey = (address.ip.clone(), uid.unwrap_or_default());
            for port in &ports {
                let known = by_port.entry(port.clone()).or_default();
                let counts = known.entry(place.clone()).or_insert(ready);
                *counts &= ready;
            }
            addresses.entry(place).or_insert(address);
        }
    }
    let mut by_addresses: BTreeMap<Vec<(AddressKey, bool)>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, members) in by_port {
        let ports = by_addresses
            .entry(members.into_iter().collect())
            .or_default();
        ports.extend(
            port.map(|(name, port, protocol, app_protocol)| EndpointPort {
                port,
                name,
                protocol,
                app_protocol,
            }),
        );
    }
    let packed = by_addresses.into_iter().map(|(members, ports)| {
        let mut subset = EndpointSubset {
            ports,
            ..EndpointSubset::default()
        };
        for (place, ready) in members {
            let list = if ready {
                &mut subset.addresses
            } else {
                &mut subset.not_ready_addresses
            };
            list.push(addresses[&place].clone());
        }
        subset
    });
    packed.collect()
}

fn key(port: EndpointPort) -> (Box<str>, i32, Box<str>, Option<Box<str>>) {
    (port.name, port.port, port.protocol, port.app_protocol)
}

/// Keeps at most [`MAX_ADDRESSES`]: ready ones first, from each subset in proportion to its size. Whether any were left out.
pub(super) fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let ready: usize = subsets.iter().map(|subset| subset.addresses.len()).sum();
    let not_ready: usize = subsets
        .iter()
        .map(|subset| subset.not_ready_addresses.len())
        .sum();
    if ready + not_ready <= MAX_ADDRESSES {
        return false;
    }
    if ready > MAX_ADDRESSES {
        for subset in subsets.iter_mut() {
            subset.not_ready_addresses.clear();
        }
        share(MAX_ADDRESSES, ready, subsets, |subset| {
            &mut subset.addresses
        });
    } else {
        share(MAX_ADDRESSES - ready, not_ready, subsets, |subset| {
            &mut subset.not_ready_addresses
        });
    }
    // A subset that got no share would be refused.
    subsets.retain(|subset| !subset.addresses.is_empty() || !subset.not_ready_addresses.is_empty());
    true
}

fn share(
    room: usize,
    total: usize,
    subsets: &mut [EndpointSubset],
    list: fn(&mut EndpointSubset) -> &mut Vec<EndpointAddress>,
) {
    let mut left = room;
    for subset in subsets {
        let list = list(subset);
        list.truncate((list.len() * room).div_ceil(total).min(left));
        left -= list.len();
    }
}
