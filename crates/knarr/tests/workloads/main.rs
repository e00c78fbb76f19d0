//! What people run, under load all the time, on two nodes that all of these tests share: databases that lose nothing, a deployment that
//! follows its load, a node that is emptied within a budget, and a large deployment that is replaced without a failed request.

mod autoscaling;
mod databases;
mod moving;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use testkit::{LocalCluster, image, kubectl::image_archive};

/// Two nodes with busybox and the databases; ends with the last test that uses it.
fn cluster() -> Arc<LocalCluster> {
    static SHARED: Mutex<Weak<LocalCluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
    let cluster = LocalCluster::up(&binary, 2, &[]);
    let busybox = cluster.directory().join("busybox.tar");
    fs::write(&busybox, image::busybox().archive(&["busybox:knarr", "busybox:second"])).unwrap();
    cluster.import(&busybox);
    for name in ["postgresql", "redis"] {
        cluster.import(&image_archive(name));
    }
    let cluster = Arc::new(cluster);
    *shared = Arc::downgrade(&cluster);
    cluster
}

/// Held by tests that kill agents or close nodes.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // A failed test says so itself; the next one may go on.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A namespace of the shared cluster.
struct Place {
    cluster: Arc<LocalCluster>,
    namespace: &'static str,
}

impl Place {
    fn open(namespace: &'static str) -> Self {
        let cluster = cluster();
        cluster.kubectl(["create", "namespace", namespace]);
        cluster.eventually("the service account is there", || cluster.try_kubectl(["-n", namespace, "get", "serviceaccount", "default"]));
        Self { cluster, namespace }
    }

    fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        ["-n", self.namespace].iter().chain(words).copied().collect()
    }

    #[track_caller]
    fn kubectl(&self, words: &[&str]) -> String {
        self.cluster.kubectl(self.words(words))
    }

    fn try_kubectl(&self, words: &[&str]) -> Option<String> {
        self.cluster.try_kubectl(self.words(words))
    }

    /// Applies objects in YAML.
    #[track_caller]
    fn apply(&self, objects: &str) {
        let file = self.cluster.directory().join(format!("{}.yaml", self.namespace));
        fs::write(&file, objects).unwrap();
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    /// An object's value at a JSON path.
    #[track_caller]
    fn at(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    fn rolled_out(&self, object: &str) {
        self.kubectl(&["rollout", "status", object, "--timeout=300s"]);
    }

    fn ready(&self, pod: &str) {
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=180s"]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What it runs would take its share of the processors from the tests after it.
        let _ = self.cluster.try_kubectl(["delete", "namespace", self.namespace, "--timeout=180s"]);
    }
}
