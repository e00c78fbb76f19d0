//! Bringing in an archive made by `docker save`, `skopeo`, `buildah` and the like: both layouts, compressed or not.
//!
//! The archive's entries are only indexed; layers are read right out of the file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Take},
    path::{Path, PathBuf},
};

use container_runtime::{RuntimeError, image_name::ImageName};
use serde::Deserialize;

use super::{
    configuration::{Descriptor, ImageConfiguration, Manifest, own_architecture, pick},
    digest,
    store::{ImageStore, MAX_DOCUMENT_BYTES, chain_ids},
    unpack::decompress,
};
use crate::inside::components;

/// Largest archive after decompression, in bytes.
const MAX_ARCHIVE_BYTES: u64 = 256 * 1024 * 1024 * 1024;

/// One image of `docker save`'s `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image that was found in an archive.
struct Found {
    configuration: Vec<u8>,
    /// Names of the layers' entries in the archive, lowest first; with the digest of the entry where it is announced.
    layers: Vec<(String, Option<String>)>,
    tags: Vec<String>,
    digests: Vec<String>,
}

/// An archive whose entries can be read at random.
struct Archive {
    file: File,
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    File { offset: u64, length: u64 },
    Link(String),
}

/// Reads an archive and records its images; gives the names it brought (ids where it brought none). Blocks.
///
/// # Errors
/// [`RuntimeError::Pull`] with what is wrong with the archive.
pub fn import(store: &ImageStore, path: &Path) -> Result<Vec<String>, RuntimeError> {
    let failed = |reason: String| RuntimeError::Pull { image: path.display().to_string(), reason };
    let _arriving = store.arriving.blocking_read();
    let archive = Archive::open(path, &store.blobs).map_err(|error| failed(format!("the archive cannot be read: {error}")))?;
    let found = archive.images().map_err(|error| failed(error.to_string()))?;
    if found.is_empty() {
        return Err(failed("the archive holds no image for this machine (neither manifest.json nor index.json names one)".to_owned()));
    }
    let mut names = Vec::new();
    for image in found {
        names.extend(archive.bring_in(store, &image).map_err(|error| failed(error.to_string()))?);
    }
    Ok(names)
}

