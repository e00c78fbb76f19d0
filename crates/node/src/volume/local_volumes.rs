//! Local volumes: directories on this node's own disk, for volumes of the driver that comes with the cluster. The control plane keeps
//! the objects (`controllers::local_volumes`); here directories are made when a pod first needs them, and removed when the object is gone.
//!
//! A directory lies at `volumes/HANDLE/data`. Beside it, `kept` says that it is to stay although its object goes (`Retain`), which must be
//! known when the object went while the agent did not run.

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use client::{FeedEvent, Selection, Source, feed};
use k8s_openapi::api::core::v1::PersistentVolume;
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::config::{Context, NodeConfig};

/// The driver, as volumes name it.
pub const DRIVER: &str = "local-path.knarr.io";
/// The label of a volume with the node that has it.
pub const NODE_LABEL: &str = "knarr.io/local-volume-node";

/// The local volumes of a node.
#[derive(Debug)]
pub struct LocalVolumes {
    root: PathBuf,
    /// Volumes that were made, and that the feed has not shown yet. A list that does not have them may be older than they are: it may
    /// have waited for a large volume to be removed.
    unseen: Mutex<BTreeSet<String>>,
}

/// The handle of a volume of ours, and whether its data outlive it.
fn ours(volume: &PersistentVolume) -> Option<(&str, bool)> {
    let spec = volume.spec.as_ref()?;
    let source = spec.csi.as_ref().filter(|source| source.driver == DRIVER)?;
    Some((&source.volume_handle, spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete")))
}

/// Removes a directory with all that is in it; fine where there is none.
fn remove_tree(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => Err(problem),
        _ => Ok(()),
    }
}

impl LocalVolumes {
    /// Those of the node with this configuration.
    #[must_use]
    pub fn of(config: &NodeConfig) -> Self {
        Self::in_directory(config.data_directory.join("volumes"))
    }

    fn in_directory(root: PathBuf) -> Self {
        Self { root, unseen: Mutex::default() }
    }

    fn home(&self, handle: &str) -> io::Result<PathBuf> {
        // Whoever writes volumes by hand must not lead us elsewhere.
        let is_name = !handle.is_empty() && !handle.starts_with('.') && !handle.contains(['/', '\0']);
        if is_name { Ok(self.root.join(handle)) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{handle:?} is no volume handle"))) }
    }

    /// The directory of a volume, made where it is missing. Everybody may write to it, as pods run as whomever they like.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(&self, handle: &str) -> io::Result<PathBuf> {
        let data = self.home(handle)?.join("data");
        if !data.is_dir() {
            self.unseen.lock().insert(handle.to_owned());
            std::fs::create_dir_all(&data)?;
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777))?;
        }
        Ok(data)
    }

    /// Notes whether a volume's data outlive its object. Nothing to note where it has no directory.
    fn note(&self, handle: &str, is_kept: bool) -> io::Result<()> {
        let home = self.home(handle)?;
        let mark = home.join("kept");
        match (is_kept, mark.exists()) {
            (true, false) if home.is_dir() => std::fs::write(mark, ""),
            (false, true) => std::fs::remove_file(mark),
            _ => Ok(()),
        }
    }

    /// Takes a volume's data out of the way, unless they are kept; gives where they are.
    fn set_aside(&self, handle: &str) -> io::Result<Option<PathBuf>> {
        let home = self.home(handle)?;
        if !home.is_dir() || home.join("kept").exists() {
            return Ok(None);
        }
        // No handle begins with a dot.
        let aside = self.root.join(format!(".{handle}"));
        remove_tree(&aside)?;
        std::fs::rename(home, &aside)?;
        Ok(Some(aside))
    }

    /// Removes a volume's data, unless they are kept.
    fn remove(&self, handle: &str) -> io::Result<()> {
        if let Some(aside) = self.set_aside(handle)? {
            remove_tree(&aside)?;
            info!(handle, "removed a local volume");
        }
        Ok(())
    }

    /// Removes the data of all volumes but these.
    fn remove_all_but(&self, handles: &BTreeSet<String>) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(handle) = name.to_str().filter(|name| !handles.contains(*name)) else { continue };
            // What an earlier agent had set aside.
            if handle.starts_with('.') {
                remove_tree(&entry.path())?;
                continue;
            }
            // Locked until it is out of the way, so that none is made that is about to be removed.
            let unseen = self.unseen.lock();
            let aside = if unseen.contains(handle) { None } else { self.set_aside(handle)? };
            drop(unseen);
            if let Some(aside) = aside {
                remove_tree(&aside)?;
                info!(handle, "removed a local volume");
            }
        }
        Ok(())
    }

    fn follow(&self, event: FeedEvent<PersistentVolume>) -> io::Result<()> {
        let shown = match &event {
            FeedEvent::Replaced { objects, .. } => objects.as_slice(),
            FeedEvent::Put(volume) | FeedEvent::Deleted(volume) => std::slice::from_ref(volume),
            FeedEvent::Progress(_) => &[],
        };
        for (handle, _) in shown.iter().filter_map(ours) {
            self.unseen.lock().remove(handle);
        }
        match event {
            FeedEvent::Replaced { objects, .. } => {
                let known: Vec<_> = objects.iter().filter_map(ours).collect();
                for (handle, is_kept) in &known {
                    self.note(handle, *is_kept)?;
                }
                self.remove_all_but(&known.into_iter().map(|(handle, _)| handle.to_owned()).collect())
            }
            FeedEvent::Put(volume) => ours(&volume).map_or(Ok(()), |(handle, is_kept)| self.note(handle, is_kept)),
            FeedEvent::Deleted(volume) => ours(&volume).map_or(Ok(()), |(handle, is_kept)| {
                self.note(handle, is_kept)?;
                self.remove(handle)
            }),
            FeedEvent::Progress(_) => Ok(()),
        }
    }

    /// The directory of a volume, if it has one.
    #[must_use]
    pub fn existing(&self, handle: &str) -> Option<PathBuf> {
        self.home(handle).ok().map(|home| home.join("data")).filter(|data: &PathBuf| Path::is_dir(data))
    }
}

