//! `cargo xtask bench`: what knarr costs and how fast it is, as a table beside what it is meant to reach.
//!
//! A benchmark, not a test: numbers depend on the machine, and nothing fails for being slow. Load comes from `wrk` over TLS with
//! keep-alive, with the token of a service account whose rights are checked at each request.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::{
    clients, packages, places,
    shell::{cargo, output, run, say},
};

/// What `cargo xtask bench` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// `json` for scripts.
    #[arg(short, long)]
    output: Option<String>,
    /// Measure this binary rather than build one.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Seconds that load and idling are measured for.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Measured {
    what: &'static str,
    measured: String,
    target: &'static str,
}

/// The server being measured, ended with this value.
struct Server {
    process: Child,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    run_directory: String,
    _directory: tempfile::TempDir,
}

const PORT: &str = "16543";

impl Server {
    fn kubectl(&self, words: &[&str]) -> Result<String> {
        output(Command::new(&self.kubectl).args(words).env("KUBECONFIG", &self.kubeconfig).env("NO_PROXY", "*"))
    }

    /// The server and the shims it started, without what serves the measurement.
    fn processes(&self) -> Vec<u32> {
        let mark = self.run_directory.clone();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = entries.filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(&mark).then_some(process)
        });
        ours.filter(|process| *process != std::process::id()).collect()
    }

    fn memory_kibibytes(&self) -> u64 {
        let of = |process: &u32| {
            let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().split(' ').next()?.parse::<u64>().ok())
        };
        self.processes().iter().filter_map(of).sum()
    }

    /// Clock ticks used so far; a hundred a second.
    fn ticks(&self) -> u64 {
        let of = |process: &u32| {
            let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let fields: Vec<&str> = text.rsplit(") ").next()?.split(' ').collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        self.processes().iter().filter_map(of).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        // A server that stops leaves what its pods need; here are none, so everything may go.
        let _ = Command::new("umount").args(["--lazy", &format!("{}/bench/runtime", self.run_directory)]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.run_directory);
        for table in ["knarr-bench-bench-pods", "knarr-bench-bench-services"] {
            let _ = Command::new("nft").args(["delete", "table", "inet", table]).stderr(Stdio::null()).status();
        }
        let _ = Command::new("ip").args(["route", "delete", "unreachable", "10.190.0.0/24"]).stderr(Stdio::null()).status();
        let cgroups = "for group in /sys/fs/cgroup/*/knarr-bench /sys/fs/cgroup/knarr-bench; do [ -d $group ] && find $group -depth -type d -exec rmdir {} +; done";
        let _ = Command::new("sh").args(["-c", cgroups]).stderr(Stdio::null()).status();
    }
}

