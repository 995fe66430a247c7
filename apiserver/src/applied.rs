//! How far each node's rules and names have come.
//!
//! Agents report it (`PUT /minik/v1/nodes/NAME/applied`); ordered termination and the condition `minik.dev/Programmed` rest on
//! it. It is kept in memory only: agents report again after they have connected to a server that was started anew.

use std::{collections::BTreeMap, sync::Arc};

use api::meta::Time;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::store::Revision;

/// What one node has applied.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every change of Services and EndpointSlices up to this one is in the node's kernel and names.
    #[serde(serialize_with = "as_text")]
    pub revision: Revision,
    /// When the node said so.
    pub at: Time,
}

/// As resource versions are written.
fn as_text<S: Serializer>(revision: &Revision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&revision.0)
}

/// The newest report of every node; clones share it.
#[derive(Clone, Debug)]
pub struct Applied(Arc<watch::Sender<BTreeMap<String, Report>>>);

impl Default for Applied {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }
}

impl Applied {
    /// Takes a node's report.
    pub fn report(&self, node: String, revision: Revision) {
        let at = Time::now();
        self.0
            .send_modify(|nodes| _ = nodes.insert(node, Report { revision, at }));
    }

    /// All reports by node, and a way to wait for another one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<String, Report>> {
        self.0.subscribe()
    }
}
