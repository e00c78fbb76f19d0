//! How an answer leaves: indented for people, compressed for whoever takes that, and without its body where only its head was asked for.
//!
//! Only answers that are known as a whole: streams go as they come, and what other servers answered is theirs.
//! Source: Kubernetes 1.36, `apiserver/pkg/endpoints/handlers/responsewriters/writers.go` and `handlers/negotiation/negotiate.go`.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::http_body::{Body, Request, empty, full};

/// Answers of more bytes are compressed. Source: upstream's `defaultGzipThresholdBytes`.
const WORTH_COMPRESSING: u64 = 128 * 1024;

/// Programs that people read the output of. Source: upstream's `isPrettyPrint`.
const OF_PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// What a request says of how it wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    head_only: bool,
    takes_gzip: bool,
    indents: bool,
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether JSON is to be indented: by the query, else by who asks; or by a clause of the Accept header. Some documents always are, and
/// others never.
fn indents(request: &Request) -> bool {
    match request.uri().path() {
        "/" | "/version" => return true,
        path if path.starts_with("/openapi") || path.starts_with("/openid") || path.starts_with("/.well-known") => return false,
        _ => {}
    }
    let headers = request.headers();
    if text(headers, header::ACCEPT).split([',', ';']).any(|part| part.trim() == "pretty=1") {
        return true;
    }
    let query = request.uri().query().unwrap_or_default();
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("pretty=")).filter(|value| !value.is_empty());
    match asked {
        Some(value) => matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE"),
        None => OF_PEOPLE.iter().any(|program| text(headers, header::USER_AGENT).starts_with(program)),
    }
}

impl Delivery {
    /// Reads a request.
    pub fn of(request: &Request) -> Self {
        Self {
            head_only: request.method() == Method::HEAD,
            takes_gzip: text(request.headers(), header::ACCEPT_ENCODING).split(',').any(|encoding| encoding.trim() == "gzip"),
            indents: indents(request),
        }
    }

    /// Brings an answer into the form that was asked for. `is_own` is false for what another server answered.
    pub async fn deliver(self, response: Response<Body>, is_own: impl FnOnce() -> bool) -> Response<Body> {
        let mut response = response;
        if (self.indents || self.takes_gzip)
            && let Some(size) = response.body().size_hint().exact()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
            && !response.headers().contains_key(header::CONTENT_ENCODING)
            && is_own()
        {
            let is_json = text(response.headers(), header::CONTENT_TYPE).starts_with("application/json");
            let indents = self.indents && is_json && size > 0;
            if indents || self.takes_gzip && size > WORTH_COMPRESSING {
                response = self.rewritten(response, indents).await;
            }
        }
        if !self.head_only {
            return response;
        }
        // HTTP/2 takes a body for an error here.
        if let Some(size) = response.body().size_hint().exact() {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(size));
        }
        response.map(|_| empty())
    }

    async fn rewritten(self, response: Response<Body>, indents: bool) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        let mut bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            // It does not happen to a body that is there as a whole.
            Err(error) => {
                let broken = futures::stream::once(async move { Err::<http_body::Frame<Bytes>, _>(error) });
                return Response::from_parts(head, http_body_util::StreamBody::new(broken).boxed_unsync());
            }
        };
        head.headers.remove(header::CONTENT_LENGTH);
        if indents {
            bytes = indented(&bytes).into();
        }
        if self.takes_gzip && bytes.len() as u64 > WORTH_COMPRESSING {
            // It may be megabytes, which others do not wait for.
            let whole = bytes.clone();
            if let Ok(Some(compressed)) = tokio::task::spawn_blocking(move || compressed(&whole)).await {
                head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                head.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
                bytes = compressed.into();
            }
        }
        Response::from_parts(head, full(bytes))
    }
}

/// In the fastest way. Source: upstream's `defaultGzipContentEncodingLevel`, 1.
fn compressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// JSON with a line for each member and two spaces for each level, as Go's `json.MarshalIndent` writes it. What is no JSON comes out somehow.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let (mut in_text, mut escaped, mut just_opened) = (false, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for &byte in json {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(byte, b'}' | b']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        // What has nothing in it stays on one line.
        if just_opened != closes {
            line(&mut out, depth);
        }
        just_opened = false;
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                depth += 1;
                just_opened = true;
            }
            b',' => line(&mut out, depth),
            b':' => out.push(b' '),
            b'"' => in_text = true,
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn json_is_indented_as_others_do_it() {
        for value in [
            json!({"a": [], "b": {}, "c": [1, 2.5, null, true, "x, y: {z} \\ \" [", {"d": [[]]}], "": "\\"}),
            json!([]),
            json!("text"),
            json!({"deep": {"deeper": {"deepest": ["ä", "\n"]}}}),
        ] {
            let expected = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(String::from_utf8(indented(value.to_string().as_bytes())).unwrap(), expected);
            assert_eq!(String::from_utf8(indented(expected.as_bytes())).unwrap(), expected, "twice");
        }
        assert_eq!(indented(b"}}],"), b"\n}\n}\n],\n");
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(empty()).unwrap()
    }

    #[test]
    fn people_get_lines_and_programs_do_not() {
        let indents = |uri: &str, headers: &[(&str, &str)]| Delivery::of(&request(uri, headers)).indents;
        assert!(indents("/api", &[("user-agent", "curl/8.0")]) && indents("/api", &[("user-agent", "Mozilla/5.0 (X11)")]));
        assert!(!indents("/api?pretty=false", &[("user-agent", "curl/8.0")]));
        assert!(indents("/api?a=b&pretty=true", &[]) && indents("/api", &[("accept", "application/json;pretty=1")]));
        assert!(!indents("/api", &[("user-agent", "kubectl/v1.36.0")]) && !indents("/api", &[]));
        assert!(indents("/version", &[]) && !indents("/openapi/v2", &[("user-agent", "curl/8.0")]));
    }

    #[tokio::test]
    async fn only_what_is_large_is_compressed_and_only_for_whom_takes_it() {
        let large = Value::String("x".repeat(200_000)).to_string();
        let answer = |text: &str| crate::http_body::answer(StatusCode::OK, "application/json", text.to_owned());
        let takes = Delivery::of(&request("/api", &[("accept-encoding", "br, gzip")]));
        let encoding = |response: &Response<Body>| response.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
        let sent = takes.deliver(answer(&large), || true).await;
        assert_eq!((encoding(&sent).as_deref(), &sent.headers()[header::VARY]), (Some("gzip"), &HeaderValue::from_static("Accept-Encoding")));
        let bytes = sent.into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
        assert!(bytes.len() < 10_000 && text == large);
        assert_eq!(encoding(&takes.deliver(answer("\"small\""), || true).await), None);
        assert_eq!(encoding(&takes.deliver(answer(&large), || false).await), None);
        assert_eq!(encoding(&Delivery::of(&request("/api", &[])).deliver(answer(&large), || true).await), None);
    }

    #[tokio::test]
    async fn a_head_has_the_length_of_the_body_that_it_leaves_out() {
        let mut asked = request("/api", &[]);
        *asked.method_mut() = Method::HEAD;
        let response = Delivery::of(&asked).deliver(crate::http_body::answer(StatusCode::OK, "text/plain", "12345"), || true).await;
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
        assert_eq!(response.into_body().size_hint().exact(), Some(0));
    }
}
