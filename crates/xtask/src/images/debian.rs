//! Debian packages, unpacked and not installed, as a source of programs and of the libraries they load.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::shell::{output, run};

/// Unpacks packages and every library that they depend on into a folder, and returns the root they make.
pub fn unpack(packages: &[&str], folder: &Path) -> Result<PathBuf> {
    let depends = ["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"];
    let listed = output(Command::new("apt-cache").args(depends).args(packages))?;
    // Lines that begin with a name are packages; `<virtual>` ones and what they hang on are indented or in brackets.
    let names: BTreeSet<&str> = listed.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric())).collect();
    let wanted = names.into_iter().filter(|name| packages.contains(name) || ["lib", "lua", "zlib"].iter().any(|prefix| name.starts_with(prefix)));
    let wanted = offered(wanted)?;
    let downloads = folder.join("packages");
    let root = folder.join("root");
    fs::create_dir_all(&downloads)?;
    fs::create_dir_all(&root)?;
    run(Command::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(wanted).current_dir(&downloads))?;
    for entry in fs::read_dir(&downloads)? {
        run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(&root))?;
    }
    Ok(root)
}

/// Packages with the newest version that the sources offer, `name=version`: what is installed may be newer and not to be had.
fn offered<'a>(packages: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let listed = output(Command::new("apt-cache").arg("madison").args(packages))?;
    let mut newest = std::collections::BTreeMap::new();
    for line in listed.lines() {
        // `name | version | source`, newest first.
        if let [name, version, ..] = *line.split('|').map(str::trim).collect::<Vec<_>>() {
            newest.entry(name).or_insert(version);
        }
    }
    Ok(newest.into_iter().map(|(name, version)| format!("{name}={version}")).collect())
}

/// Paths of the libraries that programs load, and of their loader, within a root.
pub fn libraries(root: &Path, programs: &[&str]) -> Result<BTreeSet<String>> {
    let loaders = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
    let Some(loader) = loaders.iter().find(|loader| root.join(loader).exists()) else { bail!("no loader of libraries in {}", root.display()) };
    let mut found = BTreeSet::from([(*loader).to_owned()]);
    for program in programs {
        // The loader itself says what it would load, in the root it will run in.
        let listed = output(Command::new("chroot").arg(root).arg(format!("/{loader}")).arg("--list").arg(format!("/{program}")))?;
        found.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(|path| path.trim_start_matches('/').to_owned()));
    }
    Ok(found)
}
