//! Session affinity's memory: filled by the packet path, and cleaned here when an endpoint leaves.

use super::{ATTEMPTS, Applied, Dataplane, DataplaneError};
use crate::{
    kernel::{Kernel, KernelError},
    model::{Family, Frontend},
    plan::{Action, Difference, ElementChange, Operation, Plan},
    ruleset::{Data, Key, KeyReader, Ruleset, Side, Table, endpoint, frontend_of, sets},
};

impl<K: Kernel> Dataplane<K> {
    /// Deletes what affinity remembers of endpoints that are not behind the frontend any more.
    pub(super) fn forget_stale_affinities(
        &mut self,
        applied: &mut Applied,
    ) -> Result<(), DataplaneError> {
        for family in Family::ALL {
            for _ in 0..ATTEMPTS {
                let operations = self.stale_affinities(family)?;
                if operations.is_empty() {
                    break;
                }
                let generation = self.generation;
                match self.commit_once(&Plan {
                    transactions: operations,
                }) {
                    Ok(done) => {
                        applied.transactions += done.transactions;
                        applied.elements += done.elements;
                    }
                    // One expired between dump and deletion: dump again. Nothing of ours changed.
                    Err(error) if error.is_not_found() => self.generation = generation,
                    Err(KernelError::Stale) => drop(self.repair()?),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn stale_affinities(&mut self, family: Family) -> Result<Vec<Vec<Operation>>, KernelError> {
        let Some(table) = self.ruleset.table(family) else {
            return Ok(Vec::new());
        };
        if !has_affinity(table) {
            return Ok(Vec::new());
        }
        let remembered = self.kernel.elements(family, sets::AFFINITY)?;
        let stale: Vec<(Key, Data)> = remembered
            .into_iter()
            .filter(|(key, data)| !is_valid_affinity(family, table, key, data))
            .collect();
        let delete = |chunk: &[(Key, Data)]| {
            let action = Action::Elements {
                set: sets::AFFINITY.into(),
                delete: chunk.to_vec(),
                add: Vec::new(),
            };
            vec![Operation { family, action }]
        };
        Ok(stale.chunks(512).map(delete).collect())
    }
}

fn has_affinity(table: &Table) -> bool {
    [sets::AFFINITY_SERVICES, sets::AFFINITY_NODEPORTS]
        .iter()
        .any(|name| {
            table
                .sets
                .get(*name)
                .is_some_and(|set| !set.elements.is_empty())
        })
}

/// Whether an endpoint left a frontend with affinity, or a frontend gave its affinity up.
pub(super) fn touches_affinity(difference: &Difference, ruleset: &Ruleset) -> bool {
    difference.tables.iter().any(|(family, edit)| {
        let changes = |set: &str| edit.elements.get(set).into_iter().flatten();
        let left = |(_, change): (&Key, &ElementChange)| change.old.is_some();
        let gave_up = changes(sets::AFFINITY_SERVICES)
            .chain(changes(sets::AFFINITY_NODEPORTS))
            .any(left);
        let lost = sets::SLOTS
            .into_iter()
            .flat_map(changes)
            .chain(changes(sets::NODEPORT_SLOTS))
            .any(left);
        gave_up || lost && ruleset.table(*family).is_some_and(has_affinity)
    })
}

/// Whether the endpoint that a client was given is still behind what it connected to.
fn is_valid_affinity(family: Family, table: &Table, key: &Key, data: &Data) -> bool {
    let mut reader = KeyReader(key.as_slice());
    let _client = reader.address(family);
    let by_address = reader.0;
    let _address = reader.address(family);
    let by_port = reader.0;
    let affine = |set: &str, key: &[u8]| {
        Key::from_slice(key).is_some_and(|key| {
            table
                .sets
                .get(set)
                .is_some_and(|set| set.elements.contains_key(&key))
        })
    };
    let frontend = if affine(sets::AFFINITY_SERVICES, by_address) {
        frontend_of(family, false, by_address)
    } else if affine(sets::AFFINITY_NODEPORTS, by_port) {
        frontend_of(family, true, by_port)
    } else {
        None
    };
    let chosen = endpoint(family, data);
    let serves = |frontend: &Frontend| {
        let mut endpoints = Side::ALL
            .into_iter()
            .flat_map(|side| table.endpoints(frontend, side));
        chosen.is_some() && endpoints.any(|endpoint| endpoint == chosen)
    };
    frontend.as_ref().is_some_and(serves)
}
