//! One call of gRPC over a connection: health of a container, keys of a key management service. Messages are the caller's business; how
//! they are framed and what came of the call is known here.
//!
//! Source: the gRPC documentation, "gRPC over HTTP2".

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::Transport;

/// Longer answers are refused, as clients do by default.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The server does not know the method.
pub const UNIMPLEMENTED: u32 = 12;
/// The server is not able to answer now.
pub const UNAVAILABLE: u32 = 14;

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The server says why.
    #[error("code {code}: {message}")]
    Refused {
        /// The number of gRPC's status.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// It is no gRPC that comes back.
    #[error("the answer is malformed")]
    Malformed,
    /// The connection does not hold.
    #[error("{0}")]
    Broken(String),
}

/// A message with its frame: not compressed, and its length.
#[must_use]
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// The message in a frame; none where that is cut off or compressed.
#[must_use]
pub fn unframed(frame: &Bytes) -> Option<Bytes> {
    let (head, message) = frame.split_first_chunk::<5>()?;
    let [0, length @ ..] = *head else { return None };
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (message.len() >= length).then(|| frame.slice(5..5 + length))
}

/// Calls `/package.Service/Method` with one message, and gives the one message that comes back.
///
/// # Errors
/// The server refuses, or the connection does not hold. The caller bounds the time.
pub async fn call(connection: impl Transport, authority: &str, method: &str, user_agent: &str, message: &[u8]) -> Result<Bytes, CallError> {
    let broken = |problem: &dyn std::fmt::Display| CallError::Broken(problem.to_string());
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connection)).await;
    let (mut sender, driver) = shaken.map_err(|problem| broken(&problem))?;
    let request = Request::post(format!("http://{authority}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", user_agent)
        .body(Full::new(framed(message)))
        .map_err(|problem| broken(&problem))?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|problem| broken(&problem))?;
        let early = status(answer.headers());
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await.map_err(|problem| broken(&problem))?;
        match body.trailers().and_then(status).or(early) {
            None | Some((0, _)) => unframed(&body.to_bytes()).ok_or(CallError::Malformed),
            Some((code, message)) => Err(CallError::Refused { code, message }),
        }
    };
    tokio::select! {
        result = talk => result,
        Err(problem) = driver => Err(broken(&problem)),
    }
}

fn status(headers: &HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    Some((code, decoded(message)))
}

/// `%20` and the like are bytes; what is not well encoded stands for itself.
fn decoded(message: &str) -> String {
    let mut bytes = Vec::with_capacity(message.len());
    let mut rest = message.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let encoded = (*byte == b'%').then(|| after.split_first_chunk::<2>()).flatten();
        match encoded.and_then(|(digits, after)| Some((u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, after))) {
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_and_written() {
        assert_eq!(framed(b"").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(framed(b"ab").as_ref(), [0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(unframed(&framed(b"ab")).as_deref(), Some(&b"ab"[..]));
        for cut in [&[0, 0][..], &[0, 0, 0, 0, 3, 1], &[1, 0, 0, 0, 0]] {
            assert_eq!(unframed(&Bytes::copy_from_slice(cut)), None, "{cut:?}");
        }
    }

    #[test]
    fn messages_of_statuses_are_decoded() {
        for (encoded, said) in [("no%20key%3A k", "no key: k"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("%C3%A9", "é")] {
            assert_eq!(decoded(encoded), said);
        }
    }

    #[tokio::test]
    async fn a_server_that_goes_away_or_talks_something_else_is_an_error_and_no_hang() {
        let (near, far) = tokio::io::duplex(1024);
        drop(far);
        assert!(matches!(call(near, "localhost", "/a.B/C", "test", b"").await, Err(CallError::Broken(_))));
        let (near, mut far) = tokio::io::duplex(1024);
        let answer = tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut far, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            far
        });
        assert!(matches!(call(near, "localhost", "/a.B/C", "test", b"").await, Err(CallError::Broken(_))));
        drop(answer.await);
    }
}