/// Follows the volumes of this node for ever, and removes the data of those that are gone.
pub async fn run(context: Arc<Context>) {
    let volumes = context.local_volumes.clone();
    let selection = Selection::labels(&format!("{NODE_LABEL}={}", context.config.name));
    let source = Source::new::<PersistentVolume>(context.config.client.clone(), &(), selection);
    let (send, mut events) = tokio::sync::mpsc::unbounded_channel();
    // Removing takes as long as the disk takes, so it is done elsewhere, one event after the other.
    let work = tokio::task::spawn_blocking(move || {
        while let Some(event) = events.blocking_recv() {
            if let Err(problem) = volumes.follow(event) {
                warn!(%problem, "a local volume could not be tidied up; the next start tries again");
            }
        }
    });
    feed::run(source, move |event| drop(send.send(event))).await;
    drop(work.await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(handle: &str, policy: &str) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": { "name": handle },
            "spec": { "persistentVolumeReclaimPolicy": policy, "csi": { "driver": DRIVER, "volumeHandle": handle } },
        }))
        .unwrap()
    }

    #[test]
    fn data_go_with_the_object_unless_they_are_to_be_retained() {
        let directory = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::in_directory(directory.path().join("volumes"));
        let made = volumes.make("gone").unwrap();
        std::fs::write(made.join("file"), "data").unwrap();
        assert_eq!(volumes.make("gone").unwrap(), made);
        volumes.make("kept").unwrap();
        volumes.follow(FeedEvent::Put(volume("kept", "Retain"))).unwrap();
        volumes.follow(FeedEvent::Deleted(volume("gone", "Delete"))).unwrap();
        volumes.follow(FeedEvent::Deleted(volume("kept", "Retain"))).unwrap();
        assert!(volumes.existing("gone").is_none() && volumes.existing("kept").is_some());
    }

    #[test]
    fn what_went_while_the_agent_was_away_is_removed_when_it_is_back() {
        let directory = tempfile::tempdir().unwrap();
        let earlier = LocalVolumes::in_directory(directory.path().join("volumes"));
        let replaced = |objects: Vec<PersistentVolume>| FeedEvent::Replaced { objects, revision: "7".to_owned() };
        earlier.follow(replaced(Vec::new())).unwrap();
        for handle in ["there", "gone", "kept"] {
            earlier.make(handle).unwrap();
        }
        earlier.follow(FeedEvent::Put(volume("kept", "Retain"))).unwrap();
        std::fs::create_dir_all(directory.path().join("volumes/.aside/data")).unwrap();
        let volumes = LocalVolumes::in_directory(directory.path().join("volumes"));
        volumes.follow(replaced(vec![volume("there", "Delete")])).unwrap();
        assert!(volumes.existing("there").is_some() && volumes.existing("kept").is_some() && volumes.existing("gone").is_none());
        assert_eq!(std::fs::read_dir(directory.path().join("volumes")).unwrap().count(), 2, "nothing is left aside");
    }

    #[test]
    fn a_list_from_before_a_volume_was_made_does_not_remove_it() {
        let directory = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::in_directory(directory.path().join("volumes"));
        let replaced = |objects: Vec<PersistentVolume>| FeedEvent::Replaced { objects, revision: "7".to_owned() };
        volumes.make("new").unwrap();
        volumes.follow(replaced(Vec::new())).unwrap();
        assert!(volumes.existing("new").is_some());
        volumes.follow(FeedEvent::Put(volume("new", "Delete"))).unwrap();
        volumes.follow(replaced(Vec::new())).unwrap();
        assert!(volumes.existing("new").is_none(), "a later list is believed");
    }

    #[test]
    fn a_handle_leads_nowhere_else() {
        let volumes = LocalVolumes::in_directory(PathBuf::from("/nowhere"));
        for handle in ["", "..", "a/../b", "/etc", ".hidden"] {
            assert!(volumes.make(handle).is_err(), "{handle}");
        }
    }
}
