//! This node's own objects: the Node with its addresses, capacity and Ready condition, and the Lease that says it lives.

use std::{collections::BTreeMap, fs, time::Duration};

use api::{
    coordination::{Lease, LeaseSpec},
    core::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo},
    meta::{MicroTime, ObjectMeta, Time},
    quantity::Quantity,
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    Addresses, Config,
    backoff::Backoff,
    client::{Client, ClientError, PatchKind, Path},
};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECS: i32 = 40;
/// `status.capacity.pods`, upstream's default.
const MAX_PODS: u32 = 110;

/// Whether the node can run Pods and serve Services, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Network, rules and names are up.
    Ready,
    /// Not yet.
    Starting(&'static str),
}

/// The node as this agent reports it.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    client: Client,
    name: String,
    addresses: Addresses,
    labels: BTreeMap<String, String>,
}

impl Registration {
    pub(crate) fn new(client: Client, config: &Config, addresses: Addresses) -> Self {
        Self {
            client,
            name: config.node_name.clone(),
            addresses,
            labels: config.labels.clone(),
        }
    }

    /// Makes the Node, or brings one that an earlier run made up to date.
    ///
    /// # Errors
    /// When the server refuses; connection problems are retried.
    pub(crate) async fn register(&self, readiness: &Readiness) -> Result<Node, ClientError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match self.try_register(readiness).await {
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "the node was not registered; trying again");
                    sleep(backoff.fail()).await;
                }
                result => return result,
            }
        }
    }

    async fn try_register(&self, readiness: &Readiness) -> Result<Node, ClientError> {
        let wanted = self.node(readiness);
        let made = self
            .client
            .create::<Node>(&Path::core("nodes").to_string(), &wanted)
            .await;
        match made {
            Err(error) if error.is_already_exists() => {
                let labels = json!({"metadata": {"labels": wanted.metadata.labels}});
                let path = self.path().to_string();
                self.client
                    .patch::<Node>(&path, PatchKind::Merge, &labels)
                    .await?;
                self.write_status(readiness).await
            }
            Ok(_) => self.write_status(readiness).await,
            Err(error) => Err(error),
        }
    }

    /// Writes `status`; conditions that others own are kept by their type.
    async fn write_status(&self, readiness: &Readiness) -> Result<Node, ClientError> {
        let path = self.path();
        let before: Node = self.client.get(&path.to_string()).await?;
        let status = self.status(readiness, &before.status);
        let patch = json!({"status": status});
        self.client
            .patch(
                &path.subresource("status").to_string(),
                PatchKind::Merge,
                &patch,
            )
            .await
    }

    fn path(&self) -> Path {
        Path::core("nodes").name(&self.name)
    }

    fn node(&self, readiness: &Readiness) -> Node {
        let mut labels: BTreeMap<Box<str>, Box<str>> = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
        ]
        .map(|(key, value)| (key.into(), value.into()))
        .into();
        labels.extend(
            self.labels
                .iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().into())),
        );
        Node {
            metadata: ObjectMeta {
                name: self.name.as_str().into(),
                labels,
                ..ObjectMeta::default()
            },
            status: self.status(readiness, &NodeStatus::default()),
            ..Node::default()
        }
    }

    fn status(&self, readiness: &Readiness, before: &NodeStatus) -> NodeStatus {
        let address = |kind: &str, address: String| NodeAddress {
            r#type: kind.into(),
            address: address.into(),
        };
        let internal = self.addresses.into_iter();
        let internal = internal.map(|ip| address("InternalIP", ip.to_string()));
        let capacity = capacity();
        NodeStatus {
            allocatable: capacity.clone(),
            capacity,
            conditions: conditions(readiness, before),
            addresses: internal
                .chain([address("Hostname", self.name.clone())])
                .collect(),
            node_info: system_info(),
        }
    }

    /// Keeps Lease and Node alive: renews every ten seconds, and writes the status when readiness changes.
    /// `written` is what [`Registration::register`] wrote already.
    pub(crate) async fn keep(self, written: Readiness, mut readiness: watch::Receiver<Readiness>) {
        let mut renew = interval(LEASE_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut written = Some(written);
        loop {
            let now = readiness.borrow_and_update().clone();
            if written.as_ref() != Some(&now) {
                match self.register(&now).await {
                    Ok(_) => {
                        backoff.reset();
                        written = Some(now);
                    }
                    Err(error) => {
                        tracing::error!(%error, "the node's status was refused");
                        sleep(backoff.fail()).await;
                    }
                }
                continue;
            }
            tokio::select! {
                changed = readiness.changed() => if changed.is_err() { return },
                _ = renew.tick() => match self.renew().await {
                    Ok(()) => {
                        // Somebody may have declared this node dead while it was cut off, or deleted it.
                        if !self.is_as_written(&now).await {
                            written = None;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "the node's Lease was not renewed"),
                },
            }
        }
    }

    async fn is_as_written(&self, readiness: &Readiness) -> bool {
        match self.client.get::<Node>(&self.path().to_string()).await {
            Ok(node) => {
                let status = if *readiness == Readiness::Ready {
                    "True"
                } else {
                    "False"
                };
                let mut conditions = node.status.conditions.iter();
                conditions
                    .any(|condition| &*condition.r#type == "Ready" && &*condition.status == status)
            }
            Err(error) => !error.is_not_found(),
        }
    }

    async fn renew(&self) -> Result<(), ClientError> {
        let leases = Path::group("coordination.k8s.io/v1", "leases").namespace(LEASE_NAMESPACE);
        let now = MicroTime::now();
        let patch = json!({"spec": {"renewTime": now}});
        let path = leases.clone().name(&self.name).to_string();
        match self
            .client
            .patch::<Lease>(&path, PatchKind::Merge, &patch)
            .await
        {
            Err(error) if error.is_not_found() => {
                let metadata = ObjectMeta {
                    name: self.name.as_str().into(),
                    namespace: LEASE_NAMESPACE.into(),
                    ..ObjectMeta::default()
                };
                let spec = LeaseSpec {
                    holder_identity: Some(self.name.as_str().into()),
                    lease_duration_seconds: Some(LEASE_SECS),
                    acquire_time: Some(now),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                };
                self.client
                    .create::<Lease>(&leases.to_string(), &Lease { metadata, spec })
                    .await
                    .map(drop)
            }
            result => result.map(drop),
        }
    }
}

/// The node's conditions. While an agent starts on a node that was ready before, it stays as it was: Pods and rules of the
/// earlier run go on.
fn conditions(readiness: &Readiness, before: &NodeStatus) -> Vec<NodeCondition> {
    let ready = match readiness {
        Readiness::Ready => Some((
            "Ready",
            true,
            "AgentReady",
            "network, rules and names are in place",
        )),
        Readiness::Starting(_) if before.conditions.iter().any(|old| &*old.r#type == "Ready") => {
            None
        }
        Readiness::Starting(what) => Some(("Ready", false, "AgentStarting", *what)),
    };
    let own = [
        ("MemoryPressure", false, "AgentHasSufficientMemory", ""),
        ("DiskPressure", false, "AgentHasNoDiskPressure", ""),
        ("PIDPressure", false, "AgentHasSufficientPID", ""),
    ];
    let own: Vec<_> = own.into_iter().chain(ready).collect();
    let now = Time::now();
    let made = own.iter().map(|(kind, is, reason, message)| {
        let status = if *is { "True" } else { "False" };
        let old = before
            .conditions
            .iter()
            .find(|old| &*old.r#type == *kind && &*old.status == status);
        NodeCondition {
            r#type: (*kind).into(),
            status: status.into(),
            reason: (*reason).into(),
            message: (*message).into(),
            last_heartbeat_time: Some(now),
            last_transition_time: old.and_then(|old| old.last_transition_time).or(Some(now)),
        }
    });
    let foreign = before
        .conditions
        .iter()
        .filter(|old| own.iter().all(|(kind, ..)| *kind != &*old.r#type));
    made.chain(foreign.cloned()).collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn capacity() -> BTreeMap<Box<str>, Quantity> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut capacity = BTreeMap::from([
        ("cpu".into(), Quantity(cores.to_string().into())),
        ("pods".into(), Quantity(MAX_PODS.to_string().into())),
    ]);
    if let Some(kib) = memory_kib(&read("/proc/meminfo")) {
        capacity.insert("memory".into(), Quantity(format!("{kib}Ki").into()));
    }
    capacity
}

fn memory_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn system_info() -> NodeSystemInfo {
    let machine_id = read("/etc/machine-id");
    let version = concat!("v", env!("CARGO_PKG_VERSION"), "+minik");
    NodeSystemInfo {
        system_uuid: machine_id.as_str().into(),
        machine_id: machine_id.into(),
        boot_id: read("/proc/sys/kernel/random/boot_id").into(),
        kernel_version: read("/proc/sys/kernel/osrelease").into(),
        os_image: os_image(&read("/etc/os-release")).into(),
        container_runtime_version: concat!("minik://", env!("CARGO_PKG_VERSION")).into(),
        kubelet_version: version.into(),
        kube_proxy_version: version.into(),
        operating_system: "linux".into(),
        architecture: architecture().into(),
    }
}

fn os_image(os_release: &str) -> String {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

/// A small file of the system, trimmed; empty when it cannot be read.
fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_about_the_machine_are_read_from_its_files() {
        assert_eq!(
            memory_kib("MemTotal:       24683264 kB\nMemFree: 1 kB\n"),
            Some(24_683_264)
        );
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
    }

    #[test]
    fn a_condition_keeps_its_transition_time_until_it_changes() {
        let mut before = NodeStatus {
            conditions: conditions(&Readiness::Ready, &NodeStatus::default()),
            ..NodeStatus::default()
        };
        let past: Time = "2026-01-01T00:00:00Z".parse().expect("time");
        for condition in &mut before.conditions {
            condition.last_transition_time = Some(past);
        }
        before.conditions.push(NodeCondition {
            r#type: "Foreign".into(),
            ..NodeCondition::default()
        });
        let of = |readiness, kind: &str| {
            let all = conditions(readiness, &before);
            all.into_iter()
                .find(|condition| &*condition.r#type == kind)
                .expect("condition")
        };
        assert_eq!(
            of(&Readiness::Ready, "Ready").last_transition_time,
            Some(past)
        );
        assert_eq!(
            of(&Readiness::Starting("x"), "Ready"),
            before.conditions[3],
            "a restart changes nothing"
        );
        assert_eq!(&*of(&Readiness::Ready, "Foreign").r#type, "Foreign");
        before.conditions[3].status = "Unknown".into();
        assert_ne!(
            conditions(&Readiness::Ready, &before)[3].last_transition_time,
            Some(past)
        );
    }
}
