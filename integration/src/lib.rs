//! The harness of the tests that run the real binary: a lab of namespaces, `kubectl`, and waiting with a deadline.
//!
//! Nothing here imports the product: a test sees what a user sees. `integration/test.sh` enters a private network namespace
//! before it starts any test, and [`Lab::up`] refuses to work outside of one.

mod agents;
pub mod net;
pub mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a condition gets to come true, unless a test says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `condition` yields a value.
///
/// # Panics
/// After `deadline`, with the last reason why not.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(reason) if Instant::now() > end => {
                panic!("{what}: not within {deadline:?}: {reason}")
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

/// The binary under test.
///
/// # Panics
/// When `MINIK_BIN` is not set: `make test` sets it.
#[must_use]
pub fn minik() -> PathBuf {
    let path = std::env::var_os("MINIK_BIN")
        .expect("MINIK_BIN names the binary under test: run `make test`");
    PathBuf::from(path)
}

/// What a command printed, and whether it succeeded.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Standard output of a command that had to succeed.
    ///
    /// # Panics
    /// When it failed, with all it said.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "the command failed: {}{}",
            self.out,
            self.err
        );
        self.out
    }

    /// Everything that a command that had to fail said.
    ///
    /// # Panics
    /// When it succeeded.
    #[must_use]
    #[track_caller]
    pub fn refused(self) -> String {
        assert_ne!(
            self.code,
            Some(0),
            "the command succeeded: {}{}",
            self.out,
            self.err
        );
        format!("{}{}", self.out, self.err)
    }

    /// The same as a result, for polling.
    ///
    /// # Errors
    /// All that a failed command said.
    pub fn result(self) -> Result<String, String> {
        if self.code == Some(0) {
            Ok(self.out)
        } else {
            Err(format!("{}{}", self.out, self.err))
        }
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> Answer {
    command
        .output()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"))
        .into()
}

/// A running lab; dropping it takes it down.
pub struct Lab {
    name: String,
}

impl Lab {
    /// A lab of its own for one test.
    ///
    /// # Panics
    /// Outside a private network namespace, or when the lab does not come up.
    #[must_use]
    pub fn up(nodes: u16, flags: &[&str]) -> Self {
        Self::up_with(nodes, flags, &[])
    }

    /// The same, with environment variables for `up`.
    ///
    /// # Panics
    /// As [`Self::up`].
    #[must_use]
    pub fn up_with(nodes: u16, flags: &[&str], env: &[(&str, &str)]) -> Self {
        refuse_the_machines_own_namespace();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "t{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let lab = Self { name };
        let nodes = nodes.to_string();
        let mut command = lab.command(&["lab", "up", "--nodes", &nodes]);
        let answer = run(command.args(flags).envs(env.iter().copied()));
        assert_eq!(answer.code, Some(0), "{}{}", answer.out, answer.err);
        lab
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the lab keeps its files.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new("/run/minik-lab").join(&self.name)
    }

    /// `minik ...` about this lab, not started yet.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(minik());
        command.args(args).env("MINIK_LAB", &self.name);
        command
    }

    /// `minik lab ...`
    #[must_use]
    pub fn lab(&self, args: &[&str]) -> Answer {
        run(self.command(&["lab"]).args(args))
    }

    /// `kubectl ...`
    #[must_use]
    pub fn kubectl(&self, args: &[&str]) -> Answer {
        run(&mut self.kubectl_command(args))
    }

    /// `kubectl ...`, not started yet.
    #[must_use]
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        // A cache of its own: discovery of another test's server must not be taken for this one's.
        command
            .arg("--cache-dir")
            .arg(self.dir().join("kubectl-cache"));
        command
            .args(args)
            .env("KUBECONFIG", self.dir().join("kubeconfig"));
        command
    }

    /// `kubectl get ... -o json`
    #[must_use]
    pub fn get(&self, args: &[&str]) -> Value {
        let answer = self.kubectl(&[&["get", "-o", "json"], args].concat()).ok();
        serde_json::from_str(&answer).expect("kubectl prints JSON")
    }

    /// `kubectl apply -f -`
    #[must_use]
    pub fn apply(&self, manifest: &str) -> Answer {
        let file = self.dir().join(format!(
            "{:x}.yaml",
            manifest.len() ^ manifest.as_ptr() as usize
        ));
        fs::write(&file, manifest).expect("write the manifest");
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Runs a command on a host.
    #[must_use]
    pub fn on(&self, host: &str, command: &[&str]) -> Answer {
        self.lab(&[&["exec", host, "--"], command].concat())
    }

    /// Runs `minik ...` on a host.
    #[must_use]
    pub fn minik_on(&self, host: &str, args: &[&str]) -> Answer {
        let minik = minik().to_string_lossy().into_owned();
        self.on(host, &[&[minik.as_str()], args].concat())
    }

    /// Creates a join token on the control host.
    #[must_use]
    pub fn token(&self) -> String {
        let data = self.dir().join("control/lib/server");
        let data = data.to_string_lossy();
        let answer = self.minik_on("control", &["token", "create", "--data-dir", &data]);
        answer.ok().trim().to_owned()
    }

    /// Starts a command on a host, which goes on after this. Its output is `NAME.log` in the host's directory, its process
    /// id on the host is `NAME.pid` there.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_on(&self, host: &str, name: &str, command: &[&str]) {
        let dir = self.dir().join(host);
        let dir = dir.to_string_lossy();
        let script =
            format!("cd {dir}; setsid \"$@\" >>{name}.log 2>&1 </dev/null & echo $! > {name}.pid");
        let shell = ["sh", "-c", &script, "sh"];
        let _ = self.on(host, &[&shell[..], command].concat()).ok();
    }

    /// `kill -9` of what [`Lab::start_on`] has started.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_on(&self, host: &str, name: &str) {
        let pid = self.dir().join(host).join(format!("{name}.pid"));
        let pid = fs::read_to_string(pid).expect("it was started");
        let _ = self.on(host, &["kill", "-9", pid.trim()]).ok();
    }

    /// Runs the built-in image's `/minik ...` in a Pod of the default namespace.
    #[must_use]
    pub fn minik_in(&self, host: &str, pod: &str, args: &[&str]) -> Answer {
        self.lab(&[&["exec", host, "--pod", pod, "--", "/minik"], args].concat())
    }

    /// Creates Pods of the built-in image, one for each `(name, app label, node)`, and waits until they are ready.
    pub fn echo_pods(&self, pods: &[(&str, &str, &str)]) {
        let manifest: Vec<_> = pods
            .iter()
            .map(|(name, app, node)| echo_pod(name, app, node))
            .collect();
        let _ = self.apply(&manifest.join("---\n")).ok();
        let names: Vec<_> = pods
            .iter()
            .map(|(name, _, _)| format!("pod/{name}"))
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let _ = self
            .kubectl(
                &[
                    &["wait", "--for=condition=Ready", "--timeout=60s"],
                    &names[..],
                ]
                .concat(),
            )
            .ok();
    }

    /// The end of a unit's log on a host, for messages of failed tests.
    #[must_use]
    pub fn log(&self, host: &str, unit: &str) -> String {
        fs::read_to_string(self.dir().join(host).join(format!("log/{unit}.log")))
            .unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in ["control", "node1", "node2", "node3"] {
                for unit in ["server", "agent"] {
                    let log = self.log(host, unit);
                    let tail: Vec<_> = log.lines().rev().take(25).collect();
                    if !tail.is_empty() {
                        eprintln!("-- {host} {unit}:");
                        tail.iter().rev().for_each(|line| eprintln!("{line}"));
                    }
                }
            }
        }
        let answer = self.lab(&["down"]);
        assert!(
            std::thread::panicking() || answer.code == Some(0),
            "lab down: {}",
            answer.err
        );
    }
}

