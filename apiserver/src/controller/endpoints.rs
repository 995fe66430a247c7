//! Endpoints of Services with a selector: the older form, of the primary family only.
//! Source: kubernetes/kubernetes pkg/controller/endpoint/endpoints_controller.go.

use api::{
    core::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    meta::ObjectMeta,
};

use super::{
    endpoint_slice::{HEADLESS, has_selector, is_headless},
    mirroring::LEADER,
    pods::{self, Family},
    slices::set_trigger_time,
    subsets::{repack, truncate},
    world::{Key, Trigger, World, key_of},
    write::Action,
};
use crate::registry::kinds::ENDPOINTS;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The writes that one Service needs. When it is deleted, the API deletes its Endpoints with it.
pub(super) fn plan(world: &World, key: &Key, trigger: Trigger) -> Vec<Action> {
    let service = world.services.get(key);
    let Some(service) = service.filter(|service| has_selector(service)) else {
        return Vec::new();
    };
    let current = world.endpoints.get(key);
    let mut endpoints = fill(
        current.map_or_else(|| named_like(service), |current| Endpoints::clone(current)),
        service,
        subsets(world, service),
    );
    if current.is_some_and(|current| **current == endpoints) {
        return Vec::new();
    }
    set_trigger_time(&mut endpoints.metadata, trigger.time());
    match current {
        Some(_) => vec![Action::update(&ENDPOINTS, &endpoints)],
        // They would stay behind if the Service went before they come.
        None if service.metadata.deletion_timestamp.is_some() => Vec::new(),
        None => vec![Action::create(&ENDPOINTS, &endpoints)],
    }
}

/// Deletes Endpoints whose Service went while no controller ran, but for those that serve leader elections.
pub(super) fn sweep(world: &World) -> Vec<Action> {
    let orphans = world.endpoints.all().filter(|endpoints| {
        world.services.get(&key_of(&***endpoints)).is_none()
            && !endpoints.metadata.annotations.contains_key(LEADER)
    });
    orphans
        .map(|endpoints| Action::delete(&ENDPOINTS, &**endpoints))
        .collect()
}

fn named_like(service: &Service) -> Endpoints {
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    }
}

/// Annotations of others stay; the labels are the Service's and our own.
fn fill(
    mut endpoints: Endpoints,
    service: &Service,
    mut subsets: Vec<EndpointSubset>,
) -> Endpoints {
    let cut = truncate(&mut subsets);
    endpoints.subsets = subsets;
    let labels = &mut endpoints.metadata.labels;
    labels.clone_from(&service.metadata.labels);
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), Box::default());
    }
    let annotations = &mut endpoints.metadata.annotations;
    annotations.remove(OVER_CAPACITY);
    if cut {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    endpoints
}

fn subsets(world: &World, service: &Service) -> Vec<EndpointSubset> {
    let family = pods::families(service)[0];
    let pods = world.selected_pods(&service.metadata.namespace, &service.spec.selector);
    repack(
        pods.into_iter()
            .filter_map(|pod| subset(service, pod, family)),
    )
}

/// One Pod's own subset. One that terminates has none, unless the Service wants every address it can get.
fn subset(service: &Service, pod: &Pod, family: Family) -> Option<EndpointSubset> {
    let everything = service.spec.publish_not_ready_addresses;
    if !pods::counts(pod) || (pod.metadata.deletion_timestamp.is_some() && !everything) {
        return None;
    }
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
        return None;
    }
    let address = EndpointAddress {
        ip: pods::address(pod, family)?.to_string().into(),
        hostname: pods::hostname(service, pod).unwrap_or_default(),
        node_name: pods::node_name(pod),
        target_ref: Some(pods::reference(pod)),
    };
    let mut subset = EndpointSubset {
        ports,
        ..EndpointSubset::default()
    };
    if pods::is_ready(service, pod) {
        subset.addresses.push(address);
    } else {
        subset.not_ready_addresses.push(address);
    }
    Some(subset)
}
