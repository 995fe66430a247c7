//! What the embedded store writes into its engine, byte by byte.
//!
//! ```text
//! m/fence            u64: revisions up to here may have been handed out
//! m/clean            u64: the current revision at a clean stop; absent while the store is open
//! o/KEY              created u64, modified u64, version u64, expiry u64 (Unix ms, 0 = never), chunks u32, then the value
//!                    when chunks is 0
//! c/KEY 0x00 N       part N (u32) of a value that is longer than one part
//! ```
//!
//! All numbers are big-endian.

use std::collections::HashMap;

use bytes::Bytes;

use crate::store::{
    Record, Revision, StoreError,
    engine::{KvEngine, MAX_VALUE_BYTES, Op},
};

const FENCE: &[u8] = b"m/fence";
const CLEAN: &[u8] = b"m/clean";
const HEADER_BYTES: usize = 36;

/// What was found on disk.
pub(super) struct Found {
    /// Every living record with its expiry in Unix milliseconds, 0 for never.
    pub(super) records: Vec<(Record, u64)>,
    /// No revision above this was ever handed out.
    pub(super) fence: Revision,
    /// The revision at the last clean stop, if the last stop was clean.
    pub(super) clean: Option<Revision>,
    pub(super) chunks: Chunks,
}

/// How many parts each long value has: they must go when it is replaced by a shorter one.
#[derive(Debug, Default)]
pub(super) struct Chunks(HashMap<Bytes, u32>);

impl Chunks {
    /// The operations that write a record.
    pub(super) fn put(&mut self, record: &Record, expiry_ms: u64, ops: &mut Vec<Op>) {
        let long = record.value.len() > MAX_VALUE_BYTES;
        let parts: Vec<&[u8]> = if long {
            record.value.chunks(MAX_VALUE_BYTES).collect()
        } else {
            Vec::new()
        };
        let count = u32::try_from(parts.len()).expect("a value is at most 1.5 MiB");
        let mut head = Vec::with_capacity(HEADER_BYTES + if long { 0 } else { record.value.len() });
        for number in [
            record.created.0,
            record.modified.0,
            record.version,
            expiry_ms,
        ] {
            head.extend(number.to_be_bytes());
        }
        head.extend(count.to_be_bytes());
        if !long {
            head.extend_from_slice(&record.value);
        }
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
    };
    let mut parts: HashMap<Bytes, Vec<u8>> = HashMap::new();
    let corrupt = |key: &[u8]| StoreError::Corrupt {
        path: path.to_owned(),
        detail: format!("key {:?} is malformed", String::from_utf8_lossy(key)),
    };
    let mut long = Vec::new();
    engine.scan(&mut |key, value| {
        match key {
            FENCE => found.fence = Revision(number(value, 0).ok_or_else(|| corrupt(key))?),
            CLEAN => found.clean = Some(Revision(number(value, 0).ok_or_else(|| corrupt(key))?)),
            [b'c', b'/', name @ .., 0, _, _, _, _] => {
                parts
                    .entry(Bytes::copy_from_slice(name))
                    .or_default()
                    .extend_from_slice(value);
            }
            [b'o', b'/', name @ ..] => {
                let (record, expiry, count) = decode(name, value).ok_or_else(|| corrupt(key))?;
                if count > 0 {
                    long.push((found.records.len(), count));
                }
                found.records.push((record, expiry));
            }
            _ => return Err(corrupt(key)),
        }
        Ok(())
    })?;
    for (index, count) in long {
        let record = &mut found.records[index].0;
        let value = parts
            .remove(&record.key)
            .ok_or_else(|| corrupt(&record.key))?;
        if value.len().div_ceil(MAX_VALUE_BYTES) != count as usize {
            return Err(corrupt(&record.key));
        }
        record.value = value.into();
        found.chunks.0.insert(record.key.clone(), count);
    }
    Ok(found)
}

fn decode(name: &[u8], value: &[u8]) -> Option<(Record, u64, u32)> {
    let count = u32::from_be_bytes(value.get(32..HEADER_BYTES)?.try_into().ok()?);
    let record = Record {
        key: Bytes::copy_from_slice(name),
        value: Bytes::copy_from_slice(&value[HEADER_BYTES..]),
        created: Revision(number(value, 0)?),
        modified: Revision(number(value, 8)?),
        version: number(value, 16)?,
    };
    Some((record, number(value, 24)?, count))
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
