//! `registries.yaml`: mirrors, credentials and certificates of registries, in the format that k3s made common.
//!
//! ```yaml
//! mirrors:
//!   docker.io:
//!     endpoint: ["http://registry.lan:5000", "https://mirror.lan/v2/hub"]
//!     rewrite: { "^library/(.*)": "hub/$1" }
//!   "*":
//!     endpoint: ["http://registry.lan:5000"]
//! configs:
//!   "registry.lan:5000":
//!     auth: { username: me, password: secret }
//!     tls: { ca_file: /etc/ca.pem, insecure_skip_verify: false }
//! ```

use std::{collections::BTreeMap, io, path::Path};

use base64::Engine;
use container_runtime::{RegistryCredential, image_name::ImageName};
use serde::Deserialize;

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, Configuration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Mirror {
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Configuration {
    auth: Option<Authentication>,
    tls: Option<Tls>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Authentication {
    username: String,
    password: String,
    /// `username:password` in base64.
    auth: String,
    /// A bearer token.
    identity_token: String,
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Authentication(..)")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Tls {
    ca_file: Option<std::path::PathBuf>,
    insecure_skip_verify: bool,
}

/// Where to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port.
    pub host: String,
    /// Without TLS.
    pub plain: bool,
    /// Path in that registry.
    pub repository: String,
    /// Trust any certificate.
    pub skip_verify: bool,
    /// Trust these certificates too.
    pub ca_file: Option<std::path::PathBuf>,
    /// Credentials that the file has for it.
    pub credential: Option<Credential>,
}

/// What to show a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Credential(..)")
    }
}

impl From<&RegistryCredential> for Credential {
    fn from(credential: &RegistryCredential) -> Self {
        // An empty user with a "password" is how docker's configuration files carry an identity token.
        if credential.username.is_empty() { Self::Bearer(credential.password.clone()) } else { Self::Basic(credential.username.clone(), credential.password.clone()) }
    }
}

impl Registries {
    /// Reads the file; a missing one says nothing.
    ///
    /// # Errors
    /// A sentence, where it cannot be read or makes no sense.
    pub fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::default()) };
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Ok(Self::default()),
            Ok(text) => serde_yaml_ng::from_str(&text).map_err(|error| format!("{} makes no sense: {error}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("could not read {}: {error}", path.display())),
        }
    }

    /// Where to ask for an image, in order; the registry itself comes last.
    #[must_use]
    pub fn endpoints(&self, name: &ImageName) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        if let Some(mirror) = self.mirrors.get(&name.registry).or_else(|| self.mirrors.get("*")) {
            let repository = rewrite(&mirror.rewrite, &name.repository);
            endpoints.extend(mirror.endpoint.iter().filter_map(|endpoint| self.endpoint(endpoint, &repository)));
        }
        let own = self.own_endpoint(name);
        if !endpoints.iter().any(|endpoint| endpoint.host == own.host && endpoint.repository == own.repository) {
            endpoints.push(own);
        }
        endpoints
    }

    fn endpoint(&self, written: &str, repository: &str) -> Option<Endpoint> {
        let (plain, rest) = match written.split_once("://") {
            Some(("http", rest)) => (true, rest),
            Some(("https", rest)) => (false, rest),
            Some(_) => return None,
            None => (is_local(written.split('/').next().unwrap_or(written)), written),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The protocol's own prefix may be written or not.
        let path = path.trim_matches('/').trim_start_matches("v2").trim_matches('/');
        let repository = if path.is_empty() { repository.to_owned() } else { format!("{path}/{repository}") };
        Some(self.with_configuration(host, plain, repository))
    }

    fn own_endpoint(&self, name: &ImageName) -> Endpoint {
        let host = if name.registry == "docker.io" { "registry-1.docker.io" } else { &name.registry };
        let mut endpoint = self.with_configuration(host, is_local(host), name.repository.clone());
        if endpoint.credential.is_none() {
            endpoint.credential = self.credential(&name.registry);
        }
        endpoint
    }

    fn with_configuration(&self, host: &str, plain: bool, repository: String) -> Endpoint {
        let tls = self.configs.get(host).and_then(|configuration| configuration.tls.clone());
        Endpoint {
            host: host.to_owned(),
            // Who configures TLS for a local registry wants it.
            plain: plain && tls.is_none(),
            repository,
            skip_verify: tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify),
            ca_file: tls.and_then(|tls| tls.ca_file),
            credential: self.credential(host),
        }
    }

    fn credential(&self, host: &str) -> Option<Credential> {
        let auth = self.configs.get(host)?.auth.as_ref()?;
        if !auth.username.is_empty() {
            return Some(Credential::Basic(auth.username.clone(), auth.password.clone()));
        }
        if !auth.auth.is_empty() {
            let decoded = base64::engine::general_purpose::STANDARD.decode(&auth.auth).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (username, password) = decoded.split_once(':')?;
            return Some(Credential::Basic(username.to_owned(), password.trim_end_matches('\0').to_owned()));
        }
        (!auth.identity_token.is_empty()).then(|| Credential::Bearer(auth.identity_token.clone()))
    }
}

