//! A watch as raw lines.

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::ClientError;

/// The lines of a watch answer, one event each, as they arrive.
#[derive(Debug)]
pub struct WatchLines {
    path: String,
    body: Incoming,
    lines: LineBuffer,
}

impl WatchLines {
    pub(super) fn new(path: &str, body: Incoming) -> Self {
        Self {
            path: path.to_owned(),
            body,
            lines: LineBuffer::default(),
        }
    }

    /// The next line without its newline; `None` when the server ended the watch.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(line) = self.lines.pop() {
                return Ok(Some(line));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                    }
                }
                Some(Err(source)) => {
                    return Err(ClientError::Broken {
                        method: Method::GET,
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }

    /// Another line that is here already, without waiting.
    pub fn buffered(&mut self) -> Option<Bytes> {
        self.lines.pop()
    }
}

/// Cuts a byte stream at newlines, looking at each byte once.
#[derive(Debug, Default)]
struct LineBuffer {
    bytes: BytesMut,
    searched: usize,
}

impl LineBuffer {
    fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    fn pop(&mut self) -> Option<Bytes> {
        loop {
            let Some(offset) = self.bytes[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            else {
                self.searched = self.bytes.len();
                return None;
            };
            let line = self.bytes.split_to(self.searched + offset + 1).freeze();
            self.searched = 0;
            let line = line.slice(..line.len() - 1);
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_frames_end() {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for chunk in ["{\"a\"", ":1}\n{\"b\":", "2}\n\n{\"c\":3}", "\n"] {
            buffer.push(chunk.as_bytes());
            while let Some(line) = buffer.pop() {
                lines.push(String::from_utf8(line.to_vec()).expect("text"));
            }
        }
        assert_eq!(lines, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
    }
}
