//! Starting: the sandbox, the environment, the container.

use std::{collections::BTreeMap, time::Duration};

use api::core::{ConfigMap, Container, Secret};
use jiff::Timestamp;
use runtime::{HostPort, Image};

use super::{
    super::{
        env::{self, Places, Sources},
        host_ports::{self, HostPortError},
        sandbox::{Sandbox, SandboxError},
        spec,
    },
    IMAGE_AGAIN, Worker,
};
use crate::{
    client::{ClientError, Path},
    reconcile::lock,
};

/// Why a container cannot be told what to run (yet).
#[derive(Debug, thiserror::Error)]
enum ConfigError {
    #[error(transparent)]
    Environment(#[from] env::EnvError),
    #[error("reading {kind} {name:?}: {source}")]
    Unreadable {
        kind: &'static str,
        name: String,
        source: Box<ClientError>,
    },
}

/// When to look again whether the Services are known, which takes moments.
const SERVICES_AGAIN: Duration = Duration::from_millis(50);
/// When to look again for what volumes are made of: in a new namespace it comes within moments.
const VOLUMES_AGAIN: Duration = Duration::from_secs(1);
/// When to try again to start what failed to start.
const START_AGAIN: Duration = Duration::from_secs(10);

impl Worker {
    /// Starts one attempt of a container, or notes why it cannot.
    pub(super) async fn start(&mut self, index: usize, attempt: u32) {
        let container = self.pod.spec.containers[index].clone();
        let Some(image) = Image::find(&container.image) else {
            let message = format!(
                "image {:?} is not on this node: this version runs the built-in image {} only",
                container.image,
                Image::BUILT_IN
            );
            return self.lives[index].cannot_start(
                "ErrImagePull",
                message,
                Timestamp::now() + IMAGE_AGAIN,
            );
        };
        if let Err(error) = self.ensure_sandbox().await {
            tracing::warn!(pod = %self.name(), %error, "the Pod's sandbox cannot be made");
            let again = Timestamp::now() + START_AGAIN;
            return self.lives[index].cannot_start(
                "CreatePodSandboxError",
                error.to_string(),
                again,
            );
        }
        if !self.context.knows_services() {
            let message = "the Services of the cluster are not known to this node yet".to_owned();
            let again = Timestamp::now() + SERVICES_AGAIN;
            return self.lives[index].cannot_start("ContainerCreating", message, again);
        }
        if let Err(error) = self.ensure_volumes().await {
            let again = Timestamp::now() + VOLUMES_AGAIN;
            return self.lives[index].cannot_start("ContainerCreating", error.to_string(), again);
        }
        let spec = self.environment(&container).await.and_then(|environment| {
            let spec = spec::container_spec(&self.pod, &container, attempt, image, environment);
            let mut spec = spec?;
            spec.mounts = spec::mounts(&container, |volume| self.volume_dir(volume));
            Ok(spec)
        });
        let spec = match spec {
            Ok(spec) => spec,
            Err(error) => {
                let again = Timestamp::now() + START_AGAIN;
                return self.lives[index].cannot_start(
                    "CreateContainerConfigError",
                    error.to_string(),
                    again,
                );
            }
        };
        let Some(sandbox) = &self.sandbox else { return };
        match sandbox.start(spec).await {
            Ok(()) => {
                self.lives[index].started(attempt, Timestamp::now());
                self.tend();
            }
            Err(error) => {
                tracing::warn!(pod = %self.name(), container = %container.name, %error, "container did not start");
                let again = Timestamp::now() + START_AGAIN;
                self.lives[index].cannot_start("RunContainerError", error.to_string(), again);
            }
        }
    }

    async fn ensure_sandbox(&mut self) -> Result<(), SandboxError> {
        if self.sandbox.is_some() {
            return Ok(());
        }
        let host_network = self.pod.spec.host_network;
        let host_ports = self.claim_host_ports().await?;
        let network = Some(&self.context.network).filter(|_| !host_network);
        let addresses = match (self.addresses, network) {
            (Some(addresses), _) => addresses,
            (None, Some(network)) => network.allocate()?,
            (None, None) => self.context.node_ips,
        };
        self.addresses = Some(addresses);
        let spec = spec::pod_spec(
            &self.pod,
            addresses,
            &self.context.dns,
            &self.context.host_hosts,
            host_ports,
        );
        let sandbox = Sandbox::create(&self.context.runtime, network, spec, addresses).await;
        match sandbox {
            Ok(sandbox) => {
                self.context.local_pod_came(sandbox.spec(), addresses);
                self.sandbox = Some(sandbox);
                Ok(())
            }
            Err(error) => {
                self.release().await;
                Err(error)
            }
        }
    }

    /// The ports of the node that lead to this Pod, which are this Pod's from now on.
    async fn claim_host_ports(&self) -> Result<Vec<HostPort>, SandboxError> {
        let ports = host_ports::of(&self.pod)?;
        let uid = &self.pod.metadata.uid;
        for host_ip in ports.iter().filter_map(|port| port.host_ip) {
            // What is sent elsewhere is not this Pod's to take.
            if !host_ip.is_unspecified() && !self.context.network.has_address(host_ip).await? {
                return Err(HostPortError::Foreign { host_ip }.into());
            }
        }
        self.context.host_ports.claim(uid, &self.name(), &ports)?;
        Ok(ports)
    }

    async fn environment(
        &self,
        container: &Container,
    ) -> Result<Vec<(String, String)>, ConfigError> {
        let sources = self.sources(container).await?;
        let links = self.pod.spec.enable_service_links.unwrap_or(true);
        let namespace = &self.pod.metadata.namespace;
        let services = {
            let view = lock(&self.context.view);
            env::service_variables(&view.services_for_pods(namespace), namespace, links)
        };
        let node = self.context.node_ips;
        let places = Places {
            pod: self.addresses.unwrap_or(node),
            host: node,
        };
        Ok(env::environment(
            &self.pod, container, places, &sources, &services,
        )?)
    }

    /// Reads the ConfigMaps and Secrets that a container names; what does not exist is left out, and named later. Anything else
    /// that stands in the way is an error: an optional one that is there must not be missing because the server was not.
    async fn sources(&self, container: &Container) -> Result<Sources, ConfigError> {
        let mut sources = Sources::new();
        for (kind, name) in env::wanted_sources(container) {
            match self.source(kind, &name).await {
                Ok(values) => {
                    sources.insert((kind, name), values);
                }
                Err(error) if error.is_not_found() => {}
                Err(source) => {
                    let source = Box::new(source);
                    return Err(ConfigError::Unreadable { kind, name, source });
                }
            }
        }
        Ok(sources)
    }

    async fn source(
        &self,
        kind: &str,
        name: &str,
    ) -> Result<BTreeMap<String, String>, ClientError> {
        let namespace = &self.pod.metadata.namespace;
        let path = |resource| {
            Path::core(resource)
                .namespace(namespace)
                .name(name)
                .to_string()
        };
        if kind == env::CONFIG_MAP {
            let config_map: ConfigMap = self.context.client.get(&path("configmaps")).await?;
            return Ok(config_map
                .data
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect());
        }
        let secret: Secret = self.context.client.get(&path("secrets")).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(secret
            .data
            .into_iter()
            .map(|(key, value)| (key.into(), text(value.0)))
            .collect())
    }
}
