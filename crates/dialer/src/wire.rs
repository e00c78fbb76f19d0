//! What runs inside a tunnel: yamux streams, each opened by the server with a header that names its target.
//!
//! Header: version (1), kind (0 node API, 1 pod); for a pod, length of the address (4 or 16), address, port (big endian).
//! Answer: 0 when connected; otherwise 1, length (two bytes, big endian) and text of the reason.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection as Multiplexer, Mode};

use crate::Connection;
use crate::two_tasks::TwoTasks;

const VERSION: u8 = 1;
const NODE_API: u8 = 0;
const POD: u8 = 1;
const CONNECTED: u8 = 0;
const FAILED: u8 = 1;
/// Streams that may be open at once in one tunnel.
const MAX_STREAMS: usize = 1024;
/// What the two windows of all streams together may take: exactly the smallest window for each, which switches growing them off.
const MAX_WINDOW_BYTES: usize = MAX_STREAMS * 256 * 1024;
/// How long the other side may take to name a target or to answer. Longer than connecting to a pod takes. (Tests do not wait for it.)
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });

/// One stream inside a tunnel. It may be read in one task and written in another.
pub(crate) type Stream = TwoTasks<Compat<yamux::Stream>>;
/// Asks the driver for a stream.
pub(crate) type Opening = oneshot::Sender<io::Result<Stream>>;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    NodeApi,
    Pod(SocketAddr),
}

impl Header {
    pub async fn write<W: AsyncWrite + Unpin>(self, io: &mut W) -> io::Result<()> {
        let mut bytes = vec![VERSION];
        match self {
            Self::NodeApi => bytes.push(NODE_API),
            Self::Pod(address) => {
                bytes.push(POD);
                match address.ip() {
                    IpAddr::V4(address) => {
                        bytes.push(4);
                        bytes.extend(address.octets());
                    }
                    IpAddr::V6(address) => {
                        bytes.push(16);
                        bytes.extend(address.octets());
                    }
                }
                bytes.extend(address.port().to_be_bytes());
            }
        }
        io.write_all(&bytes).await?;
        io.flush().await
    }

    pub async fn read<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Self> {
        let malformed = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
        if io.read_u8().await? != VERSION {
            return Err(malformed("the header of a tunnelled connection has an unknown version"));
        }
        match io.read_u8().await? {
            NODE_API => Ok(Self::NodeApi),
            POD => {
                let address = match io.read_u8().await? {
                    4 => IpAddr::from(io.read_u32().await?.to_be_bytes()),
                    16 => IpAddr::from(io.read_u128().await?.to_be_bytes()),
                    _ => return Err(malformed("an address must have 4 or 16 bytes")),
                };
                Ok(Self::Pod(SocketAddr::new(address, io.read_u16().await?)))
            }
            _ => Err(malformed("the header of a tunnelled connection names an unknown kind of target")),
        }
    }
}

/// Tells the server whether its target was reached.
pub(crate) async fn write_answer<W: AsyncWrite + Unpin>(io: &mut W, failure: Option<&str>) -> io::Result<()> {
    match failure {
        None => io.write_all(&[CONNECTED]).await?,
        Some(reason) => {
            let reason: &[u8] = reason.as_bytes().get(..512).unwrap_or(reason.as_bytes());
            io.write_all(&[&[FAILED], (reason.len() as u16).to_be_bytes().as_slice(), reason].concat()).await?;
        }
    }
    io.flush().await
}

/// Reads the answer; the reason when the target was not reached. The outer error means that the tunnel is broken.
pub(crate) async fn read_answer<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Result<(), String>> {
    match io.read_u8().await? {
        CONNECTED => Ok(Ok(())),
        _ => {
            let mut reason = vec![0; usize::from(io.read_u16().await?)];
            io.read_exact(&mut reason).await?;
            Ok(Err(String::from_utf8_lossy(&reason).into_owned()))
        }
    }
}

/// Runs one end of a tunnel until it breaks: opens streams on demand, and hands over those the other end opens.
pub(crate) async fn drive<C: Connection>(
    io: C,
    mode: Mode,
    mut openings: mpsc::Receiver<Opening>,
    mut accept: impl FnMut(Stream),
) -> io::Result<()> {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_WINDOW_BYTES));
    let mut multiplexer = Multiplexer::new(io.compat(), config, mode);
    let mut opening: Option<Opening> = None;
    let driving = std::future::poll_fn(|context| {
        loop {
            if opening.is_none()
                && let Poll::Ready(Some(next)) = openings.poll_recv(context)
            {
                opening = Some(next);
            }
            if let Some(waiting) = opening.take() {
                if waiting.is_closed() {
                    continue;
                }
                match multiplexer.poll_new_outbound(context) {
                    Poll::Ready(opened) => {
                        let _ = waiting.send(opened.map(|stream| TwoTasks::new(stream.compat())).map_err(io::Error::other));
                        continue;
                    }
                    Poll::Pending => opening = Some(waiting),
                }
            }
            match multiplexer.poll_next_inbound(context) {
                Poll::Ready(Some(Ok(stream))) => accept(TwoTasks::new(stream.compat())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    pin!(driving).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn headers_and_answers_survive_the_wire() {
        for header in [Header::NodeApi, Header::Pod("10.1.2.3:80".parse().unwrap()), Header::Pod("[fd00::1]:443".parse().unwrap())] {
            let mut bytes = Vec::new();
            header.write(&mut bytes).await.unwrap();
            assert_eq!(Header::read(&mut bytes.as_slice()).await.unwrap(), header);
        }
        for failure in [None, Some("connection refused")] {
            let mut bytes = Vec::new();
            write_answer(&mut bytes, failure).await.unwrap();
            assert_eq!(read_answer(&mut bytes.as_slice()).await.unwrap().err().as_deref(), failure);
        }
    }

    #[tokio::test]
    async fn a_malformed_header_is_refused() {
        for bytes in [&[][..], &[9], &[1, 7], &[1, 1, 5, 0, 0, 0, 0, 0], &[1, 1, 4, 0]] {
            assert!(Header::read(&mut &*bytes).await.is_err());
        }
    }
}
