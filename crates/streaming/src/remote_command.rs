//! The serving side of exec and attach, whatever dialect the client speaks.

use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::channel::{ChannelReader, ChannelWriter, Outgoing};
use crate::handshake::{Upgrade, UpgradeError, Wire};
use crate::spdy::connection::{Connection, Stream};
use crate::websocket::channels;
use crate::{Outcome, StreamError, Transport, spdy, websocket};

/// How long a client may take to open its streams. Source: Kubernetes 1.36, `DefaultStreamCreationTimeout`.
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// A terminal size takes about 30 bytes; anything longer is nonsense.
const MAX_SIZE_BYTES: usize = 4096;

pub(crate) const STDIN: u32 = 0;
pub(crate) const STDOUT: u32 = 1;
pub(crate) const STDERR: u32 = 2;
pub(crate) const ERROR: u32 = 3;
pub(crate) const RESIZE: u32 = 4;

/// Which streams the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamOptions {
    /// It sends standard input.
    pub stdin: bool,
    /// It receives standard output.
    pub stdout: bool,
    /// It receives standard error. Never together with a terminal, where the two are one.
    pub stderr: bool,
    /// The command runs in a terminal.
    pub tty: bool,
}

impl StreamOptions {
    /// Reads a query: `stdin`, `stdout`, `stderr`, `tty` as the API server has them, or `input`, `output`, `error`, `tty` as a kubelet.
    /// # Errors
    /// [`UpgradeError::NoStream`] when none is wanted.
    pub fn from_query(query: &str) -> Result<Self, UpgradeError> {
        let mut options = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let wanted = matches!(value.as_ref(), "1" | "true" | "True" | "TRUE" | "t" | "T");
            match name.as_ref() {
                "stdin" | "input" => options.stdin = wanted,
                "stdout" | "output" => options.stdout = wanted,
                "stderr" | "error" => options.stderr = wanted,
                "tty" => options.tty = wanted,
                _ => {}
            }
        }
        options.stderr &= !options.tty;
        if options.stdin || options.stdout || options.stderr { Ok(options) } else { Err(UpgradeError::NoStream) }
    }

    /// The query a client sends, in the API server's words.
    pub fn to_query(self) -> String {
        format!("stdin={}&stdout={}&stderr={}&tty={}", self.stdin, self.stdout, self.stderr, self.tty)
    }
}

/// The size of a client's terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The sizes a client's terminal takes; only the latest counts.
#[derive(Debug)]
pub struct TerminalSizes(watch::Receiver<Option<TerminalSize>>);

impl TerminalSizes {
    /// The next size; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(size) = *self.0.borrow_and_update() {
                return Some(size);
            }
        }
    }

    /// Reads sizes as they arrive, whether or not anybody looks, so that they never hold up other streams.
    fn from_channel(mut reader: ChannelReader) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let mut text = Vec::new();
            while let Ok(Some(piece)) = reader.next_piece().await {
                text.extend_from_slice(&piece);
                let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<TerminalSize>();
                let mut latest = None;
                let mut broken = false;
                for size in sizes.by_ref() {
                    match size {
                        Ok(size) => latest = Some(size),
                        Err(error) => broken = !error.is_eof(),
                    }
                }
                let read = sizes.byte_offset();
                text.drain(..read.min(text.len()));
                if broken || text.len() > MAX_SIZE_BYTES {
                    text.clear();
                }
                if latest.is_some() {
                    sender.send_replace(latest);
                }
            }
        });
        Self(receiver)
    }
}

/// A client's streams, to be connected with a process. Whatever was not asked for is `None`.
#[derive(Debug)]
pub struct RemoteCommand {
    /// What the client sends. Ends when the client has sent everything; an error means that it has vanished.
    pub stdin: Option<ChannelReader>,
    /// Goes to the client.
    pub stdout: Option<ChannelWriter>,
    /// Goes to the client.
    pub stderr: Option<ChannelWriter>,
    /// Sizes of the client's terminal.
    pub sizes: Option<TerminalSizes>,
    /// Whether a terminal is wanted.
    pub tty: bool,
    /// Cancelled when the client has gone.
    pub disconnected: CancellationToken,
}

/// The rest of the connection, for telling the client how it ended.
#[derive(Debug)]
pub struct Completion {
    errors: ChannelWriter,
    /// This side of the streams that only the client writes to. Go clients stop sending when it ends.
    kept: Vec<ChannelWriter>,
    frames: mpsc::Sender<Outgoing>,
    version: u8,
}

impl Completion {
    /// Tells the client and closes. Everything written before arrives before.
    pub async fn finish(mut self, outcome: &Outcome) -> Result<(), StreamError> {
        let text = if self.version >= 4 { outcome.to_status().to_string() } else { outcome.to_text() };
        self.errors.send(Bytes::from(text)).await?;
        self.errors.shutdown().await?;
        for mut writer in self.kept {
            writer.shutdown().await?;
        }
        // When the queue is gone, so is the client.
        let _ = self.frames.send(Outgoing::Close).await;
        Ok(())
    }
}

