//! The volumes of a Pod: read, written, written again when what they are made of changes, and their tokens renewed.

use std::{io, time::Duration};

use api::{
    core::{ConfigMap, Secret},
    meta::{StringMap, Time},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{
        Context,
        container::Life,
        env::{self, Places},
        sources::{self, Following},
        volumes::{self, Data, Sources, TokenKey, VolumeError},
    },
    Worker,
    tokens::{Granted, Tokens},
};
use crate::{
    backoff::Backoff,
    client::{ClientError, Path},
    objects::{Object, Revision},
};

/// The objects that volumes were made from, with their revisions; `None` for those that did not exist.
type Read = Vec<((&'static str, String), Option<Revision>)>;

/// Why volumes are not there (yet).
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumesError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("reading {kind} {name:?} for a volume: {source}")]
    Unreadable {
        kind: &'static str,
        name: String,
        source: Box<ClientError>,
    },
    #[error("asking for a token of ServiceAccount {account:?}: {source}")]
    Token {
        account: String,
        source: Box<ClientError>,
    },
    #[error("writing volume {volume:?}: {source}")]
    Write { volume: String, source: io::Error },
}

/// What a worker knows of its Pod's volumes.
pub(super) struct Volumes {
    tokens: Tokens,
    /// The Pod's labels and annotations when the files were last written; `None` while they are not.
    written: Option<(StringMap, StringMap)>,
    /// The objects they were made from.
    following: Vec<Following>,
    backoff: Backoff,
}

