//! JSON text as a source of tokens, and as what is written.
//!
//! Source: [RFC 8259](https://www.rfc-editor.org/rfc/rfc8259).

use std::borrow::Cow;

use serde::de::Error as _;
use serde_json::{Error, Result};

use super::reader::{Token, Tokens, skip};
use super::tree::of_number;
use super::writer::Sink;

/// How deep arrays and objects may be in each other, as in `serde_json`.
const MAX_DEPTH: usize = 128;

/// A document and how far it is read.
pub(super) struct Text<'de> {
    text: &'de str,
    at: usize,
    depth: usize,
    /// Whether nothing of the innermost array or object was read yet, so that no comma is due.
    opened: bool,
    /// Whether `metadata.managedFields` of the document is passed over. Who reads so keeps many objects: their lists are made to measure.
    unmanaged: bool,
    /// Whether the document's field that is being read is `metadata`.
    in_metadata: bool,
}

impl<'de> Text<'de> {
    /// Begins to read `bytes`.
    pub fn new(bytes: &'de [u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(Error::custom)?;
        Ok(Self { text, at: 0, depth: 0, opened: false, unmanaged: false, in_metadata: false })
    }

    /// Begins to read `bytes` as if they had no `metadata.managedFields`.
    pub fn unmanaged(bytes: &'de [u8]) -> Result<Self> {
        Ok(Self { unmanaged: true, ..Self::new(bytes)? })
    }

    /// Says whether the document is over.
    pub fn finish(mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("the end")),
        }
    }

    #[cold]
    fn wrong(&self, expected: &str) -> Error {
        Error::custom(format_args!("expected {expected} at byte {} of JSON text", self.at))
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Passes over `word` if it is next.
    fn word(&mut self, word: &str) -> Result<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// A text whose opening quote is next.
    fn quoted(&mut self) -> Result<Cow<'de, str>> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut at = start;
        let mut escaped = false;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(0..0x20) | None => return Err(self.wrong("a text that ends")),
                Some(_) => at += 1,
            }
        }
        let whole = &self.text[self.at..=at];
        self.at = at + 1;
        if escaped {
            return serde_json::from_str(whole).map(Cow::Owned);
        }
        Ok(Cow::Borrowed(&whole[1..whole.len() - 1]))
    }

    fn number(&mut self) -> Result<Token<'de>> {
        let rest = &self.text[self.at..];
        let length = rest.bytes().position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).unwrap_or(rest.len());
        let digits = &rest[..length];
        // Nearly every number is small and whole. (Rust's own parser would take a plus sign and leading zeros, which JSON does not.)
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (length == 1 || !digits.starts_with('0'));
        let token = match digits.parse() {
            Ok(value) if plain => Token::Unsigned(value),
            _ => of_number(&serde_json::from_str(digits).map_err(|_| self.wrong("a value"))?),
        };
        self.at += length;
        Ok(token)
    }

    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::custom("JSON text that is nested too deep"));
        }
        self.at += 1;
        self.opened = true;
        Ok(())
    }

    /// Whether the array or object that ends with `end` has more; passes over the comma before it, or over the end.
    fn more(&mut self, end: u8) -> Result<bool> {
        let opened = std::mem::take(&mut self.opened);
        match self.peek() {
            Some(byte) if byte == end => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            Some(b',') if !opened => {
                self.at += 1;
                // A comma must not be the last thing.
                if self.peek() == Some(end) { Err(self.wrong("a value")) } else { Ok(true) }
            }
            Some(_) if opened => Ok(true),
            _ => Err(self.wrong("a comma or the end")),
        }
    }
}

impl<'de> Tokens<'de> for Text<'de> {
    fn value(&mut self) -> Result<Token<'de>> {
        match self.peek() {
            Some(b'"') => self.quoted().map(Token::Text),
            Some(b'{') => self.enter().map(|()| Token::Object),
            Some(b'[') => self.enter().map(|()| Token::Array),
            Some(b't') => self.word("true").map(|()| Token::Bool(true)),
            Some(b'f') => self.word("false").map(|()| Token::Bool(false)),
            Some(b'n') => self.word("null").map(|()| Token::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.wrong("a value")),
        }
    }

    fn null(&mut self) -> Result<bool> {
        let null = self.peek() == Some(b'n');
        if null {
            self.word("null")?;
        }
        Ok(null)
    }

    fn element(&mut self) -> Result<bool> {
        self.more(b']')
    }

    fn elements(&self) -> Option<usize> {
        self.unmanaged.then(|| count_elements(self.text.as_bytes().get(self.at..).unwrap_or_default()))
    }

    fn key(&mut self) -> Result<Option<Cow<'de, str>>> {
        loop {
            let key = self.any_key()?;
            if self.unmanaged {
                match (self.depth, key.as_deref()) {
                    (1, Some(name)) => self.in_metadata = name == "metadata",
                    (2, Some("managedFields")) if self.in_metadata => {
                        skip(self)?;
                        continue;
                    }
                    _ => {}
                }
            }
            return Ok(key);
        }
    }
}

impl<'de> Text<'de> {
    fn any_key(&mut self) -> Result<Option<Cow<'de, str>>> {
        if !self.more(b'}')? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return Err(self.wrong("a key"));
        }
        let key = self.quoted()?;
        if self.peek() != Some(b':') {
            return Err(self.wrong("a colon"));
        }
        self.at += 1;
        Ok(Some(key))
    }
}

/// How many elements the array has whose opening bracket is just before `text`. Of what is no JSON it says something.
fn count_elements(text: &[u8]) -> usize {
    let (mut commas, mut depth, mut empty) = (0, 0usize, true);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => continue,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 0 => break,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => commas += 1,
            _ => {}
        }
        empty = false;
    }
    if empty { 0 } else { commas + 1 }
}

/// Text that is written.
#[derive(Default)]
pub(super) struct Written {
    text: Vec<u8>,
    /// Whether a comma is due before the next element or key.
    comma: bool,
}

impl Written {
    /// The text.
    pub fn finish(self) -> Vec<u8> {
        self.text
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.comma, true) {
            self.text.push(b',');
        }
    }
}

impl Sink for Written {
    fn scalar(&mut self, token: Token<'_>) -> Result<()> {
        self.separate();
        match token {
            Token::Bool(true) => self.text.extend_from_slice(b"true"),
            Token::Bool(false) => self.text.extend_from_slice(b"false"),
            Token::Unsigned(value) => serde_json::to_writer(&mut self.text, &value)?,
            Token::Signed(value) => serde_json::to_writer(&mut self.text, &value)?,
            Token::Float(value) => serde_json::to_writer(&mut self.text, &value)?,
            Token::Text(text) => serde_json::to_writer(&mut self.text, &*text)?,
            Token::Null | Token::Array | Token::Object => self.text.extend_from_slice(b"null"),
        }
        Ok(())
    }

    fn begin(&mut self, object: bool) {
        self.separate();
        self.text.push(if object { b'{' } else { b'[' });
        self.comma = false;
    }

    fn key(&mut self, key: &str) -> Result<()> {
        self.separate();
        serde_json::to_writer(&mut self.text, key)?;
        self.text.push(b':');
        self.comma = false;
        Ok(())
    }

    fn end(&mut self, object: bool) {
        self.text.push(if object { b'}' } else { b']' });
        self.comma = true;
    }
}
