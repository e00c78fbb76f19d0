//! Reading a log: from some time or some lines before its end, up to some bytes, and on as it grows.
//! Source of the rules: Kubernetes 1.36, `pkg/kubelet/kuberuntime/logs`.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
};

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, unix::AsyncFd},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{line::Line, place};

const BLOCK: usize = 32 * 1024;
/// A line longer than this is passed on in pieces; the runtime writes at most 16 KiB in one.
const LONGEST_LINE: usize = 1024 * 1024;

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Go on as it grows.
    pub follow: bool,
    /// Nothing from before.
    pub since: Option<Timestamp>,
    /// Only that many lines at its end.
    pub tail: Option<u64>,
    /// The time before each line.
    pub timestamps: bool,
    /// No more bytes than that.
    pub limit_bytes: Option<u64>,
    /// Only standard output (`false`) or standard error (`true`).
    pub only_errors: Option<bool>,
}

/// Reads a log and sends what is wanted of it. Ends when the log does (or, following, when `ended` is cancelled and all
/// was read), at the limit, or when nobody receives any more.
///
/// # Errors
/// The log cannot be read.
pub async fn read(path: &Path, wanted: &Wanted, ended: CancellationToken, send: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let growth = if wanted.follow { Some(Growth::watch(path)?) } else { None };
    let mut file = open_when_there(path, growth.as_ref(), &ended).await?;
    if let Some(lines) = wanted.tail {
        let start = start_of_last_lines(&mut file, lines).await?;
        file.seek(io::SeekFrom::Start(start)).await?;
    }
    let mut output = Output { wanted, left: wanted.limit_bytes, at_line_start: true, buffer: Vec::new() };
    let mut pending = Vec::new();
    let mut block = vec![0; BLOCK];
    loop {
        // Asked before reading: what was written before the end is then read for certain.
        let is_last_round = ended.is_cancelled();
        loop {
            let count = file.read(&mut block).await?;
            if count == 0 {
                break;
            }
            pending.extend_from_slice(block.get(..count).unwrap_or_default());
            let wants_more = output.take_lines(&mut pending);
            if !output.flush(send).await || !wants_more {
                return Ok(());
            }
        }
        let Some(growth) = &growth else { break };
        if is_rotated(&file, path).await {
            file = open(path).await?;
            continue;
        }
        if is_last_round {
            break;
        }
        tokio::select! {
            grown = growth.wait() => grown?,
            () = ended.cancelled() => {}
            () = send.closed() => return Ok(()),
        }
    }
    if !pending.is_empty() {
        // The last line is not finished: it is shown as far as it goes.
        pending.push(b'\n');
        output.take_lines(&mut pending);
        output.flush(send).await;
    }
    Ok(())
}

async fn open(path: &Path) -> io::Result<File> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || place::open(&path, place::PARTS)).await.map_err(io::Error::other)?.map(File::from_std)
}

async fn open_when_there(path: &Path, growth: Option<&Growth>, ended: &CancellationToken) -> io::Result<File> {
    loop {
        match (open(path).await, growth) {
            (Err(problem), Some(growth)) if problem.kind() == io::ErrorKind::NotFound && !ended.is_cancelled() => {
                tokio::select! {
                    grown = growth.wait() => grown?,
                    () = ended.cancelled() => {}
                }
            }
            (result, _) => return result,
        }
    }
}

/// What has become of the lines so far.
struct Output<'a> {
    wanted: &'a Wanted,
    left: Option<u64>,
    at_line_start: bool,
    buffer: Vec<u8>,
}

impl Output<'_> {
    /// Takes all whole lines from the front; gives whether more is wanted.
    fn take_lines(&mut self, pending: &mut Vec<u8>) -> bool {
        let mut start = 0;
        while let Some(length) = pending.get(start..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            let line = pending.get(start..start + length).unwrap_or_default();
            start += length + 1;
            if !self.take_line(line) {
                return false;
            }
        }
        pending.drain(..start);
        if pending.len() > LONGEST_LINE {
            pending.clear();
        }
        true
    }

    fn take_line(&mut self, line: &[u8]) -> bool {
        let Some(line) = Line::parse(line) else { return true };
        if self.wanted.only_errors.is_some_and(|errors| errors != line.is_error) {
            return true;
        }
        if let Some(since) = self.wanted.since
            && line.timestamp().is_none_or(|time| time < since)
        {
            return true;
        }
        let mut shown = Vec::with_capacity(line.text.len() + line.time.len() + 2);
        if self.wanted.timestamps && self.at_line_start {
            shown.extend_from_slice(line.time);
            shown.push(b' ');
        }
        shown.extend_from_slice(line.text);
        if !line.is_partial {
            shown.push(b'\n');
        }
        self.at_line_start = !line.is_partial;
        if let Some(left) = &mut self.left {
            let allowed = usize::try_from(*left).unwrap_or(usize::MAX).min(shown.len());
            shown.truncate(allowed);
            *left -= u64::try_from(allowed).unwrap_or(0);
            self.buffer.extend_from_slice(&shown);
            return *left > 0;
        }
        self.buffer.extend_from_slice(&shown);
        true
    }

    async fn flush(&mut self, send: &mpsc::Sender<Bytes>) -> bool {
        let bytes = std::mem::take(&mut self.buffer);
        let is_full = self.left == Some(0);
        (bytes.is_empty() || send.send(bytes.into()).await.is_ok()) && !is_full
    }
}

