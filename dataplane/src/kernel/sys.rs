//! System calls on a netlink socket.
#![expect(unsafe_code, reason = "netlink sockets have no safe interface in std")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn address() -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain integers, for which all zeroes are valid.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).expect("AF_NETLINK is 16");
    address
}

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_nl>() as libc::socklen_t;

/// Opens and binds to a port, or with 0 to one that the kernel chooses; returns it. EADDRINUSE: another socket of this network
/// namespace has that port.
pub(super) fn open(port: u32) -> io::Result<(OwnedFd, u32)> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) })?;
    // SAFETY: `fd` was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut bound = address();
    bound.nl_pid = port;
    let mut len = ADDRESS_LEN;
    // SAFETY: the address outlives the calls and its length is right.
    check(unsafe { libc::bind(fd, (&raw const bound).cast(), len) })?;
    // SAFETY: as above; the kernel writes at most `len` bytes.
    check(unsafe { libc::getsockname(fd, (&raw mut bound).cast(), &raw mut len) })?;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        // Better errors only: a kernel without them still reports errno.
        let _ = set(fd, libc::SOL_NETLINK, option, 1);
    }
    Ok((socket, bound.nl_pid))
}

fn set(
    fd: libc::c_int,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value outlives the call and its length is right.
    check(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) }).map(drop)
}

pub(super) fn set_send_buffer(socket: &OwnedFd, bytes: usize) -> io::Result<()> {
    let bytes =
        libc::c_int::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
    set(
        socket.as_raw_fd(),
        libc::SOL_SOCKET,
        libc::SO_SNDBUFFORCE,
        bytes,
    )
}

pub(super) fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let kernel = address();
    loop {
        // SAFETY: buffer and address outlive the call and their lengths are right.
        let sent = unsafe {
            let to = (&raw const kernel).cast();
            libc::sendto(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                to,
                ADDRESS_LEN,
            )
        };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

pub(super) fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    only_waiting: bool,
) -> io::Result<usize> {
    let flags = if only_waiting { libc::MSG_DONTWAIT } else { 0 };
    loop {
        // SAFETY: the buffer outlives the call and its length is right.
        let len = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                flags,
            )
        };
        if let Ok(len) = usize::try_from(len) {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Gives the pages of freed memory back to the system, where the C library keeps them for later: worth its milliseconds after
/// a whole table was compiled and written.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; it only looks at what the allocator holds free, under its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
