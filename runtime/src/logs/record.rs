//! One line of a log file, `TIME stdout|stderr F|P TEXT`, and what a client wants of it. Pure.

use jiff::Timestamp;

/// One of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// What a client wants to see of a log, and where in it this is.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Nothing else.
    pub stream: Option<OutputStream>,
    /// How many bytes are still wanted.
    pub left_bytes: Option<usize>,
    /// Whether the last line that was shown goes on in the next record; at first it does not.
    pub unfinished: bool,
}

impl Filter {
    /// Appends what is wanted of these whole records. A line that the runtime did not write is left out.
    pub fn show(&mut self, records: &[u8], out: &mut Vec<u8>) {
        let before = out.len();
        for record in records.split_inclusive(|byte| *byte == b'\n') {
            self.show_one(record.strip_suffix(b"\n").unwrap_or(record), out);
        }
        if let Some(left) = &mut self.left_bytes {
            out.truncate(before + *left);
            *left -= out.len() - before;
        }
    }

    /// Whether nothing more is wanted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.left_bytes == Some(0)
    }

    fn show_one(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let mut words = record.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(mark), Some(text)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        if self.stream.is_some_and(|only| only.name() != stream) || !self.is_wanted(time) {
            return;
        }
        if self.timestamps && !self.unfinished {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.unfinished = mark == b"P";
        if !self.unfinished {
            out.push(b'\n');
        }
    }

    fn is_wanted(&self, time: &[u8]) -> bool {
        let Some(since) = self.since else { return true };
        let time = std::str::from_utf8(time).ok();
        let time = time.and_then(|text| text.parse::<Timestamp>().ok());
        time.is_some_and(|time| time >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:00.000000001Z stdout F one\n\
        2026-01-01T00:00:01.000000000Z stderr P tw\n\
        2026-01-01T00:00:01.000000000Z stderr F o\n\
        not ours\n\
        2026-01-01T00:00:02.000000000Z stdout F  three \n\
        2026-01-01T00:00:02.000000000Z stdout F \n";

    fn shown(mut filter: Filter) -> String {
        let mut out = Vec::new();
        filter.show(LOG, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_of_a_line_are_joined_and_text_is_kept_as_it_is() {
        assert_eq!(shown(Filter::default()), "one\ntwo\n three \n\n");
    }

    #[test]
    fn a_line_has_one_time() {
        let filter = Filter {
            timestamps: true,
            ..Filter::default()
        };
        let wanted = "2026-01-01T00:00:00.000000001Z one\n2026-01-01T00:00:01.000000000Z two\n\
            2026-01-01T00:00:02.000000000Z  three \n2026-01-01T00:00:02.000000000Z \n";
        assert_eq!(shown(filter), wanted);
    }

    #[test]
    fn streams_times_and_bytes_are_limits() {
        let since = Some("2026-01-01T00:00:01Z".parse().unwrap());
        let stream = Some(OutputStream::Stderr);
        let all = Filter::default();
        let cases = [
            (
                Filter {
                    stream,
                    ..all.clone()
                },
                "two\n",
            ),
            (
                Filter {
                    since,
                    ..all.clone()
                },
                "two\n three \n\n",
            ),
            (
                Filter {
                    left_bytes: Some(6),
                    ..all.clone()
                },
                "one\ntw",
            ),
            (
                Filter {
                    left_bytes: Some(100),
                    ..all
                },
                "one\ntwo\n three \n\n",
            ),
        ];
        for (filter, wanted) in cases {
            assert_eq!(shown(filter), wanted);
        }
    }

    #[test]
    fn what_was_shown_counts_over_several_reads() {
        let mut filter = Filter {
            left_bytes: Some(5),
            ..Filter::default()
        };
        let mut out = Vec::new();
        for record in LOG.split_inclusive(|byte| *byte == b'\n') {
            filter.show(record, &mut out);
        }
        assert_eq!(out, b"one\nt");
        assert!(filter.is_full());
    }
}
