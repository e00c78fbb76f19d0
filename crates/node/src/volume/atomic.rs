//! Files that change all at once: a reader sees the old ones or the new ones, never a mixture.
//!
//! The files lie in a directory of their own (`..2026_01_02_15_04_05.123456789`); `..data` is a symbolic link to it, and
//! each name that users see is a link through `..data`. Renaming a new `..data` over the old one changes everything.
//! Source: Kubernetes 1.36, `pkg/volume/util/atomic_writer.go`.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
    path::Path,
};

use super::payload::{File, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Brings a directory to exactly these files. Does nothing where they are there already.
///
/// # Errors
/// The file system refused; the old files stay visible.
pub fn write(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    if let Some(group) = group {
        chown(directory, None, Some(group))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o2777))?;
    }
    let old = fs::read_link(directory.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| is_same(&directory.join(old), payload, group)) {
        return Ok(());
    }
    let name = format!("..{}.{:09}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"), rand::random::<u32>() % 1_000_000_000);
    let fresh = directory.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&fresh, path, file, group)?;
    }
    let new_data = directory.join(NEW_DATA);
    match fs::remove_file(&new_data) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(problem),
        _ => {}
    }
    symlink(&name, &new_data)?;
    fs::rename(&new_data, directory.join(DATA))?;
    let visible: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(shown) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if shown == DATA || shown == name || visible.contains(shown.as_str()) {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

fn write_file(directory: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let target = directory.join(path);
    let mut parent = directory.to_owned();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        if !parent.is_dir() {
            fs::create_dir(&parent)?;
            fs::set_permissions(&parent, fs::Permissions::from_mode(0o755))?;
        }
    }
    let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
    open.write_all(&file.data)?;
    if file.owner.is_some() || group.is_some() {
        chown(&target, file.owner, group)?;
    }
    fs::set_permissions(&target, fs::Permissions::from_mode(mode_of(file, group)))
}

fn mode_of(file: &File, group: Option<u32>) -> u32 {
    file.mode | if group.is_some() { 0o440 } else { 0 }
}

fn is_same(directory: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let same = payload.iter().all(|(path, file)| {
        let target = directory.join(path);
        fs::symlink_metadata(&target).is_ok_and(|facts| facts.is_file() && facts.mode() & 0o7777 == mode_of(file, group))
            && fs::read(&target).is_ok_and(|data| data == file.data)
    });
    same && count_files(directory).is_ok_and(|count| count == payload.len())
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(path, data)| ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o640, owner: None })).collect()
    }

    #[test]
    fn files_appear_change_and_vanish() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).ok();
        write(path, &payload(&[("a", "1"), ("deep/er/b", "2")]), None).unwrap();
        assert_eq!((read("a").as_deref(), read("deep/er/b").as_deref()), (Some("1"), Some("2")));
        assert_eq!(fs::metadata(path.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let first = fs::read_link(path.join(DATA)).unwrap();
        write(path, &payload(&[("a", "1"), ("deep/er/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(path.join(DATA)).unwrap(), first, "nothing changed, so nothing is written");
        write(path, &payload(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!((read("a").as_deref(), read("c").as_deref(), read("deep/er/b")), (Some("3"), Some("4"), None));
        assert!(!path.join(&first).exists(), "the old files are removed");
        assert!(fs::symlink_metadata(path.join("deep")).is_err(), "so are their names");
        write(path, &Payload::new(), None).unwrap();
        assert_eq!(read("a"), None);
    }
}
