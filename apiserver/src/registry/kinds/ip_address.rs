//! IPAddress (networking.k8s.io/v1): one for each ClusterIP, written together with its Service. The API only shows them:
//! removed or made by hand, they would say of an address what is not so.

use std::net::IpAddr;

use crate::registry::{
    kind::{Kind, NameRule, Rules},
    meta,
    table::{Column, NAME, Table},
};

/// IPAddress.
pub static IP_ADDRESSES: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    categories: &[],
    namespaced: false,
    verbs: &["get", "list", "watch"],
    subresources: &[],
    rules: Rules {
        name: NameRule::Own,
        generation: true,
        unconditional_update: false,
        validate: |_, new, old, causes| {
            let name = meta::text(new, "name");
            let canonical = name
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_string() == name);
            if !canonical {
                causes.invalid("metadata.name", name, "must be a canonical IP address");
            }
            let parent = &new["spec"]["parentRef"];
            for field in ["resource", "name"] {
                if parent[field].as_str().unwrap_or_default().is_empty() {
                    causes.required(format!("spec.parentRef.{field}"), "");
                }
            }
            if let Some(old) = old
                && old["spec"]["parentRef"] != *parent
            {
                causes.invalid("spec.parentRef", parent.clone(), "field is immutable");
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("ParentRef", "What the address belongs to."),
        ],
        cells: |object, row| {
            row.name(object);
            let parent = &object["spec"]["parentRef"];
            let part = |field| super::text_at(parent, &[field]);
            let parts = [
                part("group"),
                part("resource"),
                part("namespace"),
                part("name"),
            ];
            let named: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            row.text(&named.join("/"));
        },
    },
};
