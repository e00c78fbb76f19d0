//! What a container left as its last words: a file, or the end of its log.

use std::path::Path;

use container_runtime::{ContainerState, ContainerStatus};

use super::annotations;
use crate::logs::{line::Line, place};

/// Most bytes of a message file.
const MAXIMUM_FILE: usize = 4096;
/// So many parts at the end of its path are the pod's: `UID/containers/NAME/RESTARTS.termination`.
const FILE_PARTS: usize = 4;
/// Most bytes taken from a log.
const MAXIMUM_LOG: usize = 2048;
/// Most lines taken from a log.
const MAXIMUM_LINES: usize = 80;

/// The message of an ended container; empty where it left none.
pub async fn read(container: &ContainerStatus) -> String {
    let ContainerState::Exited { exit, .. } = &container.state else { return String::new() };
    let annotation = |key| container.spec.annotations.get(key).map(String::as_str);
    let message = match annotation(annotations::TERMINATION_MESSAGE_FILE) {
        Some(path) => read_end(Path::new(path), FILE_PARTS, MAXIMUM_FILE).await,
        None => String::new(),
    };
    let falls_back = annotation(annotations::TERMINATION_MESSAGE_POLICY) == Some("FallbackToLogsOnError");
    if !message.is_empty() || !falls_back || exit.code == 0 {
        return message;
    }
    // Lines of the log carry time, stream and tag: more is read than is wanted.
    let log = read_end(&container.log_path, place::PARTS, MAXIMUM_LOG * 4).await;
    let text = last_lines(&log);
    let cut = text.len().saturating_sub(MAXIMUM_LOG);
    let cut = (cut..=text.len()).find(|position| text.is_char_boundary(*position)).unwrap_or(text.len());
    text.get(cut..).unwrap_or_default().to_owned()
}

/// What a container wrote last, out of the end of its log.
fn last_lines(log: &str) -> String {
    let lines: Vec<Line<'_>> = log.lines().filter_map(|line| Line::parse(line.as_bytes())).collect();
    let start = lines.len().saturating_sub(MAXIMUM_LINES);
    let shown = lines.get(start..).unwrap_or_default().iter();
    shown.map(|line| String::from_utf8_lossy(line.text).into_owned() + if line.is_partial { "" } else { "\n" }).collect()
}

async fn read_end(path: &Path, parts: usize, limit: usize) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let path = path.to_owned();
    let read = move || {
        let mut file = place::open(&path, parts)?;
        let length = file.metadata()?.len();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    tokio::task::spawn_blocking(read).await.ok().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_what_was_written_and_no_more() {
        let log = "cut off F x\n2026-01-02T15:04:05Z stdout F one\n2026-01-02T15:04:06Z stderr P two\n";
        assert_eq!(last_lines(log), "one\ntwo");
    }
}
