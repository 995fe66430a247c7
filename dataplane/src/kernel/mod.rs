//! The edge to the kernel: what the dataplane asks of it, the real one by netlink, and one in memory for tests.

mod conntrack;
mod fake;
mod netlink;
mod sys;

use std::{collections::BTreeMap, io};

pub use self::{
    fake::{Fake, Fault},
    netlink::{Netlink, Ownership},
    sys::release_free_memory,
};
use crate::{
    model::Family,
    plan::{Action, Operation},
    ruleset::{Ruleset, TABLE},
    wire::{Chunk, ParseError, UdpFlow},
};

/// Who may change a table of our name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process (alone, when the kernel knows owners).
    Us,
    /// Nobody: a former process left it for its successor to adopt.
    Nobody,
    /// Anybody, although the kernel knows owners: somebody else made it.
    Anybody,
    /// Another living process, by netlink port.
    Other(u32),
}

/// Our tables as they are in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The ruleset's generation at which it was taken.
    pub generation: u32,
    /// Tables, chains, fingerprints of rules, sets, elements of all but dynamic sets.
    pub ruleset: Ruleset,
    /// Who holds the tables that exist.
    pub holders: BTreeMap<Family, Holder>,
}

/// A kernel with nf_tables.
pub trait Kernel {
    /// The generation of the ruleset: moves with every commit by anybody.
    fn generation(&mut self) -> Result<u32, KernelError>;

    /// Who holds our tables.
    fn holders(&mut self) -> Result<BTreeMap<Family, Holder>, KernelError>;

    /// Reads our tables, consistently.
    fn read(&mut self) -> Result<Snapshot, KernelError>;

    /// The elements of one set, dynamic ones included.
    fn elements(&mut self, family: Family, set: &str) -> Result<Chunk, KernelError>;

    /// Runs operations as one transaction: all or nothing. With `generation`, only if nothing changed since.
    fn commit(
        &mut self,
        operations: &[Operation],
        generation: Option<u32>,
    ) -> Result<(), KernelError>;

    /// Hands out the UDP flows of a family that are tracked. After [`KernelError::Unsteady`] or
    /// [`KernelError::AnswersLost`] those that were handed out are right, and others may be missing.
    fn udp_flows(
        &mut self,
        family: Family,
        each: &mut dyn FnMut(UdpFlow),
    ) -> Result<(), KernelError>;

    /// Ends exactly this flow; false when it had ended by itself.
    fn delete_flow(&mut self, flow: &UdpFlow) -> Result<bool, KernelError>;

    /// Whether nobody but us can change a table that we hold.
    fn is_exclusive(&self) -> bool;
}

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Not root, or without CAP_NET_ADMIN in this network namespace.
    #[error("changing nftables needs CAP_NET_ADMIN in this network namespace: run as root")]
    NotPermitted(#[source] io::Error),
    /// No nf_tables in this kernel.
    #[error(
        "this kernel has no usable nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4, CONFIG_NF_TABLES_IPV6)"
    )]
    Unsupported(#[source] io::Error),
    /// A system call on the netlink socket failed.
    #[error("netlink: {call}: {errno}")]
    Socket {
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: io::Error,
    },
    /// The kernel refused one operation, and with it the transaction.
    #[error("the kernel refused to {operation}: {errno}{}", detail.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// The operation in words.
        operation: String,
        /// The kernel's text, when it gave one.
        detail: Option<String>,
        /// Its errno.
        errno: io::Error,
    },
    /// Somebody else changed the ruleset since the expected generation; nothing was applied.
    #[error("the ruleset was changed by somebody else at the same time")]
    Stale,
    /// The kernel dropped answers: whether the transaction was applied is unknown.
    #[error("the kernel's answers were lost; whether it applied the transaction is unknown")]
    AnswersLost,
    /// The ruleset kept changing while it was read.
    #[error("the ruleset changed each time it was read")]
    Unsteady,
    /// An answer that makes no sense.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl KernelError {
    /// Whether the kernel refused because of what it holds: another way to the same end may succeed.
    pub(crate) fn is_about_state(&self) -> bool {
        matches!(self, KernelError::Refused { errno, .. } if errno.kind() != io::ErrorKind::OutOfMemory)
    }

    /// Whether the kernel said that something named is not there (ENOENT).
    pub fn is_not_found(&self) -> bool {
        matches!(self, KernelError::Refused { errno, .. } if errno.kind() == io::ErrorKind::NotFound)
    }
}

/// An operation in words, for errors.
pub(crate) fn describe(operation: &Operation) -> String {
    let place = format!("table {} {TABLE}", operation.family.as_str());
    match &operation.action {
        Action::AddTable => format!("add {place}"),
        Action::DeleteTable => format!("delete {place}"),
        Action::AddChain { name, .. } => format!("add chain {name} of {place}"),
        Action::DeleteChain { name } => format!("delete chain {name} of {place}"),
        Action::FlushChain { name } => format!("flush chain {name} of {place}"),
        Action::AddRule { chain, rule } => {
            format!(
                "add rule `{}` to chain {chain} of {place}",
                rule.text(operation.family)
            )
        }
        Action::AddSet { name, .. } => format!("add set {name} of {place}"),
        Action::DeleteSet { name } => format!("delete set {name} of {place}"),
        Action::Elements { set, delete, add } => {
            format!(
                "delete {} and add {} elements of set {set} of {place}",
                delete.len(),
                add.len()
            )
        }
    }
}
