//! How long a load balancer's address goes unanswered when its node is lost, in either family.
//!
//! A client that keeps on trying does not show it: its own SYN is sent again after 1, 3 and 7 s only (RFC 6298). So a new
//! connection is tried every few milliseconds. Prints a table, and each row again as a line of JSON. Run by `make bench`.

mod measure;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use integration::{DEADLINE, Lab, eventually};
use measure::Report;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
};
use socket2::{Domain, Protocol, Socket, Type};

/// How many nodes are cut off, one after the other.
const FAILOVERS: usize = 10;
/// Between two attempts to connect.
const ATTEMPT_EVERY: u8 = 5;
/// How many attempts wait for an answer at a time, so each waits a quarter of a second.
const ATTEMPTS: usize = 50;

fn main() {
    let mut report = Report::of("failover");
    for (family, protocol) in [("ipv4", "ARP"), ("ipv6", "NDP")] {
        let lab = Lab::up(3, &["--ip-families", family]);
        lab.echo_pods(&[
            ("a1", "MyApp", "node1"),
            ("a2", "MyApp", "node2"),
            ("a3", "MyApp", "node3"),
        ]);
        let manifest = format!(
            "{}/../examples/load-balancer.yaml",
            env!("CARGO_MANIFEST_DIR")
        );
        let _ = lab.kubectl(&["apply", "-f", &manifest]).ok();
        let mut took: Vec<f64> = (0..FAILOVERS)
            .map(|_| failover(&lab).as_secs_f64())
            .collect();
        took.sort_by(f64::total_cmp);
        let what = format!("failover by {protocol}");
        report.row(&format!("{what}, p50"), took[FAILOVERS / 2], "s", "2");
        report.row(&format!("{what}, slowest"), took[FAILOVERS - 1], "s", "2");
    }
    report.print();
}

/// Cuts off the node that answers, waits for a new connection by way of another one, and mends the cable: a moment later it is
/// the turn of that one.
fn failover(lab: &Lab) -> Duration {
    let service = ["service", "my-load-balancer"];
    let target = eventually("an address", DEADLINE, || {
        let object = lab.get(&service);
        let ip = object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
        ip.and_then(|ip| ip.parse::<IpAddr>().ok())
            .map(|ip| SocketAddr::new(ip, 80))
            .ok_or(object.to_string())
    });
    let chosen = || {
        let object = lab.get(&service);
        let chosen = object["metadata"]["annotations"]["minik.dev/announced-by"].as_str();
        let node = chosen.and_then(|text| Some(text.split_once('=')?.1.to_owned()));
        node.ok_or(object.to_string())
    };
    let node = eventually("a node", DEADLINE, chosen);
    first_connection(lab, "client", target);
    let _ = lab.lab(&["partition", &node]).ok();
    let took = first_connection(lab, "client", target);
    let _ = lab.lab(&["heal", &node]).ok();
    eventually("another node", DEADLINE, || {
        let now = chosen()?;
        if now == node { Err(now) } else { Ok(()) }
    });
    took
}

/// How long it takes from now until a new connection is accepted.
fn first_connection(lab: &Lab, host: &str, target: SocketAddr) -> Duration {
    let pid = fs::read_to_string(lab.dir().join(host).join("pid")).expect("the host's pid");
    let pid = pid.split_whitespace().next().expect("a pid");
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).expect("open the namespace");
    let work = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        let started = Instant::now();
        let mut attempts: Vec<Socket> = Vec::new();
        while started.elapsed() < DEADLINE {
            if attempts.len() == ATTEMPTS {
                attempts.remove(0);
            }
            attempts.extend(attempt(target));
            let mut polled: Vec<_> = attempts
                .iter()
                .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLOUT))
                .collect();
            poll(&mut polled, PollTimeout::from(ATTEMPT_EVERY)).expect("poll");
            let decided: Vec<bool> = polled.iter().map(|fd| fd.any() == Some(true)).collect();
            let mut decided = decided.into_iter();
            let mut connected = false;
            attempts.retain(|socket| {
                let decided = decided.next() == Some(true);
                connected |= decided && matches!(socket.take_error(), Ok(None));
                !decided
            });
            if connected {
                return started.elapsed();
            }
        }
        panic!("{target} did not answer within {DEADLINE:?}");
    };
    std::thread::spawn(work)
        .join()
        .expect("the probing thread ends")
}

/// A connection that is on its way; none when the network is unreachable at once.
fn attempt(target: SocketAddr) -> Option<Socket> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .expect("a socket");
    socket.set_nonblocking(true).expect("set nonblocking");
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => None,
        _ => Some(socket),
    }
}
