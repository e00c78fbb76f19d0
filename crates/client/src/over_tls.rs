//! A client over TLS: from a kubeconfig, or from a TLS configuration whose certificates may be swapped while it is used.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Uri, header};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HttpClient, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;
use tower::Service;

use crate::kubeconfig::{Kubeconfig, KubeconfigError, TlsFiles, trusting};
use crate::transport::{Body, Client};

/// A server that does not accept a connection in this time is taken as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed this often, so that a vanished server is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A connection whose peer acknowledges nothing of what it was sent for this long has ended: a request that vanished with its network
/// is then tried again.
const UNANSWERED: Duration = Duration::from_secs(30);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig names no usable cluster or user.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] KubeconfigError),
    /// The server's address is not an `https://host:port` one.
    #[error("{0} is not the address of a server, which looks like https://host:port")]
    Address(Uri),
    /// The server is to prove that it has a name which none can have.
    #[error("{0:?} is no name of a server")]
    ServerName(String),
    /// The token or the name holds characters that no header may.
    #[error("a token or a name that cannot be sent")]
    Header(#[from] header::InvalidHeaderValue),
}

/// Makes a client from a kubeconfig's current context. Nothing is sent yet.
pub fn connect(kubeconfig: Kubeconfig, user_agent: &str) -> Result<Client, ConnectError> {
    connect_with_tls(kubeconfig.server, kubeconfig.tls, kubeconfig.token.as_deref(), user_agent)
}

/// Makes a client of `server` (`https://host:port`) that proves itself, and checks the server, as `tls` says; so a certificate
/// resolver in `tls` can hand out a renewed certificate without a new client. With `token` it shows that too. `user_agent` is what
/// managed fields call the writer. Nothing is sent yet.
pub fn connect_with_tls(server: Uri, tls: Arc<rustls::ClientConfig>, token: Option<&str>, user_agent: &str) -> Result<Client, ConnectError> {
    if server.scheme_str() != Some("https") || server.host().is_none() {
        return Err(ConnectError::Address(server));
    }
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(Arc::unwrap_or_clone(tls))
        .https_only()
        .enable_http1()
        .wrap_connector(tcp());
    let authorization = token.map(|token| {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok::<_, header::InvalidHeaderValue>(value)
    });
    Ok(Client::new(OverTls {
        http: HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector),
        server,
        authorization: authorization.transpose()?,
        user_agent: HeaderValue::from_str(user_agent)?,
    }))
}

/// Makes a client of a program that is no API server, at an address of HTTP or HTTPS; for the latter `tls` says who vouches for it, its
/// relative names being relative to the working directory. Nothing is sent yet.
pub fn connect_to_service(server: Uri, tls: &TlsFiles, user_agent: &str) -> Result<Client, ConnectError> {
    if !matches!(server.scheme_str(), Some("http" | "https")) || server.host().is_none() {
        return Err(ConnectError::Address(server));
    }
    let name = tls.server_name.as_ref().map(|name| ServerName::try_from(name.clone()).map_err(|_| ConnectError::ServerName(name.clone())));
    let name = name.transpose()?;
    let tls = if server.scheme_str() == Some("https") {
        tls.configuration(std::path::Path::new("."))?
    } else {
        trusting(rustls::RootCertStore::empty()).map_err(KubeconfigError::from)?.with_no_client_auth()
    };
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let connector = match name {
        Some(name) => connector.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => connector,
    };
    let connector = connector.enable_http1().wrap_connector(tcp());
    Ok(Client::new(OverTls {
        http: HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector),
        server,
        authorization: None,
        user_agent: HeaderValue::from_str(user_agent)?,
    }))
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEP_ALIVE));
    connector.set_tcp_user_timeout(Some(UNANSWERED));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector
}

/// Completes requests, which name a path only, and sends them.
#[derive(Clone)]
struct OverTls {
    http: HttpClient<HttpsConnector<HttpConnector>, Body>,
    server: Uri,
    authorization: Option<HeaderValue>,
    user_agent: HeaderValue,
}

impl OverTls {
    /// The address of `path` on the server, which may have a path of its own (a proxy's).
    fn address(&self, path: &Uri) -> Uri {
        let suffix = path.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut parts = self.server.clone().into_parts();
        parts.path_and_query = format!("{}{suffix}", self.server.path().trim_end_matches('/')).parse().ok();
        Uri::from_parts(parts).unwrap_or_else(|_| self.server.clone())
    }
}

impl Service<Request<Body>> for OverTls {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        *request.uri_mut() = self.address(request.uri());
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        self.http.call(request)
    }
}
