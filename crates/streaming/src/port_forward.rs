//! The serving side of port-forward, whatever dialect the client speaks.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::Instant;

use crate::channel::{ChannelReader, ChannelWriter, Outgoing};
use crate::handshake::{Upgrade, UpgradeError, Wire};
use crate::spdy::connection::{Connection, Stream};
use crate::websocket::{channels, tunnel};
use crate::{StreamError, Transport, spdy, websocket};

/// How long the second stream of a pair may take. Source: Kubernetes 1.36, `DefaultStreamCreationTimeout`.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// First streams that may wait for their second one.
const MAX_WAITING_PAIRS: usize = 256;
/// How long a client may still talk to a pod that has closed its end. Source: containerd's port-forward.
const LAST_WORDS: Duration = Duration::from_secs(1);
const COPY_BUFFER_BYTES: usize = 16 * 1024;

/// The ports that a request's query names (`port` or `ports`, repeated or with commas).
pub fn ports_of_query(query: &str) -> Result<Vec<u16>, UpgradeError> {
    let mut ports = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name == "port" || name == "ports" {
            for port in value.split(',') {
                ports.push(port.parse().ok().filter(|port| *port > 0).ok_or(UpgradeError::Ports)?);
            }
        }
    }
    Ok(ports)
}

/// Answers a port-forward request: the answer goes to the client as it is (101, or a refusal). For every connection that the client
/// forwards, `connect` is asked for one to that port of the pod.
pub fn serve_port_forward<B, C, F, S>(mut request: http::Request<B>, connect: C) -> http::Response<Bytes>
where
    C: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let prepared = Upgrade::port_forward(request.headers()).and_then(|upgrade| {
        let ports = ports_of_query(request.uri().query().unwrap_or_default())?;
        // Only with channels must the ports be known beforehand.
        if matches!(upgrade.wire, Wire::Channels(_)) && (ports.is_empty() || ports.len() > 100) {
            return Err(UpgradeError::Ports);
        }
        Ok((upgrade, ports))
    });
    let (upgrade, ports) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error.response(),
    };
    let response = upgrade.response();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let served = async {
            let connection = upgraded.await.map_err(io::Error::other)?;
            serve(TokioIo::new(connection), &upgrade, &ports, connect).await
        };
        if let Err(error) = served.await {
            tracing::debug!(%error, "a port-forward ended early");
        }
    });
    response
}

/// Serves a connection that has switched, until the client closes it.
pub async fn serve<T, C, F, S>(io: T, upgrade: &Upgrade, ports: &[u16], connect: C) -> Result<(), StreamError>
where
    T: Transport,
    C: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match upgrade.wire {
        Wire::Channels(dialect) => serve_channels(io, dialect, ports, connect).await,
        Wire::Tunnel => serve_spdy(tunnel::start(io, websocket::Role::Server), connect).await,
        Wire::Spdy => serve_spdy(io, connect).await,
    }
}

async fn serve_channels<T, C, F, S>(io: T, dialect: channels::Dialect, ports: &[u16], connect: C) -> Result<(), StreamError>
where
    T: Transport,
    C: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let readable: Vec<bool> = ports.iter().flat_map(|_| [true, false]).collect();
    let channels::Channels { readers, frames, closed } = channels::start(io, websocket::Role::Server, dialect, &readable);
    let mut forwarding = tokio::task::JoinSet::new();
    for ((number, port), reader) in (0u32..).zip(ports).zip(readers.into_iter().step_by(2)) {
        let Some(reader) = reader else { continue };
        let mut data = ChannelWriter::new(number * 2, frames.clone());
        let mut errors = ChannelWriter::new(number * 2 + 1, frames.clone());
        // Both channels begin with the port, so that the client can tell them apart.
        let announcement = port.to_le_bytes();
        data.write_all(&announcement).await?;
        errors.write_all(&announcement).await?;
        forwarding.spawn(forward(*port, connect(*port), reader, data, errors));
    }
    tokio::select! {
        () = async { while forwarding.join_next().await.is_some() {} } => {}
        () = closed.cancelled() => {}
    }
    let _ = frames.send(Outgoing::Close).await;
    Ok(())
}

