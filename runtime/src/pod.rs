//! The agent's side: making Pods, finding them again, talking to their shims. Every call blocks for a short while.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::MsgFlags,
    unistd::Pid,
};

use crate::{
    error::{Explain, RuntimeError},
    open_files,
    protocol::{PodState, Reply, Request},
    sandbox::{
        cgroup::Cgroup,
        syscall::{kill_process, pidfd_open},
        terminal,
    },
    socket::{Packets, Received, wait_at_most},
    spec::{Config, ContainerSpec, ExecSpec, PodSpec},
};

/// How long a shim may take to answer; it never waits for anything longer than a container's start.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a shim gets to end, in milliseconds.
const END_DEADLINE_MS: u16 = 10_000;
/// What the shim needs to know besides the Pod itself.
pub(crate) const SETUP_FILE: &str = "pod.json";
pub(crate) const PID_FILE: &str = "shim.pid";

/// Everything a shim is started with; written to [`SETUP_FILE`] in its directory.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Setup {
    pub(crate) pod: PodSpec,
    pub(crate) log_dir: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) built_in: PathBuf,
    /// The soft limit of open files, where it is not the agent's.
    #[serde(default)]
    pub(crate) open_files: Option<u64>,
}

/// Makes Pods on this node.
#[derive(Clone, Debug)]
pub struct Runtime {
    config: Config,
}

/// What an agent finds when it starts.
#[derive(Debug, Default)]
pub struct Adopted {
    /// The Pods whose shims live.
    pub pods: Vec<Pod>,
    /// Why the remains of others could not be removed.
    pub left: Vec<RuntimeError>,
}

/// One Pod whose shim lives.
#[derive(Debug)]
pub struct Pod {
    uid: String,
    spec: PodSpec,
    dir: PathBuf,
    shim: Pid,
    pidfd: OwnedFd,
    cgroup: Cgroup,
}

