//! `cargo xtask images`: container images out of Debian packages, as `docker save` archives for `knarr image import`.
//!
//! - `busybox`: busybox with all of its commands, from busybox-static
//! - `redis`: the Redis server with the libraries it loads, and busybox as its shell
//!
//! Packages are fetched and unpacked in a temporary folder; nothing of them is installed or started here.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::Digest;

use crate::{
    packages, places,
    shell::{output, run, say},
};

/// An image to make.
struct Recipe {
    name: &'static str,
    /// The package whose program it holds, and that program; none for busybox alone.
    program: Option<(&'static str, &'static str)>,
    command: &'static [&'static str],
}

const RECIPES: &[Recipe] = &[
    Recipe { name: "busybox", program: None, command: &["/bin/sh"] },
    Recipe { name: "redis", program: Some(("redis-server", "usr/bin/redis-server")), command: &["/usr/bin/redis-server", "--protected-mode", "no"] },
];

/// Tag of the images.
const TAG: &str = "knarr";

/// Makes the images that are not there yet, and returns the archives' paths.
///
/// # Errors
/// Where packages cannot be fetched, or a file cannot be read or written.
pub fn ensure() -> Result<Vec<PathBuf>> {
    let folder = places::cache("images")?;
    packages::ensure(&["busybox-static"])?;
    let mut archives = Vec::new();
    for recipe in RECIPES {
        let archive = folder.join(format!("{}.tar", recipe.name));
        if !archive.is_file() {
            say(&format!("making the image {}:{TAG}", recipe.name));
            let part = folder.join(format!("{}.part", recipe.name));
            let bytes = docker_archive(recipe).with_context(|| format!("cannot make the image {}", recipe.name))?;
            fs::write(&part, bytes).and_then(|()| fs::rename(&part, &archive)).with_context(|| format!("cannot write {}", archive.display()))?;
        }
        archives.push(archive);
    }
    Ok(archives)
}

/// A layer in the making.
struct Layer {
    tar: tar::Builder<Vec<u8>>,
    directories: BTreeSet<PathBuf>,
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

impl Layer {
    fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), directories: BTreeSet::new() }
    }

    fn directory(&mut self, path: &Path, mode: u32) -> Result<()> {
        if path.as_os_str().is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.directory(path.parent().unwrap_or(Path::new("")), 0o755)?;
        self.tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), path, &[][..])?;
        self.directories.insert(path.to_owned());
        Ok(())
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.directory(Path::new(path).parent().unwrap_or(Path::new("")), 0o755)?;
        Ok(self.tar.append_data(&mut header(tar::EntryType::Regular, mode, bytes.len()), path, bytes)?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        Ok(self.tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?)
    }
}

/// Everything that comes with a package: itself and what it depends on, unpacked into a folder.
fn unpack(package: &str, folder: &Path) -> Result<PathBuf> {
    let depends = ["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"];
    let listed = output(Command::new("apt-cache").args(depends).arg(package))?;
    // Lines that begin with a name are packages; `<virtual>` ones and what they hang on are indented or in brackets.
    let names: BTreeSet<&str> = listed.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric())).collect();
    let libraries = names.into_iter().filter(|name| *name == package || name.starts_with("lib") || name.starts_with("lua") || name.starts_with("redis"));
    let downloads = folder.join("packages");
    let root = folder.join("root");
    fs::create_dir_all(&downloads)?;
    fs::create_dir_all(&root)?;
    run(Command::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(libraries).current_dir(&downloads))?;
    for entry in fs::read_dir(&downloads)? {
        run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(&root))?;
    }
    Ok(root)
}

/// Absolute paths of the libraries that a program loads, and of its loader, within a root.
fn libraries(root: &Path, program: &str) -> Result<Vec<String>> {
    let loaders = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
    let Some(loader) = loaders.iter().find(|loader| root.join(loader).exists()) else { bail!("no loader of libraries in {}", root.display()) };
    // The loader itself says what it would load, in the root it will run in.
    let listed = output(Command::new("chroot").arg(root).arg(format!("/{loader}")).arg("--list").arg(format!("/{program}")))?;
    let mut found: Vec<String> = listed.split_whitespace().filter(|word| word.starts_with('/')).map(|path| path.trim_start_matches('/').to_owned()).collect();
    found.push((*loader).to_owned());
    found.sort();
    found.dedup();
    Ok(found)
}

fn layer(recipe: &Recipe) -> Result<Vec<u8>> {
    let mut layer = Layer::new();
    layer.file("bin/busybox", 0o755, &fs::read("/bin/busybox").context("cannot read /bin/busybox")?)?;
    for name in output(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|name| !name.is_empty() && *name != "busybox") {
        layer.link(&format!("bin/{name}"), "busybox")?;
    }
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
    layer.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    layer.directory(Path::new("tmp"), 0o1777)?;
    if let Some((package, program)) = recipe.program {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let root = unpack(package, folder.path())?;
        for path in libraries(&root, program)?.iter().map(String::as_str).chain([program]) {
            let bytes = fs::read(root.join(path)).with_context(|| format!("the packages of {package} have no {path}"))?;
            layer.file(path, 0o755, &bytes)?;
        }
    }
    layer.tar.into_inner().context("cannot finish the layer")
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn docker_archive(recipe: &Recipe) -> Result<Vec<u8>> {
    let layer = layer(recipe)?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": ["PATH=/usr/bin:/bin"], "Cmd": recipe.command },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    })
    .to_string();
    let name = format!("{}.json", sha256(configuration.as_bytes()));
    let manifest = json!([{ "Config": name, "RepoTags": [format!("{}:{TAG}", recipe.name)], "Layers": ["layer.tar"] }]).to_string();
    let mut archive = Layer::new();
    archive.file("layer.tar", 0o644, &layer)?;
    archive.file(&name, 0o644, configuration.as_bytes())?;
    archive.file("manifest.json", 0o644, manifest.as_bytes())?;
    archive.tar.into_inner().context("cannot finish the archive")
}
