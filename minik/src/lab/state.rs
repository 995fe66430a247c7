//! What is known of a lab between two commands: files below `/run/minik-lab/NAME`.
//!
//! ```text
//! topology.json          its hosts, written before the first of them exists
//! ready                  present once `up` has finished
//! kubeconfig             for kubectl on this machine
//! HOST/pid               the host's first process, as this machine numbers it
//! HOST/control.sock      commands to that process
//! HOST/{log,lib,run,pods}  logs and state of what runs on the host
//! ```

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use serde_json::Value;

use super::topology::{Host, Role};

const ROOT: &str = "/run/minik-lab";

/// One lab's directory.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    /// The lab's name.
    pub(crate) name: String,
    dir: PathBuf,
}

impl Lab {
    /// The lab of this name, whether it is up or not.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let valid = !name.is_empty()
            && name.len() <= 20
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !valid {
            bail!("--name {name:?}: use 1 to 20 of a-z, 0-9 and '-'");
        }
        Ok(Self {
            name: name.to_owned(),
            dir: Path::new(ROOT).join(name),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn host_dir(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Where the API server is reached from this machine.
    pub(crate) fn api_url(&self) -> Result<String> {
        let path = self.kubeconfig();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let kubeconfig: Value =
            serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        let server = kubeconfig.pointer("/clusters/0/cluster/server");
        let server = server.and_then(Value::as_str).map(str::to_owned);
        server.with_context(|| format!("{} names no server", path.display()))
    }

    /// Where `minik server` of this lab keeps its files.
    pub(crate) fn server_data_dir(&self) -> PathBuf {
        self.host_dir("control").join("lib/server")
    }

    /// The cgroup, below each hierarchy's root, that holds the Pods of one host.
    pub(crate) fn cgroup(&self, host: &str) -> String {
        format!("minik-lab-{}/{host}", self.name)
    }

    /// Whether this lab has a directory: it is up, half up, or was left behind.
    pub(crate) fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Whether an `up` got as far as to name the hosts.
    pub(crate) fn has_hosts(&self) -> bool {
        self.dir.join("topology.json").exists()
    }

    /// The names of the labs of this machine, up or left behind.
    pub(crate) fn names() -> Vec<String> {
        let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The kubeconfig, for root and for the user on whose behalf sudo runs this.
    pub(crate) fn write_kubeconfig(&self, text: &str) -> Result<()> {
        let path = self.kubeconfig();
        let explain = || format!("write {}", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .with_context(explain)?;
        file.write_all(text.as_bytes()).with_context(explain)?;
        let id = |name: &str| std::env::var(name).ok()?.parse().ok();
        match (id("SUDO_UID"), id("SUDO_GID")) {
            (Some(user), group) => fchown(&file, Some(user), group)
                .with_context(|| format!("give {} to user {user}", path.display())),
            _ => Ok(()),
        }
    }

    /// Whether `up` finished and every host still lives.
    pub(crate) fn is_up(&self) -> bool {
        self.dir.join("ready").exists()
            && self
                .hosts()
                .is_ok_and(|hosts| hosts.iter().all(|host| self.pid(&host.name).is_ok()))
    }

    pub(crate) fn mark_ready(&self) -> Result<()> {
        fs::write(self.dir.join("ready"), "").context("mark the lab as ready")
    }

    /// Creates the directories and records which hosts there will be.
    pub(crate) fn create(&self, hosts: &[Host]) -> Result<()> {
        for host in hosts {
            for sub in ["log", "lib", "run", "pods"] {
                let dir = self.host_dir(&host.name).join(sub);
                fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
            }
        }
        let topology = serde_json::to_vec_pretty(hosts).context("encode the topology")?;
        fs::write(self.dir.join("topology.json"), topology).context("write topology.json")
    }

    /// The hosts that `up` recorded.
    pub(crate) fn hosts(&self) -> Result<Vec<Host>> {
        let path = self.dir.join("topology.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("{}", self.not_up()),
            other => other.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))
    }

    fn not_up(&self) -> String {
        let others = match Self::names().join(", ") {
            names if names.is_empty() => "there is no other".to_owned(),
            names => format!("there is {names}"),
        };
        format!(
            "lab {:?} is not up: `minik lab up --name {}` first, or give the --name of another ({others})",
            self.name, self.name
        )
    }

    /// One host by name, with an error that lists the others.
    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        let hosts = self.hosts()?;
        if let Some(host) = hosts.iter().find(|host| host.name == name) {
            return Ok(host.clone());
        }
        let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
        bail!(
            "no host {name:?} in lab {:?}; it has {}",
            self.name,
            names.join(", ")
        )
    }

    /// A host that runs a unit that can be killed and started.
    pub(crate) fn unit_of(&self, name: &str) -> Result<&'static str> {
        match self.host(name)?.role {
            Role::Control => Ok("server"),
            Role::Node => Ok("agent"),
            Role::Database => Ok("echo"),
            Role::Switch | Role::Client => {
                bail!("{name} runs nothing that could be killed or started")
            }
        }
    }

    /// The first process of a living host.
    ///
    /// The number is trusted only while that process is in a PID namespace other than ours: a recycled number is then
    /// almost certainly not taken for a host, and a host that died is seen as dead.
    pub(crate) fn pid(&self, host: &str) -> Result<Pid> {
        let path = self.host_dir(host).join("pid");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{host} is not running ({})", path.display()))?;
        let mut words = text.split_whitespace();
        let (Some(pid), Some(namespace)) = (words.next(), words.next()) else {
            bail!("{} is damaged", path.display());
        };
        let found = fs::metadata(format!("/proc/{pid}/ns/net"))
            .with_context(|| format!("{host} is not running, or cannot be seen (process {pid})"))?
            .ino();
        if namespace.parse() != Ok(found) {
            bail!("{host} is not running (process {pid} is another one now)");
        }
        Ok(Pid::from_raw(pid.parse().with_context(|| {
            format!("{} is damaged", path.display())
        })?))
    }

    /// Records the first process of a host with its network namespace's inode.
    pub(crate) fn record_pid(&self, host: &str, pid: Pid) -> Result<()> {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net"))
            .context("inspect the new namespace")?
            .ino();
        let path = self.host_dir(host).join("pid");
        // Whole or not at all, for whoever looks meanwhile.
        let new = path.with_extension("new");
        fs::write(&new, format!("{pid} {namespace}\n"))
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Forgets everything.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.dir.display()))
            }
            _ => {
                // The last lab takes the common directory with it; with others still there this fails, as it should.
                let _ = fs::remove_dir(ROOT);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_the_directory_is_refused() {
        for name in [
            "",
            "..",
            "a/b",
            "UPPER",
            "a-name-that-is-longer-than-twenty",
        ] {
            assert!(Lab::named(name).is_err(), "{name:?} was accepted");
        }
        assert!(Lab::named("demo-2").is_ok());
    }
}
