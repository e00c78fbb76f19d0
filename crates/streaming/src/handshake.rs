//! Which dialect a request asks for, and the answer to it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::header::{SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{Response, StatusCode};

use crate::websocket::channels::Dialect;

/// Names the version of a SPDY session, in requests and answers.
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_STREAM_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// SPDY inside WebSocket, for port-forward.
pub(crate) const TUNNELLED_PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";
pub(crate) const PORT_FORWARD: &str = "portforward.k8s.io";
pub(crate) const SPDY: &str = "SPDY/3.1";
/// Source: RFC 6455, section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What runs over the connection after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// WebSocket messages with a channel number.
    Channels(Dialect),
    /// SPDY inside WebSocket.
    Tunnel,
    /// SPDY.
    Spdy,
}

const BINARY: Wire = Wire::Channels(Dialect { base64: false, ends_channels: false });
const BASE64: Wire = Wire::Channels(Dialect { base64: true, ends_channels: false });
const VERSION_5: Wire = Wire::Channels(Dialect { base64: false, ends_channels: true });

/// Sub-protocols of exec and attach over WebSocket, with their version.
const REMOTE_COMMAND_WEBSOCKET: &[(&str, Wire, u8)] = &[
    ("v5.channel.k8s.io", VERSION_5, 5),
    ("v4.channel.k8s.io", BINARY, 4),
    ("v4.base64.channel.k8s.io", BASE64, 4),
    ("v3.channel.k8s.io", BINARY, 3),
    ("v2.channel.k8s.io", BINARY, 2),
    ("channel.k8s.io", BINARY, 1),
    ("base64.channel.k8s.io", BASE64, 1),
];
/// Versions of exec and attach over SPDY; 5 is the same as 4 there.
const REMOTE_COMMAND_SPDY: &[(&str, Wire, u8)] = &[
    ("v5.channel.k8s.io", Wire::Spdy, 5),
    ("v4.channel.k8s.io", Wire::Spdy, 4),
    ("v3.channel.k8s.io", Wire::Spdy, 3),
    ("v2.channel.k8s.io", Wire::Spdy, 2),
    ("channel.k8s.io", Wire::Spdy, 1),
];
const PORT_FORWARD_WEBSOCKET: &[(&str, Wire, u8)] = &[
    (TUNNELLED_PORT_FORWARD, Wire::Tunnel, 1),
    ("v4.channel.k8s.io", BINARY, 4),
    ("v4.base64.channel.k8s.io", BASE64, 4),
];
/// Sub-protocols for a body that is only sent.
const DOWNLOAD_WEBSOCKET: &[(&str, Wire, u8)] = &[("binary.k8s.io", BINARY, 1), ("base64.binary.k8s.io", BASE64, 1)];
const PORT_FORWARD_SPDY: &[(&str, Wire, u8)] = &[(PORT_FORWARD, Wire::Spdy, 1)];

/// A dialect both sides speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub(crate) wire: Wire,
    /// 1 to 5; from 3 on there are terminal sizes, from 4 on the outcome is a `Status`.
    pub(crate) version: u8,
    protocol: Option<Cow<'static, str>>,
    /// The answer to a WebSocket client's key.
    accept: Option<String>,
}

/// Why a request cannot be upgraded. Everything here is the client's doing and may be told to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// The request asks for no upgrade that is known here.
    #[error("unable to upgrade: the request must ask for an upgrade to websocket or SPDY/3.1")]
    NotAnUpgrade,
    /// A WebSocket request without a proper key.
    #[error("unable to upgrade: the header Sec-WebSocket-Key must hold 16 bytes in base64")]
    Key,
    /// A WebSocket request of another version.
    #[error("unable to upgrade: only WebSocket version 13 is supported")]
    WebSocketVersion,
    /// Several sub-protocols where at most one has a meaning.
    #[error("unable to upgrade: the header Sec-WebSocket-Protocol must name one protocol at most, not {0:?}")]
    SeveralProtocols(Vec<String>),
    /// A browser would have named the page that opens the WebSocket, and here everybody has to.
    #[error("unable to upgrade: the header Origin must name where the request comes from, by a URL")]
    Origin,
    /// No protocol in common.
    #[error("unable to upgrade: unable to negotiate protocol: client supports {requested:?}, server accepts {accepted:?}")]
    NoCommonProtocol {
        /// What the client offered.
        requested: Vec<String>,
        /// What would have been accepted.
        accepted: Vec<&'static str>,
    },
    /// A port that is missing or no port.
    #[error("query parameter \"port\" must name one or more ports from 1 to 65535")]
    Ports,
    /// None of the streams is wanted.
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
}

