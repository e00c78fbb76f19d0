//! The `channel.k8s.io` protocols: every message begins with the number of its channel.
//!
//! In the base64 variants the number is a digit and the rest of the message is base64 in text. In version 5 a client ends a channel
//! with the message `255, channel`; servers never send that, since clients would complain about an unknown channel.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Role;
use super::connection::{Answers, EventReader, FrameSource, LINGER, Next, write_all};
use super::frame::{Encoder, Event, NORMAL_CLOSURE};
use crate::channel::{self, ChannelFeed, ChannelReader, Outgoing, WAITING_FRAMES};
use crate::{StreamError, Transport};

/// The channel that says another one has ended (version 5).
const END_OF_CHANNEL: u8 = 255;

/// How a `channel.k8s.io` dialect differs from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// Text messages with base64.
    pub base64: bool,
    /// Channels can be ended one by one (version 5).
    pub ends_channels: bool,
}

/// A running connection. Dropping the sender of `frames` and every writer closes it.
pub(crate) struct Channels {
    /// One per channel that was asked for, in order of number; `None` where nothing is read.
    pub readers: Vec<Option<ChannelReader>>,
    pub frames: mpsc::Sender<Outgoing>,
    /// Cancelled when the peer has closed or vanished.
    pub closed: CancellationToken,
}

/// Starts a connection that reads the channels marked `true`.
pub(crate) fn start<T: Transport>(io: T, role: Role, dialect: Dialect, readable: &[bool]) -> Channels {
    let (read_half, write_half) = tokio::io::split(io);
    let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
    let closed = CancellationToken::new();
    let answers = Arc::new(Answers::default());
    let (feeds, readers): (Vec<_>, Vec<_>) = readable
        .iter()
        .map(|readable| if *readable { let (feed, reader) = channel::pair(); (Some(feed), Some(reader)) } else { (None, None) })
        .unzip();
    let source = OutgoingMessages { waiting, role, dialect };
    // Once this side has said goodbye, nobody waits for what still arrives; the reading task then only lingers.
    let done_writing = CancellationToken::new();
    let stop_writing = CancellationToken::new();
    let (writing_answers, writing_done, writing_stop) = (Arc::clone(&answers), done_writing.clone(), stop_writing.clone());
    tokio::spawn(async move {
        let _done = writing_done.drop_guard();
        tokio::select! {
            written = write_all(write_half, role, writing_answers, source) => if let Err(error) = written {
                tracing::debug!(%error, "writing to a WebSocket connection");
            },
            () = writing_stop.cancelled() => {}
        }
    });
    let reading_closed = closed.clone();
    tokio::spawn(async move {
        let mut events = EventReader::new(read_half, role);
        let mut inbox = Inbox { dialect, feeds, state: Message::Outside };
        let ended = tokio::select! {
            ended = inbox.read(&mut events, &answers) => Some(ended),
            () = done_writing.cancelled() => None,
        };
        match ended {
            Some(Ok(code)) => {
                inbox.finish(code == NORMAL_CLOSURE);
                answers.close(code);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "reading from a WebSocket connection");
                inbox.finish(false);
                answers.close_for(&error);
            }
            None => inbox.finish(false),
        }
        reading_closed.cancel();
        // A peer that has gone may leave the writing task with bytes that nobody takes.
        if tokio::time::timeout(LINGER, done_writing.cancelled()).await.is_ok() {
            events.linger().await;
        }
        stop_writing.cancel();
    });
    Channels { readers, frames, closed }
}

/// Where in a message the reader is.
#[derive(Debug)]
enum Message {
    Outside,
    /// The channel's number comes next.
    Number,
    /// The number of a channel that ends comes next.
    Ending,
    /// Data of this channel; for base64, up to three characters that wait for their fourth.
    Data { channel: u8, rest: BytesMut },
}

struct Inbox {
    dialect: Dialect,
    feeds: Vec<Option<ChannelFeed>>,
    state: Message,
}

