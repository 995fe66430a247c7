//! What happens between the clone and the exec of a container's first process.

pub(crate) mod cgroup;
mod privileges;
mod rootfs;
pub(crate) mod syscall;
pub(crate) mod terminal;

use std::{
    convert::Infallible,
    ffi::CString,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, getcwd, pipe2, setsid},
};

use self::{cgroup::Cgroup, syscall::clone_process};
use crate::spec::{ContainerSpec, PodSpec};

/// The environment's `PATH` when a container brings none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container is made of, beside its own specification.
pub(crate) struct Surroundings<'a> {
    pub(crate) pod: &'a PodSpec,
    /// An empty directory, to mount the root file system on inside the new mount namespace.
    pub(crate) mount_point: &'a Path,
    /// The program of the built-in image.
    pub(crate) built_in: &'a Path,
    pub(crate) cgroup: &'a Cgroup,
}

/// A step of the child that failed: what, and why.
type Failure = (&'static str, io::Error);

/// The standard streams of a process that is to start.
#[derive(Clone, Copy)]
pub(crate) enum Streams<'a> {
    /// Input, output, errors.
    Three([BorrowedFd<'a>; 3]),
    /// A terminal of the container's own. Its master is sent to this socket.
    Terminal(BorrowedFd<'a>),
}

impl Streams<'_> {
    fn is_terminal(self) -> bool {
        matches!(self, Self::Terminal(_))
    }
}

/// Starts a container's first process with these standard streams; returns once its program runs.
///
/// # Errors
/// The step that failed, in words.
pub(crate) fn start(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
    streams: Streams<'_>,
) -> Result<Pid, String> {
    let image = prepare_exec(&spec.argv, &spec.env, streams.is_terminal())?;
    let doors = around.cgroup.doors();
    let report = Report::new()?;
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    match clone_process(flags).map_err(|error| format!("clone: {error}"))? {
        Some(pid) => report.outcome(pid),
        None => report.child().run(|shim| {
            become_container(spec, around, streams, &doors)?;
            last_steps(&spec.working_dir, shim)?;
            image.exec()
        }),
    }
}

fn become_container(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
    streams: Streams<'_>,
    doors: &[PathBuf],
) -> Result<(), Failure> {
    join(doors)?;
    // After joining: the root of the new namespace is the group that this process is in.
    unshare(CloneFlags::CLONE_NEWCGROUP)
        .map_err(|error| ("make the cgroup namespace", error.into()))?;
    own_session(streams)?;
    rootfs::enter(spec, around)?;
    privileges::drop_to(
        &spec.user,
        spec.capabilities,
        spec.allow_privilege_escalation,
    )?;
    own_terminal(streams)
}

/// Starts a program inside a running container; its parent is the shim, whose child it must be to be reaped.
///
/// # Errors
/// The step that failed, in words.
pub(crate) fn exec(
    container: Pid,
    spec: &ContainerSpec,
    argv: &[String],
    cgroup: &Cgroup,
    streams: Streams<'_>,
) -> Result<Pid, String> {
    let image = prepare_exec(argv, &spec.env, streams.is_terminal())?;
    let doors = cgroup.doors();
    let namespaces = open_namespaces(container)
        .map_err(|error| format!("open the container's namespaces: {error}"))?;
    let report = Report::new()?;
    let (mut from, to) = os_pipe()?;
    let middle = match clone_process(0).map_err(|error| format!("clone: {error}"))? {
        Some(pid) => pid,
        None => report.child().run(|shim| {
            enter_namespaces(&doors, &namespaces)?;
            // Only a child of this process is in the new PID namespace; CLONE_PARENT makes it the shim's child.
            let child = clone_process(libc::CLONE_PARENT).map_err(|error| ("clone", error))?;
            if let Some(child) = child {
                let _ = File::from(to).write_all(&child.as_raw().to_ne_bytes());
                syscall::exit_now(0);
            }
            own_session(streams)?;
            privileges::drop_to(
                &spec.user,
                spec.capabilities,
                spec.allow_privilege_escalation,
            )?;
            own_terminal(streams)?;
            last_steps(&spec.working_dir, shim)?;
            image.exec()
        }),
    };
    drop(to);
    let mut number = [0; 4];
    let told = from.read_exact(&mut number);
    let _ = nix::sys::wait::waitpid(middle, None);
    match told {
        Ok(()) => report.outcome(Pid::from_raw(i32::from_ne_bytes(number))),
        Err(_) => report
            .outcome(middle)
            .and(Err("the process ended before it could start".to_owned())),
    }
}

fn open_namespaces(pid: Pid) -> io::Result<Vec<(File, CloneFlags)>> {
    let kinds = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    kinds
        .into_iter()
        .map(|(kind, flag)| Ok((File::open(format!("/proc/{pid}/ns/{kind}"))?, flag)))
        .collect()
}

fn enter_namespaces(doors: &[PathBuf], namespaces: &[(File, CloneFlags)]) -> Result<(), Failure> {
    join(doors)?;
    for (namespace, kind) in namespaces {
        setns(namespace, *kind).map_err(|error| ("enter a namespace", error.into()))?;
    }
    Ok(())
}

fn join(doors: &[PathBuf]) -> Result<(), Failure> {
    doors
        .iter()
        .try_for_each(|door| std::fs::write(door, "0"))
        .map_err(|error| ("join the cgroup", error))
}

fn own_session(streams: Streams<'_>) -> Result<(), Failure> {
    let place = || {
        setsid()?;
        match streams {
            Streams::Three(stdio) => place_stdio(stdio),
            // Made when the container's own files and user are there.
            Streams::Terminal(_) => Ok(()),
        }
    };
    place().map_err(|error| ("set up standard input and output", error.into()))?;
    syscall::own_session_keyring().map_err(|error| ("make a session keyring", error))
}

fn place_stdio([input, output, errors]: [BorrowedFd<'_>; 3]) -> nix::Result<()> {
    dup2_stdin(input)?;
    dup2_stdout(output)?;
    dup2_stderr(errors)
}

/// The terminal is the container's, in its own devpts, and belongs to its user: so it is made last.
fn own_terminal(streams: Streams<'_>) -> Result<(), Failure> {
    let Streams::Terminal(socket) = streams else {
        return Ok(());
    };
    let make = || {
        let (master, terminal) = terminal::open()?;
        terminal::control(&terminal)?;
        terminal::send(socket, &master)?;
        let terminal = terminal.as_fd();
        Ok(place_stdio([terminal; 3])?)
    };
    make().map_err(|error| ("make the terminal", error))
}

fn last_steps(working_dir: &str, shim: BorrowedFd<'_>) -> Result<(), Failure> {
    chdir(working_dir).map_err(|error| ("change to the working directory", error.into()))?;
    // A path through /proc/self/fd could lead out of the root (CVE-2024-21626); there the directory has no name.
    getcwd().map_err(|error| ("find the working directory inside the root", error.into()))?;
    // The shim blocks signals to read them from a descriptor; a program starts with none blocked.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|error| ("unblock signals", error.into()))?;
    reset_sigpipe().map_err(|error| ("reset SIGPIPE", error))?;
    syscall::close_on_exec_above_stderr().map_err(|error| ("close descriptors", error))?;
    // A change of user clears this, so it comes last.
    syscall::prctl(libc::PR_SET_PDEATHSIG, Signal::SIGKILL as u64)
        .map_err(|error| ("die with the shim", error))?;
    // A shim that died before sends no signal any more: then nobody reads what it would have read.
    let mut polled = [PollFd::new(shim, PollFlags::empty())];
    match poll(&mut polled, PollTimeout::ZERO) {
        Ok(0) => Ok(()),
        Ok(_) => Err(("die with the shim", Errno::EPIPE.into())),
        Err(error) => Err(("look whether the shim lives", error.into())),
    }
}

/// Rust programs ignore SIGPIPE, and what is ignored stays so across an exec.
fn reset_sigpipe() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, signal};
    #[expect(unsafe_code, reason = "nix marks every change of a handler as unsafe")]
    // SAFETY: the default action runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Everything an exec needs, allocated before the clone.
struct Exec {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

fn prepare_exec(
    argv: &[String],
    env: &[(String, String)],
    in_terminal: bool,
) -> Result<Exec, String> {
    let program = argv.first().ok_or("no command given")?;
    let c_string = |text: String| {
        CString::new(text).map_err(|error| format!("{:?} holds a zero byte", error.into_vec()))
    };
    let path = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value);
    let candidates: Vec<String> = if program.contains('/') {
        vec![program.clone()]
    } else {
        path.split(':')
            .map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir }))
            .collect()
    };
    Ok(Exec {
        candidates: candidates
            .into_iter()
            .map(c_string)
            .collect::<Result<_, _>>()?,
        argv: argv
            .iter()
            .cloned()
            .map(c_string)
            .collect::<Result<_, _>>()?,
        env: env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .chain((in_terminal && env.iter().all(|(name, _)| name != "TERM")).then(usual_terminal))
            .map(c_string)
            .collect::<Result<_, _>>()?,
    })
}

