//! Getting a container's image: pull policies, credentials, one pull at a time per image, back-off.
//! Source of words and rules: Kubernetes 1.36, `pkg/kubelet/images/image_manager.go`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::Engine;
use client::EventType;
use container_runtime::{ContainerRuntime, ImageId, ImageStatus, RegistryCredential, RuntimeError, image_name::ImageName};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;

use crate::{
    clock::{Clock, after},
    events::EventRecorder,
    image_access::ImageAccess,
    metrics::Metrics,
    objects::{Content, Kind, Snapshot},
    pod::{self, back_off::{BackOffs, go_duration}, plan::LaunchFailure},
};

/// How long `ErrImagePull` stays before it becomes `ImagePullBackOff`, so that who watches sees the error itself.
const SHOW_ERROR: Duration = Duration::from_secs(1);
/// When to try again what only a change of the pod or the node can heal.
const HOPELESS: Duration = Duration::from_secs(60);

/// An image that is on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentImage {
    /// What it is.
    pub id: ImageId,
    /// `imageID` of container statuses: a name with a digest where there is one.
    pub reference: String,
    /// Its `USER`.
    pub user: String,
}

#[derive(Default)]
struct State {
    /// One lock per image being pulled.
    locks: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    back_offs: BackOffs<(String, String)>,
    /// When a pull failed last, and why, by pod UID and image.
    failures: HashMap<(String, String), (Timestamp, String)>,
}

/// Gets images.
#[derive(Clone)]
pub struct ImagePuller {
    runtime: Arc<dyn ContainerRuntime>,
    clock: Arc<dyn Clock>,
    events: EventRecorder,
    state: Arc<Mutex<State>>,
    access: Arc<ImageAccess>,
}

impl ImagePuller {
    /// A puller that has pulled nothing yet, but for what `access` tells.
    #[must_use]
    pub fn new(runtime: Arc<dyn ContainerRuntime>, clock: Arc<dyn Clock>, events: EventRecorder, access: ImageAccess) -> Self {
        Self { runtime, clock, events, state: Arc::default(), access: Arc::new(access) }
    }

    /// These images are there: what is known of others is of no use.
    pub fn note_present(&self, images: &[ImageStatus]) {
        self.access.retain(images.iter().map(|image| &image.id));
    }

