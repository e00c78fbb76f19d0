//! The built binary as a cluster on this machine, with kubectl beside it.
//!
//! Every cluster has ports, address ranges, directories and a name of its own, and its end leaves no process, mount, link, rule or
//! cgroup behind, also where the test fails.

use std::{
    fs,
    net::TcpListener,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{kubectl::Kubectl, registry::Registry};

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
    kubectl: Kubectl,
    server: Option<Child>,
    /// Further arguments of the server.
    arguments: Vec<String>,
    /// Further variables of its environment.
    environment: Vec<(String, String)>,
}

impl Deref for RealCluster {
    type Target = Kubectl;
    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
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
        let kubectl = Kubectl {
            prefix: Vec::new(),
            kubeconfig: data.join("admin.kubeconfig"),
            directory: directory.path().to_owned(),
            logs: vec![directory.path().join("server.log")],
        };
        let mut cluster = Self {
            kubectl,
            binary: settings.binary.to_owned(),
            name,
            number,
            port: free_port(),
            control_plane_only: settings.control_plane_only,
            directory,
            run_directory: if settings.control_plane_only { PathBuf::new() } else { run_directory },
            server: None,
            arguments: Vec::new(),
            environment: Vec::new(),
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
        command.args(["--cluster-cidr", &format!("10.{}.0.0/16", 110 + self.range())]);
        command.args(["--service-cidr", &format!("10.{}.0.0/16", 180 + self.range())]);
        if self.control_plane_only {
            command.arg("--disable-agent");
        } else {
            command.args(["--node-name", "node-1"]);
        }
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("the knarr binary starts"));
        self.eventually("the API gets ready", || self.try_kubectl(["get", "--raw", "/readyz"]).filter(|body| body.trim() == "ok").map(drop));
        if !self.control_plane_only {
            self.eventually("the node is there", || self.try_kubectl(["get", "node/node-1"]));
            self.kubectl(["wait", "--for=condition=Ready", "node/node-1", "--timeout=180s"]);
        }
    }

    /// Stops the server, and starts it again with these further arguments.
    ///
    /// # Panics
    /// As [`RealCluster::start`].
    pub fn restart_server_with(&mut self, arguments: &[&str]) {
        self.stop_server();
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.start_server();
    }

    /// Stops the server, and starts it again with these further variables in its environment.
    ///
    /// # Panics
    /// As [`RealCluster::start`].
    pub fn restart_server_in(&mut self, environment: &[(&str, &str)]) {
        self.stop_server();
        self.environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.start_server();
    }

    /// What is left of a machine whose power failed and came back: the data directory, as of another boot. Nothing runs; what was in
    /// memory (processes, mounts, rules, `/run`) is gone.
    ///
    /// # Panics
    /// Where the server is not running, or its notes cannot be changed.
    pub fn lose_power(&mut self) {
        self.kill_server();
        self.clean();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot has a name");
        write_instead(&self.data_directory(), boot.trim(), "another-boot");
    }

    /// Tells the server that the machine goes down, and waits until it has ended. Gives whether it ended well.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn power_off(&mut self) -> bool {
        let mut server = self.server.take().expect("a running server");
        kill(Pid::from_raw(i32::try_from(server.id()).expect("a process id")), Signal::SIGPWR).expect("a process of ours");
        server.wait().expect("a process of ours").success()
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

    /// Which of the address ranges are this cluster's: other clusters on this machine, of this process or of another, are not likely to
    /// have the same.
    fn range(&self) -> u32 {
        (std::process::id() * 7 + self.number) % 60
    }

    /// The directory for all boots.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What the server said, of all its starts.
    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// Its name, which is in the paths of everything it runs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's process.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn server_process(&self) -> u32 {
        self.server.as_ref().expect("a running server").id()
    }

    /// The API's port.
    pub fn port(&self) -> u16 {
        self.port
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
        // Pods' routes have the first protocol number, those of Services the second.
        let ranges = [110, 180].map(|first| format!("10.{}.", first + self.range()));
        let ours = |line: &str| ranges.iter().any(|range| line.contains(range.as_str()));
        for protocol in ["75", "76"] {
            run_quietly("ip", &["route", "show", "proto", protocol], |route| {
                let words: Vec<_> = route.split_whitespace().take_while(|word| *word != "proto" && *word != "scope").collect();
                ours(route).then(|| format!("route delete {}", words.join(" ")))
            });
        }
        run_quietly("ip", &["-oneline", "address", "show", "dev", "lo"], |address| {
            let address = address.split_whitespace().nth(3).filter(|address| ours(address))?;
            Some(format!("address delete {address} dev lo"))
        });
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|root| root.path());
        for root in roots.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let cgroup = root.join(format!("knarr-{}", self.name));
            for _ in 0..300 {
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

/// Writes `new` for `old` in every JSON file of a directory.
fn write_instead(directory: &Path, old: &str, new: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a file has a type"));
        if kind.is_dir() {
            write_instead(&path, old, new);
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.contains(old) {
                fs::write(&path, text.replace(old, new)).expect("a record can be written");
            }
        }
    }
}

/// Feeds each line a program prints to `command`, and gives what that makes to the same program.
fn run_quietly(program: &str, words: &[&str], command: impl Fn(&str) -> Option<String>) {
    let Ok(output) = Command::new(program).args(words).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(command) = command(line) {
            let _ = Command::new(program).args(command.split_whitespace()).stderr(Stdio::null()).status();
        }
    }
}

/// Ends processes without a word, and waits until they are gone.
pub fn end(processes: &[i32]) {
    for process in processes {
        let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
    }
    // Whose children they are not, to him the kernel tells nothing; a dead child of somebody who does not look stays as a zombie.
    let lives = |process: &i32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while processes.iter().any(lives) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Living processes whose command line or cgroup names one of the marks; never this one.
pub fn processes_of(marks: &[String]) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let text = |file: &str| fs::read(entry.path().join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let (command, cgroup) = (text("cmdline"), text("cgroup"));
        if text("stat").rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')) {
            continue;
        }
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
