//! Writing DER, the byte layout of certificates. Reading is left to `x509-parser`.
//!
//! Certificates are laid out here rather than by a library because a Kubernetes certificate carries one `O` per group, and the key
//! and the subject of a signing request must go into the certificate unchanged, whatever kind of key it is.

/// A DER value: tag, length, content.
pub(crate) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend(bytes.iter().skip(skip));
    }
    out.extend_from_slice(content);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(0x30, &parts.concat())
}

pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    value(0x31, &parts.concat())
}

/// A non-negative integer from its big-endian bytes.
pub(crate) fn unsigned_integer(big_endian: &[u8]) -> Vec<u8> {
    let skip = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits: Vec<u8> = big_endian.iter().skip(skip).copied().collect();
    match digits.first() {
        None => value(0x02, &[0]),
        Some(first) if first & 0x80 != 0 => value(0x02, &[&[0], digits.as_slice()].concat()),
        Some(_) => value(0x02, &digits),
    }
}

pub(crate) fn boolean_true() -> Vec<u8> {
    value(0x01, &[0xff])
}

pub(crate) fn octet_string(content: &[u8]) -> Vec<u8> {
    value(0x04, content)
}

/// A bit string of whole bytes.
pub(crate) fn bit_string(content: &[u8]) -> Vec<u8> {
    value(0x03, &[&[0], content].concat())
}

/// A bit string of named bits: `flags` bit 15 is bit 0 of the string; trailing zero bits are left out, as DER demands.
pub(crate) fn named_bits(flags: u16) -> Vec<u8> {
    let [high, low] = flags.to_be_bytes();
    if low != 0 {
        value(0x03, &[low.trailing_zeros() as u8, high, low])
    } else if high != 0 {
        value(0x03, &[high.trailing_zeros() as u8, high])
    } else {
        value(0x03, &[0])
    }
}

pub(crate) fn utf8_string(text: &str) -> Vec<u8> {
    value(0x0c, text.as_bytes())
}

/// An object identifier from its numbers (at least two).
pub(crate) fn object_identifier(numbers: &[u32]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut rest = numbers.iter().copied();
    let first = rest.next().unwrap_or(0) * 40 + rest.next().unwrap_or(0);
    for number in std::iter::once(first).chain(rest) {
        let mut groups = vec![(number & 0x7f) as u8];
        let mut left = number >> 7;
        while left > 0 {
            groups.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    value(0x06, &content)
}

/// A point in time, in the form certificates ask for: two-digit years until 2049, four digits after.
pub(crate) fn time(at: jiff::Timestamp) -> Vec<u8> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    if (1950..2050).contains(&at.year()) {
        value(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        value(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_have_long_lengths() {
        assert_eq!(value(0x04, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(value(0x04, &[7; 200])[..3], [4, 0x81, 200]);
        assert_eq!(value(0x04, &[7; 1000])[..4], [4, 0x82, 3, 0xe8]);
    }

    #[test]
    fn integers_stay_positive() {
        assert_eq!(unsigned_integer(&[0, 0, 5]), [2, 1, 5]);
        assert_eq!(unsigned_integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned_integer(&[]), [2, 1, 0]);
    }

    #[test]
    fn object_identifiers_use_seven_bits_a_byte() {
        assert_eq!(object_identifier(&[1, 2, 840, 10045, 2, 1]), [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]);
    }

    #[test]
    fn years_after_2049_take_four_digits() {
        assert_eq!(time("2026-01-02T03:04:05Z".parse().unwrap())[2..], *b"260102030405Z");
        assert_eq!(time("2050-01-02T03:04:05Z".parse().unwrap())[2..], *b"20500102030405Z");
    }

    #[test]
    fn named_bits_drop_trailing_zeros() {
        assert_eq!(named_bits(0x8000), [3, 2, 7, 0x80]);
        assert_eq!(named_bits(0x0600), [3, 2, 1, 0x06]);
        assert_eq!(named_bits(0x0080), [3, 3, 7, 0, 0x80]);
    }
}
