//! Terminals: made by the process that is to use one, from its container's own devpts; the master goes to whoever asked.

#![expect(
    unsafe_code,
    reason = "ioctls of terminals; each block says why it is sound"
)]

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::{
    cmsg_space,
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            recvmsg, sendmsg, socketpair,
        },
        stat::fstat,
        statfs::{FsType, fstatfs},
    },
};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: FsType = FsType(0x1cd1);
/// `/dev/pts/ptmx`: Documentation/admin-guide/devices.txt.
const MASTER_DEVICE: u64 = nix::sys::stat::makedev(5, 2);

/// A new terminal of the devpts that is mounted here: its master and its other end.
pub(super) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let master: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC)
        .open("/dev/pts/ptmx")?
        .into();
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    Errno::result(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked)
    })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // By the master and not by a name, which a container could have put something else under.
    // SAFETY: TIOCGPTPEER takes open(2)'s flags and returns a new descriptor or -1.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    Ok((master, unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Makes it the controlling terminal of this session, whose leader this process is.
pub(super) fn control(terminal: &OwnedFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// Tells the programs in a terminal, by its master, how large its window is: columns and rows.
///
/// # Errors
/// When this is no terminal.
pub fn resize(master: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Two ends: the first [`receive`]s a master, the second is for the process that [`send`]s it.
pub(crate) fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        flags,
    )?)
}

pub(super) fn send(socket: BorrowedFd<'_>, master: &OwnedFd) -> io::Result<()> {
    let fds = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"t")],
        &rights,
        flags,
        None,
    )?;
    Ok(())
}

/// Waits for the master of a new terminal, which does not wait for anything itself. `None` when the process ended before.
///
/// # Errors
/// When something else comes: it was made where a container may have put anything.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Option<File>> {
    let mut bytes = [0];
    let mut control = cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut master = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel has just installed this descriptor for this process and nobody else knows it.
                master = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    let Some(master) = master else {
        return Ok(None);
    };
    if fstatfs(&master)?.filesystem_type() != DEVPTS
        || fstat(master.as_fd())?.st_rdev != MASTER_DEVICE
    {
        return Err(io::Error::other(
            "what the container has at /dev/pts/ptmx is no terminal",
        ));
    }
    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(Some(master.into()))
}
