//! System calls that `nix` does not wrap.

#![expect(
    unsafe_code,
    reason = "raw system calls; each block says why it is sound"
)]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit},
    unistd::Pid,
};

use crate::Capabilities;

/// `pidfd_open(2)`.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers, returns a new descriptor or -1.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `pidfd_send_signal(2)` with SIGKILL. One that has ended is as good.
pub(crate) fn kill_process(pidfd: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes integers, and a null pointer for a signal as kill(2) would send it.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match Errno::result(outcome) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `clone3(2)` as a fork: the child goes on with a copy of everything and gets `None`.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn clone_process(flags: i32) -> io::Result<Option<Pid>> {
    let args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()),
        // With CLONE_PARENT the signal is the parent's, and giving one is an error.
        exit_signal: if flags & libc::CLONE_PARENT == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and with no stack given the child runs on a copy of this stack, as after fork(2). The shim has
    // one thread, so no lock can be held by a thread that does not exist in the child.
    let pid = Errno::result(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>())
    })?;
    Ok((pid != 0).then(|| Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))))
}

/// `struct clone_args` of linux/sched.h, version 0.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// A mount of one file, read-only and at no place: `open_tree(2)` and `mount_setattr(2)`. An older kernel than Linux 5.12 says
/// ENOSYS.
pub(crate) fn read_only_mount(path: &CStr) -> io::Result<OwnedFd> {
    /// `struct mount_attr` of linux/mount.h.
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a live C string; the result is a new descriptor or -1.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    let mount = unsafe { OwnedFd::from_raw_fd(fd) };
    let attributes = MountAttributes {
        set: MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: an empty C string, and a live structure whose size is given.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(mount)
}

/// `prctl(2)` with one argument.
pub(crate) fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // SAFETY: the options used here take integers only.
    Errno::result(unsafe { libc::prctl(option, argument, 0, 0, 0) })?;
    Ok(())
}

/// `close_range(2)` with CLOSE_RANGE_CLOEXEC: nothing above standard error survives an exec.
pub(crate) fn close_on_exec_above_stderr() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    match close_range_above_stderr(CLOSE_RANGE_CLOEXEC) {
        // The flag is younger (Linux 5.11) than the call.
        Err(Errno::EINVAL | Errno::ENOSYS) => each_close_on_exec_above_stderr(),
        done => Ok(done?),
    }
}

/// The same one by one. By number, not by `/proc/self/fd`: a container may have mounted something else there.
fn each_close_on_exec_above_stderr() -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    for fd in 3..i32::try_from(limit).unwrap_or(i32::MAX) {
        // SAFETY: sets a flag of a descriptor; where there is none, it says EBADF.
        let outcome = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        match Errno::result(outcome) {
            Ok(_) | Err(Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `close_range(2)`: for a process that has opened nothing itself yet, and wants nothing of what it inherited.
pub(crate) fn close_above_stderr() -> io::Result<()> {
    Ok(close_range_above_stderr(0)?)
}

fn close_range_above_stderr(flags: u32) -> Result<(), Errno> {
    // SAFETY: the callers either close nothing, or what no value of this process owns.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, flags) })?;
    Ok(())
}

/// `keyctl(2)` with KEYCTL_JOIN_SESSION_KEYRING: what the agent's session keeps is not the container's.
pub(crate) fn own_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for a new, unnamed keyring; nothing is read or written.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match Errno::result(outcome) {
        // A kernel without keyrings has nothing to keep apart.
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `capset(2)`: effective and permitted as given, nothing inheritable.
pub(crate) fn set_capabilities(set: Capabilities) -> io::Result<()> {
    /// `struct __user_cap_header_struct` of linux/capability.h.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// `struct __user_cap_data_struct`, twice.
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let word = |bits: u64| {
        let bits = u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Data {
            effective: bits,
            permitted: bits,
            inheritable: 0,
        }
    };
    let data = [word(set.bits()), word(set.bits() >> 32)];
    // SAFETY: both pointers are to live structures of the layout that version 3 demands.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid; name and flags are set below.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    let fd = socket.as_raw_fd();
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    Errno::result(unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}

/// Ends this process without running anything of the parent's: no destructors, no buffers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) always ends the process.
    unsafe { libc::_exit(code) }
}
