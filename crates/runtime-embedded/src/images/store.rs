//! Which images are on this node: their names, configurations and layers.
//!
//! One record per image in `images/`, written durably; layers are in `layers.rs`. An image whose layers are not all here
//! (the machine crashed before they reached the disk) is forgotten at start and pulled again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use container_runtime::{
    ImageId, ImageStatus, RuntimeError,
    image_name::{ImageName, is_image_id},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{configuration::ImageConfiguration, digest, layers::Layers};
use crate::records;

/// Largest manifest or configuration that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: u64 = 8 * 1024 * 1024;

/// An image on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of its configuration.
    pub id: ImageId,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Bytes of its layers, uncompressed.
    pub size_bytes: u64,
    /// How to run it.
    pub configuration: ImageConfiguration,
    /// Chain ids of its layers, lowest first.
    pub chain_ids: Vec<String>,
    /// It was brought in by hand: nobody could fetch it again.
    #[serde(default)]
    pub pinned: bool,
}

impl Image {
    fn status(&self) -> ImageStatus {
        ImageStatus {
            id: self.id.clone(),
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            size_bytes: self.size_bytes,
            user: self.configuration.config.user.clone(),
            pinned: self.pinned,
        }
    }
}

/// All images of a node.
pub struct ImageStore {
    directory: PathBuf,
    /// Blobs on their way into layers, by digest.
    pub(super) blobs: PathBuf,
    /// The unpacked layers.
    pub layers: Layers,
    images: Mutex<BTreeMap<ImageId, Image>>,
    /// Held for reading while layers are about to be needed: by an image that comes in, by a container that is made. Nobody
    /// takes them for waste meanwhile.
    pub arriving: tokio::sync::RwLock<()>,
}

impl ImageStore {
    /// Opens the store below a data directory. `layer_limit_bytes` bounds one uncompressed layer.
    ///
    /// # Errors
    /// Where the directories cannot be made or read.
    pub fn open(data_directory: &Path, layer_limit_bytes: u64) -> io::Result<Self> {
        let directory = data_directory.join("images");
        let blobs = data_directory.join("blobs");
        std::fs::create_dir_all(&directory)?;
        // Blobs are only kept until they are unpacked.
        match std::fs::remove_dir_all(&blobs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&blobs)?,
        }
        let layers = Layers::open(data_directory.join("layers"), layer_limit_bytes)?;
        let mut images = BTreeMap::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            match records::read::<Image>(&path) {
                Ok(Some(image)) if image.chain_ids.iter().all(|chain_id| layers.contains(chain_id)) => {
                    images.insert(image.id.clone(), image);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "forgetting an image that is not complete");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        Ok(Self { directory, blobs, layers, images: Mutex::new(images), arriving: tokio::sync::RwLock::default() })
    }

    /// All images.
    pub fn list(&self) -> Vec<ImageStatus> {
        self.images.lock().values().map(Image::status).collect()
    }

    /// An image by its id.
    pub fn get(&self, id: &ImageId) -> Option<Image> {
        self.images.lock().get(id).cloned()
    }

    /// An image by id, tag or digest.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidImageName`]
    pub fn find(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError> {
        if is_image_id(reference) {
            return Ok(self.get(&ImageId(format!("sha256:{}", digest::hex(reference)))).map(|image| image.status()));
        }
        let name = ImageName::parse(reference)?;
        let matches = |image: &&Image| match &name.digest {
            Some(digest) => image.digests.contains(&name.at_digest(digest)),
            None => name.tagged().is_some_and(|tagged| image.tags.contains(&tagged)),
        };
        Ok(self.images.lock().values().find(matches).map(Image::status))
    }

    /// Records an image whose layers are all unpacked, and moves the given names to it.
    ///
    /// # Errors
    /// Where the record cannot be written.
    pub fn add(&self, configuration_bytes: &[u8], tags: &[String], digests: &[String]) -> io::Result<ImageId> {
        let id = ImageId(digest::of(configuration_bytes));
        let configuration: ImageConfiguration = serde_json::from_slice(configuration_bytes)?;
        let chain_ids = chain_ids(&configuration.rootfs.diff_ids);
        let mut images = self.images.lock();
        for other in images.values_mut().filter(|image| image.id != id && image.tags.iter().any(|tag| tags.contains(tag))) {
            other.tags.retain(|tag| !tags.contains(tag));
            records::write(&self.path(&other.id), other)?;
        }
        let size_bytes = self.layers.size_bytes(&chain_ids) + configuration_bytes.len() as u64;
        let image = images.entry(id.clone()).or_insert_with(|| Image { id: id.clone(), tags: Vec::new(), digests: Vec::new(), size_bytes, configuration, chain_ids, pinned: false });
        for (list, names) in [(&mut image.tags, tags), (&mut image.digests, digests)] {
            for name in names {
                if !list.contains(name) {
                    list.push(name.clone());
                }
            }
        }
        records::write(&self.path(&id), image)?;
        Ok(id)
    }

    /// Takes note that an image was brought in by hand.
    ///
    /// # Errors
    /// Where the record cannot be written.
    pub fn pin(&self, id: &ImageId) -> io::Result<()> {
        let mut images = self.images.lock();
        let Some(image) = images.get_mut(id).filter(|image| !image.pinned) else { return Ok(()) };
        image.pinned = true;
        records::write(&self.path(id), image)
    }

    /// Removes a name, and the image with its last tag (or at once, when it is named by its id). Its layers stay while
    /// `in_use` names them.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidImageName`], or where the record cannot be changed.
    pub fn remove(&self, reference: &str) -> Result<(), RuntimeError> {
        let Some(found) = self.find(reference)? else { return Ok(()) };
        let name = ImageName::parse(reference).map(|name| name.to_string()).unwrap_or_default();
        let io = |source| RuntimeError::Io { doing: format!("could not remove the record of image {reference}"), source };
        let mut images = self.images.lock();
        let Some(image) = images.get_mut(&found.id) else { return Ok(()) };
        image.tags.retain(|tag| *tag != name);
        image.digests.retain(|digest| *digest != name);
        if is_image_id(reference) || image.tags.is_empty() && (image.digests.is_empty() || !name.contains('@')) {
            std::fs::remove_file(self.path(&found.id)).map_err(io)?;
            images.remove(&found.id);
        } else {
            records::write(&self.path(&found.id), image).map_err(io)?;
        }
        Ok(())
    }

    /// Removes the layers that neither an image nor `in_use` needs. Does nothing while some are about to be needed; the next
    /// time will come.
    pub fn collect_layers(&self, in_use: impl FnOnce() -> BTreeSet<String>) {
        let Ok(_nobody_arrives) = self.arriving.try_write() else { return };
        let mut wanted = in_use();
        wanted.extend(self.images.lock().values().flat_map(|image| image.chain_ids.iter().cloned()));
        self.layers.keep_only(&wanted);
    }

    fn path(&self, id: &ImageId) -> PathBuf {
        self.directory.join(format!("{}.json", digest::hex(&id.0)))
    }
}

/// The chain ids of a stack of layers, lowest first.
#[must_use]
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain_ids: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain_ids.push(digest::chain(chain_ids.last().map(String::as_str), diff_id));
    }
    chain_ids
}
