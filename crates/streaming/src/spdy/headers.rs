//! Header blocks: names and values, compressed with one zlib stream per direction of a connection.

use std::sync::LazyLock;

use bytes::{BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use crate::StreamError;

/// Larger header blocks are refused, in bytes after decompression. Kubernetes' take less than 200.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
/// Checksum of the dictionary, by which a zlib stream says which one it means.
#[cfg(test)]
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// The texts that the compression knows beforehand: first these, each with its length, then [`DICTIONARY_TAIL`].
/// Source: draft-mbelshe-httpbis-spdy-00, section 2.6.10.1.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent \
    vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct \
    Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
    charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split(' ') {
        dictionary.put_u32(word.len() as u32);
        dictionary.extend(word.bytes().map(|byte| if byte == b'_' { b' ' } else { byte }));
    }
    dictionary.extend_from_slice(DICTIONARY_TAIL.as_bytes());
    dictionary
});

/// Names (in lower case) and values of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header; the name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the header blocks of one direction.
#[derive(Debug)]
pub(crate) struct HeaderDecoder {
    inflate: Decompress,
}

impl HeaderDecoder {
    pub fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    /// Reads one block. After an error the connection cannot go on, as the compression has lost its state.
    pub fn decode(&mut self, compressed: &[u8]) -> Result<Headers, StreamError> {
        parse(&self.decompress(compressed)?)
    }

    fn decompress(&mut self, compressed: &[u8]) -> Result<Vec<u8>, StreamError> {
        const BROKEN: StreamError = StreamError::Protocol("a SPDY header block is not compressed as it should be");
        let mut plain = Vec::new();
        let mut input = compressed;
        let mut output = [0u8; 1024];
        loop {
            let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
            let result = self.inflate.decompress(input, &mut output, FlushDecompress::Sync);
            let consumed = usize::try_from(self.inflate.total_in() - in_before).map_err(|_| BROKEN)?;
            let produced = usize::try_from(self.inflate.total_out() - out_before).map_err(|_| BROKEN)?;
            input = input.get(consumed..).ok_or(BROKEN)?;
            plain.extend_from_slice(output.get(..produced).ok_or(BROKEN)?);
            if plain.len() > MAX_BLOCK_BYTES {
                return Err(StreamError::Protocol("a SPDY header block is too large"));
            }
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| BROKEN)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(BROKEN),
                Ok(_) if input.is_empty() && produced < output.len() => return Ok(plain),
                Ok(_) if consumed == 0 && produced == 0 => return Err(BROKEN),
                Ok(_) => {}
            }
        }
    }
}

fn parse(plain: &[u8]) -> Result<Headers, StreamError> {
    const SHORT: StreamError = StreamError::Protocol("a SPDY header block is cut off");
    let mut rest = plain;
    let number = |rest: &mut &[u8]| -> Result<usize, StreamError> {
        let (number, tail) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
        *rest = tail;
        Ok(u32::from_be_bytes(*number) as usize)
    };
    let count = number(&mut rest)?;
    // Eight bytes at least for each: a count that cannot be true must not reserve memory.
    if count > rest.len() / 8 {
        return Err(SHORT);
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut text = || -> Result<String, StreamError> {
            let length = number(&mut rest)?;
            let (text, tail) = rest.split_at_checked(length).ok_or(SHORT)?;
            rest = tail;
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        let (name, values) = (text()?.to_ascii_lowercase(), text()?);
        headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
    }
    Ok(Headers(headers))
}

/// Writes the header blocks of one direction. They are small, so they are stored inside the zlib stream rather than compressed, which
/// saves the quarter of a megabyte that a compressor holds.
#[derive(Debug, Default)]
pub(crate) struct HeaderEncoder {
    begun: bool,
}

impl HeaderEncoder {
    /// Appends one block.
    pub fn encode(&mut self, headers: &[(String, String)], out: &mut BytesMut) {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_str(), value.as_str()] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        if !self.begun {
            self.begun = true;
            // zlib: deflate with a 32 KiB window, no dictionary.
            out.put_slice(&[0x78, 0x01]);
        }
        // An empty block at the end is what readers wait for before they hand anything out.
        for block in plain.chunks(usize::from(u16::MAX)).chain([&[][..]]) {
            let length = block.len() as u16;
            out.put_u8(0);
            out.put_u16_le(length);
            out.put_u16_le(!length);
            out.put_slice(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Compresses as the Go library does: with the dictionary, flushed after each block.
    fn compress(compressor: &mut Compress, pairs: &[(String, String)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(pairs.len() as u32);
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 1000);
        compressor.compress_vec(&plain, &mut out, FlushCompress::Sync).unwrap();
        out
    }

    #[test]
    fn the_dictionary_is_the_one_everybody_uses() {
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(Compress::new(Compression::best(), true).set_dictionary(&DICTIONARY).unwrap(), DICTIONARY_ID);
    }

    #[test]
    fn blocks_compressed_with_the_dictionary_are_read() {
        let mut compressor = Compress::new(Compression::best(), true);
        compressor.set_dictionary(&DICTIONARY).unwrap();
        let mut decoder = HeaderDecoder::new();
        for number in 0..20 {
            let pairs = headers(&[("streamtype", "data"), ("port", "8080"), ("requestid", &number.to_string())]);
            assert_eq!(decoder.decode(&compress(&mut compressor, &pairs)).unwrap().0, pairs);
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let (mut encoder, mut decoder) = (HeaderEncoder::default(), HeaderDecoder::new());
        for pairs in [headers(&[]), headers(&[("streamtype", "error")]), headers(&[("a", &"x".repeat(60_000)), ("b", "")])] {
            let mut block = BytesMut::new();
            encoder.encode(&pairs, &mut block);
            assert_eq!(decoder.decode(&block).unwrap().0, pairs);
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut compressor = Compress::new(Compression::best(), true);
        let mut out = Vec::with_capacity(100_000);
        compressor.compress_vec(&vec![0; 10_000_000], &mut out, FlushCompress::Sync).unwrap();
        assert!(matches!(HeaderDecoder::new().decode(&out), Err(StreamError::Protocol(_))));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = HeaderDecoder::new().decode(&bytes);
            let _ = parse(&bytes);
            let mut zlib = vec![0x78, 0x01];
            zlib.extend(bytes);
            let _ = HeaderDecoder::new().decode(&zlib);
        }
    }
}
