//! What of manifests, indexes and image configurations we read. Source: OCI image specification 1.1, docker image 1.2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An image's configuration: how to run it, and which layers it stands on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfiguration {
    /// Processor architecture in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfiguration,
    /// Its layers.
    #[serde(default)]
    pub rootfs: RootFileSystem,
}

/// How to run an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfiguration {
    /// `USER`
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `ENV`, as `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// `CMD`
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// `WORKDIR`
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// `STOPSIGNAL`
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// `VOLUME`
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

/// The layers of an image, by the digests of their uncompressed streams, lowest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFileSystem {
    /// The digests.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<String>,
}

/// A reference to a blob.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// In an index: what it runs on.
    pub platform: Option<Platform>,
    /// Notes.
    #[serde(deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// Processor architecture in Go's words.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Variant of the architecture (`v8`).
    pub variant: String,
}

/// A manifest or an index: exactly one of its two halves is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    /// Its media type, where it says so.
    pub media_type: String,
    /// Of a manifest: the configuration.
    pub config: Option<Descriptor>,
    /// Of a manifest: the layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Of an index: the manifests.
    pub manifests: Option<Vec<Descriptor>>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// This machine's architecture in Go's words.
#[must_use]
pub fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Picks from an index the manifest for an architecture. Entries without a platform are a last resort; attestations
/// (platform `unknown`) never fit.
#[must_use]
pub fn pick<'a>(manifests: &'a [Descriptor], architecture: &str) -> Option<&'a Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
    };
    // For arm64 the plain entry and `v8` mean the same.
    let plain = |descriptor: &&Descriptor| fits(descriptor) && descriptor.platform.as_ref().is_some_and(|platform| matches!(platform.variant.as_str(), "" | "v8" | "v1"));
    manifests.iter().find(plain).or_else(|| manifests.iter().find(fits)).or_else(|| manifests.iter().find(|descriptor| descriptor.platform.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, platform: Option<(&str, &str, &str)>) -> Descriptor {
        let platform = platform.map(|(os, architecture, variant)| Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() });
        Descriptor { digest: digest.into(), platform, ..Descriptor::default() }
    }

    #[test]
    fn an_index_is_answered_for_our_architecture() {
        let index = [
            entry("unknown", Some(("unknown", "unknown", ""))),
            entry("windows", Some(("windows", "amd64", ""))),
            entry("arm", Some(("linux", "arm64", "v8"))),
            entry("amd-v3", Some(("linux", "amd64", "v3"))),
            entry("amd", Some(("linux", "amd64", ""))),
        ];
        assert_eq!(pick(&index, "amd64").unwrap().digest, "amd");
        assert_eq!(pick(&index, "arm64").unwrap().digest, "arm");
        assert_eq!(pick(&index, "riscv64"), None);
        assert_eq!(pick(&[entry("bare", None)], "amd64").unwrap().digest, "bare");
    }

    #[test]
    fn nulls_of_old_builders_are_read_as_nothing() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":null,"Volumes":null,"User":"a"},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let read: ImageConfiguration = serde_json::from_str(text).unwrap();
        assert_eq!(read.config.user, "a");
        assert_eq!(serde_json::from_str::<ImageConfiguration>(r#"{"config":null}"#).unwrap(), ImageConfiguration::default());
    }

    const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{"mediaType":"a","digest":"sha256:00","size":1},
        "layers":[{"mediaType":"b","digest":"sha256:01","size":2}],"manifests":[{"digest":"sha256:02","size":3,"platform":{"os":"linux","architecture":"amd64","variant":"v3"}}]}"#;
    const CONFIGURATION: &str = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["a"],"Entrypoint":["b"],"Env":["C=d"],"User":"0:0","WorkingDir":"/","ExposedPorts":{"80/tcp":{}},
        "Volumes":{"/v":{}},"StopSignal":"SIGTERM","Labels":{"a":"b"}},"rootfs":{"type":"layers","diff_ids":["sha256:03"]}}"#;

    proptest::proptest! {
        #[test]
        fn what_registries_send_is_read_or_refused(
            bytes: Vec<u8>, at: proptest::sample::Index, length in 0_usize..12,
            instead in proptest::sample::select(vec!["null", "[]", "{}", "-1", "1e400", "18446744073709551616", "\"\"", "\"sha256:\u{1f6a2}\"", "true", ",", "\"", "["]),
        ) {
            let mut texts = vec![bytes];
            for seed in [MANIFEST, CONFIGURATION] {
                let mut text = seed.as_bytes().to_vec();
                let from = at.index(text.len());
                let to = (from + length).min(text.len());
                text.splice(from..to, instead.bytes());
                texts.push(text);
            }
            for text in texts {
                if let Ok(manifest) = serde_json::from_slice::<Manifest>(&text)
                    && let Some(manifests) = manifest.manifests
                    && let Some(found) = pick(&manifests, "amd64")
                {
                    proptest::prop_assert!(manifests.contains(found));
                }
                let _ = serde_json::from_slice::<ImageConfiguration>(&text);
            }
        }
    }
}
