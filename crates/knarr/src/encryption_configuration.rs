//! The file of `--encryption-provider-config`: which resources are encrypted on the disk, by which ciphers and keys, or which services
//! keep the keys (`key_management.rs`).
//!
//! Source: Kubernetes 1.36, `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`, its validation
//! (`apiserver/pkg/apis/apiserver/validation/validation_encryption.go`) and the documentation, "Encrypting Confidential Data at Rest".

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use rustix::fs::inotify;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use parking_lot::RwLock;
use store::transformer::configured::{Cipher, Provider, Resources, Rule};
use store::transformer::envelope::{Clock, Envelope};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::{io::AsyncReadExt, net::unix::pipe};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::key_management::{Decrypting, Service, Settings};

/// As upstream calls the check of all key management services together.
pub const HEALTH_CHECK: &str = "kms-providers";
/// What a service may take to answer, where nothing else is said.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(3);
/// A file whose services are not well is tried again after this: nothing tells that they are.
const TRY_AGAIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<ProviderEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderEntry {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
    kms: Option<KmsEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KmsEntry {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    name: String,
    cachesize: Option<i32>,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

/// A file that was read.
#[derive(Default)]
pub struct Configuration {
    /// What it says; services have no seeds here.
    rules: Vec<Rule>,
    /// Those it names.
    services: Vec<Arc<Service>>,
    /// Told when one of them uses another key.
    rotated: Arc<Notify>,
    /// As it stands.
    text: String,
}

impl Configuration {
    /// What holds now, with the seeds of services.
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules = self.rules.clone();
        for provider in rules.iter_mut().flat_map(|rule| &mut rule.providers) {
            if let Provider::Kms(envelope) = provider
                && let Some(service) = self.services.iter().find(|service| service.name() == envelope.name())
            {
                *envelope = service.envelope(envelope);
            }
        }
        rules
    }

    /// The services it names.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.services.clone()
    }
}

/// Asks services how they are, all at once.
///
/// # Errors
/// What is wrong, of all of them.
pub async fn check(services: &[Arc<Service>]) -> Result<(), String> {
    let outcomes = futures::future::join_all(services.iter().map(|service| service.check())).await;
    let problems: Vec<String> = outcomes.into_iter().enumerate().filter_map(|(position, outcome)| Some(format!("kms-provider-{position}: {}", outcome.err()?))).collect();
    match problems.as_slice() {
        [] => Ok(()),
        [problem] => Err(problem.clone()),
        problems => Err(format!("[{}]", problems.join(", "))),
    }
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, or what is wrong in it: all of that, a line each.
pub fn read(path: &Path) -> anyhow::Result<Configuration> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the encryption configuration {shown}"))?;
    parse(&text).with_context(|| format!("the encryption configuration {shown} cannot be used: correct it"))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    apiserver_id_hash: String,
    status: &'static str,
}

/// How often the file was read again, and when. Names as upstream's, source: Kubernetes 1.36,
/// `apiserver/pkg/server/options/encryptionconfig/metrics/metrics.go`.
#[derive(Debug, Clone)]
pub struct Reloads {
    server: String,
    reloads: Family<ReloadLabels, Counter>,
    latest: Family<ReloadLabels, Gauge<f64, AtomicU64>>,
}

impl Reloads {
    /// Of the server on a machine.
    pub fn new(host: &str) -> Self {
        let hash = Sha256::digest(host).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self { server: format!("sha256:{hash}"), reloads: Family::default(), latest: Family::default() }
    }
    /// As text.
    pub fn text(&self) -> String {
        let mut registry = Registry::default();
        registry.register("apiserver_encryption_config_controller_automatic_reloads", "[ALPHA] How often the encryption configuration was read again", self.reloads.clone());
        registry.register(
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
            "[ALPHA] When the encryption configuration was last read again, in seconds since 1970",
            self.latest.clone(),
        );
        metrics::text(&registry)
    }
    fn reloaded(&self, status: &'static str) {
        let labels = ReloadLabels { apiserver_id_hash: self.server.clone(), status };
        self.reloads.get_or_create(&labels).inc();
        self.latest.get_or_create(&labels).set(jiff::Timestamp::now().as_duration().as_secs_f64());
    }
}