impl UpgradeError {
    /// The answer, with the sentence as its body.
    pub fn response(&self) -> Response<Bytes> {
        let status = match self {
            Self::NotAnUpgrade | Self::Key | Self::SeveralProtocols(_) | Self::Ports | Self::NoStream => StatusCode::BAD_REQUEST,
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::NoCommonProtocol { .. } | Self::Origin => StatusCode::FORBIDDEN,
        };
        let mut response = Response::new(Bytes::from(format!("{self}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Self::WebSocketVersion => {
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Self::NoCommonProtocol { accepted, .. } => {
                for protocol in accepted {
                    headers.append(ACCEPTED_STREAM_PROTOCOLS, HeaderValue::from_static(protocol));
                }
            }
            _ => {}
        }
        response
    }
}

/// Whether the request asks for an upgrade at all.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) && headers.contains_key(UPGRADE)
}

/// Whether the request asks for an upgrade to WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    is_upgrade(headers) && tokens(headers, UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Whether a text is a URL with a scheme, or a path from the root. Source: Go `net/url`, `ParseRequestURI`.
fn is_request_uri(text: &str) -> bool {
    text.starts_with('/') || text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some())
}

impl Upgrade {
    /// Chooses a dialect for exec and attach.
    pub fn remote_command(headers: &HeaderMap) -> Result<Self, UpgradeError> {
        Self::negotiate(headers, REMOTE_COMMAND_WEBSOCKET, REMOTE_COMMAND_SPDY)
    }

    /// Chooses a dialect for port-forward.
    pub fn port_forward(headers: &HeaderMap) -> Result<Self, UpgradeError> {
        Self::negotiate(headers, PORT_FORWARD_WEBSOCKET, PORT_FORWARD_SPDY)
    }

    /// Chooses a dialect for a body that is sent over WebSocket.
    pub(crate) fn download(headers: &HeaderMap) -> Result<Self, UpgradeError> {
        if !is_websocket(headers) {
            return Err(UpgradeError::NotAnUpgrade);
        }
        Self::negotiate(headers, DOWNLOAD_WEBSOCKET, &[])
    }

    /// Agrees to whatever protocol a client names, as long as it is one, and to any origin, as long as there is one. Source: Go
    /// `x/net/websocket`, `AcceptHandshake` and `checkOrigin`, which upstream serves watches with; everything else that upstream serves
    /// over WebSocket asks for no origin.
    pub(crate) fn messages(headers: &HeaderMap) -> Result<Self, UpgradeError> {
        if !is_websocket(headers) {
            return Err(UpgradeError::NotAnUpgrade);
        }
        let accept = Some(websocket_accept(headers)?);
        let mut named: Vec<String> = tokens(headers, SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
        if named.len() > 1 {
            return Err(UpgradeError::SeveralProtocols(named));
        }
        if !headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()).is_some_and(is_request_uri) {
            return Err(UpgradeError::Origin);
        }
        Ok(Self { wire: BINARY, version: 1, protocol: named.pop().map(Cow::Owned), accept })
    }

    /// Whether messages are base64 in text.
    pub(crate) fn is_base64(&self) -> bool {
        self.wire == BASE64
    }

