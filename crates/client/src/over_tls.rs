//! A client over TLS: from a kubeconfig, or from a TLS configuration whose certificates may be swapped while it is used.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, ServiceBuilder};

/// A server that does not accept a connection in this time is taken as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed this often, so that a vanished server is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig names no usable cluster or user.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Its certificates or keys cannot be used.
    #[error("TLS cannot be set up from the kubeconfig")]
    Tls(#[source] kube::Error),
    /// The server's address is not an `https://host:port` one.
    #[error("{0} is not the address of a server, which looks like https://host:port")]
    Address(Uri),
}

/// Makes a client from a kubeconfig's current context. Nothing is sent yet.
pub async fn connect(kubeconfig: Kubeconfig) -> Result<kube::Client, ConnectError> {
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let connector = config.rustls_https_connector_with_connector(tcp()).map_err(ConnectError::Tls)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(ConnectError::Tls)?)
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(kube::Client::new(service, config.default_namespace))
}

/// Makes a client of `server` (`https://host:port`) that proves itself, and checks the server, as `tls` says; so a certificate
/// resolver in `tls` can hand out a renewed certificate without a new client. Nothing is sent yet.
pub fn connect_with_tls(server: Uri, tls: Arc<rustls::ClientConfig>) -> Result<kube::Client, ConnectError> {
    if server.scheme_str() != Some("https") || server.host().is_none() {
        return Err(ConnectError::Address(server));
    }
    let config = kube::Config::new(server);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(Arc::unwrap_or_clone(tls))
        .https_only()
        .enable_http1()
        .wrap_connector(tcp());
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(kube::Client::new(service, config.default_namespace))
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEP_ALIVE));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector
}
