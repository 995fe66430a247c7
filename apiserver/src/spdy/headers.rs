//! Header blocks: name and value pairs, compressed. One compressor lives as long as its direction of the connection: each
//! block goes on where the one before ended.

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// The headers of a stream are a handful of words.
const MAX_BYTES: usize = 8 << 10;
const STEP_BYTES: usize = 4 << 10;

/// Headers by name. Names are in lower case; of several values of one name the first counts.
pub type Headers = BTreeMap<String, String>;

/// A block that cannot be read. Those after it cannot be either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header block {0}")]
pub struct HeaderError(&'static str);

/// Reads the blocks of one direction, in their order.
#[derive(Debug)]
pub struct Reader(Decompress);

impl Default for Reader {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Reader {
    /// The headers of the next block.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let raw = self.inflate(block)?;
        pairs(raw.into()).ok_or(HeaderError("ends within a name or value"))
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::with_capacity(STEP_BYTES);
        loop {
            if out.capacity() == out.len() {
                out.reserve(STEP_BYTES);
            }
            let (read, written) = (self.0.total_in(), out.len());
            let step = self
                .0
                .decompress_vec(block, &mut out, FlushDecompress::Sync);
            let read = usize::try_from(self.0.total_in() - read).unwrap_or(block.len());
            block = &block[read..];
            if out.len() > MAX_BYTES {
                return Err(HeaderError("is longer than any is"));
            }
            match step {
                Err(error) if error.needs_dictionary().is_some() => {
                    let set = self.0.set_dictionary(&DICTIONARY);
                    set.map_err(|_| HeaderError("wants another dictionary"))?;
                }
                Err(_) => return Err(HeaderError("is not compressed as it should be")),
                Ok(Status::StreamEnd) => return Ok(out),
                // All is read, and there was room for more than it gave.
                Ok(_) if block.is_empty() && out.len() < out.capacity() => return Ok(out),
                Ok(_) if read == 0 && out.len() == written && out.len() < out.capacity() => {
                    return Err(HeaderError("is not compressed as it should be"));
                }
                Ok(_) => {}
            }
        }
    }
}

fn pairs(mut raw: Bytes) -> Option<Headers> {
    let word = |raw: &mut Bytes| {
        let length = raw.try_get_u32().ok()? as usize;
        (length <= raw.len()).then(|| raw.split_to(length))
    };
    let mut headers = Headers::new();
    for _ in 0..raw.try_get_u32().ok()? {
        let (name, values) = (word(&mut raw)?, word(&mut raw)?);
        let first = values.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
        headers.insert(name, String::from_utf8_lossy(first).into_owned());
    }
    Some(headers)
}

/// Writes the blocks of one direction, which have no headers: nothing has to be said about a stream that is accepted.
#[derive(Debug)]
pub struct Writer(Compress);

impl Default for Writer {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        let set = compress.set_dictionary(&DICTIONARY);
        set.expect("a new compressor takes any dictionary");
        Self(compress)
    }
}

impl Writer {
    /// The next block, without headers.
    pub fn empty(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(STEP_BYTES);
        let none = 0_u32.to_be_bytes();
        let done = self.0.compress_vec(&none, &mut out, FlushCompress::Sync);
        done.expect("four bytes fit");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks of one connection, as `zlib.compressobj(level=9, zdict=DICTIONARY)` of Python 3 makes them from
    /// `streamtype: error|data, port: 80, requestid: 0`, each followed by `flush(Z_SYNC_FLUSH)`.
    const BLOCKS: [&str; 2] = [
        "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc64610024398b209198094adc8c0600000000ffff",
        "c2aa15540a2512d209000000ffff",
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = (0..hex.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn s5_blocks_are_one_compressed_stream() {
        let mut reader = Reader::default();
        for (block, kind) in BLOCKS.iter().zip(["error", "data"]) {
            let headers = reader.read(&bytes(block)).unwrap();
            let wanted = [("port", "80"), ("requestid", "0"), ("streamtype", kind)];
            let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(headers, Headers::from(wanted));
        }
        // The second makes no sense without the first: an inflater for each block would be wrong.
        assert!(Reader::default().read(&bytes(BLOCKS[1])).is_err());
    }

    #[test]
    fn what_is_written_can_be_read_block_by_block() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for _ in 0..3 {
            let block = writer.empty();
            assert!(block.ends_with(b"\x00\x00\xff\xff"), "a sync flush");
            assert_eq!(reader.read(&block), Ok(Headers::new()));
        }
    }

    #[test]
    fn garbage_and_bombs_are_refused() {
        assert!(Reader::default().read(b"nonsense").is_err());
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&DICTIONARY).unwrap();
        let mut bomb = Vec::with_capacity(1 << 20);
        let zeros = vec![0; 32 << 20];
        compress
            .compress_vec(&zeros, &mut bomb, FlushCompress::Sync)
            .unwrap();
        assert_eq!(
            Reader::default().read(&bomb),
            Err(HeaderError("is longer than any is"))
        );
    }
}
