//! Keeps what the Pods of each node name, for the node authorizer.

use api::core::Pod;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::watch::{Make, follow_objects};
use crate::{
    auth::node::graph::Graph,
    registry::{Object, Registry, kinds::PODS, meta},
};

/// One step of the watch.
enum Seen {
    /// All Pods there are.
    List(Vec<Object>),
    /// One Pod that is there, or (true) gone.
    Change(Object, bool),
}

/// Fills the graph, and keeps it filled until `stop` is cancelled. When this returns, all that is stored counts.
pub async fn start(
    registry: &Registry,
    graph: watch::Sender<Graph>,
    stop: CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (sender, mut seen) = mpsc::channel(64);
    let make = Make {
        list: |_, objects| Seen::List(objects),
        change: Seen::Change,
    };
    let follow = follow_objects(registry.clone(), &PODS, None, None, sender, make);
    let until_stopped = stop.clone();
    tasks.spawn(async move {
        until_stopped.run_until_cancelled(follow).await;
    });
    if let Some(step) = seen.recv().await {
        take(&graph, step);
    }
    let keep = async move {
        while let Some(step) = seen.recv().await {
            take(&graph, step);
        }
    };
    tasks.spawn(async move {
        stop.run_until_cancelled(keep).await;
    });
    tasks
}

fn take(graph: &watch::Sender<Graph>, step: Seen) {
    match step {
        Seen::List(objects) => {
            let mut all = Graph::default();
            objects.iter().for_each(|object| put(&mut all, object));
            graph.send_replace(all);
        }
        Seen::Change(object, true) => {
            let value = object.value();
            let (namespace, name) = (meta::text(&value, "namespace"), meta::text(&value, "name"));
            graph.send_modify(|graph| graph.remove(namespace, name));
        }
        Seen::Change(object, false) => graph.send_modify(|graph| put(graph, &object)),
    }
}

fn put(graph: &mut Graph, object: &Object) {
    match object.decode::<Pod>() {
        Ok(pod) => graph.put(&pod),
        Err(error) => tracing::error!(%error, "a Pod cannot be read"),
    }
}