    /// Makes sure that a container's image is on this node, by its pull policy.
    ///
    /// # Errors
    /// Reason and message for the container's waiting state, and when to try again.
    pub async fn ensure(&self, pod: &Pod, container: &Container, objects: &Snapshot, metrics: &Metrics) -> Result<PresentImage, LaunchFailure> {
        let image = container.image.as_deref().unwrap_or_default();
        let tell = |kind, reason, message: String| self.events.container(pod, &container.name, kind, reason, message);
        let fail = |reason: &str, message: String, wait: Duration| LaunchFailure {
            reason: reason.to_owned(),
            message,
            retry_at: after(self.clock.now(), wait),
        };
        if let Err(problem) = ImageName::parse(image) {
            let message = format!("Failed to apply default image tag \"{image}\": {problem}");
            tell(EventType::Warning, "InspectFailed", message.clone());
            tell(EventType::Warning, "Failed", "Error: InvalidImageName".to_owned());
            return Err(fail("InvalidImageName", message, HOPELESS));
        }
        let present = match self.runtime.image_status(image).await {
            Ok(present) => present,
            Err(problem) => {
                let message = format!("Failed to inspect image \"{image}\": {problem}");
                tell(EventType::Warning, "InspectFailed", message.clone());
                return Err(fail("ImageInspectError", message, Duration::from_secs(10)));
            }
        };
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let credentials = credentials(pod, image, objects);
        // What is there for others only is as if it was not, and asked for with the pod's own credentials.
        let present = present.filter(|present| self.access.allows(&present.id, image, &credentials));
        match (present, policy) {
            (Some(present), "IfNotPresent" | "Never") => {
                let message = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
                tell(EventType::Normal, "Pulled", message);
                return Ok(found(image, present));
            }
            (None, "Never") => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                tell(EventType::Warning, "ErrImageNeverPull", message.clone());
                tell(EventType::Warning, "Failed", "Error: ErrImageNeverPull".to_owned());
                return Err(fail("ErrImageNeverPull", message, Duration::from_secs(10)));
            }
            _ => {}
        }
        let key = (pod::uid(pod).to_owned(), image.to_owned());
        let waiting = {
            let state = self.state.lock();
            let failure = state.failures.get(&key).cloned();
            failure.and_then(|(at, why)| state.back_offs.waiting_until(&key, at, self.clock.now()).map(|(due, _)| (due, why)))
        };
        if let Some((retry_at, why)) = waiting {
            tell(EventType::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
            tell(EventType::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
            let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {why}");
            return Err(LaunchFailure { reason: "ImagePullBackOff".to_owned(), message, retry_at });
        }
        tell(EventType::Normal, "Pulling", format!("Pulling image \"{image}\""));
        let asked = self.clock.elapsed();
        let lock = self.state.lock().locks.entry(image.to_owned()).or_default().clone();
        let turn = lock.lock().await;
        let began = self.clock.elapsed();
        self.access.begin(image);
        let result = self.runtime.pull_image(image, &credentials).await;
        let pulled = result.as_ref().ok().map(|pulled| (&pulled.id, pulled.credential.and_then(|number| credentials.get(number))));
        self.access.end(image, pulled);
        let result = result.map(|pulled| pulled.id);
        Metrics::count(&metrics.pulls);
        drop(turn);
        {
            let mut state = self.state.lock();
            if state.locks.get(image).is_some_and(|kept| Arc::strong_count(kept) <= 2) {
                state.locks.remove(image);
            }
        }
        match result {
            Ok(id) => {
                {
                    let mut state = self.state.lock();
                    state.back_offs.reset(&key);
                    state.failures.remove(&key);
                }
                let status = self.runtime.image_status(image).await.ok().flatten();
                let size = status.as_ref().map_or(0, |status| status.size_bytes);
                let round = |duration: Duration| Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(0));
                let (now, pulled) = (self.clock.elapsed(), "Successfully pulled image");
                let (took, all) = (go_duration(round(now.saturating_sub(began))), go_duration(round(now.saturating_sub(asked))));
                tell(EventType::Normal, "Pulled", format!("{pulled} \"{image}\" in {took} ({all} including waiting). Image size: {size} bytes."));
                Ok(status.map_or_else(
                    || PresentImage { id: id.clone(), reference: id.0.clone(), user: String::new() },
                    |status| found(image, status),
                ))
            }
            Err(problem) => {
                let now = self.clock.now();
                // The event and the status name the image themselves.
                let why = match &problem {
                    RuntimeError::Pull { reason, .. } => reason.clone(),
                    other => other.to_string(),
                };
                let mut state = self.state.lock();
                let last = state.failures.get(&key).map_or(now, |(at, _)| *at);
                state.back_offs.raise(&key, last, now);
                state.failures.insert(key, (now, why.clone()));
                drop(state);
                let reason = match problem {
                    RuntimeError::InvalidImageName { .. } => "InvalidImageName",
                    _ => "ErrImagePull",
                };
                tell(EventType::Warning, "Failed", format!("Failed to pull image \"{image}\": {why}"));
                tell(EventType::Warning, "Failed", format!("Error: {reason}"));
                Err(fail(reason, why, SHOW_ERROR))
            }
        }
    }

    /// Forgets a pod's failures.
    pub fn forget(&self, pod_uid: &str) {
        let mut state = self.state.lock();
        let gone: Vec<_> = state.failures.keys().filter(|(uid, _)| uid == pod_uid).cloned().collect();
        for key in gone {
            state.failures.remove(&key);
            state.back_offs.reset(&key);
        }
    }
}

fn found(image: &str, status: ImageStatus) -> PresentImage {
    let repository = ImageName::parse(image).map(|name| name.without_version()).unwrap_or_default();
    let of_name = status.digests.iter().find(|digest| digest.split('@').next() == Some(repository.as_str()));
    let reference = of_name.or(status.digests.first()).cloned().unwrap_or_else(|| status.id.0.clone());
    PresentImage { id: status.id, reference, user: status.user }
}

