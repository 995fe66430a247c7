//! The real kernel: one netlink socket, kept open because it owns the tables.
//!
//! The kernel runs a whole transaction, and writes its answers, inside `sendmsg`: afterwards the answers are only drained,
//! nothing is waited for. No message asks to be acknowledged, because an acknowledgement does not mean "committed" and many
//! of them overflow the receive buffer; success is the absence of errors.

use std::{collections::BTreeMap, io, os::fd::OwnedFd};

use super::{Holder, Kernel, KernelError, Snapshot, describe, sys};
use crate::{
    model::Family,
    plan::Operation,
    ruleset::{Chain, Holds, Rule, Ruleset, Set, SetKind, TABLE, Table},
    wire::{self, Batch, Chunk, Message, Messages, UdpFlow},
};

/// Dumps are tried this often when the ruleset moves under them.
const READ_ATTEMPTS: usize = 5;
/// The kernel's dump messages are at most this large (`NLMSG_GOODSIZE` and what it grows them to).
const RECEIVE_BUFFER_BYTES: usize = 128 * 1024;

/// Whoever has this netlink port of a network namespace holds its tables where tables have no owner: two sockets cannot have
/// it, and it goes with its process. The kernel gives out process ids and numbers above 2^31, so it is nobody's by chance.
const CLAIM_PORT: u32 = 0x6d69_6e6b;

/// Whether to ask for tables that nobody else can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// When the kernel has both `owner` and `persist` (since 6.9): `nft flush ruleset` skips such tables, and they outlive us.
    WhenPossible,
    /// Never: anybody may change them, and they are repaired. This is what older kernels have.
    Never,
}

/// A netlink socket to the nf_tables of one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    port: u32,
    seq: u32,
    table_flags: u32,
    /// Where tables have no owner: the socket with [`CLAIM_PORT`].
    claim: Option<OwnedFd>,
    send_buffer_bytes: usize,
    receive: Vec<u8>,
}

