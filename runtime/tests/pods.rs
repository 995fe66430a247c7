//! Real containers on the running kernel. Needs root; one thread at a time, because it is its own shim.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, setrlimit},
        signal::Signal,
        statvfs::{FsFlags, statvfs},
    },
};
use runtime::{
    Capabilities, Config, ContainerSpec, ContainerState, ExecSpec, Image, Limits, Mount, Network,
    Pod, PodSpec, PodState, Runtime, RuntimeError, User, shim,
};

const DEADLINE: Duration = Duration::from_secs(20);

type Test = fn(&Fixture);

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == "shim" => return shim::main(args),
        // A Pod's creator that is about to be killed.
        Some(first) if first == "create" => {
            return create_and_wait(&PathBuf::from(args.next().expect("a directory")));
        }
        _ => {}
    }
    let tests: &[(&str, Test)] = &[
        (
            "output_and_exit_code_are_kept",
            output_and_exit_code_are_kept,
        ),
        ("a_container_sees_only_itself", a_container_sees_only_itself),
        (
            "volumes_are_read_where_they_are_wanted_and_lead_nowhere_else",
            volumes_are_read_where_they_are_wanted_and_lead_nowhere_else,
        ),
        (
            "a_volume_that_leads_to_where_volumes_wait_loses_nothing",
            a_volume_that_leads_to_where_volumes_wait_loses_nothing,
        ),
        ("limits_and_user_are_enforced", limits_and_user_are_enforced),
        (
            "capabilities_are_those_asked_for",
            capabilities_are_those_asked_for,
        ),
        (
            "a_container_out_of_memory_says_so",
            a_container_out_of_memory_says_so,
        ),
        (
            "the_shims_program_cannot_be_written_through_proc",
            the_shims_program_cannot_be_written_through_proc,
        ),
        (
            "linux_5_10_suffices_for_shims_and_containers",
            linux_5_10_suffices_for_shims_and_containers,
        ),
        (
            "containers_have_the_limit_of_open_files_that_the_agent_was_given",
            containers_have_the_limit_of_open_files_that_the_agent_was_given,
        ),
        (
            "a_shim_out_of_descriptors_waits_for_better_times",
            a_shim_out_of_descriptors_waits_for_better_times,
        ),
        ("a_crash_loop_leaves_two_logs", a_crash_loop_leaves_two_logs),
        (
            "a_host_network_pod_uses_the_nodes",
            a_host_network_pod_uses_the_nodes,
        ),
        (
            "a_dynamic_program_is_refused_in_words",
            a_dynamic_program_is_refused_in_words,
        ),
        (
            "a_signal_ends_it_and_says_which",
            a_signal_ends_it_and_says_which,
        ),
        (
            "a_missing_program_is_an_error_in_words",
            a_missing_program_is_an_error_in_words,
        ),
        (
            "a_working_directory_cannot_lead_out",
            a_working_directory_cannot_lead_out,
        ),
        (
            "exec_returns_the_exit_code_and_leaves_no_zombie",
            exec_returns_the_exit_code_and_leaves_no_zombie,
        ),
        (
            "a_program_whose_caller_is_gone_is_killed_if_it_was_asked_for_so",
            a_program_whose_caller_is_gone_is_killed_if_it_was_asked_for_so,
        ),
        (
            "a_subscriber_that_does_not_read_stops_nobody_and_misses_nothing_new",
            a_subscriber_that_does_not_read_stops_nobody_and_misses_nothing_new,
        ),
        (
            "a_pod_outlives_its_creator_and_is_adopted",
            a_pod_outlives_its_creator_and_is_adopted,
        ),
        (
            "a_dead_shim_takes_its_containers_and_is_cleaned_up",
            a_dead_shim_takes_its_containers_and_is_cleaned_up,
        ),
        (
            "a_program_runs_in_a_terminal_of_the_container",
            a_program_runs_in_a_terminal_of_the_container,
        ),
        (
            "who_attaches_writes_and_reads_and_ends_the_input",
            who_attaches_writes_and_reads_and_ends_the_input,
        ),
        (
            "who_attaches_and_reads_late_gets_everything",
            who_attaches_and_reads_late_gets_everything,
        ),
        (
            "a_container_in_a_terminal_is_attached_to",
            a_container_in_a_terminal_is_attached_to,
        ),
        ("pods_live_side_by_side", pods_live_side_by_side),
        // The last: it hides the cgroup v1 hierarchies from this process.
        ("cgroup_v2_alone_is_enough", cgroup_v2_alone_is_enough),
    ];
    let wanted = Wanted::from_args();
    let tests = tests.iter().filter(|(name, _)| wanted.includes(name));
    if wanted.list {
        tests.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    // Whatever goes wrong, no packet leaves.
    unshare(CloneFlags::CLONE_NEWNET).expect("root is needed: run `make test`");
    let program = build_checker();
    for (name, test) in tests {
        let fixture = Fixture::new(&program);
        test(&fixture);
        fixture.leaves_nothing_behind();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// What the standard harness' arguments ask for, as far as `cargo test` and `cargo nextest` use them.
struct Wanted {
    list: bool,
    ignored: bool,
    exact: bool,
    names: Vec<String>,
}

impl Wanted {
    fn from_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        Self {
            list: has("--list"),
            ignored: has("--ignored"),
            exact: has("--exact"),
            names: args
                .iter()
                .filter(|arg| !arg.starts_with('-') && *arg != "terse")
                .cloned()
                .collect(),
        }
    }

    fn includes(&self, test: &str) -> bool {
        let named = |name: &String| {
            if self.exact {
                test == name
            } else {
                test.contains(name.as_str())
            }
        };
        !self.ignored && (self.names.is_empty() || self.names.iter().any(named))
    }
}

/// The container holds nothing but this program, so it must be static. Built once for all test processes.
fn build_checker() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container/checker.rs");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checker");
    let lock = File::create(target.with_extension("lock")).expect("a lock file");
    lock.lock().expect("lock");
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if changed(&target) > changed(&source) {
        return target;
    }
    let mut rustc = Command::new("rustc");
    rustc
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-o",
        ])
        .arg(&target)
        .arg(source);
    assert!(
        rustc.status().expect("rustc is on PATH").success(),
        "the checker does not build"
    );
    target
}