/// Where the last lines of a file begin.
async fn start_of_last_lines(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(io::SeekFrom::End(0)).await?;
    let mut position = end;
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while position > 0 {
        let length = position.min(BLOCK as u64);
        position -= length;
        file.seek(io::SeekFrom::Start(position)).await?;
        let part = block.get_mut(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
        file.read_exact(part).await?;
        for (index, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' {
                // The end of the last line is not the beginning of another one.
                let after = position + index as u64 + 1;
                if found == lines && after < end || lines == 0 {
                    return Ok(after);
                }
                found += 1;
                if found > lines {
                    return Ok(after);
                }
            }
        }
    }
    Ok(0)
}

/// Whether another file has taken the path: the log was rotated.
async fn is_rotated(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let there = async { open(path).await?.metadata().await };
    match (file.metadata().await, there.await) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) != (there.dev(), there.ino()),
        _ => false,
    }
}

/// Tells when files of a directory grow or appear.
struct Growth {
    events: AsyncFd<OwnedFd>,
}

impl Growth {
    fn watch(path: &Path) -> io::Result<Self> {
        let directory = place::directory(path, place::PARTS)?;
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&events, place::path_of(&directory), what)?;
        // SAFETY: the descriptor is owned, so it is open and stays the same until the `AsyncFd` is dropped.
        let events = unsafe { AsyncFd::register(events) }.map_err(|problem| io::Error::other(problem.to_string()))?;
        Ok(Self { events })
    }

    /// Waits for a change since the last wait.
    async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            let mut buffer = [0u8; 4096];
            // What changed does not matter, only that something did: one wake for all that is queued.
            match ready.try_io(|events| Ok(rustix::io::read(events.get_ref(), &mut buffer)?)) {
                Ok(result) => return result.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::PathBuf};

    use super::*;

    fn log(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let text: String = lines.iter().enumerate().map(|(second, line)| format!("2026-01-02T15:04:{second:02}.5Z {line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[track_caller]
    fn check(wanted: Wanted, expected: &str) {
        let lines = ["stdout F one", "stderr F two", "stdout P thr", "stdout F ee", "stdout F four"];
        let (_directory, path) = log(&lines);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(async {
            let (send, mut receive) = mpsc::channel(100);
            read(&path, &wanted, CancellationToken::new(), &send).await.unwrap();
            drop(send);
            let mut all = Vec::new();
            while let Some(bytes) = receive.recv().await {
                all.extend_from_slice(&bytes);
            }
            String::from_utf8(all).unwrap()
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn parts_of_a_log_are_found() {
        let all = Wanted::default;
        check(all(), "one\ntwo\nthree\nfour\n");
        check(Wanted { tail: Some(1), ..all() }, "four\n");
        check(Wanted { tail: Some(2), ..all() }, "ee\nfour\n");
        check(Wanted { tail: Some(0), ..all() }, "");
        check(Wanted { tail: Some(99), ..all() }, "one\ntwo\nthree\nfour\n");
        check(Wanted { since: Some("2026-01-02T15:04:02Z".parse().unwrap()), ..all() }, "three\nfour\n");
        check(Wanted { limit_bytes: Some(5), ..all() }, "one\nt");
        check(Wanted { only_errors: Some(true), ..all() }, "two\n");
        check(Wanted { timestamps: true, tail: Some(3), ..all() }, "2026-01-02T15:04:02.5Z three\n2026-01-02T15:04:04.5Z four\n");
    }

    #[tokio::test]
    async fn a_growing_log_is_followed_over_rotation_until_its_container_ends() {
        let (directory, path) = log(&["stdout F one"]);
        let (send, mut receive) = mpsc::channel(1);
        let ended = CancellationToken::new();
        let (end, place) = (ended.clone(), path.clone());
        let reading = tokio::spawn(async move { read(&place, &Wanted { follow: true, ..Wanted::default() }, end, &send).await });
        assert_eq!(receive.recv().await.unwrap(), "one\n");
        let append = |text: &str| {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
            writeln!(file, "2026-01-02T15:05:00Z stdout F {text}").unwrap();
        };
        append("two");
        assert_eq!(receive.recv().await.unwrap(), "two\n");
        std::fs::rename(&path, directory.path().join("0.log.old")).unwrap();
        append("three");
        assert_eq!(receive.recv().await.unwrap(), "three\n");
        append("four");
        ended.cancel();
        assert_eq!(receive.recv().await.unwrap(), "four\n");
        assert!(receive.recv().await.is_none());
        reading.await.unwrap().unwrap();
    }
}