    fn negotiate(
        headers: &HeaderMap,
        websocket: &'static [(&'static str, Wire, u8)],
        spdy: &'static [(&'static str, Wire, u8)],
    ) -> Result<Self, UpgradeError> {
        let is_spdy = is_upgrade(headers) && tokens(headers, UPGRADE).any(|token| token.eq_ignore_ascii_case(SPDY));
        let (known, requested, accept, fallback) = if is_websocket(headers) {
            let accept = Some(websocket_accept(headers)?);
            (websocket, tokens(headers, SEC_WEBSOCKET_PROTOCOL).collect::<Vec<_>>(), accept, BINARY)
        } else if is_spdy {
            (spdy, tokens(headers, STREAM_PROTOCOL).collect(), None, Wire::Spdy)
        } else {
            return Err(UpgradeError::NotAnUpgrade);
        };
        // Clients of before the negotiation ask for nothing and speak the first version.
        if requested.is_empty() {
            return Ok(Self { wire: fallback, version: 1, protocol: None, accept });
        }
        requested
            .iter()
            .find_map(|wanted| known.iter().find(|(name, _, _)| name == wanted))
            .map(|(name, wire, version)| Self { wire: *wire, version: *version, protocol: Some(Cow::Borrowed(*name)), accept })
            .ok_or_else(|| UpgradeError::NoCommonProtocol {
                requested: requested.iter().map(|name| (*name).to_owned()).collect(),
                accepted: known.iter().map(|(name, _, _)| *name).collect(),
            })
    }

    /// The answer that makes the connection switch.
    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let protocol_header = if self.wire == Wire::Spdy {
            headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
            STREAM_PROTOCOL
        } else {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            SEC_WEBSOCKET_PROTOCOL
        };
        if let Some(protocol) = self.protocol.as_deref().and_then(|protocol| HeaderValue::from_str(protocol).ok()) {
            headers.insert(protocol_header, protocol);
        }
        if let Some(accept) = self.accept.as_deref().and_then(|accept| HeaderValue::from_str(accept).ok()) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

fn websocket_accept(headers: &HeaderMap) -> Result<String, UpgradeError> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(UpgradeError::WebSocketVersion);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(UpgradeError::Key)?.as_bytes();
    if STANDARD.decode(key).is_ok_and(|key| key.len() == 16) { Ok(accept_for_key(key)) } else { Err(UpgradeError::Key) }
}

/// The proof that a server has understood a WebSocket request with this key.
pub(crate) fn accept_for_key(key: &[u8]) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(WEBSOCKET_GUID);
    STANDARD.encode(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn websocket(protocols: &str) -> HeaderMap {
        headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocols),
        ])
    }

    #[test]
    fn the_key_is_answered_as_in_the_specification() {
        let upgrade = Upgrade::remote_command(&websocket("v5.channel.k8s.io")).unwrap();
        let response = upgrade.response();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    }

    #[test]
    fn the_clients_first_known_protocol_is_taken() {
        let upgrade = Upgrade::remote_command(&websocket("v9.channel.k8s.io, v4.base64.channel.k8s.io, v5.channel.k8s.io")).unwrap();
        assert_eq!((upgrade.wire, upgrade.version), (BASE64, 4));
        assert_eq!(Upgrade::remote_command(&websocket("")).unwrap().version, 1);
        assert_eq!(Upgrade::port_forward(&websocket(TUNNELLED_PORT_FORWARD)).unwrap().wire, Wire::Tunnel);
        let spdy = headers(&[
            ("connection", "upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
        ]);
        let upgrade = Upgrade::remote_command(&spdy).unwrap();
        assert_eq!((upgrade.wire, upgrade.version), (Wire::Spdy, 4));
        assert_eq!(upgrade.response().headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    }

    #[test]
    fn a_refusal_says_why() {
        assert_eq!(Upgrade::remote_command(&HeaderMap::new()), Err(UpgradeError::NotAnUpgrade));
        let error = Upgrade::remote_command(&websocket("mqtt")).unwrap_err();
        assert_eq!(error.response().status(), StatusCode::FORBIDDEN);
        assert!(error.response().headers().get_all(ACCEPTED_STREAM_PROTOCOLS).iter().any(|name| name == "v5.channel.k8s.io"));
        let mut old = websocket("v5.channel.k8s.io");
        old.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert_eq!(Upgrade::remote_command(&old).unwrap_err().response().status(), StatusCode::UPGRADE_REQUIRED);
        let mut keyless = websocket("v5.channel.k8s.io");
        keyless.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("short"));
        assert_eq!(Upgrade::remote_command(&keyless), Err(UpgradeError::Key));
    }

    #[test]
    fn watches_ask_for_an_origin_and_nothing_else_does() {
        let mut from_nowhere = websocket("binary.k8s.io");
        assert_eq!(Upgrade::messages(&from_nowhere), Err(UpgradeError::Origin));
        assert_eq!(UpgradeError::Origin.response().status(), StatusCode::FORBIDDEN);
        assert!(Upgrade::download(&from_nowhere).is_ok());
        for (origin, is_taken) in [("null", false), ("", false), ("page.example", false), ("https://page.example", true), ("http://localhost:8001", true), ("/", true)] {
            from_nowhere.insert(ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(Upgrade::messages(&from_nowhere).is_ok(), is_taken, "{origin:?}");
        }
    }
}
