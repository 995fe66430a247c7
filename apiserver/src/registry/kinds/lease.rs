//! Lease (coordination.k8s.io/v1): who holds what, and until when. Nodes renew one as their heartbeat.

use crate::{
    registry::{
        kind::{ALL_VERBS, Kind, Rules},
        table::{AGE, Column, NAME, Table},
    },
    store::Durability,
};

/// Lease.
pub static LEASES: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        create_on_update: true,
        unconditional_update: false,
        // A heartbeat lost in a power cut is followed by the next one.
        durability: Durability::Relaxed,
        validate: |_, new, _, causes| {
            let spec = &new["spec"];
            if let Some(secs) = spec["leaseDurationSeconds"].as_i64()
                && secs <= 0
            {
                causes.invalid("spec.leaseDurationSeconds", secs, "must be greater than 0");
            }
            if let Some(count) = spec["leaseTransitions"].as_i64()
                && count < 0
            {
                let detail = "must be greater than or equal to 0";
                causes.invalid("spec.leaseTransitions", count, detail);
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, Column::text("Holder", "Who holds it."), AGE],
        cells: |object, row| {
            row.name(object);
            row.text(super::text_at(object, &["spec", "holderIdentity"]));
            row.age(object);
        },
    },
};
