//! The calling side of exec, attach and port-forward, for tests and Rust callers.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::channel::{ChannelReader, ChannelWriter, Outgoing};
use crate::handshake::{PORT_FORWARD, SPDY, STREAM_PROTOCOL, TUNNELLED_PORT_FORWARD, accept_for_key};
use crate::remote_command::{ERROR, RESIZE, STDERR, STDIN, STDOUT, StreamOptions, TerminalSize};
use crate::spdy::connection::{Connection, Opener};
use crate::websocket::channels::{self, Dialect};
use crate::websocket::tunnel;
use crate::{Outcome, StreamError, Transport, spdy, websocket};

/// The most that is read of a refusal, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// The most that is read of an outcome or error message, in bytes.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// Which dialect to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// WebSocket: `v5.channel.k8s.io`, or SPDY inside it for port-forward.
    WebSocket,
    /// WebSocket `v4.channel.k8s.io`: standard input cannot be ended on its own.
    WebSocket4,
    /// WebSocket `v4.base64.channel.k8s.io`.
    WebSocketBase64,
    /// SPDY/3.1.
    Spdy,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered, but did not upgrade.
    #[error("the server refused to upgrade the connection ({status}): {message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// HTTP failed.
    #[error("the request failed")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("the request is malformed")]
    Request(#[from] http::Error),
    /// The connection failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The server does not prove that it has understood.
    #[error("the server's answer to the upgrade is wrong")]
    Handshake,
}

impl From<std::io::Error> for CallError {
    fn from(error: std::io::Error) -> Self {
        Self::Stream(error.into())
    }
}

/// A running command. Streams that were not asked for are `None`.
#[derive(Debug)]
pub struct RunningCommand {
    /// Goes to the command.
    pub stdin: Option<ChannelWriter>,
    /// Comes from the command. Must be read, or everything stops.
    pub stdout: Option<ChannelReader>,
    /// Comes from the command. Must be read, or everything stops.
    pub stderr: Option<ChannelReader>,
    sizes: Option<ChannelWriter>,
    errors: ChannelReader,
    frames: mpsc::Sender<Outgoing>,
}

impl RunningCommand {
    /// Tells the command the size of the terminal.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), CallError> {
        if let Some(sizes) = &mut self.sizes {
            let text = serde_json::to_vec(&size).map_err(std::io::Error::other)?;
            sizes.send(Bytes::from(text)).await?;
        }
        Ok(())
    }

    /// Waits for the command's end. Output that was not read is lost.
    pub async fn outcome(mut self) -> Result<Outcome, CallError> {
        drop((self.stdout, self.stderr));
        let mut bytes = Vec::new();
        (&mut self.errors).take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes).await?;
        let _ = self.frames.send(Outgoing::Close).await;
        if bytes.is_empty() {
            return Err(StreamError::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)).into());
        }
        Ok(Outcome::from_status(&bytes).unwrap_or_else(|| Outcome::Failure(String::from_utf8_lossy(&bytes).into_owned())))
    }
}

/// Runs or attaches to a command: sends an upgrade request for a path (with query) over a connection to the server.
pub async fn remote_command<T: Transport>(
    connection: T,
    path_and_query: &str,
    headers: HeaderMap,
    protocol: Protocol,
    options: StreamOptions,
) -> Result<RunningCommand, CallError> {
    let (name, dialect) = match protocol {
        Protocol::WebSocket => ("v5.channel.k8s.io", Dialect { base64: false, ends_channels: true }),
        Protocol::WebSocket4 => ("v4.channel.k8s.io", Dialect { base64: false, ends_channels: false }),
        Protocol::WebSocketBase64 => ("v4.base64.channel.k8s.io", Dialect { base64: true, ends_channels: false }),
        Protocol::Spdy => return remote_command_spdy(connection, path_and_query, headers, options).await,
    };
    let io = upgrade(connection, path_and_query, headers, true, name).await?;
    let readable = [false, options.stdout, options.stderr, true, false];
    let channels::Channels { mut readers, frames, .. } = channels::start(io, websocket::Role::Client, dialect, &readable);
    let mut reader = |channel: u32| readers.get_mut(channel as usize).and_then(Option::take);
    let writer = |channel, wanted: bool| wanted.then(|| ChannelWriter::new(channel, frames.clone()));
    Ok(RunningCommand {
        stdin: writer(STDIN, options.stdin),
        stdout: reader(STDOUT),
        stderr: reader(STDERR),
        sizes: writer(RESIZE, options.tty),
        errors: reader(ERROR).ok_or(CallError::Handshake)?,
        frames,
    })
}