/// Credentials for an image out of the pod's `imagePullSecrets`. Secrets that are missing or malformed are passed over, as
/// upstream does: the pull then says what is wrong.
fn credentials(pod: &Pod, image: &str, objects: &Snapshot) -> Vec<RegistryCredential> {
    let secrets = pod::spec(pod).image_pull_secrets.iter().flatten();
    secrets
        .filter_map(|reference| objects.content(Kind::Secret, pod::namespace(pod), &reference.name).ok().flatten())
        .flat_map(|content| credentials_in(content, image))
        .collect()
}

fn credentials_in(secret: &Content, image: &str) -> Vec<RegistryCredential> {
    let registries = match secret.type_.as_str() {
        "kubernetes.io/dockercfg" => secret.data.get(".dockercfg").and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok()),
        _ => secret
            .data
            .get(".dockerconfigjson")
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok())
            .and_then(|config| config.get("auths").cloned()),
    };
    let Some(serde_json::Value::Object(registries)) = registries else { return Vec::new() };
    let repository = ImageName::parse(image).map(|name| name.without_version()).unwrap_or_default();
    let mut matching: Vec<_> = registries.iter().filter(|(registry, _)| registry_matches(registry, &repository)).collect();
    // The most specific entry is tried first.
    matching.sort_by_key(|(registry, _)| std::cmp::Reverse(registry.len()));
    matching.into_iter().filter_map(|(_, entry)| credential(entry)).collect()
}

fn credential(entry: &serde_json::Value) -> Option<RegistryCredential> {
    let text = |key: &str| entry.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(RegistryCredential { username: username.to_owned(), password: password.to_owned() });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(RegistryCredential { username: username.to_owned(), password: password.trim_end_matches(['\n', '\0']).to_owned() })
}

/// Whether an entry of a docker configuration (`https://index.docker.io/v1/`, `registry.example:5000/team`, `*.example.com`)
/// is meant for a repository.
fn registry_matches(entry: &str, repository: &str) -> bool {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let entry = entry.strip_suffix("/v1").or_else(|| entry.strip_suffix("/v2")).unwrap_or(entry);
    let entry = if entry == "index.docker.io" { "docker.io" } else { entry };
    let (wanted_host, wanted_path) = entry.split_once('/').unwrap_or((entry, ""));
    let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
    let host_fits = match wanted_host.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => host == wanted_host,
    };
    host_fits && (wanted_path.is_empty() || path == wanted_path || path.strip_prefix(wanted_path).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_matched_by_host_and_path() {
        assert!(registry_matches("https://index.docker.io/v1/", "docker.io/library/nginx"));
        assert!(registry_matches("reg.example:5000", "reg.example:5000/a/b"));
        assert!(registry_matches("reg.example/a", "reg.example/a/b"));
        assert!(!registry_matches("reg.example/a", "reg.example/ab"));
        assert!(registry_matches("*.example.com", "x.example.com/a"));
        assert!(!registry_matches("*.example.com", "x.y.example.com/a"));
    }

    #[test]
    fn credentials_come_from_auth_or_name_and_password() {
        let secret = |json: &str| Content {
            data: [(".dockerconfigjson".to_owned(), json.as_bytes().to_vec())].into(),
            type_: "kubernetes.io/dockerconfigjson".to_owned(),
            ..Content::default()
        };
        let found = credentials_in(&secret(r#"{"auths":{"reg.example":{"auth":"dXNlcjpwYTpzcw=="}}}"#), "reg.example/a:1");
        assert_eq!(found.iter().map(|found| (found.username.as_str(), found.password.as_str())).collect::<Vec<_>>(), [("user", "pa:ss")]);
        assert!(credentials_in(&secret("not json"), "reg.example/a:1").is_empty());
        assert!(credentials_in(&secret(r#"{"auths":{"other":{"auth":"dXNlcjpwYTpzcw=="}}}"#), "reg.example/a:1").is_empty());
    }
}
