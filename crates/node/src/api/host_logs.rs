//! `/logs/`: the machine's own log files, for `kubectl get --raw` and support tools.
//!
//! The kernel opens the file, below the log directory and through no link at all: a pod that may write there must not be
//! able to show its reader any other file of the machine.

use std::{fs::File, io::Read, path::Path};

use http::{Response, StatusCode};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use super::{Body, answer as with_type, full, text};

const DIRECTORY: &str = "/var/log";
/// Bytes of a file's end that are shown.
const MOST: u64 = 16 * 1024 * 1024;

/// Answers with a file's content, or the names in a directory.
pub async fn answer(inside: &str) -> Response<Body> {
    let inside = inside.to_owned();
    match tokio::task::spawn_blocking(move || read(Path::new(DIRECTORY), &inside)).await {
        Ok(Ok((content_type, bytes))) => with_type(StatusCode::OK, content_type, full(bytes)),
        Ok(Err(problem)) if problem.kind() == std::io::ErrorKind::NotFound => text(StatusCode::NOT_FOUND, "404 page not found"),
        Ok(Err(problem)) => text(StatusCode::FORBIDDEN, format!("this log cannot be shown: {problem}")),
        Err(problem) => text(StatusCode::INTERNAL_SERVER_ERROR, problem.to_string()),
    }
}

fn read(directory: &Path, inside: &str) -> std::io::Result<(&'static str, Vec<u8>)> {
    let root = rustix::fs::openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let wanted = if inside.is_empty() { "." } else { inside };
    // Without waiting: a pipe in the log directory must not hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = File::from(rustix::fs::openat2(&root, wanted, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?);
    let facts = file.metadata()?;
    if facts.is_dir() {
        // What was opened, whatever its path leads to by now.
        let entries = rustix::fs::Dir::read_from(&file)?.flatten().filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
        let mut names: Vec<String> =
            entries.map(|entry| escaped(&entry.file_name().to_string_lossy()) + if entry.file_type() == FileType::Directory { "/" } else { "" }).collect();
        names.sort();
        let links: String = names.iter().map(|name| format!("<a href=\"{name}\">{name}</a>\n")).collect();
        return Ok(("text/html; charset=utf-8", format!("<pre>\n{links}</pre>\n").into_bytes()));
    }
    if !facts.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(facts.len().saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(("text/plain; charset=utf-8", bytes))
}

/// A name as text within HTML: whoever may write to the log directory must not write scripts for its reader.
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shown_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir(path.join("deep")).unwrap();
        std::fs::write(path.join("deep/a.log"), "line\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path.join("stolen")).unwrap();
        assert_eq!(read(path, "deep/a.log").unwrap().1, b"line\n");
        assert_eq!(String::from_utf8(read(path, "").unwrap().1).unwrap(), "<pre>\n<a href=\"deep/\">deep/</a>\n<a href=\"stolen\">stolen</a>\n</pre>\n");
        for bad in ["stolen", "../etc/passwd", "/etc/passwd"] {
            assert!(read(path, bad).is_err(), "{bad}");
        }
        assert_eq!(read(path, "none").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
