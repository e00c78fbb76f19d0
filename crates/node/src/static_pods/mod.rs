//! Static pods: pods that a node runs from files of its own, whether or not there is an API server.
//!
//! * this module: reading the files, and saying when they change
//! * [`mirror`]: the API's copy of such a pod, which shows what becomes of it
//!
//! Such a pod refers to nothing of the API (config maps, secrets, claims, service accounts). Unlike other pods it is not weighed
//! against what the node has left: whoever writes files here speaks for the node.
//! Source: Kubernetes documentation, "Create static Pods", and `pkg/kubelet/config`, `applyDefaults`.

pub mod mirror;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use kinds::{ServedKind, WriteContext};
use rustix::fs::inotify;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{io::unix::AsyncFd, sync::mpsc};

/// Tells a pod's description from others; on the pod itself and, under [`MIRROR`], on its mirror.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Marks a mirror, with the hash of what it mirrors.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where a pod comes from.
const SOURCE: &str = "kubernetes.io/config.source";
/// When it was first seen.
const SEEN: &str = "kubernetes.io/config.seen";
/// A file larger than this is no pod.
const MAXIMUM_BYTES: u64 = 10 * 1024 * 1024;

/// Whether a pod says that it comes from a file of the node.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SOURCE)).is_some_and(|source| source == "file")
}

/// The hash of what a mirror mirrors; none for any other pod.
#[must_use]
pub fn mirrored_hash(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(MIRROR).map(String::as_str)
}

/// All pods of a directory, by UID.
pub type StaticPods = BTreeMap<String, Arc<Pod>>;

/// Reads files into pods.
struct Reader {
    directory: PathBuf,
    node_name: String,
    kind: kinds::scheme::TypedKind<kinds::core::pod::PodStrategy>,
}

/// Follows a directory: sends its pods now, and again whenever a file was written or removed. Ends with the receiver.
///
/// # Errors
/// The directory cannot be made or watched.
pub async fn follow(directory: &Path, node_name: &str, send: mpsc::UnboundedSender<StaticPods>) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let (info, schema) = kinds::served::facts("", "v1", "Pod");
    let reader = Reader {
        directory: directory.to_owned(),
        node_name: node_name.to_owned(),
        kind: kinds::scheme::TypedKind::new(info, schema, kinds::core::pod::PodStrategy),
    };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    // A file that is still being written is none yet.
    let interesting = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::MOVED_FROM | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, directory, interesting)?;
    // SAFETY: an OwnedFd stays the same open descriptor until it is dropped, which AsyncFd does after deregistering it.
    let watch = unsafe { AsyncFd::register(watch) }.map_err(std::io::Error::from)?;
    loop {
        if send.send(reader.read()).is_err() {
            return Ok(());
        }
        tokio::select! {
            ready = watch.readable() => drain(ready?),
            () = send.closed() => return Ok(()),
        }
    }
}

/// Takes all news: what they are is read from the directory itself.
fn drain(mut ready: tokio::io::unix::AsyncFdReadyGuard<'_, std::os::fd::OwnedFd>) {
    let mut buffer = [0; 4096];
    while ready.try_io(|watch| rustix::io::read(watch, &mut buffer).map_err(std::io::Error::from)).is_ok_and(|read| read.is_ok_and(|count| count > 0)) {}
}

