//! Links in what a proxied back end says, led back through the proxy: the `Location` of a redirect, and the links of HTML
//! pages. A page that says `/login` means the back end's own root, but its reader stands at the API server's.
//!
//! Source: Kubernetes `apimachinery/pkg/util/proxy/transport.go`.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use crate::http_body::{BoxError, Body};

/// Elements with the attributes of theirs that are links. Source: HTML 4.01 and 5, by way of upstream's `atomsToAttrs`.
const LINKS: [(&str, &[&str]); 30] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
    ("style", &[]),
    ("textarea", &[]),
    ("title", &[]),
    ("xmp", &[]),
];

/// Elements whose content is no markup.
const RAW: [&str; 5] = ["script", "style", "textarea", "title", "xmp"];

/// A tag that is longer than this is let through as it is.
const LONGEST_TAG: usize = 64 * 1024;

/// Headers by which a back end would open the API server's pages to others.
const CROSS_ORIGIN: [&str; 4] =
    ["access-control-allow-credentials", "access-control-allow-headers", "access-control-allow-methods", "access-control-allow-origin"];

/// How links are led back.
#[derive(Debug, Clone)]
pub struct Links {
    /// The path that stands for the back end's root, without a slash at its end.
    pub prefix: String,
    /// Hosts by which the back end may call itself.
    pub hosts: Vec<String>,
}

impl Links {
    /// The link as it must be here; none where it leads elsewhere or is right as it is.
    pub fn rewritten(&self, link: &str) -> Option<String> {
        let path = match link.split_once("://") {
            Some((_, rest)) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                if !self.hosts.iter().any(|known| known == host) {
                    return None;
                }
                if path.is_empty() { "/" } else { path }
            }
            None if link.starts_with('/') && !link.starts_with("//") => link,
            None => return None,
        };
        (!path.starts_with(&self.prefix)).then(|| format!("{}{path}", self.prefix))
    }

    /// Puts an answer's links right.
    pub fn apply(self, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        for name in CROSS_ORIGIN {
            head.headers.remove(HeaderName::from_static(name));
        }
        if let Some(location) = head.headers.get(header::LOCATION) {
            let location = location.to_str().ok().and_then(|location| self.rewritten(location));
            if let Some(Ok(location)) = location.map(|location| HeaderValue::from_str(&location)) {
                head.headers.insert(header::LOCATION, location);
            }
            return Response::from_parts(head, body);
        }
        let Some(page) = Page::of(&head.headers, self) else { return Response::from_parts(head, body) };
        head.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(head, page.over(body))
    }
}

/// A page on its way, with its compression taken off and put on again.
struct Page {
    html: Html,
    gzip: Option<(GzDecoder<Vec<u8>>, GzEncoder<Vec<u8>>)>,
}

