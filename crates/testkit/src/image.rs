//! An image made of Debian's busybox, for pods of tests.

use serde_json::json;
use sha2::Digest;

/// An image as a registry serves it.
pub struct Image {
    /// The manifest, in JSON.
    pub manifest: Vec<u8>,
    /// Configuration and layers.
    pub blobs: Vec<Vec<u8>>,
}

impl Image {
    /// An OCI archive of it under these names.
    ///
    /// # Panics
    /// Never: it is made in memory.
    pub fn archive(&self, names: &[&str]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut file = |name: &str, bytes: &[u8]| {
            archive.append_data(&mut header(tar::EntryType::Regular, 0o644, bytes.len()), name, bytes).expect("a tar in memory");
        };
        let manifests: Vec<_> = names
            .iter()
            .map(|name| {
                json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": digest(&self.manifest), "size": self.manifest.len(), "annotations": { "io.containerd.image.name": name },
                })
            })
            .collect();
        file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        file("index.json", json!({ "schemaVersion": 2, "manifests": manifests }).to_string().as_bytes());
        for blob in self.blobs.iter().chain([&self.manifest]) {
            file(&format!("blobs/{}", digest(blob).replace(':', "/")), blob);
        }
        archive.into_inner().expect("a tar in memory")
    }
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_600_000_000);
    header.set_size(size as u64);
    header
}

/// Busybox with all of its commands.
///
/// # Panics
/// Where the Debian package busybox-static is not installed.
pub fn busybox() -> Image {
    busybox_with(&[])
}

/// Busybox with more files: path and content. Images with different files have no layer in common.
///
/// # Panics
/// Where the Debian package busybox-static is not installed.
pub fn busybox_with(files: &[(&str, &[u8])]) -> Image {
    let program = std::fs::read("/bin/busybox").expect("the Debian package busybox-static must be installed");
    let listed = std::process::Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
    let mut layer = tar::Builder::new(Vec::new());
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("www/", 0o755)] {
        layer.append_data(&mut header(tar::EntryType::Directory, mode, 0), name, &[][..]).expect("a tar in memory");
    }
    layer.append_data(&mut header(tar::EntryType::Regular, 0o755, program.len()), "bin/busybox", program.as_slice()).expect("a tar in memory");
    for name in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| !name.is_empty() && *name != "busybox") {
        layer.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), format!("bin/{name}"), "busybox").expect("a tar in memory");
    }
    for (path, content) in files {
        layer.append_data(&mut header(tar::EntryType::Regular, 0o644, content.len()), path, *content).expect("a tar in memory");
    }
    let users = b"root:x:0:0:root:/:/bin/sh\n";
    layer.append_data(&mut header(tar::EntryType::Regular, 0o644, users.len()), "etc/passwd", &users[..]).expect("a tar in memory");
    let layer = layer.into_inner().expect("a tar in memory");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let configuration = json!({
        "architecture": architecture, "os": "linux", "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let configuration = configuration.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&configuration), "size": configuration.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len() }],
    });
    Image { manifest: manifest.to_string().into_bytes(), blobs: vec![configuration, layer] }
}