impl Runtime {
    /// A runtime on these directories, which are made when they do not exist.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(config: Config) -> Result<Self, RuntimeError> {
        // A shim works in `/`, and is known again by its directory: relative paths and links would mislead it, or us.
        let absolute = |dir: &Path, mode| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(dir)
                .and_then(|()| dir.canonicalize())
                .explain("create", dir.display())
        };
        let run_dir = absolute(&config.run_dir, 0o755)?;
        absolute(&run_dir.join("pods"), 0o700)?;
        let log_dir = absolute(&config.log_dir, 0o755)?;
        Ok(Self {
            config: Config {
                run_dir,
                log_dir,
                ..config
            },
        })
    }

    /// Starts a Pod's shim, and with it the Pod's namespaces. No container runs yet.
    ///
    /// # Errors
    /// [`RuntimeError::ShimFailed`] with what the shim said; nothing is left behind then.
    pub fn create_pod(&self, spec: &PodSpec) -> Result<Pod, RuntimeError> {
        let dir = self.dir(&spec.uid);
        // What an interrupted attempt may have left would be in the way.
        self.clear(&spec.uid)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .explain("create", dir.display())?;
        let setup = Setup {
            pod: spec.clone(),
            log_dir: self.log_dir(&spec.namespace, &spec.name, &spec.uid),
            cgroup: self.cgroup(&spec.uid),
            built_in: self.config.built_in.clone(),
            open_files: open_files::given(),
        };
        let file = dir.join(SETUP_FILE);
        let json = serde_json::to_vec(&setup)
            .map_err(io::Error::from)
            .explain("encode", file.display())?;
        fs::write(&file, json).explain("write", file.display())?;
        self.start_shim(&spec.uid, &dir)
            .and_then(|()| self.open(&spec.uid))
            .inspect_err(|_| {
                let _ = self.clear(&spec.uid);
            })
    }

    fn start_shim(&self, uid: &str, dir: &Path) -> Result<(), RuntimeError> {
        let log = dir.join("shim.log");
        let errors = File::create(&log).explain("create", log.display())?;
        let mut command = Command::new(&self.config.exe);
        command.arg("shim").arg(dir).env_clear().current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = command
            .spawn()
            .explain("start", self.config.exe.display())?;
        let mut answer = String::new();
        if let Some(mut out) = child.stdout.take() {
            out.read_to_string(&mut answer)
                .explain("read from the shim of", uid)?;
        }
        // The process started here ends at once; the shim is its child, and nobody's but the first process's.
        child.wait().explain("wait for the start of", uid)?;
        if answer == "ready" {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(RuntimeError::ShimFailed {
            uid: uid.to_owned(),
            reason: format!("{answer}{}", said.trim()),
        })
    }

    /// Every Pod whose shim lives, as an agent finds them after a restart. What dead shims left behind is removed, and a shim
    /// that does not answer is ended.
    ///
    /// # Errors
    /// When the directory cannot be read, or this process lacks something to talk to a shim (descriptors, memory): that says
    /// nothing about the Pod, which runs on.
    pub fn adopt(&self) -> Result<Adopted, RuntimeError> {
        let mut adopted = Adopted::default();
        for uid in self.uids()? {
            match self.open(&uid) {
                Ok(pod) => adopted.pods.push(pod),
                Err(error @ RuntimeError::Io { .. }) => return Err(error),
                // What cannot be removed now stays for the next time: the other Pods must not wait for it.
                Err(_) => adopted.left.extend(self.clear(&uid).err()),
            }
        }
        Ok(adopted)
    }

    /// Removes the logs of a Pod that nobody will ask about any more.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn remove_logs(&self, namespace: &str, name: &str, uid: &str) -> Result<(), RuntimeError> {
        remove_dir(&self.log_dir(namespace, name, uid))
    }

    /// Every Pod whose shim lives, for a program that is not the agent: nothing is changed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Pod>, RuntimeError> {
        Ok(self
            .uids()?
            .iter()
            .filter_map(|uid| self.open(uid).ok())
            .collect())
    }

    /// The Pod of this uid, if its shim lives.
    ///
    /// # Errors
    /// [`RuntimeError::ShimGone`] when it does not.
    pub fn pod(&self, uid: &str) -> Result<Pod, RuntimeError> {
        // The uid comes from elsewhere: it must not lead to another directory.
        if uid.is_empty() || uid.contains(['/', '.']) {
            return Err(RuntimeError::ShimGone {
                uid: uid.to_owned(),
            });
        }
        self.open(uid)
    }

    /// Where the logs of a container are, if such names can be those of a Pod.
    #[must_use]
    pub fn container_logs(
        &self,
        (namespace, name, uid): (&str, &str, &str),
        container: &str,
    ) -> Option<PathBuf> {
        let is_word =
            |word: &&str| !word.is_empty() && !word.contains('/') && !matches!(*word, "." | "..");
        let words = [namespace, name, uid, container];
        words
            .iter()
            .all(is_word)
            .then(|| self.log_dir(namespace, name, uid).join(container))
    }

    fn uids(&self) -> Result<Vec<String>, RuntimeError> {
        let pods = self.config.run_dir.join("pods");
        fs::read_dir(&pods)
            .explain("list", pods.display())?
            .map(|entry| {
                Ok(entry
                    .explain("list", pods.display())?
                    .file_name()
                    .to_string_lossy()
                    .into_owned())
            })
            .collect()
    }

    fn open(&self, uid: &str) -> Result<Pod, RuntimeError> {
        let dir = self.dir(uid);
        let gone = || RuntimeError::ShimGone {
            uid: uid.to_owned(),
        };
        let shim = shim_pid(&dir).ok_or_else(gone)?;
        let pidfd = match pidfd_open(shim) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(gone()),
            other => other.explain("open the shim of", uid)?,
        };
        // An answer proves that the shim lived when its pid was opened, so the pid was not another process's.
        match ask(&connect(&dir, uid)?, uid, &Request::Hello, &[])? {
            Reply::Hello { pod, .. } => Ok(Pod {
                uid: uid.to_owned(),
                spec: *pod,
                dir,
                shim,
                pidfd,
                cgroup: Cgroup::named(&self.cgroup(uid)),
            }),
            other => Err(unexpected(uid, &other)),
        }
    }

    /// Removes what a Pod without a shim, or with one that does not answer, has left.
    fn clear(&self, uid: &str) -> Result<(), RuntimeError> {
        let dir = self.dir(uid);
        // First a hold on the process, then the look at what it is: a pid that was given to another process in between is
        // seen to be another's, and one that was the shim's at the look was the shim's before.
        if let Some(pidfd) = shim_pid(&dir).and_then(|pid| pidfd_open(pid).ok())
            && shim_pid(&dir).is_some()
        {
            end_shim(&pidfd, uid)?;
        }
        Cgroup::named(&self.cgroup(uid)).remove()?;
        remove_dir(&dir)
    }

    fn dir(&self, uid: &str) -> PathBuf {
        self.config.run_dir.join("pods").join(uid)
    }

    /// Where the files of a Pod's volume are kept; they go with the Pod.
    #[must_use]
    pub fn volume_dir(&self, uid: &str, volume: &str) -> PathBuf {
        self.dir(uid).join("volumes").join(volume)
    }

    fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.config
            .log_dir
            .join(format!("{namespace}_{name}_{uid}"))
    }

    fn cgroup(&self, uid: &str) -> String {
        format!("{}/pod{uid}", self.config.cgroup_parent)
    }
}

