//! Protobuf's bytes: keys, numbers and lengths, knowing nothing of messages.

use super::ProtobufError;

/// What a field holds on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Data<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 5, which no known field has.
    Fixed32,
    /// Wire type 2.
    Bytes(&'a [u8]),
}

/// Walks the fields of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Number and content of the next field.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Data<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| ProtobufError::Malformed)?;
        if number == 0 {
            return Err(ProtobufError::Malformed);
        }
        let data = match key & 7 {
            0 => Data::Varint(self.varint()?),
            1 => {
                let (bytes, rest) = self.rest.split_first_chunk::<8>().ok_or(ProtobufError::Truncated)?;
                self.rest = rest;
                Data::Fixed64(u64::from_le_bytes(*bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
                self.rest = rest;
                Data::Bytes(bytes)
            }
            5 => {
                self.rest = self.rest.get(4..).ok_or(ProtobufError::Truncated)?;
                Data::Fixed32
            }
            _ => return Err(ProtobufError::Malformed),
        };
        Ok(Some((number, data)))
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A number without a key, as packed lists have them.
    pub(crate) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { ProtobufError::Truncated } else { ProtobufError::Malformed })
    }
}

/// Appends a number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field with a number.
pub(crate) fn put_integer(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value.cast_unsigned());
}

/// Appends a field with eight bytes.
pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Appends a field with text, bytes or a message that is already encoded.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_length(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends the beginning of such a field; its content follows.
pub(crate) fn put_length(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, length as u64);
}

/// How many bytes [`put_bytes`] appends for so many, under a number that needs one byte (up to 15).
pub(crate) fn bytes_field_length(length: usize) -> usize {
    2 + (length.max(1).ilog2() / 7) as usize + length
}

/// Appends a field with a message that `write` appends. Its length is only known afterwards: one byte is kept for it, and
/// the message moves where that was not enough, which is cheaper than a buffer of its own for each.
pub(crate) fn nested<T>(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    put_varint(out, u64::from(number) << 3 | 2);
    let start = out.len() + 1;
    out.push(0);
    let result = write(out);
    let mut length = (out.len() - start) as u64;
    let mut place = start - 1;
    if length >= 0x80 {
        let extra = (length.ilog2() / 7) as usize;
        let end = out.len();
        out.resize(end + extra, 0);
        out.copy_within(start..end, start + extra);
    }
    loop {
        let more = length >= 0x80;
        if let Some(byte) = out.get_mut(place) {
            *byte = (length & 0x7f) as u8 | if more { 0x80 } else { 0 };
        }
        length >>= 7;
        place += 1;
        if !more {
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_nested_messages_are_right_at_every_size() {
        for size in [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152] {
            let content = vec![7; size];
            let mut nested_out = vec![9];
            nested(&mut nested_out, 3, |out| out.extend_from_slice(&content));
            let mut plain = vec![9];
            put_bytes(&mut plain, 3, &content);
            assert_eq!(nested_out, plain, "at size {size}");
        }
    }

    #[test]
    fn numbers_that_never_end_are_refused() {
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(ProtobufError::Malformed));
        assert_eq!(Reader::new(&[0xff; 3]).varint(), Err(ProtobufError::Truncated));
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!(Reader::new(&out).varint(), Ok(u64::MAX));
    }
}
