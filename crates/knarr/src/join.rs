//! How an agent joins: it checks the server by the token's fingerprint, then asks for its certificates by
//! CertificateSigningRequest, first with the token's secret and later with the certificate it got.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use client::{Api, FeedEvent, ObjectMeta, PostParams, Resource, Selection, Source, feed};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use pki::{AlternativeNames, CertificateRequest, Credential, JoinToken, PrivateKey, Subject, SwappableCertificate, Usage};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long an approval and a signature may take before the agent says what is missing.
const SIGNATURE_WAIT: Duration = Duration::from_secs(60);

/// Between attempts to reach a server that is not there: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Whether an error says that the server could not be reached, rather than what it answered.
fn is_away(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut, UnexpectedEof,
    };
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let unreachable = [BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut, UnexpectedEof];
        kind.is_some_and(|kind| unreachable.contains(&kind))
    })
}

/// Whether a server did not prove to be one of the cluster that is looked for.
fn is_distrust(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        // Errors of TLS come inside of those of input and output.
        let inside = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inside.and_then(|inside| inside.downcast_ref::<rustls::Error>()).is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
    })
}

fn not_the_tokens_server(server: &ServerAddress, token: &JoinToken, error: anyhow::Error) -> anyhow::Error {
    error.context(format!(
        "its certificates do not have the fingerprint {} that the token names: take a token that `knarr token create` prints on the server {}",
        token.authority, server.host
    ))
}

fn is_unauthorized(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<client::Error>()).any(|error| matches!(error, client::Error::Api(status) if status.code == 401))
}

fn refused_token(token: &JoinToken) -> anyhow::Error {
    anyhow::anyhow!(
        "the server does not know the token {}, or its time is over (Unauthorized): make another with `knarr token create` on the server",
        token.id
    )
}

/// Tries until the server can be reached: agents may start before it, and it may be away for a while. What it answers is final.
async fn once_reachable<T>(server: &str, attempt: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut pause = PAUSES.0;
    let mut said = false;
    loop {
        match attempt().await {
            Err(error) if is_away(&error) => {
                if !said {
                    warn!(server, error = format!("{error:#}"), "waiting for the server");
                    said = true;
                }
                // Nothing tells when a server that is away is back.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            outcome => return outcome,
        }
    }
}

/// Address of a server, in parts.
#[derive(Debug, Clone)]
pub struct ServerAddress {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl ServerAddress {
    /// Reads `https://HOST:PORT`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let url = url::Url::parse(text).with_context(|| format!("--server {text:?} is no address; it looks like https://HOST:6443"))?;
        let (Some(host), "https") = (url.host_str(), url.scheme()) else { bail!("--server {text:?} must look like https://HOST:6443") };
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port: url.port().unwrap_or(6443) })
    }
    /// `https://HOST:PORT`
    pub fn url(&self) -> String {
        if self.host.contains(':') { format!("https://[{}]:{}", self.host, self.port) } else { format!("https://{}:{}", self.host, self.port) }
    }
}

/// A node's certificates, renewed by [`Membership::keep`]. The one for serving is asked for once the Node is registered, since
/// the addresses in it are approved only where the Node has them.
pub struct Membership {
    /// The cluster's authority, PEM.
    pub authority_pem: String,
    /// Shown to the API server.
    pub client_certificate: Arc<SwappableCertificate>,
    /// The API, as `system:node:NAME`.
    pub client: client::Client,
    /// The same for connections that are no requests.
    pub tls: Arc<rustls::ClientConfig>,
    server: String,
    node: String,
    addresses: Vec<IpAddr>,
    directory: std::path::PathBuf,
    renew_at: Timestamp,
}

fn subject(node: &str) -> Subject {
    Subject::new(format!("system:node:{node}"), ["system:nodes"])
}

