//! Workloads on nodes that nobody stands behind, under a server that is killed: what is counted stays exact.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use testkit::{RealCluster, SimulatedNodes, real_cluster::Settings, simulated_nodes::Play};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

const PODS: usize = 1000;

const SUM: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: { name: sum }
spec:
  completions: 1000
  parallelism: 100
  template:
    spec:
      restartPolicy: Never
      containers: [{ name: c, image: nothing }]
"#;

const BEAT: &str = r#"
apiVersion: batch/v1
kind: CronJob
metadata: { name: beat }
spec:
  schedule: "* * * * *"
  successfulJobsHistoryLimit: 10
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{ name: c, image: nothing }]
"#;

/// Looks until so many pods of the Job are counted.
fn wait_for_count(cluster: &RealCluster, count: usize) {
    let patience = Instant::now() + Duration::from_secs(600);
    loop {
        let said = cluster.kubectl(["get", "job", "sum", "--output=jsonpath={.status.succeeded}"]);
        if said.trim().parse::<usize>().is_ok_and(|succeeded| succeeded >= count) {
            return;
        }
        assert!(Instant::now() < patience, "{said:?} of {count} pods are counted\n{}", cluster.report());
        // kubectl cannot wait for a number to be reached.
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_job_of_a_thousand_pods_counts_each_once_and_a_cron_job_keeps_its_beat_although_the_server_is_killed() {
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    let nodes = SimulatedNodes::start(&cluster.kubeconfig(), 20, Play::Succeed);
    cluster.apply(BEAT);
    cluster.apply(SUM);
    for share in [PODS / 4, PODS / 2] {
        wait_for_count(&cluster, share);
        cluster.kill_server();
        cluster.start_server();
    }
    cluster.kubectl(["wait", "--for=condition=Complete", "job/sum", "--timeout=600s"]);
    let count = |field: &str| cluster.kubectl(["get", "job", "sum", &format!("--output=jsonpath={{.status.{field}}}")]).trim().to_owned();
    assert_eq!((count("succeeded"), count("failed"), count("active")), (PODS.to_string(), String::new(), String::new()));
    assert_eq!(count("uncountedTerminatedPods"), "{}");
    let phases = cluster.kubectl(["get", "pods", "--selector=job-name=sum", "--output=jsonpath={range .items[*]}{.status.phase} {.metadata.finalizers}{'\\n'}{end}"]);
    assert_eq!((phases.lines().count(), phases.lines().filter(|line| line.trim() == "Succeeded").count()), (PODS, PODS), "no pod is lost, none is started in vain");

    // The beat: a Job for each minute, named after it, though the server was away at the turn of one.
    let jobs = |cluster: &RealCluster| -> Vec<i64> {
        let names = cluster.kubectl(["get", "jobs", "--output=jsonpath={range .items[*]}{.metadata.name}{'\\n'}{end}"]);
        let mut minutes: Vec<i64> = names.lines().filter_map(|name| name.strip_prefix("beat-")?.parse().ok()).collect();
        minutes.sort_unstable();
        minutes
    };
    let first = wait_until_beats(&cluster, jobs, 0)[0];
    cluster.kill_server();
    // Real time has to pass here: the minute turns while nobody is there.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock that is set").as_secs();
    std::thread::sleep(Duration::from_secs(62 - since % 60));
    cluster.start_server();
    let turned = i64::try_from(since / 60 + 1).expect("a minute of this age");
    let minutes = wait_until_beats(&cluster, jobs, turned);
    assert!(minutes.windows(2).all(|pair| pair[1] == pair[0] + 1) && minutes[0] == first, "{minutes:?}");
    assert!(nodes.succeeded() >= PODS);
}

/// Looks until there is a Job of that minute since the epoch, or of a later one.
fn wait_until_beats(cluster: &RealCluster, jobs: impl Fn(&RealCluster) -> Vec<i64>, minute: i64) -> Vec<i64> {
    let patience = Instant::now() + Duration::from_secs(180);
    loop {
        let minutes = jobs(cluster);
        if minutes.last().is_some_and(|last| *last >= minute) {
            return minutes;
        }
        assert!(Instant::now() < patience, "the beats were {minutes:?}\n{}", cluster.report());
        // kubectl cannot wait for an object whose name is not known.
        std::thread::sleep(Duration::from_millis(500));
    }
}
