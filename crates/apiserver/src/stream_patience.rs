//! Streams of HTTP/2 whose client takes nothing in. Their connection may go on well, so each stream has a limit of its own.
//!
//! hyper asks a body for its next piece once the piece before it could be sent. A stream that waits although its body gave
//! something last therefore waits for its client. hyper tells nobody; but it hands every stream to an executor, and what watches
//! the stream there is told by the body, which it finds through a task-local value. A timer exists while a stream waits, and no longer.
//!
//! What is left of the limit: the last piece of an answer, [`PIECE_BYTES`] at most, waits in the connection until that ends.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tracing::debug;

use crate::http_body::{Body, BoxError};

/// Bodies are sent in pieces of at most so many bytes, as frames are by default. Source: RFC 9113, section 4.2.
const PIECE_BYTES: usize = 16 * 1024;

/// What becomes of a client that takes nothing of an answer for long, where it is not as usual: answers are cut, connections that were
/// upgraded are waited for. In the extensions of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlowReader {
    /// It loses what it does not take.
    IsCut,
    /// It may take its time: somebody reads a log a page at a time. Nothing is made ahead of such a reader but what buffers hold.
    IsAwaited,
}

/// How many streams of a connection are awaited, however long they take.
#[derive(Debug, Clone, Default)]
pub(crate) struct AwaitedStreams(Arc<AtomicUsize>);

impl AwaitedStreams {
    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
    /// An answer that counts until its body is gone.
    pub(crate) fn counted(&self, answer: Response<Body>) -> Response<Body> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Self(self.0.clone()));
        answer.map(|body| {
            let body = body.map_frame(move |frame| {
                let _ = &counted;
                frame
            });
            body.boxed_unsync()
        })
    }
}

struct Counted(AwaitedStreams);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which piece of its body a stream waits to send, from one; zero where it waits for something else.
type Waiting = Arc<AtomicU64>;

tokio::task_local! {
    static WAITING: Waiting;
}

/// Runs streams; each whose client takes nothing for so long is reset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamExecutor {
    pub(crate) patience: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let patience = self.patience;
        tokio::spawn(async move {
            let waiting = Waiting::default();
            let mut stream = pin!(WAITING.scope(waiting.clone(), stream));
            let mut limit: Option<(u64, Pin<Box<tokio::time::Sleep>>)> = None;
            poll_fn(|context| {
                if stream.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                let piece = waiting.load(Ordering::Relaxed);
                if piece == 0 {
                    limit = None;
                    return Poll::Pending;
                }
                let (_, timer) = match &mut limit {
                    Some(known) if known.0 == piece => known,
                    other => other.insert((piece, Box::pin(tokio::time::sleep(patience)))),
                };
                ready!(timer.as_mut().poll(context));
                debug!("a stream is reset, whose client takes nothing in");
                Poll::Ready(())
            })
            .await;
            // The stream goes with this task: that resets it, and what it had yet to send is thrown away.
        });
    }
}

/// An answer that tells its stream when it waits for the client. Only to be called where [`StreamExecutor`] runs the stream.
pub(crate) fn watched(answer: Response<Body>) -> Response<Body> {
    match WAITING.try_with(Waiting::clone) {
        Ok(waiting) => answer.map(|body| Pieces { body, rest: Bytes::new(), given: 0, waiting }.boxed_unsync()),
        Err(_) => answer,
    }
}

struct Pieces {
    body: Body,
    rest: Bytes,
    given: u64,
    waiting: Waiting,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.waiting.store(0, Ordering::Relaxed);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        self.given += 1;
        self.waiting.store(self.given, Ordering::Relaxed);
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
