//! `nfs`: a directory that another machine exports. Mounted with the system's `mount`, which finds the helper of the package
//! `nfs-common`; without that it fails with mount's own words.

use std::path::{Path, PathBuf};
use std::process::Command;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{NFSVolumeSource, Volume};

use super::{Made, Plugin, PreparedVolume, Request, mounts};

/// The plug-in.
pub struct Nfs;

#[async_trait]
impl Plugin for Nfs {
    fn handles(&self, volume: &Volume) -> bool {
        volume.nfs.is_some()
    }

    async fn prepare(&self, request: &Request<'_>) -> Result<Made, String> {
        let source = request.volume.nfs.clone().unwrap_or_default();
        let path = mount(&source, request.disk_directory("nfs"), Vec::new()).await?;
        Ok(Made { volume: PreparedVolume { path, read_only: source.read_only.unwrap_or(false) }, refresh_at: None })
    }
}

/// Mounts an export at a directory below the pod's own, from which it goes with the pod. Harmless where it is mounted already.
///
/// # Errors
/// What `mount` says.
pub async fn mount(source: &NFSVolumeSource, target: PathBuf, options: Vec<String>) -> Result<PathBuf, String> {
    let command = arguments(source, &target, options);
    let work = move || {
        if mounts::is_mounted(&target)? {
            return Ok(target);
        }
        std::fs::create_dir_all(&target).map_err(|problem| format!("could not make {}: {problem}", target.display()))?;
        let result = Command::new("mount").args(&command).output().map_err(|problem| format!("could not run mount: {problem}"))?;
        if result.status.success() { Ok(target) } else { Err(format!("mount failed: {}\n{}", result.status, String::from_utf8_lossy(&result.stderr).trim())) }
    };
    // A server that does not answer holds up mount for minutes.
    tokio::task::spawn_blocking(work).await.map_err(|problem| problem.to_string())?
}

fn arguments(source: &NFSVolumeSource, target: &Path, mut options: Vec<String>) -> Vec<String> {
    if source.read_only == Some(true) {
        options.push("ro".to_owned());
    }
    let mut arguments = vec!["-t".to_owned(), "nfs".to_owned()];
    if !options.is_empty() {
        arguments.extend(["-o".to_owned(), options.join(",")]);
    }
    // An IPv6 address would be taken apart at its colons.
    let server = if source.server.contains(':') && !source.server.starts_with('[') { format!("[{}]", source.server) } else { source.server.clone() };
    arguments.extend([format!("{server}:{}", source.path), target.display().to_string()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(server: &str, read_only: bool, options: &[&str], expected: &str) {
        let source = NFSVolumeSource { server: server.to_owned(), path: "/export".to_owned(), read_only: Some(read_only) };
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        assert_eq!(arguments(&source, Path::new("/target"), options).join(" "), expected);
    }

    #[test]
    fn an_export_is_mounted_as_the_volume_says() {
        check("files", false, &[], "-t nfs files:/export /target");
        check("files", true, &["vers=4.2"], "-t nfs -o vers=4.2,ro files:/export /target");
        check("fd00::1", false, &[], "-t nfs [fd00::1]:/export /target");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_in_mounts_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let source = NFSVolumeSource { server: "server.invalid".to_owned(), path: "/export".to_owned(), read_only: None };
        let problem = mount(&source, directory.path().join("a"), Vec::new()).await.unwrap_err();
        assert!(problem.starts_with("mount failed") || problem.starts_with("could not run mount"), "{problem}");
    }
}