/// The manifest of one Pod that answers HTTP on 9376 and lines on 9377.
#[must_use]
pub fn echo_pod(name: &str, app: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {app}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: minik.dev/echo\n    \
         args: [\"--http\", \"9376\", \"--tcp\", \"9377\", \"--udp\", \"9378\"]\n"
    )
}

/// # Panics
/// Unless `integration/test.sh` has moved this process into a network namespace of its own.
fn refuse_the_machines_own_namespace() {
    let own = fs::read_link("/proc/self/ns/net").expect("read the network namespace");
    let wanted = std::env::var_os("MINIK_TEST_NAMESPACE").map(PathBuf::from);
    assert_eq!(
        Some(own),
        wanted,
        "this test must run inside the private network namespace that integration/test.sh makes"
    );
}

/// A long-lived TCP connection from a host of the lab to an echo server, used line by line.
pub struct Flow {
    child: std::process::Child,
    input: std::process::ChildStdin,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Flow {
    /// Connects from `host`, or from a Pod on it, to `target` (`address:port`).
    ///
    /// # Panics
    /// When the client cannot be started.
    #[must_use]
    pub fn open(lab: &Lab, host: &str, pod: Option<&str>, target: &str) -> Self {
        use std::process::Stdio;
        let minik = minik().to_string_lossy().into_owned();
        let mut command = lab.command(&["lab", "exec", host]);
        match pod {
            Some(pod) => command.args(["--pod", pod, "--", "/minik"]),
            None => command.args(["--", &minik]),
        };
        command.args(["fetch", "--lines", &format!("tcp://{target}")]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the client");
        let input = child.stdin.take().expect("piped");
        let output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        Self {
            child,
            input,
            output,
        }
    }

    /// Sends a line and returns the line that came back.
    ///
    /// # Panics
    /// When the connection is broken.
    pub fn say(&mut self, line: &str) -> String {
        use std::io::{BufRead, Write};
        writeln!(self.input, "{line}").expect("the connection takes a line");
        let mut answer = String::new();
        let read = self
            .output
            .read_line(&mut answer)
            .expect("the connection answers");
        assert_ne!(
            read, 0,
            "the connection was closed instead of answering {line:?}"
        );
        assert!(answer.contains(line), "sent {line:?}, got {answer:?}");
        answer
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
