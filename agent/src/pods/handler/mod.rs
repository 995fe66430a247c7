//! What a probe asks of a container, or a hook does to it, once.
//!
//! Everything is dialled from the node, in its own network namespace: whatever policy stands between Pods does not concern it.
//! The words of failures are the kubelet's, so that those who look for them find them.
//!
//! Source: kubernetes/kubernetes pkg/probe, pkg/kubelet/lifecycle/handlers.go.

mod exec;
mod grpc;
mod http;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use api::core::{Container, IntOrString, LifecycleHandler, Probe};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// How much of an answer is read, and kept of what a program says.
const OUTPUT_LIMIT_BYTES: usize = 10 << 10;
/// As whom the probes introduce themselves: the version is that of the API which is served.
const USER_AGENT: &str = "kube-probe/1.33";

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// A success, with something to be told.
    Warning(String),
    Failure(String),
    /// It could not be done at all, which says nothing about the container.
    Error(String),
}

/// A container as it can be reached.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) pod: Arc<runtime::Pod>,
    pub(super) address: IpAddr,
}

/// One action of a probe or hook, with everything it needs.
#[derive(Clone, Debug)]
pub(super) enum Handler {
    Exec(exec::Command),
    Http(http::Get),
    Tcp {
        host: String,
        port: u16,
    },
    Grpc(grpc::Check),
    Sleep(Duration),
    /// A named port that the container does not have, or nothing that this version knows.
    Impossible(String),
}

impl Handler {
    pub(super) fn of_probe(probe: &Probe, container: &Container, target: &Target) -> Self {
        let made = if let Some(exec) = &probe.exec {
            Ok(Self::exec(&exec.command, container, target))
        } else if let Some(get) = &probe.http_get {
            port(&get.port, container).map(|port| Self::Http(http::Get::new(get, target, port)))
        } else if let Some(tcp) = &probe.tcp_socket {
            port(&tcp.port, container).map(|port| Self::Tcp {
                host: host_or(&tcp.host, target),
                port,
            })
        } else if let Some(grpc) = &probe.grpc {
            let number = IntOrString::Int(grpc.port);
            port(&number, container).map(|port| {
                let service = grpc.service.as_deref().unwrap_or_default().to_owned();
                Self::Grpc(grpc::Check::new(target.address, port, service))
            })
        } else {
            Err("it has no handler of exec, httpGet, tcpSocket and grpc".to_owned())
        };
        made.unwrap_or_else(Self::Impossible)
    }

    pub(super) fn of_hook(hook: &LifecycleHandler, container: &Container, target: &Target) -> Self {
        let made = if let Some(exec) = &hook.exec {
            Ok(Self::exec(&exec.command, container, target))
        } else if let Some(get) = &hook.http_get {
            port(&get.port, container).map(|port| Self::Http(http::Get::new(get, target, port)))
        } else if let Some(pause) = &hook.sleep {
            let secs = u64::try_from(pause.seconds).unwrap_or(0);
            Ok(Self::Sleep(Duration::from_secs(secs)))
        } else {
            // As upstream: tcpSocket is accepted, and cannot be done.
            Err("it has no handler of exec, httpGet and sleep".to_owned())
        };
        made.unwrap_or_else(Self::Impossible)
    }

    fn exec(command: &[Box<str>], container: &Container, target: &Target) -> Self {
        Self::Exec(exec::Command {
            pod: Arc::clone(&target.pod),
            container: container.name.to_string(),
            argv: command.iter().map(ToString::to_string).collect(),
        })
    }

    /// Whether asking costs next to nothing. A program in a container costs milliseconds.
    pub(super) fn is_cheap(&self) -> bool {
        !matches!(self, Self::Exec(_))
    }

    /// Asks, for at most so long.
    pub(super) async fn probe(&self, limit: Duration) -> Outcome {
        let asking = async {
            match self {
                Self::Exec(command) => command.run().await,
                Self::Http(get) => get.probe().await,
                Self::Tcp { host, port } => match connect(host, *port).await {
                    Ok(_) => Outcome::Success,
                    Err(error) => Outcome::Failure(error),
                },
                Self::Grpc(check) => check.run(limit).await,
                Self::Sleep(pause) => {
                    sleep(*pause).await;
                    Outcome::Success
                }
                Self::Impossible(why) => Outcome::Error(why.clone()),
            }
        };
        let asked = timeout(limit, asking).await;
        asked.unwrap_or_else(|_| Outcome::Failure(self.too_late(limit)))
    }

    fn too_late(&self, limit: Duration) -> String {
        match self {
            Self::Exec(command) => command.too_late(limit),
            Self::Http(get) => get.too_late(),
            Self::Tcp { host, port } => format!("dial tcp {}: i/o timeout", joined(host, *port)),
            Self::Grpc(check) => check.too_late(limit),
            Self::Sleep(_) | Self::Impossible(_) => format!("not done within {limit:?}"),
        }
    }

    /// Does it once, however long that takes. A hook over HTTP is done when there is an answer, whatever its status.
    ///
    /// # Errors
    /// Why it failed.
    pub(super) async fn hook(&self) -> Result<(), String> {
        let outcome = match self {
            Self::Http(get) => return get.answer().await.map(drop).map_err(|e| e.to_string()),
            Self::Exec(command) => command.run().await,
            other => other.probe(Duration::MAX).await,
        };
        match outcome {
            Outcome::Success | Outcome::Warning(_) => Ok(()),
            Outcome::Failure(why) | Outcome::Error(why) => Err(why),
        }
    }
}

/// The number of a port that may be a name of the container's.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter();
            match ports.find(|port| port.name == *name) {
                Some(port) => i64::from(port.container_port),
                None => name.parse().map_err(|_| {
                    format!("port {name:?} is no port of container {}", container.name)
                })?,
            }
        }
    };
    let number = u16::try_from(number).ok().filter(|number| *number != 0);
    number.ok_or_else(|| format!("invalid port number: {port}"))
}

fn host_or(host: &str, target: &Target) -> String {
    if host.is_empty() {
        target.address.to_string()
    } else {
        host.to_owned()
    }
}

/// `host:port`, with brackets around an IPv6 address.
fn joined(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect((host, port)).await;
    connected.map_err(|error| format!("dial tcp {}: {}", joined(host, port), words(&error)))
}

/// What went wrong with a connection, in the words of the reference's language.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_a_number_or_a_name_of_the_container() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "ports": [{"name": "http", "containerPort": 8080}],
        }))
        .expect("a container");
        for (asked, wanted) in [
            (json!(80), Ok(80)),
            (json!("http"), Ok(8080)),
            (json!("81"), Ok(81)),
            (json!("web"), Err("port \"web\" is no port of container c")),
            (json!(0), Err("invalid port number: 0")),
            (json!(65536), Err("invalid port number: 65536")),
        ] {
            let asked: IntOrString = serde_json::from_value(asked).expect("a port");
            assert_eq!(port(&asked, &container), wanted.map_err(str::to_owned));
        }
    }

    #[tokio::test]
    async fn tcp_succeeds_when_somebody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let host = "127.0.0.1".to_owned();
        let handler = Handler::Tcp { host, port };
        let limit = Duration::from_secs(5);
        assert_eq!(handler.probe(limit).await, Outcome::Success);
        drop(listener);
        let wanted = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(handler.probe(limit).await, Outcome::Failure(wanted));
    }
}
