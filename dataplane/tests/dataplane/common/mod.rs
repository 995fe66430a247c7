//! Private network namespaces for tests. A namespace belongs to a thread, so tests may run in parallel.

pub(crate) mod random;

use std::{
    fs::File,
    net::SocketAddr,
    num::NonZeroU16,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use dataplane::{
    Dataplane,
    kernel::{Netlink, Ownership},
    model::{Affinity, Endpoint, Family, Fate, Frontend, Masquerade, Memory, Protocol, Scope},
    ruleset::{Holds, Ruleset, Type, sets},
};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this value.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
}

impl Netns {
    /// A new, empty namespace with `lo` up.
    pub(crate) fn new() -> Netns {
        let file = thread::spawn(|| {
            let machine =
                std::fs::read_link("/proc/thread-self/ns/net").expect("read own namespace");
            unshare(CloneFlags::CLONE_NEWNET).expect("a private network namespace (run as root)");
            let own = std::fs::read_link("/proc/thread-self/ns/net").expect("read own namespace");
            assert_ne!(
                machine, own,
                "these tests never run in the machine's own network namespace"
            );
            run("ip link set lo up");
            File::open("/proc/thread-self/ns/net").expect("open own namespace")
        })
        .join()
        .expect("namespace thread");
        Netns { file }
    }

    /// Runs something on a thread inside the namespace.
    pub(crate) fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter namespace");
                what()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip`, `nft` or `sysctl` commands inside, one per line.
    pub(crate) fn commands(&self, lines: &str) {
        self.run(|| {
            lines
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .for_each(|line| drop(run(line)))
        });
    }

    /// A path by which `ip link set … netns PATH` finds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// Runs a command in the calling thread's namespace and returns what it printed.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("this test needs `{program}`: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// Fails with clear words when a tool is missing.
pub(crate) fn need(tool: &str) {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(tool).exists());
    assert!(
        found,
        "this test needs `{tool}`: install the package (Debian: nftables, iproute2)"
    );
}

pub(crate) fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).expect("a port")
}

pub(crate) fn address(addr: &str, protocol: Protocol, number: u16) -> Frontend {
    Frontend::Address {
        addr: addr.parse().expect("an address"),
        protocol,
        port: port(number),
    }
}

pub(crate) fn balance(addrs: &[&str]) -> Fate {
    Fate::Balance {
        endpoints: endpoints(addrs),
        masquerade: Masquerade::NonPodSources,
        affinity: None,
    }
}

fn endpoints(endpoints: &[&str]) -> Arc<[Endpoint]> {
    let endpoints = endpoints.iter().map(|endpoint| {
        let endpoint: SocketAddr = endpoint.parse().expect("an endpoint");
        Endpoint {
            addr: endpoint.ip(),
            port: port(endpoint.port()),
        }
    });
    endpoints.collect()
}

/// What clients outside the cluster get, and what Pods and the node get.
pub(crate) fn local(outside: &[&str], inside: &[&str]) -> Fate {
    Fate::Local {
        outside: endpoints(outside),
        inside: endpoints(inside),
        affinity: None,
    }
}

/// The same fate for these sources only.
pub(crate) fn from(sources: &[&str], fate: Fate) -> Fate {
    Fate::From {
        sources: sources
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect(),
        fate: Box::new(fate),
    }
}

/// Every fate made by this shares one memory.
pub(crate) fn with_affinity(fate: Fate, secs: u64) -> Fate {
    let port = address("10.96.0.2", Protocol::Tcp, 80);
    with_memory(fate, port, Scope::Cluster, secs)
}

pub(crate) fn with_memory(fate: Fate, port: Frontend, scope: Scope, secs: u64) -> Fate {
    let affinity = Some(Affinity {
        timeout: Duration::from_secs(secs),
        memory: Memory { port, scope },
    });
    match fate {
        Fate::Local {
            outside, inside, ..
        } => Fate::Local {
            outside,
            inside,
            affinity,
        },
        Fate::Balance {
            endpoints,
            masquerade,
            ..
        } => Fate::Balance {
            endpoints,
            masquerade,
            affinity,
        },
        other => other,
    }
}

pub(crate) fn node_port(family: Family, number: u16) -> Frontend {
    Frontend::NodePort {
        family,
        protocol: Protocol::Tcp,
        port: port(number),
    }
}

/// The same fate with another source rule.
pub(crate) fn with_masquerade(fate: Fate, masquerade: Masquerade) -> Fate {
    match fate {
        Fate::Balance {
            endpoints,
            affinity,
            ..
        } => Fate::Balance {
            endpoints,
            masquerade,
            affinity,
        },
        other => other,
    }
}

pub(crate) fn open(ownership: Ownership) -> Dataplane<Netlink> {
    let kernel = Netlink::open(ownership).expect("a netlink socket");
    Dataplane::open(kernel).expect("an open dataplane")
}

/// The same elements in maps that another version declared: no packet notices the types of columns, but the kernel does not
/// change them.
pub(crate) fn of_another_make(ruleset: &Ruleset) -> Ruleset {
    let mut other = ruleset.clone();
    let table = other.tables.get_mut(&Family::V4).expect("both families");
    for name in sets::SLOTS.into_iter().chain([sets::SERVICES]) {
        let set = table.sets.get_mut(name).expect("of every table");
        set.kind.holds = Holds::Values(if name == sets::SERVICES {
            vec![Type::Address]
        } else {
            vec![Type::Address, Type::Number]
        });
    }
    other
}
