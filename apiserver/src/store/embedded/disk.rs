//! What the embedded store writes into its engine, byte by byte.
//!
//! ```text
//! m/format           u64: the version of this layout, 1
//! m/fence            u64: revisions up to here may have been handed out
//! m/clean            u64: the current revision at a clean stop; absent while the store is open
//! o/KEY              created u64, modified u64, version u64, expiry u64 (Unix ms, 0 = never), size of the value u32,
//!                    parts u32, then the packed value when parts is 0
//! c/KEY 0x00 N       part N (u32) of a packed value that is longer than one part
//! ```
//!
//! All numbers are big-endian. A packed value is an LZ4 block, or the value itself when that is no longer: as many bytes as
//! the value's size. (LZ4 because every byte here is written several times to what may be a memory card, and the one
//! committer has no time for a better ratio; it is also plain Rust.)

use std::{borrow::Cow, collections::HashMap};

use bytes::Bytes;

use super::space;
use crate::store::{
    Record, Revision, Sketch, StoreError,
    engine::{KvEngine, MAX_VALUE_BYTES, Op},
};

const FORMAT: &[u8] = b"m/format";
const FORMAT_VERSION: u64 = 1;
const FENCE: &[u8] = b"m/fence";
const CLEAN: &[u8] = b"m/clean";
const HEADER_BYTES: usize = 40;

/// What was found on disk.
pub(super) struct Found {
    /// Every living record with its expiry in Unix milliseconds, 0 for never.
    pub(super) records: Vec<(Record, u64)>,
    /// No revision above this was ever handed out.
    pub(super) fence: Revision,
    /// The revision at the last clean stop, if the last stop was clean.
    pub(super) clean: Option<Revision>,
    pub(super) chunks: Chunks,
    /// Nothing was ever written.
    pub(super) fresh: bool,
}

/// How many parts each long value has: they must go when it is replaced by a shorter one.
#[derive(Debug, Default)]
pub(super) struct Chunks(HashMap<Bytes, u32>);

impl Chunks {
    /// The operations that write a record.
    pub(super) fn put(&mut self, record: &Record, expiry_ms: u64, ops: &mut Vec<Op>) {
        let packed = pack(&record.value);
        let (inline, parts): (&[u8], Vec<&[u8]>) = if packed.len() > MAX_VALUE_BYTES {
            (&[], packed.chunks(MAX_VALUE_BYTES).collect())
        } else {
            (&packed, Vec::new())
        };
        let [size, count] = [record.value.len(), parts.len()]
            .map(|number| u32::try_from(number).expect("a value is at most 1.5 MiB"));
        let mut head = Vec::with_capacity(HEADER_BYTES + inline.len());
        for number in [
            record.created.0,
            record.modified.0,
            record.version,
            expiry_ms,
        ] {
            head.extend(number.to_be_bytes());
        }
        head.extend(size.to_be_bytes());
        head.extend(count.to_be_bytes());
        head.extend_from_slice(inline);
        self.drop_parts(&record.key, count, ops);
        ops.push(Op::Put(object_key(&record.key), head));
        for (number, part) in (0..).zip(parts) {
            ops.push(Op::Put(part_key(&record.key, number), part.to_vec()));
        }
        if count > 0 {
            self.0.insert(record.key.clone(), count);
        }
    }

    /// The operations that remove a key.
    pub(super) fn delete(&mut self, key: &Bytes, ops: &mut Vec<Op>) {
        self.drop_parts(key, 0, ops);
        ops.push(Op::Delete(object_key(key)));
    }

    fn drop_parts(&mut self, key: &Bytes, kept: u32, ops: &mut Vec<Op>) {
        if let Some(old) = self.0.remove(key) {
            ops.extend((kept..old).map(|number| Op::Delete(part_key(key, number))));
        }
    }
}

/// Says how to read the rest; written with the first commit.
pub(super) fn format() -> Op {
    Op::Put(FORMAT.to_vec(), FORMAT_VERSION.to_be_bytes().to_vec())
}

/// Reserves revisions up to `fence`.
pub(super) fn fence(fence: Revision) -> Op {
    Op::Put(FENCE.to_vec(), fence.0.to_be_bytes().to_vec())
}

/// Marks the stop as clean, or the store as open.
pub(super) fn clean(at: Option<Revision>) -> Op {
    match at {
        Some(revision) => Op::Put(CLEAN.to_vec(), revision.0.to_be_bytes().to_vec()),
        None => Op::Delete(CLEAN.to_vec()),
    }
}