async fn serve_spdy<T, C, F, S>(io: T, connect: C) -> Result<(), StreamError>
where
    T: Transport,
    C: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = Connection::start(io, spdy::Role::Server);
    let connect = Arc::new(connect);
    // Streams that wait for the other one of their pair, by request.
    let mut waiting: HashMap<String, (Instant, Stream)> = HashMap::new();
    let mut forwarding = tokio::task::JoinSet::new();
    while let Some(stream) = connection.next_stream().await {
        let now = Instant::now();
        for (_, (_, late)) in waiting.extract_if(|_, (since, _)| now.duration_since(*since) > PAIR_TIMEOUT) {
            late.refuse().await;
        }
        while forwarding.try_join_next().is_some() {}
        let Some((port, kind)) = port_and_kind(&stream) else {
            stream.refuse().await;
            continue;
        };
        let request = match stream.headers.get("requestid") {
            Some(request) => request.to_owned(),
            // Old clients number nothing but open the data stream right after the error stream.
            None if kind == Kind::Error => format!("stream {}", stream.id),
            None => format!("stream {}", stream.id.saturating_sub(2)),
        };
        stream.accept().await?;
        let (data, errors) = match (waiting.remove(&request), kind) {
            (None, _) => {
                if waiting.len() < MAX_WAITING_PAIRS {
                    waiting.insert(request, (now, stream));
                } else {
                    stream.refuse().await;
                }
                continue;
            }
            (Some((_, other)), Kind::Data) if port_and_kind(&other).is_some_and(|(_, kind)| kind == Kind::Error) => (stream, other),
            (Some((_, other)), Kind::Error) if port_and_kind(&other).is_some_and(|(_, kind)| kind == Kind::Data) => (other, stream),
            (Some(other), _) => {
                waiting.insert(request, other);
                stream.refuse().await;
                continue;
            }
        };
        let connecting = connect(port);
        forwarding.spawn(forward(port, connecting, data.reader, data.writer, errors.writer));
    }
    // The client has gone; what it forwarded ends with it.
    forwarding.shutdown().await;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

fn port_and_kind(stream: &Stream) -> Option<(u16, Kind)> {
    let port = stream.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let kind = match stream.headers.get("streamtype")? {
        "data" => Kind::Data,
        "error" => Kind::Error,
        _ => return None,
    };
    Some((port, kind))
}

/// Copies both ways until both are done, and says on the error stream when there was nothing to connect to.
async fn forward<F, S>(port: u16, connecting: F, reader: ChannelReader, writer: ChannelWriter, mut errors: ChannelWriter)
where
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    match connecting.await {
        Ok(target) => {
            // A connection that breaks on the way is nothing to tell: the client would close all its other ones.
            if let Err(error) = copy_both_ways(reader, writer, errors, target).await {
                tracing::debug!(%error, port, "a forwarded connection broke");
            }
        }
        Err(error) => {
            let sentence = format!("error forwarding port {port}: {error}");
            if errors.write_all(sentence.as_bytes()).await.is_err() {
                tracing::debug!(%error, port, "a client left before its forwarding failed");
            }
        }
    }
}

/// Copies until the pod has said all it has to say. Clients before Kubernetes 1.29 close their end when the error stream has
/// ended, and not before; so it ends together with what the pod says, and what the client says goes on for a moment only.
async fn copy_both_ways<S>(reader: ChannelReader, mut writer: ChannelWriter, errors: ChannelWriter, target: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (from_pod, mut to_pod) = tokio::io::split(target);
    let to_pod = async move {
        let mut reader = BufReader::with_capacity(COPY_BUFFER_BYTES, reader);
        tokio::io::copy_buf(&mut reader, &mut to_pod).await?;
        to_pod.shutdown().await
    };
    let to_client = async move {
        let mut reader = BufReader::with_capacity(COPY_BUFFER_BYTES, from_pod);
        tokio::io::copy_buf(&mut reader, &mut writer).await?;
        drop(errors);
        writer.shutdown().await
    };
    tokio::pin!(to_pod, to_client);
    tokio::select! {
        ended = &mut to_client => {
            ended?;
            tokio::time::timeout(LAST_WORDS, to_pod).await.unwrap_or(Ok(()))
        }
        ended = &mut to_pod => {
            ended?;
            to_client.await
        }
    }
}

#[cfg(test)]
mod tests;
