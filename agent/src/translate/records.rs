//! The DNS records of a Service.
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>

use std::{collections::BTreeMap, net::IpAddr};

use dns::records::{Host, Port, Service as Records};

use crate::objects::{EndpointSlice, Service, ServiceType};

/// What a Service answers by name; `None` when it has no name yet, because its addresses are not allocated.
pub(crate) fn records(service: &Service, slices: &[&EndpointSlice]) -> Option<Records> {
    if service.spec.kind == ServiceType::ExternalName {
        let target = service.spec.external_name.as_deref()?;
        let target = target.strip_suffix('.').unwrap_or(target);
        return Some(Records::Alias {
            target: target.into(),
        });
    }
    if service.is_headless() {
        return Some(Records::Headless {
            hosts: hosts(slices),
        });
    }
    let addrs = service.cluster_ips();
    if addrs.is_empty() {
        return None;
    }
    let ports = service.spec.ports.iter().map(|port| Port {
        name: port.name.clone(),
        protocol: port.protocol.lower(),
        number: port.port,
    });
    Some(Records::Virtual {
        addrs,
        ports: ports.collect(),
    })
}

/// The ready endpoints; one that several slices name (with different ports) is one host with all of its ports.
fn hosts(slices: &[&EndpointSlice]) -> Vec<Host> {
    let mut hosts: BTreeMap<(IpAddr, Option<Box<str>>), Vec<Port>> = BTreeMap::new();
    for slice in slices {
        for endpoint in slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.is_ready())
        {
            let Some(addr) = endpoint.addr else {
                continue;
            };
            let hostname = endpoint
                .hostname
                .clone()
                .filter(|hostname| !hostname.is_empty());
            let ports = hosts.entry((addr, hostname)).or_default();
            for port in ports_of(slice) {
                if !ports.contains(&port) {
                    ports.push(port);
                }
            }
        }
    }
    let host = |((addr, hostname), ports)| Host {
        hostname,
        addr,
        ports,
    };
    hosts.into_iter().map(host).collect()
}

fn ports_of(slice: &EndpointSlice) -> impl Iterator<Item = Port> {
    slice.ports.iter().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.unwrap_or_default().lower(),
            number: port.port?,
        })
    })
}
