//! Endpoints (core/v1): the older form of EndpointSlices, and what people write by hand for a Service without selector.

use serde_json::Value;

use super::{address, items, text_at};
use crate::registry::{
    Context,
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// How many addresses a table row shows.
const SHOWN: usize = 3;

/// Endpoints.
pub static ENDPOINTS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        create_on_update: true,
        deprecated: Some(
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ),
        default: |endpoints| {
            for subset in endpoints["subsets"].as_array_mut().into_iter().flatten() {
                for port in subset["ports"].as_array_mut().into_iter().flatten() {
                    if text_at(port, &["protocol"]).is_empty() {
                        port["protocol"] = "TCP".into();
                    }
                }
            }
            if endpoints["subsets"].is_null() {
                endpoints
                    .as_object_mut()
                    .map(|map| map.shift_remove("subsets"));
            }
        },
        validate,
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, Column::text("Endpoints", "Addresses and ports."), AGE],
        cells: |endpoints, row| {
            row.name(endpoints);
            row.or_none(&shown(endpoints));
            row.age(endpoints);
        },
    },
};

fn validate(context: &Context, new: &Value, old: Option<&Value>, causes: &mut Causes) {
    // What is stored already stays legal, so that a tightened rule does not block unrelated changes.
    if old.is_some_and(|old| old["subsets"] == new["subsets"]) {
        return;
    }
    for (index, subset) in items(&new["subsets"]).iter().enumerate() {
        let path = format!("subsets[{index}]");
        let ready = items(&subset["addresses"]);
        let not_ready = items(&subset["notReadyAddresses"]);
        if ready.is_empty() && not_ready.is_empty() {
            causes.required(
                path.clone(),
                "must specify `addresses` or `notReadyAddresses`",
            );
        }
        for (field, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (index, entry) in list.iter().enumerate() {
                let path = format!("{path}.{field}[{index}].ip");
                address::check(
                    &path,
                    text_at(entry, &["ip"]),
                    &context.service_cidrs,
                    causes,
                );
            }
        }
        let ports = items(&subset["ports"]);
        for (index, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            check_port(&path, port, ports.len() > 1, causes);
        }
    }
}

fn check_port(path: &str, port: &Value, named: bool, causes: &mut Causes) {
    let name = text_at(port, &["name"]);
    if !name.is_empty() {
        let verdict = api::names::dns1123_label(name);
        causes.check(format!("{path}.name"), name, verdict);
    } else if named {
        causes.required(format!("{path}.name"), "");
    }
    let number = port["port"].as_i64().unwrap_or(0);
    if !(1..=65535).contains(&number) {
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

/// The first few `ip:port`, then how many more.
fn shown(endpoints: &Value) -> String {
    let mut all: Vec<String> = Vec::new();
    for subset in items(&endpoints["subsets"]) {
        let addresses = items(&subset["addresses"]);
        let ips = addresses.iter().map(|entry| text_at(entry, &["ip"]));
        let ports = items(&subset["ports"]);
        if ports.is_empty() {
            all.extend(ips.map(str::to_owned));
            continue;
        }
        let ips: Vec<&str> = ips.collect();
        for port in ports {
            let number = port["port"].as_i64().unwrap_or(0);
            all.extend(ips.iter().map(|ip| join(ip, number)));
        }
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let text = all.join(",");
    if more > 0 {
        format!("{text} + {more} more...")
    } else {
        text
    }
}

fn join(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}
