//! An engine without a disk: for tests of what stands above it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{KvEngine, Op, Visit};
use crate::store::StoreError;

/// Keeps everything in memory; clones share it, so a store can be "reopened".
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    keys: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

impl KvEngine for MemoryEngine {
    fn apply(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            match op {
                Op::Put(key, value) => keys.insert(key, value),
                Op::Delete(key) => keys.remove(&key),
            };
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().try_for_each(|(key, value)| visit(key, value))
    }
}
