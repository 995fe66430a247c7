//! The first process of a lab host: it holds the namespaces and starts what runs there.
//!
//! `minik lab-host` unshares everything, forks, and its child becomes process 1 of the host. When that process dies the
//! kernel ends every other process of the host, whatever it is: this is what makes a lab disappear without trace.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, dup2_stdin, fork, pipe, sethostname, setsid},
};
use serde::{Deserialize, Serialize};

use super::state::Lab;

/// The number under which a started program finds an inherited listening socket, as socket activation has it.
const LISTEN_FD: i32 = 3;

/// The arguments of the hidden `minik lab-host`.
#[derive(clap::Args, Debug)]
pub(crate) struct HostArgs {
    /// The lab.
    #[arg(long)]
    lab: String,
    /// The host.
    #[arg(long)]
    host: String,
    /// File descriptor 3 is a listening socket to hand on to the server.
    #[arg(long)]
    inherit_listener: bool,
}

/// A command to a host's first process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Starts a program under a name.
    Start {
        /// The unit's name: `server`, `agent`, `echo`.
        unit: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// Where standard output and error are appended.
        log: PathBuf,
        /// Whether to hand on the inherited listening socket.
        listener: bool,
        /// Further environment variables: secrets, which arguments would show to every user.
        env: BTreeMap<String, String>,
    },
    /// Starts a unit again exactly as it was last started.
    Restart {
        /// The unit's name.
        unit: String,
    },
    /// Ends a unit's process and waits until it is gone.
    Kill {
        /// The unit's name.
        unit: String,
        /// The signal's number.
        signal: i32,
    },
    /// Tells what runs.
    Units,
}

/// The answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// What went wrong.
    pub(crate) error: Option<String>,
    /// Every unit ever started and its state: `running (pid 7)`, `exited with 1`, `killed by SIGKILL`.
    pub(crate) units: BTreeMap<String, String>,
}

/// How a unit is started again.
#[derive(Clone)]
struct Recipe {
    argv: Vec<String>,
    log: PathBuf,
    listener: bool,
    env: BTreeMap<String, String>,
}

enum UnitState {
    Running(Pid),
    Ended(String),
}

struct Unit {
    recipe: Recipe,
    state: UnitState,
}

#[derive(Default)]
struct Units {
    table: Mutex<BTreeMap<String, Unit>>,
    changed: Condvar,
}

/// Runs `minik lab-host`: returns in the outer process once the host is up; the inner one stays.
pub(crate) fn run(args: &HostArgs) -> Result<()> {
    let lab = Lab::named(&args.lab)?;
    let all = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID;
    unshare(all).context("create the host's namespaces (root is needed)")?;
    let (go_read, go_write) = pipe().context("create a pipe")?;
    let (ready_read, ready_write) = pipe().context("create a pipe")?;
    #[expect(
        unsafe_code,
        reason = "fork has no safe form; this process has one thread"
    )]
    // SAFETY: `minik lab-host` has not started any thread, so the child may do everything.
    let forked = unsafe { fork() }.context("fork the host's first process")?;
    match forked {
        ForkResult::Parent { child } => {
            drop((go_read, ready_write));
            lab.record_pid(&args.host, child)?;
            File::from(go_write)
                .write_all(b"g")
                .context("release the host's first process")?;
            let mut answer = String::new();
            File::from(ready_read)
                .read_to_string(&mut answer)
                .context("wait for the host")?;
            if answer != "ready" {
                bail!("host {} did not come up: {answer}", args.host);
            }
            Ok(())
        }
        ForkResult::Child => {
            drop((go_write, ready_read));
            // Standard input is the lab's lock, which is to end with the outer process.
            dup2_stdin(File::open("/dev/null").context("open /dev/null")?)
                .context("close the lab's lock")?;
            setsid().context("start a session")?;
            let mut byte = [0];
            // Nothing is read when the parent died before the pid was recorded: nobody could ever end this host.
            if File::from(go_read).read(&mut byte).unwrap_or(0) == 0 {
                return Ok(());
            }
            let mut ready = File::from(ready_write);
            match Init::prepare(&lab, args) {
                Ok(init) => {
                    ready.write_all(b"ready").context("report readiness")?;
                    drop(ready);
                    init.serve()
                }
                Err(error) => {
                    let _ = ready.write_all(format!("{error:#}").as_bytes());
                    Err(error)
                }
            }
        }
    }
}