struct Fixture {
    dir: tempfile::TempDir,
    runtime: Runtime,
    cgroup_parent: String,
}

impl Fixture {
    fn new(program: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cgroup_parent = format!("minik-test-{}", std::process::id());
        let runtime = Runtime::new(config(dir.path(), &cgroup_parent, program)).expect("a runtime");
        Self {
            dir,
            runtime,
            cgroup_parent,
        }
    }

    fn pod(&self) -> Pod {
        self.runtime
            .create_pod(&pod_spec())
            .expect("the Pod starts")
    }

    fn log(&self, attempt: u32) -> String {
        let path = format!("logs/default_test_uid-1/main/{attempt}.log");
        fs::read_to_string(self.dir.path().join(path)).unwrap_or_default()
    }

    fn leaves_nothing_behind(&self) {
        for pod in self.runtime.adopt().expect("adopt").pods {
            pod.remove().expect("remove");
        }
        let left = fs::read_dir(self.dir.path().join("run/pods"))
            .expect("list")
            .count();
        assert_eq!(left, 0, "directories are left");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(
            !mounts.contains(&*self.dir.path().to_string_lossy()),
            "mounts are left: {mounts}"
        );
        for hierarchy in ["", "unified", "pids", "memory", "cpu"] {
            let group = Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join(&self.cgroup_parent);
            let left = fs::read_dir(&group)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .count();
            assert_eq!(left, 0, "groups are left in {}", group.display());
            let _ = fs::remove_dir(group);
        }
    }
}

/// What a failed test has left must not run on.
impl Drop for Fixture {
    fn drop(&mut self) {
        let adopted = self.runtime.adopt();
        for pod in adopted.map_or_else(|_| Vec::new(), |adopted| adopted.pods) {
            let _ = pod.remove();
        }
    }
}

fn config(dir: &Path, cgroup_parent: &str, program: &Path) -> Config {
    Config {
        run_dir: dir.join("run"),
        log_dir: dir.join("logs"),
        cgroup_parent: cgroup_parent.to_owned(),
        exe: std::env::current_exe().expect("this program's file"),
        built_in: program.to_owned(),
    }
}

fn pod_spec() -> PodSpec {
    PodSpec {
        uid: "uid-1".to_owned(),
        namespace: "default".to_owned(),
        name: "test".to_owned(),
        hostname: "test-host".to_owned(),
        network: Network::Own,
        resolv_conf: "nameserver 10.96.0.10\n".to_owned(),
        hosts: "127.0.0.1 localhost\n".to_owned(),

        host_ports: Vec::new(),
    }
}

fn container(argv: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: "main".to_owned(),
        attempt: 0,
        image: Image::BuiltIn,
        argv: [&["/minik"], argv]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        env: vec![("GREETING".to_owned(), "hello".to_owned())],
        working_dir: "/srv/here".to_owned(),
        user: User::default(),
        limits: Limits::default(),
        capabilities: Capabilities::USUAL,
        allow_privilege_escalation: true,
        read_only_root: false,
        stdio: runtime::Stdio::default(),
        mounts: Vec::new(),
    }
}

