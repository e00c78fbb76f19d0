//! A response body that a client wants over WebSocket, as browsers follow logs and watch: a message for each piece, and a close at its end.
//!
//! Source: Kubernetes `apimachinery/pkg/util/httpstream/wsstream`, `Reader`, for logs, and `apiserver/pkg/endpoints/handlers/watch.go`,
//! `HandleWS`, for watches.

use std::error::Error;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::rt::TokioIo;

use crate::handshake::{Upgrade, UpgradeError};
use crate::websocket::Role;
use crate::websocket::connection::{Answers, EventReader, FrameSource, LINGER, Next, write_all};
use crate::websocket::frame::{Encoder, Event, NORMAL_CLOSURE};
use crate::{StreamError, Transport};

/// Closing code for a body that broke off. Source: RFC 6455, section 7.4.1.
const INTERNAL_ERROR: u16 = 1011;

type Pieces = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Answers a request for an upgrade to WebSocket and sends the body over it once the connection has switched. What the client sends is
/// ignored; when it goes, the body is dropped.
///
/// # Errors
/// What the client asks for is no WebSocket, or none that is spoken here.
pub fn serve_download<B, D>(request: &mut Request<B>, body: D) -> Result<Response<Bytes>, UpgradeError>
where
    D: Body<Data = Bytes> + Send + 'static,
    D::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let upgrade = Upgrade::download(request.headers())?;
    let form = if upgrade.is_base64() { Form::Base64 } else { Form::Binary };
    // Upstream begins with an empty message, by which clients know that the connection stands.
    Ok(switch(request, &upgrade, BodyMessages { pieces: boxed(body), form, greeting: Some(Bytes::new()) }))
}

/// As [`serve_download`], for a body whose frames are messages by themselves, such as the events of a watch. Whatever single sub-protocol
/// the client names is agreed to and changes nothing.
///
/// # Errors
/// What the client asks for is no WebSocket, or it names several sub-protocols.
pub fn serve_messages<B, D>(request: &mut Request<B>, body: D, as_text: bool) -> Result<Response<Bytes>, UpgradeError>
where
    D: Body<Data = Bytes> + Send + 'static,
    D::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let upgrade = Upgrade::messages(request.headers())?;
    let form = if as_text { Form::Text } else { Form::Binary };
    Ok(switch(request, &upgrade, BodyMessages { pieces: boxed(body), form, greeting: None }))
}

fn boxed<D>(body: D) -> Pieces
where
    D: Body<Data = Bytes> + Send + 'static,
    D::Error: Into<Box<dyn Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed_unsync()
}

fn switch<B>(request: &mut Request<B>, upgrade: &Upgrade, source: BodyMessages) -> Response<Bytes> {
    let response = upgrade.response();
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let served = async {
            let connection = upgraded.await.map_err(std::io::Error::other)?;
            send(TokioIo::new(connection), source).await
        };
        if let Err(error) = served.await {
            tracing::debug!(%error, "a download over WebSocket ended early");
        }
    });
    response
}

async fn send<T: Transport>(io: T, source: BodyMessages) -> Result<(), StreamError> {
    let (read_half, write_half) = tokio::io::split(io);
    let answers = Arc::new(Answers::default());
    let mut events = EventReader::new(read_half, Role::Server);
    let writing = write_all(write_half, Role::Server, Arc::clone(&answers), source);
    tokio::pin!(writing);
    let ended = tokio::select! {
        written = &mut writing => {
            written?;
            events.linger().await;
            return Ok(());
        }
        ended = read_until_close(&mut events, &answers) => ended,
    };
    match &ended {
        Ok(code) => answers.close(*code),
        Err(error) => answers.close_for(error),
    }
    // The client may have gone without taking what it was sent.
    drop(tokio::time::timeout(LINGER, writing).await);
    ended.map(|_| ())
}

