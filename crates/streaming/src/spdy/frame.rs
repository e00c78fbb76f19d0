//! The frame codec of SPDY/3.1: bytes to events and back, without input or output.
//!
//! Data is handed on in pieces as it arrives; control frames are held back until they are whole, up to a limit.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{HeaderDecoder, HeaderEncoder, Headers};
use crate::StreamError;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FLAG_FINAL: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
const CONTROL: u32 = 1 << 31;
/// Larger control frames are refused, in bytes.
const MAX_CONTROL_BYTES: usize = 64 * 1024;
const MAX_DATA_BYTES: usize = (1 << 24) - 1;

/// Reasons to reset a stream. Source: draft-mbelshe-httpbis-spdy-00, section 2.6.3.
pub(crate) mod reset_status {
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const REFUSED_STREAM: u32 = 3;
    pub const CANCEL: u32 = 5;
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The peer opens a stream.
    Open { stream: u32, headers: Headers, finished: bool, unidirectional: bool },
    /// The peer accepts a stream of ours.
    Reply { stream: u32, finished: bool },
    /// More headers of a stream, which nobody here uses.
    MoreHeaders { stream: u32, finished: bool },
    /// Bytes of a stream.
    Data { stream: u32, bytes: Bytes },
    /// The peer has sent all bytes of a stream.
    Finished { stream: u32 },
    /// The peer gives a stream up.
    Reset { stream: u32 },
    /// The peer wants this number back.
    Ping(u32),
    /// The peer opens and accepts no more streams.
    GoAway,
}

#[derive(Debug)]
struct DataFrame {
    stream: u32,
    remaining: usize,
    is_final: bool,
}

/// Turns bytes into events.
#[derive(Debug)]
pub(crate) struct Decoder {
    headers: HeaderDecoder,
    data: Option<DataFrame>,
}

impl Decoder {
    pub fn new() -> Self {
        Self { headers: HeaderDecoder::new(), data: None }
    }

    /// Takes the next event out of the buffer; `None` when more bytes are needed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, StreamError> {
        loop {
            if let Some(frame) = &mut self.data {
                let stream = frame.stream;
                if frame.remaining > 0 {
                    if buffer.is_empty() {
                        return Ok(None);
                    }
                    let bytes = buffer.split_to(frame.remaining.min(buffer.len())).freeze();
                    frame.remaining -= bytes.len();
                    return Ok(Some(Event::Data { stream, bytes }));
                }
                let is_final = frame.is_final;
                self.data = None;
                if is_final {
                    return Ok(Some(Event::Finished { stream }));
                }
                continue;
            }
            let Some(head) = buffer.first_chunk::<8>() else { return Ok(None) };
            let [first, second, third, fourth, flags, length @ ..] = *head;
            let word = u32::from_be_bytes([first, second, third, fourth]);
            let length = length.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
            if word & CONTROL == 0 {
                if word == 0 {
                    return Err(StreamError::Protocol("SPDY data without a stream"));
                }
                buffer.advance(8);
                self.data = Some(DataFrame { stream: word, remaining: length, is_final: flags & FLAG_FINAL != 0 });
                continue;
            }
            if (word >> 16) as u16 & 0x7fff != VERSION {
                return Err(StreamError::Protocol("another version of SPDY than 3"));
            }
            if length > MAX_CONTROL_BYTES {
                return Err(StreamError::Protocol("a SPDY control frame is too long"));
            }
            if buffer.len() < 8 + length {
                return Ok(None);
            }
            buffer.advance(8);
            let payload = buffer.split_to(length).freeze();
            if let Some(event) = self.control(word as u16, flags, payload)? {
                return Ok(Some(event));
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Option<Event>, StreamError> {
        const SHORT: StreamError = StreamError::Protocol("a SPDY control frame is too short");
        let finished = flags & FLAG_FINAL != 0;
        let minimum = match kind {
            SYN_STREAM => 10,
            RST_STREAM | GOAWAY => 8,
            SYN_REPLY | HEADERS | PING => 4,
            // Settings, credentials and window updates have nothing to say here; unknown frames are to be ignored.
            _ => return Ok(None),
        };
        if payload.len() < minimum {
            return Err(SHORT);
        }
        let word = payload.get_u32();
        if kind == PING {
            return Ok(Some(Event::Ping(word)));
        }
        if kind == GOAWAY {
            return Ok(Some(Event::GoAway));
        }
        let stream = word & !CONTROL;
        if stream == 0 {
            return Err(StreamError::Protocol("a SPDY stream has the number zero"));
        }
        Ok(Some(match kind {
            SYN_STREAM => {
                // The stream it belongs to, its priority and credentials.
                payload.advance(6);
                let headers = self.headers.decode(&payload)?;
                Event::Open { stream, headers, finished, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0 }
            }
            SYN_REPLY => {
                self.headers.decode(&payload)?;
                Event::Reply { stream, finished }
            }
            HEADERS => {
                self.headers.decode(&payload)?;
                Event::MoreHeaders { stream, finished }
            }
            _ => Event::Reset { stream },
        }))
    }
}

/// Turns frames into bytes.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    headers: HeaderEncoder,
}

impl Encoder {
    /// Appends a SYN_STREAM.
    pub fn open(&mut self, stream: u32, headers: &[(String, String)], out: &mut BytesMut) {
        self.with_headers(SYN_STREAM, stream, &[0; 6], headers, out);
    }

