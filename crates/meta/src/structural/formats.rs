//! The `format`s of texts that are checked; unknown ones are not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{read::canonical_time, validation::cidr_problems};

/// Whether a text has a format; texts of unknown formats do.
pub(super) fn matches(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => cidr_problems(text).is_empty(),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "byte" => STANDARD.decode(text).is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok_and(|_| text.len() == 10),
        "date-time" | "datetime" => canonical_time(text).is_some(),
        "duration" => is_duration(text),
        "hostname" => is_hostname(text),
        "email" => is_email(text),
        "uri" => is_uri(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => true,
    }
}

fn is_mac(text: &str) -> bool {
    [':', '-'].into_iter().any(|separator| {
        let parts: Vec<&str> = text.split(separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = if text.contains('-') {
        text.split('-').collect()
    } else {
        let mut rest = text;
        let mut parts = Vec::new();
        for length in lengths {
            let Some((part, after)) = rest.split_at_checked(length) else { return false };
            parts.push(part);
            rest = after;
        }
        if !rest.is_empty() {
            return false;
        }
        parts
    };
    parts.len() == lengths.len()
        && parts.iter().zip(lengths).all(|(part, length)| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && version.is_none_or(|version| parts.get(2).is_some_and(|part| part.starts_with(version)))
}

/// Go's durations (`1h30m`, `1.5s`).
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        if !number.bytes().any(|byte| byte.is_ascii_digit()) || number.matches('.').count() > 1 {
            return false;
        }
        let after = after.trim_start_matches(' ');
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", "w"].into_iter().filter(|unit| after.starts_with(unit)).max_by_key(|unit| unit.len());
        let Some(remaining) = unit.and_then(|unit| after.strip_prefix(unit)) else { return false };
        rest = remaining;
    }
    true
}

fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 255
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn is_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && is_hostname(host) && !local.chars().any(|character| character.is_whitespace() || "<>(),;:@".contains(character))
    })
}

/// An absolute address or path, as Go's `url.ParseRequestURI` takes it.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.chars().any(|character| character.is_control() || character == ' ') {
        return false;
    }
    text.starts_with('/')
        || text.split_once(':').is_some_and(|(scheme, _)| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_formats() {
        for (format, good, bad) in [
            ("ipv4", "1.2.3.4", "::1"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "00:11:22:33:44:ff", "00:11"),
            ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b810"),
            ("uuid4", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            ("byte", "YQ==", "a"),
            ("date", "2026-01-31", "2026-02-31"),
            ("date-time", "2026-01-31T00:00:00Z", "2026-01-31"),
            ("duration", "1h30m", "1x"),
            ("duration", "1.5s", "h"),
            ("hostname", "a.example", "-a"),
            ("email", "a@example.com", "a"),
            ("uri", "https://example.com/a", "example"),
            ("hexcolor", "#fff", "#ggg"),
        ] {
            assert!(matches(format, good), "{good} is a {format}");
            assert!(!matches(format, bad), "{bad} is no {format}");
        }
        assert!(matches("unheard-of", "anything"));
    }
}