/// What is in force, and how that changes.
pub struct Following {
    /// What holds at start.
    pub known: Configuration,
    /// The file, where it is read again whenever it changes.
    pub file: Option<PathBuf>,
    /// Counts how often it is.
    pub reloads: Reloads,
    /// The services in use, for whoever asks how they are.
    pub services: Arc<RwLock<Vec<Arc<Service>>>>,
}

impl Following {
    /// Hands the rules to `apply` whenever the file changes or a service uses another key, until stopped. What cannot be used changes nothing.
    pub async fn run(mut self, apply: impl Fn(Vec<Rule>), stop: CancellationToken) {
        let mut changes = self.file.as_deref().and_then(|file| match changes_beside(file) {
            Ok(changes) => Some(changes),
            Err(error) => {
                error!(%error, file = %file.display(), "the encryption configuration cannot be watched, and is not read again");
                None
            }
        });
        let mut news = [0; 4096];
        // What was refused is not read again until it changes: neighbours may change all the time.
        let mut refused = None;
        // They end with this.
        let mut asking = ask(&self.known);
        // It may have changed since it was read.
        let mut look = changes.is_some();
        loop {
            let mut again = None;
            if let (true, Some(file)) = (look, &self.file) {
                match self.read_again(file, &mut refused).await {
                    Looked::Changed(new) => {
                        asking = ask(&new);
                        *self.services.write() = new.services();
                        apply(new.rules());
                        self.reloads.reloaded("success");
                        info!(file = %file.display(), "the encryption configuration was read again");
                        self.known = new;
                    }
                    Looked::Unwell => again = Some(TRY_AGAIN),
                    Looked::Same => {}
                }
            }
            let changed = async {
                match &mut changes {
                    Some(changes) => changes.read(&mut news).await.map(|_| ()),
                    None => std::future::pending().await,
                }
            };
            let wait = async {
                match again {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            look = tokio::select! {
                () = stop.cancelled() => return,
                () = self.known.rotated.notified() => {
                    apply(self.known.rules());
                    again.is_some()
                }
                () = wait => true,
                // Which of its neighbours changed does not matter: the file is compared with what is known.
                outcome = changed => match outcome {
                    Ok(()) => true,
                    Err(error) => {
                        error!(%error, "the encryption configuration cannot be watched any more");
                        changes = None;
                        false
                    }
                },
            };
            // Only those that are asked, for as long as they are.
            while asking.try_join_next().is_some() {}
        }
    }

    async fn read_again(&self, file: &Path, refused: &mut Option<String>) -> Looked {
        let text = std::fs::read_to_string(file).ok();
        if text.is_some() && text == *refused {
            return Looked::Same;
        }
        let failed = |error: String| {
            warn!(error, "the encryption configuration stays as it was");
            self.reloads.reloaded("failure");
        };
        match read(file) {
            Ok(new) if new.text == self.known.text => {
                *refused = None;
                Looked::Same
            }
            Ok(new) => {
                *refused = None;
                match check(&new.services).await {
                    Ok(()) => Looked::Changed(new),
                    Err(error) => {
                        failed(error);
                        Looked::Unwell
                    }
                }
            }
            Err(error) => {
                failed(format!("{error:#}"));
                *refused = text;
                Looked::Same
            }
        }
    }
}

enum Looked {
    Changed(Configuration),
    /// Its services are not well.
    Unwell,
    Same,
}

fn ask(configuration: &Configuration) -> JoinSet<()> {
    configuration.services.iter().map(|service| service.clone().keep()).collect()
}

/// Wakes when a file is written, or put in the place of another, where this one is: editors do the latter, and so do mounted objects.
fn changes_beside(path: &Path) -> std::io::Result<pipe::Receiver> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO)?;
    // It is read as a pipe is.
    pipe::Receiver::from_owned_fd_unchecked(watch)
}

