//! The built binary as a cluster on this machine, with kubectl beside it.
//!
//! Every cluster has ports, address ranges, directories and a name of its own, and its end leaves no process, mount, link, rule or
//! cgroup behind, also where the test fails.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::registry::Registry;

/// Numbers of this process's clusters, so that names and ranges differ.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// How a cluster is started.
pub struct Settings<'a> {
    /// The knarr binary.
    pub binary: &'a Path,
    /// A registry that every image is pulled from.
    pub registry: Option<&'a Registry>,
    /// Run no node.
    pub control_plane_only: bool,
}

/// A running cluster of one server.
pub struct RealCluster {
    binary: PathBuf,
    name: String,
    number: u32,
    port: u16,
    control_plane_only: bool,
    directory: tempfile::TempDir,
    run_directory: PathBuf,
    server: Option<Child>,
}

/// Where kubectl is.
///
/// # Panics
/// Where it is in neither place that [`client_program`] looks at.
pub fn kubectl() -> PathBuf {
    client_program("kubectl")
}

/// Where a client is that `cargo xtask clients` fetched: in the folder `KNARR_CLIENTS`, as `cargo xtask test` sets it, or in the cache.
///
/// # Panics
/// Where it is in neither.
pub fn client_program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("KNARR_CLIENTS") {
        return Path::new(&folder).join(name);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"))).expect("HOME is set");
    let path = cache.join("knarr/clients").join(name);
    assert!(path.exists(), "there is no {}: run `cargo xtask clients`", path.display());
    path
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl RealCluster {
    /// Starts a server and waits until it is ready; with a node, until that is Ready too.
    ///
    /// # Panics
    /// Where it does not get ready; the message holds the end of its log.
    pub fn start(settings: &Settings<'_>) -> Self {
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        let directory = tempfile::Builder::new().prefix("knarr-test-").tempdir().expect("a temporary directory");
        let run_directory = Path::new("/run").join(format!("knarr-{name}"));
        let data = directory.path().join("data");
        fs::create_dir_all(&data).expect("a data directory");
        if let Some(registry) = settings.registry {
            let mirrors = format!("mirrors:\n  \"*\":\n    endpoint: [\"http://{}\"]\n", registry.address);
            fs::write(data.join("registries.yaml"), mirrors).expect("registries.yaml");
        }
        let mut cluster = Self {
            binary: settings.binary.to_owned(),
            name,
            number,
            port: free_port(),
            control_plane_only: settings.control_plane_only,
            directory,
            run_directory: if settings.control_plane_only { PathBuf::new() } else { run_directory },
            server: None,
        };
        if cluster.control_plane_only {
            cluster.run_directory = cluster.directory.path().join("run");
        }
        cluster.start_server();
        cluster
    }

    /// Starts the server again, on the same data.
    ///
    /// # Panics
    /// As [`RealCluster::start`].
    pub fn start_server(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        let mut command = Command::new(&self.binary);
        command.arg("server").arg("--data-dir").arg(self.data_directory()).arg("--run-dir").arg(&self.run_directory);
        command.args(["--bind", "0.0.0.0", "--port", &self.port.to_string(), "--cluster-name", &self.name]);
        // Ranges that no other cluster on this machine is likely to use.
        command.args(["--cluster-cidr", &format!("10.{}.0.0/16", 150 + self.number % 40)]);
        command.args(["--service-cidr", &format!("10.{}.0.0/16", 200 + self.number % 40)]);
        if self.control_plane_only {
            command.arg("--disable-agent");
        } else {
            command.args(["--node-name", "node-1"]);
        }
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("the knarr binary starts"));
        self.eventually("the API gets ready", || self.try_kubectl(["get", "--raw", "/readyz"]).filter(|body| body.trim() == "ok").map(drop));
        if !self.control_plane_only {
            self.kubectl(["wait", "--for=condition=Ready", "node/node-1", "--timeout=60s"]);
        }
    }

    /// Kills the server without a word; its pods must go on.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn kill_server(&mut self) {
        let mut server = self.server.take().expect("a running server");
        server.kill().expect("a process of ours");
        server.wait().expect("a process of ours");
    }

    /// Asks the server to stop, and returns how long it took and whether it ended well.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn stop_server(&mut self) -> (Duration, bool) {
        let mut server = self.server.take().expect("a running server");
        let started = Instant::now();
        kill(Pid::from_raw(i32::try_from(server.id()).expect("a process id")), Signal::SIGTERM).expect("a process of ours");
        let status = server.wait().expect("a process of ours");
        (started.elapsed(), status.success())
    }

    /// The directory for all boots.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_directory().join("admin.kubeconfig")
    }

    /// A directory for files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// The API's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(kubectl());
        command.env("KUBECONFIG", self.data_directory().join("admin.kubeconfig")).env("HOME", self.directory.path()).env("NO_PROXY", "*");
        command.stdin(Stdio::null());
        command
    }

    /// What kubectl prints, where it succeeds.
    pub fn try_kubectl<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> Option<String> {
        let output = self.kubectl_command().args(words).output().expect("kubectl starts");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What kubectl prints.
    ///
    /// # Panics
    /// Where it fails; the message holds what it said, and the end of the server's log.
    #[track_caller]
    pub fn kubectl<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> String {
        let mut command = self.kubectl_command();
        command.args(words);
        let output = command.output().expect("kubectl starts");
        assert!(
            output.status.success(),
            "{command:?} failed: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.report()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What kubectl says where it must fail.
    ///
    /// # Panics
    /// Where it succeeds.
    #[track_caller]
    pub fn kubectl_refused<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> String {
        let mut command = self.kubectl_command();
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
        let file = self.directory.path().join("objects.yaml");
        fs::write(&file, objects).expect("a temporary file");
        self.kubectl([OsStr::new("apply"), OsStr::new("-f"), file.as_os_str()])
    }

    /// Waits for what cannot be watched from outside, for a minute at most.
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
            assert!(started.elapsed() < Duration::from_secs(60), "not within a minute: {what}\n{}", self.report());
            // What is waited for here (a port that answers, a counter behind a service) wakes nobody outside of the cluster.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of the server's log and what is in the cluster, for the message of a failing test.
    pub fn report(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
        let look = self.try_kubectl(["get", "pods,events", "-A", "-o", "wide", "--request-timeout=5s"]).unwrap_or_default();
        format!("the end of the server's log:\n{end}\nin the cluster:\n{look}")
    }

    /// Ends every process whose command line or root names the cluster, unmounts, and removes links, tables and cgroups.
    fn clean(&self) {
        let marks = [format!("knarr-{}", self.name), self.directory.path().display().to_string()];
        // Shims are asked by killing what they own first: twice, since a killed parent shows its children.
        for _ in 0..2 {
            for process in processes_of(&marks) {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| marks.iter().any(|mark| path.contains(mark.as_str())));
        for path in ours.collect::<Vec<_>>().into_iter().rev() {
            let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.run_directory);
        run_quietly("nft", &["list", "tables"], |line| {
            let table = line.strip_prefix("table ")?;
            table.contains(&self.name).then(|| format!("delete table {table}"))
        });
        let range = format!("10.{}.", 150 + self.number % 40);
        if let Ok(routes) = Command::new("ip").args(["route", "show", "proto", "75"]).output() {
            for route in String::from_utf8_lossy(&routes.stdout).lines().filter(|route| route.contains(&range)) {
                let words = route.split_whitespace().take_while(|word| *word != "proto");
                let _ = Command::new("ip").args(["route", "delete"]).args(words).stderr(Stdio::null()).status();
            }
        }
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|root| root.path());
        for root in roots.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let cgroup = root.join(format!("knarr-{}", self.name));
            for _ in 0..50 {
                remove_cgroups(&cgroup);
                if !cgroup.exists() {
                    break;
                }
                // The kernel tells nobody when a killed process has left its cgroup.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Feeds each line a program prints to `command`, and gives what that makes to the same program.
fn run_quietly(program: &str, words: &[&str], command: impl Fn(&str) -> Option<String>) {
    let Ok(output) = Command::new(program).args(words).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(command) = command(line) {
            let _ = Command::new(program).arg(command).stderr(Stdio::null()).status();
        }
    }
}

/// Processes whose command line or cgroup names one of the marks; never this one.
fn processes_of(marks: &[String]) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let text = |file: &str| fs::read(entry.path().join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let (command, cgroup) = (text("cmdline"), text("cgroup"));
        let own = u32::try_from(process).is_ok_and(|process| process == std::process::id());
        if !own && marks.iter().any(|mark| command.contains(mark.as_str()) || cgroup.contains(mark.as_str())) {
            found.push(process);
        }
    }
    found
}

/// Removes a cgroup with those below it; only empty ones can be removed, from the lowest up.
fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

impl Drop for RealCluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        self.clean();
    }
}