impl Archive {
    fn open(path: &Path, scratch: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = [0; 4];
        let length = file.read(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        let compressed = length == 4 && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]);
        if compressed {
            let temporary = scratch.join(format!("archive-{:016x}", rand::random::<u64>()));
            let mut plain = File::options().create_new(true).read(true).write(true).open(&temporary)?;
            // Without a name it goes away with us, however we end.
            std::fs::remove_file(&temporary)?;
            let copied = io::copy(&mut decompress(file)?.take(MAX_ARCHIVE_BYTES + 1), &mut plain)?;
            if copied > MAX_ARCHIVE_BYTES {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any archive may be"));
            }
            plain.seek(SeekFrom::Start(0))?;
            file = plain;
        }
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = normal_name(&entry.path()?);
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    entries.insert(name, Entry::File { offset: entry.raw_file_position(), length: entry.size() });
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let Some(target) = entry.link_name()? else { continue };
                    let symbolic = entry.header().entry_type() == tar::EntryType::Symlink;
                    let base = if symbolic { Path::new(&name).parent().unwrap_or(Path::new("")).to_owned() } else { PathBuf::new() };
                    entries.insert(name, Entry::Link(normal_name(&base.join(target))));
                }
                _ => {}
            }
        }
        Ok(Self { file, entries })
    }

    fn reader(&self, name: &str) -> io::Result<Take<File>> {
        let mut name = normal_name(Path::new(name));
        // Old archives share layers by links; a chain of them may not go round for ever.
        for _ in 0..8 {
            match self.entries.get(&name) {
                Some(Entry::File { offset, length }) => {
                    // A descriptor of its own, so that it has a position of its own.
                    let mut file = File::open(crate::inside::path_of(std::os::fd::AsFd::as_fd(&self.file)))?;
                    file.seek(SeekFrom::Start(*offset))?;
                    return Ok(file.take(*length));
                }
                Some(Entry::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("the archive has no entry {name}")))
    }

    fn document(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader(name)?.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A blob of the OCI layout that is small enough to be read as a whole, verified.
    fn blob(&self, descriptor: &Descriptor) -> io::Result<Vec<u8>> {
        let bytes = self.document(&blob_name(&descriptor.digest)?)?;
        let found = digest::of(&bytes);
        if found == descriptor.digest { Ok(bytes) } else { Err(io::Error::new(io::ErrorKind::InvalidData, format!("the content of blob {} is {found}", descriptor.digest))) }
    }

    fn images(&self) -> io::Result<Vec<Found>> {
        let mut images = Vec::new();
        if self.entries.contains_key("manifest.json") {
            for image in serde_json::from_slice::<Vec<DockerImage>>(&self.document("manifest.json")?)? {
                images.push(Found {
                    configuration: self.document(&image.config)?,
                    layers: image.layers.into_iter().map(|layer| (layer, None)).collect(),
                    tags: image.repo_tags.unwrap_or_default(),
                    digests: Vec::new(),
                });
            }
        } else if self.entries.contains_key("index.json") {
            let index: Manifest = serde_json::from_slice(&self.document("index.json")?)?;
            for descriptor in index.manifests.unwrap_or_default() {
                let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"].iter().find_map(|key| descriptor.annotations.get(*key)).cloned();
                if let Some(found) = self.found_behind(&descriptor, name.as_deref())? {
                    images.push(found);
                }
            }
        }
        Ok(images)
    }

    /// Follows a descriptor to the manifest for this machine.
    fn found_behind(&self, descriptor: &Descriptor, name: Option<&str>) -> io::Result<Option<Found>> {
        let named_digest = descriptor.digest.clone();
        let mut descriptor = descriptor.clone();
        // An index may hold indexes, but not for ever.
        for _ in 0..4 {
            let manifest: Manifest = serde_json::from_slice(&self.blob(&descriptor)?)?;
            if let Some(manifests) = &manifest.manifests {
                let Some(picked) = pick(manifests, own_architecture()) else { return Ok(None) };
                descriptor = picked.clone();
                continue;
            }
            let Some(config) = &manifest.config else { return Ok(None) };
            let layers = manifest.layers.iter().map(|layer| Ok((blob_name(&layer.digest)?, Some(layer.digest.clone())))).collect::<io::Result<_>>()?;
            let parsed = name.and_then(|name| ImageName::parse(name).ok());
            let digests = parsed.iter().map(|name| name.at_digest(&named_digest)).collect();
            return Ok(Some(Found { configuration: self.blob(config)?, layers, tags: name.map(str::to_owned).into_iter().collect(), digests }));
        }
        Ok(None)
    }

    fn bring_in(&self, store: &ImageStore, image: &Found) -> io::Result<Vec<String>> {
        let configuration: ImageConfiguration = serde_json::from_slice(&image.configuration)?;
        let diff_ids = &configuration.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() || !diff_ids.iter().all(|diff_id| digest::is_valid(diff_id)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the image's configuration and manifest disagree about its layers"));
        }
        let chain_ids = chain_ids(diff_ids);
        for (index, (diff_id, (entry, announced))) in diff_ids.iter().zip(&image.layers).enumerate() {
            let (Some(chain_id), Some(parents)) = (chain_ids.get(index), chain_ids.get(..index)) else { continue };
            if store.layers.contains(chain_id) {
                continue;
            }
            tracing::info!(layer = %diff_id, "unpacking layer {} of {}", index + 1, diff_ids.len());
            let mut reader = digest::Digesting::new(self.reader(entry)?, u64::MAX);
            store.layers.unpack(&mut reader, diff_id, parents)?;
            let (found, _) = reader.finish()?;
            if announced.as_ref().is_some_and(|announced| *announced != found) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the content of layer {diff_id} is not what its manifest announced")));
            }
        }
        let tags: Vec<String> = image.tags.iter().filter_map(|tag| ImageName::parse(tag).ok()).map(|name| name.to_string()).collect();
        let id = store.add(&image.configuration, &tags, &image.digests)?;
        store.pin(&id)?;
        Ok(if tags.is_empty() { vec![id.0] } else { tags })
    }
}

fn blob_name(digest: &str) -> io::Result<String> {
    if digest::is_valid(digest) { Ok(format!("blobs/sha256/{}", digest::hex(digest))) } else { Err(io::Error::new(io::ErrorKind::InvalidData, format!("\"{digest}\" is not a digest"))) }
}

/// An entry's name without `./`; `..` goes up as far as the archive's root.
fn normal_name(path: &Path) -> String {
    let names = components(path).unwrap_or_else(|| {
        let mut kept: Vec<PathBuf> = Vec::new();
        for component in path.components() {
            match component {
                std::path::Component::ParentDir => drop(kept.pop()),
                std::path::Component::Normal(name) => kept.push(name.into()),
                _ => {}
            }
        }
        kept
    });
    names.iter().collect::<PathBuf>().to_string_lossy().into_owned()
}
