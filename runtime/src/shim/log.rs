//! Container logs in the form of the Container Runtime Interface: `TIME stdout|stderr F|P LINE`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// A longer line is cut into parts marked `P`; the last is marked `F`.
const MAX_LINE_BYTES: usize = 16 << 10;

/// A log that would grow beyond this is put aside; as many parts are kept. The kubelet's defaults are 10 Mi and 5 files.
const MAX_LOG_BYTES: usize = 10 << 20;
pub(crate) const OLD_PARTS: u32 = 4;

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
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        log: &mut impl Write,
        now: Timestamp,
    ) -> io::Result<()> {
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
    pub(super) fn finish(&mut self, log: &mut impl Write, now: Timestamp) -> io::Result<()> {
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

/// The log of one attempt: `N.log`, and the older parts of it as `N.log.1` (the newest of them) and so on.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size_bytes: usize,
    max_bytes: usize,
}

impl Log {
    /// Opens the log of one attempt. That of the attempt before stays, older ones go: a crash loop does not fill the disk.
    pub(super) fn open(dir: &Path, attempt: u32) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        for entry in std::fs::read_dir(dir)?.flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.split_once(".log")?.0.parse::<u32>().ok());
            if number.is_some_and(|number| number.saturating_add(1) < attempt) {
                // What cannot be removed is tried again by the next attempt.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Self::at(dir.join(format!("{attempt}.log")), MAX_LOG_BYTES)
    }

    fn at(path: PathBuf, max_bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(&path)?;
        let size_bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        Ok(Self {
            path,
            file,
            size_bytes,
            max_bytes,
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let part = |number: u32| match number {
            0 => self.path.clone(),
            _ => self.path.with_extension(format!("log.{number}")),
        };
        for number in (0..OLD_PARTS).rev() {
            match std::fs::rename(part(number), part(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        *self = Self::at(part(0), self.max_bytes)?;
        Ok(())
    }
}

impl Write for Log {
    /// Writes whole lines, all into one part.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.size_bytes > 0 && self.size_bytes.saturating_add(lines.len()) > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size_bytes += lines.len();
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(chunks: &[&[u8]]) -> String {
        let mut log = Vec::new();
        let mut stream = Stream::named("stdout");
        for chunk in chunks {
            stream.push(chunk, &mut log, Timestamp::UNIX_EPOCH).unwrap();
        }
        stream.finish(&mut log, Timestamp::UNIX_EPOCH).unwrap();
        String::from_utf8(log).unwrap()
    }

    #[test]
    fn a_log_keeps_its_newest_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::at(path.clone(), 10).unwrap();
        for number in 0..20 {
            log.write_all(format!("line {number:02}\n").as_bytes())
                .unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("0.log"), "line 19\n");
        assert_eq!(read("0.log.1"), "line 18\n");
        assert_eq!(read("0.log.4"), "line 15\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
        // The next shim goes on where this one stopped.
        assert_eq!(Log::at(path, 10).unwrap().size_bytes, 8);
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
