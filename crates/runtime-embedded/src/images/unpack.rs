//! Writing one layer's tar stream into a directory.
//!
//! The directory is the merged view of an overlay whose upper side becomes the layer (see `layers.rs`), so a deletion
//! (`.wh.NAME`) is simply a removal, and a path below a link of an earlier layer goes where it should. Every path is
//! resolved inside the directory by the kernel; the stream is bounded in bytes and entries.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use tar::EntryType;

use crate::inside::{Root, components, path_of};

/// Most entries that a layer may have.
const MAX_ENTRIES: usize = 4_000_000;

/// Unpacks a stream that is compressed with gzip, zstd or not at all.
///
/// # Errors
/// Where the stream is malformed, tries to leave the directory, or cannot be written.
pub fn unpack(stream: impl Read, directory: &Path) -> io::Result<()> {
    let root = Root::open(directory)?;
    let mut unpacked = HashSet::new();
    let mut directory_times = Vec::new();
    let mut archive = tar::Archive::new(stream);
    for (index, entry) in archive.entries()?.enumerate() {
        if index >= MAX_ENTRIES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the layer has more than {MAX_ENTRIES} entries")));
        }
        let mut entry = entry?;
        let written = entry.path()?.into_owned();
        let told = |error: io::Error| io::Error::new(error.kind(), format!("entry {}: {error}", written.display()));
        let names = components(&written).ok_or_else(|| told(io::Error::new(io::ErrorKind::InvalidData, "its path leaves the layer")))?;
        let Some((name, parents)) = names.split_last() else {
            // The root itself: only its rights matter.
            set_rights(&root.open_at(Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?, entry.header())?;
            continue;
        };
        let parent_path: PathBuf = parents.iter().collect();
        let parent = root.make_directories(&parent_path, 0o755, None).map_err(told)?;
        if let Some(deleted) = name.as_os_str().as_bytes().strip_prefix(b".wh.") {
            delete(&parent, &parent_path, deleted, &unpacked).map_err(told)?;
            continue;
        }
        write_entry(&root, &parent, name, &mut entry, &mut directory_times, &parent_path.join(name)).map_err(told)?;
        unpacked.insert(parent_path.join(name));
    }
    // Writing into a directory changes its time, so directories get theirs last.
    for (path, seconds) in directory_times.into_iter().rev() {
        let directory = root.open_at(&path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::futimens(&directory, &times(seconds))?;
    }
    Ok(())
}

/// Carries out a deletion marker: of one name, or of everything that earlier layers have in this directory.
fn delete(parent: &OwnedFd, parent_path: &Path, deleted: &[u8], unpacked: &HashSet<PathBuf>) -> io::Result<()> {
    if deleted == b".wh..opq" {
        let listing = rustix::fs::openat(parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for entry in rustix::fs::Dir::read_from(&listing)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." && !unpacked.contains(&parent_path.join(name)) {
                remove(parent, name)?;
            }
        }
        return Ok(());
    }
    if deleted.starts_with(b".wh.") {
        // Left over from AUFS; means nothing here.
        return Ok(());
    }
    let name = OsStr::from_bytes(deleted);
    if deleted.is_empty() || name == "." || name == ".." {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it deletes nothing that can be named"));
    }
    remove(parent, name)
}

/// Removes a name with all below it, without following links; fine where it is not there.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => std::fs::remove_dir_all(path_of(parent.as_fd()).join(name)),
        Err(error) => Err(error.into()),
    }
}

