//! The seam below the embedded store: something that keeps ordered keys and can say when they are safe.

mod memory;
mod sled;

pub(crate) use self::sled::MAX_VALUE_BYTES;
pub use self::{
    memory::MemoryEngine,
    sled::{Growth, SledEngine},
};

use super::StoreError;

/// One change of the engine's key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; absent is fine.
    Delete(Vec<u8>),
}

/// Takes the keys and values of a scan, one by one.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// Keeps bytes. Called from the committer's thread only, one call at a time.
pub trait KvEngine: Send + 'static {
    /// Applies all of the changes, in order, as one atomic batch: after a crash all of them are there or none.
    ///
    /// # Errors
    /// When the engine fails; its state is then unknown and it must not be used again.
    fn apply(&self, ops: Vec<Op>) -> Result<(), StoreError>;
    /// Returns when everything applied before is on stable storage.
    ///
    /// # Errors
    /// As [`KvEngine::apply`]. A failed flush is never tried again: the kernel forgets what it could not write.
    fn barrier(&self) -> Result<(), StoreError>;
    /// Calls `visit` with every key and value, in key order.
    ///
    /// # Errors
    /// When something cannot be read back, or what `visit` returns.
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// What a panicking engine said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}
