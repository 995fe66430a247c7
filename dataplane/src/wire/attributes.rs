//! Netlink messages and attributes: a growing buffer to write them, bounded iterators to read them.

use super::constants::{NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_DUMP_INTR, NLM_F_MULTI};

/// Length of `struct nlmsghdr`.
pub(super) const HEADER_LEN: usize = 16;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER_LEN: usize = 4;

/// Bytes being written. Attributes are type-length-value, padded to four bytes; numbers in them are big-endian.
#[derive(Debug, Default)]
pub struct Buffer(pub(super) Vec<u8>);

impl Buffer {
    /// One netlink message with its `nfgenmsg` and the attributes which `body` writes.
    pub(super) fn message(
        &mut self,
        (kind, flags, seq): (u16, u16, u32),
        (family, res_id): (u8, u16),
        body: impl FnOnce(&mut Buffer),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(seq.to_ne_bytes());
        self.0.extend([0; 4]);
        self.0.extend([family, 0]);
        self.0.extend(res_id.to_be_bytes());
        body(self);
        let len =
            u32::try_from(self.0.len() - start).expect("operations are bounded far below 4 GiB");
        self.0[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).expect("values are names and registers");
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.pad();
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, kind: u16, value: i32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn str(&mut self, kind: u16, value: &str) {
        let len = u16::try_from(value.len() + 5).expect("names are short");
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value.as_bytes());
        self.0.push(0);
        self.pad();
    }

    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Buffer)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NLA_F_NESTED).to_ne_bytes());
        body(self);
        let len = u16::try_from(self.0.len() - start)
            .expect("the planner cuts element lists below 64 KiB");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub seq: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind the `nfgenmsg`.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(FAMILY_HEADER_LEN..).unwrap_or_default())
    }

    /// Whether it is one of several answers (`NLM_F_MULTI`).
    pub fn is_of_dump(&self) -> bool {
        self.flags & NLM_F_MULTI != 0
    }

    /// Whether what is dumped changed meanwhile (`NLM_F_DUMP_INTR`).
    pub fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }
}

/// The messages in a received datagram. Ends at the first that does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER_LEN)?;
        let len = usize::try_from(u32::from_ne_bytes(header[..4].try_into().ok()?)).ok()?;
        let payload = self.0.get(HEADER_LEN..len)?;
        let message = Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            seq: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// Received attributes as (type, value). Ends at the first that does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let header = self.0.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first attribute of this type.
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// As [`Attributes::find`], a nest.
    pub fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.find(kind).map(Attributes)
    }

    /// As [`Attributes::find`], a big-endian number.
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.find(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// As [`Attributes::find`], a text up to its NUL.
    pub fn str(self, kind: u16) -> Option<&'a str> {
        let value = self.find(kind)?;
        let end = value
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(value.len());
        std::str::from_utf8(&value[..end]).ok()
    }
}
