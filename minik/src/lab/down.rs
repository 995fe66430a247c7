//! `minik lab down`: ends every process of a lab and removes its files and cgroups.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::state::Lab;
use crate::progress::Progress;

/// How long the kernel gets to end one host, in milliseconds.
const HOST_DEADLINE_MS: u16 = 20_000;

pub(crate) fn run(lab: &Lab) -> Result<()> {
    let progress = Progress::start();
    if !lab.exists() {
        progress.done(format!("lab {:?} is not up: nothing to do", lab.name));
        return Ok(());
    }
    let lock = lab.lock()?;
    clean(lab)?;
    drop(lock);
    progress.done(format!("lab {:?} is gone", lab.name));
    Ok(())
}

/// Removes whatever there is of a lab, complete or not. The caller holds the lock.
pub(crate) fn clean(lab: &Lab) -> Result<()> {
    let pids: Vec<Pid> = lab
        .hosts()
        .unwrap_or_default()
        .iter()
        .filter_map(|host| lab.pid(&host.name).ok())
        .collect();
    let watched: Vec<_> = pids.iter().map(|pid| (*pid, open_pidfd(*pid))).collect();
    for pid in &pids {
        // The first process of a PID namespace takes every other one with it.
        match kill(*pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("end process {pid}")),
        }
    }
    for (pid, pidfd) in watched {
        wait_for_end(pid, pidfd)?;
    }
    for hierarchy in cgroup_hierarchies()? {
        remove_cgroup(&hierarchy.join(format!("minik-lab-{}", lab.name)))?;
    }
    lab.remove()
}

fn open_pidfd(pid: Pid) -> io::Result<File> {
    // /proc/PID as a directory handle stays valid after the process ended, and then lists nothing; a pidfd can be polled.
    #[expect(unsafe_code, reason = "nix has no pidfd_open")]
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    #[expect(
        unsafe_code,
        reason = "a descriptor fresh from the kernel has no owner yet"
    )]
    // SAFETY: pidfd_open has just returned this descriptor and nobody else owns it.
    let file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    Ok(file)
}

fn wait_for_end(pid: Pid, pidfd: io::Result<File>) -> Result<()> {
    // It ended before it could be watched.
    let Ok(pidfd) = pidfd else { return Ok(()) };
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, PollTimeout::from(HOST_DEADLINE_MS)).context("wait for a host to end")?
        == 0
    {
        bail!(
            "process {pid} did not end within {} s of SIGKILL",
            HOST_DEADLINE_MS / 1000
        );
    }
    Ok(())
}

/// Every cgroup mount: one on cgroup v2, one per controller on v1.
fn cgroup_hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    Ok(parse_hierarchies(&mounts))
}

fn parse_hierarchies(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, target, kind) = (words.next()?, words.next()?, words.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(target))
        })
        .collect()
}

/// Removes a cgroup with everything below it. Only directories count: the files in them are the kernel's.
fn remove_cgroup(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    match nix::unistd::unlinkat(
        nix::fcntl::AT_FDCWD,
        dir,
        nix::unistd::UnlinkatFlags::RemoveDir,
    ) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove cgroup {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cgroup_mount_of_a_hybrid_machine_is_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let wanted = [
            PathBuf::from("/sys/fs/cgroup/pids"),
            PathBuf::from("/sys/fs/cgroup/unified"),
        ];
        assert_eq!(parse_hierarchies(mounts), wanted);
    }
}