fn parse(text: &str) -> anyhow::Result<Configuration> {
    let file: File = serde_yaml_ng::from_str(text)?;
    if (file.api_version.as_str(), file.kind.as_str()) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") {
        bail!("it is {} {}, not apiserver.config.k8s.io/v1 EncryptionConfiguration", file.api_version, file.kind);
    }
    let mut problems = Vec::new();
    if file.resources.is_empty() {
        problems.push("resources: Required value: at least one resources is required".to_owned());
    }
    let mut configuration = Configuration { text: text.to_owned(), ..Configuration::default() };
    for (position, entry) in file.resources.iter().enumerate() {
        let at = format!("resources[{position}]");
        let resources = resources(&entry.resources, &at, &mut problems);
        for (name, own) in entry.resources.iter().zip(&resources) {
            let masks = |earlier: &&Resources| match (earlier, own) {
                (Resources::All, _) => true,
                (Resources::OfGroup(of), Resources::One { group, .. }) => of == group,
                (Resources::OfGroup(of), Resources::OfGroup(group)) => of == group,
                _ => false,
            };
            if let Some(earlier) = configuration.rules.iter().flat_map(|rule| &rule.resources).find(masks) {
                problems.push(format!("{at}: resource {name:?} is masked by earlier rule {:?}", earlier.to_string()));
            }
        }
        let providers = providers(&entry.providers, &at, &mut configuration, &mut problems);
        configuration.rules.push(Rule { resources, providers });
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(configuration)
}

fn resources(names: &[String], at: &str, problems: &mut Vec<String>) -> Vec<Resources> {
    if names.is_empty() {
        problems.push(format!("{at}.resources: Required value: at least one resource is required"));
    }
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    for (position, name) in names.iter().enumerate() {
        let mut refuse = |why: &str| problems.push(format!("{at}.resources[{position}]: Invalid value: {name:?}: {why}"));
        if !seen.insert(name) {
            refuse("the same resource cannot be specified multiple times");
        }
        if name.chars().any(char::is_uppercase) {
            refuse("resource name should not contain capital letters");
        }
        let (resource, group) = name.split_once('.').unwrap_or((name, ""));
        match (resource, group) {
            ("*", "") if name == "*" => refuse("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
            (_, "events.k8s.io") => refuse("'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"),
            (_, "extensions") => refuse("'extensions' group has been removed and cannot be used for encryption"),
            ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", "") => refuse("resources which do not have REST API/s cannot be encrypted"),
            (resource, "*") if resource != "*" => refuse("encrypting the same resource across groups is not supported"),
            _ => {}
        }
        all.push(match (resource, group) {
            ("*", "*") => Resources::All,
            ("*", group) => Resources::OfGroup(group.to_owned()),
            (resource, group) => Resources::One { resource: resource.to_owned(), group: group.to_owned() },
        });
    }
    let masked = |wide: &Resources| match wide {
        Resources::All => all.len() > 1,
        Resources::OfGroup(of) => all.iter().any(|other| matches!(other, Resources::One { group, .. } if group == of)),
        Resources::One { .. } => false,
    };
    if all.iter().any(masked) {
        problems.push(format!(
            "{at}.resources: Invalid value: {names:?}: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"
        ));
    }
    all
}

fn providers(entries: &[ProviderEntry], at: &str, configuration: &mut Configuration, problems: &mut Vec<String>) -> Vec<Provider> {
    if entries.is_empty() {
        problems.push(format!("{at}.providers: Required value: at least one provider is required"));
    }
    let mut all = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        let at = format!("{at}.providers[{position}]");
        let given = [(Cipher::AesGcm, &entry.aesgcm), (Cipher::AesCbc, &entry.aescbc), (Cipher::Secretbox, &entry.secretbox)];
        let count = given.iter().filter(|(_, keys)| keys.is_some()).count() + usize::from(entry.identity.is_some()) + usize::from(entry.kms.is_some());
        match count {
            0 => problems.push(format!("{at}: Required value: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity")),
            1 => {}
            _ => problems.push(format!("{at}: Invalid value: more than one provider specified in a single element, should split into different list elements")),
        }
        if let Some(kms) = &entry.kms {
            all.extend(service(kms, &format!("{at}.kms"), configuration, problems).map(Provider::Kms));
        }
        if entry.identity.is_some() {
            all.push(Provider::Identity);
        }
        for (cipher, keys) in given {
            if let Some(keys) = keys {
                all.extend(keys_of(cipher, keys, &format!("{at}.{}", cipher.name()), problems));
            }
        }
    }
    all
}

