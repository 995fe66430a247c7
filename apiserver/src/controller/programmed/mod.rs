//! The condition `minik.dev/Programmed` of every Service: whether each ready node has its newest state in kernel and names.
//!
//! `kubectl wait --for=condition=minik.dev/Programmed service/NAME` rests on it. It turns true when all ready nodes have applied
//! the Service and its EndpointSlices; it turns false, and names the nodes, when that takes longer than
//! [`tracker::PATIENCE`]. A change that arrives in time writes nothing: a rolling update costs no status writes.
//!
//! Reading order: [`tracker`] (pure), then [`run`] here (the loop around it).

mod tracker;

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Instant,
};

use api::{
    core::{Node, Service},
    discovery::EndpointSlice,
    meta::Time,
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use self::tracker::{SeenService, Tracker, Verdict};
use super::{
    endpoint_slice::has_selector,
    node_is_ready,
    watch::{Make, follow_objects},
    world::{Key, SERVICE_NAME, key_of},
};
use crate::{
    applied::Applied,
    metrics::Metrics,
    registry::{
        ApiError, Object, Part, Registry, WriteOptions,
        kinds::{ENDPOINT_SLICES, NODES, SERVICES},
    },
    store::Revision,
};

/// The condition's type.
pub const CONDITION: &str = "minik.dev/Programmed";
/// Services with this label are another proxy's. Source: kubernetes/kubernetes pkg/proxy/apis/well_known_labels.go.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const SEEN_AT_ONCE: usize = 4096;
const WRITES_AT_ONCE: usize = 64;

/// What the watches say.
enum Seen {
    /// All that there is of a kind.
    List(Of, Vec<Object>),
    /// One object, or that it is gone.
    Change(Of, Object, bool),
}

/// Of which kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Nodes,
    Services,
    Slices,
}

const NODES_SEEN: Make<Seen> = Make {
    list: |_, objects| Seen::List(Of::Nodes, objects),
    change: |object, gone| Seen::Change(Of::Nodes, object, gone),
};
const SERVICES_SEEN: Make<Seen> = Make {
    list: |_, objects| Seen::List(Of::Services, objects),
    change: |object, gone| Seen::Change(Of::Services, object, gone),
};
const SLICES_SEEN: Make<Seen> = Make {
    list: |_, objects| Seen::List(Of::Slices, objects),
    change: |object, gone| Seen::Change(Of::Slices, object, gone),
};

/// Keeps the conditions for ever.
pub(super) async fn run(registry: Registry, applied: Applied, metrics: Metrics) {
    let (sender, mut seen) = mpsc::channel(SEEN_AT_ONCE);
    let mut watches = JoinSet::new();
    for (kind, make) in [
        (&NODES, NODES_SEEN),
        (&SERVICES, SERVICES_SEEN),
        (&ENDPOINT_SLICES, SLICES_SEEN),
    ] {
        watches.spawn(follow_objects(
            registry.clone(),
            kind,
            None,
            None,
            sender.clone(),
            make,
        ));
    }
    drop(sender);
    let mut reports = applied.subscribe();
    let mut state = State::default();
    let mut batch = Vec::with_capacity(SEEN_AT_ONCE);
    loop {
        let deadline = state.tracker.next_deadline(Instant::now());
        let waiting = state.tracker.is_waiting();
        tokio::select! {
            count = seen.recv_many(&mut batch, SEEN_AT_ONCE) => if count == 0 { return },
            Ok(()) = reports.changed(), if waiting => {}
            () = at(deadline) => {}
        }
        let now = Instant::now();
        for step in batch.drain(..) {
            state.absorb(step, now);
        }
        if state.tracker.is_waiting() {
            registry.await_applied(state.tracker.newest_wanted());
        }
        for (node, report) in reports.borrow_and_update().iter() {
            state.tracker.put_applied(node, report.revision);
        }
        let verdicts = state.tracker.settle(Instant::now());
        for took in state.tracker.take_arrived() {
            metrics.service_programmed(took);
        }
        let mut writes = stream::iter(verdicts)
            .map(async |(key, verdict)| (write(&registry, &key, &verdict).await, key))
            .buffer_unordered(WRITES_AT_ONCE);
        while let Some((result, key)) = writes.next().await {
            if let Err(error) = result {
                tracing::warn!(%error, namespace = %key.0, service = %key.1, "condition {CONDITION} was not written: trying again");
                state.tracker.not_written(&key, Instant::now());
            }
        }
    }
}

/// The tracker, and what exists of each kind: what a new list does not name is gone.
#[derive(Default)]
struct State {
    tracker: Tracker,
    nodes: BTreeSet<Key>,
    services: BTreeSet<Key>,
}

