//! One stream of a multiplexed connection: a reader and a writer, fed and drained by the connection's two tasks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// The largest piece of data that is handed on at once, in bytes.
pub const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that wait for a stream's reader before the connection stops reading.
const WAITING_PIECES: usize = 8;
/// Frames that wait to be written before writers of the connection have to wait.
pub(crate) const WAITING_FRAMES: usize = 16;

/// What the writing task of a connection is asked to send. It writes in order.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Bytes on a channel.
    Data { channel: u32, bytes: Bytes },
    /// No more bytes will come on this channel.
    Finish { channel: u32 },
    /// Give a channel up, in both directions (SPDY).
    Reset { channel: u32, status: u32 },
    /// Open a channel with these headers (SPDY).
    Open { channel: u32, headers: Vec<(String, String)> },
    /// Accept a channel the peer opened (SPDY).
    Reply { channel: u32 },
    /// End the connection in an orderly way, after everything before.
    Close,
}

/// The reading half of a stream.
#[derive(Debug)]
pub struct ChannelReader {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    broken: Arc<AtomicBool>,
}

/// Where a connection's reading task puts what arrives for a stream. Dropping it is the end of the stream.
#[derive(Debug, Clone)]
pub(crate) struct ChannelFeed {
    pieces: mpsc::Sender<Bytes>,
    broken: Arc<AtomicBool>,
}

pub(crate) fn pair() -> (ChannelFeed, ChannelReader) {
    let (sender, receiver) = mpsc::channel(WAITING_PIECES);
    let broken = Arc::new(AtomicBool::new(false));
    (ChannelFeed { pieces: sender, broken: Arc::clone(&broken) }, ChannelReader { pieces: receiver, current: Bytes::new(), broken })
}

impl ChannelFeed {
    /// Hands a piece over; waits while the reader is behind. `false` when nobody reads any more.
    pub async fn deliver(&self, bytes: Bytes) -> bool {
        bytes.is_empty() || self.pieces.send(bytes).await.is_ok()
    }

    /// Makes the end that the reader will see an error instead of a clean one.
    pub fn break_off(self) {
        self.broken.store(true, Ordering::Release);
    }
}

impl ChannelReader {
    /// The next piece; `None` at the clean end.
    /// # Errors
    /// `ConnectionReset` when the peer gave the stream up or vanished.
    pub async fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        match self.pieces.recv().await {
            Some(piece) => Ok(Some(piece)),
            None => self.end().map(|()| None),
        }
    }

    fn end(&self) -> io::Result<()> {
        if self.broken.load(Ordering::Acquire) {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer gave the stream up"))
        } else {
            Ok(())
        }
    }
}

impl AsyncRead for ChannelReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.current.is_empty() {
            match ready!(this.pieces.poll_recv(context)) {
                Some(piece) => this.current = piece,
                None => return Poll::Ready(this.end()),
            }
        }
        let length = this.current.len().min(buffer.remaining());
        if let Some(piece) = this.current.get(..length) {
            buffer.put_slice(piece);
        }
        this.current.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// The writing half of a stream. Shutting it down ends the stream in this direction only; dropping it does the same.
#[derive(Debug)]
pub struct ChannelWriter {
    channel: u32,
    frames: PollSender<Outgoing>,
    finished: bool,
}

impl ChannelWriter {
    pub(crate) fn new(channel: u32, frames: mpsc::Sender<Outgoing>) -> Self {
        Self { channel, frames: PollSender::new(frames), finished: false }
    }

    /// Sends bytes that are already in a buffer of their own, without copying them.
    pub async fn send(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            std::future::poll_fn(|context| self.frames.poll_reserve(context)).await.map_err(|_| gone())?;
            self.frames.send_item(Outgoing::Data { channel: self.channel, bytes: piece }).map_err(|_| gone())?;
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the connection is closed")
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(Err(gone()));
        }
        let piece = buffer.get(..buffer.len().min(PIECE_BYTES)).unwrap_or(buffer);
        if piece.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.frames.poll_reserve(context)).map_err(|_| gone())?;
        let frame = Outgoing::Data { channel: this.channel, bytes: Bytes::copy_from_slice(piece) };
        this.frames.send_item(frame).map_err(|_| gone())?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The writing task flushes whenever it has nothing more to write.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.finished {
            // A connection that is gone has ended the stream already.
            if ready!(this.frames.poll_reserve(context)).is_ok() {
                let _ = this.frames.send_item(Outgoing::Finish { channel: this.channel });
            }
            this.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for ChannelWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // A reserved place in the queue would otherwise be held while this waits for another.
        self.frames.abort_send();
        let Some(frames) = self.frames.get_ref().cloned() else { return };
        if let Err(mpsc::error::TrySendError::Full(finish)) = frames.try_send(Outgoing::Finish { channel: self.channel })
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { frames.send(finish).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_reader_sees_pieces_and_then_the_end() {
        let (feed, mut reader) = pair();
        assert!(feed.deliver(Bytes::from_static(b"hello ")).await);
        assert!(feed.deliver(Bytes::from_static(b"world")).await);
        drop(feed);
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
    }

    #[tokio::test]
    async fn a_stream_given_up_is_an_error_after_what_arrived() {
        let (feed, mut reader) = pair();
        assert!(feed.deliver(Bytes::from_static(b"half")).await);
        feed.break_off();
        let mut bytes = Vec::new();
        let error = reader.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(bytes, b"half");
    }

    #[tokio::test]
    async fn a_slow_reader_makes_the_feed_wait() {
        let (feed, mut reader) = pair();
        for _ in 0..WAITING_PIECES {
            assert!(feed.deliver(Bytes::from_static(b"x")).await);
        }
        let mut waiting = Box::pin(feed.deliver(Bytes::from_static(b"x")));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(reader.next_piece().await.unwrap().is_some());
        assert!(waiting.await);
    }

    #[tokio::test]
    async fn dropping_a_writer_ends_its_stream_even_when_the_queue_is_full() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut writer = ChannelWriter::new(7, sender);
        writer.write_all(b"x").await.unwrap();
        drop(writer);
        assert!(matches!(receiver.recv().await, Some(Outgoing::Data { channel: 7, .. })));
        assert!(matches!(receiver.recv().await, Some(Outgoing::Finish { channel: 7 })));
        assert!(receiver.recv().await.is_none());
    }
}
