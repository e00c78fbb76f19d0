//! How fast waiting pods get nodes: pods are created while no scheduler is responsible for them, then the server is started anew
//! with one, and the time from the first binding to the last is taken. Every binding is durable when it counts.
//!
//! Nodes are objects that report to be ready and that nobody stands behind, so this measures the control plane alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::placement;
use crate::shell::{output, say};

/// What is measured.
pub struct Case {
    /// Nodes.
    pub nodes: usize,
    /// Waiting pods of no wishes, of those that are spread over zones (hard), and of those that are apart on hosts (required).
    pub plain: usize,
    /// See there.
    pub spread: usize,
    /// See there.
    pub apart: usize,
    /// How many of the nodes that fit are scored at most, in hundredths of all nodes.
    pub scored_percent: usize,
}

/// Many alike, on few nodes.
pub const SMALL: Case = Case { nodes: 200, plain: 5000, spread: 0, apart: 0, scored_percent: 50 };
/// A large cluster: 30 % of the pods are spread over zones, 20 % apart. As many are scored as upstream scores in a cluster of that size.
pub const LARGE: Case = Case { nodes: 5000, plain: 5000, spread: 3000, apart: 2000, scored_percent: 10 };
/// Pods that are spread or apart are so in groups of this size.
const GROUP: usize = 100;

const PORT: &str = "16544";
/// As long as a node without lease stays ready, less what starting takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A control plane, ended with this value.
struct ControlPlane(Child);

impl ControlPlane {
    fn start(binary: &Path, folder: &Path, scheduler: &str, scored_percent: usize) -> Result<Self> {
        let configuration = folder.join("scheduler.yaml");
        let text = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "percentageOfNodesToScore": scored_percent, "profiles": [{"schedulerName": scheduler}]});
        fs::write(&configuration, text.to_string()).context("cannot write the scheduler's configuration")?;
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).context("cannot write a log")?;
        let mut command = Command::new(binary);
        command.args(["server", "--disable-agent", "--port", PORT, "--cluster-name", "bench-scheduling"]);
        // Nobody reports for the nodes.
        command.args(["--cluster-cidr", "10.192.0.0/13", "--service-cidr", "10.191.0.0/16", "--node-monitor-grace-period", "3600"]);
        command.arg("--data-dir").arg(folder.join("data")).arg("--scheduler-config").arg(configuration);
        command.arg("--run-dir").arg(run_directory());
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self(process))
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
        let _ = fs::remove_dir_all(run_directory());
    }
}

fn run_directory() -> PathBuf {
    PathBuf::from(format!("/run/knarr-bench-scheduling-{}", std::process::id()))
}

