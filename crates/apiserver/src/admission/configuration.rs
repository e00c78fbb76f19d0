//! What an administrator says about admission: the file of `--admission-control-config-file`, an AdmissionConfiguration, with the settings
//! of single plug-ins in it or in files of their own.
//!
//! PodSecurity and ResourceQuota have settings. Webhooks have some upstream, by which they are shown credentials: those are refused, rather
//! than that a webhook is asked without. Names of plug-ins that are not here are passed over, as upstream does.
//! Source: Kubernetes 1.36, `apiserver/pkg/admission/config.go` and `apiserver/pkg/apis/apiserver`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::admission::{pod_security, resource_quota};

/// What the plug-ins are told.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// PodSecurity.
    pub pod_security: pod_security::Configuration,
    /// ResourceQuota.
    pub resource_quota: resource_quota::Configuration,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("cannot read {path}", path = .0.display())]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// It is not what it should be, or says what cannot be.
    #[error("{path} cannot be used: {why}", path = .path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// All that is wrong, a line each.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[allow(dead_code, reason = "looked at before; here it is only allowed to be there")]
    api_version: String,
    #[allow(dead_code, reason = "as above")]
    kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    #[serde(default)]
    name: String,
    #[serde(default)]
    path: String,
    configuration: Option<Value>,
}

/// Reads a document of one of these versions and of this kind; fields that it does not know are errors.
///
/// # Errors
/// What it is instead.
pub fn document<T: DeserializeOwned>(value: Value, versions: &[&str], kind: &str) -> Result<T, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, own_kind) = (text("apiVersion"), text("kind"));
    if !versions.contains(&version) || own_kind != kind {
        return Err(format!("no kind {own_kind:?} is registered for version {version:?}: it must be {kind} of {}", versions.join(" or ")));
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Value, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable(path.to_owned(), error))?;
    serde_yaml_ng::from_str(&text).map_err(|error| SettingsError::Unusable { path: path.to_owned(), why: error.to_string() })
}

impl Settings {
    /// Reads a file and those that it names, which are looked for beside it.
    ///
    /// # Errors
    /// Where one cannot be read or used.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |why: String| SettingsError::Unusable { path, why }
        };
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
        let file: File = document(read(path)?, &versions, "AdmissionConfiguration").map_err(unusable(path))?;
        let mut settings = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for plugin in &file.plugins {
            // Of several for one plug-in the first counts.
            if seen.contains(&plugin.name.as_str()) {
                continue;
            }
            seen.push(&plugin.name);
            let (value, place) = match &plugin.configuration {
                Some(value) if !value.is_null() => (value.clone(), path.to_owned()),
                _ if plugin.path.is_empty() => continue,
                _ => {
                    let place = path.parent().unwrap_or(Path::new(".")).join(&plugin.path);
                    (read(&place)?, place)
                }
            };
            let problem = |why: String| SettingsError::Unusable { path: place.clone(), why: format!("{}: {why}", plugin.name) };
            match plugin.name.as_str() {
                "PodSecurity" => settings.pod_security = pod_security::Configuration::read(value).map_err(problem)?,
                "ResourceQuota" => settings.resource_quota = resource_quota::Configuration::read(value).map_err(problem)?,
                "MutatingAdmissionWebhook" | "ValidatingAdmissionWebhook" => {
                    return Err(problem("credentials for webhooks are not supported: webhooks are asked without any".to_owned()));
                }
                other => tracing::warn!(plugin = other, "the admission configuration has settings for a plug-in that takes none here"),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    const LEVELS: &str = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\ndefaults: { enforce: baseline }\n";

    #[test]
    fn settings_stand_in_the_file_or_beside_it_and_of_several_the_first_counts() {
        let directory = tempfile::tempdir().unwrap();
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n";
        written(directory.path(), "levels.yaml", LEVELS);
        let beside = written(directory.path(), "beside.yaml", &format!("{head}- {{ name: PodSecurity, path: levels.yaml }}\n- {{ name: EventRateLimit, path: \"\" }}\n"));
        let within = LEVELS.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let within = format!("{head}- name: PodSecurity\n  configuration:\n{within}- {{ name: PodSecurity, path: nowhere.yaml }}\n");
        let within = written(directory.path(), "within.yaml", &within);
        for path in [beside, within] {
            let settings = Settings::read(&path).unwrap();
            assert!(format!("{:?}", settings.pod_security).contains("Baseline"), "{settings:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
        for (text, expected) in [
            ("apiVersion: v1\nkind: Secret\n".to_owned(), "it must be AdmissionConfiguration of apiserver.config.k8s.io/v1"),
            (format!("{head}surprise: 1\n"), "unknown field `surprise`"),
            (format!("{head}plugins: [{{ name: PodSecurity, configuration: {{ kind: Pod, apiVersion: v1 }} }}]\n"), "PodSecurity: no kind \"Pod\""),
            (format!("{head}plugins: [{{ name: PodSecurity, path: nowhere.yaml }}]\n"), "nowhere.yaml"),
            (format!("{head}plugins: [{{ name: ValidatingAdmissionWebhook, configuration: {{ kind: WebhookAdmissionConfiguration }} }}]\n"), "credentials for webhooks"),
        ] {
            let said = Settings::read(&written(directory.path(), "file.yaml", &text)).unwrap_err().to_string();
            assert!(said.contains(expected), "{expected} is not in {said}");
        }
    }
}
