//! What a shim does before its loop: leave the agent's session, make the Pod's namespaces, say that it is ready.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use nix::{
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        stat::Mode,
        statvfs::{FsFlags, fstatvfs},
    },
    unistd::{dup2_stdout, fexecve, sethostname, setsid},
};

use crate::{
    error::{Explain, RuntimeError},
    open_files,
    pod::{PID_FILE, SETUP_FILE, Setup},
    sandbox::syscall,
    socket::listen_in,
    spec::Network,
};

/// This program's file.
const PROGRAM: &CStr = c"/proc/self/exe";
/// Where it is mounted for a moment, in the Pod's directory.
const PROGRAM_FILE: &str = "program";

/// A shim that is about to run its loop.
pub(super) struct Prepared {
    pub(super) setup: Setup,
    pub(super) signals: SignalFd,
    pub(super) listener: OwnedFd,
}

/// Forks the shim off. `None` is the first process, which only waits for the news and ends.
pub(super) fn prepare(dir: &Path) -> Result<Option<Prepared>, RuntimeError> {
    // The agent may have inherited sockets that are not close-on-exec; a shim would keep their ports taken.
    syscall::close_above_stderr().explain("close descriptors in", dir.display())?;
    use_read_only_program(dir).explain("run again from a read-only mount for", dir.display())?;
    let path = dir.join(SETUP_FILE);
    let json = fs::read(&path).explain("read", path.display())?;
    let setup: Setup = serde_json::from_slice(&json)
        .map_err(io::Error::from)
        .explain("read", path.display())?;
    if let Some(soft) = setup.open_files {
        open_files::limit(soft).explain("limit the open files of", &setup.pod.uid)?;
    }
    // Nobody's child but the node's first process's: the agent neither waits for it nor takes it with it.
    if let Some(pid) = syscall::clone_process(0).explain("fork the shim of", &setup.pod.uid)? {
        let path = dir.join(PID_FILE);
        fs::write(&path, pid.to_string()).explain("write", path.display())?;
        return Ok(None);
    }
    // Inherited by every child until its exec: no process of a container may look into one that still has the shim's rights.
    syscall::prctl(libc::PR_SET_DUMPABLE, 0).explain("hide the shim of", &setup.pod.uid)?;
    setsid().explain("start a session for", &setup.pod.uid)?;
    syscall::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).explain("adopt orphans of", &setup.pod.uid)?;
    namespaces(&setup)?;
    let mut blocked = SigSet::empty();
    blocked.extend([Signal::SIGCHLD, Signal::SIGTERM]);
    blocked
        .thread_block()
        .explain("block signals of", &setup.pod.uid)?;
    let signals = SignalFd::with_flags(&blocked, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .explain("read signals of", &setup.pod.uid)?;
    let listener = listen_in(dir).explain("listen in", dir.display())?;
    ready().explain("report readiness of", &setup.pod.uid)?;
    Ok(Some(Prepared {
        setup,
        signals,
        listener,
    }))
}

/// A process of a container can run this program's file as `/proc/self/exe`, also by a script's first line, and then has it open
/// on the node's own file system (CVE-2019-5736). So the shim runs from a mount of the one file, which nobody can write through.
fn use_read_only_program(dir: &Path) -> io::Result<()> {
    let program = open(PROGRAM, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if fstatvfs(&program)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let name = std::env::args_os().next().unwrap_or_else(|| "minik".into());
    let args = [name.as_bytes(), b"shim", dir.as_os_str().as_bytes()];
    let args: Vec<CString> = args
        .into_iter()
        .map(CString::new)
        .collect::<Result<_, _>>()?;
    let mount = match syscall::read_only_mount(PROGRAM) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => read_only_bind(dir)?,
        mount => mount?,
    };
    match fexecve(&mount, &args, &[] as &[CString])? {}
}

/// The same mount for kernels that cannot make one at no place: bound to a file of the Pod, and away from there at once.
fn read_only_bind(dir: &Path) -> io::Result<OwnedFd> {
    const NONE: Option<&CStr> = None;
    let place = dir.join(PROGRAM_FILE);
    File::create(&place)?;
    mount(Some(PROGRAM), &place, NONE, MsFlags::MS_BIND, NONE)?;
    // A bind mount takes its flags in a second step only.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    let opened = mount(NONE, &place, NONE, flags, NONE)
        .and_then(|()| open(&place, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()));
    umount2(&place, MntFlags::MNT_DETACH)?;
    fs::remove_file(&place)?;
    Ok(opened?)
}

fn namespaces(setup: &Setup) -> Result<(), RuntimeError> {
    let uid = &setup.pod.uid;
    let own = match setup.pod.network {
        Network::Own => {
            CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS
        }
        Network::Host => CloneFlags::CLONE_NEWIPC,
    };
    unshare(own).explain("make the namespaces of", uid)?;
    if setup.pod.network == Network::Own {
        sethostname(&setup.pod.hostname).explain("set the host name of", uid)?;
        syscall::loopback_up().explain("bring up the loopback of", uid)?;
        // As containerd and cri-o have it: a container need not be root to listen on port 80.
        let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        fs::write(path, "0").explain("write", path)?;
        // For links to come: a Pod must not believe the router advertisements of its neighbours (CVE-2020-10749).
        let path = "/proc/sys/net/ipv6/conf/default/accept_ra";
        if Path::new(path).exists() {
            fs::write(path, "0").explain("write", path)?;
        }
    }
    Ok(())
}

/// Whoever reads standard output waits for this, and for its end.
fn ready() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(b"ready")?;
    out.flush()?;
    let null = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    Ok(())
}
