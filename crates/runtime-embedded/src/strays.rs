//! Processes that nobody answers for any more: shims whose agent died before it wrote down which they are, and helpers whose
//! shim was killed. A helper that is half-way through would go on to make cgroups and mounts of a sandbox that is being removed.
//!
//! A shim is known by the directory it works in, its sandbox's; a helper, which changes directories, by where its messages go.

use std::{path::Path, time::Duration};

use crate::sandbox::ProcessIdentity;

/// How often to look again at most. A killed process is gone after a moment, and starts no others.
const ROUNDS: usize = 200;

/// Kills the processes that belong to a sandbox's directory, until a look finds none.
pub fn kill_all_in(directory: &Path) {
    for _ in 0..ROUNDS {
        let found = processes_in(directory);
        if found.is_empty() {
            return;
        }
        for process in found {
            process.kill();
        }
        // The kernel needs a moment, and has no event for the end of processes that are not our children.
        std::thread::sleep(Duration::from_millis(2));
    }
    tracing::warn!(path = %directory.display(), "processes that were killed long ago are still there");
}

fn processes_in(directory: &Path) -> Vec<ProcessIdentity> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        // Zombies work nowhere and write nowhere, so they do not count.
        let belongs = |place: &str| std::fs::read_link(entry.path().join(place)).is_ok_and(|place| place.starts_with(directory));
        if let Some(identity) = pid.and_then(ProcessIdentity::of)
            && (belongs("cwd") || belongs("fd/1"))
        {
            found.push(identity);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_in_a_directory_or_writes_there_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").current_dir(&path).spawn().unwrap();
        let log = std::fs::File::create(path.join("helper.log")).unwrap();
        let mut writer = std::process::Command::new("sleep").arg("1000").stdout(log).spawn().unwrap();
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        kill_all_in(&path);
        for ended in [child.wait().unwrap(), writer.wait().unwrap()] {
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
        }
        assert!(other.try_wait().unwrap().is_none(), "others are left alone");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
