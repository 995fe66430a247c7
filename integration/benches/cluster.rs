//! What a user feels, measured on a lab of three nodes: size, start-up, idle cost, `apply` to the first connection.
//!
//! Prints a table, and each row again as a line of JSON. Run by `make bench`.

mod measure;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use integration::{DEADLINE, Lab, eventually, minik};
use measure::{Report, cpu, rss_kb, stat};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, socket, sockopt,
    },
};
use serde_json::{Value, json};

/// How many Pods are deleted, one after the other.
const PODS: usize = 20;
/// How many Services are created, one after the other.
const SERVICES: usize = 100;

fn main() {
    let mut report = Report::of("cluster");
    let size = fs::metadata(minik()).expect("inspect the binary").len();
    report.row("binary", size as f64 / 1e6, "MB", "25");

    let start = Instant::now();
    let lab = Lab::up(3, &[]);
    let up = start.elapsed();
    let _ = lab
        .kubectl(&[
            "apply",
            "-f",
            &example("my-service.yaml"),
            "-f",
            &example("client.yaml"),
        ])
        .ok();
    eventually("the first answer by name", DEADLINE, || {
        lab.minik_in("node1", "client", &["fetch", "http://my-service/"])
            .result()
    });
    report.row(
        "lab up -> first answer by name",
        start.elapsed().as_secs_f64(),
        "s",
        "3",
    );
    report.row("lab up, 3 nodes ready", up.as_secs_f64(), "s", "");
    for (what, unit, goal) in [
        ("server start -> API ready", "control/server", "0.3"),
        ("agent start -> node ready", "node1/agent", "1"),
    ] {
        report.row(what, start_up(&lab, unit).as_secs_f64(), "s", goal);
    }
    deletion(&lab, &mut report);
    propagation(&lab, &mut report);
    idle(&lab, &mut report);
    report.print();
}

fn example(name: &str) -> String {
    format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The time from a unit's `execve` to the line of its log that says it is ready; the kernel's clock of starts counts in 10 ms.
fn start_up(lab: &Lab, unit: &str) -> Duration {
    let (host, unit) = unit.split_once('/').expect("host/unit");
    let log = lab.log(host, unit);
    let ready = log
        .lines()
        .find(|line| line.contains("ready"))
        .and_then(|line| line.split_whitespace().next())
        .and_then(|stamp| {
            stamp
                .split_once('T')?
                .1
                .trim_end_matches('Z')
                .split(':')
                .map(|part| part.parse().ok())
                .collect::<Option<Vec<f64>>>()
        })
        .map(|clock| clock.iter().fold(0.0, |sum, part| sum * 60.0 + part))
        .expect("the log says ready, and when");
    let stat = stat(pid_of(lab, host, unit));
    let since_boot = stat[19]
        .parse::<f64>()
        .expect("starttime, proc_pid_stat(5) field 22")
        / 100.0;
    let uptime: f64 = fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .expect("the uptime");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs_f64();
    let started = (now - (uptime - since_boot)) % 86_400.0;
    Duration::from_secs_f64((ready - started).rem_euclid(86_400.0))
}

/// `apply` of a Service until the first TCP connection through it succeeds, on another node than its Pods'.
fn propagation(lab: &Lab, report: &mut Report) {
    let proxy = Proxy::start(lab);
    let mut latencies: Vec<f64> = (0..SERVICES)
        .map(|number| {
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("bench-{number}") },
                "spec": { "selector": { "app": "MyApp" }, "ports": [{ "port": 80, "targetPort": 9376 }] },
            });
            let started = Instant::now();
            let created = proxy.post("/api/v1/namespaces/default/services", &service);
            let ip: Ipv4Addr = created["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).expect("a ClusterIP");
            first_connection(lab, "node3", SocketAddrV4::new(ip, 80), started).as_secs_f64() * 1e3
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    report.row(
        "apply -> first connection, p50",
        latencies[SERVICES / 2],
        "ms",
        "20",
    );
    report.row(
        "apply -> first connection, p99",
        latencies[SERVICES * 99 / 100],
        "ms",
        "100",
    );
}

/// DELETE of a Pod behind a Service until its object is gone: drained on every node, told to stop, ended.
fn deletion(lab: &Lab, report: &mut Report) {
    let names: Vec<String> = (0..PODS).map(|number| format!("short-{number}")).collect();
    let pods: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "MyApp", "node2"))
        .collect();
    lab.echo_pods(&pods);
    let proxy = Proxy::start(lab);
    let mut latencies: Vec<f64> = names
        .iter()
        .map(|name| {
            let path = format!("/api/v1/namespaces/default/pods/{name}");
            let started = Instant::now();
            proxy.send("DELETE", &path, "");
            eventually("the Pod is gone", DEADLINE, || {
                match proxy.send("GET", &path, "").0 {
                    404 => Ok(()),
                    code => Err(format!("HTTP {code}")),
                }
            });
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    report.row("Pod delete -> gone, p50", latencies[PODS / 2], "ms", "100");
    report.row("Pod delete -> gone, slowest", latencies[PODS - 1], "ms", "");
}

/// Tries a new connection every millisecond: one that was dropped would only be sent again after a second.
fn first_connection(lab: &Lab, host: &str, target: SocketAddrV4, started: Instant) -> Duration {
    let pid = fs::read_to_string(lab.dir().join(host).join("pid")).expect("the host's pid");
    let namespace = format!(
        "/proc/{}/ns/net",
        pid.split_whitespace().next().expect("a pid")
    );
    let work = move || {
        let namespace = fs::File::open(namespace).expect("open the namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        loop {
            if connects(target) {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < DEADLINE,
                "{target} did not answer within {DEADLINE:?}"
            );
        }
    };
    std::thread::spawn(work)
        .join()
        .expect("the probing thread ends")
}

fn connects(target: SocketAddrV4) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let _ = connect(probe.as_raw_fd(), &SockaddrIn::from(target));
    let mut polled = [PollFd::new(
        std::os::fd::AsFd::as_fd(&probe),
        PollFlags::POLLOUT,
    )];
    let ready = poll(&mut polled, PollTimeout::from(1u8)).expect("poll") == 1;
    let connected = ready && getsockopt(&probe, sockopt::SocketError) == Ok(0);
    if ready && !connected {
        // Refused at once: without a pause this loop would only measure itself.
        let _ = poll(&mut [], PollTimeout::from(1u8));
    }
    connected
}

