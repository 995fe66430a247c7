//! Session affinity's memory: filled by the packet path, and cleaned here when an endpoint leaves.

use super::{ATTEMPTS, Applied, Dataplane, DataplaneError};
use crate::{
    kernel::{Kernel, KernelError},
    model::Family,
    plan::{Action, Difference, Operation, Plan},
    ruleset::{Data, Key, KeyReader, Ruleset, endpoint, sets},
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
        let remembered = self.kernel.elements(family, sets::AFFINITY)?;
        let reachable = table.remembered_endpoints(family);
        let is_valid = |key: &Key, data: &Data| {
            let mut reader = KeyReader(key.as_slice());
            let _client = reader.address(family);
            let chosen = reader.number().zip(endpoint(family, data));
            chosen.is_some_and(|chosen| reachable.contains(&chosen))
        };
        let stale: Vec<(Key, Data)> = remembered
            .into_iter()
            .filter(|(key, data)| !is_valid(key, data))
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

/// The maps that say who has a memory.
const ADDRESS_MEMORIES: [&str; 2] = [sets::MEMORIES, sets::INSIDE_MEMORIES];
const NODEPORT_MEMORIES: [&str; 2] = [sets::NODEPORT_MEMORIES, sets::INSIDE_NODEPORT_MEMORIES];

/// Whether an endpoint left a frontend with affinity, or a frontend gave its affinity up.
pub(super) fn touches_affinity(difference: &Difference, ruleset: &Ruleset) -> bool {
    difference.tables.iter().any(|(family, edit)| {
        let left = |set: &str| {
            let changes = edit.elements.get(set).into_iter().flatten();
            changes
                .filter(|(_, change)| change.old.is_some())
                .map(|(key, _)| key)
        };
        let is_remembered = |memories: [&str; 2], slot: &Key| {
            let (table, key) = (ruleset.table(*family), slot.without_number());
            let has = |memories| table?.sets.get(memories)?.elements.get(&key?);
            memories.into_iter().any(|memories| has(memories).is_some())
        };
        let gave_up = ADDRESS_MEMORIES
            .into_iter()
            .chain(NODEPORT_MEMORIES)
            .any(|set| left(set).next().is_some());
        gave_up
            || sets::SLOTS
                .into_iter()
                .flat_map(left)
                .any(|slot| is_remembered(ADDRESS_MEMORIES, slot))
            || left(sets::NODEPORT_SLOTS).any(|slot| is_remembered(NODEPORT_MEMORIES, slot))
    })
}