/// Follows the Pod's state until the container has ended.
fn ended(pod: &Pod) -> (i32, Option<i32>) {
    let mut states = pod.subscribe().expect("subscribe");
    let deadline = Instant::now() + DEADLINE;
    loop {
        match states.try_next().expect("the shim lives") {
            Some(PodState { containers }) => {
                if let ContainerState::Exited { code, signal, .. } = containers["main"].state {
                    return (code, signal);
                }
            }
            None => {
                assert!(Instant::now() < deadline, "the container did not end");
                poll(
                    &mut [PollFd::new(states.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::from(1000u16),
                )
                .expect("poll");
            }
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn output_and_exit_code_are_kept(fixture: &Fixture) {
    let pod = fixture.pod();
    pod.start_container(&container(&["say", "42"]))
        .expect("start");
    assert_eq!(ended(&pod), (42, None));
    let log = fixture.log(0);
    assert!(
        log.lines().count() == 2,
        "whole when the end is told: {log}"
    );
    assert!(
        log.contains(" stdout F to stdout hello\n") && log.contains(" stderr F to stderr\n"),
        "{log}"
    );
    // The next attempt has a log of its own, and the state is the newest attempt's.
    pod.start_container(&ContainerSpec {
        attempt: 1,
        ..container(&["say", "0"])
    })
    .expect("start again");
    assert_eq!(ended(&pod).0, 0);
    assert_eq!(pod.state().expect("state").containers["main"].attempt, 1);
    assert!(fixture.log(1).contains("to stdout"));
    pod.remove().expect("remove");
    assert!(fixture.log(0).contains("to stdout"), "logs outlive the Pod");
}

fn look(fixture: &Fixture, spec: &ContainerSpec) -> BTreeMap<String, String> {
    let pod = fixture.pod();
    pod.start_container(spec).expect("start");
    assert_eq!(ended(&pod).0, 0, "{}", fixture.log(0));
    pod.remove().expect("remove");
    let log = fixture.log(0);
    let lines = log
        .lines()
        .filter_map(|line| line.split_once(" F ")?.1.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn a_container_sees_only_itself(fixture: &Fixture) {
    let seen = look(fixture, &container(&["look"]));
    let wanted = [
        ("pid", "1"),
        ("processes", "1"),
        ("descriptors", "3"),
        ("capabilities", "00000000a80425fb"),
        ("no-new-privileges", "0"),
        ("groups", ""),
        ("hostname", "test-host"),
        ("kcore", "0"),
        ("firmware", "0"),
        ("sysctl-writable", "false"),
        ("program-writable", "false"),
        ("exe-writable", "false"),
        ("root-writable", "true"),
        ("resolv", "nameserver 10.96.0.10"),
        ("interfaces", "lo"),
        ("null", "true"),
        ("own-device", "refused,refused"),
        ("node-devices", "refused,refused,refused,refused"),
        ("power", "0"),
        ("cgroups", "0"),
    ];
    for (name, value) in wanted {
        assert_eq!(
            seen.get(name).map(String::as_str),
            Some(value),
            "{name} in {seen:?}"
        );
    }
}

fn volumes_are_read_where_they_are_wanted_and_lead_nowhere_else(fixture: &Fixture) {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in [("outer", "o"), ("inner", "i")] {
        fs::create_dir(dir.path().join(name)).expect("a volume");
        fs::write(dir.path().join(name).join("file"), content).expect("a file");
    }
    fs::create_dir(dir.path().join("outer/inner")).expect("a place in a volume");
    let mount = |name: &str, target: &str| Mount {
        source: dir.path().join(name),
        target: target.to_owned(),
        read_only: true,
    };
    for (mounts, path, content) in [
        (vec![mount("outer", "/data")], "/data/file", "o"),
        (
            vec![mount("outer", "/data"), mount("inner", "/data/inner")],
            "/data/inner/file",
            "i",
        ),
        // The root's parent is the root itself.
        (vec![mount("outer", "/a/../../../../b")], "/b/file", "o"),
    ] {
        let spec = ContainerSpec {
            mounts,
            ..container(&["read", path])
        };
        let seen = look(fixture, &spec);
        let wanted = [
            ("content", content),
            ("left", "false"),
            ("writable", "false"),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(seen, wanted.into(), "{path}");
    }
    assert_eq!(
        fs::read_to_string(dir.path().join("outer/file")).expect("a file"),
        "o"
    );
    let missing = ContainerSpec {
        mounts: vec![mount("missing", "/data")],
        ..container(&["look"])
    };
    let pod = fixture.pod();
    let refused = pod.start_container(&missing).expect_err("no such volume");
    assert!(refused.to_string().contains("bind a volume"), "{refused}");
    pod.remove().expect("remove");
}

/// Volumes wait in `/.volumes` until they are placed. What is led in there, by its path or by a link in another volume, is not
/// cleared away with it.
fn a_volume_that_leads_to_where_volumes_wait_loses_nothing(fixture: &Fixture) {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["kept", "links"] {
        fs::create_dir(dir.path().join(name)).expect("a volume");
        fs::write(dir.path().join(name).join("file"), "k").expect("a file");
    }
    std::os::unix::fs::symlink("/.volumes", dir.path().join("links/back")).expect("a link");
    let mount = |name: &str, target: &str| Mount {
        source: dir.path().join(name),
        target: target.to_owned(),
        read_only: false,
    };
    for mounts in [
        vec![mount("kept", "/.volumes")],
        vec![mount("kept", "/.volumes/x")],
        vec![mount("kept", "/.volumes/1"), mount("links", "/data")],
        vec![mount("links", "/data"), mount("kept", "/data/back/x")],
    ] {
        let spec = ContainerSpec {
            mounts,
            ..container(&["look"])
        };
        let pod = fixture.pod();
        let refused = pod.start_container(&spec).expect_err("not there");
        let refused = refused.to_string();
        assert!(refused.contains("volume"), "{:?}: {refused}", spec.mounts);
        pod.remove().expect("remove");
        for name in ["kept", "links"] {
            let file = dir.path().join(name).join("file");
            assert_eq!(fs::read_to_string(file).expect("the file"), "k");
        }
    }
}

fn limits_and_user_are_enforced(fixture: &Fixture) {
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        cpu_millis: Some(500),
        pids: Some(16),
    };
    let user = User {
        uid: 1000,
        gid: 1000,
        groups: vec![2000],
    };
    let base = container(&["look"]);
    let seen = look(
        fixture,
        &ContainerSpec {
            limits,
            user,
            allow_privilege_escalation: false,
            read_only_root: true,
            ..base
        },
    );
    assert_eq!(
        (seen["groups"].as_str(), seen["no-new-privileges"].as_str()),
        ("2000", "1")
    );
    assert_eq!(seen["root-writable"], "false");
}

fn capabilities_are_those_asked_for(fixture: &Fixture) {
    let kept = Capabilities::named("CHOWN").expect("a name");
    let cases = [
        (Capabilities::NONE, "0000000000000000"),
        (kept, "0000000000000001"),
        (Capabilities::USUAL.without(kept), "00000000a80425fa"),
    ];
    for (capabilities, wanted) in cases {
        let seen = look(
            fixture,
            &ContainerSpec {
                capabilities,
                ..container(&["look"])
            },
        );
        assert_eq!(seen["capabilities"], wanted);
        assert_eq!(seen["effective"], wanted);
        fs::remove_dir_all(fixture.dir.path().join("logs/default_test_uid-1"))
            .expect("the next log");
    }
}

/// A container can make its own processes run the shim's program (`/proc/self/exe`) and then write to that file: CVE-2019-5736.
fn the_shims_program_cannot_be_written_through_proc(fixture: &Fixture) {
    let pod = fixture.pod();
    let path = format!("/proc/{}/exe", pod.shim_pid());
    let flags = statvfs(path.as_str()).expect("its mount").flags();
    assert!(flags.contains(FsFlags::ST_RDONLY), "{flags:?}");
    pod.remove().expect("remove");
}

/// What is younger than Linux 5.10 is answered as 5.10 does, to this thread and whatever it starts.
fn linux_5_10_suffices_for_shims_and_containers(fixture: &Fixture) {
    let as_on_5_10 = || {
        forget_younger_calls();
        the_shims_program_cannot_be_written_through_proc(fixture);
        a_container_sees_only_itself(fixture);
    };
    std::thread::scope(|scope| {
        let done = scope.spawn(as_on_5_10).join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// `mount_setattr(2)` is unknown (until Linux 5.12), and so is CLOSE_RANGE_CLOEXEC to `close_range(2)` (until 5.11).
#[expect(unsafe_code, reason = "seccomp has no safe interface here")]
fn forget_younger_calls() {
    // linux/bpf_common.h: a word at an offset of `struct seccomp_data`; equal or skip; the answer.
    let load = |offset: u32| sock(0x20, 0, 0, offset);
    let unless = |value: u32, skip: u8| sock(0x15, 0, skip, value);
    let answer = |action: u32, errno: i32| sock(0x06, 0, 0, action | errno.cast_unsigned());
    let number = |call: libc::c_long| u32::try_from(call).expect("a small number");
    let mut code = [
        load(0),
        unless(number(libc::SYS_mount_setattr), 1),
        answer(libc::SECCOMP_RET_ERRNO, libc::ENOSYS),
        unless(number(libc::SYS_close_range), 3),
        // The low half of the third argument: the machines this runs on are little-endian.
        load(32),
        unless(4, 1),
        answer(libc::SECCOMP_RET_ERRNO, libc::EINVAL),
        answer(libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(code.len()).expect("a short program"),
        filter: code.as_mut_ptr(),
    };
    // SAFETY: the program outlives the call that copies it, and its length is right.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn sock(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn a_shim_out_of_descriptors_waits_for_better_times(fixture: &Fixture) {
    let pod = fixture.pod();
    pod.start_container(&container(&["wait"])).expect("start");
    let limit = |soft: usize| {
        let set = Command::new("prlimit")
            .arg(format!("--pid={}", pod.shim_pid()))
            .arg(format!("--nofile={soft}:"))
            .status();
        assert!(set.expect("prlimit is there").success());
    };
    // Five are open for good: the standard ones, the signals, the socket.
    limit(5);
    std::thread::scope(|scope| {
        let state = scope.spawn(|| pod.state());
        let log = fixture.dir.path().join("run/pods/uid-1/shim.log");
        eventually("the shim tells of it", || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("Too many open files"))
        });
        limit(1024);
        let state = state.join().expect("it does not panic").expect("answered");
        assert!(state.containers["main"].state.is_running());
    });
    pod.remove().expect("remove");
}

/// An agent needs many descriptors, and a program that uses `select(2)` cannot have them.
fn containers_have_the_limit_of_open_files_that_the_agent_was_given(fixture: &Fixture) {
    let limits = |pid: i32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let mut words = line.expect("its line").split_whitespace().skip(3);
        let mut next = || {
            words
                .next()
                .expect("a limit")
                .parse::<u64>()
                .expect("a number")
        };
        (next(), next())
    };
    let own = i32::try_from(std::process::id()).expect("a pid");
    let (_, hard) = limits(own);
    setrlimit(Resource::RLIMIT_NOFILE, 512, hard).expect("set");
    for _ in 0..2 {
        runtime::raise_open_files_limit().expect("raised");
        assert_eq!(limits(own), (hard, hard));
    }
    let pod = fixture.pod();
    // What it starts inherits its limits.
    assert_eq!(limits(pod.shim_pid()), (512, hard));
    pod.remove().expect("remove");
}

fn a_crash_loop_leaves_two_logs(fixture: &Fixture) {
    let pod = fixture.pod();
    for attempt in 0..4 {
        let spec = ContainerSpec {
            attempt,
            ..container(&["say", "1"])
        };
        pod.start_container(&spec).expect("start");
        assert_eq!(ended(&pod).0, 1);
    }
    let dir = fixture.dir.path().join("logs/default_test_uid-1/main");
    let mut left: Vec<_> = fs::read_dir(dir)
        .expect("logs")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["2.log", "3.log"],
        "this attempt's, and that before it"
    );
    pod.remove().expect("remove");
    let removed = fixture.runtime.remove_logs("default", "test", "uid-1");
    removed.expect("remove the logs");
    let left = fs::read_dir(fixture.dir.path().join("logs"));
    assert_eq!(left.expect("list").count(), 0);
}

fn a_container_out_of_memory_says_so(fixture: &Fixture) {
    let pod = fixture.pod();
    let limits = Limits {
        memory_bytes: Some(16 << 20),
        ..Limits::default()
    };
    let spec = ContainerSpec {
        limits,
        ..container(&["eat"])
    };
    pod.start_container(&spec).expect("start");
    assert_eq!(ended(&pod), (137, Some(9)));
    let state = pod.state().expect("state");
    assert!(
        matches!(
            state.containers["main"].state,
            ContainerState::Exited {
                oom_killed: true,
                ..
            }
        ),
        "{state:?}"
    );
    pod.remove().expect("remove");
}

fn a_host_network_pod_uses_the_nodes(fixture: &Fixture) {
    let spec = PodSpec {
        network: Network::Host,
        ..pod_spec()
    };
    let pod = fixture.runtime.create_pod(&spec).expect("the Pod starts");
    let own = fs::metadata("/proc/thread-self/ns/net").expect("own");
    let its = File::from(pod.netns().expect("its network namespace"));
    assert_eq!(its.metadata().expect("its").ino(), own.ino());
    pod.start_container(&container(&["look"])).expect("start");
    assert_eq!(ended(&pod).0, 0, "{}", fixture.log(0));
    pod.remove().expect("remove");
}

fn a_dynamic_program_is_refused_in_words(fixture: &Fixture) {
    // A file header that says: one program header (of 56 bytes) at 64, and it is a PT_INTERP.
    let mut header = [0; 64 + 56];
    (header[32], header[54], header[56], header[64]) = (64, 56, 1, 3);
    let program = fixture.dir.path().join("dynamic");
    fs::write(&program, header).expect("write");
    let runtime = Runtime::new(config(fixture.dir.path(), &fixture.cgroup_parent, &program));
    let pod = runtime.expect("a runtime").create_pod(&pod_spec());
    let pod = pod.expect("the Pod starts");
    let error = pod
        .start_container(&container(&["say", "0"]))
        .expect_err("no loader")
        .to_string();
    assert!(error.contains("not static"), "{error}");
    pod.remove().expect("remove");
}

fn a_signal_ends_it_and_says_which(fixture: &Fixture) {
    let pod = fixture.pod();
    pod.start_container(&container(&["wait"])).expect("start");
    eventually("it waits", || fixture.log(0).contains("waiting"));
    pod.signal("main", Signal::SIGTERM as i32).expect("SIGTERM");
    assert!(
        pod.state().expect("state").containers["main"]
            .state
            .is_running(),
        "process 1 ignores what it does not handle"
    );
    pod.signal("main", Signal::SIGKILL as i32).expect("SIGKILL");
    assert_eq!(ended(&pod), (137, Some(9)));
    pod.signal("main", Signal::SIGKILL as i32)
        .expect("one that has ended is fine");
    assert!(matches!(
        pod.signal("other", 9),
        Err(RuntimeError::Refused { .. })
    ));
    pod.remove().expect("remove");
}

fn a_missing_program_is_an_error_in_words(fixture: &Fixture) {
    let pod = fixture.pod();
    for (program, words) in [
        ("/no-such-program", "No such file"),
        ("nothing", "No such file"),
        ("/etc/hosts", "denied"),
    ] {
        let error = pod.start_container(&ContainerSpec {
            argv: vec![program.to_owned()],
            ..container(&[])
        });
        let text = error.expect_err("it cannot start").to_string();
        assert!(
            text.contains(words) && text.contains("container main"),
            "{program}: {text}"
        );
    }
    pod.remove().expect("remove");
}

fn a_working_directory_cannot_lead_out(fixture: &Fixture) {
    let pod = fixture.pod();
    let outside = fixture.dir.path().join("outside");
    let escape = format!("/../../../../../../..{}", outside.display());
    pod.start_container(&ContainerSpec {
        working_dir: escape,
        ..container(&["say", "0"])
    })
    .expect("start");
    assert_eq!(ended(&pod).0, 0);
    assert!(!outside.exists(), "the working directory is made inside");
    pod.remove().expect("remove");
}

fn exec_returns_the_exit_code_and_leaves_no_zombie(fixture: &Fixture) {
    let pod = fixture.pod();
    pod.start_container(&container(&["wait"])).expect("start");
    let input = File::open("/dev/null").expect("null");
    let mut output = tempfile::tempfile().expect("a file");
    let exec = |argv: &[&str], output: &File| {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let spec = ExecSpec {
            container: "main".to_owned(),
            argv,
            tty: false,
            dies_with_caller: false,
        };
        pod.exec(&spec, [input.as_fd(), output.as_fd(), output.as_fd()])
    };
    for code in [0, 7] {
        assert_eq!(
            exec(&["/minik", "say", &code.to_string()], &output).expect("exec"),
            code
        );
    }
    let mut text = String::new();
    output.rewind().expect("rewind");
    output.read_to_string(&mut text).expect("read");
    assert_eq!(text.matches("to stdout hello").count(), 2, "{text}");
    let missing = exec(&["/nothing"], &output)
        .expect_err("not there")
        .to_string();
    assert!(missing.contains("No such file"), "{missing}");
    pod.signal("main", Signal::SIGKILL as i32).expect("SIGKILL");
    assert_eq!(
        ended(&pod).0,
        137,
        "an exec'd zombie would keep it from ending"
    );
    pod.remove().expect("remove");
}

fn a_program_whose_caller_is_gone_is_killed_if_it_was_asked_for_so(fixture: &Fixture) {
    let pod = fixture.pod();
    pod.start_container(&container(&["wait"])).expect("start");
    let input = File::open("/dev/null").expect("null");
    for (dies_with_caller, left) in [(true, false), (false, true)] {
        let (mut output, end) = std::io::pipe().expect("a pipe");
        let spec = ExecSpec {
            container: "main".to_owned(),
            argv: ["/minik", "wait"].map(str::to_owned).to_vec(),
            tty: false,
            dies_with_caller,
        };
        let exec = pod
            .start_exec(&spec, [input.as_fd(), end.as_fd(), end.as_fd()])
            .expect("exec");
        drop(end);
        let mut said = [0; 8];
        output.read_exact(&mut said).expect("it runs");
        assert_eq!(&said, b"waiting\n");
        drop(exec);
        let mut polled = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if !left {
            let ended = poll(&mut polled, PollTimeout::from(20_000_u16)).expect("poll");
            assert_eq!(ended, 1, "its output ends with it");
            continue;
        }
        // By the answer to the second question the shim has looked at all its connections at least once.
        for _ in 0..2 {
            let _ = pod.state().expect("the shim answers");
        }
        let ended = poll(&mut polled, PollTimeout::ZERO).expect("poll");
        assert_eq!(ended, 0, "it runs on");
    }
    pod.remove().expect("remove");
}

fn a_subscriber_that_does_not_read_stops_nobody_and_misses_nothing_new(fixture: &Fixture) {
    let pod = fixture.pod();
    let mut slow = pod.subscribe().expect("subscribe");
    // Every state holds the command: a few fill the socket. One string has at most 128 KiB.
    let large = "x".repeat(120_000);
    let argv = ["/minik", "say", "0", &large, &large, &large, &large];
    for attempt in 0..5 {
        let spec = ContainerSpec {
            attempt,
            argv: argv.map(str::to_owned).to_vec(),
            ..container(&[])
        };
        pod.start_container(&spec).expect("start");
        assert_eq!(ended(&pod).0, 0);
    }
    eventually("it learns the newest state", || {
        let Some(state) = slow.try_next().expect("the shim lives") else {
            return false;
        };
        let newest = state.containers.get("main");
        newest.is_some_and(|main| main.attempt == 4 && !main.state.is_running())
    });
    pod.remove().expect("remove");
}

fn pods_live_side_by_side(fixture: &Fixture) {
    let one = |number: i32| {
        let spec = PodSpec {
            uid: format!("uid-{number}"),
            ..pod_spec()
        };
        let pod = fixture.runtime.create_pod(&spec).expect("the Pod starts");
        for attempt in 0..3 {
            let spec = ContainerSpec {
                attempt,
                ..container(&["say", &number.to_string()])
            };
            pod.start_container(&spec).expect("start");
            assert_eq!(ended(&pod), (number, None));
        }
        pod.remove().expect("remove");
    };
    std::thread::scope(|scope| {
        for number in 1..=16 {
            scope.spawn(move || one(number));
        }
    });
}

fn create_and_wait(dir: &Path) -> ExitCode {
    let parent = fs::read_to_string(dir.join("cgroup")).expect("the group's name");
    let program = PathBuf::from(fs::read_to_string(dir.join("program")).expect("the program"));
    let runtime = Runtime::new(config(dir, &parent, &program)).expect("a runtime");
    let pod = runtime.create_pod(&pod_spec()).expect("the Pod starts");
    pod.start_container(&container(&["wait"])).expect("start");
    println!("created");
    loop {
        std::thread::park();
    }
}

fn a_pod_outlives_its_creator_and_is_adopted(fixture: &Fixture) {
    fs::write(fixture.dir.path().join("cgroup"), &fixture.cgroup_parent).expect("write");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checker");
    fs::write(
        fixture.dir.path().join("program"),
        &*program.to_string_lossy(),
    )
    .expect("write");
    let mut creator = Command::new(std::env::current_exe().expect("this program's file"));
    let mut creator = creator
        .arg("create")
        .arg(fixture.dir.path())
        .spawn()
        .expect("start the creator");
    eventually("the container waits", || fixture.log(0).contains("waiting"));
    creator.kill().expect("kill -9");
    creator.wait().expect("wait");

    let pods = fixture.runtime.adopt().expect("adopt").pods;
    let [pod] = &pods[..] else {
        panic!("one Pod: {pods:?}")
    };
    assert_eq!(pod.spec(), &pod_spec());
    assert!(
        pod.state().expect("state").containers["main"]
            .state
            .is_running()
    );
    pod.netns().expect("its network namespace");
    pod.signal("main", Signal::SIGKILL as i32).expect("SIGKILL");
    assert_eq!(ended(pod), (137, Some(9)));
    pod.remove().expect("remove");
}

fn a_dead_shim_takes_its_containers_and_is_cleaned_up(fixture: &Fixture) {
    let pod = fixture.pod();
    pod.start_container(&container(&["wait"])).expect("start");
    let pid = first_process(&pod);
    let mut states = pod.subscribe().expect("subscribe");
    let shim = fs::read_to_string(fixture.dir.path().join("run/pods/uid-1/shim.pid"))
        .expect("the shim's pid");
    let killed = Command::new("kill")
        .args(["-9", &shim])
        .status()
        .expect("kill");
    assert!(killed.success());
    eventually("the container ends with its shim", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    eventually("the subscriber learns of it", || {
        matches!(states.try_next(), Err(RuntimeError::ShimGone { .. }))
    });

    assert_eq!(fixture.runtime.adopt().expect("adopt").pods.len(), 0);
}

fn first_process(pod: &Pod) -> i32 {
    match pod.state().expect("state").containers["main"].state {
        ContainerState::Running { pid } => pid,
        ref other => panic!("running, not {other:?}"),
    }
}

fn cgroup_v2_alone_is_enough(fixture: &Fixture) {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).expect("private mounts");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    for line in mounts.lines() {
        if let [_, target, "cgroup", ..] = line.split(' ').collect::<Vec<_>>()[..] {
            umount2(target, MntFlags::MNT_DETACH).expect("unmount");
        }
    }
    let pod = fixture.pod();
    pod.start_container(&container(&["wait"])).expect("start");
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", first_process(&pod)));
    let wanted = format!("0::/{}/poduid-1/main\n", fixture.cgroup_parent);
    let groups = groups.expect("its groups");
    assert!(groups.contains(&wanted), "{groups}");
    let null = File::open("/dev/null").expect("null");
    let spec = ExecSpec {
        container: "main".to_owned(),
        argv: ["/minik", "exit", "3"].map(str::to_owned).to_vec(),
        tty: false,
        dies_with_caller: false,
    };
    assert_eq!(pod.exec(&spec, [null.as_fd(); 3]).expect("exec"), 3);
    pod.remove().expect("remove");
}

/// What comes out of a descriptor until its end.
fn all_of(from: &mut File) -> String {
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let mut polled = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        assert_ne!(
            poll(&mut polled, PollTimeout::from(20_000_u16)).expect("poll"),
            0,
            "it ends"
        );
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // The end of a terminal.
            Err(_) => break,
        }
    }
    String::from_utf8(text).expect("text")
}

fn a_program_runs_in_a_terminal_of_the_container(fixture: &Fixture) {
    let pod = fixture.pod();
    let spec = ContainerSpec {
        user: User {
            uid: 1000,
            gid: 1000,
            groups: Vec::new(),
        },
        ..container(&["wait"])
    };
    pod.start_container(&spec).expect("start");
    let spec = ExecSpec {
        container: "main".to_owned(),
        argv: ["/minik", "terminal"].map(str::to_owned).to_vec(),
        tty: true,
        dies_with_caller: false,
    };
    let (exec, master) = pod.start_exec_in_terminal(&spec).expect("exec");
    let mut master = master.expect("a terminal");
    runtime::resize(master.as_fd(), 80, 24).expect("it has a size");
    let said = all_of(&mut master);
    for line in [
        "terminals=[true, true, true]\r\n",
        "controlling=true",
        "owner=1000",
        "name=/dev/pts/0",
        "term=xterm",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    eventually("it ends", || exec.try_wait().expect("it ran") == Some(0));
    let missing = ExecSpec {
        argv: vec!["/nothing".to_owned()],
        ..spec
    };
    let (exec, _master) = pod.start_exec_in_terminal(&missing).expect("asked");
    let mut told = None;
    eventually("its failure is told", || {
        told = exec.try_wait().err();
        told.is_some()
    });
    let told = told.expect("an error").to_string();
    assert!(told.contains("No such file"), "{told}");
    pod.remove().expect("remove");
}

/// Attaches to both outputs: the container, what it reads, and what it writes.
fn attach(pod: &Pod) -> (runtime::Attached, File, File) {
    let (output, output_end) = nix::unistd::pipe().expect("a pipe");
    let (errors, errors_end) = nix::unistd::pipe().expect("a pipe");
    let ends = [output_end.as_fd(), errors_end.as_fd()];
    let attached = pod.attach("main", true, &ends).expect("attach");
    (attached, output.into(), errors.into())
}

fn talkative(argv: &[&str], tty: bool) -> ContainerSpec {
    ContainerSpec {
        stdio: runtime::Stdio {
            stdin: true,
            stdin_once: true,
            tty,
        },
        ..container(argv)
    }
}

fn who_attaches_writes_and_reads_and_ends_the_input(fixture: &Fixture) {
    use std::io::Write;
    let pod = fixture.pod();
    pod.start_container(&talkative(&["repeat"], false))
        .expect("start");
    let (attached, mut output, mut errors) = attach(&pod);
    assert!(attached.stdin && !attached.tty);
    let mut input = attached.input.expect("somewhere to write");
    input.write_all(b"one\ntwo\n").expect("write");
    drop(input);
    assert_eq!(all_of(&mut output), "one\ntwo\n");
    assert_eq!(all_of(&mut errors), "");
    assert_eq!(ended(&pod).0, 0, "its input has ended");
    assert!(
        fixture.log(0).contains("stdout F two"),
        "the log has it too"
    );
    let refused = pod.attach("main", true, &[]).expect_err("it has ended");
    assert!(refused.to_string().contains("is not running"), "{refused}");
    pod.remove().expect("remove");
}

fn who_attaches_and_reads_late_gets_everything(fixture: &Fixture) {
    use std::io::Write;
    let pod = fixture.pod();
    pod.start_container(&talkative(&["flood"], false))
        .expect("start");
    let (attached, mut output, _errors) = attach(&pod);
    // Another one, who goes away without having read anything, holds nobody up.
    drop(attach(&pod));
    let mut input = attached.input.expect("somewhere to write");
    input.write_all(b"!").expect("write");
    eventually("it has begun", || fixture.log(0).contains("line 0"));
    let state = &pod.state().expect("state").containers["main"].state;
    assert!(state.is_running(), "it waits for the reader");
    let said = all_of(&mut output);
    assert_eq!(said.lines().count(), 50_000);
    assert!(said.ends_with("line 49999\n"));
    assert_eq!(ended(&pod).0, 0);
    pod.remove().expect("remove");
}

fn a_container_in_a_terminal_is_attached_to(fixture: &Fixture) {
    use std::io::Write;
    let pod = fixture.pod();
    pod.start_container(&talkative(&["repeat"], true))
        .expect("start");
    let (attached, mut output, _errors) = attach(&pod);
    assert!(attached.stdin && attached.tty);
    let mut input = attached.input.expect("the terminal");
    runtime::resize(input.as_fd(), 80, 24).expect("it is a terminal");
    // A line, and the character that ends the input.
    input.write_all(b"one\n\x04").expect("write");
    let said = all_of(&mut output);
    assert!(
        said.matches("one\r\n").count() == 2,
        "the echo, and the program: {said:?}"
    );
    assert_eq!(ended(&pod).0, 0);
    pod.remove().expect("remove");
}
