//! The agent's side of a connection to a shim. The protocol is described in the crate `shim`.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use shim::{Message, SOCKET_NAME};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};

/// How long a shim may take for an answer that it gives at once.
pub const PROMPT: Duration = Duration::from_secs(10);

/// A connection that carries one operation.
pub struct ShimConnection {
    stream: UnixStream,
    received: Vec<u8>,
}

impl ShimConnection {
    /// Connects to the shim in a sandbox's directory.
    ///
    /// # Errors
    /// Where nobody listens there: the shim is gone.
    pub async fn open(directory: &Path) -> io::Result<Self> {
        // By way of the directory, since a socket's path may not be longer than 107 bytes.
        let directory = std::fs::File::open(directory)?;
        let path = crate::inside::path_of(directory.as_fd()).join(SOCKET_NAME);
        Ok(Self { stream: UnixStream::connect(path).await?, received: Vec::new() })
    }

    /// Sends a message, with descriptors beside it.
    ///
    /// # Errors
    /// Where the shim is gone.
    pub async fn send(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = message.encode();
        let mut sent = 0;
        if !descriptors.is_empty() {
            sent = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                        return Err(io::Error::from(io::ErrorKind::InvalidInput));
                    }
                    Ok(rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
                })
                .await?;
        }
        self.stream.write_all(bytes.get(sent..).unwrap_or_default()).await
    }

    /// Waits for the next message. Safe to be dropped while waiting.
    ///
    /// # Errors
    /// `UnexpectedEof` where the shim closed the connection, or is gone.
    pub async fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = Message::take_from(&mut self.received).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
    }

    /// Sends a message and waits for its answer.
    ///
    /// # Errors
    /// Where the shim is gone.
    pub async fn ask(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<Message> {
        self.send(message, descriptors).await?;
        self.receive().await
    }
}

/// Asks one thing that is answered at once.
///
/// # Errors
/// Where the shim is gone or hangs.
pub async fn ask(directory: &Path, message: &Message) -> io::Result<Message> {
    let asked = async { ShimConnection::open(directory).await?.ask(message, &[]).await };
    tokio::time::timeout(PROMPT, asked).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}
