//! What a shim and an agent say to each other, and how both get a terminal ([`terminals`]). The program itself is in `main.rs`.
//!
//! A message is a list of named fields, framed by its length. Names may repeat, unknown names are ignored, and a missing
//! one has a default: so an agent of a later release talks to the shims of an earlier one, and the shim needs no parser
//! worth the name. One connection carries one operation; file descriptors travel beside the bytes.
//!
//! | verb | sent by the agent | answered by |
//! |---|---|---|
//! | `hello` | – | `hello` with `version`, `pid` |
//! | `watch` | – | one `container` for each, then `watching`, then an `exited` for each end |
//! | `start` | `id`, `argument`…, `variable`…, `log`, `record`, flags | `started` with `pid` and `result`, or `failed` |
//! | `exec` | `argument`…, `variable`…, `bound` where it is to end with the connection; three descriptors | `started` or `failed`, later `exited` |
//! | `attach` | `id`, flags; a descriptor per wanted stream | `attached`, later `exited` |
//! | `resize` | on an attach connection: `columns`, `rows` | – |
//! | `kill` | `id`, `signal`; on an exec connection only `signal` | `killed` or `gone` |
//! | `reopen`, `forget` | `id` | `done` or `gone` |
//! | `end` | – | the shim ends |

pub mod terminals;

use std::fmt;

/// Version of the protocol that this crate speaks. Raised when a verb changes its meaning, not when fields are added.
pub const PROTOCOL_VERSION: i64 = 1;

/// Largest message in bytes, against a peer that sends nonsense.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// File descriptor on which a helper finds its container's standard input; output and error follow.
pub const HELPER_STDIN: i32 = 3;

/// File descriptor on which a helper writes its one result message.
pub const HELPER_RESULT: i32 = 6;

/// Name of the shim's socket in its sandbox's directory.
pub const SOCKET_NAME: &str = "shim.sock";

/// One message: a verb and its fields, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    fields: Vec<(String, Vec<u8>)>,
}

/// The bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedMessage;

impl fmt::Display for MalformedMessage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the peer sent bytes that are not a message of the shim protocol")
    }
}

impl std::error::Error for MalformedMessage {}

impl Message {
    /// A message with this verb.
    #[must_use]
    pub fn new(verb: &str) -> Self {
        Self::default().with("verb", verb)
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.push(name, value);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn with_number(self, name: &str, value: i64) -> Self {
        self.with(name, value.to_string())
    }

    /// Adds a field. Names longer than 255 bytes are cut.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name: String = name.chars().take(255).collect();
        self.fields.push((name, value.as_ref().to_vec()));
    }

    /// What is asked or answered.
    #[must_use]
    pub fn verb(&self) -> &str {
        self.text("verb").unwrap_or("")
    }

    /// The first field of that name.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_slice())
    }

    /// The first field of that name, where it is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The first field of that name, where it is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|value| value.parse().ok())
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.number(name).is_some_and(|value| value != 0)
    }

    /// All fields of that name that are text, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.fields.iter().filter(move |(field, _)| field == name).filter_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// The message as it goes over the wire, its length first.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        for (name, value) in &self.fields {
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes().get(..usize::from(u8::MAX).min(name.len())).unwrap_or_default());
            out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(value);
        }
        let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
        if let Some(head) = out.get_mut(..4) {
            head.copy_from_slice(&length.to_le_bytes());
        }
        out
    }

    /// Reads the body of a message, without its length.
    ///
    /// # Errors
    /// [`MalformedMessage`] where the bytes end in the middle of a field.
    pub fn decode(mut body: &[u8]) -> Result<Self, MalformedMessage> {
        fn take<'a>(body: &mut &'a [u8], length: usize) -> Result<&'a [u8], MalformedMessage> {
            let (taken, rest) = body.split_at_checked(length).ok_or(MalformedMessage)?;
            *body = rest;
            Ok(taken)
        }
        let mut fields = Vec::new();
        while let Some(length) = body.first() {
            let length = usize::from(*length);
            take(&mut body, 1)?;
            let name = String::from_utf8(take(&mut body, length)?.to_vec()).map_err(|_| MalformedMessage)?;
            let length: [u8; 4] = take(&mut body, 4)?.try_into().map_err(|_| MalformedMessage)?;
            let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| MalformedMessage)?;
            fields.push((name, take(&mut body, length)?.to_vec()));
        }
        Ok(Self { fields })
    }

    /// Takes the first whole message out of what was received so far.
    ///
    /// # Errors
    /// [`MalformedMessage`] where it is too long or cannot be read; the connection should be closed.
    pub fn take_from(received: &mut Vec<u8>) -> Result<Option<Self>, MalformedMessage> {
        let Some(head) = received.get(..4) else { return Ok(None) };
        let length: [u8; 4] = head.try_into().map_err(|_| MalformedMessage)?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| MalformedMessage)?;
        if length > MAX_MESSAGE_BYTES {
            return Err(MalformedMessage);
        }
        let Some(body) = received.get(4..4 + length) else { return Ok(None) };
        let message = Self::decode(body)?;
        received.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let message = Message::new("start").with("argument", "a").with("argument", "b c").with_number("pid", -5).with("empty", "");
        let mut wire = message.encode();
        wire.extend_from_slice(&Message::new("next").encode());
        let read = Message::take_from(&mut wire).unwrap().unwrap();
        assert_eq!(read, message);
        assert_eq!(read.all("argument").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(read.number("pid"), Some(-5));
        assert_eq!(Message::take_from(&mut wire).unwrap().unwrap().verb(), "next");
        assert_eq!(Message::take_from(&mut wire), Ok(None));
    }

    #[test]
    fn a_part_of_a_message_waits_for_the_rest() {
        let wire = Message::new("watch").encode();
        for cut in 0..wire.len() {
            assert_eq!(Message::take_from(&mut wire[..cut].to_vec()), Ok(None));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Message::take_from(&mut vec![0xff; 16]), Err(MalformedMessage));
        assert_eq!(Message::decode(&[200, 1, 2]), Err(MalformedMessage));
        assert_eq!(Message::decode(&[1, b'a', 9, 0, 0, 0, 1]), Err(MalformedMessage));
    }
}