/// Sends one command to a host and returns its answer.
pub(crate) fn ask(lab: &Lab, host: &str, request: &Request) -> Result<Reply> {
    let path = lab.host_dir(host).join("control.sock");
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("{host} does not answer on {}", path.display()))?;
    let mut line = serde_json::to_vec(request).context("encode the command")?;
    line.push(b'\n');
    stream.write_all(&line).context("send the command")?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("read the answer")?;
    let reply: Reply =
        serde_json::from_str(&answer).with_context(|| format!("{host} answered {answer:?}"))?;
    if let Some(error) = reply.error {
        bail!("{host}: {error}");
    }
    Ok(reply)
}

/// Process 1 of a host.
struct Init {
    units: Arc<Units>,
    socket: UnixListener,
    listener: Option<Arc<OwnedFd>>,
}

impl Init {
    fn prepare(lab: &Lab, args: &HostArgs) -> Result<Self> {
        let listener = args.inherit_listener.then(|| {
            #[expect(unsafe_code, reason = "an inherited descriptor has no owner yet")]
            // SAFETY: `minik lab up` put the listening socket there and nothing else in this process uses the number.
            let fd = unsafe { OwnedFd::from_raw_fd(LISTEN_FD) };
            Arc::new(fd)
        });
        sethostname(&args.host).context("set the host name")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("make the mounts private")?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
            .context("mount /proc")?;
        let path = lab.host_dir(&args.host).join("control.sock");
        let socket =
            UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        Ok(Self {
            units: Arc::default(),
            socket,
            listener,
        })
    }

    /// Answers commands on one thread and reaps on this one, for ever.
    fn serve(self) -> Result<()> {
        let units = Arc::clone(&self.units);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || self.answer_all())
            .context("start the control thread")?;
        loop {
            match waitpid(None, None) {
                Ok(status) => units.ended(&status),
                // Nothing to wait for: woken up by the next child's start.
                Err(Errno::ECHILD) => units.wait_for_a_child(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("wait for children"),
            }
        }
    }

    fn answer_all(&self) {
        for stream in self.socket.incoming().flatten() {
            // A client that went away mid-command concerns nobody else.
            let _ = self.answer(stream);
        }
    }

    fn answer(&self, stream: UnixStream) -> Result<()> {
        let mut line = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut line)?;
        let outcome = serde_json::from_str(&line)
            .map_err(Into::into)
            .and_then(|request| self.execute(request));
        let reply = Reply {
            error: outcome.err().map(|error| format!("{error:#}")),
            units: self.units.describe(),
        };
        let mut answer = serde_json::to_vec(&reply)?;
        answer.push(b'\n');
        (&stream).write_all(&answer)?;
        Ok(())
    }

    fn execute(&self, request: Request) -> Result<()> {
        match request {
            Request::Start {
                unit,
                argv,
                log,
                listener,
                env,
            } => self.start(
                unit,
                Recipe {
                    argv,
                    log,
                    listener,
                    env,
                },
            ),
            Request::Restart { unit } => {
                let recipe = self.units.recipe(&unit)?;
                self.start(unit, recipe)
            }
            Request::Kill { unit, signal } => self.units.kill(&unit, Signal::try_from(signal)?),
            Request::Units => Ok(()),
        }
    }

    fn start(&self, unit: String, recipe: Recipe) -> Result<()> {
        let mut table = self.units.lock();
        if let Some(Unit {
            state: UnitState::Running(pid),
            ..
        }) = table.get(&unit)
        {
            bail!("{unit} is already running (pid {pid})");
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&recipe.log)
            .with_context(|| format!("open {}", recipe.log.display()))?;
        let (program, arguments) = recipe.argv.split_first().context("no program given")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(&recipe.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        for variable in [
            "http_proxy",
            "https_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(variable);
        }
        if let (true, Some(listener)) = (recipe.listener, self.listener.clone()) {
            hand_over(&mut command, listener);
        }
        let child = command
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("process number")?);
        table.insert(
            unit,
            Unit {
                recipe,
                state: UnitState::Running(pid),
            },
        );
        self.units.changed.notify_all();
        Ok(())
    }
}