/// A provider with a key management service; none where something is wrong with it.
fn service(entry: &KmsEntry, at: &str, configuration: &mut Configuration, problems: &mut Vec<String>) -> Option<Envelope> {
    let before = problems.len();
    let (version, name) = (if entry.api_version.is_empty() { "v1" } else { &entry.api_version }, &entry.name);
    if name.is_empty() {
        problems.push(format!("{at}.name: Required value: name is a mandatory field for a provider"));
    }
    if version != "v1" && name.contains(':') {
        problems.push(format!("{at}.name: Invalid value: {name:?}: invalid KMS provider name {name}, must not contain ':'"));
    }
    if configuration.services.iter().any(|service| service.name() == name) {
        problems.push(format!("{at}.name: Invalid value: {name:?}: duplicate KMS provider name {name}, names must be unique"));
    }
    let timeout = entry.timeout.as_deref().map_or(Some(SERVICE_TIMEOUT), |text| scheduler::extender::timeout(Some(text)));
    if timeout.is_none() {
        problems.push(format!("{at}.timeout: Invalid value: {:?}: timeout should be a positive value", entry.timeout.as_deref().unwrap_or_default()));
    }
    let socket = match entry.endpoint.split_once("://") {
        _ if entry.endpoint.is_empty() => {
            problems.push(format!("{at}.endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms"));
            ""
        }
        // An abstract name is written as a path.
        Some(("unix", path)) => path.strip_prefix('/').filter(|path| path.starts_with('@')).unwrap_or(path),
        other => {
            let scheme = other.map_or("", |(scheme, _)| scheme);
            problems.push(format!("{at}.endpoint: Invalid value: {:?}: unsupported scheme {scheme:?} for KMS provider, only unix is supported", entry.endpoint));
            ""
        }
    };
    match entry.cachesize {
        Some(size) if version != "v1" => problems.push(format!("{at}.cachesize: Invalid value: {size}: cachesize is not supported in v2")),
        Some(0) => problems.push(format!("{at}.cachesize: Invalid value: 0: cachesize should be a positive value, or negative to disable")),
        _ => {}
    }
    match version {
        "v2" => {}
        "v1" => problems.push(format!("{at}.apiVersion: Forbidden: KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.")),
        other => problems.push(format!("{at}.apiVersion: Invalid value: {other:?}: unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported")),
    }
    let timeout = timeout.filter(|_| problems.len() == before)?;
    let settings = Settings { name: name.clone(), socket: socket.to_owned(), timeout };
    let clock: Clock = Arc::new(Instant::now);
    let envelope = Envelope::new(name, Arc::new(Decrypting::new(settings.clone())), clock.clone());
    configuration.services.push(Arc::new(Service::new(settings, clock, configuration.rotated.clone())));
    Some(envelope)
}