    /// Appends a SYN_REPLY without headers.
    pub fn reply(&mut self, stream: u32, out: &mut BytesMut) {
        self.with_headers(SYN_REPLY, stream, &[], &[], out);
    }

    fn with_headers(&mut self, kind: u16, stream: u32, between: &[u8], headers: &[(String, String)], out: &mut BytesMut) {
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        payload.put_slice(between);
        self.headers.encode(headers, &mut payload);
        control(kind, &payload, out);
    }

    /// Appends data.
    pub fn data(stream: u32, bytes: &[u8], is_final: bool, out: &mut BytesMut) {
        for piece in bytes.chunks(MAX_DATA_BYTES) {
            out.put_u32(stream);
            out.put_u32(piece.len() as u32);
            out.put_slice(piece);
        }
        if is_final {
            out.put_u32(stream);
            out.put_u32(u32::from(FLAG_FINAL) << 24);
        }
    }

    /// Appends a RST_STREAM.
    pub fn reset(stream: u32, status: u32, out: &mut BytesMut) {
        control(RST_STREAM, &[stream.to_be_bytes(), status.to_be_bytes()].concat(), out);
    }

    /// Appends a PING.
    pub fn ping(number: u32, out: &mut BytesMut) {
        control(PING, &number.to_be_bytes(), out);
    }

    /// Appends a GOAWAY: `last` is the last stream of the peer that was accepted.
    pub fn go_away(last: u32, out: &mut BytesMut) {
        control(GOAWAY, &[last.to_be_bytes(), 0u32.to_be_bytes()].concat(), out);
    }
}

fn control(kind: u16, payload: &[u8], out: &mut BytesMut) {
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All events, with adjacent data joined.
    fn decode(chunks: &[&[u8]]) -> Result<Vec<Event>, StreamError> {
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::new();
        let mut events: Vec<Event> = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(event) = decoder.next(&mut buffer)? {
                match (events.last_mut(), event) {
                    (Some(Event::Data { stream, bytes }), Event::Data { stream: same, bytes: more }) if *stream == same => {
                        *bytes = [bytes.as_ref(), &more].concat().into();
                    }
                    (_, event) => events.push(event),
                }
            }
        }
        Ok(events)
    }

    fn header(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn frames_survive_however_they_are_cut() {
        let mut encoder = Encoder::default();
        let mut bytes = BytesMut::new();
        encoder.open(1, &header("streamtype", "data"), &mut bytes);
        encoder.open(3, &header("streamtype", "error"), &mut bytes);
        encoder.reply(1, &mut bytes);
        Encoder::data(1, b"hello", true, &mut bytes);
        Encoder::ping(7, &mut bytes);
        Encoder::reset(3, reset_status::CANCEL, &mut bytes);
        Encoder::go_away(3, &mut bytes);
        let open = |stream, kind| Event::Open {
            stream,
            headers: Headers(header("streamtype", kind)),
            finished: false,
            unidirectional: false,
        };
        for cut in 1..bytes.len() {
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let expected = [
                open(1, "data"),
                open(3, "error"),
                Event::Reply { stream: 1, finished: false },
                Event::Data { stream: 1, bytes: Bytes::from_static(b"hello") },
                Event::Finished { stream: 1 },
                Event::Ping(7),
                Event::Reset { stream: 3 },
                Event::GoAway,
            ];
            assert_eq!(decode(&chunks).unwrap(), expected);
        }
    }

    #[test]
    fn frames_that_say_nothing_here_are_passed_over() {
        let mut bytes = BytesMut::new();
        for kind in [4, 5, 9, 10, 4000] {
            control(kind, &[1, 2, 3], &mut bytes);
        }
        Encoder::ping(1, &mut bytes);
        assert_eq!(decode(&[&bytes]).unwrap(), [Event::Ping(1)]);
    }

    #[test]
    fn violations_are_refused() {
        let refused = |bytes: &[u8]| decode(&[bytes]).is_err();
        assert!(refused(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]), "version 2");
        assert!(refused(&[0x80, 3, 0, 6, 0, 0, 0, 1, 0]), "short ping");
        assert!(refused(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]), "huge control frame");
        assert!(refused(&[0, 0, 0, 0, 0, 0, 0, 0]), "data of stream zero");
        assert!(refused(&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]), "reset of stream zero");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&[&bytes]);
        }

        #[test]
        fn broken_control_frames_never_panic(kind in 0u16..12, flags: u8, payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = BytesMut::new();
            control(kind, &payload, &mut bytes);
            bytes[4] = flags;
            let _ = decode(&[&bytes]);
        }
    }
}
