//! Cutting a reply to the size its reader takes.
//!
//! Done before encoding, because the encoder writes the OPT record last and would cut that too, and would set TC when
//! only additionals did not fit.

use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::BinEncodable;

use crate::zone::Reply;

/// The largest UDP answer that crosses every path unfragmented (DNS flag day 2020).
pub(super) const MAX_UDP_BYTES: u16 = 1232;
/// The largest UDP answer for a client without EDNS (RFC 1035 section 4.2.1).
pub(super) const MIN_UDP_BYTES: u16 = 512;

const HEADER_BYTES: usize = 12;
/// An OPT record without options.
const OPT_BYTES: usize = 11;
/// TYPE, CLASS, TTL and RDLENGTH.
const RECORD_FIXED_BYTES: usize = 10;
/// A name that repeats the question's is a pointer.
const POINTER_BYTES: usize = 2;

/// Cuts the reply to `limit` bytes and tells whether an answer was cut (then TC is set). Additionals go first: they
/// are a courtesy. The sizes are upper bounds that count on one compression only, of the question's name.
pub(super) fn fit(reply: &mut Reply, qname: &Name, question_bytes: usize, limit: u16) -> bool {
    // The encoder writes the name once more before it points at it.
    let once = HEADER_BYTES + question_bytes + qname.len() + OPT_BYTES;
    let mut left = usize::from(limit).saturating_sub(once);
    let truncated =
        cut(&mut reply.answers, qname, &mut left) || cut(&mut reply.authorities, qname, &mut left);
    if truncated {
        reply.authorities.clear();
        reply.additionals.clear();
    }
    cut(&mut reply.additionals, qname, &mut left);
    truncated
}

/// Keeps the first records that fit into what is left; tells whether some did not.
fn cut(records: &mut Vec<Record>, qname: &Name, left: &mut usize) -> bool {
    for (kept, record) in records.iter().enumerate() {
        let Some(rest) = left.checked_sub(bytes(record, qname)) else {
            records.truncate(kept);
            return true;
        };
        *left = rest;
    }
    false
}

fn bytes(record: &Record, qname: &Name) -> usize {
    let owner = match record.name.eq_case(qname) {
        true => POINTER_BYTES,
        false => record.name.len() + 1,
    };
    // Encoded alone, no name in the data is compressed; data that cannot be encoded is left out as too large.
    let data = match &record.data {
        RData::A(_) => 4,
        RData::AAAA(_) => 16,
        data => data
            .to_bytes()
            .map_or(usize::from(u16::MAX), |bytes| bytes.len()),
    };
    owner + RECORD_FIXED_BYTES + data
}