impl Inbox {
    /// Delivers messages until the peer closes; returns its closing code.
    async fn read<R>(&mut self, events: &mut EventReader<R>, answers: &Answers) -> Result<u16, StreamError>
    where
        R: tokio::io::AsyncRead + Unpin,
    {
        loop {
            match events.next().await? {
                Event::Start => self.state = Message::Number,
                Event::Piece(piece) => self.piece(piece).await?,
                Event::End => {
                    if let Message::Data { rest, .. } = &self.state
                        && !rest.is_empty()
                    {
                        return Err(StreamError::Protocol("a message ends within a group of base64"));
                    }
                    self.state = Message::Outside;
                }
                Event::Ping(payload) => answers.pong(payload),
                Event::Pong => {}
                Event::Close(code) => return Ok(code.unwrap_or(NORMAL_CLOSURE)),
            }
        }
    }

    async fn piece(&mut self, mut piece: Bytes) -> Result<(), StreamError> {
        while !piece.is_empty() {
            match &mut self.state {
                Message::Outside => return Ok(()),
                Message::Number => {
                    let number = piece.get_u8();
                    self.state = if number == END_OF_CHANNEL && self.dialect.ends_channels {
                        Message::Ending
                    } else {
                        let channel = if self.dialect.base64 { number.wrapping_sub(b'0') } else { number };
                        Message::Data { channel, rest: BytesMut::new() }
                    };
                }
                Message::Ending => {
                    let channel = piece.get_u8();
                    if let Some(feed) = self.feeds.get_mut(usize::from(channel)) {
                        *feed = None;
                    }
                    self.state = Message::Outside;
                }
                Message::Data { channel, rest } => {
                    let channel = usize::from(*channel);
                    let data = if self.dialect.base64 { decode_base64(rest, &piece)? } else { std::mem::take(&mut piece) };
                    piece.clear();
                    // Messages on channels that nobody asked for are dropped, as upstream does.
                    if let Some(slot) = self.feeds.get_mut(channel)
                        && let Some(feed) = slot
                        && !feed.deliver(data).await
                    {
                        *slot = None;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, cleanly: bool) {
        for feed in self.feeds.drain(..).flatten() {
            if !cleanly {
                feed.break_off();
            }
        }
    }
}

/// Decodes all whole groups of four; what is left over waits in `rest`.
fn decode_base64(rest: &mut BytesMut, piece: &[u8]) -> Result<Bytes, StreamError> {
    rest.extend_from_slice(piece);
    let whole = rest.split_to(rest.len() / 4 * 4);
    STANDARD.decode(&whole).map(Bytes::from).map_err(|_| StreamError::Protocol("a message is not base64"))
}

struct OutgoingMessages {
    waiting: mpsc::Receiver<Outgoing>,
    role: Role,
    dialect: Dialect,
}

impl FrameSource for OutgoingMessages {
    type Item = Outgoing;

    async fn next(&mut self) -> Next<Outgoing> {
        self.waiting.recv().await.map_or(Next::Done(NORMAL_CLOSURE), Next::Item)
    }

    fn next_now(&mut self) -> Option<Next<Outgoing>> {
        self.waiting.try_recv().ok().map(Next::Item)
    }

    fn encode(&mut self, item: Outgoing, encoder: &mut Encoder, out: &mut BytesMut) -> Option<u16> {
        match item {
            Outgoing::Data { channel, bytes } => {
                let number = u8::try_from(channel).unwrap_or(END_OF_CHANNEL);
                if self.dialect.base64 {
                    encoder.message(true, &[&[b'0'.wrapping_add(number)], STANDARD.encode(&bytes).as_bytes()], out);
                } else {
                    encoder.message(false, &[&[number], &bytes], out);
                }
            }
            Outgoing::Finish { channel } => {
                if self.role == Role::Client && self.dialect.ends_channels {
                    encoder.message(false, &[&[END_OF_CHANNEL, u8::try_from(channel).unwrap_or(END_OF_CHANNEL)]], out);
                }
            }
            Outgoing::Close => return Some(NORMAL_CLOSURE),
            // Channels are numbered beforehand; none is opened or given up on its own.
            Outgoing::Reset { .. } | Outgoing::Open { .. } | Outgoing::Reply { .. } => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::channel::ChannelWriter;

    const V5: Dialect = Dialect { base64: false, ends_channels: true };
    const V4_BASE64: Dialect = Dialect { base64: true, ends_channels: false };

    fn connect(dialect: Dialect) -> (Channels, Channels) {
        let (client, server) = tokio::io::duplex(1000);
        (start(client, Role::Client, dialect, &[false, true]), start(server, Role::Server, dialect, &[true, false]))
    }

    async fn echo(dialect: Dialect, length: usize) {
        let (mut client, mut server) = connect(dialect);
        let content: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
        let sent = content.clone();
        tokio::spawn(async move {
            let mut writer = ChannelWriter::new(1, server.frames.clone());
            let reader = server.readers[0].as_mut().unwrap();
            let mut received = vec![0; length];
            reader.read_exact(&mut received).await.unwrap();
            writer.write_all(&received).await.unwrap();
            server.frames.send(Outgoing::Close).await.unwrap();
        });
        let frames = client.frames.clone();
        tokio::spawn(async move { ChannelWriter::new(0, frames).write_all(&sent).await.unwrap() });
        let mut back = Vec::new();
        client.readers[1].as_mut().unwrap().read_to_end(&mut back).await.unwrap();
        assert!(back == content);
    }

    #[tokio::test]
    async fn large_data_goes_there_and_back() {
        echo(V5, 1_000_000).await;
        echo(V4_BASE64, 1_000_000).await;
    }

    #[tokio::test]
    async fn a_client_of_version_5_can_end_one_channel() {
        let (client, mut server) = connect(V5);
        let mut writer = ChannelWriter::new(0, client.frames.clone());
        writer.write_all(b"all").await.unwrap();
        writer.shutdown().await.unwrap();
        let mut text = String::new();
        server.readers[0].as_mut().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "all");
        assert!(!server.closed.is_cancelled());
    }

    #[tokio::test]
    async fn a_vanished_peer_is_an_error_and_a_closing_one_is_not() {
        let (client, mut server) = connect(V5);
        client.frames.send(Outgoing::Close).await.unwrap();
        let mut nothing = Vec::new();
        server.readers[0].as_mut().unwrap().read_to_end(&mut nothing).await.unwrap();
        server.closed.cancelled().await;

        let (client, server) = tokio::io::duplex(1000);
        let mut server = start(server, Role::Server, V5, &[true]);
        drop(client);
        assert!(server.readers[0].as_mut().unwrap().read_to_end(&mut nothing).await.is_err());
        server.closed.cancelled().await;
        let mut writer = ChannelWriter::new(1, server.frames.clone());
        while writer.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn pings_are_answered_while_nobody_reads_the_data() {
        let (mut client, server) = tokio::io::duplex(100_000);
        let _server = start(server, Role::Server, V5, &[true]);
        let mut encoder = Encoder::new(Role::Client);
        let mut bytes = BytesMut::new();
        encoder.message(false, &[&[0], b"waits"], &mut bytes);
        bytes.extend_from_slice(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i']);
        client.write_all(&bytes).await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x8a, 2, b'h', b'i']);
    }

    #[tokio::test]
    async fn nonsense_closes_the_connection_with_the_right_code() {
        let (mut client, server) = tokio::io::duplex(1000);
        let server = start(server, Role::Server, V5, &[true]);
        client.write_all(&[0xff, 0xff, 0xff]).await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x88, 2, 0x03, 0xea]);
        server.closed.cancelled().await;
    }
}
