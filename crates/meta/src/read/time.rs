//! Times in their canonical form: RFC 3339, UTC, whole seconds or microseconds.

use jiff::{Timestamp, tz::TimeZone};

/// What Go's zero time is. Its clients send null, or an empty message, for a required time that they did not set (a condition's
/// `lastTransitionTime`, say), and it has to be there all the same.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The same with microseconds.
pub const ZERO_MICRO_TIME: &str = "0001-01-01T00:00:00.000000Z";

/// The canonical form of a `metav1.Time`: UTC, whole seconds. `None` where the text is no RFC 3339 time.
pub fn canonical_time(text: &str) -> Option<String> {
    instant(text).map(|time| zoned(time, "%Y-%m-%dT%H:%M:%SZ"))
}

/// The canonical form of a `metav1.MicroTime`: UTC, six decimals. `None` where the text is no RFC 3339 time.
pub fn canonical_micro_time(text: &str) -> Option<String> {
    instant(text).map(|time| zoned(time, "%Y-%m-%dT%H:%M:%S.%6fZ"))
}

fn zoned(time: Timestamp, format: &str) -> String {
    time.to_zoned(TimeZone::UTC).strftime(format).to_string()
}

fn instant(text: &str) -> Option<Timestamp> {
    // `jiff` reads more forms than RFC 3339 has.
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    let sign = |index: usize, sign: u8| bytes.get(index) == Some(&sign);
    let date_and_clock = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18].into_iter().all(digit)
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].into_iter().all(|(index, byte)| sign(index, byte));
    let mut zone = 19;
    if sign(19, b'.') {
        zone = 20;
        while digit(zone) {
            zone += 1;
        }
        if zone == 20 {
            return None;
        }
    }
    let zoned = match bytes.get(zone) {
        Some(b'Z') => bytes.len() == zone + 1,
        Some(b'+' | b'-') => bytes.len() == zone + 6 && [1, 2, 4, 5].into_iter().all(|step| digit(zone + step)) && sign(zone + 3, b':'),
        _ => false,
    };
    if date_and_clock && zoned { text.parse().ok() } else { None }
}

/// Whether a text is a canonical `metav1.Time` already, but for the calendar.
pub(crate) fn looks_canonical(text: &str) -> bool {
    let bytes = text.as_bytes();
    let number = |start: usize| match (bytes.get(start), bytes.get(start + 1)) {
        (Some(tens @ b'0'..=b'9'), Some(ones @ b'0'..=b'9')) => u32::from(tens - b'0') * 10 + u32::from(ones - b'0'),
        _ => u32::MAX,
    };
    // Days up to 28 exist in every month, so that no calendar is needed.
    bytes.len() == 20
        && number(0) < 100
        && number(2) < 100
        && (1..=12).contains(&number(5))
        && (1..=28).contains(&number(8))
        && number(11) < 24
        && number(14) < 60
        && number(17) < 60
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'Z')].into_iter().all(|(at, byte)| bytes.get(at) == Some(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_canonical() {
        for (text, seconds) in [
            ("2026-01-02T03:04:05Z", Some("2026-01-02T03:04:05Z")),
            ("2026-01-31T03:04:05.987Z", Some("2026-01-31T03:04:05Z")),
            ("2026-01-02T03:04:05+02:00", Some("2026-01-02T01:04:05Z")),
            ("2026-02-30T03:04:05Z", None),
            ("2026-01-02 03:04:05Z", None),
            ("2026-01-02T03:04:05", None),
            ("2026-01-02T03:04:05.Z", None),
            ("2026-01-02T03:04:05+0200", None),
            ("", None),
            ("now", None),
        ] {
            assert_eq!(canonical_time(text).as_deref(), seconds, "{text}");
            assert!(!looks_canonical(text) || seconds == Some(text), "{text}");
        }
        assert_eq!(canonical_micro_time("2026-01-02T03:04:05.1Z").as_deref(), Some("2026-01-02T03:04:05.100000Z"));
        assert_eq!(canonical_micro_time("2026-01-02T03:04:05Z").as_deref(), Some("2026-01-02T03:04:05.000000Z"));
    }
}
