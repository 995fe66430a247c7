//! EndpointSlices of Endpoints that somebody wrote by hand, for a Service without selector.
//! Source: kubernetes/kubernetes pkg/controller/endpointslicemirroring.

use std::{collections::BTreeMap, net::IpAddr};

use api::{
    core::{EndpointAddress, EndpointSubset, Endpoints, Event, ObjectReference},
    discovery::{Endpoint, EndpointConditions, EndpointPort},
    meta::{OwnerReference, StringMap},
};

use super::{
    event::{self, Level},
    pods::Family,
    slices::{self, Annotations, MANAGED_BY, TRIGGER_TIME, Wanted},
    subsets::repack,
    world::{Key, SERVICE_NAME, World},
    write::Action,
};
use crate::registry::kinds::EVENTS;

pub(super) const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
pub(super) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MAX_ADDRESSES: usize = 1000;

/// The writes that one Endpoints object needs.
pub(super) fn plan(world: &World, key: &Key) -> Vec<Action> {
    let existing: Vec<_> = world
        .slices_of(key)
        .into_iter()
        .map(|slice| &**slice)
        .collect();
    let service = world
        .services
        .get(key)
        .filter(|service| service.spec.selector.is_empty());
    let endpoints = world
        .endpoints
        .get(key)
        .filter(|endpoints| is_mirrored(endpoints));
    let (Some(_), Some(endpoints)) = (service, endpoints) else {
        return slices::delete_all(CONTROLLER, &existing);
    };
    let (wanted, left_out) = wanted(endpoints);
    let mut actions = slices::plan(&wanted, &existing);
    if !actions.is_empty() {
        let events = left_out.events(endpoints);
        actions.extend(events.map(|event| Action::create(&EVENTS, &event)));
    }
    actions
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let metadata = &endpoints.metadata;
    metadata.labels.get(SKIP).map(|value| &**value) != Some("true")
        && !metadata.annotations.contains_key(LEADER)
}

/// How many addresses are not mirrored.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    invalid: usize,
    too_many: usize,
}

impl LeftOut {
    fn events(self, endpoints: &Endpoints) -> impl Iterator<Item = Event> {
        let invalid = format!(
            "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
            self.invalid
        );
        let too_many = format!(
            "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
            self.too_many
        );
        let events = [
            (self.invalid, "InvalidIPAddress", invalid),
            (self.too_many, "TooManyAddressesToMirror", too_many),
        ];
        events
            .into_iter()
            .filter(|(count, _, _)| *count > 0)
            .map(|(_, reason, message)| told(endpoints, reason, message))
    }
}

fn wanted(endpoints: &Endpoints) -> (Wanted, LeftOut) {
    let mut groups: BTreeMap<(Family, String), (Vec<EndpointPort>, Vec<Endpoint>)> =
        BTreeMap::new();
    let mut left_out = LeftOut::default();
    for subset in repack(endpoints.subsets.iter().cloned()) {
        let ports = ports(&subset);
        let ready = subset.addresses.iter().map(|address| (address, true));
        let not_ready = subset
            .not_ready_addresses
            .iter()
            .map(|address| (address, false));
        let mut room = MAX_ADDRESSES;
        for (address, ready) in ready.chain(not_ready) {
            if room == 0 {
                left_out.too_many += 1;
                continue;
            }
            let Ok(addr) = address.ip.parse::<IpAddr>() else {
                left_out.invalid += 1;
                continue;
            };
            room -= 1;
            let group = (Family::of(addr), format!("{ports:?}"));
            let place = groups
                .entry(group)
                .or_insert_with(|| (ports.clone(), Vec::new()));
            place.1.push(mirrored(addr, address, ready));
        }
    }
    let metadata = &endpoints.metadata;
    let mut annotations: StringMap = metadata.annotations.clone();
    annotations.retain(|name, _| ![TRIGGER_TIME, LAST_APPLIED].contains(&&**name));
    let mut labels = metadata.labels.clone();
    labels.retain(|name, _| ![SERVICE_NAME, MANAGED_BY].contains(&&**name));
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Endpoints".into(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let wanted = Wanted {
        owner,
        namespace: metadata.namespace.clone(),
        service: metadata.name.clone(),
        managed_by: CONTROLLER,
        labels,
        annotations: Annotations::Exactly(annotations),
        may_create: metadata.deletion_timestamp.is_none(),
        groups: groups
            .into_iter()
            .map(|((family, _), (ports, endpoints))| ((family, ports), endpoints))
            .collect(),
        placeholders: Vec::new(),
        max_endpoints: MAX_ADDRESSES,
    };
    (wanted, left_out)
}

/// `serving` and `terminating` stay unset: nothing is known of them.
fn mirrored(addr: IpAddr, address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![addr.to_string().into()],
        conditions: EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        },
        hostname: Some(address.hostname.clone()).filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(if port.protocol.is_empty() {
            "TCP".into()
        } else {
            port.protocol.clone()
        }),
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

fn told(endpoints: &Endpoints, reason: &str, message: String) -> Event {
    let metadata = &endpoints.metadata;
    let involved = ObjectReference {
        kind: "Endpoints".into(),
        api_version: "v1".into(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    };
    event::new(involved, CONTROLLER, Level::Warning, reason, message)
}
