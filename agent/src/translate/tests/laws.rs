//! Laws that hold for every Service and whatever its slices say.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::objects::{self, TrafficPolicy};

const STATES: [&str; 7] = [
    "ready",
    "unready",
    "starting",
    "published",
    "serving",
    "terminating",
    "mirrored-unready",
];

/// Few addresses, so that slices meet in them; few places, so that hints are often complete.
fn any_endpoint() -> impl Strategy<Value = String> {
    let host = 1..7u8;
    let node = select(vec!["n1", "n1", "n2", "n3"]);
    let hint = select(vec![
        "",
        "",
        " zone=z1",
        " zone=z2",
        " zone=z1 node=n1",
        " zone=z2 node=n2",
    ]);
    (host, node, select(STATES.to_vec()), hint)
        .prop_map(|(host, node, state, hint)| format!("10.244.0.{host}@{node} {state}{hint}"))
}

fn any_slices() -> impl Strategy<Value = Vec<EndpointSlice>> {
    let one = vec(any_endpoint(), 0..5).prop_map(|endpoints| {
        let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
        slice(&endpoints)
    });
    vec(one, 0..4)
}

fn any_service() -> impl Strategy<Value = Service> {
    let policy = || select(vec!["Cluster", "Local"]);
    let affinity = select(vec!["None", "ClientIP"]);
    (policy(), policy(), affinity).prop_map(|(internal, external, affinity)| {
        service(json!({
            "type": "NodePort", "externalIPs": ["198.51.100.1"], "sessionAffinity": affinity,
            "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
        }))
    })
}

/// The entry that stands for each address: of a Pod that lives rather than of one that goes.
fn entries(slices: &[EndpointSlice]) -> BTreeMap<IpAddr, Vec<&objects::Endpoint>> {
    let mut by_address: BTreeMap<IpAddr, Vec<&objects::Endpoint>> = BTreeMap::new();
    for endpoint in slices.iter().flat_map(|slice| &slice.endpoints) {
        let addr = endpoint.addr.expect("an address");
        by_address.entry(addr).or_default().push(endpoint);
    }
    let preferred: [fn(&objects::Endpoint) -> bool; 4] = [
        |endpoint| !endpoint.is_terminating(),
        objects::Endpoint::is_ready,
        objects::Endpoint::is_serving,
        |endpoint| endpoint.node_name.as_deref() == Some("n1"),
    ];
    for entries in by_address.values_mut() {
        for is_better in preferred {
            if entries.iter().any(|endpoint| is_better(endpoint)) {
                entries.retain(|endpoint| is_better(endpoint));
            }
        }
    }
    by_address
}

/// Every list of endpoints in the fates, and whether it is one of a policy that stays on the node.
fn lists(service: &Service, fates: &BTreeMap<Frontend, Fate>) -> Vec<(bool, Vec<IpAddr>)> {
    let addrs = |endpoints: &[model::Endpoint]| endpoints.iter().map(|it| it.addr).collect();
    let is_local = |policy: Option<TrafficPolicy>| policy == Some(TrafficPolicy::Local);
    let mut all = Vec::new();
    for (frontend, fate) in fates {
        match fate {
            Fate::Balance { endpoints, .. } => {
                let internal = *frontend == at("10.96.0.7", 80);
                let stays = internal && is_local(service.spec.internal_traffic_policy);
                all.push((stays, addrs(endpoints)));
            }
            Fate::Local {
                outside, inside, ..
            } => {
                all.push((true, addrs(outside)));
                all.push((false, addrs(inside)));
            }
            Fate::From { .. } | Fate::Reject | Fate::Drop => {}
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_what_serves_is_used_and_what_goes_only_where_nothing_is_ready(service in any_service(), slices in any_slices()) {
        let all: Vec<_> = slices.iter().collect();
        let fates = frontends(&service, &all, &here());
        let entries = entries(&slices);
        let is_ready = |addr: &IpAddr| entries[addr].iter().any(|entry| entry.is_ready());
        let goes = |addr: &IpAddr| entries[addr].iter().any(|entry| entry.is_serving() && entry.is_terminating());
        let is_here = |addr: &IpAddr| entries[addr].iter().any(|entry| entry.node_name.as_deref() == Some("n1"));
        for (stays, list) in lists(&service, &fates) {
            let in_scope = || entries.keys().filter(|addr| !stays || is_here(addr));
            if stays {
                prop_assert!(list.iter().all(is_here), "Local went elsewhere: {:?}", fates);
            }
            if in_scope().any(is_ready) {
                prop_assert!(list.iter().all(is_ready), "{:?}", fates);
                prop_assert!(!list.is_empty(), "{:?}", fates);
            } else {
                prop_assert!(list.iter().all(goes), "{:?}", fates);
            }
        }
    }

    #[test]
    fn refused_everywhere_or_nowhere(service in any_service(), slices in any_slices()) {
        let all: Vec<_> = slices.iter().collect();
        let fates = frontends(&service, &all, &here());
        let entries = entries(&slices);
        let usable = |entry: &&objects::Endpoint| entry.is_ready() || entry.is_serving() && entry.is_terminating();
        let exists = entries.values().flatten().any(usable);
        for fate in fates.values() {
            prop_assert_eq!(*fate == Fate::Reject, !exists);
        }
        prop_assert_eq!(fates.len(), 3, "ClusterIP, NodePort, externalIP");
    }

    #[test]
    fn the_order_of_slices_and_what_they_leave_out_do_not_matter(service in any_service(), slices in any_slices()) {
        // An address that two slices give differently is decided by their order: here none does.
        let mut seen = BTreeSet::new();
        let mut slices = slices;
        for slice in &mut slices {
            let mut endpoints = slice.endpoints.to_vec();
            endpoints.retain(|endpoint| seen.insert(endpoint.addr));
            slice.endpoints = endpoints.into();
        }
        let forth: Vec<_> = slices.iter().collect();
        let mut back = forth.clone();
        back.reverse();
        prop_assert_eq!(frontends(&service, &forth, &here()), frontends(&service, &back, &here()));
    }
}
