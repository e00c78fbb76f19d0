//! JSON text to a tree, in one pass, with duplicate fields noted and the errors worded as Go's `encoding/json` words them.

use std::collections::HashMap;

use serde_json::{Map, Number, Value, map::Entry};

use super::{Duplicate, MAX_DEPTH, MAX_PROBLEMS, ReadError, Tree};

/// A one in each byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Parses one JSON value and nothing behind it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Tree, ReadError> {
    let mut parser = Parser { bytes, position: 0, duplicates: Vec::new(), wanted: None };
    let value = parser.value(0, PathHash::START)?;
    parser.skip_space();
    if parser.position < bytes.len() {
        return Err(parser.unexpected("after top-level value"));
    }
    Ok(Tree { value, duplicates: parser.duplicates })
}

/// Where in a text, which was parsed before, fields stand whose paths are given: the offset of each one's name.
pub(super) fn positions<'p>(bytes: &[u8], paths: impl Iterator<Item = &'p str>) -> HashMap<&'p str, usize> {
    let wanted: HashMap<u64, (&str, usize)> = paths.map(|path| (PathHash::START.then(path).0, (path, 0))).collect();
    let mut parser = Parser { bytes, position: 0, duplicates: Vec::new(), wanted: Some(wanted) };
    // It was read without an error before.
    let _ = parser.value(0, PathHash::START);
    parser.wanted.unwrap_or_default().into_values().collect()
}

/// The FNV-1a hash of a path, which grows with it: nothing is kept of the paths of a large text, whatever their length.
#[derive(Clone, Copy)]
struct PathHash(u64);

impl PathHash {
    const START: Self = Self(0xcbf2_9ce4_8422_2325);

    fn then(self, text: &str) -> Self {
        Self(text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)))
    }
    fn field(self, name: &str) -> Self {
        if self.0 == Self::START.0 { self.then(name) } else { self.then(".").then(name) }
    }
}