/// Asks for a certificate, and waits for it.
async fn request(client: &client::Client, signer: &str, node: &str, names: &AlternativeNames, usages: &[Usage]) -> anyhow::Result<Credential> {
    let key = PrivateKey::generate()?;
    let pem = CertificateRequest::create(&subject(node), names, usages, &key)?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let wanted = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(usages.iter().map(|usage| usage.name().to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &wanted).await.with_context(|| format!("the server refused the request for a certificate of {signer}"))?;
    let name = made.meta().name.clone().unwrap_or_default();
    let source = Source::new::<CertificateSigningRequest>(client.clone(), &(), Selection::fields(&format!("metadata.name={name}")));
    let (sender, mut changes) = tokio::sync::mpsc::unbounded_channel::<CertificateSigningRequest>();
    let feeding = feed::run(source, move |event: FeedEvent<CertificateSigningRequest>| {
        // Nobody listens any more once the certificate is there.
        let _ = match event {
            FeedEvent::Replaced { objects, .. } => objects.into_iter().try_for_each(|object| sender.send(object)),
            FeedEvent::Put(object) => sender.send(object),
            FeedEvent::Deleted(_) | FeedEvent::Progress(_) => Ok(()),
        };
    });
    let signed = async {
        while let Some(request) = changes.recv().await {
            let status = request.status.unwrap_or_default();
            if let Some(refused) = status.conditions.iter().flatten().find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed")) {
                bail!("the certificate request {name} was refused: {}", refused.message.as_deref().unwrap_or("no reason given"));
            }
            if let Some(certificate) = status.certificate {
                return String::from_utf8(certificate.0).context("the certificate is no text");
            }
        }
        bail!("the server went away")
    };
    let chain = tokio::select! {
        () = feeding => bail!("the server went away"),
        signed = tokio::time::timeout(SIGNATURE_WAIT, signed) => signed,
    };
    let chain = chain
        .map_err(|_| anyhow::anyhow!("nobody signed the certificate request {name} within {} s; see `kubectl get csr`", SIGNATURE_WAIT.as_secs()))??;
    Ok(Credential::new(key, chain)?)
}

/// A connection to the server that proves to be this node.
pub async fn connect(server: &ServerAddress, tls: Arc<rustls::ClientConfig>) -> std::io::Result<impl dialer::Connection> {
    let name = rustls::pki_types::ServerName::try_from(server.host.clone()).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    dialer::direct::connect_tls((server.host.clone(), server.port), name, tls).await
}

/// The names that a node's own API is called by.
pub fn serving_names(node: &str, addresses: &[IpAddr]) -> AlternativeNames {
    AlternativeNames::from_hosts(addresses.iter().map(ToString::to_string).chain([node.to_owned()]))
}

impl Membership {
    /// Joins, or comes back with the certificates kept in the directory.
    pub async fn establish(server: &ServerAddress, token: &str, node: &str, addresses: &[IpAddr], directory: &Path) -> anyhow::Result<Self> {
        pki::private_file::create_directory(directory)?;
        let (authority_path, client_path) = (directory.join("ca.crt"), directory.join("client.pem"));
        let now = Timestamp::now();
        let kept = Credential::load(&client_path)?.filter(|credential| credential.not_after() > now);
        let authority_pem = match (pki::private_file::read(&authority_path)?, &kept) {
            (Some(pem), Some(_)) => pem,
            _ => {
                let token: JoinToken = token.parse()?;
                let pem = once_reachable(&server.url(), async || {
                    let fetched = pki::bootstrap::fetch_authority(&server.host, server.port, token.authority).await.map_err(anyhow::Error::from);
                    fetched.map_err(|error| if is_distrust(&error) { not_the_tokens_server(server, &token, error) } else { error })
                        .with_context(|| format!("cannot trust the server {}", server.url()))
                })
                .await?;
                pki::private_file::write(&authority_path, pem.as_bytes())?;
                pem
            }
        };
        let authorities = pki::bootstrap::certificates_from_pem(&authority_pem)?;
        let url: http::Uri = server.url().parse()?;
        let credential = match kept {
            Some(credential) => credential,
            None => {
                let token: JoinToken = token.parse()?;
                let tls = Arc::new(pki::tls::client_config(&authorities, None)?);
                let bootstrap = client::connect_with_tls(url.clone(), tls, Some(&token.bearer()), "kubelet")?;
                info!(server = server.url(), node, "joining the cluster");
                let usages = [Usage::DigitalSignature, Usage::ClientAuth];
                let names = AlternativeNames::default();
                let credential = once_reachable(&server.url(), async || {
                    let asked = request(&bootstrap, "kubernetes.io/kube-apiserver-client-kubelet", node, &names, &usages).await;
                    asked.map_err(|error| if is_unauthorized(&error) { refused_token(&token) } else { error })
                })
                .await?;
                credential.save(&client_path)?;
                credential
            }
        };
        let client_certificate = SwappableCertificate::new(&credential)?;
        let tls = Arc::new(pki::tls::client_config(&authorities, Some(client_certificate.clone()))?);
        let client = client::connect_with_tls(url, tls.clone(), None, "kubelet")?;
        Ok(Self {
            tls,
            server: server.url(),
            authority_pem,
            client_certificate,
            client,
            node: node.to_owned(),
            addresses: addresses.to_vec(),
            directory: directory.to_owned(),
            renew_at: credential.renew_at(),
        })
    }

