//! Frames: eight bytes of head, then what the type says. Pure.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const HEAD_BYTES: usize = 8;
/// The longest frame that is read. Clients send some 32 KiB at once.
const MAX_BYTES: usize = 4 << 20;
const CONTROL: u16 = 0x8000;
const VERSION: u16 = 3;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream is reset: the numbers of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// The stream makes no sense.
    ProtocolError = 1,
    /// There are too many streams.
    Refused = 3,
    /// It is of no use any more.
    Cancel = 5,
}

/// What a client may say, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream; its headers are compressed.
    Open {
        /// The stream.
        stream: u32,
        /// Whether the client sends nothing on it.
        fin: bool,
        /// The header block.
        block: Bytes,
    },
    /// More headers. They must be read, or the ones after them cannot be.
    Headers {
        /// The stream.
        stream: u32,
        /// Whether the client sends no more.
        fin: bool,
        /// The header block.
        block: Bytes,
    },
    /// Some of what a stream carries.
    Data {
        /// The stream.
        stream: u32,
        /// Whether it is the last.
        fin: bool,
        /// The bytes.
        payload: Bytes,
    },
    /// The client gives a stream up.
    Reset {
        /// The stream.
        stream: u32,
    },
    /// To be sent back.
    Ping {
        /// Its number.
        id: u32,
    },
    /// The client opens no more streams.
    GoAway,
    /// Settings, windows, and whatever else there may be: of no consequence.
    Other,
}

/// Bytes that are no SPDY/3.1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version, or another protocol.
    #[error("a control frame of version {0}: wanted is SPDY/3.1")]
    Version(u16),
    /// Longer than any frame is.
    #[error("a frame of {0} bytes: the longest that is read has {MAX_BYTES}")]
    TooLong(usize),
    /// Shorter than its type must be.
    #[error("a frame of type {0} is too short")]
    TooShort(u16),
}

/// Cuts a byte stream into frames, however it arrives.
#[derive(Debug, Default)]
pub struct Decoder(BytesMut);

impl Decoder {
    /// Where bytes are appended as they come.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]: the connection is of no use any more.
    pub fn pop(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(head) = self.0.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, flags, x, y, z] = *head;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if length > MAX_BYTES {
            return Err(FrameError::TooLong(length));
        }
        if self.0.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.0.advance(HEAD_BYTES);
        let payload = self.0.split_to(length).freeze();
        let fin = flags & FIN != 0;
        let first = u16::from_be_bytes([a, b]);
        if first & CONTROL == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Some(Frame::Data {
                stream,
                fin,
                payload,
            }));
        }
        let version = first & !CONTROL;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        control(u16::from_be_bytes([c, d]), fin, payload).map(Some)
    }
}

fn control(kind: u16, fin: bool, mut payload: Bytes) -> Result<Frame, FrameError> {
    let too_short = |_| FrameError::TooShort(kind);
    let number = |payload: &mut Bytes| payload.try_get_u32().map_err(too_short);
    Ok(match kind {
        SYN_STREAM => {
            let stream = number(&mut payload)? & i32::MAX.cast_unsigned();
            // The stream it belongs to, a priority, a slot.
            number(&mut payload)?;
            payload.try_get_u16().map_err(too_short)?;
            Frame::Open {
                stream,
                fin,
                block: payload,
            }
        }
        SYN_REPLY | HEADERS => Frame::Headers {
            stream: number(&mut payload)? & i32::MAX.cast_unsigned(),
            fin,
            block: payload,
        },
        RST_STREAM => Frame::Reset {
            stream: number(&mut payload)? & i32::MAX.cast_unsigned(),
        },
        PING => Frame::Ping {
            id: number(&mut payload)?,
        },
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    })
}

fn head(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    put_length(flags, length, out);
}

fn put_length(flags: u8, length: usize, out: &mut BytesMut) {
    let length = u32::try_from(length).expect("frames are kilobytes");
    out.put_u32(u32::from(flags) << 24 | length);
}

/// SYN_REPLY: a stream is accepted.
#[must_use]
pub fn reply(stream: u32, block: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + 4 + block.len());
    head(SYN_REPLY, 0, 4 + block.len(), &mut out);
    out.put_u32(stream);
    out.put_slice(block);
    out.freeze()
}

/// Data, the last of its stream or not.
#[must_use]
pub fn data(stream: u32, fin: bool, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    out.put_u32(stream);
    put_length(if fin { FIN } else { 0 }, payload.len(), &mut out);
    out.put_slice(payload);
    out.freeze()
}

/// RST_STREAM.
#[must_use]
pub fn reset(stream: u32, reason: Reset) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + 8);
    head(RST_STREAM, 0, 8, &mut out);
    out.put_u32(stream);
    out.put_u32(reason as u32);
    out.freeze()
}

/// PING.
#[must_use]
pub fn ping(id: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + 4);
    head(PING, 0, 4, &mut out);
    out.put_u32(id);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for byte in bytes {
            decoder.buffer().put_u8(*byte);
            while let Some(frame) = decoder.pop()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    /// By hand from the protocol's pictures.
    #[test]
    fn frames_are_read_however_they_arrive() {
        let bytes = [
            b"\x80\x03\x00\x01\x01\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00hb"
                .as_slice(),
            b"\x00\x00\x00\x03\x01\x00\x00\x05hello",
            b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x09",
            b"\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x03\x00\x00\x00\x05",
            b"\x80\x03\x00\x09\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x10\x00",
            b"\x80\x03\x00\x07\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00",
        ];
        let wanted = [
            Frame::Open {
                stream: 1,
                fin: true,
                block: Bytes::from_static(b"hb"),
            },
            Frame::Data {
                stream: 3,
                fin: true,
                payload: Bytes::from_static(b"hello"),
            },
            Frame::Ping { id: 9 },
            Frame::Reset { stream: 3 },
            Frame::Other,
            Frame::GoAway,
        ];
        assert_eq!(frames(&bytes.concat()).unwrap(), wanted);
    }

    #[test]
    fn frames_are_written_as_the_protocol_draws_them() {
        assert_eq!(
            &reply(1, b"hb")[..],
            b"\x80\x03\x00\x02\x00\x00\x00\x06\x00\x00\x00\x01hb"
        );
        assert_eq!(
            &data(3, false, b"hi")[..],
            b"\x00\x00\x00\x03\x00\x00\x00\x02hi"
        );
        assert_eq!(&data(3, true, b"")[..], b"\x00\x00\x00\x03\x01\x00\x00\x00");
        assert_eq!(
            &reset(5, Reset::Cancel)[..],
            b"\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x05"
        );
        assert_eq!(
            &ping(7)[..],
            b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x07"
        );
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        let cases = [
            (
                b"\x80\x02\x00\x01\x00\x00\x00\x00".as_slice(),
                FrameError::Version(2),
            ),
            (
                b"\x80\x03\x00\x01\x00\x00\x00\x01a",
                FrameError::TooShort(1),
            ),
            (b"\x80\x03\x00\x06\x00\x00\x00\x00", FrameError::TooShort(6)),
            (
                b"\x00\x00\x00\x01\x00\xff\xff\xff",
                FrameError::TooLong(0xff_ffff),
            ),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(frames(bytes), Err(wanted));
        }
    }
}
