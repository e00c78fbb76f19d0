//! The file of `--encryption-provider-config`: which resources are encrypted on the disk, by which ciphers and keys.
//!
//! Source: Kubernetes 1.36, `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`, its validation
//! (`apiserver/pkg/apis/apiserver/validation/validation_encryption.go`) and the documentation, "Encrypting Confidential Data at Rest".

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

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
use store::transformer::configured::{Cipher, Provider, Resources, Rule};
use tokio::{io::AsyncReadExt, net::unix::pipe};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

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
    kms: Option<serde::de::IgnoredAny>,
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
#[derive(Debug, Default)]
pub struct Configuration {
    /// What it says.
    pub rules: Vec<Rule>,
    /// As it stands.
    text: String,
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, or what is wrong in it: all of that, a line each.
pub fn read(path: &Path) -> anyhow::Result<Configuration> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the encryption configuration {shown}"))?;
    let rules = parse(&text).with_context(|| format!("the encryption configuration {shown} cannot be used: correct it"))?;
    Ok(Configuration { rules, text })
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

/// Reads the file again whenever it changes, until stopped, and hands what it says to `apply`. What cannot be used changes nothing.
pub async fn follow(path: PathBuf, mut known: Configuration, reloads: Reloads, apply: impl Fn(Vec<Rule>), stop: CancellationToken) {
    let mut changes = match changes_beside(&path) {
        Ok(changes) => changes,
        Err(error) => {
            error!(%error, file = %path.display(), "the encryption configuration cannot be watched, and is not read again");
            return;
        }
    };
    let mut news = [0; 4096];
    // What was refused is not read again until it changes: neighbours may change all the time.
    let mut refused = None;
    loop {
        let text = std::fs::read_to_string(&path).ok();
        match read(&path) {
            _ if text.is_some() && text == refused => {}
            Ok(new) if new.text == known.text => refused = None,
            Ok(new) => {
                refused = None;
                apply(new.rules.clone());
                info!(file = %path.display(), "the encryption configuration was read again");
                reloads.reloaded("success");
                known = new;
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), "the encryption configuration stays as it was");
                reloads.reloaded("failure");
                refused = text;
            }
        }
        // Which of its neighbours changed does not matter: the file is compared with what is known.
        match stop.run_until_cancelled(changes.read(&mut news)).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                error!(%error, file = %path.display(), "the encryption configuration cannot be watched any more");
                return;
            }
            None => return,
        }
    }
}

/// Wakes when a file is written, or put in the place of another, where this one is: editors do the latter, and so do mounted objects.
fn changes_beside(path: &Path) -> std::io::Result<pipe::Receiver> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO)?;
    // It is read as a pipe is.
    pipe::Receiver::from_owned_fd_unchecked(watch)
}

fn parse(text: &str) -> anyhow::Result<Vec<Rule>> {
    let file: File = serde_yaml_ng::from_str(text)?;
    if (file.api_version.as_str(), file.kind.as_str()) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") {
        bail!("it is {} {}, not apiserver.config.k8s.io/v1 EncryptionConfiguration", file.api_version, file.kind);
    }
    let mut problems = Vec::new();
    if file.resources.is_empty() {
        problems.push("resources: Required value: at least one resources is required".to_owned());
    }
    let mut rules = Vec::new();
    for (position, entry) in file.resources.iter().enumerate() {
        let at = format!("resources[{position}]");
        rules.push(Rule { resources: resources(&entry.resources, &at, &mut problems), providers: providers(&entry.providers, &at, &mut problems) });
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(rules)
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

fn providers(entries: &[ProviderEntry], at: &str, problems: &mut Vec<String>) -> Vec<Provider> {
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
        if entry.kms.is_some() {
            problems.push(format!("{at}.kms: Forbidden: key management services are not supported: use aesgcm, secretbox or aescbc"));
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
        let rules = parse(&text).unwrap();
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
        let said = parse(&text).unwrap_err().to_string();
        let expected = [
            "resources[0].resources[2]: Invalid value: \"Widgets.example.com\": resource name should not contain capital letters",
            "resources[0].resources[3]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
            "resources[0].resources[4]: Invalid value: \"secrets\": the same resource cannot be specified multiple times",
            "using overlapping resources such as 'secrets' and '*.' in the same resource list",
            "resources[0].providers[0]: Invalid value: more than one provider specified in a single element",
            "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 5, expected one of [16 24 32]",
            "resources[1].resources: Required value: at least one resource is required",
            "resources[1].providers[0]: Required value: provider does not contain any of the expected providers",
            "resources[1].providers[1].kms: Forbidden",
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
        assert!(parse("apiVersion: v1\nkind: Secret\n").unwrap_err().to_string().contains("not apiserver.config.k8s.io/v1"));
        assert!(parse(&format!("{HEAD}- surprises: []\n")).unwrap_err().to_string().contains("surprises"));
    }
}
