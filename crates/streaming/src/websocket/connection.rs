//! What the two uses of a WebSocket connection share: reading events, and writing with pongs in between.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::Role;
use super::frame::{Decoder, Encoder, Event, PROTOCOL_ERROR};
use crate::StreamError;
use crate::channel::PIECE_BYTES;

/// How long to wait for the peer after saying goodbye, so that what was sent last is not lost to a reset.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// Reads events from a connection.
pub(crate) struct EventReader<R> {
    io: R,
    buffer: BytesMut,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> EventReader<R> {
    pub fn new(io: R, role: Role) -> Self {
        Self { io, buffer: BytesMut::new(), decoder: Decoder::new(role) }
    }

    /// The next event; an end without a close is an error.
    pub async fn next(&mut self) -> Result<Event, StreamError> {
        loop {
            if let Some(event) = self.decoder.next(&mut self.buffer)? {
                return Ok(event);
            }
            self.buffer.reserve(PIECE_BYTES);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Reads and forgets until the peer is done, or has had its time.
    pub async fn linger(mut self) {
        let _ = tokio::time::timeout(LINGER, async {
            loop {
                self.buffer.clear();
                self.buffer.reserve(PIECE_BYTES);
                if !matches!(self.io.read_buf(&mut self.buffer).await, Ok(length) if length > 0) {
                    break;
                }
            }
        })
        .await;
    }
}

/// What the reading task wants written: kept aside in bounded space, so that reading never waits for writing.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// Only the latest ping needs an answer. Source: RFC 6455, section 5.5.3.
    pong: Option<Bytes>,
    close: Option<u16>,
}

impl Answers {
    pub fn pong(&self, payload: Bytes) {
        self.pending.lock().pong = Some(payload);
        self.wake.notify_one();
    }

    /// Asks the writing task to close with this code.
    pub fn close(&self, code: u16) {
        self.pending.lock().close.get_or_insert(code);
        self.wake.notify_one();
    }

    /// The code with which to answer what ended the reading.
    pub fn close_for(&self, error: &StreamError) {
        if let StreamError::Protocol(_) = error {
            self.close(PROTOCOL_ERROR);
        }
    }
}

/// What a source of frames has to say next.
pub(crate) enum Next<T> {
    Item(T),
    /// Nothing more: close normally.
    Done(u16),
}

/// Where the frames to write come from.
pub(crate) trait FrameSource: Send {
    type Item: Send;
    /// Waits for the next frame. Must not lose anything when dropped while waiting.
    fn next(&mut self) -> impl Future<Output = Next<Self::Item>> + Send;
    /// A frame that is there already, so that several go out together.
    fn next_now(&mut self) -> Option<Next<Self::Item>>;
    /// Writes it down. Returns a closing code when it was the last.
    fn encode(&mut self, item: Self::Item, encoder: &mut Encoder, out: &mut BytesMut) -> Option<u16>;
}

/// Writes frames and answers until one side is done; then closes.
pub(crate) async fn write_all<W, S>(mut io: W, role: Role, answers: Arc<Answers>, mut source: S) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    S: FrameSource,
{
    let mut encoder = Encoder::new(role);
    let mut out = BytesMut::new();
    let mut closing = None;
    while closing.is_none() {
        let next = tokio::select! {
            biased;
            () = answers.wake.notified() => None,
            next = source.next() => Some(next),
        };
        let mut upcoming = next;
        while let Some(next) = upcoming.take() {
            match next {
                Next::Item(item) => closing = source.encode(item, &mut encoder, &mut out),
                Next::Done(code) => closing = Some(code),
            }
            if closing.is_none() && out.len() < PIECE_BYTES {
                upcoming = source.next_now();
            }
        }
        let Pending { pong, close } = std::mem::take(&mut *answers.pending.lock());
        if let Some(pong) = pong {
            encoder.pong(&pong, &mut out);
        }
        closing = closing.or(close);
        if let Some(code) = closing {
            encoder.close(code, &mut out);
        }
        io.write_all(&out).await?;
        io.flush().await?;
        // A single large piece must not keep its memory for the rest of a quiet connection.
        if out.capacity() > 4 * PIECE_BYTES {
            out = BytesMut::new();
        } else {
            out.clear();
        }
    }
    io.shutdown().await
}
