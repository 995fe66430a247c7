//! Doing something inside a host's namespaces without moving this process there.

use std::{
    fs::File,
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    unistd::{Pid, chdir},
};

/// Runs `work` on a throw-away thread inside the network namespace of `pid`.
///
/// Sockets belong to the namespace they are opened in, whoever uses them later; a thread of a pool must never move.
pub(crate) fn inside_network<T: Send + 'static>(
    pid: Pid,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let namespace = open(pid, "net")?;
    thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the network namespace of {pid}"))?;
        work()
    })
    .join()
    .map_err(|_| anyhow!("the thread inside the network namespace of {pid} panicked"))?
}

/// A command that will run inside all namespaces of the host whose first process is `pid`.
pub(crate) fn command_inside(pid: Pid, program: &str) -> Result<Command> {
    // The PID namespace counts from the next fork on, so this process enters it just before; mounts come last, because
    // /proc is looked up through them.
    let namespaces = [
        (open(pid, "uts")?, CloneFlags::CLONE_NEWUTS),
        (open(pid, "ipc")?, CloneFlags::CLONE_NEWIPC),
        (open(pid, "net")?, CloneFlags::CLONE_NEWNET),
        (open(pid, "mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    setns(open(pid, "pid")?, CloneFlags::CLONE_NEWPID)
        .context("enter the host's process namespace")?;
    let mut command = Command::new(program);
    let here = std::env::current_dir();
    let enter = move || {
        for (namespace, kind) in &namespaces {
            setns(namespace.as_fd(), *kind)?;
        }
        // Entering the mount namespace led to its root; the files are the same, so relative paths stay what they were.
        if let Ok(here) = &here {
            let _ = chdir(here);
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "namespaces must be entered between fork and exec"
    )]
    // SAFETY: the closure makes async-signal-safe system calls only.
    unsafe {
        command.pre_exec(enter);
    }
    Ok(command)
}

fn open(pid: Pid, kind: &str) -> Result<File> {
    let path = format!("/proc/{pid}/ns/{kind}");
    File::open(&path).with_context(|| format!("open {path}"))
}
