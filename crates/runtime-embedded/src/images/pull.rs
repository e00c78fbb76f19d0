//! Fetching an image from a registry or its mirrors.
//!
//! Layers are downloaded to files, a few at a time, verified, unpacked in order, and their files removed. Whatever is here
//! already is not fetched.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::Duration,
};

use container_runtime::{ImageId, PulledImage, RegistryCredential, RuntimeError, image_name::ImageName};
use futures::StreamExt;
use oci_client::{
    Client, Reference,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use sha2::Digest;
use tokio::{io::AsyncWriteExt, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    configuration::{Descriptor, ImageConfiguration, Manifest, own_architecture, pick},
    digest,
    registries::{Credential, Endpoint, Registries},
    store::{ImageStore, MAX_DOCUMENT_BYTES, chain_ids},
};
use crate::sandbox::blocking;

/// Layers that are downloaded at the same time.
const PARALLEL_DOWNLOADS: usize = 3;

/// How long a registry may be silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// Bytes between two reports of progress.
const REPORT_BYTES: u64 = 64 * 1024 * 1024;

const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How far an attempt came, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// Nobody answered.
    Unanswered,
    /// The place has no such image.
    NotFound,
    /// The place refused, or failed later.
    Answered,
}

/// Why an attempt failed, how far it came, and whether other credentials may help.
struct Failure {
    reason: String,
    progress: Progress,
    unauthorized: bool,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), progress: Progress::Answered, unauthorized: false }
    }

    /// What to tell of several failures: the first of those that came furthest. A registry that a mirror stands in for may not even
    /// exist, so the last one says the least. Source: containerd 1.7, `dockerResolver.Resolve`.
    fn keep_furthest(told: &mut Option<Self>, failure: Self) {
        if told.as_ref().is_none_or(|told| failure.progress > told.progress) {
            *told = Some(failure);
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// What is fetched from one place with one credential.
struct Source {
    client: Client,
    auth: RegistryAuth,
    endpoint: Endpoint,
    full_name: String,
}

/// Fetches an image. Every place is asked with every credential, then without.
///
/// # Errors
/// [`RuntimeError::InvalidImageName`], or [`RuntimeError::Pull`] with the reason in upstream's words.
pub async fn pull(store: &Arc<ImageStore>, registries: &Registries, reference: &str, credentials: &[RegistryCredential]) -> Result<PulledImage, RuntimeError> {
    static PROVIDER: Once = Once::new();
    // Fails where the program has chosen one itself, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let name = ImageName::parse(reference)?;
    let full_name = name.to_string();
    let failed = |reason: String| RuntimeError::Pull { image: reference.to_owned(), reason };
    let _arriving = store.arriving.read().await;
    let mut told = None;
    for endpoint in registries.endpoints(&name) {
        let mut attempts: Vec<Option<Credential>> = credentials.iter().map(|credential| Some(Credential::from(credential))).collect();
        attempts.extend(endpoint.credential.clone().map(Some));
        attempts.push(None);
        for (number, credential) in attempts.into_iter().enumerate() {
            let source = match Source::new(&endpoint, credential, &full_name).await {
                Ok(source) => source,
                Err(failure) => {
                    Failure::keep_furthest(&mut told, failure);
                    break;
                }
            };
            match source.fetch(store, &name).await {
                Ok(id) => return Ok(PulledImage { id, credential: Some(number).filter(|number| *number < credentials.len()) }),
                Err(failure) => {
                    tracing::info!(image = full_name, from = endpoint.host, reason = failure.reason, "an attempt to pull failed");
                    let others_may_help = failure.unauthorized;
                    Failure::keep_furthest(&mut told, failure);
                    if !others_may_help {
                        break;
                    }
                }
            }
        }
    }
    Err(failed(format!("failed to pull and unpack image \"{full_name}\": {}", told.map(|failure| failure.reason).unwrap_or_default())))
}

impl Source {
    async fn new(endpoint: &Endpoint, credential: Option<Credential>, full_name: &str) -> Result<Self, Failure> {
        let mut extra_root_certificates = Vec::new();
        if let Some(path) = &endpoint.ca_file {
            let data = tokio::fs::read(path).await.map_err(|error| Failure::new(format!("could not read {}: {error}", path.display())))?;
            extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
        let config = ClientConfig {
            protocol: if endpoint.plain { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: endpoint.skip_verify,
            extra_root_certificates,
            platform_resolver: None,
            read_timeout: Some(SILENCE_LIMIT),
            connect_timeout: Some(Duration::from_secs(15)),
            user_agent: concat!("knarr/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| Failure::new(error.to_string()))?;
        let auth = match credential {
            Some(Credential::Basic(username, password)) => RegistryAuth::Basic(username, password),
            Some(Credential::Bearer(token)) => RegistryAuth::Bearer(token),
            None => RegistryAuth::Anonymous,
        };
        Ok(Self { client, auth, endpoint: endpoint.clone(), full_name: full_name.to_owned() })
    }

    fn by_digest(&self, digest: &str) -> Reference {
        Reference::with_digest(self.endpoint.host.clone(), self.endpoint.repository.clone(), digest.to_owned())
    }

    async fn fetch(self, store: &Arc<ImageStore>, name: &ImageName) -> Result<ImageId, Failure> {
        let reference = match (&name.digest, &name.tag) {
            (Some(digest), _) => self.by_digest(digest),
            (None, tag) => Reference::with_tag(self.endpoint.host.clone(), self.endpoint.repository.clone(), tag.clone().unwrap_or_else(|| "latest".to_owned())),
        };
        let (named_digest, mut manifest) = self.manifest(&reference).await?;
        // An index may hold indexes, but not for ever.
        for _ in 0..4 {
            let Some(manifests) = &manifest.manifests else { break };
            let picked = pick(manifests, own_architecture())
                .ok_or_else(|| Failure::new(format!("no match for platform in manifest: not found (this machine is linux/{})", own_architecture())))?;
            if !digest::is_valid(&picked.digest) {
                return Err(Failure::new(format!("the index names \"{}\", which is no digest that can be verified", picked.digest)));
            }
            (_, manifest) = self.manifest(&self.by_digest(&picked.digest)).await?;
        }
        let Some(config) = &manifest.config else { return Err(Failure::new("the registry sent neither a manifest nor an index")) };
        let configuration_bytes = self.document(&reference, config).await?;
        let configuration: ImageConfiguration = serde_json::from_slice(&configuration_bytes).map_err(|error| Failure::new(format!("the image's configuration makes no sense: {error}")))?;
        let diff_ids = configuration.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() || !diff_ids.iter().all(|diff_id| digest::is_valid(diff_id)) {
            return Err(Failure::new("the image's configuration and manifest disagree about its layers"));
        }
        Arc::new(self).layers(store, &reference, &manifest.layers, &diff_ids).await?;
        let (store, tags, digests) = (Arc::clone(store), name.tagged().filter(|_| name.digest.is_none()).into_iter().collect::<Vec<_>>(), vec![name.at_digest(&named_digest)]);
        Ok(blocking(move || store.add(&configuration_bytes, &tags, &digests)).await?)
    }

    async fn manifest(&self, reference: &Reference) -> Result<(String, Manifest), Failure> {
        let asked = self.client.pull_manifest_raw(reference, &self.auth, &MANIFEST_TYPES).await;
        let (bytes, _) = asked.map_err(|error| self.explain(&error))?;
        let found = digest::of(&bytes);
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != found) {
            return Err(Failure::new(format!("the registry sent {found} where {wanted} was asked for")));
        }
        let manifest = serde_json::from_slice(&bytes).map_err(|error| Failure::new(format!("the manifest makes no sense: {error}")))?;
        Ok((found, manifest))
    }

    /// A blob that is small enough to be held in memory.
    async fn document(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
        let mut stream = self.client.pull_blob_stream(reference, descriptor.digest.as_str()).await.map_err(|error| self.explain(&error))?;
        let mut bytes = Vec::new();
        while let Some(part) = stream.stream.next().await {
            bytes.extend_from_slice(&part?);
            if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
                return Err(Failure::new(format!("the image's configuration is longer than {MAX_DOCUMENT_BYTES} bytes")));
            }
        }
        let found = digest::of(&bytes);
        if found == descriptor.digest { Ok(bytes) } else { Err(Failure::new(format!("the registry sent {found} where {} was asked for", descriptor.digest))) }
    }

    async fn layers(self: Arc<Self>, store: &Arc<ImageStore>, reference: &Reference, layers: &[Descriptor], diff_ids: &[String]) -> Result<(), Failure> {
        let chain_ids = chain_ids(diff_ids);
        let slots = Arc::new(Semaphore::new(PARALLEL_DOWNLOADS));
        let mut waiting = Vec::new();
        for ((index, descriptor), (chain_id, diff_id)) in layers.iter().enumerate().zip(chain_ids.iter().zip(diff_ids)) {
            if store.layers.contains(chain_id) {
                continue;
            }
            let (source, store, reference, descriptor, slots, chain) = (Arc::clone(&self), Arc::clone(store), reference.clone(), descriptor.clone(), Arc::clone(&slots), chain_id.clone());
            let download = async move {
                // Another pull may be fetching the same layer; then there is nothing left to do afterwards.
                let guard = store.layers.lock(&chain).await;
                if store.layers.contains(&chain) {
                    return Ok(None);
                }
                let _slot = slots.acquire().await;
                Ok::<_, Failure>(Some((source.download(&store.blobs, &reference, &descriptor).await?, guard)))
            };
            waiting.push((index, diff_id.clone(), AbortOnDropHandle::new(tokio::spawn(download))));
        }
        for (index, diff_id, download) in waiting {
            let downloaded = download.await.map_err(|_| Failure::new("a download was interrupted"))??;
            let Some((file, guard)) = downloaded else { continue };
            let (store, parents) = (Arc::clone(store), chain_ids.get(..index).unwrap_or_default().to_vec());
            let (count, started) = (diff_ids.len(), std::time::Instant::now());
            blocking(move || store.layers.unpack(std::fs::File::open(&file.0)?, &diff_id, &parents)).await?;
            tracing::info!(image = self.full_name, "unpacked layer {} of {count} in {:?}", index + 1, started.elapsed());
            drop(guard);
        }
        Ok(())
    }

    /// Downloads a blob to a file and verifies it.
    async fn download(&self, directory: &Path, reference: &Reference, descriptor: &Descriptor) -> Result<Blob, Failure> {
        if !digest::is_valid(&descriptor.digest) {
            return Err(Failure::new(format!("the manifest names \"{}\", which is no digest that can be verified", descriptor.digest)));
        }
        let blob = Blob(directory.join(format!("{}-{:016x}", digest::hex(&descriptor.digest), rand::random::<u64>())));
        let mut file = tokio::io::BufWriter::with_capacity(256 * 1024, tokio::fs::File::create(&blob.0).await?);
        let mut stream = self.client.pull_blob_stream(reference, descriptor.digest.as_str()).await.map_err(|error| self.explain(&error))?;
        let (mut hasher, mut count, mut reported) = (sha2::Sha256::new(), 0_u64, 0);
        while let Some(part) = stream.stream.next().await {
            let part = part.map_err(|error| Failure::new(format!("failed to copy layer {}: {}", descriptor.digest, with_causes(&error))))?;
            count += part.len() as u64;
            if count > descriptor.size {
                return Err(Failure::new(format!("layer {} is longer than the {} bytes that were announced", descriptor.digest, descriptor.size)));
            }
            hasher.update(&part);
            file.write_all(&part).await?;
            if count - reported >= REPORT_BYTES {
                reported = count;
                tracing::info!(image = self.full_name, "downloaded {} of {} MiB of layer {}", count >> 20, descriptor.size >> 20, descriptor.digest);
            }
        }
        file.flush().await?;
        let found = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if found != digest::hex(&descriptor.digest) {
            return Err(Failure::new(format!("the registry sent sha256:{found} where {} was asked for", descriptor.digest)));
        }
        Ok(blob)
    }

    /// What went wrong, in the words that upstream's runtimes use.
    fn explain(&self, error: &OciDistributionError) -> Failure {
        let name = &self.full_name;
        let not_found = || Failure { progress: Progress::NotFound, ..Failure::new(format!("failed to resolve reference \"{name}\": {name}: not found")) };
        let denied = |cause: String| Failure {
            reason: format!("failed to resolve reference \"{name}\": pull access denied, repository does not exist or may require authorization: {cause}"),
            progress: Progress::Answered,
            unauthorized: true,
        };
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => not_found(),
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
                if has(&[OciErrorCode::Denied, OciErrorCode::Unauthorized]) {
                    denied(format!("server message: {envelope}"))
                } else if has(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
                    not_found()
                } else {
                    Failure::new(error.to_string())
                }
            }
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => denied("authorization failed".to_owned()),
            other => {
                let unanswered = matches!(other, OciDistributionError::RequestError(error) if error.is_connect());
                let reason = format!("failed to resolve reference \"{name}\": failed to do request to {}: {}", self.endpoint.host, with_causes(other));
                Failure { progress: if unanswered { Progress::Unanswered } else { Progress::Answered }, ..Failure::new(reason) }
            }
        }
    }
}

/// An error with everything that led to it.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A downloaded blob, whose file goes away with it.
struct Blob(PathBuf);

impl Drop for Blob {
    fn drop(&mut self) {
        // Only a leftover; the next start would remove it as well.
        let _ = std::fs::remove_file(&self.0);
    }
}