/// Reads everything back.
pub(super) fn read(engine: &dyn KvEngine, path: &str) -> Result<Found, StoreError> {
    let mut found = Found {
        records: Vec::new(),
        fence: Revision(0),
        clean: None,
        chunks: Chunks::default(),
        fresh: true,
    };
    let mut format = None;
    let mut parts: HashMap<Bytes, Vec<u8>> = HashMap::new();
    let corrupt = |key: &[u8]| StoreError::Corrupt {
        path: path.to_owned(),
        detail: format!("key {:?} is malformed", String::from_utf8_lossy(key)),
    };
    let mut long: Vec<(Bytes, Head)> = Vec::new();
    engine.scan(&mut |key, value| {
        found.fresh = false;
        match key {
            FORMAT => format = number(value, 0),
            FENCE => found.fence = Revision(number(value, 0).ok_or_else(|| corrupt(key))?),
            CLEAN => found.clean = Some(Revision(number(value, 0).ok_or_else(|| corrupt(key))?)),
            [b'c', b'/', name @ .., 0, _, _, _, _] => {
                parts
                    .entry(Bytes::copy_from_slice(name))
                    .or_default()
                    .extend_from_slice(value);
            }
            [b'o', b'/', name @ ..] => {
                let (head, payload) = Head::decode(value).ok_or_else(|| corrupt(key))?;
                let name = Bytes::copy_from_slice(name);
                if head.parts > 0 {
                    long.push((name, head));
                } else {
                    let record = head.record(name, payload).ok_or_else(|| corrupt(key))?;
                    found.records.push((record, head.expiry_ms));
                }
            }
            _ => return Err(corrupt(key)),
        }
        Ok(())
    })?;
    if !found.fresh && format != Some(FORMAT_VERSION) {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("its format is {format:?}, this program reads {FORMAT_VERSION}"),
        });
    }
    for (name, head) in long {
        let packed = parts.remove(&name).unwrap_or_default();
        if packed.len().div_ceil(MAX_VALUE_BYTES) != head.parts as usize {
            return Err(corrupt(&name));
        }
        found.chunks.0.insert(name.clone(), head.parts);
        let record = head.record(name.clone(), &packed);
        let record = record.ok_or_else(|| corrupt(&name))?;
        found.records.push((record, head.expiry_ms));
    }
    Ok(found)
}

/// The fixed part of a record.
struct Head {
    created: Revision,
    modified: Revision,
    version: u64,
    expiry_ms: u64,
    size_bytes: u32,
    parts: u32,
}

impl Head {
    fn decode(value: &[u8]) -> Option<(Self, &[u8])> {
        let (head, payload) = value.split_at_checked(HEADER_BYTES)?;
        let sizes = number(head, 32)?;
        let head = Self {
            created: Revision(number(head, 0)?),
            modified: Revision(number(head, 8)?),
            version: number(head, 16)?,
            expiry_ms: number(head, 24)?,
            size_bytes: u32::try_from(sizes >> 32).ok()?,
            parts: u32::try_from(sizes & u64::from(u32::MAX)).ok()?,
        };
        Some((head, payload))
    }

    fn record(&self, key: Bytes, packed: &[u8]) -> Option<Record> {
        Some(Record {
            key,
            value: unpack(packed, self.size_bytes as usize)?,
            created: self.created,
            modified: self.modified,
            version: self.version,
            sketch: Sketch::default(),
        })
    }
}

fn pack(value: &[u8]) -> Cow<'_, [u8]> {
    let packed = lz4_flex::block::compress(value);
    if packed.len() < value.len() {
        packed.into()
    } else {
        value.into()
    }
}

fn unpack(packed: &[u8], size_bytes: usize) -> Option<Bytes> {
    if packed.len() == size_bytes {
        return Some(Bytes::copy_from_slice(packed));
    }
    // The size comes from the disk: without this, damage could ask for any amount of memory.
    if size_bytes > space::MAX_VALUE_BYTES {
        return None;
    }
    let value = lz4_flex::block::decompress(packed, size_bytes).ok()?;
    (value.len() == size_bytes).then(|| value.into())
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn object_key(key: &[u8]) -> Vec<u8> {
    [b"o/", key].concat()
}

fn part_key(key: &[u8], number: u32) -> Vec<u8> {
    [b"c/", key, b"\0", &number.to_be_bytes()].concat()
}
