//! The frame codec of WebSocket: bytes to events and back, without input or output.
//!
//! Messages are handed on in pieces as they arrive, so a message may be of any size; only control frames (at most 125 bytes) are held
//! back until they are whole.

use bytes::{Buf, Bytes, BytesMut};

use super::Role;
use crate::StreamError;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const MAX_CONTROL_BYTES: u64 = 125;

/// Closing codes. Source: RFC 6455, section 7.4.1.
pub(crate) const NORMAL_CLOSURE: u16 = 1000;
pub(crate) const PROTOCOL_ERROR: u16 = 1002;

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message begins.
    Start,
    /// A piece of it.
    Piece(Bytes),
    /// It is complete.
    End,
    /// The peer wants a pong with these bytes.
    Ping(Bytes),
    /// An answer to a ping.
    Pong,
    /// The peer closes, with this code where it gave one.
    Close(Option<u16>),
}

#[derive(Debug)]
struct Frame {
    opcode: u8,
    is_final: bool,
    mask: Option<[u8; 4]>,
    /// Position within the mask.
    position: usize,
    remaining: u64,
}

/// Turns bytes into events.
#[derive(Debug)]
pub(crate) struct Decoder {
    role: Role,
    frame: Option<Frame>,
    in_message: bool,
    /// Emit `Start` before the next piece.
    starting: bool,
}

impl Decoder {
    /// A decoder for the bytes that this role receives.
    pub fn new(role: Role) -> Self {
        Self { role, frame: None, in_message: false, starting: false }
    }

    /// Takes the next event out of the buffer; `None` when more bytes are needed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, StreamError> {
        loop {
            let frame = match &mut self.frame {
                Some(frame) => frame,
                None => match parse_header(buffer, self.role)? {
                    None => return Ok(None),
                    Some(frame) => {
                        match frame.opcode {
                            TEXT | BINARY if self.in_message => {
                                return Err(StreamError::Protocol("a new WebSocket message inside another"));
                            }
                            CONTINUATION if !self.in_message => {
                                return Err(StreamError::Protocol("a WebSocket continuation without a beginning"));
                            }
                            TEXT | BINARY => {
                                self.in_message = true;
                                self.starting = true;
                            }
                            _ => {}
                        }
                        self.frame.insert(frame)
                    }
                },
            };
            if self.starting {
                self.starting = false;
                return Ok(Some(Event::Start));
            }
            if frame.opcode >= CLOSE {
                if (buffer.len() as u64) < frame.remaining {
                    return Ok(None);
                }
                let payload = take(buffer, frame);
                let opcode = frame.opcode;
                self.frame = None;
                return Ok(Some(match opcode {
                    PING => Event::Ping(payload),
                    PONG => Event::Pong,
                    _ => Event::Close(closing_code(&payload)?),
                }));
            }
            if frame.remaining > 0 {
                if buffer.is_empty() {
                    return Ok(None);
                }
                return Ok(Some(Event::Piece(take(buffer, frame))));
            }
            let is_final = frame.is_final;
            self.frame = None;
            if is_final {
                self.in_message = false;
                return Ok(Some(Event::End));
            }
        }
    }
}

fn closing_code(payload: &[u8]) -> Result<Option<u16>, StreamError> {
    match payload {
        [] => Ok(None),
        [high, low, ..] => Ok(Some(u16::from_be_bytes([*high, *low]))),
        [_] => Err(StreamError::Protocol("a WebSocket close with half a code")),
    }
}

/// Takes what is there of a frame's payload, unmasked.
fn take(buffer: &mut BytesMut, frame: &mut Frame) -> Bytes {
    let length = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(buffer.len());
    let mut piece = buffer.split_to(length);
    frame.remaining -= length as u64;
    if let Some(mask) = frame.mask {
        apply_mask(&mut piece, mask, frame.position);
        frame.position = (frame.position + length) % 4;
    }
    piece.freeze()
}

fn apply_mask(bytes: &mut [u8], mask: [u8; 4], position: usize) {
    let mut mask = mask;
    mask.rotate_left(position % 4);
    // Whole words first, which the compiler turns into vector instructions.
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

fn parse_header(buffer: &mut BytesMut, role: Role) -> Result<Option<Frame>, StreamError> {
    let (Some(&first), Some(&second)) = (buffer.first(), buffer.get(1)) else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(StreamError::Protocol("reserved WebSocket bits are set"));
    }
    let opcode = first & 0x0f;
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(StreamError::Protocol("unknown WebSocket opcode"));
    }
    let masked = second & MASKED != 0;
    if masked != (role == Role::Server) {
        return Err(StreamError::Protocol("WebSocket frames of clients must be masked, those of servers must not"));
    }
    let length_bytes = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let header_length = 2 + length_bytes + if masked { 4 } else { 0 };
    let Some(header) = buffer.get(2..header_length) else { return Ok(None) };
    let (length, mask) = header.split_at(length_bytes);
    let remaining = if length_bytes == 0 {
        u64::from(second & 0x7f)
    } else {
        length.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    if remaining >> 63 != 0 {
        return Err(StreamError::Protocol("a WebSocket frame is too long"));
    }
    let is_final = first & FINAL != 0;
    if opcode >= CLOSE && (!is_final || remaining > MAX_CONTROL_BYTES) {
        return Err(StreamError::Protocol("a WebSocket control frame is fragmented or too long"));
    }
    let mask = <[u8; 4]>::try_from(mask).ok();
    buffer.advance(header_length);
    Ok(Some(Frame { opcode, is_final, mask, position: 0, remaining }))
}

