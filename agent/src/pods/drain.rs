//! Before a Pod is told to stop, nobody may send new connections to it any more.

use std::time::Duration;

use api::core::Pod;
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout_at};

use super::Context;
use crate::{objects::Revision, reconcile::lock};

/// How long a Pod's end may be held up by this. A node that is cut off must not keep Pods alive.
const LIMIT: Duration = Duration::from_secs(2);
/// Waits until the Pod is ready in no EndpointSlice and every node has applied that, at most [`LIMIT`].
pub(super) async fn wait(context: &Context, pod: &Pod) {
    let started = Instant::now();
    let finished = timeout_at(started + LIMIT, async {
        let revision = here(context, pod).await;
        everywhere(context, revision).await;
    });
    let in_time = finished.await.is_ok();
    tracing::debug!(
        pod = %format_args!("{}/{}", pod.metadata.namespace, pod.metadata.name),
        in_time,
        elapsed_ms = started.elapsed().as_millis() as u64,
        "traffic drained"
    );
}

/// Waits for this node's own rules, and returns the revision that the others need.
async fn here(context: &Context, pod: &Pod) -> Revision {
    let mut applied = context.applied.clone();
    loop {
        let drained = lock(&context.view).drained(&pod.metadata.namespace, &pod.metadata.uid);
        let slices = applied.borrow_and_update().map(|position| position.slices);
        if let (Some(revision), Some(slices)) = (drained, slices)
            && slices >= revision
        {
            return revision;
        }
        if applied.changed().await.is_err() {
            return Revision::default();
        }
    }
}

/// Waits for the other nodes: the server makes them tell at once how far they are, and answers when they are there.
async fn everywhere(context: &Context, revision: Revision) {
    let path = format!(
        "/minik/v1/applied?atLeast={revision}&timeoutSeconds={}",
        LIMIT.as_secs()
    );
    if let Err(error) = context.client.get::<IgnoredAny>(&path).await {
        tracing::debug!(%error, "the other nodes' progress is not known");
    }
}