impl Default for Volumes {
    fn default() -> Self {
        Self {
            tokens: Tokens::default(),
            written: None,
            following: Vec::new(),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

impl Volumes {
    /// The files went with the sandbox.
    pub(super) fn forget(&mut self) {
        self.written = None;
        self.following.clear();
    }

    /// Waits until something that they are made of has changed: then they are not current any more. Dropping the future loses
    /// nothing.
    pub(super) async fn changed(&mut self) {
        sources::changed(&mut self.following).await;
        self.written = None;
    }

    fn are_current(&self, labels: &StringMap, annotations: &StringMap) -> bool {
        let written = self.written.as_ref();
        written.is_some_and(|(a, b)| a == labels && b == annotations)
            && self.tokens.are_current(Instant::now())
    }
}

#[derive(Deserialize)]
struct TokenRequest {
    status: TokenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    token: String,
    expiration_timestamp: Time,
}

impl Worker {
    /// Sees to it that the files of running containers are current. Returns when to look again.
    pub(super) async fn renew_volumes(&mut self) -> Option<Instant> {
        let idle = !self.lives.iter().any(Life::is_running);
        if idle || self.sandbox.is_none() || self.pod.spec.volumes.is_empty() {
            return None;
        }
        match self.ensure_volumes().await {
            Ok(()) => {
                self.volumes.backoff.reset();
                self.volumes.tokens.renew_at()
            }
            Err(error) => {
                tracing::warn!(pod = %self.name(), %error, "the Pod's volumes are not renewed; trying again");
                Some(Instant::now() + self.volumes.backoff.fail())
            }
        }
    }

    /// Writes the files of all volumes, unless they are current.
    pub(super) async fn ensure_volumes(&mut self) -> Result<(), VolumesError> {
        let meta = &self.pod.metadata;
        let (labels, annotations) = (meta.labels.clone(), meta.annotations.clone());
        if self.pod.spec.volumes.is_empty() || self.volumes.are_current(&labels, &annotations) {
            return Ok(());
        }
        self.renew_tokens().await?;
        let (sources, read) = self.volume_sources().await?;
        // Also when something is missing: its coming is what to wait for then.
        self.follow(read);
        let node = self.context.node_ips;
        let places = Places {
            pod: self.addresses.unwrap_or(node),
            host: node,
        };
        let security = self.pod.spec.security_context.as_ref();
        let group = security.and_then(|security| security.fs_group);
        let group = group.and_then(|group| u32::try_from(group).ok());
        for volume in &self.pod.spec.volumes {
            // Others are refused where they are mounted.
            if !volumes::is_supported(volume) {
                continue;
            }
            let payload = volumes::payload(&self.pod, volume, places, &sources)?;
            let dir = self.volume_dir(&volume.name);
            let write =
                tokio::task::spawn_blocking(move || volumes::write::write(&dir, &payload, group));
            let written = write.await.expect("writing does not panic");
            written.map_err(|source| VolumesError::Write {
                volume: volume.name.to_string(),
                source,
            })?;
        }
        self.volumes.written = Some((labels, annotations));
        Ok(())
    }

    /// Follows what was read, and nothing else.
    fn follow(&mut self, read: Read) {
        let namespace = &self.pod.metadata.namespace;
        let mut before = std::mem::take(&mut self.volumes.following);
        for ((kind, name), revision) in read {
            let known = before.iter().position(|one| one.is_of(kind, &name));
            let following = match known.map(|index| before.swap_remove(index)) {
                Some(mut following) => {
                    following.read_again(revision);
                    Some(following)
                }
                None => {
                    let object = (kind, &**namespace, &*name);
                    let Context {
                        client, followed, ..
                    } = &*self.context;
                    followed.follow(client, object, revision)
                }
            };
            self.volumes.following.extend(following);
        }
    }

    /// Where the agent keeps the files of a volume.
    pub(super) fn volume_dir(&self, volume: &str) -> std::path::PathBuf {
        let uid = &self.pod.metadata.uid;
        self.context.runtime.volume_dir(uid, volume)
    }

    /// Reads what volumes name; what does not exist is left out. Tells the revisions, too.
    async fn volume_sources(&self) -> Result<(Sources, Read), VolumesError> {
        let (mut sources, mut read) = (Sources::default(), Read::new());
        for (kind, name) in volumes::wanted_objects(&self.pod) {
            match self.volume_data(kind, &name).await {
                Ok((data, revision)) => {
                    sources.objects.insert((kind, name.clone()), data);
                    read.push(((kind, name), Some(revision)));
                }
                Err(error) if error.is_not_found() => read.push(((kind, name), None)),
                Err(source) => {
                    let source = Box::new(source);
                    return Err(VolumesError::Unreadable { kind, name, source });
                }
            }
        }
        sources.tokens = self.volumes.tokens.texts();
        Ok((sources, read))
    }

    async fn volume_data(&self, kind: &str, name: &str) -> Result<(Data, Revision), ClientError> {
        let client = &self.context.client;
        let namespace = &self.pod.metadata.namespace;
        let path = |plural| {
            Path::core(plural)
                .namespace(namespace)
                .name(name)
                .to_string()
        };
        if kind == env::CONFIG_MAP {
            let map: ConfigMap = client.get(&path("configmaps")).await?;
            let revision = map.revision();
            return Ok((volumes::config_map_data(map), revision));
        }
        let secret: Secret = client.get(&path("secrets")).await?;
        let revision = secret.revision();
        Ok((volumes::secret_data(secret), revision))
    }

    async fn renew_tokens(&mut self) -> Result<(), VolumesError> {
        let wanted = volumes::wanted_tokens(&self.pod);
        for key in self.volumes.tokens.due(Instant::now(), wanted) {
            let begun = Instant::now();
            let granted = self.new_token(&key).await?;
            self.volumes.tokens.put(key, begun, granted);
        }
        Ok(())
    }

    async fn new_token(&self, key: &TokenKey) -> Result<Granted, VolumesError> {
        let meta = &self.pod.metadata;
        let account = &self.pod.spec.service_account_name;
        let path = Path::core("serviceaccounts")
            .namespace(&meta.namespace)
            .name(account)
            .subresource("token");
        let audiences: Vec<&str> = Some(key.audience.as_str())
            .filter(|audience| !audience.is_empty())
            .into_iter()
            .collect();
        let body: Value = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": key.life_secs,
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid,
                },
            },
        });
        let answer = self.context.client.create(&path.to_string(), &body).await;
        let answer: TokenRequest = answer.map_err(|source| VolumesError::Token {
            account: account.to_string(),
            source: Box::new(source),
        })?;
        let ends = answer.status.expiration_timestamp.timestamp();
        let life = Duration::try_from(ends - Timestamp::now()).unwrap_or_default();
        Ok(Granted {
            token: answer.status.token,
            life,
        })
    }
}
