//! Container logs in the form of the Container Runtime Interface: `TIME stdout|stderr F|P LINE`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use jiff::Timestamp;

/// A longer line is cut into parts marked `P`; the last is marked `F`.
const MAX_LINE_BYTES: usize = 16 << 10;

/// One of a container's two output streams on its way to the log.
#[derive(Debug)]
pub(super) struct Stream {
    name: &'static str,
    rest: Vec<u8>,
}

impl Stream {
    /// `name` is `stdout` or `stderr`.
    pub(super) fn named(name: &'static str) -> Self {
        Self {
            name,
            rest: Vec::new(),
        }
    }

    /// Takes what was read, and writes the lines that are whole now.
    pub(super) fn push(&mut self, bytes: &[u8], log: &mut File, now: Timestamp) -> io::Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut start = 0;
        loop {
            let rest = &self.rest[start..];
            let end = rest
                .iter()
                .take(MAX_LINE_BYTES)
                .position(|byte| *byte == b'\n');
            match end {
                Some(end) => {
                    line(&mut out, now, self.name, b'F', &rest[..end]);
                    start += end + 1;
                }
                None if rest.len() >= MAX_LINE_BYTES => {
                    line(&mut out, now, self.name, b'P', &rest[..MAX_LINE_BYTES]);
                    start += MAX_LINE_BYTES;
                }
                None => break,
            }
        }
        self.rest.drain(..start);
        log.write_all(&out)
    }

    /// The stream has ended: what is left is a line without its end.
    pub(super) fn finish(&mut self, log: &mut File, now: Timestamp) -> io::Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        line(
            &mut out,
            now,
            self.name,
            b'P',
            &std::mem::take(&mut self.rest),
        );
        log.write_all(&out)
    }
}

fn line(out: &mut Vec<u8>, now: Timestamp, stream: &str, mark: u8, text: &[u8]) {
    out.extend_from_slice(format!("{now:.9} {stream} ").as_bytes());
    out.push(mark);
    out.push(b' ');
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Opens the log of one attempt.
pub(super) fn open(dir: &Path, attempt: u32) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(dir.join(format!("{attempt}.log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(chunks: &[&[u8]]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 0).unwrap();
        let mut stream = Stream::named("stdout");
        for chunk in chunks {
            stream.push(chunk, &mut log, Timestamp::UNIX_EPOCH).unwrap();
        }
        stream.finish(&mut log, Timestamp::UNIX_EPOCH).unwrap();
        std::fs::read_to_string(dir.path().join("0.log")).unwrap()
    }

    #[test]
    fn lines_are_whole_whatever_the_reads_were() {
        let wanted = "1970-01-01T00:00:00.000000000Z stdout F one\n1970-01-01T00:00:00.000000000Z stdout F two\n";
        assert_eq!(written(&[b"one\ntwo\n"]), wanted);
        assert_eq!(written(&[b"o", b"ne\nt", b"wo", b"\n"]), wanted);
    }

    #[test]
    fn a_long_line_and_an_unfinished_one_are_marked_as_parts() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        let text = written(&[&long, b"\nend"]);
        let marks: Vec<_> = text
            .lines()
            .map(|line| line.split(' ').nth(2).unwrap())
            .collect();
        assert_eq!(marks, ["P", "F", "P"]);
        assert!(text.ends_with(" P end\n"));
    }
}