/// Answers an exec or attach request: the answer goes to the client as it is (101, or a refusal), and the handler gets the streams once
/// the connection has switched. When its future is done, the outcome is sent; the writers must not be used any more by then.
pub fn serve_remote_command<B, H, F>(mut request: http::Request<B>, options: StreamOptions, handler: H) -> http::Response<Bytes>
where
    H: FnOnce(RemoteCommand) -> F + Send + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let upgrade = match Upgrade::remote_command(request.headers()) {
        Ok(upgrade) => upgrade,
        Err(error) => return error.response(),
    };
    let response = upgrade.response();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let served = async {
            let connection = upgraded.await.map_err(std::io::Error::other)?;
            let (command, completion) = accept(TokioIo::new(connection), &upgrade, options).await?;
            let outcome = handler(command).await;
            completion.finish(&outcome).await
        };
        if let Err(error) = served.await {
            tracing::debug!(%error, "a remote command ended early");
        }
    });
    response
}

/// Opens a client's streams on a connection that has switched.
pub async fn accept<T: Transport>(
    io: T,
    upgrade: &Upgrade,
    options: StreamOptions,
) -> Result<(RemoteCommand, Completion), StreamError> {
    match upgrade.wire {
        Wire::Channels(dialect) => accept_channels(io, dialect, upgrade.version, options).await,
        Wire::Spdy | Wire::Tunnel => accept_spdy(io, upgrade.version, options).await,
    }
}

async fn accept_channels<T: Transport>(
    io: T,
    dialect: channels::Dialect,
    version: u8,
    options: StreamOptions,
) -> Result<(RemoteCommand, Completion), StreamError> {
    let readable = [options.stdin, false, false, false, true];
    let channels::Channels { readers, frames, closed } = channels::start(io, websocket::Role::Server, dialect, &readable);
    let mut readers = readers.into_iter();
    let stdin = readers.next().flatten();
    let sizes = readers.next_back().flatten().map(TerminalSizes::from_channel);
    let writer = |channel, wanted: bool| wanted.then(|| ChannelWriter::new(channel, frames.clone()));
    let command = RemoteCommand {
        stdin,
        stdout: writer(STDOUT, options.stdout),
        stderr: writer(STDERR, options.stderr),
        sizes: sizes.filter(|_| options.tty),
        tty: options.tty,
        disconnected: closed,
    };
    // An empty message on the first channel tells the client that the streams are there.
    let first = if options.stdout { STDOUT } else if options.stderr { STDERR } else { ERROR };
    let _ = frames.send(Outgoing::Data { channel: first, bytes: Bytes::new() }).await;
    let completion = Completion { errors: ChannelWriter::new(ERROR, frames.clone()), kept: Vec::new(), frames, version };
    Ok((command, completion))
}

async fn accept_spdy<T: Transport>(
    io: T,
    version: u8,
    options: StreamOptions,
) -> Result<(RemoteCommand, Completion), StreamError> {
    let mut connection = Connection::start(io, spdy::Role::Server);
    let has_sizes = options.tty && version >= 3;
    let opening = async {
        let mut streams = Streams::default();
        while !streams.complete(options, has_sizes) {
            let stream = connection.next_stream().await.ok_or(StreamError::StreamsMissing)?;
            streams.add(stream).await?;
        }
        Ok::<_, StreamError>(streams)
    };
    let streams = tokio::time::timeout(STREAM_CREATION_TIMEOUT, opening).await.map_err(|_| StreamError::StreamsMissing)??;
    let frames = connection.frames().clone();
    let errors = streams.errors.ok_or(StreamError::StreamsMissing)?;
    let disconnected = connection.closed.clone();
    let done = disconnected.clone();
    tokio::spawn(async move {
        // The connection goes on, but no further stream belongs to it.
        tokio::select! {
            () = async { while let Some(stream) = connection.next_stream().await { stream.refuse().await } } => {}
            () = done.cancelled() => {}
        }
    });
    let mut kept = Vec::new();
    let mut reader_of = |stream: Stream| {
        kept.push(stream.writer);
        stream.reader
    };
    let command = RemoteCommand {
        stdin: streams.stdin.map(&mut reader_of),
        sizes: streams.sizes.map(&mut reader_of).map(TerminalSizes::from_channel),
        stdout: streams.stdout.map(|stream| stream.writer),
        stderr: streams.stderr.map(|stream| stream.writer),
        tty: options.tty,
        disconnected,
    };
    Ok((command, Completion { errors: errors.writer, kept, frames, version }))
}

#[derive(Default)]
struct Streams {
    errors: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    sizes: Option<Stream>,
}

impl Streams {
    async fn add(&mut self, stream: Stream) -> Result<(), StreamError> {
        let place = match stream.headers.get("streamtype") {
            Some("error") => &mut self.errors,
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("resize") => &mut self.sizes,
            _ => {
                stream.refuse().await;
                return Ok(());
            }
        };
        if place.is_some() {
            stream.refuse().await;
        } else {
            stream.accept().await?;
            *place = Some(stream);
        }
        Ok(())
    }

    fn complete(&self, options: StreamOptions, has_sizes: bool) -> bool {
        self.errors.is_some()
            && self.stdin.is_some() >= options.stdin
            && self.stdout.is_some() >= options.stdout
            && self.stderr.is_some() >= options.stderr
            && self.sizes.is_some() >= has_sizes
    }
}

#[cfg(test)]
mod tests;