impl Page {
    /// None for what is no HTML, or is compressed in a way that few use.
    fn of(headers: &HeaderMap, links: Links) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("text/html") {
            return None;
        }
        let gzip = match text(header::CONTENT_ENCODING) {
            "" => None,
            "gzip" => Some((GzDecoder::new(Vec::new()), GzEncoder::new(Vec::new(), Compression::fast()))),
            _ => return None,
        };
        Some(Self { html: Html::new(links), gzip })
    }

    fn over(self, body: Body) -> Body {
        let frames = futures::stream::unfold((body, Some(self)), |(mut body, page)| async move {
            let mut page = page?;
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match page.push(&data) {
                        Ok(bytes) => Some((Ok(Frame::data(bytes)), (body, Some(page)))),
                        Err(error) => Some((Err(error), (body, None))),
                    },
                    Err(trailers) => Some((Ok(trailers), (body, Some(page)))),
                },
                Some(Err(error)) => Some((Err(error), (body, None))),
                None => Some((page.finish().map(Frame::data), (body, None))),
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    fn push(&mut self, data: &[u8]) -> Result<Bytes, BoxError> {
        let mut out = Vec::with_capacity(data.len() + 256);
        let Some((decoder, encoder)) = &mut self.gzip else {
            self.html.push(data, &mut out);
            return Ok(out.into());
        };
        decoder.write_all(data)?;
        decoder.flush()?;
        self.html.push(&std::mem::take(decoder.get_mut()), &mut out);
        encoder.write_all(&out)?;
        encoder.flush()?;
        Ok(std::mem::take(encoder.get_mut()).into())
    }

    fn finish(self) -> Result<Bytes, BoxError> {
        let mut html = self.html;
        let mut out = Vec::new();
        let Some((decoder, mut encoder)) = self.gzip else {
            html.finish(&mut out);
            return Ok(out.into());
        };
        html.push(&decoder.finish()?, &mut out);
        html.finish(&mut out);
        encoder.write_all(&out)?;
        Ok(encoder.finish()?.into())
    }
}

/// Where the reader of a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    Comment,
    /// Within an element of [`RAW`].
    Raw(&'static str),
}

/// Passes HTML on with its links rewritten. It understands tags, comments and the elements without markup; everything
/// else, well formed or not, goes through byte by byte.
struct Html {
    links: Links,
    place: Place,
    /// What came and cannot be judged yet.
    pending: Vec<u8>,
}

impl Html {
    fn new(links: Links) -> Self {
        Self { links, place: Place::Text, pending: Vec::new() }
    }

    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(data);
        let mut rest = bytes.as_slice();
        while let Some(taken) = self.step(rest, out) {
            rest = rest.get(taken..).unwrap_or_default();
        }
        self.pending = rest.to_vec();
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.pending);
    }

    /// Handles what stands first and says how many bytes that was; none where more has to come.
    fn step(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        match self.place {
            Place::Text => self.step_in_text(bytes, out),
            Place::Comment => self.skip_to(bytes, b"-->", out),
            Place::Raw(name) => self.skip_to(bytes, format!("</{name}").as_bytes(), out),
        }
    }

    fn skip_to(&mut self, bytes: &[u8], end: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let found = bytes.windows(end.len()).position(|window| window.eq_ignore_ascii_case(end));
        let taken = found.unwrap_or(bytes.len().saturating_sub(end.len() - 1));
        if found.is_some() {
            self.place = Place::Text;
        }
        out.extend_from_slice(bytes.get(..taken)?);
        (found.is_some() || taken > 0).then_some(taken)
    }

    fn step_in_text(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let Some(start) = bytes.iter().position(|byte| *byte == b'<') else {
            out.extend_from_slice(bytes);
            return (!bytes.is_empty()).then_some(bytes.len());
        };
        if start > 0 {
            out.extend_from_slice(bytes.get(..start)?);
            return Some(start);
        }
        if bytes.starts_with(b"<!--") {
            self.place = Place::Comment;
            out.extend_from_slice(b"<!--");
            return Some(4);
        }
        match bytes.get(1) {
            None => return None,
            Some(b'!') if b"<!--".starts_with(bytes) => return None,
            Some(letter) if letter.is_ascii_alphabetic() => {}
            Some(_) => {
                out.push(b'<');
                return Some(1);
            }
        }
        match Tag::read(bytes) {
            Some(tag) => {
                self.write(&tag, bytes, out);
                Some(tag.length)
            }
            None if bytes.len() > LONGEST_TAG => {
                out.extend_from_slice(bytes);
                Some(bytes.len())
            }
            None => None,
        }
    }

    fn write(&mut self, tag: &Tag, bytes: &[u8], out: &mut Vec<u8>) {
        let text = |range: &std::ops::Range<usize>| std::str::from_utf8(bytes.get(range.clone()).unwrap_or_default()).unwrap_or_default();
        let name = text(&tag.name);
        let known = LINKS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        let mut written = 0;
        for (attribute, value) in &tag.attributes {
            let is_link = known.is_some_and(|(_, links)| links.iter().any(|link| text(attribute).eq_ignore_ascii_case(link)));
            if is_link && let Some(link) = self.links.rewritten(text(value)) {
                out.extend_from_slice(bytes.get(written..value.start).unwrap_or_default());
                out.extend_from_slice(link.as_bytes());
                written = value.end;
            }
        }
        out.extend_from_slice(bytes.get(written..tag.length).unwrap_or_default());
        if let Some(raw) = RAW.iter().find(|raw| name.eq_ignore_ascii_case(raw)) {
            self.place = Place::Raw(raw);
        }
    }
}

/// A start tag: where its parts are.
struct Tag {
    name: std::ops::Range<usize>,
    /// Names and values, without quotes.
    attributes: Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>,
    length: usize,
}

