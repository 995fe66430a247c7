//! What a container's process may do: capabilities, user, no way back.

use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::{Failure, syscall};
use crate::{Capabilities, spec::User};

/// The highest number that any kernel of today knows is 40.
const ALL: u32 = 63;

/// Gives everything up but these capabilities, and those too unless the user is root.
pub(super) fn drop_to(
    user: &User,
    capabilities: Capabilities,
    allow_escalation: bool,
) -> Result<(), Failure> {
    for capability in (0..=ALL).filter(|capability| !capabilities.has(*capability)) {
        match syscall::prctl(libc::PR_CAPBSET_DROP, capability.into()) {
            // Beyond the last one this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other.map_err(|error| ("limit the capabilities", error))?,
        }
    }
    become_user(user).map_err(|error| ("become the user", error))?;
    let kept = if user.uid == 0 {
        capabilities
    } else {
        Capabilities::NONE
    };
    syscall::set_capabilities(kept).map_err(|error| ("set the capabilities", error))?;
    if !allow_escalation {
        syscall::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
            .map_err(|error| ("give up new privileges", error))?;
    }
    Ok(())
}

fn become_user(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // Also with an empty list: root's own groups must not stay.
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}
