//! Endpoints of Services with a selector: the older form, of the primary family only.
//! Source: kubernetes/kubernetes pkg/controller/endpoint/endpoints_controller.go.

use std::collections::BTreeMap;

use api::{
    core::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
    meta::ObjectMeta,
};

use super::{
    endpoint_slice::{HEADLESS, has_selector},
    pods,
    world::{Key, World},
    write::Action,
};
use crate::registry::kinds::ENDPOINTS;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

/// The writes that one Service needs. When it is deleted, the API deletes its Endpoints with it.
pub(super) fn plan(world: &World, key: &Key) -> Vec<Action> {
    let Some(service) = world
        .services
        .get(key)
        .filter(|service| has_selector(service))
    else {
        return Vec::new();
    };
    if service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let (mut subsets, cut) = truncate(subsets(world, service));
    canonical(&mut subsets);
    match world.endpoints.get(key) {
        None => vec![Action::create(
            &ENDPOINTS,
            &fill(Endpoints::default(), service, subsets, cut),
        )],
        Some(current) => {
            let changed = fill(Endpoints::clone(current), service, subsets, cut);
            if changed == **current {
                Vec::new()
            } else {
                vec![Action::update(&ENDPOINTS, &changed)]
            }
        }
    }
}

fn fill(
    mut endpoints: Endpoints,
    service: &Service,
    subsets: Vec<EndpointSubset>,
    cut: bool,
) -> Endpoints {
    if endpoints.metadata.name.is_empty() {
        endpoints.metadata = ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        };
    }
    endpoints.subsets = subsets;
    endpoints.metadata.labels = service.metadata.labels.clone();
    endpoints
        .metadata
        .labels
        .insert(MANAGED_BY.into(), CONTROLLER.into());
    endpoints.metadata.labels.remove(HEADLESS);
    if matches!(&*service.spec.cluster_ip, "" | "None") {
        endpoints
            .metadata
            .labels
            .insert(HEADLESS.into(), Box::default());
    }
    endpoints.metadata.annotations.remove(OVER_CAPACITY);
    if cut {
        endpoints
            .metadata
            .annotations
            .insert(OVER_CAPACITY.into(), "truncated".into());
    }
    endpoints
}

/// Addresses that have the same ports share a subset.
fn subsets(world: &World, service: &Service) -> Vec<EndpointSubset> {
    let family = pods::families(service)[0];
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for pod in world.selected_pods(&service.metadata.namespace, &service.spec.selector) {
        let terminating = pod.metadata.deletion_timestamp.is_some();
        if !pods::counts(pod) || (terminating && !service.spec.publish_not_ready_addresses) {
            continue;
        }
        let Some(addr) = pods::address(pod, family) else {
            continue;
        };
        let ports: Vec<EndpointPort> = pods::ports(service, pod)
            .into_iter()
            .map(|port| EndpointPort {
                name: port.name.unwrap_or_default(),
                port: port.port.unwrap_or_default(),
                protocol: port.protocol.unwrap_or_default(),
                app_protocol: port.app_protocol,
            })
            .collect();
        // Nothing of what was asked for is there; a headless Service may well ask for no port.
        if ports.is_empty() && !service.spec.ports.is_empty() {
            continue;
        }
        let address = EndpointAddress {
            ip: addr.to_string().into(),
            hostname: pods::hostname(service, pod).unwrap_or_default(),
            node_name: Some(pod.spec.node_name.clone()),
            target_ref: Some(pods::reference(pod)),
        };
        let subset = groups
            .entry(format!("{ports:?}"))
            .or_insert_with(|| EndpointSubset {
                ports,
                ..EndpointSubset::default()
            });
        if pods::is_ready(service, pod) {
            subset.addresses.push(address);
        } else {
            subset.not_ready_addresses.push(address);
        }
    }
    groups.into_values().collect()
}

/// Keeps at most a thousand addresses, ready ones first; whether any were left out.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let mut room = MAX_ADDRESSES;
    let mut cut = false;
    let mut keep = |addresses: &mut Vec<EndpointAddress>| {
        cut |= addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
    };
    subsets
        .iter_mut()
        .for_each(|subset| keep(&mut subset.addresses));
    subsets
        .iter_mut()
        .for_each(|subset| keep(&mut subset.not_ready_addresses));
    (subsets, cut)
}

fn canonical(subsets: &mut Vec<EndpointSubset>) {
    for subset in subsets.iter_mut() {
        subset.addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        subset.not_ready_addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        subset
            .ports
            .sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    }
    subsets.retain(|subset| !subset.addresses.is_empty() || !subset.not_ready_addresses.is_empty());
}
