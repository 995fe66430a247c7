//! Before a Pod is told to stop, nobody may send new connections to it any more.

use std::{collections::BTreeMap, time::Duration};

use api::{core::Pod, meta::Time};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::Context;
use crate::{objects::Revision, reconcile::lock};

/// How long a Pod's end may be held up by this. A node that is cut off must not keep Pods alive.
const LIMIT: Duration = Duration::from_secs(2);
/// How often the other nodes' progress is asked for.
const POLL: Duration = Duration::from_millis(50);

/// A node that reported nothing for so long is not connected: nobody waits for it.
const CONNECTED: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Progress {
    nodes: BTreeMap<String, NodeProgress>,
}

#[derive(Deserialize)]
struct NodeProgress {
    revision: String,
    at: Time,
}

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

/// Waits for the other nodes, as far as the server tells.
async fn everywhere(context: &Context, revision: Revision) {
    loop {
        match context.client.get::<Progress>("/minik/v1/applied").await {
            Ok(progress) => {
                let oldest = Timestamp::now() - CONNECTED;
                let behind = progress
                    .nodes
                    .values()
                    .filter(|node| node.at.timestamp() >= oldest)
                    .any(|node| {
                        Revision::parse(&node.revision).is_none_or(|applied| applied < revision)
                    });
                if !behind {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the other nodes' progress is not known");
                return;
            }
        }
        sleep(POLL).await;
    }
}
