//! How much of what a client sends may wait until somebody takes it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What may wait of one connection, whatever its streams are. No shorter than the longest piece.
const BYTES: u32 = 16 << 20;

/// The room of one connection.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES as usize)))
    }
}

/// Bytes with the room they take.
struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Budget {
    /// Waits for room. It is free again when the last clone of what is returned is gone.
    pub async fn hold(&self, bytes: &[u8]) -> Bytes {
        let wanted = u32::try_from(bytes.len()).map_or(BYTES, |length| length.min(BYTES));
        let room = Arc::clone(&self.0).acquire_many_owned(wanted).await;
        Bytes::from_owner(Held {
            // A copy: a slice would keep all that was read together with it.
            bytes: bytes.to_vec(),
            _room: room.expect("the semaphore is never closed"),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn what_is_held_takes_room_until_it_is_gone() {
        let budget = Budget::default();
        let all = vec![1; BYTES as usize];
        let held = budget.hold(&all).now_or_never().expect("there is room");
        let clone = held.slice(..1);
        assert_eq!(held, all);
        drop(held);
        assert_eq!(budget.hold(b"a").now_or_never(), None);
        drop(clone);
        assert!(budget.hold(b"a").now_or_never().is_some());
    }
}
