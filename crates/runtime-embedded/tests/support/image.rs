//! Images made by hand: layers of tar entries, written as a `docker save` archive or an OCI layout.

use std::io::Write;

use serde_json::json;
use sha2::Digest;

/// An image in the making.
#[derive(Clone, Default)]
pub struct Image {
    /// Uncompressed layers, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// The `config` part of its configuration.
    pub config: serde_json::Value,
}

/// A layer in the making.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, path: &str, kind: tar::EntryType, mode: u32, owner: (u64, u64), link: &str, bytes: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        // Written by hand, since the builder refuses the paths that some tests need.
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_600_000_000);
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }

    pub fn file(self, path: &str, mode: u32, bytes: &[u8]) -> Self {
        self.add(path, tar::EntryType::Regular, mode, (0, 0), "", bytes)
    }

    pub fn owned_file(self, path: &str, mode: u32, owner: (u64, u64), bytes: &[u8]) -> Self {
        self.add(path, tar::EntryType::Regular, mode, owner, "", bytes)
    }

    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.add(path, tar::EntryType::Directory, mode, (0, 0), "", b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.add(path, tar::EntryType::Symlink, 0o777, (0, 0), target, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(path, tar::EntryType::Link, 0o644, (0, 0), target, b"")
    }

    /// A special file: a device of a major and minor number, or a pipe, which has none.
    pub fn special(mut self, path: &str, kind: tar::EntryType, mode: u32, device: (u32, u32)) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(1_600_000_000);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        header.set_cksum();
        self.0.append(&header, std::io::empty()).unwrap();
        self
    }

    /// Says more of the next entry than its header has room for, as PAX does.
    pub fn extended(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            // The length of a record counts its own digits.
            let rest = key.len() + value.len() + 3;
            let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() == length - rest).unwrap();
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.add("PaxHeaders/x", tar::EntryType::XHeader, 0o644, (0, 0), "", &text)
    }

    pub fn build(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Image {
    /// Busybox with its usual links, a few users, and nothing else.
    pub fn busybox() -> Self {
        let program = std::fs::read("/bin/busybox").expect("the Debian package busybox-static");
        let mut layer = Layer::new().directory("bin", 0o755).file("bin/busybox", 0o755, &program);
        for name in [
            "sh", "sleep", "echo", "cat", "ls", "id", "env", "hostname", "kill", "ps", "grep", "mount", "mkdir", "touch", "stat", "readlink", "head", "dd", "true", "false",
            "wc", "tail", "nc", "stty", "tty", "mknod", "unshare", "ipcs", "chmod", "printf", "seq", "yes", "test", "rm", "awk", "ln", "umount", "ip", "find",
        ] {
            layer = layer.symlink(&format!("bin/{name}"), "busybox");
        }
        let layer = layer
            .directory("etc", 0o755)
            .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/var/web:/bin/sh\n")
            .file("etc/group", 0o644, b"root:x:0:\nwww:x:102:\nmedia:x:300:web\n")
            .directory("tmp", 0o1777)
            .directory("root", 0o700)
            .build();
        Self { layers: vec![layer], config: json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] }) }
    }

    pub fn configuration(&self) -> Vec<u8> {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        serde_json::to_vec(&json!({
            "architecture": architecture, "os": "linux", "config": self.config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))
        .unwrap()
    }

    /// As `docker save` writes it.
    pub fn docker_archive(&self, tag: &str) -> Vec<u8> {
        let configuration = self.configuration();
        let name = format!("{}.json", &digest(&configuration)[7..]);
        let names: Vec<String> = (0..self.layers.len()).map(|index| format!("{index}/layer.tar")).collect();
        let manifest = json!([{ "Config": name, "RepoTags": [tag], "Layers": names }]);
        let mut archive = Layer::new();
        for (layer, name) in self.layers.iter().zip(&names) {
            archive = archive.file(name, 0o644, layer);
        }
        archive.file(&name, 0o644, &configuration).file("manifest.json", 0o644, &serde_json::to_vec(&manifest).unwrap()).build()
    }

    /// The manifest and the blobs it names, with layers compressed by `compress`.
    pub fn manifest(&self, compress: impl Fn(&[u8]) -> Vec<u8>) -> (Vec<u8>, Vec<Vec<u8>>) {
        let configuration = self.configuration();
        let layers: Vec<Vec<u8>> = self.layers.iter().map(|layer| compress(layer)).collect();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(layer), "size": layer.len() }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&configuration), "size": configuration.len() },
            "layers": descriptors,
        });
        let mut blobs = layers;
        blobs.push(configuration);
        (serde_json::to_vec(&manifest).unwrap(), blobs)
    }

    /// As an OCI layout in a tar, with an index in between.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let (manifest, blobs) = self.manifest(gzip);
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "manifests": [
                { "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(b"other"), "size": 5, "platform": { "os": "linux", "architecture": "s390x" } },
                { "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(), "platform": { "os": "linux", "architecture": architecture } },
            ],
        }))
        .unwrap();
        let top = json!({
            "schemaVersion": 2,
            "manifests": [{ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(&index), "size": index.len(), "annotations": { "io.containerd.image.name": name } }],
        });
        let mut archive = Layer::new().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", 0o644, &serde_json::to_vec(&top).unwrap());
        for blob in blobs.iter().chain([&manifest, &index]) {
            archive = archive.file(&format!("blobs/sha256/{}", &digest(blob)[7..]), 0o644, blob);
        }
        archive.build()
    }
}