impl State {
    fn absorb(&mut self, step: Seen, now: Instant) {
        match step {
            Seen::Change(of, object, gone) => self.take(of, &object, (gone, false), now),
            Seen::List(of, objects) => {
                let before = match of {
                    Of::Nodes => std::mem::take(&mut self.nodes),
                    Of::Services => std::mem::take(&mut self.services),
                    Of::Slices => BTreeSet::new(),
                };
                for object in &objects {
                    self.take(of, object, (false, true), now);
                }
                for key in before {
                    match of {
                        Of::Nodes if !self.nodes.contains(&key) => {
                            self.tracker.put_node(&key.1, false);
                        }
                        Of::Services if !self.services.contains(&key) => {
                            self.tracker.remove_service(&key);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn take(&mut self, of: Of, object: &Object, (gone, listed): (bool, bool), now: Instant) {
        match of {
            Of::Nodes => {
                let Ok(node) = object.decode::<Node>() else {
                    return;
                };
                let key = key_of(&node);
                let ready = !gone && node_is_ready(&node);
                self.tracker.put_node(&key.1, ready);
                keep(&mut self.nodes, key, !gone);
            }
            Of::Services => {
                let Ok(service) = object.decode::<Service>() else {
                    return;
                };
                let key = key_of(&service);
                let ours = !gone && !service.metadata.labels.contains_key(OTHER_PROXY);
                if ours {
                    let seen = seen(&service, object.revision(), listed);
                    self.tracker.put_service(key.clone(), &seen, now);
                } else {
                    self.tracker.remove_service(&key);
                }
                keep(&mut self.services, key, ours);
            }
            // A slice that goes away is a change of its Service too.
            Of::Slices => {
                let Ok(slice) = object.decode::<EndpointSlice>() else {
                    return;
                };
                if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
                    let key = (slice.metadata.namespace.clone(), service.clone());
                    self.tracker.put_slice(key, object.revision(), now);
                }
            }
        }
    }
}

fn keep(keys: &mut BTreeSet<Key>, key: Key, there: bool) {
    if there {
        keys.insert(key);
    } else {
        keys.remove(&key);
    }
}

fn seen(service: &Service, revision: Revision, listed: bool) -> SeenService {
    let mut hasher = DefaultHasher::new();
    let spec = serde_json::to_vec(&service.spec).expect("a Service's spec is JSON");
    spec.hash(&mut hasher);
    for (name, value) in service
        .metadata
        .labels
        .iter()
        .chain(&service.metadata.annotations)
    {
        (name, value).hash(&mut hasher);
    }
    let mut addresses = service.status.load_balancer.ingress.iter();
    addresses
        .by_ref()
        .for_each(|ingress| (&ingress.ip, &ingress.ip_mode).hash(&mut hasher));
    let condition = service
        .status
        .conditions
        .iter()
        .find(|condition| &*condition.r#type == CONDITION);
    SeenService {
        revision,
        fingerprint: hasher.finish(),
        has_selector: has_selector(service),
        condition: condition.map(|condition| &*condition.status == "True"),
        listed,
    }
}

/// Puts the condition into the Service's status; other conditions stay.
async fn write(registry: &Registry, key: &Key, verdict: &Verdict) -> Result<(), ApiError> {
    let condition = condition(verdict);
    let change = |service: &mut Value| {
        set_condition(&mut service["status"], &condition);
        Ok(())
    };
    let options = WriteOptions::default();
    let written = registry
        .modify(
            &SERVICES,
            Some(&key.0),
            &key.1,
            Part::Status,
            &options,
            change,
        )
        .await;
    match written {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn condition(verdict: &Verdict) -> Value {
    let (status, reason, message) = match verdict {
        Verdict::Programmed => (
            "True",
            "Applied",
            "every ready node sends its connections where they belong".to_owned(),
        ),
        Verdict::NoNodes => (
            "False",
            "NoReadyNodes",
            "no node is ready: `kubectl get nodes` shows what there is".to_owned(),
        ),
        Verdict::Waiting(nodes) if nodes.is_empty() => (
            "False",
            "EndpointsPending",
            "its EndpointSlice has not been written yet".to_owned(),
        ),
        Verdict::Waiting(nodes) => (
            "False",
            "NodesPending",
            format!(
                "not applied yet on {}: `minik agent`'s log there says why",
                nodes.join(", ")
            ),
        ),
    };
    json!({ "type": CONDITION, "status": status, "reason": reason, "message": message })
}

/// Replaces the condition of that type, or adds it. The transition time moves only when the status does.
fn set_condition(status: &mut Value, condition: &Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let list = status["conditions"]
        .as_array_mut()
        .expect("an array by now");
    let mut condition = condition.clone();
    condition["lastTransitionTime"] = json!(Time::now());
    match list.iter_mut().find(|known| known["type"] == CONDITION) {
        Some(known) => {
            if known["status"] == condition["status"] {
                condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = condition;
        }
        None => list.push(condition),
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
