//! A SPDY connection: accepting and opening streams, with one task that reads and one that writes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::Role;
use super::frame::{Decoder, Encoder, Event, reset_status};
use super::headers::Headers;
use crate::channel::{self, ChannelFeed, ChannelReader, ChannelWriter, Outgoing, PIECE_BYTES, WAITING_FRAMES};
use crate::websocket::connection::LINGER;
use crate::{StreamError, Transport};

/// Streams of the peer that may be open at once; more are refused. Each forwarded connection takes two.
const MAX_STREAMS: usize = 2048;
/// Opened streams that wait to be accepted before the connection stops reading.
const WAITING_STREAMS: usize = 16;
/// Pings that wait for their answer; older ones are forgotten when a peer sends them faster than it reads.
const WAITING_PINGS: usize = 32;

/// A running connection. Dropping it, its streams and openers closes it.
pub(crate) struct Connection {
    incoming: mpsc::Receiver<Stream>,
    opener: Opener,
    /// Cancelled when the peer has gone.
    pub closed: CancellationToken,
}

/// Opens streams.
#[derive(Clone)]
pub(crate) struct Opener {
    role: Role,
    frames: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
}

/// One stream, open in both directions.
pub(crate) struct Stream {
    pub id: u32,
    pub headers: Headers,
    pub reader: ChannelReader,
    pub writer: ChannelWriter,
    frames: mpsc::Sender<Outgoing>,
}

impl Stream {
    /// Tells the peer that the stream it opened is accepted.
    pub async fn accept(&self) -> io::Result<()> {
        self.command(Outgoing::Reply { channel: self.id }).await
    }

    /// Refuses a stream that the peer opened.
    pub async fn refuse(self) {
        let _ = self.command(Outgoing::Reset { channel: self.id, status: reset_status::PROTOCOL_ERROR }).await;
    }

    async fn command(&self, command: Outgoing) -> io::Result<()> {
        self.frames.send(command).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    streams: HashMap<u32, Known>,
    pings: VecDeque<u32>,
    last_opened: u32,
    last_received: u32,
}

struct Known {
    /// `None` when the peer has sent everything, or nobody listens any more.
    feed: Option<ChannelFeed>,
    remote_finished: bool,
    local_finished: bool,
}

impl Connection {
    /// Starts a connection on an upgraded stream.
    pub fn start<T: Transport>(io: T, role: Role) -> Self {
        let (read_half, write_half) = tokio::io::split(io);
        let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
        let (new_streams, incoming) = mpsc::channel(WAITING_STREAMS);
        let shared = Arc::new(Shared::default());
        let closed = CancellationToken::new();
        let done_writing = CancellationToken::new();
        let stop_writing = CancellationToken::new();
        let (writing_shared, writing_done, writing_stop) = (Arc::clone(&shared), done_writing.clone(), stop_writing.clone());
        tokio::spawn(async move {
            let _done = writing_done.drop_guard();
            tokio::select! {
                written = write_all(write_half, waiting, &writing_shared) => if let Err(error) = written {
                    tracing::debug!(%error, "writing to a SPDY connection");
                },
                () = writing_stop.cancelled() => {}
            }
        });
        // The reading task holds only a weak sender, so that the writing task ends when the users of the connection are gone.
        let (weak_frames, reading_shared, reading_closed) = (frames.downgrade(), Arc::clone(&shared), closed.clone());
        tokio::spawn(async move {
            let mut reader = Reader { io: read_half, buffer: BytesMut::new(), decoder: Decoder::new() };
            let dispatcher = Dispatcher { role, shared: &reading_shared, frames: weak_frames, new_streams };
            tokio::select! {
                ended = dispatcher.run(&mut reader) => if let Err(error) = ended {
                    tracing::debug!(%error, "reading from a SPDY connection");
                },
                () = done_writing.cancelled() => {}
            }
            for (_, known) in reading_shared.state.lock().streams.drain() {
                if let Some(feed) = known.feed {
                    feed.break_off();
                }
            }
            drop(dispatcher);
            reading_closed.cancel();
            // Give the peer its time to take what was sent last, and to close first.
            if tokio::time::timeout(LINGER, done_writing.cancelled()).await.is_ok() {
                reader.linger().await;
            }
            stop_writing.cancel();
        });
        Self { incoming, opener: Opener { role, frames, shared }, closed }
    }

