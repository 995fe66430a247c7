//! The records of one attempt's log, through rotations, also while it is being written.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::part;
use crate::shim::log::OLD_PARTS;

/// How much is read at once.
const BLOCK_BYTES: usize = 64 << 10;

/// A position in a log. Its parts are open: what is rotated away under the reader is still read.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    attempt: u32,
    /// Oldest first; the first is being read.
    parts: VecDeque<Part>,
    /// A record whose end has not been read yet.
    begun: Vec<u8>,
}

#[derive(Debug)]
struct Part {
    file: File,
    inode: u64,
}

impl Reader {
    /// At the beginning of the log of a container's attempt; `dir` is the container's log directory.
    ///
    /// # Errors
    /// `NotFound` when there is no such log.
    pub fn open(dir: &Path, attempt: u32) -> io::Result<Self> {
        let parts = parts(dir, attempt)?;
        if parts.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self {
            dir: dir.to_owned(),
            attempt,
            parts,
            begun: Vec::new(),
        })
    }

    /// Moves to where so many records are left until the end as it is now. Looks at no more of the log than that.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn seek_tail(&mut self, records: u64) -> io::Result<()> {
        let mut left = records;
        for index in (0..self.parts.len()).rev() {
            let part = &mut self.parts[index];
            if let Some(start) = start_of_last(&mut part.file, &mut left)? {
                part.file.seek(SeekFrom::Start(start))?;
                self.parts.drain(..index);
                return Ok(());
            }
            part.file.rewind()?;
        }
        Ok(())
    }

    /// Appends the next whole records; `false` when there are none yet.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self, records: &mut Vec<u8>) -> io::Result<bool> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let Some(part) = self.parts.front_mut() else {
                return Ok(false);
            };
            let length = part.file.read(&mut block)?;
            if length == 0 {
                if self.next_part()? {
                    continue;
                }
                return Ok(false);
            }
            self.begun.extend_from_slice(&block[..length]);
            if let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') {
                records.extend(self.begun.drain(..=end));
                return Ok(true);
            }
        }
    }

    /// Goes on to the part after this one, if this one is complete: it is, when there is another.
    fn next_part(&mut self) -> io::Result<bool> {
        if self.parts.len() == 1 {
            let known = self.parts[0].inode;
            let now = parts(&self.dir, self.attempt)?;
            // Not there any more: it was rotated away, and all there are come after it.
            let newer = now.iter().position(|part| part.inode == known);
            let newer = newer.map_or(0, |index| index + 1);
            self.parts.extend(now.into_iter().skip(newer));
            if self.parts.len() == 1 {
                return Ok(false);
            }
            // Written between the last read and the rotation.
            return Ok(true);
        }
        self.parts.pop_front();
        Ok(true)
    }
}

/// The parts as they are now, oldest first. One that is renamed meanwhile is there once.
fn parts(dir: &Path, attempt: u32) -> io::Result<VecDeque<Part>> {
    let mut parts: VecDeque<Part> = VecDeque::new();
    for number in (0..=OLD_PARTS).rev() {
        let file = match File::open(part(dir, attempt, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let inode = file.metadata()?.ino();
        if parts.iter().all(|part| part.inode != inode) {
            parts.push_back(Part { file, inode });
        }
    }
    Ok(parts)
}

/// Where the last `left` lines of a file begin; `None`, with those of the file taken off, when it has fewer.
fn start_of_last(file: &mut File, left: &mut u64) -> io::Result<Option<u64>> {
    let size = file.seek(SeekFrom::End(0))?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let length = usize::try_from(end - start).expect("at most a block");
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        for (offset, _) in block[..length]
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            // The end of the line before the ones that are wanted.
            if *left == 0 {
                return Ok(Some(start + offset as u64 + 1));
            }
            *left -= 1;
        }
        end = start;
    }
    // The first line of the file ends no line before it.
    Ok((*left == 0).then_some(0))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    fn all(reader: &mut Reader) -> String {
        let mut records = Vec::new();
        while reader.read(&mut records).unwrap() {}
        String::from_utf8(records).unwrap()
    }

    fn written(parts: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in parts {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn parts_are_read_from_the_oldest_and_begun_records_wait() {
        let dir = written(&[("3.log.2", "a\n"), ("3.log.1", "b\n"), ("3.log", "c\nd")]);
        let mut reader = Reader::open(dir.path(), 3).unwrap();
        assert_eq!(all(&mut reader), "a\nb\nc\n");
        let mut log = File::options().append(true).open(dir.path().join("3.log"));
        log.as_mut().unwrap().write_all(b"e\n").unwrap();
        assert_eq!(all(&mut reader), "de\n");
        let error = Reader::open(dir.path(), 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_tail_reaches_over_parts() {
        let dir = written(&[("0.log.1", "a\nb\n"), ("0.log", "c\nd\n")]);
        for (count, wanted) in [
            (0, ""),
            (1, "d\n"),
            (2, "c\nd\n"),
            (3, "b\nc\nd\n"),
            (4, "a\nb\nc\nd\n"),
            (9, "a\nb\nc\nd\n"),
        ] {
            let mut reader = Reader::open(dir.path(), 0).unwrap();
            reader.seek_tail(count).unwrap();
            assert_eq!(all(&mut reader), wanted, "{count}");
        }
    }

    #[test]
    fn the_tail_is_found_in_lines_longer_than_a_block() {
        let long = "x".repeat(BLOCK_BYTES * 2 + 7);
        let text = format!("a\n{long}\nb\n");
        let dir = written(&[("0.log", &text)]);
        for (count, wanted) in [(1, "b\n"), (2, &text[2..]), (3, &text)] {
            let mut reader = Reader::open(dir.path(), 0).unwrap();
            reader.seek_tail(count).unwrap();
            assert_eq!(all(&mut reader), wanted, "{count}");
        }
    }

    #[test]
    fn rotations_under_a_reader_lose_nothing() {
        let dir = written(&[("0.log", "a\n")]);
        let path = |name: &str| dir.path().join(name);
        let mut reader = Reader::open(dir.path(), 0).unwrap();
        assert_eq!(all(&mut reader), "a\n");
        let mut log = File::options().append(true).open(path("0.log")).unwrap();
        log.write_all(b"b\n").unwrap();
        fs::rename(path("0.log"), path("0.log.1")).unwrap();
        fs::rename(path("0.log.1"), path("0.log.2")).unwrap();
        fs::write(path("0.log.1"), "c\n").unwrap();
        fs::write(path("0.log"), "d\n").unwrap();
        assert_eq!(all(&mut reader), "b\nc\nd\n");
    }
}