async fn read_until_close<R>(events: &mut EventReader<R>, answers: &Answers) -> Result<u16, StreamError>
where
    R: tokio::io::AsyncRead + Unpin,
{
    loop {
        match events.next().await? {
            Event::Ping(payload) => answers.pong(payload),
            Event::Close(code) => return Ok(code.unwrap_or(NORMAL_CLOSURE)),
            Event::Start | Event::Piece(_) | Event::End | Event::Pong => {}
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    Binary,
    Base64,
    Text,
}

struct BodyMessages {
    pieces: Pieces,
    form: Form,
    greeting: Option<Bytes>,
}

impl FrameSource for BodyMessages {
    type Item = Bytes;

    async fn next(&mut self) -> Next<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Next::Item(greeting);
        }
        loop {
            match self.pieces.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Next::Item(bytes),
                    _ => {}
                },
                Some(Err(error)) => {
                    tracing::debug!(%error, "what was to be sent over WebSocket broke off");
                    return Next::Done(INTERNAL_ERROR);
                }
                None => return Next::Done(NORMAL_CLOSURE),
            }
        }
    }

    fn next_now(&mut self) -> Option<Next<Bytes>> {
        None
    }

    fn encode(&mut self, item: Bytes, encoder: &mut Encoder, out: &mut BytesMut) -> Option<u16> {
        match self.form {
            Form::Binary => encoder.message(false, &[&item], out),
            Form::Base64 => encoder.message(true, &[STANDARD.encode(&item).as_bytes()], out),
            Form::Text => encoder.message(true, &[&item], out),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{SinkExt, StreamExt, stream};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
    use tokio_tungstenite::{WebSocketStream, client_async};

    use super::*;

    type Piece = Result<Frame<Bytes>, std::io::Error>;

    /// A server that answers one request with what comes out of the channel.
    fn server(pieces: mpsc::Receiver<Piece>) -> DuplexStream {
        let (client, server) = tokio::io::duplex(1000);
        let pieces = parking_lot::Mutex::new(Some(pieces));
        tokio::spawn(async move {
            let service = service_fn(|mut request: Request<Incoming>| {
                let receive = pieces.lock().take().unwrap();
                let body = StreamBody::new(stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|piece| (piece, receive)) }));
                async move { Ok::<_, Infallible>(serve_download(&mut request, body).unwrap_or_else(|error| error.response()).map(Full::new)) }
            });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).with_upgrades().await
        });
        client
    }

    async fn connect(protocol: Option<&'static str>, pieces: mpsc::Receiver<Piece>) -> WebSocketStream<DuplexStream> {
        let mut request = "ws://localhost/log".into_client_request().unwrap();
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (socket, response) = client_async(request, server(pieces)).await.unwrap();
        assert_eq!(response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap()), protocol);
        socket
    }

    fn data(text: &'static str) -> Piece {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn a_body_arrives_in_each_protocol_and_then_the_connection_closes() {
        for (protocol, expected) in [
            (None, Message::binary("a log\n")),
            (Some("binary.k8s.io"), Message::binary("a log\n")),
            (Some("base64.binary.k8s.io"), Message::text("YSBsb2cK")),
        ] {
            let (send, receive) = mpsc::channel(1);
            let mut socket = connect(protocol, receive).await;
            assert!(socket.next().await.unwrap().unwrap().is_empty(), "the greeting");
            send.send(data("a log\n")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), expected, "{protocol:?}");
            drop(send);
            assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Close(Some(close)) if u16::from(close.code) == NORMAL_CLOSURE));
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_closes_with_an_error() {
        let (send, receive) = mpsc::channel(1);
        let mut socket = connect(None, receive).await;
        assert!(socket.next().await.unwrap().unwrap().is_empty());
        send.send(Err(std::io::Error::other("lost"))).await.unwrap();
        assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Close(Some(close)) if u16::from(close.code) == INTERNAL_ERROR));
    }

    #[tokio::test]
    async fn pings_are_answered_and_a_client_that_goes_ends_the_body() {
        let (send, receive) = mpsc::channel(1);
        let mut socket = connect(Some("binary.k8s.io"), receive).await;
        assert!(socket.next().await.unwrap().unwrap().is_empty());
        socket.send(Message::Ping(Bytes::from_static(b"hi"))).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"hi")));
        socket.send(Message::text("nobody reads this")).await.unwrap();
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
        send.closed().await;
    }

    #[test]
    fn other_protocols_are_refused() {
        let mut request = "ws://localhost/log".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
        let error = serve_download(&mut request, Full::new(Bytes::new())).unwrap_err();
        assert!(error.to_string().contains("server accepts [\"binary.k8s.io\", \"base64.binary.k8s.io\"]"), "{error}");
    }
}
