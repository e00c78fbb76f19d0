//! A stream that is read in one task and written in another, over one that remembers only the task that polled it last.
//!
//! A yamux stream sends window updates while it is read, through the same queue that writes go through, and that queue wakes one task.
//! The task that writes would then sleep for ever when the other one asked after it. So both are woken, whoever asked.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) struct TwoTasks<S> {
    stream: S,
    both: Arc<Both>,
    waker: Waker,
}

#[derive(Default)]
struct Both {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

impl<S> TwoTasks<S> {
    pub fn new(stream: S) -> Self {
        let both = Arc::new(Both::default());
        let waker = Waker::from(Arc::clone(&both));
        Self { stream, both, waker }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TwoTasks<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.both.reader.register(context.waker());
        Pin::new(&mut this.stream).poll_read(&mut Context::from_waker(&this.waker), buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TwoTasks<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.both.writer.register(context.waker());
        Pin::new(&mut this.stream).poll_write(&mut Context::from_waker(&this.waker), buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.both.writer.register(context.waker());
        Pin::new(&mut this.stream).poll_flush(&mut Context::from_waker(&this.waker))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.both.writer.register(context.waker());
        Pin::new(&mut this.stream).poll_shutdown(&mut Context::from_waker(&this.waker))
    }
}
