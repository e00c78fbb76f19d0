//! Connecting over this machine's own network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Connection, DialError, Dialer, Target};

/// How long connecting may take, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that vanished without a word is noticed after about a minute of silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Finds the address of a node's API: its InternalIP and kubelet port.
pub type ResolveNode = Arc<dyn Fn(&str) -> Option<SocketAddr> + Send + Sync>;

/// Dials over this machine's own network.
#[derive(Clone)]
pub struct DirectDialer {
    resolve: ResolveNode,
    tls: Arc<ClientConfig>,
}

impl DirectDialer {
    /// A dialer that finds nodes with `resolve` and shows them the certificate in `tls`.
    pub fn new(resolve: impl Fn(&str) -> Option<SocketAddr> + Send + Sync + 'static, tls: Arc<ClientConfig>) -> Self {
        Self { resolve: Arc::new(resolve), tls }
    }
}

#[async_trait]
impl Dialer for DirectDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn Connection>, DialError> {
        let failed = |source| DialError::connect(target, source);
        match target {
            Target::NodeApi { node } => {
                let address = (self.resolve)(node).ok_or_else(|| DialError::NodeUnreachable(node.clone()))?;
                let name = ServerName::IpAddress(address.ip().into());
                Ok(Box::new(connect_tls(address, name, Arc::clone(&self.tls)).await.map_err(failed)?))
            }
            Target::Pod { address, port, .. } => Ok(Box::new(connect(SocketAddr::new(*address, *port)).await.map_err(failed)?)),
            Target::Address { host, port } => Ok(Box::new(connect((host.as_str(), *port)).await.map_err(failed)?)),
        }
    }
}

/// Makes a TCP connection that notices when its peer vanishes.
pub async fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| timed_out())??;
    stream.set_nodelay(true)?;
    notice_vanished_peer(&stream)?;
    Ok(stream)
}

/// Makes a connection end about a minute after its other side vanished without a word.
pub fn notice_vanished_peer(stream: &TcpStream) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Makes a TLS connection; the server must prove to be `name`.
pub async fn connect_tls(
    address: impl ToSocketAddrs,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let connecting = async { TlsConnector::from(tls).connect(name, connect(address).await?).await };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| timed_out())?
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs()))
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn dialer() -> DirectDialer {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        DirectDialer::new(|_| None, Arc::new(tls))
    }

    #[tokio::test]
    async fn pods_and_addresses_are_plain_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"hello").await;
            }
        });
        let pod = Target::Pod { node: "a".to_owned(), address: [127, 0, 0, 1].into(), port };
        let address = Target::Address { host: "localhost".to_owned(), port };
        for target in [pod, address] {
            let mut text = String::new();
            dialer().dial(&target).await.unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_reached_is_named() {
        let node = Target::NodeApi { node: "lost".to_owned() };
        assert!(matches!(dialer().dial(&node).await, Err(DialError::NodeUnreachable(name)) if name == "lost"));
        let refused = Target::Address { host: "127.0.0.1".to_owned(), port: 1 };
        let error = dialer().dial(&refused).await.err().unwrap();
        assert_eq!(error.to_string(), "could not connect to 127.0.0.1:1");
    }
}
