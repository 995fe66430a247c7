//! EndpointSlices of Services with a selector. Source: KEP-752; kubernetes/kubernetes staging/src/k8s.io/endpointslice.

use std::collections::BTreeMap;

use api::{
    core::{Pod, Service},
    discovery::{Endpoint, EndpointPort},
    meta::{OwnerReference, StringMap},
};

use super::{
    pods::{self, Family},
    slices::{self, Annotations, Group, Wanted},
    world::{Key, SERVICE_NAME, Trigger, World},
    write::Action,
};

pub(super) const CONTROLLER: &str = "endpointslice-controller.k8s.io";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
const MAX_ENDPOINTS: usize = 100;

/// The writes that one Service needs. Slices of a Service that lost its selector, or became an ExternalName, stay as they are.
pub(super) fn plan(world: &World, key: &Key, trigger: Trigger) -> Vec<Action> {
    let existing: Vec<_> = world
        .slices_of(key)
        .into_iter()
        .map(|slice| &**slice)
        .collect();
    match world.services.get(key) {
        None => slices::delete_all(CONTROLLER, &existing),
        Some(service) if has_selector(service) => {
            slices::plan(&wanted(world, service, trigger), &existing)
        }
        Some(_) => Vec::new(),
    }
}

pub(super) fn has_selector(service: &Service) -> bool {
    !service.spec.selector.is_empty() && &*service.spec.r#type != "ExternalName"
}

/// Whether the Service has no address of its own.
pub(super) fn is_headless(service: &Service) -> bool {
    matches!(&*service.spec.cluster_ip, "" | "None")
}

fn wanted(world: &World, service: &Service, trigger: Trigger) -> Wanted {
    let families = pods::families(service);
    let mut groups: BTreeMap<(Family, String), (Vec<EndpointPort>, Vec<Endpoint>)> =
        BTreeMap::new();
    let selected = world.selected_pods(&service.metadata.namespace, &service.spec.selector);
    let selected: Vec<&Pod> = selected
        .into_iter()
        .map(|pod| &**pod)
        .filter(|pod| pods::counts(pod))
        .collect();
    for family in &families {
        for pod in &selected {
            let Some(endpoint) = pods::endpoint(world, service, pod, *family) else {
                continue;
            };
            let ports = pods::ports(service, pod);
            let place = groups
                .entry((*family, format!("{ports:?}")))
                .or_insert_with(|| (ports, Vec::new()));
            place.1.push(endpoint);
        }
    }
    Wanted {
        owner: owner(service),
        namespace: service.metadata.namespace.clone(),
        service: service.metadata.name.clone(),
        managed_by: CONTROLLER,
        labels: labels(service),
        annotations: Annotations::Kept {
            trigger: trigger.time(),
        },
        may_create: service.metadata.deletion_timestamp.is_none(),
        groups: groups
            .into_iter()
            .map(|((family, _), (ports, endpoints))| ((family, ports) as Group, endpoints))
            .collect(),
        placeholders: families,
        max_endpoints: MAX_ENDPOINTS,
    }
}

fn owner(service: &Service) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Service".into(),
        name: service.metadata.name.clone(),
        uid: service.metadata.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The Service's labels, but for those that mean something on a slice.
fn labels(service: &Service) -> StringMap {
    let mut labels = service.metadata.labels.clone();
    labels.retain(|name, _| ![SERVICE_NAME, slices::MANAGED_BY, HEADLESS].contains(&&**name));
    if is_headless(service) {
        labels.insert(HEADLESS.into(), Box::default());
    }
    labels
}
