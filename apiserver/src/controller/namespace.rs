//! The end of a namespace: everything in it first, then itself.

use std::time::Duration;

use super::{write, write::Done};
use crate::registry::{ApiError, DeleteOptions, ListQuery, Registry, kinds};

/// How long until a namespace is looked at again whose content takes its time (finalizers, graceful Pods).
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Deletes what is in a terminating namespace. True when nothing is left and the namespace itself was released.
pub(super) async fn empty(registry: &Registry, name: &str) -> Result<(bool, Vec<Done>), ApiError> {
    let mut left = 0;
    let mut done = Vec::new();
    for kind in kinds::ALL.iter().copied().filter(|kind| kind.namespaced) {
        let list = registry
            .list(kind, Some(name), &ListQuery::default())
            .await?;
        for object in list.objects {
            let value = object.value();
            let own = value["metadata"]["name"].as_str().unwrap_or_default();
            match registry
                .delete(kind, Some(name), own, &DeleteOptions::default())
                .await
            {
                Ok(deleted) if deleted.gone => done.push(Done::Gone(kind, deleted.object)),
                Ok(_) => left += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    if left == 0 {
        done.push(write::execute(registry, write::Action::Finalize(name.into())).await?);
    }
    Ok((left == 0, done))
}