impl Pod {
    /// The Pod's uid.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// What the Pod was made from.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The shim's process, for those who watch over it.
    #[must_use]
    pub fn shim_pid(&self) -> i32 {
        self.shim.as_raw()
    }

    /// The Pod's network namespace. It lives as long as the shim, or this descriptor.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn netns(&self) -> Result<OwnedFd, RuntimeError> {
        let path = format!("/proc/{}/ns/net", self.shim);
        let netns = File::open(&path).explain("open", path)?.into();
        // Still alive now: then the pid was the shim's when it was opened.
        self.state()?;
        Ok(netns)
    }

    /// Starts a container. Its program's own failure to start (not found, not executable) is an error too.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] with the step that failed.
    pub fn start_container(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.done(&Request::Start(Box::new(spec.clone())))
    }

    /// Sends a signal to a container's first process; SIGKILL goes to all of its processes. One that has ended is fine.
    ///
    /// # Errors
    /// When there never was such a container, or the shim is gone.
    pub fn signal(&self, container: &str, signal: i32) -> Result<(), RuntimeError> {
        self.done(&Request::Signal {
            container: container.to_owned(),
            signal,
        })
    }

    /// The state of every container.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn state(&self) -> Result<PodState, RuntimeError> {
        match self.ask(&Request::State)? {
            Reply::State(state) => Ok(state),
            other => Err(unexpected(&self.uid, &other)),
        }
    }

    /// The state now and after every change, on a descriptor that can be polled.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn subscribe(&self) -> Result<Subscription, RuntimeError> {
        let shim = connect(&self.dir, &self.uid)?;
        shim.send(&Request::Subscribe, &[])
            .explain("write to the shim of", &self.uid)?;
        Ok(Subscription {
            uid: self.uid.clone(),
            shim,
        })
    }

    /// Runs a program in a running container with these standard descriptors, and waits for its exit code.
    ///
    /// # Errors
    /// When it cannot be started. A program that fails is not an error.
    pub fn exec(&self, spec: &ExecSpec, stdio: [BorrowedFd<'_>; 3]) -> Result<i32, RuntimeError> {
        let fds = stdio.map(|fd| fd.as_raw_fd());
        // As long as the program runs.
        let shim = Packets::connect(&self.dir, None).map_err(|_| self.gone())?;
        match ask(&shim, &self.uid, &Request::Exec(spec.clone()), &fds)? {
            Reply::Exited { code } => Ok(code),
            other => Err(unexpected(&self.uid, &other)),
        }
    }

    /// Runs a program in a running container with these standard descriptors, and does not wait for it.
    ///
    /// # Errors
    /// When the shim cannot be asked. Whether the program started, [`Exec::try_wait`] tells.
    pub fn start_exec(
        &self,
        spec: &ExecSpec,
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<Exec, RuntimeError> {
        self.ask_exec(spec, &stdio.map(|fd| fd.as_raw_fd()))
    }

    /// Runs a program in a terminal in a running container. Returns the terminal's master, which does not wait; `None` when the
    /// program did not get to its terminal, and [`Exec::try_wait`] tells why.
    ///
    /// # Errors
    /// When the shim cannot be asked, or what comes is no terminal.
    pub fn start_exec_in_terminal(
        &self,
        spec: &ExecSpec,
    ) -> Result<(Exec, Option<File>), RuntimeError> {
        let (ours, theirs) = terminal::sockets().explain("make a socket for", &self.uid)?;
        wait_at_most(&ours, ANSWER_TIMEOUT).explain("limit a wait for", &self.uid)?;
        let exec = self.ask_exec(spec, &[theirs.as_raw_fd()])?;
        drop(theirs);
        let master = terminal::receive(&ours).explain("receive a terminal of", &self.uid)?;
        Ok((exec, master))
    }

    fn ask_exec(&self, spec: &ExecSpec, fds: &[i32]) -> Result<Exec, RuntimeError> {
        // The end is polled for: only a shim that hangs is waited for here, and not for ever.
        let shim = connect(&self.dir, &self.uid)?;
        shim.send(&Request::Exec(spec.clone()), fds)
            .explain("write to the shim of", &self.uid)?;
        Ok(Exec {
            uid: self.uid.clone(),
            shim,
        })
    }

    /// Copies a running container's output, from now on, to these descriptors (standard output, standard error), until the
    /// container ends or the other ends of the descriptors are closed.
    ///
    /// # Errors
    /// When the container does not run.
    pub fn attach(
        &self,
        container: &str,
        stdin: bool,
        outputs: &[BorrowedFd<'_>],
    ) -> Result<Attached, RuntimeError> {
        let shim = connect(&self.dir, &self.uid)?;
        let request = Request::Attach {
            container: container.to_owned(),
            stdin,
        };
        let fds: Vec<i32> = outputs.iter().map(AsRawFd::as_raw_fd).collect();
        match ask_for(&shim, &self.uid, &request, &fds)? {
            (Reply::Attached { tty, stdin }, mut fds) => Ok(Attached {
                tty,
                stdin,
                input: fds.pop().map(File::from),
            }),
            (other, _) => Err(unexpected(&self.uid, &other)),
        }
    }

    /// Ends every container and the shim, and removes what they leave. Logs stay.
    ///
    /// # Errors
    /// When something cannot be ended or removed; calling again is fine.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let asked = self.done(&Request::Shutdown);
        if asked.is_err() || !ended(&self.pidfd, &self.uid)? {
            end_shim(&self.pidfd, &self.uid)?;
        }
        self.cgroup.remove()?;
        remove_dir(&self.dir)
    }

    fn done(&self, request: &Request) -> Result<(), RuntimeError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&self.uid, &other)),
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply, RuntimeError> {
        ask(&connect(&self.dir, &self.uid)?, &self.uid, request, &[])
    }

    fn gone(&self) -> RuntimeError {
        RuntimeError::ShimGone {
            uid: self.uid.clone(),
        }
    }
}

