//! Names of images: reading what a user wrote (`nginx`, `ghcr.io/a/b:1`, `x@sha256:…`) into its full form.
//!
//! Every filling of the seam uses this one reader, so that `nginx`, `docker.io/nginx` and `docker.io/library/nginx:latest`
//! are the same image everywhere. The rules are those of the distribution project's reference grammar.

use std::fmt;

use crate::RuntimeError;

/// Longest repository name (registry included) that is allowed.
const MAX_NAME_LENGTH: usize = 255;

/// An image's full name: registry, repository, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    /// Host and port of the registry (`docker.io`).
    pub registry: String,
    /// Path in the registry (`library/nginx`).
    pub repository: String,
    /// Tag, `latest` where neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// Digest (`sha256:…`); it decides where both are given.
    pub digest: Option<String>,
}

impl ImageName {
    /// Reads a name as docker does: a missing registry is Docker Hub, a missing tag is `latest`.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidImageName`] with the reason in upstream's words.
    pub fn parse(name: &str) -> Result<Self, RuntimeError> {
        let invalid = |reason: &str| RuntimeError::InvalidImageName { name: name.to_owned(), reason: reason.to_owned() };
        if name.is_empty() {
            return Err(invalid("repository name must have at least one component"));
        }
        if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return Err(invalid("repository name cannot be a 64-byte hexadecimal string"));
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => {
                check_digest(digest).map_err(invalid)?;
                (rest, Some(digest.to_owned()))
            }
            None => (name, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let last_component = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest.get(last_component..).and_then(|last| last.find(':')) {
            Some(colon) => {
                let (path, tag) = rest.split_at(last_component + colon);
                (path, Some(tag.trim_start_matches(':')).filter(|_| tag.matches(':').count() == 1))
            }
            None => (rest, Some("")),
        };
        let tag = match tag {
            None => return Err(invalid("invalid reference format")),
            Some("") if path.len() != rest.len() => return Err(invalid("invalid reference format")),
            Some("") => None,
            Some(tag) if is_tag(tag) => Some(tag.to_owned()),
            Some(_) => return Err(invalid("invalid reference format")),
        };
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) => (first, rest.to_owned()),
            _ => ("docker.io", path.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        if !is_registry(registry) {
            return Err(invalid("invalid reference format"));
        }
        if repository.chars().any(char::is_uppercase) && is_repository(&repository.to_lowercase()) {
            return Err(invalid(&format!("invalid reference format: repository name ({repository}) must be lowercase")));
        }
        if !is_repository(&repository) {
            return Err(invalid("invalid reference format"));
        }
        let repository = if registry == "docker.io" && !repository.contains('/') { format!("library/{repository}") } else { repository };
        if registry.len() + 1 + repository.len() > MAX_NAME_LENGTH {
            return Err(invalid("repository name must not be more than 255 characters"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Registry and repository, without tag and digest.
    #[must_use]
    pub fn without_version(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name by tag, where it has one.
    #[must_use]
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}/{}:{tag}", self.registry, self.repository))
    }

    /// The name of `digest` in this repository.
    #[must_use]
    pub fn at_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether `text` has the form of an image id: `sha256:` and 64 hexadecimal digits, or the digits alone.
#[must_use]
pub fn is_image_id(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn check_digest(digest: &str) -> Result<(), &'static str> {
    let Some((algorithm, encoded)) = digest.split_once(':') else { return Err("invalid reference format") };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm"),
    };
    if encoded.len() != length {
        return Err("invalid checksum digest length");
    }
    if !encoded.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err("invalid checksum digest format");
    }
    Ok(())
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') {
                return false;
            }
            return port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    port.is_none_or(is_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_repository(repository: &str) -> bool {
    repository.split('/').all(is_path_component)
}

/// Runs of lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    component.split(|character: char| is_word(u8::try_from(character).unwrap_or(b'!'))).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, full: &str) {
        assert_eq!(ImageName::parse(written).unwrap().to_string(), full);
    }

    #[track_caller]
    fn refused(written: &str, reason: &str) {
        let error = ImageName::parse(written).unwrap_err().to_string();
        assert_eq!(error, format!("couldn't parse image name \"{written}\": {reason}"));
    }

    #[test]
    fn short_names_get_registry_and_tag() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.25", "docker.io/library/nginx:1.25");
        check("bitnami/redis", "docker.io/bitnami/redis:latest");
        check("docker.io/nginx", "docker.io/library/nginx:latest");
        check("index.docker.io/library/nginx", "docker.io/library/nginx:latest");
    }

    #[test]
    fn registries_are_told_from_folders() {
        check("localhost/probe", "localhost/probe:latest");
        check("localhost:5000/probe:v1", "localhost:5000/probe:v1");
        check("registry.example/a/b_c/d-e.f", "registry.example/a/b_c/d-e.f:latest");
        check("[fd00::1]:5000/a", "[fd00::1]:5000/a:latest");
    }

    #[test]
    fn a_digest_replaces_the_default_tag() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        check(&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}"));
        check(&format!("nginx:1@{digest}"), &format!("docker.io/library/nginx:1@{digest}"));
    }

    #[test]
    fn bad_names_are_refused_in_upstreams_words() {
        refused("", "repository name must have at least one component");
        refused("Nginx", "invalid reference format: repository name (Nginx) must be lowercase");
        refused("nginx:", "invalid reference format");
        refused("nginx:a b", "invalid reference format");
        refused("nginx:a:b", "invalid reference format");
        refused("a//b", "invalid reference format");
        refused("-a", "invalid reference format");
        refused("a___b", "invalid reference format");
        refused("nginx@sha256:12", "invalid checksum digest length");
        refused(&"a".repeat(64), "repository name cannot be a 64-byte hexadecimal string");
        refused("ünicode", "invalid reference format");
    }

    #[test]
    fn over_long_names_are_refused() {
        refused("b/".repeat(140).trim_end_matches('/'), "repository name must not be more than 255 characters");
    }
}
