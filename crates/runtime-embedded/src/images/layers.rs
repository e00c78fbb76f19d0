//! The unpacked layers, each once, by their chain id: the read-only directories that all containers share.
//!
//! A layer is unpacked beside its place and renamed into it when it is whole and its digest is right, so a half one is
//! never used. Writing it to the medium happens behind the caller's back: until that is done, the layer's note carries
//! the boot's id, and after a crash of the machine (not of the agent) such a layer is thrown away.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{digest, unpack};
use crate::records;

/// Digits of a chain id that name its directory. Short, since all names of an image's layers must fit the one page that
/// the kernel takes as options of an overlay; 80 bits are enough against accidents, and the note holds the whole id.
const NAME_DIGITS: usize = 20;

/// What is known of one layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    chain_id: String,
    diff_id: String,
    /// Bytes of its uncompressed stream.
    size_bytes: u64,
    /// The boot in which it was unpacked; empty once it is on the medium.
    boot_id: String,
}

/// All layers of a node.
pub struct Layers {
    directory: PathBuf,
    known: Mutex<BTreeMap<String, u64>>,
    busy: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    limit_bytes: u64,
}

impl Layers {
    /// Opens the directory, and throws away what is half or may be.
    ///
    /// # Errors
    /// Where the directory cannot be made or read.
    pub fn open(directory: PathBuf, limit_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let mut known = BTreeMap::new();
        let boot_id = records::boot_id();
        let mut unsynced = false;
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let note = records::read::<Note>(&path.join("layer.json")).ok().flatten();
            match note.filter(|note| note.boot_id.is_empty() || note.boot_id == boot_id) {
                Some(note) if path.file_name().is_some_and(|name| name.to_string_lossy() == name_of(&note.chain_id)) => {
                    unsynced |= !note.boot_id.is_empty();
                    known.insert(note.chain_id, note.size_bytes);
                }
                _ => {
                    tracing::info!(path = %path.display(), "removing a layer that was not finished");
                    std::fs::remove_dir_all(&path)?;
                }
            }
        }
        let layers = Self { directory, known: Mutex::new(known), busy: Mutex::default(), limit_bytes };
        if unsynced {
            layers.settle()?;
        }
        Ok(layers)
    }

    /// Whether a layer is here.
    pub fn contains(&self, chain_id: &str) -> bool {
        self.known.lock().contains_key(chain_id)
    }

    /// Where all layers are; [`Self::name`] is relative to it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of a layer's files, relative to [`Self::directory`].
    #[must_use]
    pub fn name(chain_id: &str) -> String {
        format!("{}/fs", name_of(chain_id))
    }

    /// Held by whoever fetches and unpacks a layer, so that nobody else does it meanwhile.
    pub async fn lock(&self, chain_id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock();
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(busy.entry(chain_id.to_owned()).or_default())
        };
        lock.lock_owned().await
    }

    /// Unpacks a stream (compressed or not) as the layer `diff_id` on top of `parents`, lowest first.
    ///
    /// # Errors
    /// Where the stream is malformed, larger than allowed or not what it should be, or the disk does not take it.
    pub fn unpack(&self, stream: impl Read + Send, diff_id: &str, parents: &[String]) -> io::Result<()> {
        let chain_id = digest::chain(parents.last().map(String::as_str), diff_id);
        let place = self.directory.join(name_of(&chain_id));
        let temporary = self.directory.join(format!(".new-{:016x}", rand::random::<u64>()));
        let result = (|| {
            for part in ["fs", "work", "merged"] {
                std::fs::create_dir_all(temporary.join(part))?;
            }
            let mut reader = digest::Digesting::new(unpack::decompress(stream)?, self.limit_bytes);
            if parents.is_empty() {
                unpack::unpack(&mut reader, &temporary.join("fs"))?;
            } else {
                self.unpack_above(parents, &temporary, &mut reader)?;
            }
            let (found, size_bytes) = reader.finish()?;
            if found != diff_id {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the layer's content is {found}, but {diff_id} was announced")));
            }
            std::fs::remove_dir_all(temporary.join("work"))?;
            std::fs::remove_dir(temporary.join("merged"))?;
            let note = Note { chain_id: chain_id.clone(), diff_id: diff_id.to_owned(), size_bytes, boot_id: records::boot_id() };
            std::fs::write(temporary.join("layer.json"), serde_json::to_vec(&note)?)?;
            if place.exists() {
                std::fs::remove_dir_all(&place)?;
            }
            std::fs::rename(&temporary, &place)?;
            self.known.lock().insert(chain_id.clone(), size_bytes);
            Ok(())
        })();
        if result.is_err() {
            // Only a leftover; the next start would remove it as well.
            let _ = std::fs::remove_dir_all(&temporary);
        }
        result
    }

    /// Unpacks with the earlier layers in sight, on a thread whose mounts nobody else sees.
    fn unpack_above(&self, parents: &[String], temporary: &Path, reader: &mut (impl Read + Send)) -> io::Result<()> {
        let merged = temporary.join("merged");
        std::thread::scope(|scope| {
            let work = || {
                // SAFETY: only this thread's mounts and working directory are unshared; no descriptor table is.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS) }?;
                use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
                rustix::process::chdir(&self.directory)?;
                let lower: Vec<String> = parents.iter().rev().map(|parent| Self::name(parent)).collect();
                let name = temporary.file_name().unwrap_or_default().to_string_lossy();
                let options = format!("lowerdir={},upperdir={name}/fs,workdir={name}/work,index=off,metacopy=off,redirect_dir=off", lower.join(":"));
                let options = std::ffi::CString::new(options)?;
                mount("overlay", &merged, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
                // The mount goes away with the thread's namespace.
                unpack::unpack(reader, &merged)
            };
            scope.spawn(work).join().unwrap_or_else(|_| Err(io::Error::other("the unpacking thread failed")))
        })
    }

    /// Writes everything to the medium and says so in the notes. Blocks for as long as the disk needs.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn settle(&self) -> io::Result<()> {
        let mut unsynced = Vec::new();
        for chain_id in self.known.lock().keys() {
            let path = self.directory.join(name_of(chain_id)).join("layer.json");
            if let Some(note) = records::read::<Note>(&path)?.filter(|note| !note.boot_id.is_empty()) {
                unsynced.push((path, note));
            }
        }
        if unsynced.is_empty() {
            return Ok(());
        }
        unpack::sync_file_system(&self.directory)?;
        for (path, note) in unsynced {
            records::write(&path, &Note { boot_id: String::new(), ..note })?;
        }
        Ok(())
    }

    /// Bytes of these layers.
    pub fn size_bytes(&self, chain_ids: &[String]) -> u64 {
        let known = self.known.lock();
        chain_ids.iter().filter_map(|chain_id| known.get(chain_id)).sum()
    }

    /// Removes every layer that is not wanted any more.
    pub fn keep_only(&self, wanted: &BTreeSet<String>) {
        let unwanted: Vec<String> = self.known.lock().keys().filter(|chain_id| !wanted.contains(*chain_id)).cloned().collect();
        for chain_id in unwanted {
            self.known.lock().remove(&chain_id);
            let place = self.directory.join(name_of(&chain_id));
            // Renamed first: a layer that is half removed must not be found by the next start.
            let doomed = self.directory.join(format!(".old-{:016x}", rand::random::<u64>()));
            let removed = std::fs::rename(&place, &doomed).and_then(|()| std::fs::remove_dir_all(&doomed));
            if let Err(error) = removed {
                tracing::warn!(path = %place.display(), %error, "could not remove an unused layer");
            }
        }
    }
}

fn name_of(chain_id: &str) -> String {
    digest::hex(chain_id).chars().take(NAME_DIGITS).collect()
}