/// RSS and CPU of server and agent while nothing happens.
fn idle(lab: &Lab, report: &mut Report) {
    let seconds: u64 = std::env::var("BENCH_IDLE_SECS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let units = [("server", "control", "60"), ("agent", "node1", "25")];
    let pids: Vec<u32> = units
        .iter()
        .map(|(unit, host, _)| pid_of(lab, host, unit))
        .collect();
    let before: Vec<Duration> = pids.iter().map(|pid| cpu(*pid)).collect();
    std::thread::park_timeout(Duration::from_secs(seconds));
    for ((unit, _, goal), (pid, before)) in units.iter().zip(pids.iter().zip(before)) {
        let share = (cpu(*pid) - before).as_secs_f64() / seconds as f64 * 100.0;
        report.row(
            &format!("{unit} resident, idle"),
            rss_kb(*pid) as f64 / 1e3,
            "MB",
            goal,
        );
        report.row(
            &format!("{unit} CPU over {seconds} s, idle"),
            share,
            "% of a core",
            "0.5",
        );
    }
}

/// The process of a unit: the one whose command line names this lab, this host and this subcommand.
fn pid_of(lab: &Lab, host: &str, unit: &str) -> u32 {
    let place = format!("{}/{host}/", lab.dir().display());
    let processes = fs::read_dir("/proc").expect("list /proc").flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        words.get(1).is_some_and(|word| word == unit)
            && words.iter().any(|word| word.starts_with(&place))
    })
    .unwrap_or_else(|| panic!("no process of {unit} on {host}"))
}

/// `kubectl proxy`: plain HTTP on loopback, so that no TLS client is needed here.
struct Proxy {
    child: Child,
    addr: String,
}

impl Proxy {
    fn start(lab: &Lab) -> Self {
        let mut command: Command = lab.kubectl_command(&["proxy", "--port=0"]);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("start kubectl proxy");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("kubectl proxy says where it listens");
        let addr = line
            .trim()
            .rsplit(' ')
            .next()
            .expect("an address")
            .to_owned();
        Self { child, addr }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.send("POST", path, &body.to_string()).1
    }

    /// Sends a request; returns the status and the JSON body.
    fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.addr).expect("connect to kubectl proxy");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .expect("send the request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the answer");
        let code = answer
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status");
        let json = &answer[answer.find("\r\n\r\n").expect("a header")..];
        let (from, to) = (
            json.find('{').expect("JSON"),
            json.rfind('}').expect("JSON"),
        );
        let json = serde_json::from_str(&json[from..=to]);
        (
            code,
            json.unwrap_or_else(|error| panic!("{error}: {answer}")),
        )
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
