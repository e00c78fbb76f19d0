//! As much of protobuf's wire format as the messages of key management services need.

use std::collections::BTreeMap;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// A number, or an enumeration.
    Number(u64),
    /// Bytes, text or a message.
    Bytes(&'a [u8]),
    /// Something else, which is passed over.
    Other,
}

/// The fields of a message in order, each with its number; ends with a `None` where the message is malformed.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Option<(u64, Field<'_>)>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field)
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(rest)?;
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at_checked(count)?;
        *rest = after;
        Some(taken)
    };
    let field = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => take(8).map(|_| Field::Other)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (taken, after) = rest.split_at_checked(length)?;
            *rest = after;
            Field::Bytes(taken)
        }
        5 => take(4).map(|_| Field::Other)?,
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// An entry of a map from text to bytes.
pub fn map_entry(entry: &[u8]) -> Option<(String, Vec<u8>)> {
    let (mut name, mut value) = (String::new(), Vec::new());
    for field in fields(entry) {
        match field? {
            (1, Field::Bytes(bytes)) => name = std::str::from_utf8(bytes).ok()?.to_owned(),
            (2, Field::Bytes(bytes)) => value = bytes.to_vec(),
            _ => {}
        }
    }
    Some((name, value))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number, unless it is 0.
pub fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, value);
    }
}

/// Bytes, unless there are none.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_varint(out, u64::from(field) << 3 | 2);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// A map from text to bytes.
pub fn put_map(out: &mut Vec<u8>, field: u32, map: &BTreeMap<String, Vec<u8>>) {
    for (name, value) in map {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, name.as_bytes());
        put_bytes(&mut entry, 2, value);
        put_varint(out, u64::from(field) << 3 | 2);
        put_varint(out, entry.len() as u64);
        out.extend_from_slice(&entry);
    }
}
