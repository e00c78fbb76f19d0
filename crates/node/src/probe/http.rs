//! HTTP probes and hooks: a GET over a fresh connection, certificates not verified, redirects followed on the same host.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Answer, tcp::{authority, describe}};

/// Redirects followed at most.
const MAXIMUM_REDIRECTS: usize = 10;
/// Bytes of an answer's body that are read; the rest is left.
const MAXIMUM_BODY: usize = 10 * 1024;
/// Characters of a body shown in messages.
const SHOWN_BODY: usize = 200;

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Get {
    /// Over TLS.
    pub https: bool,
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers; `Host` replaces the usual one.
    pub headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// Status code of the last answer.
    pub status: u16,
    /// Start of its body.
    pub body: String,
    /// It was a redirect to another host, which is not followed.
    pub left_host: bool,
}

/// Asks, and judges the answer as upstream does: 200 to 399 is well.
pub async fn probe(get: &Get) -> Answer {
    match self::get(get, "kube-probe/1.36").await {
        Ok(got) if got.left_host => Answer::Warning("Probe terminated redirects, Response body: ".to_owned() + &got.body),
        Ok(got) if (200..400).contains(&got.status) => Answer::Success,
        Ok(got) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", got.status)),
        Err(problem) => Answer::Failure(format!("Get \"{}\": {problem}", url(get))),
    }
}

fn url(get: &Get) -> String {
    let scheme = if get.https { "https" } else { "http" };
    let slash = if get.path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{}{slash}{}", authority(&get.host, get.port), get.path)
}

/// Asks, following redirects on the same host.
///
/// # Errors
/// No answer came, in words.
pub async fn get(get: &Get, agent: &str) -> Result<Got, String> {
    let mut next = get.clone();
    for _ in 0..=MAXIMUM_REDIRECTS {
        let (status, location, body) = once(&next, agent).await?;
        let Some(location) = location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)) else {
            return Ok(Got { status, body, left_host: false });
        };
        let target: Uri = location.parse().map_err(|_| format!("it redirects to {location:?}, which is no address"))?;
        if let Some(host) = target.host() {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            if host != next.host {
                return Ok(Got { status, body, left_host: true });
            }
            next.https = target.scheme_str() == Some("https");
            next.port = target.port_u16().unwrap_or(if next.https { 443 } else { 80 });
        }
        next.path = target.path_and_query().map(ToString::to_string).unwrap_or_default();
    }
    Err("stopped after 10 redirects".to_owned())
}

/// Whether an error of [`get`] is that of a server that answers a TLS handshake in plain HTTP.
#[must_use]
pub fn speaks_no_tls(problem: &str) -> bool {
    problem.contains("InvalidContentType")
}

async fn once(get: &Get, agent: &str) -> Result<(u16, Option<String>, String), String> {
    let stream = tokio::net::TcpStream::connect((get.host.as_str(), get.port))
        .await
        .map_err(|problem| format!("dial tcp {}: connect: {}", authority(&get.host, get.port), describe(&problem)))?;
    drop(stream.set_zero_linger());
    if !get.https {
        return exchange(stream, get, agent).await;
    }
    let name = ServerName::try_from(get.host.clone()).map_err(|problem| problem.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(TLS.clone()?).connect(name, stream).await.map_err(|problem| problem.to_string())?;
    exchange(stream, get, agent).await
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, get: &Get, agent: &str) -> Result<(u16, Option<String>, String), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|problem| problem.to_string())?;
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let mut request = Request::get(path).body(Empty::<Bytes>::new()).map_err(|problem| problem.to_string())?;
    let headers = request.headers_mut();
    for (name, value) in &get.headers {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) else { continue };
        headers.append(name, value);
    }
    let host = authority(&get.host, get.port).parse().map_err(|_| "the host is malformed".to_owned())?;
    headers.entry(http::header::HOST).or_insert(host);
    if let Ok(agent) = agent.parse() {
        headers.entry(http::header::USER_AGENT).or_insert(agent);
    }
    headers.entry(http::header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|problem| problem.to_string())?;
        let status = answer.status().as_u16();
        let location = answer.headers().get(http::header::LOCATION).and_then(|location| location.to_str().ok()).map(str::to_owned);
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { break };
            if let Some(data) = frame.data_ref() {
                text.extend_from_slice(data);
            }
            if text.len() >= MAXIMUM_BODY {
                break;
            }
        }
        Ok((status, location, String::from_utf8_lossy(&text).chars().take(SHOWN_BODY).collect()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut talk = std::pin::pin!(talk);
    // The connection lives in this task: when the probe times out, it is gone with it.
    tokio::select! {
        result = &mut talk => result,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(problem) => Err(problem.to_string()),
        },
    }
}

