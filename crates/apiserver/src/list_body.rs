//! The body of a list, put together while it is sent.
//!
//! A list of thousands of objects is megabytes. Made as a whole it would lie in memory for as long as a slow client takes to read it, and
//! nothing would leave before all of it is there. Here a client reads the first objects while the next are copied, and what a list holds
//! meanwhile are the objects that the server has in memory anyway.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::http_body::{Body, BoxError, full};

/// How much is put together at a time, in bytes, or a little more. Measured with a list of 7 MB: with less, whoever sends and whoever puts
/// together wake each other too often; with more, the first objects leave later, and what is copied no longer fits into a cache.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a chunk may be longer by before its memory has to grow, in bytes: an object of common size.
const OVERHANG_BYTES: usize = 8 * 1024;

struct ListBody<P, F> {
    /// The beginning of the next chunk.
    begun: Vec<u8>,
    pieces: std::vec::IntoIter<P>,
    put: F,
    end: &'static [u8],
    /// Bytes that are still to be sent, those begun among them.
    left: usize,
}

/// A body of `head`, then what `put` writes of each of `pieces`, then `end`: `length` bytes altogether.
pub(crate) fn list_body<P, F>(head: Vec<u8>, pieces: Vec<P>, put: F, end: &'static [u8], length: usize) -> Body
where
    P: Send + Unpin + 'static,
    F: FnMut(&P, &mut Vec<u8>) + Send + Unpin + 'static,
{
    let mut body = ListBody { begun: head, pieces: pieces.into_iter(), put, end, left: length };
    if length <= CHUNK_BYTES {
        return full(body.chunk());
    }
    body.map_err(|never| -> BoxError { match never {} }).boxed_unsync()
}

impl<P, F: FnMut(&P, &mut Vec<u8>)> ListBody<P, F> {
    fn chunk(&mut self) -> Bytes {
        let mut chunk = mem::take(&mut self.begun);
        let room = if self.left <= CHUNK_BYTES { self.left } else { CHUNK_BYTES + OVERHANG_BYTES };
        chunk.reserve_exact(room.saturating_sub(chunk.len()));
        while chunk.len() < CHUNK_BYTES {
            let Some(piece) = self.pieces.next() else {
                chunk.extend_from_slice(mem::take(&mut self.end));
                break;
            };
            (self.put)(&piece, &mut chunk);
        }
        self.left = self.left.saturating_sub(chunk.len());
        chunk.into()
    }
}

impl<P: Unpin, F: FnMut(&P, &mut Vec<u8>) + Unpin> http_body::Body for ListBody<P, F> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        if body.left == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(body.chunk()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[tokio::test]
    async fn a_list_of_any_length_is_its_pieces_in_order() {
        for (count, piece_length) in [(0, 1), (1, 10), (10, CHUNK_BYTES), (100_000, 7), (3, 3 * CHUNK_BYTES), (CHUNK_BYTES - 8, 1), (CHUNK_BYTES - 7, 1), (2 * CHUNK_BYTES - 7, 1)] {
            let pieces: Vec<u8> = (0..count).map(|index| index as u8).collect();
            let put = move |piece: &u8, out: &mut Vec<u8>| out.resize(out.len() + piece_length, *piece);
            let length = b"head".len() + count * piece_length + b"end".len();
            let expected: Vec<u8> = b"head".iter().copied().chain(pieces.iter().flat_map(|piece| vec![*piece; piece_length])).chain(*b"end").collect();
            let mut body = list_body(b"head".to_vec(), pieces, put, b"end", length);
            assert_eq!(body.size_hint().exact(), Some(length as u64));
            let mut sent = Vec::new();
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                assert!(!data.is_empty() && data.len() <= CHUNK_BYTES + piece_length.max(b"head".len()), "{} bytes at once", data.len());
                sent.extend_from_slice(&data);
                assert_eq!(body.size_hint().exact(), Some((length - sent.len()) as u64));
            }
            assert!(body.is_end_stream() && sent == expected, "{count} pieces of {piece_length}");
        }
    }
}
