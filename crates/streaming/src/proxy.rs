//! Passing a request, and the connection it upgrades to, on to another server, as the API server does towards nodes.

use std::error::Error;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper_util::rt::TokioIo;

use crate::{StreamError, Transport};

const COPY_BUFFER_BYTES: usize = 16 * 1024;

/// Sends a request with another path (and query) over a connection that expects plain HTTP/1.1, and returns the answer. When it is a 101,
/// both connections are joined once they have switched, byte for byte, with half-closes and back-pressure.
///
/// Headers go along, except the credentials of the caller and its impersonation, which are for this server alone.
/// # Errors
/// When the other server cannot be understood; nothing has been sent to the client then.
pub async fn proxy_upgrade<B, T>(
    mut request: Request<B>,
    path_and_query: &str,
    connection: T,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, StreamError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    T: Transport,
{
    let client_side = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    parts.uri = path_and_query.parse::<Uri>().map_err(std::io::Error::other)?;
    parts.version = http::Version::HTTP_11;
    parts.headers.remove(AUTHORIZATION);
    let impersonation: Vec<_> =
        parts.headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        parts.headers.remove(name);
    }
    parts.headers.entry(HOST).or_insert(HeaderValue::from_static("node"));

    // A boxed body would demand an error type of its own; requests that upgrade have none to speak of.
    let body = body.map_err(Into::<Box<dyn Error + Send + Sync>>::into).boxed_unsync();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(std::io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let mut response = sender.send_request(Request::from_parts(parts, body)).await.map_err(std::io::Error::other)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let server_side = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let joined = async {
                let (client, server) = tokio::try_join!(client_side, server_side).map_err(std::io::Error::other)?;
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, COPY_BUFFER_BYTES, COPY_BUFFER_BYTES).await
            };
            if let Err(error) = joined.await {
                tracing::debug!(%error, "an upgraded connection broke");
            }
        });
    }
    Ok(response.map(BodyExt::boxed))
}
