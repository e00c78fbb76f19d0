//! A machine for a test: network and mounts of its own, so that everything a program leaves behind in them can be seen.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// Lives until dropped.
pub struct Machine {
    holder: Child,
}

impl Machine {
    /// A machine with nothing but its loopback link, which forwards no packets; its files are those of this one.
    ///
    /// # Panics
    /// Where namespaces cannot be made.
    pub fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward && ip link set lo up && echo up && exec sleep infinity"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux starts");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "up\n", "a network and a mount namespace can be made here");
        Self { holder }
    }

    /// What stands before a command to run it there.
    pub fn prefix(&self) -> Vec<OsString> {
        ["nsenter", "--target", &self.holder.id().to_string(), "--net", "--mount", "--"].map(OsString::from).to_vec()
    }

    /// What a command prints there.
    ///
    /// # Panics
    /// Where it fails.
    #[track_caller]
    pub fn output(&self, words: &[&str]) -> String {
        let prefix = self.prefix();
        let mut all = prefix.iter().cloned().chain(words.iter().map(OsString::from));
        let output = Command::new(all.next().expect("a program")).args(all).output().expect("nsenter of util-linux starts");
        assert!(output.status.success(), "{words:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
