//! Element keys and values: register images, each column padded to four bytes as the kernel concatenates them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
};

use super::Name;
use crate::model::{Family, Protocol};

/// Up to `N` bytes, inline: a Ruleset of 30 000 Services holds hundreds of thousands of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes<const N: usize> {
    // Unused bytes stay zero, so that the derived order is the bytes' order among keys of one set, which have one length.
    bytes: [u8; N],
    len: u8,
}

/// A key: at most address . address . protocol . port of IPv6.
pub type Key = Bytes<40>;

impl<const N: usize> Default for Bytes<N> {
    fn default() -> Self {
        Bytes {
            bytes: [0; N],
            len: 0,
        }
    }
}

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_slice() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl<const N: usize> Bytes<N> {
    /// From bytes read elsewhere; `None` when there are more than `N`.
    pub fn from_slice(slice: &[u8]) -> Option<Self> {
        let mut this = Bytes::default();
        this.bytes.get_mut(..slice.len())?.copy_from_slice(slice);
        this.len = u8::try_from(slice.len()).ok()?;
        Some(this)
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        let start = usize::from(self.len);
        let padded = bytes.len().next_multiple_of(4);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += u8::try_from(padded).expect("a column is at most 16 bytes");
        self
    }

    /// Appends an address column.
    pub fn address(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => self.push(&addr.octets()),
            IpAddr::V6(addr) => self.push(&addr.octets()),
        }
    }

    /// Appends a protocol column.
    pub fn protocol(self, protocol: Protocol) -> Self {
        self.push(&[protocol as u8])
    }

    /// Appends a port column (network order).
    pub fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes())
    }

    /// Appends a number column (host order, as `numgen` leaves it in the register).
    pub fn number(self, number: u32) -> Self {
        self.push(&number.to_ne_bytes())
    }
}

impl Key {
    /// The key to which a number was appended last.
    pub(crate) fn without_number(&self) -> Option<Key> {
        let (key, _) = self
            .as_slice()
            .split_at_checked(self.as_slice().len().checked_sub(4)?)?;
        Key::from_slice(key)
    }
}

/// Reads columns back, front to back; every step is `None` past the end.
#[derive(Clone, Copy, Debug)]
pub struct KeyReader<'a>(pub &'a [u8]);

impl KeyReader<'_> {
    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let (head, rest) = self.0.split_at_checked(len.next_multiple_of(4))?;
        self.0 = rest;
        Some(&head[..len])
    }

    /// The next column as an address.
    pub fn address(&mut self, family: Family) -> Option<IpAddr> {
        let bytes = self.take(family.address_len())?;
        Some(match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        })
    }

    /// The next column as a protocol that Services know.
    pub fn protocol(&mut self) -> Option<Protocol> {
        let number = *self.take(1)?.first()?;
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| *protocol as u8 == number)
    }

    /// The next column as a port.
    pub fn port(&mut self) -> Option<NonZeroU16> {
        NonZeroU16::new(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// The next column as a number.
    pub fn number(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }
}

/// Where the evaluation goes from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This hook is done with the packet.
    Accept,
    /// The packet is gone.
    Drop,
    /// Back to the caller.
    Return,
    /// Into a chain, and back.
    Jump(Name),
    /// Into a chain, not back.
    Goto(Name),
}

/// What belongs to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: the element of a set.
    None,
    /// The element of a verdict map.
    Verdict(Verdict),
    /// The last key of the range that an element of a set with ranges stands for.
    Until(Key),
    /// The element of a map: at most address . port of IPv6.
    Value(Bytes<20>),
}
