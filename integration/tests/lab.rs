//! The manners of `minik lab`: it says what it does, waits its turn, and leaves nothing behind.

use std::{
    fs,
    io::Read,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use integration::{DEADLINE, Lab, eventually, minik, run};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// A lab's name that no other test of this process has, and its directory.
fn unused(suffix: &str) -> (String, PathBuf) {
    let name = format!("l{}-{suffix}", std::process::id());
    let dir = Path::new("/run/minik-lab").join(&name);
    (name, dir)
}

/// `minik lab --name NAME ...`
fn lab(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(minik());
    command.args(["lab", "--name", name]).args(args);
    command
}

#[track_caller]
fn nothing_is_left(name: &str, dir: &Path, when: &str) {
    assert!(!dir.exists(), "{when}: {} is still there", dir.display());
    for entry in fs::read_dir("/proc").expect("list /proc").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(
            !line.contains(&format!("--lab {name} ")),
            "{when}: still running: {line}"
        );
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let cgroup = hierarchy.path().join(format!("minik-lab-{name}"));
        assert!(
            !cgroup.exists(),
            "{when}: {} is still there",
            cgroup.display()
        );
    }
}

/// Ctrl-C in a terminal reaches the whole process group: `up` and whatever it has just started.
#[test]
fn an_interrupt_at_any_moment_of_up_leaves_nothing() {
    let (name, dir) = unused("int");
    for (number, signal) in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        let up = lab(&name, &["up", "--nodes", "2"])
            .process_group(0)
            .stderr(Stdio::piped())
            .spawn()
            .expect("start up");
        // Each round interrupts a little later: from the first host until the nodes join.
        let progress = 1 + number * 2;
        eventually("up has got that far", DEADLINE, || {
            let made = files_below(&dir);
            (made >= progress)
                .then_some(())
                .ok_or(format!("{made} files"))
        });
        let group = Pid::from_raw(i32::try_from(up.id()).expect("a process number"));
        killpg(group, signal).expect("signal");
        let output = up.wait_with_output().expect("wait for up");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(128 + signal as i32),
            "{signal} after {progress} files: {said}"
        );
        assert!(said.contains("interrupted"), "{said}");
        nothing_is_left(&name, &dir, signal.as_str());
    }
}

fn files_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

#[test]
fn a_killed_up_is_cleaned_up_by_down_or_by_the_next_up() {
    let (name, dir) = unused("kill");
    for progress in [1, 3, 6, 9, 15] {
        for next in ["down", "up"] {
            let mut up = lab(&name, &["up", "--nodes", "2"])
                .stderr(Stdio::null())
                .spawn()
                .expect("start up");
            eventually("up has got that far", DEADLINE, || {
                let made = files_below(&dir);
                (made >= progress)
                    .then_some(())
                    .ok_or(format!("{made} files"))
            });
            up.kill().expect("kill -9");
            let _ = up.wait();
            if next == "up" {
                let _ = run(&mut lab(&name, &["up", "--nodes", "1"])).ok();
            }
            let _ = run(&mut lab(&name, &["down"])).ok();
            nothing_is_left(
                &name,
                &dir,
                &format!("killed after {progress} files, {next}"),
            );
        }
    }
}