static TLS: LazyLock<Result<Arc<rustls::ClientConfig>, String>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(TrustAnyone(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|problem| problem.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
});

/// Probes ask whether a container answers, not who it is: upstream does not verify certificates either.
#[derive(Debug)]
struct TrustAnyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpListener};

    use super::*;

    async fn serve(answers: Vec<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    async fn check(answers: Vec<&'static str>) -> Answer {
        let port = serve(answers).await;
        probe(&Get { https: false, host: "127.0.0.1".to_owned(), port, path: "/healthz".to_owned(), headers: vec![("X-A".to_owned(), "b".to_owned())] }).await
    }

    #[tokio::test]
    async fn the_status_code_decides() {
        assert_eq!(check(vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]).await, Answer::Success);
        let failure = check(vec!["HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"]).await;
        assert_eq!(failure, Answer::Failure("HTTP probe failed with statuscode: 500".to_owned()));
    }

    /// Serves one request over TLS, and gives its head.
    async fn serve_tls() -> (u16, tokio::task::JoinHandle<String>) {
        let directory = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let authority = pki::ClusterAuthority::open_or_create(directory.path(), now).unwrap();
        let credential = authority.issue_server("nobody", &pki::AlternativeNames::from_hosts(["nobody.example"]), now).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(credential.chain().to_vec(), credential.key().to_der()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8_lossy(&buffer[..count]).to_lowercase()
        });
        (port, serving)
    }

    #[tokio::test]
    async fn a_certificate_of_anybody_is_good_enough_and_headers_are_as_the_probe_says() {
        let (port, serving) = serve_tls().await;
        let headers = [("Host", "web.example"), ("X-A", "1"), ("X-A", "2"), ("User-Agent", "mine"), ("Accept", "text/x")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let get = Get { https: true, host: "127.0.0.1".to_owned(), port, path: "deep?q=1".to_owned(), headers };
        assert_eq!(probe(&get).await, Answer::Success);
        let head = serving.await.unwrap();
        assert!(head.starts_with("get /deep?q=1 http/1.1\r\n"), "{head}");
        for line in ["host: web.example", "x-a: 1", "x-a: 2", "user-agent: mine", "accept: text/x"] {
            assert!(head.contains(&format!("{line}\r\n")), "{line} is not in {head}");
        }
        assert_eq!(head.matches("host:").count(), 1);
    }

    #[tokio::test]
    async fn a_server_without_tls_is_recognised() {
        let port = serve(vec!["HTTP/1.1 400 No\r\n\r\n"]).await;
        let problem = get(&Get { https: true, host: "127.0.0.1".to_owned(), port, path: String::new(), headers: Vec::new() }, "a").await.unwrap_err();
        assert!(speaks_no_tls(&problem), "{problem}");
        let refused = get(&Get { https: true, host: "127.0.0.1".to_owned(), port: 1, path: String::new(), headers: Vec::new() }, "a").await.unwrap_err();
        assert!(!speaks_no_tls(&refused), "{refused}");
    }

    #[tokio::test]
    async fn redirects_stay_on_the_host() {
        let redirect = "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
        let away = "HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 0\r\n\r\n";
        // The redirect is followed on the same connection's port: the second answer counts.
        let answer = check(vec![redirect, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"]).await;
        assert_eq!(answer, Answer::Failure("HTTP probe failed with statuscode: 503".to_owned()));
        assert!(matches!(check(vec![away]).await, Answer::Warning(_)));
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_failure() {
        let get = Get { https: false, host: "127.0.0.1".to_owned(), port: 1, path: "/".to_owned(), headers: Vec::new() };
        let expected = "Get \"http://127.0.0.1:1/\": dial tcp 127.0.0.1:1: connect: connection refused";
        assert_eq!(probe(&get).await, Answer::Failure(expected.to_owned()));
    }
}
