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

use crate::shell::{output, say};

const NODES: usize = 200;
const PODS: usize = 5000;
const PORT: &str = "16544";
/// As long as a node without lease stays ready, less what starting takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A control plane, ended with this value.
struct ControlPlane(Child);

impl ControlPlane {
    fn start(binary: &Path, folder: &Path, scheduler: &str) -> Result<Self> {
        let configuration = folder.join("scheduler.yaml");
        let text = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "profiles": [{"schedulerName": scheduler}]});
        fs::write(&configuration, text.to_string()).context("cannot write the scheduler's configuration")?;
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).context("cannot write a log")?;
        let mut command = Command::new(binary);
        command.args(["server", "--disable-agent", "--port", PORT, "--cluster-name", "bench-scheduling"]);
        command.args(["--cluster-cidr", "10.192.0.0/16", "--service-cidr", "10.193.0.0/16"]);
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

fn nodes() -> String {
    let amounts = json!({"cpu": "64", "memory": "256Gi", "pods": "110"});
    let node = |index: usize| {
        let name = format!("simulated-{index}");
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", index % 3)}},
            "status": {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True", "reason": "Simulated"}]},
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": (0..NODES).map(node).collect::<Vec<_>>()}).to_string()
}

fn pods() -> String {
    let labels = json!({"app": "waiting"});
    let container = json!({"name": "main", "image": "nothing", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}});
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "waiting"},
        "spec": {"replicas": PODS, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}},
    })
    .to_string()
}

/// Bindings a second.
///
/// # Errors
/// Where the server does not start, or pods stay without node.
pub fn measure(binary: &Path, kubectl: &Path) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = folder.path();
    let kubectl = |words: &[&str]| output(Command::new(kubectl).args(words).env("KUBECONFIG", folder.join("data/admin.kubeconfig")).env("NO_PROXY", "*"));
    let ready = || {
        let probe = format!("https://127.0.0.1:{PORT}/readyz");
        until("the API is ready", || output(Command::new("curl").args(["--silent", "--insecure", "--fail", "--noproxy", "*", &probe])).is_ok())
    };
    say(&format!("creating {PODS} pods and {NODES} nodes"));
    let paused = ControlPlane::start(binary, folder, "nobody")?;
    ready()?;
    kubectl(&["create", "serviceaccount", "observer"])?;
    kubectl(&["create", "clusterrolebinding", "observer", "--clusterrole=cluster-admin", "--serviceaccount=default:observer"])?;
    let token = kubectl(&["create", "token", "observer", "--duration=1h"])?;
    let (pods_file, nodes_file) = (folder.join("pods.json"), folder.join("nodes.json"));
    fs::write(&pods_file, pods()).and_then(|()| fs::write(&nodes_file, nodes())).context("cannot write what is to be created")?;
    kubectl(&["create", "--filename", &pods_file.to_string_lossy()])?;
    let all = PODS.to_string();
    until("the pods are there", || kubectl(&["get", "replicaset", "waiting", "--output=jsonpath={.status.replicas}"]).is_ok_and(|count| count == all))?;
    kubectl(&["create", "--filename", &nodes_file.to_string_lossy()])?;
    drop(paused);

    say("scheduling them");
    let _control_plane = ControlPlane::start(binary, folder, "default-scheduler")?;
    ready()?;
    let header = format!("Authorization: Bearer {}", token.trim());
    let exists = |selector: &str| {
        let url = format!("https://127.0.0.1:{PORT}/api/v1/namespaces/default/pods?limit=1&fieldSelector=spec.nodeName{selector}");
        output(Command::new("curl").args(["--silent", "--insecure", "--fail", "--noproxy", "*", "--header", &header, &url])).map(|said| said.contains("\"items\":[{"))
    };
    until("the first pod is bound", || exists("!=").unwrap_or_default())?;
    let first = Instant::now();
    until("the last pod is bound", || exists("=").is_ok_and(|waiting| !waiting))?;
    Ok(format!("{:.0} /s", PODS as f64 / first.elapsed().as_secs_f64()))
}