fn write_entry(
    root: &Root,
    parent: &OwnedFd,
    name: &Path,
    entry: &mut tar::Entry<'_, impl Read>,
    directory_times: &mut Vec<(PathBuf, i64)>,
    path: &Path,
) -> io::Result<()> {
    let header = entry.header().clone();
    // Old writers say only by a slash that it is a directory.
    let kind = match header.entry_type() {
        EntryType::Regular if entry.path_bytes().ends_with(b"/") => EntryType::Directory,
        other => other,
    };
    let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
    if kind.is_dir() {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
                    remove(parent, name.as_os_str())?;
                    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        let directory = rustix::fs::openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        set_rights(&directory, &header)?;
        set_attributes(&directory, entry)?;
        directory_times.push((path.to_owned(), seconds));
        return Ok(());
    }
    if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) {
        return Ok(());
    }
    remove(parent, name.as_os_str())?;
    let (user, group) = owner(&header)?;
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let mut file = File::from(rustix::fs::openat(parent, name, new, Mode::from_raw_mode(0o600))?);
            io::copy(entry, &mut file)?;
            let file = OwnedFd::from(file);
            set_rights(&file, &header)?;
            set_attributes(&file, entry)?;
            rustix::fs::futimens(&file, &times(seconds))?;
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a link without a target"))?;
            rustix::fs::symlinkat(&*target, parent, name)?;
            rustix::fs::chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::utimensat(parent, name, &times(seconds), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        EntryType::Link => {
            let target = entry.link_name()?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a link without a target"))?;
            let names = components(&target).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its target leaves the layer"))?;
            let (last, parents) = names.split_last().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its target is the root"))?;
            let directory = root.open_at(&parents.iter().collect::<PathBuf>(), OFlags::PATH | OFlags::DIRECTORY)?;
            // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is that link, wherever it points.
            rustix::fs::linkat(&directory, last, parent, name, AtFlags::empty())?;
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let (file_type, device) = match kind {
                EntryType::Fifo => (FileType::Fifo, 0),
                EntryType::Char => (FileType::CharacterDevice, device(&header)?),
                _ => (FileType::BlockDevice, device(&header)?),
            };
            // 0/0 is how an overlay marks a deletion; in a layer it can only be an attempt to forge one.
            if file_type == FileType::CharacterDevice && device == 0 {
                return Ok(());
            }
            rustix::fs::mknodat(parent, name, file_type, Mode::from_raw_mode(0o600), device)?;
            rustix::fs::chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(header.mode()? & 0o7777), AtFlags::empty())?;
            rustix::fs::utimensat(parent, name, &times(seconds), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        other => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown kind of entry {other:?}"))),
    }
    Ok(())
}

fn device(header: &tar::Header) -> io::Result<u64> {
    let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    Ok(rustix::fs::makedev(major, minor))
}

fn owner(header: &tar::Header) -> io::Result<(Uid, Gid)> {
    let number = |value: u64| u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its owner is out of range"));
    Ok((Uid::from_raw(number(header.uid()?)?), Gid::from_raw(number(header.gid()?)?)))
}

/// Owner first, since changing it clears the set-user-id bit.
fn set_rights(file: &OwnedFd, header: &tar::Header) -> io::Result<()> {
    let (user, group) = owner(header)?;
    rustix::fs::fchown(file, Some(user), Some(group))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(header.mode()? & 0o7777))?;
    Ok(())
}

/// Extended attributes that an image may carry: file capabilities and those of users. Others (an overlay's own, security
/// labels of another machine) are left out.
fn set_attributes(file: &OwnedFd, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Ok(key) = extension.key() else { continue };
        let Some(name) = key.strip_prefix("SCHILY.xattr.") else { continue };
        if name != "security.capability" && !name.starts_with("user.") {
            continue;
        }
        match rustix::fs::fsetxattr(file, name, extension.value_bytes(), rustix::fs::XattrFlags::empty()) {
            // The file system may have no attributes of users.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Undoes a stream's compression, which is told by its first bytes: media types in the wild are often wrong.
///
/// # Errors
/// Where the beginning cannot be read.
pub fn decompress<'a>(mut stream: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = [0; 4];
    let mut length = 0;
    while length < magic.len() {
        match stream.read(magic.get_mut(length..).unwrap_or_default())? {
            0 => break,
            count => length += count,
        }
    }
    let head = io::Cursor::new(magic.get(..length).unwrap_or_default().to_vec());
    let whole = head.chain(stream);
    Ok(match magic {
        [0x1f, 0x8b, _, _] => Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(64 * 1024, whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// Opens a directory so that everything on its file system can be written to the medium.
///
/// # Errors
/// What the kernel says.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    let directory = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::syncfs(&directory)?)
}