impl Reader {
    /// All pods of the directory. A file that holds none is told in the log and passed over.
    fn read(&self) -> StaticPods {
        let mut pods = StaticPods::new();
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let Some(facts) = path.metadata().ok().filter(|facts| facts.is_file() && !hidden) else { continue };
            let read = match facts.len() {
                0..=MAXIMUM_BYTES => std::fs::read(&path).map_err(|problem| problem.to_string()).and_then(|bytes| self.pod(&path, &bytes)),
                size => Err(format!("it has {size} bytes, too many for a pod")),
            };
            match read {
                Ok(pod) => drop(pods.insert(crate::pod::uid(&pod).to_owned(), Arc::new(pod))),
                Err(problem) => tracing::warn!(path = %path.display(), problem, "this file is no static pod"),
            }
        }
        pods
    }

    fn pod(&self, path: &Path, bytes: &[u8]) -> Result<Pod, String> {
        let outcome = meta::read::read_yaml(bytes, self.kind.schema()).map_err(|problem| problem.to_string())?;
        let mut object = outcome.object;
        if (object.api_version(), object.kind()) != ("v1", "Pod") {
            return Err(format!("it holds a {} of {}", object.kind(), object.api_version()));
        }
        if !outcome.problems.is_empty() {
            return Err(outcome.problems.join(", "));
        }
        let given = object.name().to_owned();
        if given.is_empty() {
            return Err("metadata.name is missing".to_owned());
        }
        let hash = hash(&self.node_name, path, &serde_json::to_vec(&object.0).map_err(|problem| problem.to_string())?);
        object.set(&["metadata", "name"], json!(format!("{given}-{}", self.node_name.to_lowercase())));
        if object.namespace().is_empty() {
            object.set(&["metadata", "namespace"], json!("default"));
        }
        object.set(&["metadata", "uid"], json!(hash));
        object.set(&["spec", "nodeName"], json!(self.node_name));
        let now = jiff::Timestamp::now();
        object.set(&["metadata", "creationTimestamp"], json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        for (name, value) in [(HASH, hash.as_str()), (SOURCE, "file"), (SEEN, &now.to_string())] {
            object.set(&["metadata", "annotations", name], json!(value));
        }
        self.kind.default(&mut object)?;
        let context = WriteContext { now, user: String::new(), groups: Vec::new(), uid: String::new(), extra: std::collections::BTreeMap::new(), dry_run: false };
        let mut problems = self.kind.finish_create(&context, &mut object)?;
        problems.extend(meta::validation::validate_object_meta(&object, true, self.kind.name_rule(), &meta::FieldPath::new("metadata")));
        if !problems.is_empty() {
            return Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        }
        let mut pod: Pod = serde_json::from_value(serde_json::Value::Object(object.0)).map_err(|problem| problem.to_string())?;
        if let Some(spec) = &mut pod.spec {
            // It cannot be moved elsewhere, so no taint drives it off.
            spec.tolerations.get_or_insert_default().push(serde_json::from_value(json!({ "operator": "Exists", "effect": "NoExecute" })).map_err(|problem| problem.to_string())?);
        }
        Ok(pod)
    }
}

/// A name for what a file says: 32 hexadecimal digits, other ones on each node and for each file.
fn hash(node_name: &str, path: &Path, content: &[u8]) -> String {
    let mut hasher = Sha256::new();
    for part in [node_name.as_bytes(), path.as_os_str().as_encoded_bytes(), content] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: nginx}]}\n";

    #[tokio::test]
    async fn files_become_pods_and_changes_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("manifests");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("web.yaml"), WEB).unwrap();
        std::fs::write(place.join(".hidden.yaml"), WEB).unwrap();
        std::fs::write(place.join("broken.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {}\n").unwrap();
        let (send, mut receive) = mpsc::unbounded_channel();
        let following = tokio::spawn({
            let place = place.clone();
            async move { follow(&place, "node-1", send).await }
        });
        let pods = receive.recv().await.unwrap();
        assert_eq!(pods.len(), 1);
        let (uid, pod) = pods.first_key_value().unwrap();
        assert_eq!((crate::pod::name(pod), crate::pod::namespace(pod), uid.len()), ("web-node-1", "default", 32));
        assert!(is_static(pod) && crate::pod::spec(pod).restart_policy.as_deref() == Some("Always"));
        std::fs::write(place.join("web.yaml"), WEB.replace("nginx", "other")).unwrap();
        // Being written may be told in several steps; the last one counts.
        let changed = loop {
            let pods = receive.recv().await.unwrap();
            if pods.keys().next() != Some(uid) && !pods.is_empty() {
                break pods;
            }
        };
        assert_eq!(changed.len(), 1);
        std::fs::remove_file(place.join("web.yaml")).unwrap();
        while !receive.recv().await.unwrap().is_empty() {}
        drop(receive);
        following.await.unwrap().unwrap();
    }
}
