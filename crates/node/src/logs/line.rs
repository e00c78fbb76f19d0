//! One line of a log in CRI format: `2026-01-02T15:04:05.123456789Z stdout F text`.

use jiff::Timestamp;

/// A line's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as written.
    pub time: &'a [u8],
    /// It went to standard error.
    pub is_error: bool,
    /// The program's line goes on in the next one.
    pub is_partial: bool,
    /// What the program wrote.
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line without its end; `None` for what is no log line (a torn write of a crashed machine).
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let text = parts.next().unwrap_or_default();
        let is_error = match stream {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        Some(Self { time, is_error, is_partial: tag.split(|byte| *byte == b':').next() == Some(b"P"), text })
    }

    /// When it was written.
    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = Line::parse(b"2026-01-02T15:04:05.000000001Z stderr P half a line").unwrap();
        assert!(line.is_error && line.is_partial);
        assert_eq!(line.text, b"half a line");
        assert_eq!(line.timestamp().unwrap().subsec_nanosecond(), 1);
        assert_eq!(Line::parse(b"2026-01-02T15:04:05Z stdout F").unwrap().text, b"");
        for bad in [&b""[..], b"x", b"a b", b"time stdin F text"] {
            assert!(Line::parse(bad).is_none());
        }
    }
}
