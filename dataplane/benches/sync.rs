//! What the kernel and we need for 1 000, 10 000 and 30 000 Services with 10 endpoints each, and 5 000 with 50: loading all,
//! replacing one endpoint, adding one, removing one, reading all back, replacing maps of another make. Runs in a network namespace of its own, as root.
//!
//! Prints a table (medians, elapsed time and CPU time of user and kernel) and one JSON line per size. `cargo bench -p dataplane [-- SERVICESxENDPOINTS...]`

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::{
    Dataplane,
    kernel::{Holder, Kernel, KernelError, Netlink, Ownership, Snapshot},
    model::{Change, Desired, Endpoint, Family, Fate, Frontend, Masquerade, Protocol},
    plan::{Operation, plan},
    ruleset::{Holds, Ruleset, Type, sets},
    wire::{Chunk, UdpFlow},
};
use nix::{
    sched::{CloneFlags, unshare},
    time::{ClockId, clock_gettime},
};

const SIZES: [Size; 4] = [(1_000, 10), (10_000, 10), (30_000, 10), (5_000, 50)];
const ROUNDS: usize = 5;
const CHANGES: u32 = 31;

/// Services, and endpoints of each.
type Size = (u32, u32);

fn main() {
    let parse = |arg: String| {
        let (services, endpoints) = arg.split_once('x')?;
        Some((services.parse().ok()?, endpoints.parse().ok()?))
    };
    let wanted: Vec<Size> = std::env::args().filter_map(parse).collect();
    let sizes = if wanted.is_empty() {
        SIZES.to_vec()
    } else {
        wanted
    };
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("this benchmark needs root, for a network namespace of its own");
    println!("Services x endpoints: elapsed (CPU) in ms, medians of {ROUNDS} rounds");
    let heads = [
        "full sync",
        "longest transaction",
        "endpoint replaced",
        "endpoint added",
        "endpoint removed",
        "restart",
        "maps of other make",
        "longest transaction",
    ];
    println!(
        "{:>12}{}",
        "",
        heads.map(|head| format!("{head:>21}")).concat()
    );
    for size in sizes {
        report(size);
    }
}

fn report((services, endpoints): Size) {
    let desired = cluster((services, endpoints));
    let (mut loads, mut longest, mut restarts) = (vec![], vec![], vec![]);
    let (mut replaced, mut added, mut removed) = (vec![], vec![], vec![]);
    let (mut remade, mut longest_remaking) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let mut dataplane = open();
        loads.push(timed(|| _ = dataplane.replace(&desired).expect("replace")));
        longest.push(dataplane.kernel_mut().longest);
        for round in 0..CHANGES {
            replaced.push(change(&mut dataplane, services, round, endpoints));
            added.push(change(&mut dataplane, services, round, endpoints + 1));
            removed.push(change(&mut dataplane, services, round, endpoints));
        }
        dataplane.replace(&desired).expect("replace");
        drop(dataplane);
        let mut successor = None;
        restarts.push(timed(|| {
            let dataplane = successor.insert(open());
            let applied = dataplane.replace(&desired).expect("replace");
            assert_eq!(applied.transactions, 0, "a restart changes nothing");
        }));
        let mut successor = successor.expect("just opened");
        successor.remove().expect("remove");
        drop(successor);
        load_another_make(&desired);
        let mut successor = open();
        remade.push(timed(|| _ = successor.replace(&desired).expect("replace")));
        longest_remaking.push(successor.kernel_mut().longest);
        successor.remove().expect("remove");
    }
    let columns = [
        ("full_sync", loads, 1),
        ("longest_transaction", longest, 1),
        ("endpoint_replaced", replaced, 3),
        ("endpoint_added", added, 3),
        ("endpoint_removed", removed, 3),
        ("restart", restarts, 0),
        ("other_make", remade, 0),
        ("other_make_longest_transaction", longest_remaking, 1),
    ]
    .map(|(name, times, digits)| (name, Time::median(times), digits));
    let cells = columns
        .map(|(_, time, digits)| format!("{:.digits$} ({:.digits$})", time.elapsed, time.cpu));
    println!(
        "{:>12}{}",
        format!("{services} x {endpoints}"),
        cells.map(|cell| format!("{cell:>21}")).concat()
    );
    let fields = columns.map(|(name, time, _)| {
        format!(
            ",\"{name}_ms\":{:.4},\"{name}_cpu_ms\":{:.4}",
            time.elapsed, time.cpu
        )
    });
    println!(
        "{{\"services\":{services},\"endpoints\":{endpoints}{}}}",
        fields.concat()
    );
}

/// Milliseconds that something took.
#[derive(Clone, Copy, Default)]
struct Time {
    elapsed: f64,
    cpu: f64,
}

impl Time {
    fn median(times: Vec<Time>) -> Time {
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Time {
            elapsed: middle(times.iter().map(|time| time.elapsed).collect()),
            cpu: middle(times.iter().map(|time| time.cpu).collect()),
        }
    }
}

