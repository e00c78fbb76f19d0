//! What one batch of the log says, byte by byte.
//!
//! `format (1) | CRC-32 of the rest (4) | newest revision (8) | records`. A record is `tag (1) | length of key (4) | key |
//! revision (8)`, and for a put `deadline (8) | length of value (4) | sealed value`. Numbers are little-endian. The
//! newest revision stands in every batch, so that revisions go on after a restart although the last write was a delete.

use store::{Revision, StoreKey};

/// Changes with every incompatible change of the layout.
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 8;

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;

/// Milliseconds since 1970, by the wall clock, so that it means the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(pub(crate) u64);

/// How a record for this key and value weighs in the log, roughly.
pub(crate) fn record_bytes(key: &StoreKey, value_bytes: usize) -> u64 {
    // Tag, lengths, revision, deadline, and what encryption adds at most for a short key name.
    (key.as_str().len() + value_bytes + 1 + 4 + 8 + 8 + 4 + 48) as u64
}

/// Writes a batch.
pub(crate) struct BatchBuilder {
    bytes: Vec<u8>,
}

impl BatchBuilder {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; HEADER_BYTES] }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a put whose value is written by `seal`; when that fails nothing is appended.
    pub(crate) fn put<E>(
        &mut self,
        key: &StoreKey,
        revision: Revision,
        deadline: Option<Deadline>,
        seal: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let begin = self.bytes.len();
        self.head(TAG_PUT, key, revision);
        self.bytes.extend_from_slice(&deadline.map_or(0, |deadline| deadline.0).to_le_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        if let Err(error) = seal(&mut self.bytes) {
            self.bytes.truncate(begin);
            return Err(error);
        }
        let length = (self.bytes.len() - length_at - 4) as u32;
        if let Some(place) = self.bytes.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &StoreKey, revision: Revision) {
        self.head(TAG_DELETE, key, revision);
    }

    fn head(&mut self, tag: u8, key: &StoreKey, revision: Revision) {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&(key.as_str().len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key.as_str().as_bytes());
        self.bytes.extend_from_slice(&revision.0.to_le_bytes());
    }

    pub(crate) fn finish(mut self, newest: Revision) -> Vec<u8> {
        if let Some((header, _)) = self.bytes.split_first_chunk_mut::<HEADER_BYTES>() {
            header[0] = FORMAT;
            header[5..].copy_from_slice(&newest.0.to_le_bytes());
        }
        let checksum = crc32fast::hash(self.bytes.get(5..).unwrap_or_default());
        if let Some(place) = self.bytes.get_mut(1..5) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        self.bytes
    }
}

/// One record of a batch as it lies in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Put { key: StoreKey, revision: Revision, deadline: Option<Deadline>, sealed: &'a [u8] },
    Delete { key: StoreKey, revision: Revision },
}

/// Reads a batch: the newest revision, and its records in order. The error says what is wrong with it.
pub(crate) fn read(batch: &[u8]) -> Result<(Revision, Vec<Record<'_>>), String> {
    let mut reader = Reader { rest: batch };
    let format = reader.byte()?;
    if format != FORMAT {
        return Err(format!("its format is {format}, and this version of knarr reads format {FORMAT}"));
    }
    let checksum = reader.u32()?;
    if crc32fast::hash(reader.rest) != checksum {
        return Err("its checksum is wrong".to_owned());
    }
    let newest = Revision(reader.u64()?);
    let mut records = Vec::new();
    while !reader.rest.is_empty() {
        let tag = reader.byte()?;
        let key = std::str::from_utf8(reader.bytes()?).map_err(|_| "a key is not UTF-8".to_owned())?;
        let key = StoreKey::new(key);
        let revision = Revision(reader.u64()?);
        records.push(match tag {
            TAG_PUT => {
                let deadline = Some(reader.u64()?).filter(|deadline| *deadline != 0).map(Deadline);
                Record::Put { key, revision, deadline, sealed: reader.bytes()? }
            }
            TAG_DELETE => Record::Delete { key, revision },
            other => return Err(format!("a record has the unknown tag {other}")),
        });
    }
    Ok((newest, records))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*chunk)
    }
    fn byte(&mut self) -> Result<u8, String> {
        self.chunk::<1>().map(|[byte]| byte)
    }
    fn u32(&mut self) -> Result<u32, String> {
        self.chunk().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, String> {
        self.chunk().map(u64::from_le_bytes)
    }
    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        let seal = |out: &mut Vec<u8>| -> Result<(), ()> {
            out.extend_from_slice(b"value");
            Ok(())
        };
        builder.put(&StoreKey::new("/a"), Revision(7), Some(Deadline(9)), seal).unwrap();
        builder.put(&StoreKey::new("/b"), Revision(8), None, |_| Err(())).unwrap_err();
        builder.delete(&StoreKey::new("/c"), Revision(10));
        builder.finish(Revision(10))
    }

    #[test]
    fn a_batch_comes_back_record_by_record() {
        let bytes = example();
        let (newest, records) = read(&bytes).unwrap();
        assert_eq!(newest, Revision(10));
        let put = Record::Put {
            key: StoreKey::new("/a"),
            revision: Revision(7),
            deadline: Some(Deadline(9)),
            sealed: b"value",
        };
        assert_eq!(records, [put, Record::Delete { key: StoreKey::new("/c"), revision: Revision(10) }]);
    }

    #[test]
    fn an_empty_batch_still_carries_the_revision() {
        assert_eq!(read(&BatchBuilder::new().finish(Revision(3))).unwrap(), (Revision(3), Vec::new()));
    }

    #[test]
    fn no_changed_or_shortened_batch_is_read() {
        let bytes = example();
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            read(&changed).unwrap_err();
            read(&bytes[..position]).unwrap_err();
        }
    }
}
