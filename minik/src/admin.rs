//! The administrator's credentials, as `minik server` writes them at its first start.

use std::{fs, path::Path};

use agent::client::{Client, ClientConfig, Identity};
use anyhow::{Context, Result};
use serde_json::Value;

/// A certificate that may do everything, and how to reach the server.
pub(crate) struct Admin {
    ca: String,
    certificate: String,
    key: String,
    kubeconfig: Value,
}

impl Admin {
    /// Reads the files below a server's data directory.
    pub(crate) fn read(data_dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = data_dir.join(name);
            fs::read_to_string(&path).with_context(|| {
                format!("read {}: run this on the server's host, as the user who runs it, with its --data-dir", path.display())
            })
        };
        let kubeconfig = serde_json::from_str(&read("admin.kubeconfig")?)
            .context("admin.kubeconfig is damaged")?;
        Ok(Self {
            ca: read("tls/ca.crt")?,
            certificate: read("tls/admin.crt")?,
            key: read("tls/admin.key")?,
            kubeconfig,
        })
    }

    /// The cluster's CA certificate, in PEM.
    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }

    /// The server's own address.
    pub(crate) fn server(&self) -> Result<String> {
        let server = self
            .kubeconfig
            .pointer("/clusters/0/cluster/server")
            .and_then(Value::as_str);
        server
            .map(str::to_owned)
            .context("admin.kubeconfig names no server")
    }

    /// A client of the server at `url`.
    pub(crate) fn client(&self, url: &str) -> Result<Client> {
        let identity = Identity::Certificate {
            certificate_pem: self.certificate.clone(),
            key_pem: self.key.clone(),
        };
        let config = ClientConfig {
            server: url.to_owned(),
            ca_pem: self.ca.clone(),
            identity,
        };
        Client::new(config).with_context(|| format!("connect to {url}"))
    }

    /// The same kubeconfig for a server that is reached at `url`.
    pub(crate) fn kubeconfig(&self, url: &str) -> String {
        let mut kubeconfig = self.kubeconfig.clone();
        if let Some(server) = kubeconfig.pointer_mut("/clusters/0/cluster/server") {
            *server = Value::from(url);
        }
        format!("{kubeconfig:#}\n")
    }
}