async fn remote_command_spdy<T: Transport>(
    connection: T,
    path_and_query: &str,
    headers: HeaderMap,
    options: StreamOptions,
) -> Result<RunningCommand, CallError> {
    let io = upgrade(connection, path_and_query, headers, false, "v4.channel.k8s.io").await?;
    let connection = Connection::start(io, spdy::Role::Client);
    let opener = connection.opener();
    let open = async |kind: &str, wanted: bool| match wanted {
        true => opener.open(vec![("streamtype".to_owned(), kind.to_owned())]).await.map(Some),
        false => Ok(None),
    };
    let errors = open("error", true).await?.ok_or(CallError::Handshake)?;
    Ok(RunningCommand {
        stdin: open("stdin", options.stdin).await?.map(|stream| stream.writer),
        stdout: open("stdout", options.stdout).await?.map(|stream| stream.reader),
        stderr: open("stderr", options.stderr).await?.map(|stream| stream.reader),
        sizes: open("resize", options.tty).await?.map(|stream| stream.writer),
        errors: errors.reader,
        frames: connection.frames().clone(),
    })
}

/// A port-forward to a pod, through which any number of connections can be made. Dropping it ends them.
pub struct PortForward {
    connection: Connection,
    next_request: AtomicU64,
}

/// A connection to a port of a pod.
#[derive(Debug)]
pub struct ForwardedConnection {
    /// Comes from the pod.
    pub reader: ChannelReader,
    /// Goes to the pod.
    pub writer: ChannelWriter,
    /// Says what went wrong, if anything; ends with the connection.
    pub errors: ChannelReader,
}

impl ForwardedConnection {
    /// Waits for the connection's end; `Some` with what went wrong on the other side.
    pub async fn failure(mut self) -> Result<Option<String>, CallError> {
        drop((self.reader, self.writer));
        let mut bytes = Vec::new();
        (&mut self.errors).take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes).await?;
        Ok((!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// Starts a port-forward: sends an upgrade request for a path (with query) over a connection to the server.
pub async fn port_forward<T: Transport>(
    connection: T,
    path_and_query: &str,
    headers: HeaderMap,
    protocol: Protocol,
) -> Result<PortForward, CallError> {
    let connection = if protocol == Protocol::Spdy {
        let io = upgrade(connection, path_and_query, headers, false, PORT_FORWARD).await?;
        Connection::start(io, spdy::Role::Client)
    } else {
        let io = upgrade(connection, path_and_query, headers, true, TUNNELLED_PORT_FORWARD).await?;
        Connection::start(tunnel::start(io, websocket::Role::Client), spdy::Role::Client)
    };
    Ok(PortForward { connection, next_request: AtomicU64::new(0) })
}

impl PortForward {
    /// Makes a connection to a port. Whether there is anybody shows on use, or with [`ForwardedConnection::failure`].
    pub async fn connect(&self, port: u16) -> Result<ForwardedConnection, CallError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed).to_string();
        let opener: &Opener = self.connection.opener();
        let headers = |kind: &str| {
            [("streamtype", kind), ("port", &port.to_string()), ("requestid", &request)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec()
        };
        let mut errors = opener.open(headers("error")).await?;
        errors.writer.shutdown().await?;
        let data = opener.open(headers("data")).await?;
        Ok(ForwardedConnection { reader: data.reader, writer: data.writer, errors: errors.reader })
    }
}

async fn upgrade<T: Transport>(
    connection: T,
    path_and_query: &str,
    headers: HeaderMap,
    websocket: bool,
    protocol: &'static str,
) -> Result<TokioIo<Upgraded>, CallError> {
    let mut nonce = [0u8; 16];
    SystemRandom::new().fill(&mut nonce).map_err(|_| CallError::Handshake)?;
    let key = STANDARD.encode(nonce);
    let mut request = Request::builder()
        .method(if websocket { "GET" } else { "POST" })
        .uri(path_and_query)
        .header(CONNECTION, "Upgrade");
    request = if websocket {
        request
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key)
            .header(SEC_WEBSOCKET_PROTOCOL, protocol)
    } else {
        request.header(UPGRADE, SPDY).header(STREAM_PROTOCOL, protocol)
    };
    let mut request = request.body(Empty::<Bytes>::new())?;
    request.headers_mut().extend(headers);
    request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static("server"));
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "a streaming call ended");
        }
    });
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let proven = response.headers().get(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept == accept_for_key(key.as_bytes()).as_str());
    if websocket && !proven {
        return Err(CallError::Handshake);
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}

async fn refusal(response: Response<Incoming>) -> CallError {
    let status = response.status();
    let message = match Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => format!("(its explanation could not be read: {error})"),
    };
    CallError::Refused { status, message }
}