impl Tag {
    /// Reads the tag that the bytes begin with; none where its end is not there yet.
    fn read(bytes: &[u8]) -> Option<Self> {
        let from = |start: usize, wanted: &dyn Fn(u8) -> bool| {
            Some(start + bytes.get(start..)?.iter().position(|byte| wanted(*byte))?)
        };
        let ends_name = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>');
        let end = from(1, &ends_name)?;
        let mut tag = Self { name: 1..end, attributes: Vec::new(), length: 0 };
        let mut position = end;
        loop {
            position = from(position, &|byte| !byte.is_ascii_whitespace() && byte != b'/')?;
            if bytes.get(position) == Some(&b'>') {
                tag.length = position + 1;
                return Some(tag);
            }
            // A name has at least one byte, so that every round gets on.
            let name_end = from(position + 1, &|byte| ends_name(byte) || byte == b'=')?;
            let name = position..name_end;
            let equals = from(name_end, &|byte| !byte.is_ascii_whitespace())?;
            if bytes.get(equals) != Some(&b'=') {
                position = name_end;
                continue;
            }
            let start = from(equals + 1, &|byte| !byte.is_ascii_whitespace())?;
            position = match bytes.get(start) {
                Some(quote @ (b'"' | b'\'')) => {
                    let end = from(start + 1, &|byte| byte == *quote)?;
                    tag.attributes.push((name, start + 1..end));
                    end + 1
                }
                _ => {
                    let end = from(start, &|byte| byte.is_ascii_whitespace() || byte == b'>')?;
                    tag.attributes.push((name, start..end));
                    end
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::http_body::full;

    const PREFIX: &str = "/api/v1/namespaces/n/services/web/proxy";

    fn links() -> Links {
        Links { prefix: PREFIX.to_owned(), hosts: vec!["10.0.0.1:80".to_owned()] }
    }

    #[track_caller]
    fn check(page: &str, wanted: &str) {
        let wanted = wanted.replace("PREFIX", PREFIX);
        let (mut whole, mut html) = (Vec::new(), Html::new(links()));
        html.push(page.as_bytes(), &mut whole);
        html.finish(&mut whole);
        assert_eq!(String::from_utf8(whole).unwrap(), wanted, "in one piece");
        let (mut pieces, mut html) = (Vec::new(), Html::new(links()));
        page.as_bytes().iter().for_each(|byte| html.push(&[*byte], &mut pieces));
        html.finish(&mut pieces);
        assert_eq!(String::from_utf8(pieces).unwrap(), wanted, "byte by byte");
    }

    #[test]
    fn locations_of_the_back_end_come_back_through_the_proxy() {
        let rewritten = |link: &str| links().rewritten(link);
        assert_eq!(rewritten("/login"), Some(format!("{PREFIX}/login")));
        assert_eq!(rewritten("http://10.0.0.1:80/a?b"), Some(format!("{PREFIX}/a?b")));
        assert_eq!(rewritten("http://10.0.0.1:80"), Some(format!("{PREFIX}/")));
        assert_eq!(rewritten("https://elsewhere/a"), None);
        assert_eq!(rewritten("next"), None);
        assert_eq!(rewritten("//elsewhere/a"), None);
        assert_eq!(rewritten(&format!("{PREFIX}/x")), None);
    }

    #[test]
    fn links_of_a_page_lead_back_through_the_proxy() {
        check(r#"<a href="/rewriteme">test</a>"#, r#"<a href="PREFIX/rewriteme">test</a>"#);
        check("<IMG class=x src='/a.png' /><a href=/b>", "<IMG class=x src='PREFIX/a.png' /><a href=PREFIX/b>");
        check(r#"<form method="post" action = "http://10.0.0.1:80/go?a=1&amp;b">"#, r#"<form method="post" action = "PREFIX/go?a=1&amp;b">"#);
    }

    #[test]
    fn whatever_is_no_link_stays_as_it_is() {
        for page in [
            "a < b, <3 and <",
            r#"<a href="next">, <a href="https://elsewhere/">"#,
            r#"<!-- <a href="/x"> --> <p title="/x">"#,
            r#"<script>if (a<b) { x = '<a href="/x">'; }</script>"#,
            r#"<a href="/never closed"#,
            "<!doctype html><p hidden / data-x>ä</p>",
        ] {
            check(page, page);
        }
        check(r#"<script src="/x.js">"</SCRIPT><a href="/y">"#, r#"<script src="PREFIX/x.js">"</SCRIPT><a href="PREFIX/y">"#);
    }

    #[tokio::test]
    async fn compressed_pages_are_compressed_again() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(br#"<a href="/x">"#).unwrap();
        let response = Response::builder().header("content-type", "text/html; charset=utf-8").header("content-encoding", "gzip");
        let response = response.header("content-length", "9").header("access-control-allow-origin", "*").body(full(encoder.finish().unwrap())).unwrap();
        let response = links().apply(response);
        assert!(response.headers().get("content-length").is_none());
        assert!(response.headers().get("access-control-allow-origin").is_none());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        assert_eq!(text, format!(r#"<a href="{PREFIX}/x">"#));
    }
}
