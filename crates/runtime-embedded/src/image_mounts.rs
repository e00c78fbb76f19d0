//! Images as volumes: their layers put together at a directory of the host, for reading only.
//!
//! A record of each mount keeps its layers from being collected for as long as it is mounted.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use container_runtime::{ImageId, RuntimeError};
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};

use crate::{images::{digest, layers::Layers}, records, runtime::Inner};

/// What is written down of a mount.
#[derive(Debug, Serialize, Deserialize)]
struct MountRecord {
    target: PathBuf,
    chain_ids: Vec<String>,
}

fn is_mounted(target: &Path) -> io::Result<bool> {
    // As bytes: one mount point that is no UTF-8, whosever it is, must not hide ours.
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    let mut places = mounts.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(places.any(|place| place == target.as_os_str().as_encoded_bytes()))
}

impl Inner {
    fn image_mounts_directory(&self) -> PathBuf {
        self.options.run_directory.join("image-mounts")
    }

    /// Mounts an image.
    pub fn mount_image(&self, image: &ImageId, target: &Path) -> Result<(), RuntimeError> {
        let failed = |source: io::Error| RuntimeError::Io { doing: format!("could not mount image {} at {}: {source}", image.0, target.display()), source };
        if is_mounted(target).map_err(failed)? {
            return Ok(());
        }
        let found = self.images.get(image).ok_or_else(|| RuntimeError::NoSuchImage(image.0.clone()))?;
        let directory = self.image_mounts_directory();
        let empty = directory.join("empty");
        for needed in [target, &empty.join("a"), &empty.join("b")] {
            std::fs::create_dir_all(needed).map_err(failed)?;
        }
        // Written first: what is mounted is never unknown.
        let record = MountRecord { target: target.to_owned(), chain_ids: found.chain_ids.clone() };
        let name = digest::of(target.as_os_str().as_encoded_bytes()).replace(':', "-");
        records::write(&directory.join(format!("{name}.json")), &record).map_err(failed)?;
        let names: Vec<String> = found.chain_ids.iter().map(|chain_id| Layers::name(chain_id)).collect();
        mount_layers(self.images.layers.directory(), &names, &empty, target).map_err(failed)
    }

    /// Chain ids of the layers that are mounted now. Records of mounts that are gone go too.
    pub fn mounted_layers(&self) -> Vec<String> {
        let mut needed = Vec::new();
        for entry in std::fs::read_dir(self.image_mounts_directory()).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(Some(record)) = records::read::<MountRecord>(&path) else { continue };
            // Where nobody knows, they are needed.
            if is_mounted(&record.target).unwrap_or(true) {
                needed.extend(record.chain_ids);
            } else if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "could not remove the record of an image that is mounted no more");
            }
        }
        needed
    }
}

/// Puts layers together, the lowest first. An overlay without a writable side needs two lower ones: empty ones fill it up.
fn mount_layers(layers: &Path, names: &[String], empty: &Path, target: &Path) -> io::Result<()> {
    let empty = empty.to_str().filter(|text| !text.contains([',', ':', '\\'])).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let fillers = [format!("{empty}/a"), format!("{empty}/b")];
    let lower: Vec<&str> = names.iter().rev().chain(&fillers).map(String::as_str).collect();
    let options = CString::new(format!("lowerdir={}", lower.join(":")))?;
    let (layers, target) = (layers.to_owned(), target.to_owned());
    // Relative names keep the options within the one page that the kernel reads; only this thread changes its directory.
    let worker = std::thread::Builder::new().name("mount-image".to_owned()).spawn(move || {
        // SAFETY: the thread gives up sharing its working directory only, and ends right after.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
        rustix::process::chdir(&layers)?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("overlay", &target, "overlay", flags, Some(options.as_c_str()))
    })?;
    worker.join().map_err(|_| io::Error::other("the thread that mounts failed"))?.map_err(io::Error::from)
}
