//! How a new node gets to know its cluster's authority, before it shows its secret to anybody.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Fingerprint, PkiError, pem, tls};

/// Connects to a server (host name or address, and port) and returns its authority's certificate as PEM, if and only if the
/// authority has the expected fingerprint and the server proves to be one of its.
/// # Errors
/// [`PkiError::Connect`] when there is no such server, or it belongs to another cluster. Nothing secret was sent.
pub async fn fetch_authority(host: &str, port: u16, expected: Fingerprint) -> Result<String, PkiError> {
    let failed = |source| PkiError::Connect { server: format!("{host}:{port}"), source };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let connector = TlsConnector::from(Arc::new(tls::pinned_client_config(expected)?));
    let connection = connector.connect(name, stream).await.map_err(failed)?;
    let authority = connection
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.iter().find(|certificate| Fingerprint::of(certificate) == expected))
        .ok_or_else(|| PkiError::NotTrusted("the server did not send its authority".to_owned()))?;
    Ok(pem::encode("CERTIFICATE", authority))
}

/// The certificates of a PEM text, as DER.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    pem::certificates(text)
}

/// One certificate as PEM.
#[must_use]
pub fn certificate_to_pem(certificate: &CertificateDer<'_>) -> String {
    pem::encode("CERTIFICATE", certificate)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::{AlternativeNames, CertificateIdentity, ClusterAuthority, SwappableCertificate};

    /// A server that answers each connection with the user it saw.
    async fn serve(authority: &ClusterAuthority) -> (u16, Arc<SwappableCertificate>) {
        let names = AlternativeNames::from_hosts(["127.0.0.1", "localhost"]);
        let credential = authority.issue_server("test", &names, Timestamp::now()).unwrap();
        let certificate = SwappableCertificate::new(&credential).unwrap();
        let config = tls::server_config(Arc::clone(&certificate), &[authority.certificate().clone()]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let peer = CertificateIdentity::of_peer(stream.get_ref().1.peer_certificates()).unwrap();
                let name = peer.map_or_else(|| "nobody".to_owned(), |peer| peer.user);
                let _ = stream.write_all(name.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        (port, certificate)
    }

    async fn ask(config: rustls::ClientConfig, port: u16) -> std::io::Result<(String, CertificateDer<'static>)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        Ok((answer, leaf))
    }

    fn authority() -> (tempfile::TempDir, ClusterAuthority) {
        let directory = tempfile::tempdir().unwrap();
        let authority = ClusterAuthority::open_or_create(directory.path(), Timestamp::now()).unwrap();
        (directory, authority)
    }

    #[tokio::test]
    async fn a_node_accepts_only_the_cluster_of_its_token() {
        let (_one, ours) = authority();
        let (_two, theirs) = authority();
        let (port, _) = serve(&ours).await;
        assert_eq!(fetch_authority("127.0.0.1", port, ours.fingerprint()).await.unwrap(), ours.certificate_pem());
        let refused = fetch_authority("127.0.0.1", port, theirs.fingerprint()).await;
        assert!(matches!(refused, Err(PkiError::Connect { .. })));
    }

    #[tokio::test]
    async fn a_client_certificate_is_optional_but_must_be_good() {
        let (_one, ours) = authority();
        let (_two, theirs) = authority();
        let (port, _) = serve(&ours).await;
        let roots = [ours.certificate().clone()];
        let (answer, _) = ask(tls::client_config(&roots, None).unwrap(), port).await.unwrap();
        assert_eq!(answer, "nobody");
        let show = |authority: &ClusterAuthority| {
            Some(SwappableCertificate::new(&authority.issue_admin(Timestamp::now()).unwrap()).unwrap())
        };
        let (answer, _) = ask(tls::client_config(&roots, show(&ours)).unwrap(), port).await.unwrap();
        assert_eq!(answer, "system:admin");
        assert!(ask(tls::client_config(&roots, show(&theirs)).unwrap(), port).await.is_err());
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_shown_without_a_restart() {
        let (_directory, ours) = authority();
        let (port, certificate) = serve(&ours).await;
        let roots = [ours.certificate().clone()];
        let (_, before) = ask(tls::client_config(&roots, None).unwrap(), port).await.unwrap();
        let names = AlternativeNames::from_hosts(["localhost"]);
        certificate.swap(&ours.issue_server("test", &names, Timestamp::now()).unwrap()).unwrap();
        let (_, after) = ask(tls::client_config(&roots, None).unwrap(), port).await.unwrap();
        assert_ne!(before, after);
    }
}