/// Makes the started program find `listener` as descriptor 3, as `sd_listen_fds(3)` describes it.
pub(crate) fn hand_over(command: &mut Command, listener: Arc<OwnedFd>) {
    command.env("LISTEN_FDS", "1");
    let place = move || {
        if listener.as_raw_fd() == LISTEN_FD {
            // Already there; only the close-on-exec flag is in the way.
            nix::fcntl::fcntl(
                &*listener,
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
            )?;
        } else {
            #[expect(
                unsafe_code,
                reason = "the safe forms want to own the target number, which belongs to nobody here"
            )]
            // SAFETY: between fork and exec nothing in the child uses the number; the copy is for the program to come.
            let copied = unsafe { nix::libc::dup2(listener.as_raw_fd(), LISTEN_FD) };
            Errno::result(copied)?;
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "the only way to place a descriptor between fork and exec"
    )]
    // SAFETY: the closure makes async-signal-safe system calls only.
    unsafe {
        command.pre_exec(place);
    }
}

impl Units {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Unit>> {
        // A panic while holding the table leaves it consistent: every change is a single assignment.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, status: &WaitStatus) {
        let text = match status {
            WaitStatus::Exited(_, code) => format!("exited with {code}"),
            WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
            _ => return,
        };
        let mut table = self.lock();
        let unit = table.values_mut().find(
            |unit| matches!(unit.state, UnitState::Running(pid) if Some(pid) == status.pid()),
        );
        // Others are orphans of the host's programs, adopted by its first process.
        if let Some(unit) = unit {
            unit.state = UnitState::Ended(text);
            self.changed.notify_all();
        }
    }

    fn wait_for_a_child(&self) {
        let table = self.lock();
        let running = |table: &BTreeMap<String, Unit>| {
            table
                .values()
                .any(|unit| matches!(unit.state, UnitState::Running(_)))
        };
        // Orphans arrive without notice, hence the bound.
        let _ = self
            .changed
            .wait_timeout_while(table, Duration::from_secs(1), |table| !running(table));
    }

    fn recipe(&self, unit: &str) -> Result<Recipe> {
        self.lock()
            .get(unit)
            .map(|unit| unit.recipe.clone())
            .with_context(|| format!("{unit} was never started"))
    }

    fn kill(&self, unit: &str, signal: Signal) -> Result<()> {
        let table = self.lock();
        let Some(UnitState::Running(pid)) = table.get(unit).map(|unit| &unit.state) else {
            bail!("{unit} is not running");
        };
        kill(*pid, signal).with_context(|| format!("send {signal} to {unit}"))?;
        let running = |table: &mut BTreeMap<String, Unit>| {
            matches!(
                table.get(unit),
                Some(Unit {
                    state: UnitState::Running(_),
                    ..
                })
            )
        };
        let (_table, waited) = self
            .changed
            .wait_timeout_while(table, Duration::from_secs(30), running)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            bail!("{unit} did not end within 30 s of {signal}");
        }
        Ok(())
    }

    fn describe(&self) -> BTreeMap<String, String> {
        let describe = |unit: &Unit| match &unit.state {
            UnitState::Running(pid) => format!("running (pid {pid})"),
            UnitState::Ended(how) => how.clone(),
        };
        self.lock()
            .iter()
            .map(|(name, unit)| (name.clone(), describe(unit)))
            .collect()
    }
}
