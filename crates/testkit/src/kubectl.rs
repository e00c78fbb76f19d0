//! The real kubectl against a cluster of a test.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// kubectl with a kubeconfig.
pub struct Kubectl {
    /// What stands before it on the command line, to run it somewhere else.
    pub prefix: Vec<OsString>,
    /// The kubeconfig.
    pub kubeconfig: PathBuf,
    /// A directory for files of the test, which is kubectl's home too.
    pub directory: PathBuf,
    /// Logs whose ends are shown where something fails.
    pub logs: Vec<PathBuf>,
}

fn cached(folder: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"))).expect("HOME is set");
    cache.join("knarr").join(folder)
}

/// Where a client is that `cargo xtask clients` fetched: in the folder `KNARR_CLIENTS`, as `cargo xtask test` sets it, or in the cache.
///
/// # Panics
/// Where it is in neither.
pub fn client_program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("KNARR_CLIENTS") {
        return Path::new(&folder).join(name);
    }
    let path = cached("clients").join(name);
    assert!(path.exists(), "there is no {}: run `cargo xtask clients`", path.display());
    path
}

/// Where kubectl is.
///
/// # Panics
/// As [`client_program`].
pub fn kubectl() -> PathBuf {
    client_program("kubectl")
}

/// An image archive that `cargo xtask images` made.
///
/// # Panics
/// Where it is not there.
pub fn image_archive(name: &str) -> PathBuf {
    let path = cached("images").join(format!("{name}.tar"));
    assert!(path.is_file(), "there is no {}: run `cargo xtask images`", path.display());
    path
}

impl Kubectl {
    /// The command, for what the methods below do not do.
    pub fn command(&self) -> Command {
        let program = kubectl();
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or(OsStr::new("kubectl")));
        command.args(words);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.directory).env("NO_PROXY", "*");
        command.stdin(Stdio::null());
        command
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// A directory for files of the test.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What kubectl prints, where it succeeds.
    pub fn try_kubectl<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> Option<String> {
        let output = self.command().args(words).output().expect("kubectl starts");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What kubectl prints.
    ///
    /// # Panics
    /// Where it fails; the message holds what it said, and the end of the logs.
    #[track_caller]
    pub fn kubectl<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> String {
        let mut command = self.command();
        command.args(words);
        let output = command.output().expect("kubectl starts");
        assert!(output.status.success(), "{command:?} failed: {}\n{}", String::from_utf8_lossy(&output.stderr), self.report());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What kubectl says where it must fail.
    ///
    /// # Panics
    /// Where it succeeds.
    #[track_caller]
    pub fn kubectl_refused<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> String {
        let mut command = self.command();
        command.args(words);
        let output = command.output().expect("kubectl starts");
        assert!(!output.status.success(), "{command:?} should have failed; it printed {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Applies objects in YAML.
    ///
    /// # Panics
    /// Where they are refused.
    #[track_caller]
    pub fn apply(&self, objects: &str) -> String {
        let file = self.directory.join("objects.yaml");
        fs::write(&file, objects).expect("a temporary file");
        self.kubectl([OsStr::new("apply"), OsStr::new("-f"), file.as_os_str()])
    }

    /// Waits for what cannot be watched from outside, for three minutes at most: far longer than it takes on a slow and busy machine.
    ///
    /// # Panics
    /// Where it does not come.
    #[track_caller]
    pub fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(180), "not within three minutes: {what}\n{}", self.report());
            // What is waited for here (a port that answers, a counter behind a service) wakes nobody outside of the cluster.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The ends of the logs, and what is in the cluster.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for path in &self.logs {
            let log = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
            text.push_str(&format!("the end of {}:\n{end}\n", path.display()));
        }
        let look = self.try_kubectl(["get", "nodes,pods,events", "-A", "-o", "wide", "--request-timeout=5s"]).unwrap_or_default();
        format!("{text}in the cluster:\n{look}")
    }
}