/// What programs take a terminal for unless they are told otherwise; other runtimes say the same.
fn usual_terminal() -> String {
    "TERM=xterm".to_owned()
}

impl Exec {
    fn exec(&self) -> Result<Infallible, Failure> {
        let mut last = Errno::ENOENT;
        for candidate in &self.candidates {
            let Err(error) = execve(candidate, &self.argv, &self.env);
            // One that is there but may not run is a better reason than the absence of the next.
            if !matches!(error, Errno::ENOENT | Errno::ENOTDIR) {
                last = error;
            }
        }
        Err(("start the program", last.into()))
    }
}

/// The longest report that is read. Ours are one line; whoever gets hold of the pipe's other end can write without end.
const REPORT_BYTES: u64 = 4096;

/// How a child tells that it did not get to its program: a pipe that the exec closes.
struct Report {
    from: File,
    to: OwnedFd,
}

impl Report {
    fn new() -> Result<Self, String> {
        let (from, to) = os_pipe()?;
        Ok(Self { from, to })
    }

    /// In the parent: the child's pid, or what it reported.
    fn outcome(self, pid: Pid) -> Result<Pid, String> {
        drop(self.to);
        let mut text = Vec::new();
        let _ = self.from.take(REPORT_BYTES).read_to_end(&mut text);
        if text.is_empty() {
            return Ok(pid);
        }
        Err(String::from_utf8_lossy(&text).into_owned())
    }