/// A container that somebody has attached to.
#[derive(Debug)]
pub struct Attached {
    /// Whether its streams are a terminal, which has only one output.
    pub tty: bool,
    /// Whether what is written to `input` reaches the container.
    pub stdin: bool,
    /// The container's standard input, or its terminal's master. Writing does not wait.
    pub input: Option<File>,
}

/// A program that runs in a container. Poll the descriptor for reading.
#[derive(Debug)]
pub struct Exec {
    uid: String,
    shim: Packets,
}

impl Exec {
    /// Its exit code, once it has ended.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] with the step that failed, when it did not start; [`RuntimeError::ShimGone`].
    pub fn try_wait(&self) -> Result<Option<i32>, RuntimeError> {
        match self
            .shim
            .receive(MsgFlags::MSG_DONTWAIT)
            .explain("read from the shim of", &self.uid)?
        {
            Received::Message(Reply::Exited { code }, _) => Ok(Some(code)),
            Received::Message(Reply::Error { reason }, _) => Err(RuntimeError::Refused {
                uid: self.uid.clone(),
                reason,
            }),
            Received::Message(other, _) => Err(unexpected(&self.uid, &other)),
            Received::Nothing => Ok(None),
            Received::Closed => Err(RuntimeError::ShimGone {
                uid: self.uid.clone(),
            }),
        }
    }
}

impl AsRawFd for Exec {
    fn as_raw_fd(&self) -> i32 {
        self.shim.0.as_raw_fd()
    }
}