    /// The certificate that the node's own API shows; asked for where none is kept that fits.
    pub async fn serving_certificate(&mut self) -> anyhow::Result<Arc<SwappableCertificate>> {
        let path = self.directory.join("serving.pem");
        let names = serving_names(&self.node, &self.addresses);
        let now = Timestamp::now();
        let serving = match Credential::load(&path)?.filter(|kept| kept.not_after() > now && kept.names().covers(&names)) {
            Some(kept) => kept,
            None => {
                let usages = [Usage::DigitalSignature, Usage::ServerAuth];
                let made = once_reachable(&self.server, async || request(&self.client, "kubernetes.io/kubelet-serving", &self.node, &names, &usages).await).await?;
                made.save(&path)?;
                made
            }
        };
        self.renew_at = self.renew_at.min(serving.renew_at());
        SwappableCertificate::new(&serving).map_err(Into::into)
    }

    /// Renews both certificates before they end, until stopped.
    pub async fn keep(self, serving: Arc<SwappableCertificate>, stop: CancellationToken) {
        let mut renew_at = self.renew_at;
        loop {
            let wait = Duration::try_from(renew_at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
            renew_at = match self.renew(&serving).await {
                Ok(next) => next,
                Err(failure) => {
                    warn!(failure = format!("{failure:#}"), "the node's certificates could not be renewed; trying again in a minute");
                    Timestamp::now() + jiff::SignedDuration::from_mins(1)
                }
            };
        }
    }

    async fn renew(&self, serving_certificate: &SwappableCertificate) -> anyhow::Result<Timestamp> {
        let usages = [Usage::DigitalSignature, Usage::ClientAuth];
        let credential = request(&self.client, "kubernetes.io/kube-apiserver-client-kubelet", &self.node, &AlternativeNames::default(), &usages).await?;
        credential.save(&self.directory.join("client.pem"))?;
        self.client_certificate.swap(&credential)?;
        let usages = [Usage::DigitalSignature, Usage::ServerAuth];
        let serving = request(&self.client, "kubernetes.io/kubelet-serving", &self.node, &serving_names(&self.node, &self.addresses), &usages).await?;
        serving.save(&self.directory.join("serving.pem"))?;
        serving_certificate.swap(&serving)?;
        Ok(credential.renew_at().min(serving.renew_at()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn addresses_of_servers_are_read() {
        assert_eq!(ServerAddress::parse("https://[fd00::1]:7000").unwrap().url(), "https://[fd00::1]:7000");
        assert_eq!(ServerAddress::parse("https://example.org").unwrap().url(), "https://example.org:6443");
        assert!(ServerAddress::parse("http://example.org").is_err());
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_waited_for_and_one_that_refuses_is_not() {
        let attempts = AtomicU32::new(0);
        let attempt = async || match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => Err(anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)).context("cannot connect")),
            1 => Ok("joined"),
            _ => bail!("the token is wrong"),
        };
        assert_eq!(once_reachable("server", attempt).await.unwrap(), "joined");
        assert_eq!(once_reachable("server", attempt).await.unwrap_err().to_string(), "the token is wrong");
    }
}
