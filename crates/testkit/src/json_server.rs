//! A server behind TLS with an authority of its own that answers JSON with JSON, as webhooks do.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use base64::Engine as _;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// A running server; it ends with the test's runtime.
pub struct JsonServer {
    /// Where it listens.
    pub address: SocketAddr,
    authority: String,
}

impl JsonServer {
    /// Answers every request with what `answer` makes of its body; the path `/slow` never answers.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub async fn start(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let now = jiff::Timestamp::now();
        let authority = pki::authority::ClusterAuthority::open_or_create(directory.path(), now).expect("an authority");
        let credential = authority.issue_server("webhook", &pki::AlternativeNames::from_hosts(["127.0.0.1"]), now).expect("a certificate");
        let certificate = pki::tls::SwappableCertificate::new(&credential).expect("a certificate");
        let config = rustls::ServerConfig::builder_with_provider(pki::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a free port");
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let answer = answer.clone();
                        async move {
                            if request.uri().path() == "/slow" {
                                std::future::pending::<()>().await;
                            }
                            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                            let question = serde_json::from_slice(&body).unwrap_or_default();
                            Ok::<_, Infallible>(http::Response::new(Full::new(bytes::Bytes::from(answer(&question).to_string()))))
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, authority: authority.certificate_pem().to_owned() }
    }

    /// A `clientConfig` that leads to a path of it.
    pub fn client_config(&self, path: &str) -> Value {
        serde_json::json!({
            "url": format!("https://{}{path}", self.address),
            "caBundle": base64::engine::general_purpose::STANDARD.encode(&self.authority),
        })
    }
}
