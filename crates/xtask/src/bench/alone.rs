//! Rows that need a server of their own: what a large cluster, many probed pods and many definitions take, and how soon a mounted file
//! follows its config map.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Measured, Row,
    load::{self, milliseconds},
    server::{Server, Start, eventually},
};
use crate::{
    images,
    shell::{run, say},
};

/// What a full cluster may take.
const FULL_MEBIBYTES: f64 = 4096.0;
/// Pods with probes on one node.
const PROBED: usize = 100;
/// CPU of probed pods is measured for at least this many seconds, so that each is probed a few times.
const PROBED_SECONDS: u64 = 30;
/// How often a config map is changed.
const CHANGES: usize = 11;
/// What starting stirred up is to settle before memory is measured.
const SETTLING: Duration = Duration::from_secs(5);

/// What measuring takes.
pub struct Tools<'a> {
    pub binary: &'a Path,
    pub kubectl: &'a Path,
    /// Builds `knarr-load` where it is needed, and says where it is.
    pub load: fn() -> Result<PathBuf>,
    /// How long load lasts.
    pub seconds: u64,
}

fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}

impl Tools<'_> {
    /// One row's lines.
    pub fn measure(&self, row: Row) -> Result<Vec<Measured>> {
        match row {
            Row::FullCluster => self.full_cluster(),
            Row::ProbedPods => self.probed_pods(),
            Row::Definitions => self.definitions(),
            Row::MountedChange => self.mounted_change(),
        }
    }

    fn start(&self, name: &'static str, arguments: &[&str]) -> Result<Server> {
        let (server, _) = Server::start(&Start { binary: self.binary, kubectl: self.kubectl, name, arguments })?;
        server.ready()?;
        eventually("kubectl works", || server.kubectl(&["get", "namespace", "default"]).is_ok())?;
        Ok(server)
    }

    /// A server with a node, and busybox on it.
    fn start_node(&self, name: &'static str) -> Result<Server> {
        let server = self.start(name, &[])?;
        eventually("the node is there", || server.kubectl(&["get", "node", "bench"]).is_ok())?;
        server.kubectl(&["wait", "--for=condition=Ready", "node/bench", "--timeout=60s"])?;
        for archive in images::ensure(&["busybox"])? {
            run(Command::new(self.binary).args(["image", "import", "--run-dir", &server.run_directory, "--cluster-name", name]).arg(archive))?;
        }
        Ok(server)
    }

    fn full_cluster(&self) -> Result<Vec<Measured>> {
        let (nodes, pods) = (5_000, 150_000);
        say(&format!("filling a cluster with {nodes} nodes and {pods} pods"));
        // Nobody reports for the nodes.
        let mut server = self.start("bench-full", &["--disable-agent", "--node-monitor-grace-period", "36000"])?;
        let took = load::own(&(self.load)()?, &server, &["full", &nodes.to_string(), &pods.to_string()])?;
        let seconds = |name: &str| milliseconds(&took, name) / 1000.0;
        let took = format!("{:.0} s, {:.0} s for the nodes", seconds("pods_ms") + seconds("nodes_ms"), seconds("nodes_ms"));
        std::thread::sleep(SETTLING);
        let filled = (mebibytes(server.memory_kibibytes()), mebibytes(server.anonymous_kibibytes()));
        let started = server.restart()?;
        server.ready()?;
        let ready = started.elapsed();
        say("waiting until the scheduler and the controllers know everything");
        let scheduled = || server.kubectl(&["create", "-n", "full-0", "configmap", "settled"]).is_ok();
        eventually("the API takes writes", scheduled)?;
        self.until_quiet(&server);
        let restarted = (mebibytes(server.memory_kibibytes()), mebibytes(server.anonymous_kibibytes()));
        let told = |(all, anonymous): (f64, f64)| format!("{all:.0} MiB, {anonymous:.0} of them anonymous");
        // Unlike a time, this depends on the machine by little.
        ensure!(filled.0.max(restarted.0) <= FULL_MEBIBYTES, "a full cluster takes {}, and {} after a restart; {FULL_MEBIBYTES} MiB are allowed", told(filled), told(restarted));
        Ok(vec![
            Measured { what: "5000 nodes and 150000 pods, until all are bound and reported", measured: took, target: "" },
            Measured { what: "memory of everything then (PSS)", measured: told(filled), target: "4096 MiB" },
            Measured { what: "the same after a restart", measured: format!("{}, ready after {:.1} s", told(restarted), ready.as_secs_f64()), target: "4096 MiB" },
        ])
    }

    /// Waits until the server has nothing more to do: caches that fill take CPU.
    fn until_quiet(&self, server: &Server) {
        let mut quiet = 0;
        for _ in 0..300 {
            let before = server.ticks();
            std::thread::sleep(Duration::from_secs(1));
            quiet = if server.ticks().saturating_sub(before) < 10 { quiet + 1 } else { 0 };
            if quiet == 3 {
                break;
            }
        }
    }

    fn probed_pods(&self) -> Result<Vec<Measured>> {
        let server = self.start_node("bench-probed")?;
        self.until_quiet(&server);
        let (empty, empty_server) = (mebibytes(server.memory_kibibytes()), mebibytes(server.own_memory_kibibytes()));
        say(&format!("running {PROBED} pods with a probe each"));
        let script = "mkdir -p /www && echo well > /www/index.html && exec /bin/busybox httpd -f -p 8080 -h /www";
        let pod = |number: usize| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("probed-{number}"), "labels": {"app": "probed"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "main", "image": "busybox:knarr", "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script],
                    "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 10},
                }]},
            })
        };
        let list = json!({"apiVersion": "v1", "kind": "List", "items": (0..PROBED).map(pod).collect::<Vec<_>>()});
        let file = server.directory.path().join("pods.json");
        fs::write(&file, list.to_string()).context("cannot write what is to be created")?;
        server.kubectl(&["create", "--filename", &file.to_string_lossy()])?;
        server.kubectl(&["wait", "--for=condition=Ready", "pod", "--selector=app=probed", "--timeout=300s"])?;
        std::thread::sleep(SETTLING);
        let (before, began) = (server.ticks(), Instant::now());
        std::thread::sleep(Duration::from_secs(self.seconds.max(PROBED_SECONDS))); // This is the measurement.
        let share = server.ticks().saturating_sub(before) as f64 / began.elapsed().as_secs_f64();
        let (all, own) = (mebibytes(server.memory_kibibytes()), mebibytes(server.own_memory_kibibytes()));
        let more = format!("{:.0} MiB: {:.0} of the server, {:.0} of shims", all - empty, own - empty_server, (all - own) - (empty - empty_server));
        server.kubectl(&["delete", "pod", "--selector=app=probed", "--wait=true", "--timeout=120s"])?;
        gone(&server)?;
        Ok(vec![
            Measured { what: "100 pods, each probed over HTTP every 10 s: memory of server and shims above an empty node (PSS)", measured: more, target: "100 MiB" },
            Measured { what: "their CPU of server and shims, of one core", measured: format!("{share:.1} %"), target: "2 %" },
        ])
    }

    fn definitions(&self) -> Result<Vec<Measured>> {
        let count = 1000;
        let mut server = self.start("bench-definitions", &["--disable-agent"])?;
        // Both are measured after a start on what is stored.
        server.restart()?;
        server.ready()?;
        std::thread::sleep(SETTLING);
        self.until_quiet(&server);
        let empty = mebibytes(server.memory_kibibytes());
        say(&format!("storing {count} definitions"));
        load::own(&(self.load)()?, &server, &["definitions", &count.to_string()])?;
        let started = server.restart()?;
        server.ready()?;
        let ready = started.elapsed();
        std::thread::sleep(SETTLING);
        self.until_quiet(&server);
        let filled = mebibytes(server.memory_kibibytes());
        Ok(vec![
            Measured { what: "start with 1000 definitions stored", measured: format!("{:.2} s", ready.as_secs_f64()), target: "2 s" },
            Measured { what: "memory that they take after it (PSS)", measured: format!("{:.0} MiB, {empty:.0} without them", filled - empty), target: "100 MiB" },
        ])
    }

    fn mounted_change(&self) -> Result<Vec<Measured>> {
        let server = self.start_node("bench-mounted")?;
        server.kubectl(&["create", "configmap", "mounted", "--from-literal=knarr-bench-mounted=0"])?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mounted"},
            "spec": {
                "terminationGracePeriodSeconds": 0, "volumes": [{"name": "map", "configMap": {"name": "mounted"}}],
                "containers": [{"name": "main", "image": "busybox:knarr", "command": ["/bin/sleep", "3600"], "volumeMounts": [{"name": "map", "mountPath": "/map"}]}],
            },
        });
        let file = server.directory.path().join("pod.json");
        fs::write(&file, pod.to_string()).context("cannot write what is to be created")?;
        server.kubectl(&["create", "--filename", &file.to_string_lossy()])?;
        server.kubectl(&["wait", "--for=condition=Ready", "pod/mounted", "--timeout=120s"])?;
        let mounted = find(&[Path::new(&server.run_directory), server.directory.path()], "knarr-bench-mounted").context("the mounted file is nowhere")?;
        say("changing a config map that is mounted");
        let mut times = Vec::new();
        for change in 1..=CHANGES {
            let wanted = change.to_string();
            let patch = json!({"data": {"knarr-bench-mounted": wanted}}).to_string();
            let asked = Instant::now();
            // The client's own start counts too: it is no more than some hundredths of a second.
            server.kubectl(&["patch", "configmap", "mounted", "--type=merge", &format!("--patch={patch}")])?;
            eventually("the file follows", || fs::read_to_string(&mounted).is_ok_and(|text| text == wanted))?;
            times.push(asked.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let (median, worst) = (times.get(times.len() / 2).copied().unwrap_or(f64::NAN), times.last().copied().unwrap_or(f64::NAN));
        server.kubectl(&["delete", "pod", "mounted", "--wait=true", "--timeout=60s"])?;
        gone(&server)?;
        Ok(vec![Measured { what: "a config map's change is in the mounted file", measured: format!("{median:.2} s, slowest {worst:.2} s"), target: "1 s" }])
    }
}

/// Waits until nothing of the pods is left: the API forgets a pod before its shim has ended.
fn gone(server: &Server) -> Result<()> {
    eventually("the pods' shims are gone", || server.processes().len() == 1)
}

/// The path by which a volume shows a file of this name below one of these folders; links within are followed when it is read.
fn find(folders: &[&Path], name: &str) -> Option<PathBuf> {
    let entries = folders.iter().flat_map(|folder| walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok));
    // The file itself lies in a folder that is exchanged as a whole; the link to it stays.
    entries.into_iter().find(|entry| entry.file_name() == name && entry.path_is_symlink()).map(walkdir::DirEntry::into_path)
}
