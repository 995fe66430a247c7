//! What a Pod and its containers should be: plain values, also written to disk for the shim.

use std::{net::IpAddr, num::NonZeroU16, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::Capabilities;

/// Where the runtime keeps things. Several nodes on one machine need different ones.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets and state of living Pods; `pods/UID` below it. On a tmpfs, so that a reboot empties it.
    pub run_dir: PathBuf,
    /// The parent of `NAMESPACE_NAME_UID/CONTAINER/N.log`.
    pub log_dir: PathBuf,
    /// Below the root of every cgroup hierarchy, without a leading slash.
    pub cgroup_parent: String,
    /// The program to run as `EXE shim DIR`: this one.
    pub exe: PathBuf,
    /// The program that the built-in image holds as `/minik`: a static executable.
    pub built_in: PathBuf,
}

/// One Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Unique for ever.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The UTS host name; ignored with [`Network::Host`].
    pub hostname: String,
    /// Whose network it uses.
    pub network: Network,
    /// The content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The content of `/etc/hosts`.
    pub hosts: String,
    /// Ports of the node that lead to the Pod. Somebody else leads them, and finds them here when it was away.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to a port of the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// At this address of the node only; an unspecified one stands for all of its family, `None` for all.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: NonZeroU16,
    /// The Pod's.
    pub pod_port: NonZeroU16,
    /// The transport protocol, by IANA's number.
    pub protocol: u8,
}

/// Whose network a Pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A namespace of its own, with only `lo` until somebody adds an interface.
    Own,
    /// The node's.
    Host,
}

/// What a container's root file system is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Image {
    /// Nothing but this program as `/minik`: its entry point is `/minik echo`.
    BuiltIn,
}

impl Image {
    /// The name of the built-in image, without a tag.
    pub const BUILT_IN: &str = "minik.dev/echo";

    /// Finds an image by its reference; `None` when it is not on this node.
    #[must_use]
    pub fn find(reference: &str) -> Option<Self> {
        let name = reference
            .split_once('@')
            .map_or(reference, |(name, _)| name);
        let name = name.strip_prefix(Self::BUILT_IN)?;
        (name.is_empty() || name.starts_with(':')).then_some(Self::BuiltIn)
    }

    /// What runs when a container names no command.
    #[must_use]
    pub fn entrypoint(&self) -> Vec<String> {
        match self {
            Self::BuiltIn => vec!["/minik".to_owned(), "echo".to_owned()],
        }
    }

    /// The identity of what runs, as `status.containerStatuses[].imageID` shows it.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::BuiltIn => format!("{}@built-in:{}", Self::BUILT_IN, env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Whom a container runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Upper bounds, enforced by cgroups; `None` is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A directory of the node inside a container. Set-uid bits and device nodes in it do nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The directory on the node.
    pub source: PathBuf,
    /// Where it appears; made when it does not exist.
    pub target: String,
    /// Whether nothing can be written through it.
    pub read_only: bool,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name, unique in the Pod.
    pub name: String,
    /// How often it was started before: names the log file.
    pub attempt: u32,
    /// Its files.
    pub image: Image,
    /// Program and arguments, never empty. The program is looked up in `PATH` inside.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The directory it starts in; made when it does not exist.
    pub working_dir: String,
    /// Whom it runs as.
    pub user: User,
    /// Upper bounds.
    pub limits: Limits,
    /// What its root may do, and what no program in it may ever gain.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Whether a set-uid program may gain privileges.
    pub allow_privilege_escalation: bool,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// How its standard streams are made.
    #[serde(default)]
    pub stdio: Stdio,
    /// What else is in it, in this order.
    #[serde(default)]
    pub mounts: Vec<Mount>,
}

/// How a container's standard streams are made. By default there is nothing to read, and a pipe for each output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Whether who attaches can write to its standard input, which is open until then.
    pub stdin: bool,
    /// Whether its standard input ends with the first who attaches to it.
    pub stdin_once: bool,
    /// Whether all three are a terminal.
    pub tty: bool,
}

/// A program to run inside a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// In which container.
    pub container: String,
    /// Program and arguments, never empty.
    pub argv: Vec<String>,
    /// Whether its standard streams are a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether it and what it started are killed when the connection on which it was asked for is closed before its end. A shim of
    /// version 2 lets it run.
    #[serde(default)]
    pub dies_with_caller: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_built_in_image_is_found() {
        for reference in [
            "minik.dev/echo",
            "minik.dev/echo:v1",
            "minik.dev/echo@sha256:0",
        ] {
            assert_eq!(Image::find(reference), Some(Image::BuiltIn), "{reference}");
        }
        for reference in [
            "minik.dev/echoes",
            "busybox",
            "",
            "docker.io/minik.dev/echo",
        ] {
            assert_eq!(Image::find(reference), None, "{reference}");
        }
    }
}