#[test]
fn commands_on_one_lab_wait_for_each_other() {
    let (name, dir) = unused("duel");
    let first = lab(&name, &["up", "--nodes", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("start up");
    eventually("the first up is at work", DEADLINE, || {
        (files_below(&dir) > 1)
            .then_some(())
            .ok_or("nothing yet".to_owned())
    });
    let second = run(&mut lab(&name, &["up", "--nodes", "1"])).refused();
    assert!(second.contains("already up"), "{second}");
    let first = first.wait_with_output().expect("wait for up");
    assert!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );

    let third = run(&mut lab(&name, &["up"])).refused();
    assert!(
        third.contains("already up") && third.contains(&format!("down --name {name}")),
        "{third}"
    );
    let _ = run(&mut lab(&name, &["down"])).ok();
    let again = run(&mut lab(&name, &["down"]));
    assert_eq!(again.code, Some(0));
    assert!(again.err.contains("not up"), "{}", again.err);
    nothing_is_left(&name, &dir, "down");
}

#[test]
fn a_lab_that_cannot_come_up_says_why_and_leaves_nothing() {
    let (name, dir) = unused("fail");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (args, words) in [
        (
            &["up", "--api-port", &port][..],
            &["--api-port", port.as_str(), "in use"][..],
        ),
        (
            &["up", "--node-grace-secs", "0"],
            &["--node-grace-secs", "1..="],
        ),
        (&["up", "--nodes", "0"], &["--nodes", "1..=80"]),
        (&["status"], &["not up", "lab up --name"]),
        (&["exec", "node1", "--", "true"], &["not up"]),
        (&["kill", "node1"], &["not up"]),
    ] {
        let refusal = run(&mut lab(&name, args)).refused();
        for word in words {
            assert!(
                refusal.contains(word),
                "{args:?}: {word:?} is missing in: {refusal}"
            );
        }
        nothing_is_left(&name, &dir, &format!("{args:?}"));
    }
}

#[test]
fn without_root_a_lab_says_that_it_needs_root() {
    let standing = Lab::up(1, &[]);
    for args in [
        &["up"][..],
        &["down"],
        &["status"],
        &["exec", "node1", "--", "true"],
        &["kill", "node1"],
        &["partition", "node1"],
    ] {
        let refusal = run(Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(minik())
            .args(["lab", "--name", standing.name()])
            .args(args))
        .refused();
        assert!(refusal.contains("needs root"), "{args:?}: {refusal}");
    }
    let status = standing.lab(&["status"]).ok();
    assert!(status.contains("agent running"), "{status}");
}

#[test]
fn what_a_lab_shows_can_be_used() {
    // As sudo has it: the kubeconfig is for the user who asked.
    let lab = Lab::up_with(2, &[], &[("SUDO_UID", "65534"), ("SUDO_GID", "65534")]);
    let kubeconfig = fs::metadata(lab.dir().join("kubeconfig")).expect("a kubeconfig");
    assert_eq!(
        (
            kubeconfig.uid(),
            kubeconfig.gid(),
            kubeconfig.mode() & 0o777
        ),
        (65534, 65534, 0o600)
    );

    // No secret in the arguments, which every user can read.
    let arguments = lab
        .on("node1", &["sh", "-c", "cat /proc/[0-9]*/cmdline"])
        .ok();
    assert!(
        arguments.contains("agent") && !arguments.contains("minik1."),
        "{arguments}"
    );

    // The cable that was cut is shown, until it is mended.
    let cut = |lab: &Lab| lab.lab(&["status"]).ok().contains("cable cut");
    assert!(!cut(&lab));
    let _ = lab.lab(&["partition", "node2"]).ok();
    assert!(cut(&lab));
    let _ = lab.lab(&["heal", "node2"]).ok();
    assert!(!cut(&lab));

    // Whoever reads no further ends the command, quietly.
    let mut status = Command::new(minik())
        .args(["lab", "--name", lab.name(), "status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start status");
    drop(status.stdout.take());
    let mut said = String::new();
    let mut errors = status.stderr.take().expect("piped");
    errors.read_to_string(&mut said).expect("read");
    let _ = status.wait();
    assert_eq!(said, "", "nothing is said to nobody");

    // Into a Pod without knowing its node; with a wrong node the answer tells who is there.
    lab.echo_pods(&[("a1", "a", "node1"), ("a2", "a", "node2")]);
    for pod in ["a1", "default/a2"] {
        let answer = lab
            .lab(&[
                "exec",
                "--pod",
                pod,
                "--",
                "/minik",
                "fetch",
                "http://127.0.0.1:9376/hostname",
            ])
            .ok();
        assert!(
            answer.contains(pod.trim_start_matches("default/")),
            "{answer}"
        );
    }
    let elsewhere = lab.minik_in("node2", "a1", &["--version"]).refused();
    assert!(
        elsewhere.contains("default/a1") && elsewhere.contains("default/a2"),
        "{elsewhere}"
    );
    let unknown = lab
        .lab(&["exec", "--pod", "nobody", "--", "/minik"])
        .refused();
    assert!(unknown.contains("pods \"nobody\" not found"), "{unknown}");
    let nothing = lab.lab(&["exec", "--pod", "a1", "--", "/bin/sh"]).refused();
    assert!(
        nothing.contains("/bin/sh") && nothing.contains("default/a1"),
        "{nothing}"
    );
    let missing = lab.on("node1", &["no-such-program"]);
    assert_eq!(missing.code, Some(127), "{}", missing.err);

    // Relative paths mean what they mean outside.
    let here = Command::new(minik())
        .args(["lab", "--name", lab.name(), "exec", "node1", "--", "pwd"])
        .current_dir("/usr")
        .output()
        .expect("run exec");
    assert_eq!(String::from_utf8_lossy(&here.stdout).trim(), "/usr");
}

/// The name server of a lab host is the machine's, which the lab cannot reach.
#[test]
fn fetch_gives_up_on_a_silent_name_server() {
    let lab = Lab::up(1, &[]);
    let resolv = lab.dir().join("resolv.conf");
    fs::write(&resolv, "nameserver 198.18.0.77\n").expect("write resolv.conf");
    let fetch = format!(
        "mount --bind {} /etc/resolv.conf && exec {} fetch --connect-timeout 1 http://nobody/",
        resolv.display(),
        minik().display()
    );
    let mut command = lab.command(&[
        "lab", "exec", "client", "--", "unshare", "-m", "sh", "-c", &fetch,
    ]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("start fetch");
    eventually("fetch gives up", Duration::from_secs(20), || {
        let ended = child.try_wait().expect("look at the child");
        ended.map(|_| ()).ok_or("still running".to_owned())
    });
    let output = child.wait_with_output().expect("wait");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nobody") && said.contains("1 s"), "{said}");
}