/// Registries on this machine speak plain HTTP, as containerd and docker take it too.
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()) || name == "[::1]"
}

fn rewrite(rules: &BTreeMap<String, String>, repository: &str) -> String {
    for (pattern, replacement) in rules {
        match regex::Regex::new(pattern) {
            Ok(pattern) if pattern.is_match(repository) => return pattern.replace(repository, replacement.as_str()).into_owned(),
            Ok(_) => {}
            Err(error) => tracing::warn!(pattern, %error, "a rewrite rule in registries.yaml is no regular expression"),
        }
    }
    repository.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["http://registry.lan:5000", "https://mirror.lan/v2/hub"]
    rewrite: { "^library/(.*)": "base/$1" }
  "*":
    endpoint: ["http://everything.lan"]
configs:
  "registry.lan:5000":
    auth: { username: me, password: secret }
  "mirror.lan":
    auth: { auth: bWU6c2VjcmV0 }
    tls: { insecure_skip_verify: true }
"#;

    fn endpoints(name: &str) -> Vec<Endpoint> {
        serde_yaml_ng::from_str::<Registries>(FILE).unwrap().endpoints(&ImageName::parse(name).unwrap())
    }

    #[test]
    fn mirrors_are_asked_before_the_registry() {
        let found = endpoints("nginx");
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].host.as_str(), found[0].plain, found[0].repository.as_str()), ("registry.lan:5000", true, "base/nginx"));
        assert_eq!(found[0].credential, Some(Credential::Basic("me".into(), "secret".into())));
        assert_eq!((found[1].host.as_str(), found[1].plain, found[1].repository.as_str()), ("mirror.lan", false, "hub/base/nginx"));
        assert!(found[1].skip_verify && found[1].credential == found[0].credential);
        assert_eq!((found[2].host.as_str(), found[2].repository.as_str()), ("registry-1.docker.io", "library/nginx"));
    }

    #[test]
    fn the_star_stands_for_all_other_registries() {
        let found = endpoints("quay.example/a/b");
        assert_eq!(found.iter().map(|endpoint| endpoint.host.as_str()).collect::<Vec<_>>(), ["everything.lan", "quay.example"]);
    }

    #[test]
    fn registries_on_this_machine_are_plain() {
        let found = Registries::default().endpoints(&ImageName::parse("localhost:5000/a").unwrap());
        assert!(found.len() == 1 && found[0].plain);
        assert!(!Registries::default().endpoints(&ImageName::parse("registry.example/a").unwrap())[0].plain);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let text = format!("{:?} {:?}", serde_yaml_ng::from_str::<Registries>(FILE).unwrap(), endpoints("nginx"));
        assert!(!text.contains("secret") && !text.contains("bWU6"));
    }
}