fn until(what: &str, mut look: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !look() {
        if started.elapsed() > PATIENCE {
            bail!("{what}: not within {} s", PATIENCE.as_secs());
        }
        // Looking costs the server time that is being measured, and this interval is the error.
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// ReplicaSets of waiting pods.
fn pods(case: &Case) -> String {
    let group = |name: String, count: usize, wishes: serde_json::Value| {
        let labels = json!({"app": name});
        let mut spec = json!({"containers": [{"name": "main", "image": "nothing", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]});
        if let (Some(spec), Some(wishes)) = (spec.as_object_mut(), wishes.as_object()) {
            spec.extend(wishes.clone());
        }
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "labels": {"bench": "waiting"}},
            "spec": {"replicas": count, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
        })
    };
    let mut sets = vec![group("plain".to_owned(), case.plain, json!({}))];
    for number in 0..case.spread / GROUP {
        let name = format!("spread-{number}");
        let constraint = json!({"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": name}}});
        sets.push(group(name, GROUP, json!({"topologySpreadConstraints": [constraint]})));
    }
    for number in 0..case.apart / GROUP {
        let name = format!("apart-{number}");
        let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": name}}});
        sets.push(group(name, GROUP, json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": sets}).to_string()
}

/// Bindings a second, and what was checked of them.
///
/// # Errors
/// Where the server does not start, pods stay without node, or one is where it must not be.
pub fn measure(case: &Case, binary: &Path, kubectl: &Path, load: &Path) -> Result<String> {
    let all = case.plain + case.spread + case.apart;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = folder.path();
    let kubectl = |words: &[&str]| output(Command::new(kubectl).args(words).env("KUBECONFIG", folder.join("data/admin.kubeconfig")).env("NO_PROXY", "*"));
    let ready = || {
        let probe = format!("https://127.0.0.1:{PORT}/readyz");
        until("the API is ready", || output(Command::new("curl").args(["--silent", "--insecure", "--fail", "--noproxy", "*", &probe])).is_ok())
    };
    say(&format!("creating {all} pods and {} nodes", case.nodes));
    let paused = ControlPlane::start(binary, folder, "nobody", case.scored_percent)?;
    ready()?;
    kubectl(&["create", "serviceaccount", "observer"])?;
    kubectl(&["create", "clusterrolebinding", "observer", "--clusterrole=cluster-admin", "--serviceaccount=default:observer"])?;
    let token = kubectl(&["create", "token", "observer", "--duration=1h"])?;
    let pods_file = folder.join("pods.json");
    fs::write(&pods_file, pods(case)).context("cannot write what is to be created")?;
    kubectl(&["create", "--filename", &pods_file.to_string_lossy()])?;
    let made = || -> Result<usize> {
        let counts = kubectl(&["get", "replicasets", "--selector=bench=waiting", "--output=jsonpath={.items[*].status.replicas}"])?;
        Ok(counts.split_whitespace().filter_map(|count| count.parse::<usize>().ok()).sum())
    };
    until("the pods are there", || made().is_ok_and(|count| count == all))?;
    let count = case.nodes.to_string();
    output(Command::new(load).args(["nodes", &count]).env("KUBECONFIG", folder.join("data/admin.kubeconfig")).env("NO_PROXY", "*"))?;
    drop(paused);

    say("scheduling them");
    let _control_plane = ControlPlane::start(binary, folder, "default-scheduler", case.scored_percent)?;
    ready()?;
    let header = format!("Authorization: Bearer {}", token.trim());
    let exists = |selector: &str| {
        let url = format!("https://127.0.0.1:{PORT}/api/v1/namespaces/default/pods?limit=1&fieldSelector=spec.nodeName{selector}");
        output(Command::new("curl").args(["--silent", "--insecure", "--fail", "--noproxy", "*", "--user-agent", "bench", "--header", &header, &url])).map(|said| said.contains("\"items\":[{"))
    };
    until("the first pod is bound", || exists("!=").unwrap_or_default())?;
    let first = Instant::now();
    until("the last pod is bound", || exists("=").is_ok_and(|waiting| !waiting))?;
    let rate = all as f64 / first.elapsed().as_secs_f64();
    say("checking every placement");
    let items = |kind: &str| -> Result<Vec<serde_json::Value>> {
        let said = kubectl(&["get", kind, "--output=json"])?;
        let mut list: serde_json::Value = serde_json::from_str(&said).context("kubectl printed no JSON")?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    };
    let (nodes, pods) = (items("nodes")?, items("pods")?);
    let checked = placement::check(&nodes, &pods).map_err(|why| anyhow::anyhow!("a placement is wrong: {why}"))?;
    if checked != all {
        bail!("{checked} pods were placed, {all} were asked for");
    }
    Ok(format!("{rate:.0} /s, {checked} checked, {} % scored", case.scored_percent))
}

/// How long a Deployment takes from 0 to 1000 pods on 100 simulated nodes, until all are available and counted as such.
///
/// # Errors
/// Where the server does not start, or the Deployment does not settle.
pub fn scale(binary: &Path, kubectl: &Path, load: &Path) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let kubeconfig = folder.path().join("data/admin.kubeconfig");
    say("scaling a Deployment to 1000 pods on 100 simulated nodes");
    let _control_plane = ControlPlane::start(binary, folder.path(), "default-scheduler", 100)?;
    let ready = || output(Command::new(kubectl).args(["get", "--raw", "/readyz"]).env("KUBECONFIG", &kubeconfig).env("NO_PROXY", "*"));
    until("the API is ready", || ready().is_ok())?;
    let said = output(Command::new(load).args(["scale", "100", "1000"]).env("KUBECONFIG", &kubeconfig).env("NO_PROXY", "*"))?;
    let measured: serde_json::Value = serde_json::from_str(&said).context("knarr-load printed no JSON")?;
    Ok(format!("{:.2} s", measured["settled_ms"].as_f64().unwrap_or(f64::NAN) / 1000.0))
}
