//! A byte stream inside binary WebSocket messages: `kubectl port-forward` runs SPDY through it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf};

use super::Role;
use super::connection::{Answers, EventReader, FrameSource, LINGER, Next, write_all};
use super::frame::{Encoder, Event, NORMAL_CLOSURE};
use crate::channel::PIECE_BYTES;
use crate::{StreamError, Transport};

/// Wraps a WebSocket connection into the stream that runs through it.
pub(crate) fn start<T: Transport>(io: T, role: Role) -> DuplexStream {
    let (read_half, write_half) = tokio::io::split(io);
    let (outside, inside) = tokio::io::duplex(2 * PIECE_BYTES);
    let (from_user, mut to_user) = tokio::io::split(inside);
    let answers = Arc::new(Answers::default());
    let source = Bytestream { from_user, buffer: BytesMut::new() };
    let writing_answers = Arc::clone(&answers);
    let writing = tokio::spawn(async move { write_all(write_half, role, writing_answers, source).await });
    tokio::spawn(async move {
        let mut events = EventReader::new(read_half, role);
        loop {
            match events.next().await {
                Ok(Event::Piece(piece)) => {
                    if to_user.write_all(&piece).await.is_err() {
                        // The user is gone; the writing task closes.
                        break;
                    }
                }
                Ok(Event::Start | Event::End | Event::Pong) => {}
                Ok(Event::Ping(payload)) => answers.pong(payload),
                Ok(Event::Close(code)) => {
                    answers.close(code.unwrap_or(NORMAL_CLOSURE));
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, "reading from a WebSocket tunnel");
                    match error {
                        StreamError::Protocol(_) => answers.close_for(&error),
                        _ => answers.close(NORMAL_CLOSURE),
                    }
                    break;
                }
            }
        }
        let _ = to_user.shutdown().await;
        // A peer that has gone may leave the writing task with bytes that nobody takes.
        let stop = writing.abort_handle();
        if tokio::time::timeout(LINGER, writing).await.is_ok() {
            events.linger().await;
        }
        stop.abort();
    });
    outside
}

struct Bytestream {
    from_user: ReadHalf<DuplexStream>,
    buffer: BytesMut,
}

impl FrameSource for Bytestream {
    type Item = Bytes;

    async fn next(&mut self) -> Next<Bytes> {
        self.buffer.reserve(PIECE_BYTES);
        match self.from_user.read_buf(&mut self.buffer).await {
            Ok(length) if length > 0 => Next::Item(self.buffer.split().freeze()),
            _ => Next::Done(NORMAL_CLOSURE),
        }
    }

    fn next_now(&mut self) -> Option<Next<Bytes>> {
        None
    }

    fn encode(&mut self, item: Bytes, encoder: &mut Encoder, out: &mut BytesMut) -> Option<u16> {
        encoder.message(false, &[&item], out);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_and_the_end_is_seen() {
        let (client, server) = tokio::io::duplex(500);
        let (mut client, mut server) = (start(client, Role::Client), start(server, Role::Server));
        let content = vec![5; 300_000];
        let sent = content.clone();
        tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert!(received == content);
    }
}
