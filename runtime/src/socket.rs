//! SOCK_SEQPACKET with descriptors: one message per packet, nothing to frame.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr, accept4, bind, connect, listen, recv, recvmsg, sendmsg, setsockopt, socket,
        sockopt,
    },
    sys::time::TimeVal,
};
use serde::{Serialize, de::DeserializeOwned};

/// No message is longer: a container with all of its environment fits many times. The usual limit is a fifth of it.
const MAX_BYTES: usize = 1 << 20;
const MAX_FDS: usize = 3;
const NAME: &str = "shim.sock";

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Packets(pub(crate) OwnedFd);

/// What a receive brought.
pub(crate) enum Received<T> {
    /// A message with the descriptors that came with it.
    Message(T, Vec<OwnedFd>),
    /// Nothing yet, on a socket that does not wait, or not any longer.
    Nothing,
    /// The other side is gone.
    Closed,
}

impl Packets {
    /// Connects to the shim of a Pod's directory. Whatever is then waited for longer than `timeout` brings
    /// [`Received::Nothing`]; `None` waits for ever.
    pub(crate) fn connect(dir: &Path, timeout: Option<Duration>) -> io::Result<Self> {
        let fd = seqpacket(SockFlag::empty())?;
        if let Some(timeout) = timeout {
            wait_at_most(&fd, timeout)?;
        }
        make_room(&fd);
        in_dir(dir, |addr| connect(fd.as_raw_fd(), addr))?;
        Ok(Self(fd))
    }

    /// Sends one message.
    pub(crate) fn send(&self, message: &impl Serialize, fds: &[RawFd]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            control,
            flags,
            None,
        )?;
        Ok(())
    }

    /// Receives one message.
    pub(crate) fn receive<T: DeserializeOwned>(&self, flags: MsgFlags) -> io::Result<Received<T>> {
        // First its length: a shim should not keep room for the longest.
        let peek = flags | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let length = match recv(self.0.as_raw_fd(), &mut [], peek) {
            Ok(length) => length,
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            // A wait with a timeout is not taken up again after a signal by the kernel itself (signal(7)).
            Err(Errno::EINTR) => return self.receive(flags),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = vec![0; length];
        let mut control = cmsg_space!([RawFd; MAX_FDS]);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        let (length, fds) = (message.bytes, take_fds(&message)?);
        if length == 0 {
            return Ok(Received::Closed);
        }
        Ok(Received::Message(
            serde_json::from_slice(&bytes[..length])?,
            fds,
        ))
    }
}

fn take_fds(message: &nix::sys::socket::RecvMsg<'_, '_, ()>) -> io::Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            #[expect(unsafe_code, reason = "received descriptors have no owner yet")]
            // SAFETY: the kernel has just installed these descriptors for this process and nobody else knows them.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok(fds)
}

/// Listens in a Pod's directory.
pub(crate) fn listen_in(dir: &Path) -> io::Result<OwnedFd> {
    let fd = seqpacket(SockFlag::SOCK_NONBLOCK)?;
    in_dir(dir, |addr| bind(fd.as_raw_fd(), addr))?;
    listen(&fd, Backlog::new(8)?)?;
    Ok(fd)
}

/// Takes the next waiting connection, if there is one. It does not wait for a peer that does not read.
pub(crate) fn accept_from(listener: impl AsFd) -> io::Result<Option<Packets>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match accept4(listener.as_fd().as_raw_fd(), flags) {
        #[expect(unsafe_code, reason = "an accepted descriptor has no owner yet")]
        // SAFETY: accept4 has just returned this descriptor and nobody else knows it.
        Ok(fd) => {
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            make_room(&fd);
            Ok(Some(Packets(fd)))
        }
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is sent or received over this socket is given up after `limit`, with EAGAIN.
pub(crate) fn wait_at_most(fd: &OwnedFd, limit: Duration) -> io::Result<()> {
    let limit = TimeVal::new(limit.as_secs().cast_signed(), limit.subsec_micros().into());
    setsockopt(fd, sockopt::SendTimeout, &limit)?;
    setsockopt(fd, sockopt::ReceiveTimeout, &limit)?;
    Ok(())
}

/// Without it a large environment would not fit. Not every root may: then the usual limit holds.
fn make_room(fd: &OwnedFd) {
    let _ = setsockopt(fd, sockopt::SndBufForce, &MAX_BYTES);
}

fn seqpacket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        flags | SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// A socket's path has at most 107 bytes; a directory's may be longer, so it is reached through a descriptor.
fn in_dir(dir: &Path, use_it: impl FnOnce(&UnixAddr) -> nix::Result<()>) -> io::Result<()> {
    let dir = File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd());
    use_it(&UnixAddr::new(path.as_str())?)?;
    Ok(())
}
