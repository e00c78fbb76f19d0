//! A container's log in the format that kubelets read: `TIME stdout|stderr F|P LINE`.
//!
//! `P` marks a piece of a line that goes on in the next entry. Trouble with the file never reaches the container: what
//! cannot be written is lost, and the next write tries again.
//!
//! A pod may be given the directory of logs by a volume of type hostPath, as collectors of logs are: no link that it leaves there is
//! followed, and no pipe waited for. The node takes the same care when it reads (`node/src/logs/place.rs`).

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::timestamp;

/// So many parts at the end of a log's path are the pod's: `POD/CONTAINER/RESTARTS.log`. What is in front of them is the node's.
const PARTS: usize = 3;

/// Longest piece of a line in one entry. Source: the default of containerd's CRI plug-in, `max_container_log_line_size`.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Where a container's output goes.
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// The unfinished lines of output and error.
    unfinished: [Vec<u8>; 2],
}

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Error,
}

impl LogFile {
    /// Opens a log for appending, and makes its directory.
    pub fn open(path: PathBuf) -> Self {
        let mut log = Self { path, file: None, unfinished: [Vec::new(), Vec::new()] };
        log.reopen();
        log
    }

    /// A log that nobody keeps.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), file: None, unfinished: [Vec::new(), Vec::new()] }
    }

    /// Opens the path again, after the old file was renamed away.
    pub fn reopen(&mut self) {
        self.file = if self.path.as_os_str().is_empty() { None } else { open_for_appending(&self.path).ok() };
    }

    /// Takes what a container printed and writes the lines that are whole.
    pub fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        let unfinished = match stream {
            Stream::Output => &mut self.unfinished[0],
            Stream::Error => &mut self.unfinished[1],
        };
        let now = timestamp::now();
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - unfinished.len();
            let window = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
            let (piece, rest, tag) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (bytes.get(..end), bytes.get(end + 1..), Some('F')),
                None => (Some(window), bytes.get(window.len()..), (window.len() == room).then_some('P')),
            };
            unfinished.extend_from_slice(piece.unwrap_or_default());
            bytes = rest.unwrap_or_default();
            if let Some(tag) = tag {
                write_entry(&mut entries, now, stream, tag, unfinished);
                unfinished.clear();
            }
        }
        self.write(&entries);
    }

    /// Writes what is left of an unfinished last line, as a piece: a reader must not see a line end that nobody wrote.
    pub fn finish(&mut self) {
        let now = timestamp::now();
        let mut entries = Vec::new();
        for (stream, unfinished) in [Stream::Output, Stream::Error].into_iter().zip(&mut self.unfinished) {
            if !unfinished.is_empty() {
                write_entry(&mut entries, now, stream, 'P', unfinished);
                *unfinished = Vec::new();
            }
        }
        self.write(&entries);
    }

    fn write(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        if self.file.is_none() {
            self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(entries).is_err()
        {
            // A full disk must not stop the container: the lines are lost, later ones may fit again.
            self.file = None;
        }
    }
}

/// Opens a file through no link among the pod's own parts of its path, and makes what is missing of it.
fn open_for_appending(path: &Path) -> io::Result<File> {
    let root = path.ancestors().nth(PARTS).filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("/"));
    let inside = path.strip_prefix(root).map_err(io::Error::other)?;
    let name = inside.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Failure shows when it is opened.
    drop(std::fs::create_dir_all(root));
    let mut directory = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for part in inside.parent().into_iter().flat_map(Path::components) {
        let part = Path::new(part.as_os_str());
        let open = || rustix::fs::openat2(&directory, part, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS);
        directory = match open() {
            Err(rustix::io::Errno::NOENT) => {
                // Somebody else may be faster.
                let _ = rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o777));
                open()?
            }
            other => other?,
        };
    }
    // A pipe that nobody reads is refused, instead of waited for.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o640))?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)) }
}

fn write_entry(out: &mut Vec<u8>, now: std::time::Duration, stream: Stream, tag: char, line: &[u8]) {
    timestamp::write(now, out);
    out.extend_from_slice(match stream {
        Stream::Output => b" stdout ",
        Stream::Error => b" stderr ",
    });
    out.extend_from_slice(if tag == 'F' { b"F " } else { b"P " });
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(feed: impl FnOnce(&mut LogFile)) -> Vec<String> {
        let directory = std::env::temp_dir().join(format!("knarr-log-{}-{:?}", std::process::id(), std::thread::current().id()));
        let path = directory.join("web/0.log");
        let mut log = LogFile::open(path.clone());
        feed(&mut log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        // The time in front has a fixed width.
        text.lines().map(|line| line[31..].to_owned()).collect()
    }

    #[test]
    fn lines_are_tagged_with_their_stream() {
        let lines = lines_of(|log| {
            log.take(Stream::Output, b"a\nb");
            log.take(Stream::Error, b"oops\n");
            log.take(Stream::Output, b"c\n\n");
        });
        assert_eq!(lines, ["stdout F a", "stderr F oops", "stdout F bc", "stdout F "]);
    }

    #[test]
    fn a_long_line_is_written_in_pieces() {
        let lines = lines_of(|log| log.take(Stream::Output, format!("{}z\n", "x".repeat(2 * MAX_LINE_BYTES)).as_bytes()));
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("stdout P x") && lines[1].starts_with("stdout P x"));
        assert_eq!(lines[2], "stdout F z");
    }

    #[test]
    fn nothing_is_written_where_a_pod_would_lead_it() {
        let directory = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (directory.path().join("logs"), directory.path().join("elsewhere"));
        std::fs::create_dir_all(root.join("pod")).unwrap();
        std::fs::create_dir_all(elsewhere.join("c")).unwrap();
        std::fs::write(elsewhere.join("0.log"), "").unwrap();
        let log = |path: &str| {
            let mut log = LogFile::open(root.join(path));
            log.take(Stream::Output, b"a line\n");
        };
        std::os::unix::fs::symlink(&elsewhere, root.join("pod/c")).unwrap();
        log("pod/c/0.log");
        std::os::unix::fs::symlink(&elsewhere, root.join("linked-pod")).unwrap();
        log("linked-pod/c/0.log");
        std::fs::create_dir(root.join("pod/d")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("0.log"), root.join("pod/d/0.log")).unwrap();
        log("pod/d/0.log");
        std::os::unix::fs::symlink(elsewhere.join("new.log"), root.join("pod/d/1.log")).unwrap();
        log("pod/d/1.log");
        // Nobody reads it: who waited for that would wait for ever.
        rustix::fs::mkfifoat(CWD, root.join("pod/d/2.log"), Mode::from_raw_mode(0o600)).unwrap();
        log("pod/d/2.log");
        assert_eq!(std::fs::read_to_string(elsewhere.join("0.log")).unwrap(), "");
        assert!(!elsewhere.join("new.log").exists() && !elsewhere.join("c/0.log").exists());
        // The node's own part may be a link.
        std::os::unix::fs::symlink(&root, directory.path().join("var")).unwrap();
        LogFile::open(directory.path().join("var/pod/e/0.log")).take(Stream::Output, b"a line\n");
        assert!(std::fs::read_to_string(root.join("pod/e/0.log")).unwrap().ends_with("stdout F a line\n"));
    }

    #[test]
    fn a_last_line_without_an_end_is_not_lost() {
        let lines = lines_of(|log| {
            log.take(Stream::Output, b"no end");
            log.finish();
        });
        assert_eq!(lines, ["stdout P no end"]);
    }
}
