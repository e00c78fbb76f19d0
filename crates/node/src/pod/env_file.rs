//! Variables from a file that another container of the pod wrote into a volume (`fileKeyRef`).
//!
//! The file is a container's, so nothing in it is trusted: it is opened below the volume and never beyond it, must be a regular file, and
//! must not be large. Its syntax is a small part of the shell's: `NAME='value'`, where a value may span lines.
//! Source: Kubernetes 1.36, `pkg/kubelet/util/env`.

use std::{io::Read, path::Path};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Largest file, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// The content of a file in a volume; none where there is no such file.
///
/// # Errors
/// It leads out of the volume, is no regular file, is too large, is no text, or cannot be read.
pub fn read(volume: &Path, inside: &str) -> Result<Option<String>, String> {
    let bad = |problem: &dyn std::fmt::Display| format!("could not read environment variable file {inside:?}: {problem}");
    let root = rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|problem| bad(&problem))?;
    // Opening a pipe for reading would wait for somebody who writes.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::openat2(&root, inside, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::XDEV) => return Err(bad(&"it leads out of the volume")),
        Err(problem) => return Err(bad(&problem)),
    };
    let facts = rustix::fs::fstat(&file).map_err(|problem| bad(&problem))?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
        return Err(bad(&"it is no regular file"));
    }
    let mut content = Vec::new();
    std::fs::File::from(file).take(SIZE_LIMIT + 1).read_to_end(&mut content).map_err(|problem| bad(&problem))?;
    if content.len() as u64 > SIZE_LIMIT {
        return Err(bad(&"it is too large"));
    }
    String::from_utf8(content).map(Some).map_err(|_| bad(&"it is no UTF-8 text"))
}

/// The value of a key; none where there is no such key. What stands behind the key is not looked at.
///
/// # Errors
/// A line up to there is not as it must be; upstream's words.
pub fn value(content: &str, key: &str) -> Result<Option<String>, String> {
    let mut lines = content.lines().zip(1_usize..);
    while let Some((line, number)) = lines.next() {
        let bad = |problem: &str| format!("invalid environment variable format at line {number}: {problem}");
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once('=').ok_or_else(|| bad("missing '='"))?;
        if name.is_empty() {
            return Err(bad("empty variable name"));
        }
        if name.ends_with(BLANKS) {
            return Err(bad("whitespace before '=' is not allowed"));
        }
        // As in a shell, a value that does not begin at once is empty.
        if rest.is_empty() || rest.starts_with(BLANKS) {
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let mut rest = rest.strip_prefix('\'').ok_or_else(|| bad("value must be enclosed in single quotes"))?;
        let mut value = String::new();
        let after = loop {
            if let Some((last, after)) = rest.split_once('\'') {
                value.push_str(last);
                break after;
            }
            value.push_str(rest);
            value.push('\n');
            let Some((next, _)) = lines.next() else {
                return Err(format!("invalid environment variable format starting at line {number}: unclosed single quote"));
            };
            rest = next;
        };
        let after = after.trim_start_matches(BLANKS);
        if !after.is_empty() && !after.starts_with('#') {
            return Err(bad("unexpected content after closing quote"));
        }
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

const BLANKS: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn values_stand_in_single_quotes_and_may_span_lines() {
        let content = "# a comment\n\n  A='1'\nB='two words' # why\nC='x\n # y\nz'\nD=\nE= 'late'\nF='$A \\n \"q\"'\nA='again'\n";
        let check = |key: &str, expected: Option<&str>| assert_eq!(value(content, key).unwrap().as_deref(), expected, "{key}");
        check("A", Some("1"));
        check("B", Some("two words"));
        check("C", Some("x\n # y\nz"));
        check("D", Some(""));
        check("E", Some(""));
        check("F", Some("$A \\n \"q\""));
        check("G", None);
        for (content, problem) in [
            ("A", "at line 1: missing '='"),
            ("\nA ='1'", "at line 2: whitespace before '=' is not allowed"),
            ("='1'", "at line 1: empty variable name"),
            ("A=1", "at line 1: value must be enclosed in single quotes"),
            ("A='1'2", "at line 1: unexpected content after closing quote"),
            ("B='1'\nA='1\n2\n", "starting at line 2: unclosed single quote"),
        ] {
            assert_eq!(value(content, "A").unwrap_err(), format!("invalid environment variable format {problem}"));
        }
        assert_eq!(value("A='1'\nnonsense", "A").unwrap().as_deref(), Some("1"), "what follows is not looked at");
    }

    #[test]
    fn nothing_but_a_small_file_of_the_volume_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(&outside, "A='secret'").unwrap();
        std::fs::write(volume.join("f"), "A='1'").unwrap();
        assert_eq!(read(&volume, "f").unwrap().as_deref(), Some("A='1'"));
        assert_eq!(read(&volume, "none").unwrap(), None);
        symlink("f", volume.join("inside")).unwrap();
        assert_eq!(read(&volume, "inside").unwrap().as_deref(), Some("A='1'"));
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("up")).unwrap();
        for name in ["absolute", "up", "../outside"] {
            assert!(read(&volume, name).unwrap_err().contains("leads out of the volume"), "{name}");
        }
        rustix::fs::mknodat(CWD, volume.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert!(read(&volume, "pipe").unwrap_err().contains("no regular file"));
        std::fs::File::create(volume.join("large")).unwrap().set_len(SIZE_LIMIT + 1).unwrap();
        assert!(read(&volume, "large").unwrap_err().contains("too large"));
        std::fs::write(volume.join("bytes"), b"A='\xff'").unwrap();
        assert!(read(&volume, "bytes").unwrap_err().contains("no UTF-8 text"));
    }
}