    /// The next stream that the peer opens; `None` when the connection has ended.
    pub async fn next_stream(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// For opening streams.
    pub fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Where frames go that are not part of a stream.
    pub fn frames(&self) -> &mpsc::Sender<Outgoing> {
        &self.opener.frames
    }
}

impl Opener {
    /// Opens a stream. It may be written to at once.
    pub async fn open(&self, headers: Vec<(String, String)>) -> io::Result<Stream> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the connection is closed");
        // The place in the queue comes first: streams must appear on the wire in the order of their numbers.
        let place = self.frames.reserve().await.map_err(|_| gone())?;
        let (feed, reader) = channel::pair();
        let id = {
            let mut state = self.shared.state.lock();
            let id = match (state.last_opened, self.role) {
                (0, Role::Client) => 1,
                (0, Role::Server) => 2,
                (last, _) => last.checked_add(2).filter(|id| *id < 1 << 31).ok_or_else(gone)?,
            };
            state.last_opened = id;
            state.streams.insert(id, Known { feed: Some(feed), remote_finished: false, local_finished: false });
            place.send(Outgoing::Open { channel: id, headers: headers.clone() });
            id
        };
        Ok(Stream { id, headers: Headers(headers), reader, writer: ChannelWriter::new(id, self.frames.clone()), frames: self.frames.clone() })
    }
}

impl Shared {
    /// Marks a direction as finished, and forgets the stream when both are.
    fn finish(&self, stream: u32, local: bool) {
        let mut state = self.state.lock();
        if let Some(known) = state.streams.get_mut(&stream) {
            if local {
                known.local_finished = true;
            } else {
                known.remote_finished = true;
                known.feed = None;
            }
            if known.local_finished && known.remote_finished {
                state.streams.remove(&stream);
            }
        }
    }

    fn reset(&self, stream: u32) {
        if let Some(feed) = self.state.lock().streams.remove(&stream).and_then(|known| known.feed) {
            feed.break_off();
        }
    }
}

struct Reader<R> {
    io: R,
    buffer: BytesMut,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// The next event; `None` at the end of the connection.
    async fn next(&mut self) -> Result<Option<Event>, StreamError> {
        loop {
            if let Some(event) = self.decoder.next(&mut self.buffer)? {
                return Ok(Some(event));
            }
            self.buffer.reserve(PIECE_BYTES);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn linger(mut self) {
        let _ = tokio::time::timeout(LINGER, async {
            loop {
                self.buffer.clear();
                self.buffer.reserve(PIECE_BYTES);
                if !matches!(self.io.read_buf(&mut self.buffer).await, Ok(length) if length > 0) {
                    break;
                }
            }
        })
        .await;
    }
}

struct Dispatcher<'a> {
    role: Role,
    shared: &'a Shared,
    frames: mpsc::WeakSender<Outgoing>,
    new_streams: mpsc::Sender<Stream>,
}

impl Dispatcher<'_> {
    async fn run<R: AsyncRead + Unpin>(&self, reader: &mut Reader<R>) -> Result<(), StreamError> {
        while let Some(event) = reader.next().await? {
            match event {
                Event::Open { stream, headers, finished, unidirectional } => {
                    self.opened(stream, headers, finished, unidirectional).await?;
                }
                Event::Reply { stream, finished } | Event::MoreHeaders { stream, finished } => {
                    if finished {
                        self.shared.finish(stream, false);
                    }
                }
                Event::Data { stream, bytes } => {
                    let feed = self.shared.state.lock().streams.get(&stream).and_then(|known| known.feed.clone());
                    // Data of a stream that is gone may still be under way; it is dropped.
                    if let Some(feed) = feed
                        && !feed.deliver(bytes).await
                        && let Some(known) = self.shared.state.lock().streams.get_mut(&stream)
                    {
                        known.feed = None;
                    }
                }
                Event::Finished { stream } => self.shared.finish(stream, false),
                Event::Reset { stream } => self.shared.reset(stream),
                Event::Ping(number) => {
                    let ours = (number % 2 == 1) == (self.role == Role::Client);
                    if !ours {
                        let mut state = self.shared.state.lock();
                        if state.pings.len() == WAITING_PINGS {
                            state.pings.pop_front();
                        }
                        state.pings.push_back(number);
                        self.shared.wake.notify_one();
                    }
                }
                // Open streams go on; the peer closes when they are done.
                Event::GoAway => {}
            }
        }
        Ok(())
    }

