//! EndpointSlice (discovery.k8s.io/v1).

use std::collections::HashSet;

use serde_json::Value;

use super::{address, items, text_at};
use crate::registry::{
    Context,
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules},
    meta,
    table::{AGE, Column, NAME, Table},
};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
/// How many ports or addresses a table row shows.
const SHOWN: usize = 3;

/// EndpointSlice.
pub static ENDPOINT_SLICES: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        generation: true,
        default: |slice| {
            for port in slice["ports"].as_array_mut().into_iter().flatten() {
                if port["name"].is_null() {
                    port["name"] = "".into();
                }
                if text_at(port, &["protocol"]).is_empty() {
                    port["protocol"] = "TCP".into();
                }
            }
            // Present even when empty: clients of this kind expect both lists.
            for field in ["endpoints", "ports"] {
                if !slice[field].is_array() {
                    slice[field] = Value::Array(Vec::new());
                }
            }
        },
        // The label says which Service it belongs to: that is content too.
        prepare_update: |_, old, new| {
            if old["metadata"]["labels"] != new["metadata"]["labels"] {
                meta::raise_generation(new);
            }
        },
        validate,
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("AddressType", "IPv4, IPv6 or FQDN."),
            Column::text("Ports", "The ports."),
            Column::text("Endpoints", "The addresses."),
            AGE,
        ],
        cells: |slice, row| {
            row.name(slice);
            row.text(text_at(slice, &["addressType"]));
            row.text_or(&shown(&ports(slice)), "<unset>");
            row.text_or(&shown(&addresses(slice)), "<unset>");
            row.age(slice);
        },
    },
};

fn validate(context: &Context, new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let address_type = text_at(new, &["addressType"]);
    let supported = &["FQDN", "IPv4", "IPv6"];
    if address_type.is_empty() {
        causes.required("addressType", "");
    } else if !supported.contains(&address_type) {
        causes.not_supported("addressType", address_type, supported);
    }
    if let Some(old) = old
        && old["addressType"] != new["addressType"]
    {
        causes.invalid("addressType", address_type, "field is immutable");
    }
    check_ports(items(&new["ports"]), causes);
    let endpoints = items(&new["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        causes.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    // Endpoints that did not change are not judged again: they were, by the rules of their time.
    let known = old.map(|old| items(&old["endpoints"])).unwrap_or_default();
    for (index, endpoint) in endpoints.iter().enumerate() {
        if known.get(index) != Some(endpoint) {
            check_endpoint(context, index, endpoint, address_type, causes);
        }
    }
}

fn check_endpoint(
    context: &Context,
    index: usize,
    endpoint: &Value,
    address_type: &str,
    causes: &mut Causes,
) {
    let path = format!("endpoints[{index}]");
    let addresses = items(&endpoint["addresses"]);
    if addresses.is_empty() {
        let detail = "must contain at least 1 address";
        causes.required(format!("{path}.addresses"), detail);
    }
    if addresses.len() > MAX_ADDRESSES {
        causes.too_many(format!("{path}.addresses"), addresses.len(), MAX_ADDRESSES);
    }
    for (index, text) in addresses.iter().enumerate() {
        let text = text.as_str().unwrap_or_default();
        let path = format!("{path}.addresses[{index}]");
        if address_type == "FQDN" {
            causes.check(path, text, api::names::dns1123_subdomain(text));
        } else if text.contains(':') != (address_type == "IPv6") {
            let detail = format!("must be an {address_type} address, as addressType says");
            causes.invalid(path, text, &detail);
        } else {
            address::check(&path, text, &context.service_cidrs, causes);
        }
    }
    let hostname = text_at(endpoint, &["hostname"]);
    if !hostname.is_empty() {
        let verdict = api::names::dns1123_label(hostname);
        causes.check(format!("{path}.hostname"), hostname, verdict);
    }
}

fn check_ports(ports: &[Value], causes: &mut Causes) {
    if ports.len() > MAX_PORTS {
        causes.too_many("ports", ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = text_at(port, &["name"]);
        if !name.is_empty() {
            let verdict = api::names::dns1123_label(name);
            causes.check(format!("{path}.name"), name, verdict);
        }
        if !seen.insert(name) {
            causes.duplicate(format!("{path}.name"), name);
        }
        if let Some(number) = port["port"].as_i64()
            && !(1..=65535).contains(&number)
        {
            let detail = "must be between 1 and 65535, inclusive";
            causes.invalid(format!("{path}.port"), number, detail);
        }
        let protocol = text_at(port, &["protocol"]);
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            causes.not_supported(
                format!("{path}.protocol"),
                protocol,
                &["SCTP", "TCP", "UDP"],
            );
        }
    }
}

fn ports(slice: &Value) -> Vec<String> {
    let ports = items(&slice["ports"]).iter();
    ports
        .map(
            |port| match (port["port"].as_i64(), text_at(port, &["name"])) {
                (Some(number), _) => number.to_string(),
                (None, "") => "*".into(),
                (None, name) => name.into(),
            },
        )
        .collect()
}

fn addresses(slice: &Value) -> Vec<String> {
    let endpoints = items(&slice["endpoints"]).iter();
    endpoints
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect()
}

fn shown(all: &[String]) -> String {
    let text = all[..all.len().min(SHOWN)].join(",");
    match all.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text} + {more} more..."),
    }
}
