//! `cargo xtask images`: container images out of Debian packages, as `docker save` archives for `knarr image import`.
//!
//! What is in each is data in `recipes.rs`. Packages are fetched and unpacked in a temporary folder; nothing of them is installed
//! or started here.

mod debian;
mod layer;
mod recipes;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::Digest;

use crate::{
    packages, places,
    shell::{cargo, output, run, say},
};
use layer::Layer;
use recipes::{RECIPES, Recipe};

/// Tag of the images.
const TAG: &str = "knarr";

/// Makes the images of these names that are not there yet, all where none is named, and returns the archives' paths.
///
/// # Errors
/// Where packages cannot be fetched, or a file cannot be read or written.
pub fn ensure(names: &[&str]) -> Result<Vec<PathBuf>> {
    let folder = places::cache("images")?;
    packages::ensure(&["busybox-static"])?;
    let mut archives = Vec::new();
    for recipe in RECIPES.iter().filter(|recipe| names.is_empty() || names.contains(&recipe.name)) {
        let archive = folder.join(format!("{}.tar", recipe.name));
        // The probe server is ours and may have changed.
        if !archive.is_file() || recipe.probe_server {
            say(&format!("making the image {}:{TAG}", recipe.name));
            let part = folder.join(format!("{}.part", recipe.name));
            let bytes = docker_archive(recipe).with_context(|| format!("cannot make the image {}", recipe.name))?;
            fs::write(&part, bytes).and_then(|()| fs::rename(&part, &archive)).with_context(|| format!("cannot write {}", archive.display()))?;
        }
        archives.push(archive);
    }
    Ok(archives)
}

/// Builds the probe server as a static program, and reads it.
fn probe_server() -> Result<Vec<u8>> {
    let target = if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
    let folder = places::cache("probe-server")?;
    let mut build = cargo();
    build.current_dir(places::workspace()).args(["build", "--release", "--quiet", "--package", "probe-server", "--target", target]);
    // A folder of its own, since the flags would have everything else built anew.
    build.arg("--target-dir").arg(&folder).env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Crelocation-model=static");
    run(&mut build)?;
    fs::read(folder.join(target).join("release/probe-server")).context("cannot read the probe server")
}

fn layer(recipe: &Recipe) -> Result<Vec<u8>> {
    let mut layer = Layer::new();
    layer.file("bin/busybox", 0o755, &fs::read("/bin/busybox").context("cannot read /bin/busybox")?)?;
    for name in output(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|name| !name.is_empty() && *name != "busybox") {
        layer.link(&format!("bin/{name}"), "busybox")?;
    }
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
    layer.file("etc/group", 0o644, b"root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n")?;
    layer.directory(Path::new("tmp"), 0o1777, 0)?;
    for (path, owner) in recipe.directories {
        layer.directory(Path::new(path), 0o755, *owner)?;
    }
    for (path, mode, text) in recipe.files {
        layer.file(path, *mode, text.as_bytes())?;
    }
    if recipe.probe_server {
        layer.file("bin/probe-server", 0o755, &probe_server()?)?;
    }
    if !recipe.packages.is_empty() {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let root = debian::unpack(recipe.packages, folder.path())?;
        let libraries = debian::libraries(&root, recipe.programs)?;
        for path in libraries.iter().map(String::as_str).chain(recipe.programs.iter().copied()) {
            let bytes = fs::read(root.join(path)).with_context(|| format!("the packages of {} have no {path}", recipe.name))?;
            layer.file(path, 0o755, &bytes)?;
        }
        for directory in recipe.trees {
            layer.tree(&root, directory)?;
        }
    }
    layer.finish()
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Where programs of packages are, so that they are found by name.
fn search_path(recipe: &Recipe) -> String {
    let mut folders: Vec<String> = recipe.programs.iter().filter_map(|program| Some(format!("/{}", program.rsplit_once('/')?.0))).filter(|folder| folder.ends_with("bin")).collect();
    folders.extend(["/usr/bin".to_owned(), "/bin".to_owned()]);
    folders.dedup();
    folders.join(":")
}

fn docker_archive(recipe: &Recipe) -> Result<Vec<u8>> {
    let layer = layer(recipe)?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let environment: Vec<String> = std::iter::once(format!("PATH={}", search_path(recipe))).chain(recipe.environment.iter().map(|text| (*text).to_owned())).collect();
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": environment, "Cmd": recipe.command, "User": recipe.user.unwrap_or_default() },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    })
    .to_string();
    let name = format!("{}.json", sha256(configuration.as_bytes()));
    let manifest = json!([{ "Config": name, "RepoTags": [format!("{}:{TAG}", recipe.name)], "Layers": ["layer.tar"] }]).to_string();
    let mut archive = Layer::new();
    archive.file("layer.tar", 0o644, &layer)?;
    archive.file(&name, 0o644, configuration.as_bytes())?;
    archive.file("manifest.json", 0o644, manifest.as_bytes())?;
    archive.finish()
}