fn keys_of(cipher: Cipher, keys: &Keys, at: &str, problems: &mut Vec<String>) -> Vec<Provider> {
    if keys.keys.is_empty() {
        problems.push(format!("{at}.keys: Required value: at least one key is required"));
    }
    let mut all = Vec::new();
    for (position, key) in keys.keys.iter().enumerate() {
        let at = format!("{at}.keys[{position}]");
        if key.name.is_empty() {
            problems.push(format!("{at}.name: Required value: name is a mandatory field for a key"));
        } else if key.name.contains(':') {
            problems.push(format!("{at}.name: Invalid value: {:?}: it must not contain ':', which ends it where it is stored", key.name));
        }
        if key.secret.is_empty() {
            problems.push(format!("{at}.secret: Required value: secret is a mandatory field for a key"));
            continue;
        }
        let Ok(secret) = STANDARD.decode(&key.secret) else {
            problems.push(format!("{at}.secret: Invalid value: \"REDACTED\": secrets must be base64 encoded"));
            continue;
        };
        if !cipher.key_lengths().contains(&secret.len()) {
            let expected = cipher.key_lengths().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            problems.push(format!(
                "{at}.secret: Invalid value: \"REDACTED\": secret is not of the expected length, got {}, expected one of [{expected}]",
                secret.len()
            ));
        }
        all.push(Provider::Key { cipher, name: key.name.clone(), secret });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
    const LONG: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn a_file_is_read_as_it_stands() {
        let text = format!(
            "{HEAD}- resources: [secrets, widgets.example.com]\n  providers:\n  - aesgcm: {{ keys: [{{ name: new, secret: {LONG} }}, {{ name: old, secret: {LONG} }}] }}\n  - identity: {{}}\n\
             - resources: ['*.apps']\n  providers:\n  - secretbox: {{ keys: [{{ name: box, secret: {LONG} }}] }}\n- resources: ['*.*']\n  providers: [{{ identity: {{}} }}]\n"
        );
        let rules = parse(&text).unwrap().rules();
        let key = |cipher, name: &str| Provider::Key { cipher, name: name.to_owned(), secret: vec![0; 32] };
        assert_eq!(rules[0].providers, [key(Cipher::AesGcm, "new"), key(Cipher::AesGcm, "old"), Provider::Identity]);
        let one = |resource: &str, group: &str| Resources::One { resource: resource.to_owned(), group: group.to_owned() };
        assert_eq!(rules[0].resources, [one("secrets", ""), one("widgets", "example.com")]);
        assert_eq!((&rules[1].resources[0], &rules[2].resources[0]), (&Resources::OfGroup("apps".to_owned()), &Resources::All));
        assert_eq!(rules[1].providers, [key(Cipher::Secretbox, "box")]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_no_secret_is() {
        let text = format!(
            "{HEAD}- resources: [secrets, '*.', Widgets.example.com, '*', secrets]\n  providers:\n  - aesgcm: {{ keys: [{{ name: a, secret: c2hvcnQ= }}] }}\n    identity: {{}}\n\
             - resources: []\n  providers:\n  - {{}}\n  - kms: {{ name: k }}\n  - secretbox: {{ keys: [] }}\n  - aescbc: {{ keys: [{{ name: 'a:b', secret: '!' }}, {{}}] }}\n"
        );
        let said = refusal(&text);
        let expected = [
            "resources[0].resources[2]: Invalid value: \"Widgets.example.com\": resource name should not contain capital letters",
            "resources[0].resources[3]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
            "resources[0].resources[4]: Invalid value: \"secrets\": the same resource cannot be specified multiple times",
            "using overlapping resources such as 'secrets' and '*.' in the same resource list",
            "resources[0].providers[0]: Invalid value: more than one provider specified in a single element",
            "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 5, expected one of [16 24 32]",
            "resources[1].resources: Required value: at least one resource is required",
            "resources[1].providers[0]: Required value: provider does not contain any of the expected providers",
            "resources[1].providers[1].kms.apiVersion: Forbidden: KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.",
            "resources[1].providers[1].kms.endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms",
            "resources[1].providers[2].secretbox.keys: Required value: at least one key is required",
            "resources[1].providers[3].aescbc.keys[0].name: Invalid value: \"a:b\"",
            "resources[1].providers[3].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded",
            "resources[1].providers[3].aescbc.keys[1].name: Required value: name is a mandatory field for a key",
            "resources[1].providers[3].aescbc.keys[1].secret: Required value: secret is a mandatory field for a key",
        ];
        for line in expected {
            assert!(said.contains(line), "{line}\n\nis not in\n\n{said}");
        }
        assert!(!said.contains("c2hvcnQ"), "{said}");
        assert!(refusal("apiVersion: v1\nkind: Secret\n").contains("not apiserver.config.k8s.io/v1"));
        assert!(refusal(&format!("{HEAD}- surprises: []\n")).contains("surprises"));
    }

    fn refusal(text: &str) -> String {
        parse(text).err().unwrap().to_string()
    }

    #[test]
    fn services_that_keep_keys_are_read() {
        let text = format!(
            "{HEAD}- resources: [secrets]\n  providers:\n  - kms: {{ apiVersion: v2, name: vault, endpoint: 'unix:///run/kms.sock', timeout: 1.5s }}\n  - kms: {{ apiVersion: v2, name: other, endpoint: 'unix:///@kms' }}\n"
        );
        let configuration = parse(&text).unwrap();
        assert_eq!(configuration.services.iter().map(|service| service.name()).collect::<Vec<_>>(), ["vault", "other"]);
        let names = configuration.rules().iter().flat_map(|rule| rule.providers.clone()).map(|provider| format!("{provider:?}")).collect::<Vec<_>>();
        assert_eq!(names, ["kms:vault", "kms:other"]);
    }

    #[test]
    fn what_is_wrong_with_a_service_is_said_with_its_place() {
        let one = |kms: &str| refusal(&format!("{HEAD}- resources: [secrets]\n  providers:\n  - kms: {{ apiVersion: v2, name: a, endpoint: 'unix:///a' }}\n  - kms: {{ {kms} }}\n"));
        let good = "apiVersion: v2, name: b, endpoint: 'unix:///b'";
        for (kms, said) in [
            ("apiVersion: v2, endpoint: 'unix:///b'".to_owned(), "kms.name: Required value: name is a mandatory field for a provider"),
            ("apiVersion: v2, name: 'b:c', endpoint: 'unix:///b'".to_owned(), "kms.name: Invalid value: \"b:c\": invalid KMS provider name b:c, must not contain ':'"),
            ("apiVersion: v2, name: a, endpoint: 'unix:///b'".to_owned(), "kms.name: Invalid value: \"a\": duplicate KMS provider name a, names must be unique"),
            ("apiVersion: v2, name: b, endpoint: 'https://b'".to_owned(), "kms.endpoint: Invalid value: \"https://b\": unsupported scheme \"https\" for KMS provider, only unix is supported"),
            ("apiVersion: v3, name: b, endpoint: 'unix:///b'".to_owned(), "kms.apiVersion: Invalid value: \"v3\": unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"),
            (format!("{good}, timeout: 0s"), "kms.timeout: Invalid value: \"0s\": timeout should be a positive value"),
            (format!("{good}, timeout: -3s"), "kms.timeout: Invalid value: \"-3s\": timeout should be a positive value"),
            (format!("{good}, cachesize: 10"), "kms.cachesize: Invalid value: 10: cachesize is not supported in v2"),
        ] {
            let refused = one(&kms);
            assert!(refused.contains(&format!("resources[0].providers[1].{said}")), "{kms}: {refused}");
        }
    }

    #[test]
    fn a_rule_that_an_earlier_one_hides_is_refused() {
        let rules = |first: &str, second: &str| format!("{HEAD}- resources: ['{first}']\n  providers: [{{ identity: {{}} }}]\n- resources: ['{second}']\n  providers: [{{ identity: {{}} }}]\n");
        for (first, second) in [("*.*", "secrets"), ("*.apps", "deployments.apps"), ("*.", "secrets"), ("*.*", "*.apps")] {
            let said = refusal(&rules(first, second));
            assert!(said.contains(&format!("resource {second:?} is masked by earlier rule {first:?}")), "{said}");
        }
        assert!(parse(&rules("secrets", "*.")).is_ok() && parse(&rules("*.apps", "secrets")).is_ok());
        assert!(refusal(&rules("deployments.*", "secrets")).contains("encrypting the same resource across groups is not supported"));
        assert!(refusal(&rules("serviceipallocations", "secrets")).contains("resources which do not have REST API/s cannot be encrypted"));
    }
}