struct Parser<'a, 'p> {
    bytes: &'a [u8],
    position: usize,
    /// Fields that came twice, their paths relative to the value being read; each container puts its own part in front.
    duplicates: Vec<Duplicate>,
    /// Paths whose offsets are looked for, by hash. None where nobody asks, and no path is hashed then.
    wanted: Option<HashMap<u64, (&'p str, usize)>>,
}

impl Parser<'_, '_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.position += 1;
        }
    }

    /// The error for the character at hand, or for the end of the text.
    fn unexpected(&self, place: &str) -> ReadError {
        ReadError::Malformed(match self.peek() {
            None => "unexpected end of JSON input".to_owned(),
            Some(byte) => {
                let character = match byte {
                    b'\'' => r"'\''".to_owned(),
                    b'"' => "'\"'".to_owned(),
                    b'\\' => r"'\\'".to_owned(),
                    b'\n' => r"'\n'".to_owned(),
                    b'\r' => r"'\r'".to_owned(),
                    b'\t' => r"'\t'".to_owned(),
                    0x20..0x7f => format!("'{}'", char::from(byte)),
                    0..0x80 => format!("'\\x{byte:02x}'"),
                    // Go shows a single byte as the character of that number.
                    other => format!("'{}'", char::from(other)),
                };
                format!("invalid character {character} {place}")
            }
        })
    }

    fn value(&mut self, depth: usize, path: PathHash) -> Result<Value, ReadError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') if depth < MAX_DEPTH => self.object(depth, path),
            Some(b'[') if depth < MAX_DEPTH => self.array(depth, path),
            Some(b'{' | b'[') => Err(ReadError::Malformed("exceeded max depth".to_owned())),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize, path: PathHash) -> Result<Value, ReadError> {
        self.position += 1;
        let mut map = Map::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.position += 1;
            return Ok(Value::Object(map));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let start = self.position;
            let key = self.string()?;
            let below = self.note(path, &key, start);
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.position += 1;
            let known = self.duplicates.len();
            let value = self.value(depth + 1, below)?;
            self.put_in_front(known, &key);
            match map.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(mut entry) => {
                    if self.duplicates.len() < MAX_PROBLEMS {
                        self.duplicates.push(Duplicate { path: entry.key().clone(), at: start });
                    }
                    entry.insert(value);
                }
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => {
                    self.position += 1;
                    return Ok(Value::Object(map));
                }
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize, path: PathHash) -> Result<Value, ReadError> {
        self.position += 1;
        let mut list = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.position += 1;
            return Ok(Value::Array(list));
        }
        loop {
            let known = self.duplicates.len();
            let below = if self.wanted.is_some() { path.then(&format!("[{}]", list.len())) } else { path };
            let value = self.value(depth + 1, below)?;
            if self.duplicates.len() > known {
                self.put_in_front(known, &format!("[{}]", list.len()));
            }
            list.push(value);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b']') => {
                    self.position += 1;
                    return Ok(Value::Array(list));
                }
                _ => return Err(self.unexpected("after array element")),
            }
        }
    }

    fn put_in_front(&mut self, known: usize, part: &str) {
        self.duplicates.iter_mut().skip(known).for_each(|duplicate| duplicate.put_in_front(part));
    }

    /// Takes down where a field stands that is looked for, and gives the hash of its path.
    fn note(&mut self, path: PathHash, key: &str, start: usize) -> PathHash {
        let Some(wanted) = &mut self.wanted else { return path };
        let path = path.field(key);
        if let Some((_, at)) = wanted.get_mut(&path.0).filter(|(_, at)| *at == 0) {
            *at = start;
        }
        path
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, ReadError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", char::from(expected))));
            }
            self.position += 1;
        }
        Ok(value)
    }

    fn digits(&mut self, place: &str) -> Result<(), ReadError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.unexpected(place));
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.position += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, ReadError> {
        let start = self.position;
        let mut whole = true;
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        if self.peek() == Some(b'0') {
            self.position += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            whole = false;
            self.position += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.position += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = self.bytes.get(start..self.position).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("0");
        if whole {
            if let Ok(number) = text.parse::<i64>() {
                return Ok(Value::from(number));
            }
            if let Ok(number) = text.parse::<u64>() {
                return Ok(Value::from(number));
            }
        }
        match text.parse::<f64>().ok().and_then(Number::from_f64) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(ReadError::WrongType(format!("json: cannot unmarshal number {text} into Go value of type float64"))),
        }
    }

    fn string(&mut self) -> Result<String, ReadError> {
        self.position += 1;
        let start = self.position;
        let length = self.plain_length();
        let plain = self.bytes.get(start..start + length).unwrap_or_default();
        self.position += length;
        if self.peek() == Some(b'"') {
            self.position += 1;
            return Ok(match std::str::from_utf8(plain) {
                Ok(text) => text.to_owned(),
                Err(_) => String::from_utf8_lossy(plain).into_owned(),
            });
        }
        let mut text = plain.to_vec();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()));
                }
                Some(b'\\') => {
                    self.position += 1;
                    let character = self.escape()?;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(0x20..) => {
                    let length = self.plain_length();
                    text.extend_from_slice(self.bytes.get(self.position..self.position + length).unwrap_or_default());
                    self.position += length;
                }
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    /// How many bytes follow that stand for themselves.
    fn plain_length(&self) -> usize {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
        // Eight bytes at a time; the first that may hold a special one is looked at byte by byte.
        let mut skipped = 0;
        for chunk in rest.chunks_exact(8) {
            let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
            let zero_byte = |word: u64| word.wrapping_sub(EACH) & !word & (EACH << 7);
            let below_space = word.wrapping_sub(EACH * 0x20) & !word & (EACH << 7);
            if zero_byte(word ^ (EACH * u64::from(b'"'))) | zero_byte(word ^ (EACH * u64::from(b'\\'))) | below_space != 0 {
                break;
            }
            skipped += 8;
        }
        let tail = rest.get(skipped..).unwrap_or_default();
        skipped + tail.iter().position(special).unwrap_or(tail.len())
    }

    fn escape(&mut self) -> Result<char, ReadError> {
        let character = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.position += 1;
                let first = self.four_digits()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                // Half a pair: the other half may follow; alone it stands for nothing.
                let after_first = self.position;
                if self.bytes.get(after_first..after_first + 2) == Some(b"\\u") {
                    self.position += 2;
                    let second = self.four_digits()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.position = after_first;
                }
                return Ok(char::REPLACEMENT_CHARACTER);
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.position += 1;
        Ok(character)
    }

    fn four_digits(&mut self) -> Result<u32, ReadError> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = code * 16 + digit;
            self.position += 1;
        }
        Ok(code)
    }
}