fn timed(what: impl FnOnce()) -> Time {
    let cpu_now = || {
        let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
        Duration::from(now).as_secs_f64() * 1e3
    };
    let (start, cpu) = (Instant::now(), cpu_now());
    what();
    Time {
        elapsed: start.elapsed().as_secs_f64() * 1e3,
        cpu: cpu_now() - cpu,
    }
}

/// Gives the middle Service `count` endpoints, one of which is new each time.
fn change(dataplane: &mut Dataplane<Timed>, services: u32, round: u32, count: u32) -> Time {
    let mut endpoints: Vec<Endpoint> = (0..count - 1)
        .map(|slot| endpoint(services / 2, slot))
        .collect();
    endpoints.push(endpoint(services + 1 + round, count));
    endpoints.sort();
    let change = Change {
        frontends: [(frontend(services / 2), Some(balance(endpoints)))].into(),
        ..Change::default()
    };
    timed(|| _ = dataplane.update(&change).expect("update"))
}

fn cluster((services, endpoints): Size) -> Desired {
    let fate = |service| balance((0..endpoints).map(|slot| endpoint(service, slot)).collect());
    Desired {
        frontends: (0..services)
            .map(|service| (frontend(service), fate(service)))
            .collect::<BTreeMap<_, _>>(),
        service_networks: ["10.96.0.0/12".parse().expect("a network")].into(),
        pod_networks: ["10.128.0.0/9".parse().expect("a network")].into(),
        ..Desired::default()
    }
}

fn frontend(service: u32) -> Frontend {
    let port = NonZeroU16::new(80).expect("not zero");
    Frontend::Address {
        addr: address([10, 96, 0, 0], service),
        protocol: Protocol::Tcp,
        port,
    }
}

fn endpoint(service: u32, slot: u32) -> Endpoint {
    let port = NonZeroU16::new(8080).expect("not zero");
    Endpoint {
        addr: address([10, 128, 0, 0], service * 64 + slot),
        port,
    }
}

fn address(base: [u8; 4], offset: u32) -> IpAddr {
    Ipv4Addr::from_bits(u32::from_be_bytes(base) + offset).into()
}

fn balance(endpoints: Vec<Endpoint>) -> Fate {
    Fate::Balance {
        endpoints: Arc::from(endpoints),
        masquerade: Masquerade::NonPodSources,
        affinity: None,
    }
}

/// What a version would leave that declares the two largest kinds of maps otherwise: no packet notices the types of columns.
fn load_another_make(desired: &Desired) {
    let mut other = Ruleset::compile(desired, &Ruleset::default());
    let table = other.tables.get_mut(&Family::V4).expect("both families");
    for name in sets::SLOTS.into_iter().chain([sets::SERVICES]) {
        let set = table.sets.get_mut(name).expect("of every table");
        set.kind.holds = Holds::Values(if name == sets::SERVICES {
            vec![Type::Address]
        } else {
            vec![Type::Address, Type::Number]
        });
    }
    let mut kernel = Netlink::open(Ownership::WhenPossible).expect("nf_tables");
    for operations in plan(&Ruleset::default(), &other).transactions {
        kernel.commit(&operations, None).expect("commit");
    }
}

fn open() -> Dataplane<Timed> {
    let kernel = Netlink::open(Ownership::WhenPossible).expect("nf_tables");
    Dataplane::open(Timed {
        kernel,
        longest: Time::default(),
    })
    .expect("open")
}

/// A kernel that remembers its longest transaction.
struct Timed {
    kernel: Netlink,
    longest: Time,
}

impl Kernel for Timed {
    fn generation(&mut self) -> Result<u32, KernelError> {
        self.kernel.generation()
    }

    fn holders(&mut self) -> Result<BTreeMap<Family, Holder>, KernelError> {
        self.kernel.holders()
    }

    fn read(&mut self) -> Result<Snapshot, KernelError> {
        self.kernel.read()
    }

    fn elements(&mut self, family: Family, set: &str) -> Result<Chunk, KernelError> {
        self.kernel.elements(family, set)
    }

    fn commit(
        &mut self,
        operations: &[Operation],
        generation: Option<u32>,
    ) -> Result<(), KernelError> {
        let mut result = Ok(());
        let took = timed(|| result = self.kernel.commit(operations, generation));
        self.longest.elapsed = self.longest.elapsed.max(took.elapsed);
        self.longest.cpu = self.longest.cpu.max(took.cpu);
        result
    }

    fn udp_flows(
        &mut self,
        family: Family,
        each: &mut dyn FnMut(UdpFlow),
    ) -> Result<(), KernelError> {
        self.kernel.udp_flows(family, each)
    }

    fn delete_flow(&mut self, flow: &UdpFlow) -> Result<bool, KernelError> {
        self.kernel.delete_flow(flow)
    }

    fn is_exclusive(&self) -> bool {
        self.kernel.is_exclusive()
    }
}
