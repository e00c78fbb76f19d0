//! A layer of an image in the making: a tar archive whose directories come before what is in them.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};

/// The archive so far.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
    directories: BTreeSet<std::path::PathBuf>,
}

fn header(kind: tar::EntryType, mode: u32, owner: u64, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_600_000_000);
    header.set_size(size as u64);
    header
}

impl Layer {
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), directories: BTreeSet::new() }
    }

    /// A directory, and those above it where they are not there yet.
    pub fn directory(&mut self, path: &Path, mode: u32, owner: u64) -> Result<()> {
        if path.as_os_str().is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.directory(path.parent().unwrap_or(Path::new("")), 0o755, 0)?;
        self.tar.append_data(&mut header(tar::EntryType::Directory, mode, owner, 0), path, &[][..])?;
        self.directories.insert(path.to_owned());
        Ok(())
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.directory(Path::new(path).parent().unwrap_or(Path::new("")), 0o755, 0)?;
        Ok(self.tar.append_data(&mut header(tar::EntryType::Regular, mode, 0, bytes.len()), path, bytes)?)
    }

    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.directory(Path::new(path).parent().unwrap_or(Path::new("")), 0o755, 0)?;
        Ok(self.tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0, 0), path, target)?)
    }

    /// Everything below a directory of an unpacked root.
    pub fn tree(&mut self, root: &Path, directory: &str) -> Result<()> {
        for entry in walkdir::WalkDir::new(root.join(directory)).sort_by_file_name() {
            let entry = entry.with_context(|| format!("the packages have no {directory}"))?;
            let path = entry.path().strip_prefix(root)?;
            let name = path.to_str().context("a file name is no text")?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.directory(path, metadata.permissions().mode() & 0o7777, 0)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.link(name, target.to_str().context("a link's target is no text")?)?;
            } else {
                self.file(name, metadata.permissions().mode() & 0o7777, &fs::read(entry.path())?)?;
            }
        }
        Ok(())
    }

    pub fn finish(self) -> Result<Vec<u8>> {
        self.tar.into_inner().context("cannot finish an archive")
    }
}