    /// In the child: the end to report to. The other end is closed here, so that it is open as long as the shim lives.
    fn child(self) -> ChildReport {
        ChildReport(self.to)
    }
}

struct ChildReport(OwnedFd);

impl ChildReport {
    /// Takes all steps up to the exec. Only a failure returns from them: reports it and ends.
    fn run(self, steps: impl FnOnce(BorrowedFd<'_>) -> Result<Infallible, Failure>) -> ! {
        let Err((step, error)) = steps(self.0.as_fd());
        let _ = File::from(self.0).write_all(format!("{step}: {error}").as_bytes());
        // 127 not found, 126 found but not to be run, as a shell has it.
        syscall::exit_now(if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        })
    }
}

fn os_pipe() -> Result<(File, OwnedFd), String> {
    let (from, to) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("make a pipe: {error}"))?;
    // Above the standard numbers: those are about to be replaced in the child.
    debug_assert!(
        to.as_raw_fd() > RawFd::from(2u8),
        "standard descriptors are open"
    );
    Ok((from.into(), to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_end_is_read_to_its_limit() {
        let report = Report::new().expect("a pipe");
        let to = report.to.try_clone().expect("a descriptor");
        // Many times what may be read, if nobody stops it; not text, at that.
        let writing = std::thread::spawn(move || {
            let mut to = File::from(to);
            (0..1024).all(|_| to.write_all(&[0xff; 4096]).is_ok())
        });
        let text = report.outcome(Pid::this()).expect_err("a report");
        assert_eq!(text.chars().count(), 4096);
        assert!(!writing.join().expect("no panic"), "all of it was read");

        let silent = Report::new().expect("a pipe");
        assert_eq!(silent.outcome(Pid::this()), Ok(Pid::this()));
    }
}
