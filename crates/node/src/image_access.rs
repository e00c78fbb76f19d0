//! Who may use the images that are on this node. What was pulled with somebody's credentials is for those who have them too, and not for
//! whoever knows its name: others have to show theirs to the registry first.
//!
//! Images that came without a pull are for all. An agent that is killed while it pulls has noted that before, so that what came is nobody's
//! gift. Credentials are kept as digests. Source: Kubernetes 1.36, KEP-2535, `pkg/kubelet/images/pullmanager`, with the default policy
//! `NeverVerifyPreloadedImages`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use container_runtime::{ImageId, RegistryCredential, image_name::ImageName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Who has shown that they may have an image of some repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Shown {
    /// It was had without a pod's credentials.
    anyone: bool,
    /// Digests of credentials that were enough.
    credentials: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Records {
    /// Names of images being pulled.
    pulling: BTreeSet<String>,
    /// By identifier and repository.
    pulled: BTreeMap<String, BTreeMap<String, Shown>>,
}

/// What is known of it, kept in a file.
pub struct ImageAccess {
    file: PathBuf,
    records: Mutex<Records>,
    /// Images that were not there when it was last looked.
    missing: Mutex<BTreeSet<String>>,
}

fn digest_of(credential: &RegistryCredential) -> String {
    let mut digest = Sha256::new();
    digest.update(credential.username.as_bytes());
    digest.update([0]);
    digest.update(credential.password.as_bytes());
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn repository(image: &str) -> String {
    ImageName::parse(image).map(|name| name.without_version()).unwrap_or_default()
}

impl ImageAccess {
    /// What a file says. One that makes no sense is begun anew: then all images that are there are for all.
    #[must_use]
    pub fn open(file: PathBuf) -> Self {
        let records = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|problem| {
                tracing::warn!(path = %file.display(), %problem, "who may use which image is not known any more: the file makes no sense");
                Records::default()
            }),
            Err(_) => Records::default(),
        };
        Self { file, records: Mutex::new(records), missing: Mutex::default() }
    }

    /// Whether a pod with these credentials may use an image that is there under this name.
    #[must_use]
    pub fn allows(&self, id: &ImageId, image: &str, credentials: &[RegistryCredential]) -> bool {
        let records = self.records.lock();
        match records.pulled.get(&id.0) {
            None => !records.pulling.contains(image),
            Some(shown) => shown.get(&repository(image)).is_some_and(|shown| shown.anyone || credentials.iter().any(|own| shown.credentials.contains(&digest_of(own)))),
        }
    }

    /// A pull begins.
    pub fn begin(&self, image: &str) {
        self.change(|records| {
            records.pulling.insert(image.to_owned());
        });
    }

    /// A pull has ended: with an image that was had with this credential, or without one; or with nothing.
    pub fn end(&self, image: &str, pulled: Option<(&ImageId, Option<&RegistryCredential>)>) {
        self.change(|records| {
            records.pulling.remove(image);
            let Some((id, credential)) = pulled else { return };
            let shown = records.pulled.entry(id.0.clone()).or_default().entry(repository(image)).or_default();
            match credential {
                Some(credential) => drop(shown.credentials.insert(digest_of(credential))),
                None => shown.anyone = true,
            }
        });
    }

    /// These images are there; what is known of one that was not there the last time either is forgotten. One look is not enough: an image
    /// may have come after its list was made.
    pub fn retain<'a>(&self, present: impl Iterator<Item = &'a ImageId>) {
        let present: BTreeSet<&str> = present.map(|id| id.0.as_str()).collect();
        let mut missing = self.missing.lock();
        self.change(|records| {
            let absent: BTreeSet<String> = records.pulled.keys().filter(|id| !present.contains(id.as_str())).cloned().collect();
            records.pulled.retain(|id, _| !(absent.contains(id) && missing.contains(id)));
            *missing = absent;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Records)) {
        let mut records = self.records.lock();
        let before = records.clone();
        change(&mut records);
        if *records == before {
            return;
        }
        // Held until it is written: the file never goes back.
        if let Err(problem) = self.write(&records) {
            tracing::warn!(path = %self.file.display(), %problem, "could not keep who may use which image; after a restart all may");
        }
    }

    fn write(&self, records: &Records) -> io::Result<()> {
        let temporary = self.file.with_extension("new");
        let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        serde_json::to_writer(&mut file, records).map_err(io::Error::other)?;
        file.sync_data()?;
        std::fs::rename(&temporary, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(password: &str) -> RegistryCredential {
        RegistryCredential { username: "me".to_owned(), password: password.to_owned() }
    }

    #[test]
    fn an_image_is_for_those_who_have_shown_that_they_may_have_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image-access.json");
        let access = ImageAccess::open(file.clone());
        let (app, other) = (ImageId("sha256:a".to_owned()), ImageId("sha256:b".to_owned()));
        assert!(access.allows(&app, "reg.example/app:1", &[]), "it was there before");
        access.begin("reg.example/app:1");
        assert!(!access.allows(&app, "reg.example/app:1", &[]), "it may come from somebody's pull");
        assert!(!ImageAccess::open(file.clone()).allows(&app, "reg.example/app:1", &[]), "also where the agent died meanwhile");
        access.end("reg.example/app:1", Some((&app, Some(&credential("right")))));
        let access = ImageAccess::open(file.clone());
        for image in ["reg.example/app:1", "reg.example/app:2", "reg.example/app@sha256:0000000000000000000000000000000000000000000000000000000000000000"] {
            assert!(!access.allows(&app, image, &[]) && !access.allows(&app, image, &[credential("wrong")]), "{image}");
            assert!(access.allows(&app, image, &[credential("wrong"), credential("right")]), "{image}");
        }
        assert!(!access.allows(&app, "reg.example/copy:1", &[credential("right")]), "the right to one repository is none to another");
        access.begin("reg.example/copy:1");
        access.end("reg.example/copy:1", Some((&app, None)));
        assert!(access.allows(&app, "reg.example/copy:1", &[]), "that one is open");
        access.begin("reg.example/none:1");
        access.end("reg.example/none:1", None);
        assert!(access.allows(&other, "reg.example/none:1", &[]));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("right"), "{text}");
        access.retain([&other].into_iter());
        assert!(!access.allows(&app, "reg.example/app:1", &[]), "it may have come after the list was made");
        access.retain([&app].into_iter());
        access.retain([&other].into_iter());
        assert!(!access.allows(&app, "reg.example/app:1", &[]));
        access.retain([&other].into_iter());
        assert!(access.allows(&app, "reg.example/app:1", &[]), "it came anew");
    }
}
