//! How long a Pod and a container take to start, an exec to end, a Pod to go; and what a shim weighs. Needs root.
//!
//! `cargo bench -p runtime --bench start`; figures of a static build: `RUSTFLAGS="-C target-feature=+crt-static"` and
//! `--target x86_64-unknown-linux-gnu`.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use runtime::{
    Config, ContainerSpec, ExecSpec, Image, Limits, Network, Pod, PodSpec, Runtime, User, shim,
};

const ROUNDS: usize = 100;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "shim") {
        return shim::main(args);
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = runtime_in(dir.path());
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        cpu_millis: Some(500),
        pids: Some(64),
    };
    for (title, limits) in [("no limits", Limits::default()), ("with limits", limits)] {
        measure(&runtime, title, &limits);
    }
    for hierarchy in ["", "pids", "memory", "cpu"] {
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(hierarchy).join(parent()));
    }
    ExitCode::SUCCESS
}

fn runtime_in(dir: &Path) -> Runtime {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container/checker.rs");
    let built_in = dir.join("checker");
    let mut rustc = Command::new("rustc");
    rustc.args([
        "--edition",
        "2024",
        "-C",
        "target-feature=+crt-static",
        "-o",
    ]);
    let built = rustc.arg(&built_in).arg(source).status().expect("rustc");
    assert!(built.success(), "the checker does not build");
    Runtime::new(Config {
        run_dir: dir.join("run"),
        log_dir: dir.join("logs"),
        cgroup_parent: parent(),
        exe: std::env::current_exe().expect("this program's file"),
        built_in,
    })
    .expect("a runtime")
}

fn parent() -> String {
    format!("minik-bench-{}", std::process::id())
}

fn measure(runtime: &Runtime, title: &str, limits: &Limits) {
    let null = File::open("/dev/null").expect("null");
    let mut took: [Vec<Duration>; 4] = Default::default();
    let mut weight = 0;
    for round in 0..ROUNDS {
        let pod = timed(&mut took[0], || {
            runtime.create_pod(&pod_spec(round)).expect("a Pod")
        });
        timed(&mut took[1], || {
            pod.start_container(&container(limits)).expect("start");
        });
        let spec = ExecSpec {
            container: "main".to_owned(),
            argv: ["/minik", "exit", "0"].map(str::to_owned).to_vec(),
            tty: false,
            dies_with_caller: false,
        };
        timed(&mut took[2], || {
            assert_eq!(pod.exec(&spec, [null.as_fd(); 3]).expect("exec"), 0);
        });
        weight = weight.max(proportional_kb(&pod));
        timed(&mut took[3], || pod.remove().expect("remove"));
    }
    println!("{title}, {ROUNDS} rounds");
    for (name, took) in ["pod", "container", "exec", "remove"].iter().zip(&mut took) {
        took.sort();
        let at = |percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1e3;
        println!("  {name:<10} p50 {:6.2} ms  p99 {:6.2} ms", at(50), at(99));
    }
    println!("  a shim weighs {weight} kB");
}

fn timed<T>(took: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = work();
    took.push(start.elapsed());
    value
}

/// The shim's share of memory (PSS), which counts a page of the program once for all that run it.
fn proportional_kb(pod: &Pod) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.shim_pid())).expect("smaps");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.expect("Pss").trim().trim_end_matches(" kB");
    number.parse().expect("a number")
}

fn pod_spec(round: usize) -> PodSpec {
    PodSpec {
        uid: format!("uid-{round}"),
        namespace: "default".to_owned(),
        name: "bench".to_owned(),
        hostname: "bench".to_owned(),
        network: Network::Own,
        resolv_conf: String::new(),
        hosts: String::new(),

        host_ports: Vec::new(),
    }
}

fn container(limits: &Limits) -> ContainerSpec {
    ContainerSpec {
        name: "main".to_owned(),
        attempt: 0,
        image: Image::BuiltIn,
        argv: ["/minik", "wait"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        working_dir: "/".to_owned(),
        user: User::default(),
        limits: limits.clone(),
        capabilities: runtime::Capabilities::USUAL,
        allow_privilege_escalation: true,
        read_only_root: false,
        stdio: runtime::Stdio::default(),
        mounts: Vec::new(),
    }
}