    async fn opened(&self, id: u32, headers: Headers, finished: bool, unidirectional: bool) -> Result<(), StreamError> {
        let Some(frames) = self.frames.upgrade() else { return Ok(()) };
        let of_peer = (id % 2 == 1) == (self.role == Role::Server);
        let (feed, reader) = channel::pair();
        let accepted = {
            let mut state = self.shared.state.lock();
            if !of_peer || id <= state.last_received {
                return Err(StreamError::Protocol("a SPDY stream has a wrong number"));
            }
            state.last_received = id;
            let room = state.streams.len() < MAX_STREAMS;
            if room {
                let feed = (!finished).then_some(feed);
                state.streams.insert(id, Known { feed, remote_finished: finished, local_finished: unidirectional });
            }
            room
        };
        let writer = ChannelWriter::new(id, frames.clone());
        let stream = Stream { id, headers, reader, writer, frames: frames.clone() };
        if !accepted || self.new_streams.send(stream).await.is_err() {
            self.shared.reset(id);
            let _ = frames.send(Outgoing::Reset { channel: id, status: reset_status::REFUSED_STREAM }).await;
        }
        Ok(())
    }
}

async fn write_all<W: AsyncWrite + Unpin>(mut io: W, mut waiting: mpsc::Receiver<Outgoing>, shared: &Shared) -> io::Result<()> {
    let mut encoder = Encoder::default();
    let mut out = BytesMut::new();
    let mut closing = false;
    while !closing {
        let mut upcoming = tokio::select! {
            biased;
            () = shared.wake.notified() => None,
            frame = waiting.recv() => {
                closing = frame.is_none();
                frame
            }
        };
        while let Some(frame) = upcoming.take() {
            closing = encode(frame, &mut encoder, shared, &mut out);
            if !closing && out.len() < PIECE_BYTES {
                upcoming = waiting.try_recv().ok();
            }
        }
        {
            let mut state = shared.state.lock();
            for number in state.pings.drain(..) {
                Encoder::ping(number, &mut out);
            }
            if closing {
                // Whatever is still open is given up, so that the peer does not wait for it.
                for (stream, known) in &state.streams {
                    if !(known.local_finished && known.remote_finished) {
                        Encoder::reset(*stream, reset_status::CANCEL, &mut out);
                    }
                }
                Encoder::go_away(state.last_received, &mut out);
            }
        }
        io.write_all(&out).await?;
        io.flush().await?;
        out.clear();
    }
    io.shutdown().await
}

/// Writes a frame down. Returns whether it was the last.
fn encode(frame: Outgoing, encoder: &mut Encoder, shared: &Shared, out: &mut BytesMut) -> bool {
    // What is said about a stream that was given up in the meantime would only confuse the peer.
    let known = |stream: u32| shared.state.lock().streams.contains_key(&stream);
    match frame {
        Outgoing::Data { channel, bytes } if known(channel) => Encoder::data(channel, &bytes, false, out),
        Outgoing::Finish { channel } if known(channel) => {
            Encoder::data(channel, &[], true, out);
            shared.finish(channel, true);
        }
        Outgoing::Reply { channel } if known(channel) => encoder.reply(channel, out),
        Outgoing::Reset { channel, status } => {
            shared.reset(channel);
            Encoder::reset(channel, status, out);
        }
        Outgoing::Open { channel, headers } => encoder.open(channel, &headers, out),
        Outgoing::Close => return true,
        Outgoing::Data { .. } | Outgoing::Finish { .. } | Outgoing::Reply { .. } => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect() -> (Connection, Connection) {
        let (client, server) = tokio::io::duplex(1000);
        (Connection::start(client, Role::Client), Connection::start(server, Role::Server))
    }

    fn named(name: &str) -> Vec<(String, String)> {
        vec![("name".to_owned(), name.to_owned())]
    }

    #[tokio::test]
    async fn streams_run_side_by_side_and_half_close() {
        let (client, mut server) = connect();
        let serving = tokio::spawn(async move {
            while let Some(mut stream) = server.next_stream().await {
                stream.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut content = Vec::new();
                    stream.reader.read_to_end(&mut content).await.unwrap();
                    stream.writer.write_all(&content).await.unwrap();
                    stream.writer.shutdown().await.unwrap();
                });
            }
        });
        let mut asking = Vec::new();
        for number in 0..20u8 {
            let opener = client.opener().clone();
            asking.push(tokio::spawn(async move {
                let Stream { mut reader, mut writer, .. } = opener.open(named("x")).await.unwrap();
                let content = vec![number; 100_000];
                writer.write_all(&content).await.unwrap();
                writer.shutdown().await.unwrap();
                let mut back = Vec::new();
                reader.read_to_end(&mut back).await.unwrap();
                assert!(back == content);
            }));
        }
        for task in asking {
            task.await.unwrap();
        }
        assert!(client.opener().shared.state.lock().streams.is_empty(), "finished streams are forgotten");
        drop(client);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_stream_is_an_error_to_its_reader_and_leaves_others_alone() {
        let (client, mut server) = connect();
        let mut first = client.opener().open(named("first")).await.unwrap();
        let mut second = client.opener().open(named("second")).await.unwrap();
        let theirs = server.next_stream().await.unwrap();
        assert_eq!(theirs.headers.get("name"), Some("first"));
        theirs.refuse().await;
        let mut other = server.next_stream().await.unwrap();
        other.writer.write_all(b"fine").await.unwrap();
        other.writer.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        assert_eq!(first.reader.read_to_end(&mut bytes).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        second.reader.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"fine");
    }

    #[tokio::test]
    async fn closing_ends_every_stream_of_the_peer() {
        let (client, mut server) = connect();
        let mut stream = client.opener().open(named("x")).await.unwrap();
        let theirs = server.next_stream().await.unwrap();
        server.frames().send(Outgoing::Close).await.unwrap();
        let mut bytes = Vec::new();
        assert!(stream.reader.read_to_end(&mut bytes).await.is_err());
        client.closed.cancelled().await;
        drop(theirs);
    }

    #[tokio::test]
    async fn pings_of_the_peer_are_answered() {
        let (mut client, server) = tokio::io::duplex(1000);
        let _server = Connection::start(server, Role::Server);
        let mut bytes = BytesMut::new();
        Encoder::ping(1, &mut bytes);
        Encoder::ping(3, &mut bytes);
        client.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; bytes.len()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, bytes);
    }

    #[tokio::test]
    async fn a_broken_connection_is_noticed_by_readers_and_writers() {
        let (client, server) = tokio::io::duplex(1000);
        let mut server = Connection::start(server, Role::Server);
        let client = Connection::start(client, Role::Client);
        let _stream = client.opener().open(named("x")).await.unwrap();
        let mut theirs = server.next_stream().await.unwrap();
        drop((_stream, client));
        let mut bytes = Vec::new();
        assert!(theirs.reader.read_to_end(&mut bytes).await.is_err() || bytes.is_empty());
        server.closed.cancelled().await;
        assert!(server.next_stream().await.is_none());
    }
}
