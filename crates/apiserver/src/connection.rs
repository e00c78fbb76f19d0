//! One connection of a client: TLS, whom its certificate names, requests until it ends; and how long a client may take for each.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    authentication::ConnectionIdentity,
    server::{ApiServer, boxed},
    stream_patience::{self, AwaitedStreams, SlowReader, StreamExecutor},
};

/// How long clients may take before their connection ends.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, counted from the end of the answer before it. Somewhat more than the 90 s that clients keep
    /// connections which they do not use, so that the client is who closes them.
    pub head: Duration,
    /// For taking in anything at all of an answer that is ready for it, by connection and by stream of HTTP/2. A stream that a connection
    /// was upgraded to may wait for ever, and so may what is passed on from elsewhere (logs, proxies): somebody may have stopped their
    /// terminal. The way to the other end waits with it.
    pub answer: Duration,
    /// For answering a ping (HTTP/2); pings are as far apart.
    pub ping: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(10), head: Duration::from_secs(100), answer: Duration::from_secs(60), ping: Duration::from_secs(30) }
    }
}

/// What a client begins HTTP/2 with, in bytes; waited for by nobody else. Source: RFC 9113, section 3.4.
const HTTP2_PREFACE_BYTES: usize = 24;

/// Ends a connection whose other side takes nothing in, or does not even begin.
struct StallGuard<S> {
    stream: S,
    patience: Patience,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Whether the connection itself is awaited: it was upgraded, or (HTTP/1.1) its present answer is.
    awaited: Arc<AtomicBool>,
    /// Those of HTTP/2.
    streams: AwaitedStreams,
    /// Bytes of its opening that the client still owes.
    owed: usize,
    opening: Pin<Box<Sleep>>,
}

impl<S> StallGuard<S> {
    fn judge<T>(&mut self, outcome: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.awaited.load(Ordering::Relaxed) || self.streams.any() {
            self.waiting = None;
            return outcome;
        }
        let patience = self.patience.answer;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing in")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.owed > 0 {
            self.owed = self.owed.saturating_sub(buffer.filled().len() - before);
            if outcome.is_pending() {
                ready!(self.opening.as_mut().poll(context));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not begin")));
            }
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(outcome, context)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.judge(outcome, context)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(outcome, context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(outcome, context)
    }
}

/// How a connection ends; at `shutdown` it gets a moment to do so well. Both versions of HTTP have this, and nothing in common.
macro_rules! until_the_end {
    ($connection:expr, $shutdown:expr) => {{
        let connection = $connection;
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = $shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(Duration::from_secs(2), connection).await.unwrap_or(Ok(()))
            }
        }
    }};
}

/// Serves one connection until it ends, or for a moment after `shutdown`.
pub(crate) async fn serve(
    server: ApiServer,
    patience: Patience,
    acceptor: tokio_rustls::TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    if let Err(error) = dialer::direct::notice_vanished_peer(&stream) {
        debug!(%peer, %error, "keep-alive could not be set");
    }
    let stream = match tokio::time::timeout(patience.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return debug!(%peer, "TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let identity = match pki::CertificateIdentity::of_peer(session.peer_certificates()) {
        Ok(identity) => identity.map(ConnectionIdentity::from),
        Err(error) => return debug!(%peer, %error, "the client's certificate names nobody"),
    };
    let agreed_on_http2 = session.alpn_protocol() == Some(b"h2");
    let (awaited, streams) = (Arc::<AtomicBool>::default(), AwaitedStreams::default());
    let stream = StallGuard {
        stream,
        patience,
        waiting: None,
        awaited: awaited.clone(),
        streams: streams.clone(),
        owed: if agreed_on_http2 { HTTP2_PREFACE_BYTES } else { 0 },
        opening: Box::pin(tokio::time::sleep(patience.head)),
    };
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        let (server, awaited, streams) = (server.clone(), awaited.clone(), streams.clone());
        async move {
            let answer = server.answer(request.map(boxed)).await;
            let is_awaited = match answer.extensions().get::<SlowReader>() {
                Some(SlowReader::IsAwaited) => true,
                Some(SlowReader::IsCut) => false,
                None => answer.status() == http::StatusCode::SWITCHING_PROTOCOLS,
            };
            if !agreed_on_http2 {
                // Answers follow each other, so what holds for one holds until it was sent to its last byte.
                awaited.store(is_awaited, Ordering::Relaxed);
                return Ok::<_, Infallible>(answer);
            }
            Ok(if is_awaited { streams.counted(answer) } else { stream_patience::watched(answer) })
        }
    });
    // What was agreed on is not guessed from the first bytes, for which a client might take for ever.
    let stream = TokioIo::new(stream);
    let ended = if agreed_on_http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(StreamExecutor { patience: patience.answer });
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(patience.ping)
            .keep_alive_timeout(patience.ping)
            .max_concurrent_streams(250)
            .max_header_list_size(64 * 1024);
        until_the_end!(builder.serve_connection(stream, service), shutdown)
    } else {
        // Without `pipeline_flush`, under which hyper takes in all that a body has, however little the client reads.
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(patience.head).max_buf_size(64 * 1024);
        until_the_end!(builder.serve_connection(stream, service).with_upgrades(), shutdown)
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "connection ended");
    }
}