fn eventually(what: &str, mut look: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !look() {
        if started.elapsed() > Duration::from_secs(60) {
            bail!("{what}: not within a minute");
        }
        // Short, since this interval is the error of what is measured.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Requests a second, and the slowest of a hundred, as wrk says it.
fn load(connections: u32, seconds: u64, token: &str, path: &str, script: Option<&Path>) -> Result<String> {
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", &connections.to_string(), "--duration", &format!("{seconds}s"), "--latency"]);
    wrk.args(["--header", &format!("Authorization: Bearer {token}")]);
    if let Some(script) = script {
        wrk.arg("--script").arg(script);
    }
    let said = output(wrk.arg(format!("https://127.0.0.1:{PORT}{path}")))?;
    let after = |mark: &str| said.lines().find_map(|line| line.trim().strip_prefix(mark)).map(|rest| rest.trim().to_owned());
    let rate: f64 = after("Requests/sec:").and_then(|rate| rate.parse().ok()).context("wrk printed no rate")?;
    let refused = after("Non-2xx or 3xx responses:").map(|count| format!(", {count} refused")).unwrap_or_default();
    Ok(format!("{rate:.0} /s, p99 {}{refused}", after("99%").unwrap_or_default()))
}

/// Measures, and prints the table.
///
/// # Errors
/// Where the server does not start, or a tool is missing.
pub fn measure(arguments: &Arguments) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::RUN)?;
    packages::ensure(&["wrk", "curl"])?;
    let clients = clients::ensure()?;
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => {
            say("building the release binary");
            run(cargo().current_dir(places::workspace()).args(["build", "--release", "-p", "knarr"]))?;
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| places::workspace().join("target"), |folder| places::workspace().join(folder));
            target.join("release/knarr")
        }
    };
    let mut table = Vec::new();
    let mut note = |what, measured: String, target| table.push(Measured { what, measured, target });

    let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
    let kubeconfig = directory.path().join("data/admin.kubeconfig");
    let run_directory = format!("/run/knarr-bench-{}", std::process::id());
    say("starting a server with an empty data directory");
    let log = fs::File::create(directory.path().join("log")).context("cannot write a log")?;
    let started = Instant::now();
    let mut command = Command::new(&binary);
    command.arg("server").arg("--data-dir").arg(directory.path().join("data")).args(["--run-dir", &run_directory, "--port", PORT]);
    command.args(["--cluster-name", "bench", "--node-name", "bench", "--cluster-cidr", "10.190.0.0/16", "--service-cidr", "10.191.0.0/16"]);
    let process = command.stdin(Stdio::null()).stderr(log).spawn().with_context(|| format!("cannot start {}", binary.display()))?;
    let server = Server { process, kubectl: clients.kubectl, kubeconfig, run_directory, _directory: directory };
    let probe = format!("https://127.0.0.1:{PORT}/readyz");
    let curl = |words: &[&str]| output(Command::new("curl").args(["--silent", "--insecure", "--fail", "--noproxy", "*"]).args(words));
    eventually("the API is ready", || curl(&[&probe]).is_ok())?;
    note("exec to /readyz", format!("{:.2} s", started.elapsed().as_secs_f64()), "0.6 s");
    eventually("kubectl works", || server.kubectl(&["get", "node", "bench"]).is_ok())?;
    server.kubectl(&["wait", "--for=condition=Ready", "node/bench", "--timeout=60s"])?;
    note("exec to node Ready, as kubectl sees it", format!("{:.2} s", started.elapsed().as_secs_f64()), "1.0 s");

    say(&format!("idling for {} s", arguments.seconds));
    std::thread::sleep(Duration::from_secs(5)); // What starting stirred up is to settle before idling is measured.
    let before = server.ticks();
    std::thread::sleep(Duration::from_secs(arguments.seconds)); // This is the measurement.
    let used = server.ticks().saturating_sub(before);
    note("idle CPU, of one core", format!("{:.1} %", used as f64 / arguments.seconds as f64), "1 %");
    note("idle memory of everything (PSS)", format!("{:.0} MiB", server.memory_kibibytes() as f64 / 1024.0), "80 MiB");

    server.kubectl(&["create", "serviceaccount", "load"])?;
    server.kubectl(&["create", "clusterrolebinding", "load", "--clusterrole=cluster-admin", "--serviceaccount=default:load"])?;
    let token = server.kubectl(&["create", "token", "load", "--duration=1h"])?.trim().to_owned();
    server.kubectl(&["create", "configmap", "one", &format!("--from-literal=key={}", "x".repeat(1024))])?;
    say("reading one object");
    note("GET one object, 16 connections", load(16, arguments.seconds, &token, "/api/v1/namespaces/default/configmaps/one", None)?, "15000 /s");
    for (connections, what, target) in [(16, "durable CREATE of 1 KiB, 16 clients", "4000 /s, p99 10 ms"), (64, "durable CREATE of 1 KiB, 64 clients", "8000 /s")] {
        say(&format!("creating objects from {connections} connections"));
        let namespace = format!("load-{connections}");
        server.kubectl(&["create", "namespace", &namespace])?;
        let script = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
        let body = format!(r#"{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"c%d\"}},\"data\":{{\"key\":\"{}\"}}}}"#, "x".repeat(1024));
        let lua = format!("local n = 0\nwrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\nfunction request()\n n = n + 1\n return wrk.format(nil, nil, nil, string.format(\"{body}\", n))\nend\n");
        fs::write(script.path(), lua).context("cannot write the load script")?;
        note(what, load(connections, arguments.seconds, &token, &format!("/api/v1/namespaces/{namespace}/configmaps"), Some(script.path()))?, target);
    }
    let header = format!("Authorization: Bearer {token}");
    let list = format!("https://127.0.0.1:{PORT}/api/v1/namespaces/load-16/configmaps?limit=5000");
    let mut times = Vec::new();
    for _ in 0..5 {
        let said = curl(&["--header", &header, "--output", "/dev/null", "--write-out", "%{time_pretransfer} %{time_total}", &list])?;
        let mut numbers = said.split(' ').filter_map(|number| number.parse::<f64>().ok());
        if let (Some(connected), Some(total)) = (numbers.next(), numbers.next()) {
            times.push((total - connected) * 1000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    note("LIST 5000 objects of 1 KiB (median)", times.get(times.len() / 2).map_or("not measured".to_owned(), |time| format!("{time:.0} ms")), "15 ms");
    let size = fs::metadata(&binary).map(|found| found.len()).unwrap_or_default();
    note("binary", format!("{:.1} MB", size as f64 / 1e6), "40 MB");

    if arguments.output.as_deref() == Some("json") {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        println!("\n{:<42} {:<34} target", "what", "measured");
        for line in &table {
            println!("{:<42} {:<34} {}", line.what, line.measured, line.target);
        }
    }
    Ok(())
}