/// The states of one Pod as they come. Poll the descriptor for reading. Who reads slowly misses states, but never the newest.
#[derive(Debug)]
pub struct Subscription {
    uid: String,
    shim: Packets,
}

impl Subscription {
    /// The next state that has arrived; `None` when there is none yet.
    ///
    /// # Errors
    /// [`RuntimeError::ShimGone`] when there will never be another.
    pub fn try_next(&mut self) -> Result<Option<PodState>, RuntimeError> {
        match self
            .shim
            .receive(MsgFlags::MSG_DONTWAIT)
            .explain("read from the shim of", &self.uid)?
        {
            Received::Message(Reply::State(state), _) => Ok(Some(state)),
            Received::Message(other, _) => Err(unexpected(&self.uid, &other)),
            Received::Nothing => Ok(None),
            Received::Closed => Err(RuntimeError::ShimGone {
                uid: self.uid.clone(),
            }),
        }
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shim.0.as_fd()
    }
}

impl AsRawFd for Subscription {
    fn as_raw_fd(&self) -> i32 {
        self.shim.0.as_raw_fd()
    }
}

fn ask(shim: &Packets, uid: &str, request: &Request, fds: &[i32]) -> Result<Reply, RuntimeError> {
    ask_for(shim, uid, request, fds).map(|(reply, _)| reply)
}

/// Asks, and takes the descriptors that come with the answer.
fn ask_for(
    shim: &Packets,
    uid: &str,
    request: &Request,
    fds: &[i32],
) -> Result<(Reply, Vec<OwnedFd>), RuntimeError> {
    let gone = || RuntimeError::ShimGone {
        uid: uid.to_owned(),
    };
    shim.send(request, fds)
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => gone(),
            _ => RuntimeError::Io {
                operation: "write to the shim of",
                subject: uid.to_owned(),
                source: error,
            },
        })?;
    match shim
        .receive(MsgFlags::empty())
        .explain("read from the shim of", uid)?
    {
        Received::Message(Reply::Error { reason }, _) => Err(RuntimeError::Refused {
            uid: uid.to_owned(),
            reason,
        }),
        Received::Message(reply, fds) => Ok((reply, fds)),
        Received::Nothing => Err(RuntimeError::ShimHangs {
            uid: uid.to_owned(),
        }),
        Received::Closed => Err(gone()),
    }
}

fn unexpected(uid: &str, answer: &Reply) -> RuntimeError {
    RuntimeError::Protocol {
        uid: uid.to_owned(),
        answer: format!("{answer:?}"),
    }
}

fn connect(dir: &Path, uid: &str) -> Result<Packets, RuntimeError> {
    Packets::connect(dir, Some(ANSWER_TIMEOUT)).map_err(|error| match error.kind() {
        // No socket, or nobody behind it. Anything else is this process's own trouble.
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => RuntimeError::ShimGone {
            uid: uid.to_owned(),
        },
        _ => RuntimeError::Io {
            operation: "connect to the shim of",
            subject: uid.to_owned(),
            source: error,
        },
    })
}

/// The shim of a Pod's directory, as far as its pid still is that of a shim for this directory.
fn shim_pid(dir: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(dir.join(PID_FILE)).ok()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = command.split(|byte| *byte == 0).skip(1);
    let ours = words.next() == Some(b"shim") && words.next() == Some(dir.as_os_str().as_bytes());
    ours.then(|| Pid::from_raw(pid))
}

/// SIGKILL; the containers die with it.
fn end_shim(pidfd: &OwnedFd, uid: &str) -> Result<(), RuntimeError> {
    kill_process(pidfd).explain("kill the shim of", uid)?;
    if ended(pidfd, uid)? {
        return Ok(());
    }
    Err(RuntimeError::ShimHangs {
        uid: uid.to_owned(),
    })
}

/// Waits for the end of a shim, for a while.
fn ended(pidfd: &OwnedFd, uid: &str) -> Result<bool, RuntimeError> {
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut polled, PollTimeout::from(END_DEADLINE_MS))
        .explain("wait for the shim of", uid)?;
    Ok(ready > 0)
}

fn remove_dir(dir: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).explain("remove", dir.display())
        }
        _ => Ok(()),
    }
}
