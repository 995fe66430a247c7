//! The server: sockets, TLS, who calls, and everything wired together.
//!
//! Reading order: `config` (what it is told), this page ([`Server::bind`] and [`Server::serve`]), `listen` (sockets),
//! `connection` (TLS and the requests of one connection), `socket` (when the kernel gives a client up), `node` (join and the other `/minik/v1` paths).

mod config;
mod connection;
mod listen;
mod node;
mod socket;

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::server::graceful::GracefulShutdown;
use rustls::{ServerConfig, pki_types::pem::PemObject as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::connection::Gate;
pub use self::{
    config::{Config, node_prefix},
    listen::inherited,
};
use crate::{
    announcers::Announcers,
    applied::Applied,
    audit,
    auth::{
        Authorizer,
        authentication::Authenticator,
        certificate::ClientCa,
        node::{NodeAuthorizer, graph::Graph},
        policy::Policy,
        rbac::Rbac,
        service_account::Tokens,
    },
    controller,
    http::{self, Check},
    metrics::Metrics,
    pki::{Pki, PkiError},
    registry::{ApiError, Registry},
    store::{EmbeddedStore, StoreError},
    tls::{AnyPeer, provider},
    tunnels::Tunnels,
};

/// How long requests in flight may take to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the server cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A flag's value cannot work.
    #[error("{flag} {value}: {hint}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what to do.
        hint: String,
    },
    /// Somebody else listens there.
    #[error(
        "--bind {address}: the port is taken by another program: stop it, or give another port (`ss -ltnp` shows who has it)"
    )]
    AddressInUse {
        /// Where.
        address: SocketAddr,
    },
    /// The kernel refuses the address.
    #[error(
        "--bind {address}: {source}: give an address of this host and a port this user may open"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A listening socket stopped working.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// A socket that was to be inherited is none.
    #[error("LISTEN_FDS: descriptor {fd} is no listening TCP socket: {source}")]
    Inherited {
        /// The descriptor.
        fd: i32,
        /// The cause.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("--data-dir {}: {source}{}", path.display(), advice(source))]
    DataDir {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Keys or certificates.
    #[error("--data-dir: {0}")]
    Pki(#[from] PkiError),
    /// The store.
    #[error("--data-dir: {0}")]
    Store(#[from] StoreError),
    /// The objects every cluster has cannot be written.
    #[error("set up the cluster's own objects: {0}")]
    Bootstrap(#[from] ApiError),
    /// The store failed while serving.
    #[error(
        "the store stopped: {reason}. Nothing that was acknowledged is lost: make room on the disk or mend it, then start the server again"
    )]
    StoreFailed {
        /// Its last words.
        reason: String,
    },
}

/// What to do about a directory that cannot be used.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": run this as root, or give a directory of your own",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => ": give a directory",
        _ => "",
    }
}

/// A server that owns its sockets, certificates and store, and does not answer yet.
pub struct Server {
    config: Arc<Config>,
    listeners: Vec<std::net::TcpListener>,
    address: SocketAddr,
    pki: Arc<Pki>,
    kubeconfig: PathBuf,
    store: EmbeddedStore,
    registry: Registry,
    audit: Option<audit::Log>,
}

