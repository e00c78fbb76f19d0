//! Passing a request on to a node's API, a pod or a service, and its answer back as it comes.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use dialer::{Connection, DialError, Target};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use meta::ApiError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    core::Core,
    http_body::{Body, Request},
    metrics::requests::Stream,
    stream_patience::SlowReader,
};

/// Headers that are about one connection only. Source: RFC 9110, section 7.6.1.
const HOP_BY_HOP: [&str; 7] = ["connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"];

/// An error with everything below it, in one line.
pub fn whole_story(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        below = cause.source();
    }
    text
}

/// Why a back end could not be dialled, as upstream tells it.
pub fn dial_failure(error: &DialError) -> ApiError {
    ApiError::internal(format!("error dialing backend: {}", whole_story(error)))
}

/// Connects to a target.
///
/// # Errors
/// 500 with the reason.
pub async fn dial(core: &Core, target: &Target) -> Result<Box<dyn Connection>, ApiError> {
    core.dialer.dial(target).await.map_err(|error| dial_failure(&error))
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
}

/// Sends a request with another path over a connection and gives the answer, whose body comes as it is read; an upgraded
/// connection is passed on byte for byte.
///
/// # Errors
/// 503 where the other side does not speak HTTP.
pub async fn send(request: Request, path_and_query: &str, connection: impl Connection) -> Result<Response<Body>, ApiError> {
    let mut request = request;
    let upgrades = streaming::handshake::is_upgrade(request.headers());
    if !upgrades {
        drop_hop_by_hop(request.headers_mut());
    }
    if !request.headers().contains_key(header::HOST)
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        // HTTP/2 carries it apart.
        request.headers_mut().insert(header::HOST, host);
    }
    // What goes on after the answer is under way until both directions have ended.
    let stream = request.extensions().get::<Arc<Stream>>().cloned();
    let connection = Counted { connection, _stream: stream };
    let response = streaming::proxy_upgrade(request, path_and_query, connection)
        .await
        .map_err(|error| ApiError::unavailable(format!("error trying to reach service: {}", whole_story(&error))))?;
    let mut response = response.map(|body| body.map_err(Into::into).boxed_unsync());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        drop_hop_by_hop(response.headers_mut());
        // It comes no faster than it is taken, so that a client may take its time with it.
        response.extensions_mut().insert(SlowReader::IsAwaited);
    }
    Ok(response)
}

/// A connection that belongs to a stream which is counted as long as it is open.
struct Counted<C> {
    connection: C,
    _stream: Option<Arc<Stream>>,
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}
