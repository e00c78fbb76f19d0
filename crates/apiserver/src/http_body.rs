//! Bodies and answers in the one type the server uses for requests that come over a socket and in process.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use meta::ApiError;
use serde_json::Value;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A request's or answer's body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// A request.
pub type Request = http::Request<Body>;

/// Largest request body, in bytes. Source: Kubernetes `apiserver/pkg/server/config.go`, `MaxRequestBodyBytes` (3 MiB).
pub const MAXIMUM_BODY_BYTES: usize = 3 * 1024 * 1024;

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that holds something for as long as it is read.
pub fn held_by<T: Send + 'static>(body: Body, holder: T) -> Body {
    body.map_frame(move |frame| {
        let _ = &holder;
        frame
    })
    .boxed_unsync()
}

/// An answer of known bytes.
pub fn answer(code: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in JSON.
pub fn json_answer(code: StatusCode, value: &Value) -> Response<Body> {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    answer(code, "application/json", text)
}

/// An answer in plain text.
pub fn text_answer(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    answer(code, "text/plain; charset=utf-8", text.into())
}

/// Reads a whole body.
///
/// # Errors
/// 413 where it is larger than [`MAXIMUM_BODY_BYTES`], 400 where the client broke off.
pub async fn read_all(body: Body) -> Result<Bytes, ApiError> {
    read_up_to(body, MAXIMUM_BODY_BYTES).await
}

/// Reads a whole body of at most so many bytes.
///
/// # Errors
/// 413 where it is larger, 400 where the other side broke off.
pub async fn read_up_to(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut body = body;
    let mut first: Option<Bytes> = None;
    let mut whole: Option<bytes::BytesMut> = None;
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("the request body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > limit {
            return Err(ApiError::too_large(limit));
        }
        match (&mut whole, first.take()) {
            (Some(buffer), _) => buffer.extend_from_slice(&data),
            (None, None) => first = Some(data),
            (None, Some(start)) => {
                let mut buffer = bytes::BytesMut::with_capacity(start.len() + data.len());
                buffer.extend_from_slice(&start);
                buffer.extend_from_slice(&data);
                whole = Some(buffer);
            }
        }
    }
    Ok(whole.map(bytes::BytesMut::freeze).or(first).unwrap_or_default())
}