impl Server {
    /// Opens sockets, certificates and store, in this order: what is most likely to be refused comes first.
    ///
    /// # Errors
    /// [`ServerError`]; each says which flag or file, and what to do.
    pub fn bind(mut config: Config) -> Result<Self, ServerError> {
        config.check()?;
        let mut listeners = vec![listen::bind(config.bind)?];
        let address = listen::address(&listeners[0])?;
        for listener in std::mem::take(&mut config.inherited) {
            listeners.push(listen::prepare(listener)?);
        }
        let audit = config.audit.clone().map(|log| {
            audit::Log::open(log.clone()).map_err(|error| ServerError::Flag {
                flag: "--audit-log-path",
                value: log.path.display().to_string(),
                hint: format!("{error}: give a file in a directory that this user may write to"),
            })
        });
        let audit = audit.transpose()?;
        let store_dir = config.data_dir.join("store");
        // Its files hold Secrets, and the engine makes them with whatever umask there is.
        private_dir(&store_dir).map_err(|source| ServerError::DataDir {
            path: config.data_dir.clone(),
            source,
        })?;
        let pki = Pki::open(&config.data_dir, &config.server_names())?;
        let url = format!(
            "https://{}",
            SocketAddr::new(config.advertised(), address.port())
        );
        let kubeconfig = pki.write_kubeconfig(&config.data_dir, &url)?;
        let store = EmbeddedStore::open(&store_dir)?;
        let registry = Registry::new(Arc::new(store.clone()), config.context());
        Ok(Self {
            config: Arc::new(config),
            listeners,
            address,
            pki: Arc::new(pki),
            kubeconfig,
            store,
            registry,
            audit,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    /// The certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The objects, for callers in the same process.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Answers until `shutdown` is ready, then stops: no new connections, watches end, requests in flight finish, the
    /// controllers stop, the store closes cleanly.
    ///
    /// # Errors
    /// [`ServerError::Bootstrap`], [`ServerError::Listen`], [`ServerError::StoreFailed`], or a store that does not close.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let stop = CancellationToken::new();
        let cluster = controller::Cluster {
            pki: self.pki.clone(),
            advertise: SocketAddr::new(self.config.advertised(), self.address.port()),
            api_service_ip: self.config.api_service_ip(),
            cluster_dns: self.config.cluster_dns,
            service_cidrs: self.config.service_cidrs.clone(),
            pod_cidrs: self.config.pod_cidrs.clone(),
            node_grace: self.config.node_grace,
            load_balancer_pool: self.config.pool(),
        };
        controller::bootstrap(&self.registry, &cluster).await?;
        controller::definitions::load(&self.registry).await?;
        let rbac = Arc::<Rbac>::default();
        let mut roles = controller::rbac::start(&self.registry, rbac.clone(), stop.clone()).await;
        let (graph, named) = watch::channel(Graph::default());
        let mut pods = controller::node_graph::start(&self.registry, graph, stop.clone()).await;
        let nodes = NodeAuthorizer::new(self.registry.clone(), named);
        let policy = Policy::new(nodes, rbac);
        let (applied, announcers) = (Applied::default(), Announcers::default());
        let metrics = Metrics::new(self.audit.as_ref());
        let controllers = controller::start(
            self.registry.clone(),
            cluster,
            (applied.clone(), announcers.clone()),
            metrics.clone(),
            stop.clone(),
        );
        let gate = self.gate(policy, (applied, announcers), metrics, stop.clone())?;
        let graceful = GracefulShutdown::new();
        let result = self.accept_until(shutdown, &gate, &graceful).await;
        tracing::info!("stopping");
        stop.cancel();
        if tokio::time::timeout(DRAIN, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!(waited_ms = DRAIN.as_millis(), "connections were cut");
        }
        controllers.join().await;
        if let Some(log) = &self.audit {
            let _ = tokio::time::timeout(DRAIN, log.flush()).await;
        }
        while roles.join_next().await.is_some() {}
        while pods.join_next().await.is_some() {}
        // A store that has failed cannot be closed: its own last words say more than that.
        result?;
        Ok(self.store.close().await?)
    }

    fn gate(
        &self,
        authorizer: Arc<dyn Authorizer>,
        reports: (Applied, Announcers),
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<Gate, ServerError> {
        let authenticator = Authenticator {
            registry: self.registry.clone(),
            tokens: Arc::new(self.tokens()),
            authorizer,
        };
        let tunnels = Tunnels::default();
        let state = http::State {
            registry: self.registry.clone(),
            authorizer: authenticator.authorizer.clone(),
            tokens: authenticator.tokens.clone(),
            checks: Arc::new(vec![store_check(&self.store), readiness(stop.clone())]),
            metrics,
            tunnels: tunnels.clone(),
        };
        let nodes = node::State::new(
            self.registry.clone(),
            self.pki.clone(),
            self.config.clone(),
            reports,
            tunnels,
        );
        let router = node::router(nodes).merge(http::router(state));
        let client_ca = client_ca(&self.pki)?;
        Ok(Gate::new(
            tls(&self.pki, &client_ca)?,
            client_ca,
            router,
            authenticator,
            self.audit.clone(),
            stop,
        ))
    }

    fn tokens(&self) -> Tokens {
        let issuer = format!(
            "https://kubernetes.default.svc.{}",
            self.config.cluster_domain
        );
        let advertised = SocketAddr::new(self.config.advertised(), self.address.port());
        let server = format!("https://{advertised}");
        Tokens::new(issuer, &server, self.pki.token_keys().clone())
    }

    async fn accept_until(
        &self,
        shutdown: impl Future<Output = ()>,
        gate: &Gate,
        graceful: &GracefulShutdown,
    ) -> Result<(), ServerError> {
        let mut accepting = tokio::task::JoinSet::new();
        let (sender, mut accepted) = tokio::sync::mpsc::channel(64);
        for listener in &self.listeners {
            accepting.spawn(listen::accept(
                listen::into_tokio(listener)?,
                sender.clone(),
            ));
        }
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                failure = self.store.failed() => {
                    return Err(ServerError::StoreFailed { reason: failure.0 });
                }
                Some(stream) = accepted.recv() => {
                    let watcher = graceful.watcher();
                    tokio::spawn(gate.clone().connection(stream, watcher));
                }
            }
        }
    }
}

/// Makes a directory that only its owner can enter, or makes it so.
fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// A store that has failed stays failed.
fn store_check(store: &EmbeddedStore) -> Check {
    let store = store.clone();
    Check {
        name: "store",
        live: true,
        run: Box::new(move || match store.failure() {
            Some(failure) => Err(failure.0),
            None => Ok(()),
        }),
    }
}

/// Not ready any more once the server stops (Q3).
fn readiness(stop: CancellationToken) -> Check {
    Check {
        name: "shutdown",
        live: false,
        run: Box::new(move || {
            if stop.is_cancelled() {
                return Err("the server is stopping".into());
            }
            Ok(())
        }),
    }
}

fn tls_error(pki: &Pki, error: &dyn std::fmt::Display) -> PkiError {
    PkiError::Tls {
        dir: pki.dir().to_owned(),
        source: rustls::Error::General(error.to_string()),
    }
}

/// Who judges the certificates of clients.
fn client_ca(pki: &Pki) -> Result<ClientCa, PkiError> {
    ClientCa::new(pki.ca_der()).map_err(|error| tls_error(pki, &error))
}

/// TLS by ring. Clients may show a certificate, of any CA: what it is worth is asked when the handshake is over (U1).
fn tls(pki: &Pki, client_ca: &ClientCa) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = provider();
    let any_client = AnyPeer::new(&provider).with_hints(client_ca.hints());
    let certificate =
        rustls::pki_types::CertificateDer::from_pem_slice(pki.server().certificate_pem.as_bytes());
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pki.server().key_pem.as_bytes());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_error(pki, &error))?
        .with_client_cert_verifier(Arc::new(any_client))
        .with_single_cert(
            vec![certificate.map_err(|error| tls_error(pki, &error))?],
            key.map_err(|error| tls_error(pki, &error))?,
        )
        .map_err(|error| tls_error(pki, &error))?;
    // A client without ALPN is served HTTP/1.1 (N10); upgrades come that way.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
