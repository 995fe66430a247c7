//! Writes the Events of one Pod, while its worker does other things: a server that is away must not hold up a restart.

use std::sync::Arc;

use api::core::Pod;
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Happening,
    ledger::{Ledger, Telling},
};
use crate::client::{Client, ClientError, PatchKind, Path};

/// What may wait to be told. More is lost, and missed by nobody: the status has what counts.
const QUEUE: usize = 16;

/// Where the happenings of a Pod are told.
pub(in crate::pods) struct Teller {
    queue: mpsc::Sender<Happening>,
}

impl Teller {
    pub(in crate::pods) fn new(client: Client, pod: Arc<Pod>) -> Self {
        let (queue, happenings) = mpsc::channel(QUEUE);
        let events = Events {
            client,
            pod,
            ledger: Ledger::new(Instant::now()),
        };
        // It ends with the last happening, once nobody can tell more.
        tokio::spawn(events.tell_all(happenings));
        Self { queue }
    }

    pub(in crate::pods) fn tell(&self, what: Happening) {
        if self.queue.try_send(what).is_err() {
            tracing::debug!("an Event was not written: too many wait already");
        }
    }
}

struct Events {
    client: Client,
    pod: Arc<Pod>,
    ledger: Ledger,
}

impl Events {
    async fn tell_all(mut self, mut happenings: mpsc::Receiver<Happening>) {
        while let Some(what) = happenings.recv().await {
            if let Err(error) = self.tell(what).await {
                let meta = &self.pod.metadata;
                tracing::debug!(pod = %format_args!("{}/{}", meta.namespace, meta.name), %error, "an Event was not written");
            }
        }
    }

    async fn tell(&mut self, what: Happening) -> Result<(), ClientError> {
        match self.ledger.happened(&what, Instant::now()) {
            Telling::Nothing => Ok(()),
            Telling::New => self.create(what).await,
            Telling::Again(name, patch) => {
                let path = self.path().name(&name).to_string();
                let patched = self.client.patch::<Value>(&path, PatchKind::Merge, &patch);
                match patched.await {
                    Err(error) if error.is_not_found() => {
                        self.ledger.forget(&what);
                        self.create(what).await
                    }
                    other => other.map(drop),
                }
            }
        }
    }

    async fn create(&mut self, what: Happening) -> Result<(), ClientError> {
        let object = what.object(&self.pod, &self.pod.spec.node_name);
        let made: Value = self
            .client
            .create(&self.path().to_string(), &object)
            .await?;
        if let Some(name) = made["metadata"]["name"].as_str() {
            self.ledger.told(what, name.to_owned());
        }
        Ok(())
    }

    fn path(&self) -> Path {
        Path::core("events").namespace(&self.pod.metadata.namespace)
    }
}