impl Netlink {
    /// Opens the socket and finds out, by doing it, whether tables can be made here and whether they can be owned.
    ///
    /// # Errors
    /// [`KernelError::NotPermitted`] and [`KernelError::Unsupported`] say what is missing.
    pub fn open(ownership: Ownership) -> Result<Netlink, KernelError> {
        let (socket, port) = sys::open(0).map_err(|source| match source.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => KernelError::Unsupported(source),
            Some(libc::EPERM | libc::EACCES) => KernelError::NotPermitted(source),
            _ => KernelError::Socket {
                call: "socket",
                errno: source,
            },
        })?;
        let mut this = Netlink {
            socket,
            port,
            seq: 1,
            table_flags: 0,
            claim: None,
            send_buffer_bytes: 0,
            receive: vec![0; RECEIVE_BUFFER_BYTES],
        };
        this.probe(0)?;
        let owned = wire::FLAG_OWNER | wire::FLAG_PERSIST;
        if ownership == Ownership::WhenPossible && this.probe(owned).is_ok() {
            this.table_flags = owned;
        }
        Ok(this)
    }

    /// Makes and deletes a table of another name in one transaction.
    fn probe(&mut self, flags: u32) -> Result<(), KernelError> {
        let seq = self.seq;
        let batch = Batch::probe(seq, flags);
        self.send_batch(&batch, &[]).map_err(|error| match error {
            KernelError::Refused { errno: source, .. } => match source.raw_os_error() {
                Some(libc::EPERM) => KernelError::NotPermitted(source),
                _ => KernelError::Unsupported(source),
            },
            other => other,
        })
    }

    fn send_batch(&mut self, batch: &Batch, operations: &[Operation]) -> Result<(), KernelError> {
        self.seq = batch.next_seq();
        self.make_room(batch.bytes.len())?;
        sys::send(&self.socket, &batch.bytes).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => KernelError::NotPermitted(source),
            _ => KernelError::Socket {
                call: "sendmsg",
                errno: source,
            },
        })?;
        self.drain(batch, operations)
    }

    /// A batch must fit the send buffer: 208 KiB unless raised.
    fn make_room(&mut self, batch_bytes: usize) -> Result<(), KernelError> {
        let wanted = batch_bytes + 4096;
        if wanted > self.send_buffer_bytes {
            sys::set_send_buffer(&self.socket, wanted).map_err(|source| {
                match source.raw_os_error() {
                    Some(libc::EPERM) => KernelError::NotPermitted(source),
                    _ => KernelError::Socket {
                        call: "setsockopt(SO_SNDBUFFORCE)",
                        errno: source,
                    },
                }
            })?;
            self.send_buffer_bytes = wanted;
        }
        Ok(())
    }

    /// Reads the answers that the transaction left; the first error is the one that counts, others follow from it.
    fn drain(&mut self, batch: &Batch, operations: &[Operation]) -> Result<(), KernelError> {
        let mut result = Ok(());
        loop {
            let len = match sys::receive(&self.socket, &mut self.receive, true) {
                Ok(len) => len,
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => return result,
                Err(source) if source.raw_os_error() == Some(libc::ENOBUFS) => {
                    result = Err(KernelError::AnswersLost);
                    continue;
                }
                Err(source) => {
                    return Err(KernelError::Socket {
                        call: "recvmsg",
                        errno: source,
                    });
                }
            };
            for message in
                Messages(&self.receive[..len]).filter(|message| batch.contains(message.seq))
            {
                if let (Ok(()), Some(error)) = (&result, refusal(&message, batch, operations)) {
                    result = Err(error);
                }
            }
        }
    }

    /// Sends a request and hands every answer to `each`, until the last: what is left of a dump would be in the way of the
    /// next one.
    pub(super) fn request(
        &mut self,
        bytes: &[u8],
        seq: u32,
        mut each: impl FnMut(&Message<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        sys::send(&self.socket, bytes).map_err(|source| KernelError::Socket {
            call: "sendmsg",
            errno: source,
        })?;
        let mut result = Ok(());
        loop {
            let len =
                sys::receive(&self.socket, &mut self.receive, false).map_err(
                    |source| match source.raw_os_error() {
                        Some(libc::ENOBUFS) => KernelError::AnswersLost,
                        _ => KernelError::Socket {
                            call: "recvmsg",
                            errno: source,
                        },
                    },
                )?;
            if take_answers(&self.receive[..len], seq, &mut result, &mut each) {
                return result;
            }
        }
    }

    fn dump(
        &mut self,
        kind: u16,
        family: Family,
        set: Option<&str>,
        each: impl FnMut(&Message<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let seq = self.next_seq();
        self.request(&wire::dump_request(seq, kind, family, set), seq, each)
    }

    pub(super) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    fn read_table(&mut self, family: Family) -> Result<Table, KernelError> {
        let mut table = Table::default();
        self.dump(wire::NFT_MSG_GETCHAIN, family, None, |message| {
            let (of, name, base) = wire::parse_chain(message)?;
            if of == TABLE {
                table.chains.insert(
                    name.into(),
                    Chain {
                        base,
                        rules: Vec::new(),
                    },
                );
            }
            Ok(())
        })?;
        self.dump(wire::NFT_MSG_GETRULE, family, None, |message| {
            let (of, chain, fingerprint) = wire::parse_rule(message)?;
            if let Some(chain) = table.chains.get_mut(chain).filter(|_| of == TABLE) {
                chain.rules.push(Rule::opaque(fingerprint));
            }
            Ok(())
        })?;
        self.dump(wire::NFT_MSG_GETSET, family, None, |message| {
            let (of, name, kind) = wire::parse_set(message, family)?;
            if of == TABLE {
                let set = Set::new(kind.unwrap_or(UNKNOWN_KIND));
                table.sets.insert(name.into(), set);
            }
            Ok(())
        })?;
        for (name, set) in &mut table.sets {
            if set.kind.dynamic || set.kind == UNKNOWN_KIND {
                continue;
            }
            match self.elements(family, name) {
                Ok(elements) => set.elements = elements.into_iter().collect(),
                // An element that we would never make: the set is not ours any more.
                Err(KernelError::Parse(_)) => set.kind = UNKNOWN_KIND,
                Err(error) => return Err(error),
            }
        }
        Ok(table)
    }

    fn read_once(&mut self) -> Result<Snapshot, KernelError> {
        let generation = self.generation()?;
        let holders = self.holders()?;
        let mut ruleset = Ruleset::default();
        for family in holders.keys() {
            ruleset.tables.insert(*family, self.read_table(*family)?);
        }
        if self.generation()? != generation {
            return Err(KernelError::Unsteady);
        }
        Ok(Snapshot {
            generation,
            ruleset,
            holders,
        })
    }

    /// Whether another process holds our tables although tables have no owner here. If nobody does, this one does from here on.
    fn is_claimed_by_other(&mut self) -> Result<bool, KernelError> {
        if self.table_flags != 0 || self.claim.is_some() {
            return Ok(false);
        }
        match sys::open(CLAIM_PORT) {
            Ok((claim, _)) => self.claim = Some(claim),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(true),
            Err(errno) => {
                return Err(KernelError::Socket {
                    call: "bind",
                    errno,
                });
            }
        }
        Ok(false)
    }

    fn holder(&self, flags: u32, owner: Option<u32>) -> Holder {
        match owner.filter(|_| flags & wire::FLAG_OWNER != 0) {
            Some(port) if port == self.port => Holder::Us,
            Some(port) => Holder::Other(port),
            None if flags & wire::FLAG_PERSIST == self.table_flags & wire::FLAG_PERSIST => {
                if self.table_flags == 0 {
                    Holder::Us
                } else {
                    Holder::Nobody
                }
            }
            None => Holder::Anybody,
        }
    }
}

/// Hands every answer to a request to `each`; true after the last. One that the kernel marks as of an interrupted dump is as
/// good as the others, only that some may be missing.
fn take_answers(
    bytes: &[u8],
    seq: u32,
    result: &mut Result<(), KernelError>,
    mut each: impl FnMut(&Message<'_>) -> Result<(), KernelError>,
) -> bool {
    for message in Messages(bytes).filter(|message| message.seq == seq) {
        let answer = wire::answer(&message);
        let last = answer != wire::Answer::Object || !message.is_of_dump();
        let outcome = match answer {
            wire::Answer::Done => Ok(()),
            wire::Answer::Object => each(&message),
            wire::Answer::Error(libc::EINTR, _) => Err(KernelError::Unsteady),
            wire::Answer::Error(errno, detail) => Err(KernelError::Refused {
                operation: "read our tables".into(),
                detail,
                errno: io::Error::from_raw_os_error(errno),
            }),
        };
        let outcome = match message.is_interrupted() {
            true => Err(KernelError::Unsteady),
            false => outcome,
        };
        if result.is_ok() {
            *result = outcome;
        }
        if last {
            return true;
        }
    }
    false
}

/// A declaration that no table of ours has.
const UNKNOWN_KIND: SetKind = SetKind {
    key: Vec::new(),
    holds: Holds::Keys,
    dynamic: false,
    ranges: false,
};

fn refusal(message: &Message<'_>, batch: &Batch, operations: &[Operation]) -> Option<KernelError> {
    let wire::Answer::Error(errno, detail) = wire::answer(message) else {
        return None;
    };
    let index = batch.operation(message.seq);
    if errno == libc::ERESTART && index.is_none() {
        return Some(KernelError::Stale);
    }
    let operation = index.and_then(|index| operations.get(index));
    let operation = operation.map_or_else(|| "begin or end a transaction".to_owned(), describe);
    Some(KernelError::Refused {
        operation,
        detail,
        errno: io::Error::from_raw_os_error(errno),
    })
}

impl Kernel for Netlink {
    fn generation(&mut self) -> Result<u32, KernelError> {
        let seq = self.next_seq();
        let mut generation = None;
        self.request(&wire::generation_request(seq), seq, |message| {
            generation = Some(wire::parse_generation(message)?);
            Ok(())
        })?;
        generation.ok_or(KernelError::AnswersLost)
    }

    fn holders(&mut self) -> Result<BTreeMap<Family, Holder>, KernelError> {
        if self.is_claimed_by_other()? {
            return Ok(Family::ALL
                .map(|family| (family, Holder::Other(CLAIM_PORT)))
                .into());
        }
        let mut tables = Vec::new();
        for family in Family::ALL {
            self.dump(wire::NFT_MSG_GETTABLE, family, None, |message| {
                let table = wire::parse_table(message)?;
                if table.name == TABLE {
                    tables.push((family, table));
                }
                Ok(())
            })?;
        }
        Ok(tables
            .into_iter()
            .map(|(family, table)| (family, self.holder(table.flags, table.owner)))
            .collect())
    }

    fn read(&mut self) -> Result<Snapshot, KernelError> {
        for _ in 1..READ_ATTEMPTS {
            match self.read_once() {
                // A table, chain or set went away under the dump.
                Err(error) if matches!(error, KernelError::Unsteady) || error.is_not_found() => {}
                done => return done,
            }
        }
        self.read_once()
    }

    fn elements(&mut self, family: Family, set: &str) -> Result<Chunk, KernelError> {
        let mut elements = Vec::new();
        self.dump(wire::NFT_MSG_GETSETELEM, family, Some(set), |message| {
            elements.extend(wire::parse_elements(message)?);
            Ok(())
        })?;
        Ok(elements)
    }

    fn commit(
        &mut self,
        operations: &[Operation],
        generation: Option<u32>,
    ) -> Result<(), KernelError> {
        let batch = Batch::encode(operations, self.next_seq(), generation, self.table_flags);
        self.send_batch(&batch, operations)
    }

    fn udp_flows(
        &mut self,
        family: Family,
        each: &mut dyn FnMut(UdpFlow),
    ) -> Result<(), KernelError> {
        self.dump_udp_flows(family, each)
    }

    fn delete_flow(&mut self, flow: &UdpFlow) -> Result<bool, KernelError> {
        self.delete_udp_flow(flow)
    }

    fn is_exclusive(&self) -> bool {
        self.table_flags != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQ: u32 = 7;
    const NLMSG_DONE: u16 = 3;
    const NLM_F_MULTI: u16 = 0x2;
    const NLM_F_DUMP_INTR: u16 = 0x10;

    /// `struct nlmsghdr` and four bytes behind it.
    fn message(kind: u16, flags: u16, seq: u32, body: u8) -> Vec<u8> {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(seq.to_ne_bytes());
        bytes.extend([0, 0, 0, 0, body, 0, 0, 0]);
        bytes
    }

    /// The bodies that were handed out, and what came of the dump.
    fn dump(datagrams: &[Vec<u8>]) -> (Vec<u8>, Result<(), KernelError>) {
        let (mut seen, mut result) = (Vec::new(), Ok(()));
        for (index, bytes) in datagrams.iter().enumerate() {
            let last = take_answers(bytes, SEQ, &mut result, |message| {
                seen.push(message.payload[0]);
                Ok(())
            });
            assert_eq!(last, index + 1 == datagrams.len());
        }
        (seen, result)
    }

    #[test]
    fn an_interrupted_dump_is_read_to_its_end_and_told_apart() {
        let object = |flags, body| message(0x100, NLM_F_MULTI | flags, SEQ, body);
        let done = |flags| message(NLMSG_DONE, NLM_F_MULTI | flags, SEQ, 0);
        let whole = [[object(0, 1), object(0, 2)].concat(), done(0)];
        let (seen, result) = dump(&whole);
        assert_eq!(seen, [1, 2]);
        assert!(result.is_ok());
        // The kernel marks the message at which it noticed, and that one only.
        let marked = [
            [object(0, 1), object(NLM_F_DUMP_INTR, 2)].concat(),
            [object(0, 3), message(0x100, NLM_F_MULTI, SEQ + 1, 9)].concat(),
            done(0),
        ];
        let (seen, result) = dump(&marked);
        assert_eq!(seen, [1, 2, 3]);
        assert!(matches!(result, Err(KernelError::Unsteady)), "{result:?}");
        let at_the_end = [object(0, 1), done(NLM_F_DUMP_INTR)];
        let (seen, result) = dump(&at_the_end);
        assert_eq!(seen, [1]);
        assert!(matches!(result, Err(KernelError::Unsteady)), "{result:?}");
    }
}
