//! Keeping logs small: a log that has grown too large is renamed, the runtime begins a new one, and the oldest go.
//! Source of names and numbers: Kubernetes 1.36, `pkg/kubelet/logs/container_log_manager.go`.

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use container_runtime::ContainerState;
use rustix::fs::{AtFlags, renameat, unlinkat};

use super::place;
use crate::{config::Context, pods::Pods};

/// How often sizes are looked at. A timer, since being told of every write would cost more than a hundred `stat`s every
/// ten seconds.
const PERIOD: Duration = Duration::from_secs(10);

/// Rotates logs until it is dropped.
pub async fn run(context: Arc<Context>, pods: Pods) {
    loop {
        context.config.clock.sleep(PERIOD).await;
        for view in pods.views() {
            for container in view.containers.iter().filter(|container| matches!(container.state, ContainerState::Running { .. })) {
                let size = place::open(&container.log_path, place::PARTS).and_then(|log| log.metadata()).map_or(0, |facts| facts.len());
                if size < context.config.log_maximum_bytes {
                    continue;
                }
                let stamp = context.config.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
                let rotated = match Rotated::rename(&container.log_path, &stamp, context.config.log_maximum_files) {
                    Ok(rotated) => rotated,
                    Err(problem) => {
                        tracing::warn!(path = %container.log_path.display(), %problem, "could not rotate a log");
                        continue;
                    }
                };
                if let Err(problem) = context.config.runtime.reopen_log(&container.id).await {
                    tracing::warn!(container = container.id.0, %problem, "could not begin a new log");
                    rotated.undo();
                }
            }
        }
    }
}

/// A log that was renamed.
struct Rotated {
    directory: OwnedFd,
    name: String,
    rotated: String,
}

impl Rotated {
    /// Renames a log and removes the oldest of its earlier parts, so that with the new one `files` are kept.
    fn rename(log: &Path, stamp: &str, files: u32) -> io::Result<Self> {
        let name = place::name(log)?.to_str().ok_or_else(|| io::Error::other("its name is not text"))?.to_owned();
        let directory = place::directory(log, place::PARTS)?;
        let prefix = format!("{name}.");
        let parts = place::files_named(&directory, &prefix)?;
        // Beside the new log and the one renamed now.
        let kept = usize::try_from(files).unwrap_or(2).saturating_sub(2);
        for old in parts.iter().take(parts.len().saturating_sub(kept)) {
            unlinkat(&directory, old, AtFlags::empty())?;
        }
        let rotated = format!("{prefix}{stamp}");
        renameat(&directory, &name, &directory, &rotated)?;
        Ok(Self { directory, name, rotated })
    }

    /// The runtime still writes to the old file: it gets its name back.
    fn undo(self) {
        let _ = renameat(&self.directory, &self.rotated, &self.directory, &self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_parts_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        for stamp in ["20260101-000001", "20260101-000002", "20260101-000003", "20260101-000004"] {
            std::fs::write(&log, stamp).unwrap();
            Rotated::rename(&log, stamp, 4).unwrap();
        }
        let mut left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["0.log.20260101-000002", "0.log.20260101-000003", "0.log.20260101-000004"]);
    }
}