/// Turns messages into bytes.
#[derive(Debug)]
pub(crate) struct Encoder {
    role: Role,
    /// State of the mask generator. Masks protect proxies from scripts in browsers, not secrets; any unforeseen number does.
    random: u64,
}

impl Encoder {
    pub fn new(role: Role) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self { role, random: RandomState::new().hash_one(0) | 1 }
    }

    /// Appends a data message made of these parts.
    pub fn message(&mut self, text: bool, parts: &[&[u8]], out: &mut BytesMut) {
        self.frame(if text { TEXT } else { BINARY }, parts, out);
    }

    /// Appends a pong.
    pub fn pong(&mut self, payload: &[u8], out: &mut BytesMut) {
        self.frame(PONG, &[payload], out);
    }

    /// Appends a close.
    pub fn close(&mut self, code: u16, out: &mut BytesMut) {
        self.frame(CLOSE, &[&code.to_be_bytes()], out);
    }

    fn frame(&mut self, opcode: u8, parts: &[&[u8]], out: &mut BytesMut) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mask_bit = if self.role == Role::Client { MASKED } else { 0 };
        out.reserve(length + 14);
        out.extend_from_slice(&[FINAL | opcode]);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short), _) if short < 126 => out.extend_from_slice(&[mask_bit | short]),
            (_, Ok(medium)) => {
                out.extend_from_slice(&[mask_bit | 126]);
                out.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                out.extend_from_slice(&[mask_bit | 127]);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let mask = (self.role == Role::Client).then(|| self.next_mask());
        if let Some(mask) = mask {
            out.extend_from_slice(&mask);
        }
        let mut position = 0;
        for part in parts {
            let start = out.len();
            out.extend_from_slice(part);
            if let (Some(mask), Some(written)) = (mask, out.get_mut(start..)) {
                apply_mask(written, mask, position);
            }
            position += part.len();
        }
    }

    /// xorshift64.
    fn next_mask(&mut self) -> [u8; 4] {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [first, second, third, fourth, ..] = self.random.to_le_bytes();
        [first, second, third, fourth]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All messages and control events, with pieces joined.
    fn decode(role: Role, chunks: &[&[u8]]) -> Result<Vec<(char, Vec<u8>)>, StreamError> {
        let mut decoder = Decoder::new(role);
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(event) = decoder.next(&mut buffer)? {
                match event {
                    Event::Start => found.push(('m', Vec::new())),
                    Event::Piece(piece) => {
                        let message = found.iter_mut().rev().find(|(kind, _)| *kind == 'm').unwrap();
                        message.1.extend_from_slice(&piece);
                    }
                    Event::End => found.push(('.', Vec::new())),
                    Event::Ping(bytes) => found.push(('p', bytes.to_vec())),
                    Event::Pong => found.push(('q', Vec::new())),
                    Event::Close(code) => found.push(('c', code.unwrap_or(0).to_be_bytes().to_vec())),
                }
            }
        }
        Ok(found)
    }

    #[test]
    fn the_examples_of_the_specification_are_read() {
        // RFC 6455, section 5.7.
        let hello = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(decode(Role::Client, &[&hello]).unwrap(), [('m', b"Hello".to_vec()), ('.', vec![])]);
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decode(Role::Server, &[&masked]).unwrap(), [('m', b"Hello".to_vec()), ('.', vec![])]);
        let fragments = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x89, 0x01, 0x21, 0x80, 0x02, 0x6c, 0x6f];
        assert_eq!(decode(Role::Client, &[&fragments]).unwrap(), [('m', b"Hello".to_vec()), ('p', b"!".to_vec()), ('.', vec![])]);
    }

    #[test]
    fn violations_are_refused() {
        let refused = |bytes: &[u8]| decode(Role::Client, &[bytes]).is_err();
        assert!(refused(&[0xc1, 0x00]), "reserved bit");
        assert!(refused(&[0x83, 0x00]), "unknown opcode");
        assert!(refused(&[0x80, 0x00]), "continuation of nothing");
        assert!(refused(&[0x01, 0x00, 0x81, 0x00]), "message in a message");
        assert!(refused(&[0x09, 0x00]), "fragmented ping");
        assert!(refused(&[0x89, 126, 0, 126]), "long ping");
        assert!(refused(&[0x81, 0x80, 0, 0, 0, 0]), "masked by a server");
        assert!(refused(&[0x88, 0x01, 0x03]), "half a closing code");
        assert!(refused(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), "endless frame");
        assert!(decode(Role::Server, &[&[0x81, 0x00]]).is_err(), "unmasked by a client");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), server: bool) {
            let _ = decode(if server { Role::Server } else { Role::Client }, &[&bytes]);
        }

        #[test]
        fn messages_survive_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..8),
            cut in 1usize..50,
            long in 0usize..70_000,
            server: bool,
        ) {
            let (sender, receiver) = if server { (Role::Server, Role::Client) } else { (Role::Client, Role::Server) };
            let mut encoder = Encoder::new(sender);
            let mut bytes = BytesMut::new();
            let mut expected = Vec::new();
            let long = vec![7; long];
            for message in messages.iter().chain([&long]) {
                let (front, back) = message.split_at(message.len() / 3);
                encoder.message(false, &[front, back], &mut bytes);
                expected.push(('m', message.clone()));
                expected.push(('.', vec![]));
            }
            encoder.pong(b"x", &mut bytes);
            encoder.close(1000, &mut bytes);
            expected.push(('q', vec![]));
            expected.push(('c', 1000u16.to_be_bytes().to_vec()));
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            prop_assert_eq!(decode(receiver, &chunks).unwrap(), expected);
        }
    }
}
