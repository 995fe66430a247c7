//! ServiceCIDR (networking.k8s.io/v1): the ranges ClusterIPs come from. They are configuration of the server, so the
//! API shows them and does not change them.

use crate::registry::{
    kind::{Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// ServiceCIDR.
pub static SERVICE_CIDRS: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: &["get", "list", "watch"],
    subresources: &[],
    rules: Rules {
        generation: true,
        has_status: true,
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, Column::text("CIDRs", "The ranges."), AGE],
        cells: |object, row| {
            row.name(object);
            let cidrs: Vec<&str> = super::items(&object["spec"]["cidrs"])
                .iter()
                .filter_map(|cidr| cidr.as_str())
                .collect();
            row.text(&cidrs.join(","));
            row.age(object);
        },
    },
};
