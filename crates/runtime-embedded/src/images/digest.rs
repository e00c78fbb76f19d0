//! Content digests (`sha256:…`), and reading while digesting.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// The digest of some bytes.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    name(Sha256::digest(bytes).as_slice())
}

/// The chain id of a layer on top of `parent`: what the stack of layers up to here *is*.
/// Source: OCI image specification, "Layer ChainID".
#[must_use]
pub fn chain(parent: Option<&str>, diff_id: &str) -> String {
    parent.map_or_else(|| diff_id.to_owned(), |parent| of(format!("{parent} {diff_id}").as_bytes()))
}

/// Whether text is a digest that we can verify.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)))
}

/// The hexadecimal part.
#[must_use]
pub fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

fn name(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A reader that digests and counts what passes, and refuses to pass more than a bound.
pub struct Digesting<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Digesting<R> {
    /// Reads from `inner`, at most `limit` bytes.
    pub fn new(inner: R, limit: u64) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0, limit }
    }

    /// Reads the rest and gives the digest of everything.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((name(self.hasher.finalize().as_slice()), self.count))
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.count += count as u64;
        if self.count > self.limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than the {} bytes that are allowed", self.limit)));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_digested_and_bounded() {
        let (digest, count) = Digesting::new(&b"abc"[..], 3).finish().unwrap();
        assert_eq!(digest, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((digest == of(b"abc"), count), (true, 3));
        assert!(Digesting::new(&b"abcd"[..], 3).finish().is_err());
    }

    #[test]
    fn the_chain_of_one_layer_is_its_diff_id() {
        assert_eq!(chain(None, "sha256:a"), "sha256:a");
        assert_eq!(chain(Some("sha256:a"), "sha256:b"), of(b"sha256:a sha256:b"));
    }
}
