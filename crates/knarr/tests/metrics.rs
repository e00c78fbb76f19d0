//! Upstream's stable metrics, one by one: whether they are there, where, of which type, with which labels and buckets, in a cluster that
//! did some of everything. What is not there has a reason in the same table.
//!
//! Source of the table: Kubernetes 1.36, `test/instrumentation/testdata/stable-metrics-list.yaml`, stable and beta.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use testkit::{RealCluster, image, real_cluster::Settings, registry::Registry};

/// Where a metric is to be found, or why it is nowhere.
enum Place {
    /// A path of the API server.
    Server(&'static str),
    /// A path of the node's own API.
    Node(&'static str),
    /// Nowhere on purpose, and why.
    Absent(&'static str),
}

use Place::{Absent, Node, Server};

struct Row {
    name: &'static str,
    kind: &'static str,
    /// In alphabetical order.
    labels: &'static [&'static str],
    /// Upper bounds, as upstream writes them; none where it is no histogram.
    buckets: &'static str,
    place: Place,
}

const fn row(name: &'static str, kind: &'static str, labels: &'static [&'static str], buckets: &'static str, place: Place) -> Row {
    Row { name, kind, labels, buckets, place }
}

const ADMISSION: &str = "0.005 0.025 0.1 0.5 1 2.5";
const REQUEST: &[&str] = &["component", "group", "resource", "scope", "subresource", "verb", "version"];
const CONTAINER: &[&str] = &["container", "namespace", "pod"];
const POD: &[&str] = &["namespace", "pod"];
const AMOUNT: &[&str] = &["namespace", "node", "pod", "priority", "resource", "scheduler", "unit"];
const CEL: &str = "there are no policies in CEL";
const FLOW: &str = "requests have no priorities yet, and none waits in a queue";
const GO: &str = "about the inside of upstream's own programs";

/// Every stable metric of upstream.
const STABLE: [Row; 37] = [
    row("apiserver_admission_controller_admission_duration_seconds", "histogram", &["name", "operation", "rejected", "type"], ADMISSION, Server("/metrics")),
    row("apiserver_admission_step_admission_duration_seconds", "histogram", &["operation", "rejected", "type"], ADMISSION, Server("/metrics")),
    row("apiserver_admission_webhook_admission_duration_seconds", "histogram", &["name", "operation", "rejected", "type"], "0.005 0.025 0.1 0.5 1 2.5 10 25", Server("/metrics")),
    row("apiserver_current_inflight_requests", "gauge", &["request_kind"], "", Server("/metrics")),
    row("apiserver_longrunning_requests", "gauge", REQUEST, "", Server("/metrics")),
    row(
        "apiserver_request_duration_seconds",
        "histogram",
        &["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
        "0.005 0.025 0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60",
        Server("/metrics"),
    ),
    row("apiserver_request_total", "counter", &["code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"], "", Server("/metrics")),
    row("apiserver_requested_deprecated_apis", "gauge", &["group", "removed_release", "resource", "subresource", "version"], "", Server("/metrics")),
    row("apiserver_response_sizes", "histogram", REQUEST, "1000 10000 100000 1e+06 1e+07 1e+08 1e+09", Server("/metrics")),
    row("apiserver_storage_objects", "gauge", &["resource"], "", Server("/metrics")),
    row("apiserver_storage_size_bytes", "gauge", &["storage_cluster_id"], "", Server("/metrics")),
    row("container_cpu_usage_seconds_total", "counter", CONTAINER, "", Node("/metrics/resource")),
    row("container_memory_working_set_bytes", "gauge", CONTAINER, "", Node("/metrics/resource")),
    row("container_start_time_seconds", "gauge", CONTAINER, "", Node("/metrics/resource")),
    row("cronjob_controller_job_creation_skew_duration_seconds", "histogram", &[], "1 2 4 8 16 32 64 128 256 512", Server("/metrics")),
    row("job_controller_job_pods_finished_total", "counter", &["completion_mode", "result"], "", Server("/metrics")),
    row(
        "job_controller_job_sync_duration_seconds",
        "histogram",
        &["action", "completion_mode", "result"],
        "0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384 32.768 65.536",
        Server("/metrics"),
    ),
    row("job_controller_job_syncs_total", "counter", &["action", "completion_mode", "result"], "", Server("/metrics")),
    row("job_controller_jobs_finished_total", "counter", &["completion_mode", "reason", "result"], "", Server("/metrics")),
    row("kube_pod_resource_limit", "gauge", AMOUNT, "", Server("/metrics/resources")),
    row("kube_pod_resource_request", "gauge", AMOUNT, "", Server("/metrics/resources")),
    row("kubernetes_healthcheck", "gauge", &["name", "type"], "", Server("/metrics/slis")),
    row("kubernetes_healthchecks_total", "counter", &["name", "status", "type"], "", Server("/metrics/slis")),
    row("node_collector_evictions_total", "counter", &["zone"], "", Server("/metrics")),
    row("node_cpu_usage_seconds_total", "counter", &[], "", Node("/metrics/resource")),
    row("node_memory_working_set_bytes", "gauge", &[], "", Node("/metrics/resource")),
    row("pod_cpu_usage_seconds_total", "counter", POD, "", Node("/metrics/resource")),
    row("pod_memory_working_set_bytes", "gauge", POD, "", Node("/metrics/resource")),
    row("resource_scrape_error", "gauge", &[], "", Node("/metrics/resource")),
    row(
        "scheduler_framework_extension_point_duration_seconds",
        "histogram",
        &["extension_point", "profile", "status"],
        "0.0001 0.0002 0.0004 0.0008 0.0016 0.0032 0.0064 0.0128 0.0256 0.0512 0.1024 0.2048",
        Server("/metrics"),
    ),
    row("scheduler_pending_pods", "gauge", &["queue"], "", Server("/metrics")),
    row("scheduler_pod_scheduling_attempts", "histogram", &[], "1 2 4 8 16", Server("/metrics")),
    row("scheduler_preemption_attempts_total", "counter", &[], "", Server("/metrics")),
    row("scheduler_preemption_victims", "histogram", &[], "1 2 4 8 16 32 64", Server("/metrics")),
    row("scheduler_queue_incoming_pods_total", "counter", &["event", "queue"], "", Server("/metrics")),
    row("scheduler_schedule_attempts_total", "counter", &["profile", "result"], "", Server("/metrics")),
    row(
        "scheduler_scheduling_attempt_duration_seconds",
        "histogram",
        &["profile", "result"],
        "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384",
        Server("/metrics"),
    ),
];

/// Those that are nearly stable.
const BETA: [Row; 25] = [
    row("apiserver_authentication_config_controller_automatic_reload_last_timestamp_seconds", "", &[], "", Absent("there is no file of authentication settings to be read again")),
    row("apiserver_authentication_config_controller_automatic_reloads_total", "", &[], "", Absent("there is no file of authentication settings to be read again")),
    row("apiserver_authorization_config_controller_automatic_reload_last_timestamp_seconds", "", &[], "", Absent("there is no file of authorization settings to be read again")),
    row("apiserver_authorization_config_controller_automatic_reloads_total", "", &[], "", Absent("there is no file of authorization settings to be read again")),
    row("apiserver_cel_compilation_duration_seconds", "", &[], "", Absent(CEL)),
    row("apiserver_cel_evaluation_duration_seconds", "", &[], "", Absent(CEL)),
    row("apiserver_flowcontrol_current_executing_requests", "", &[], "", Absent(FLOW)),
    row("apiserver_flowcontrol_current_executing_seats", "", &[], "", Absent(FLOW)),
    row("apiserver_flowcontrol_current_inqueue_requests", "", &[], "", Absent(FLOW)),
    row("apiserver_flowcontrol_dispatched_requests_total", "", &[], "", Absent(FLOW)),
    row("apiserver_flowcontrol_nominal_limit_seats", "", &[], "", Absent(FLOW)),
    row("apiserver_flowcontrol_rejected_requests_total", "", &[], "", Absent(FLOW)),
    row("apiserver_flowcontrol_request_wait_duration_seconds", "", &[], "", Absent(FLOW)),
    row("apiserver_validating_admission_policy_check_duration_seconds", "", &[], "", Absent(CEL)),
    row("apiserver_validating_admission_policy_check_total", "", &[], "", Absent(CEL)),
    row("apiserver_validation_declarative_validation_mismatch_total", "", &[], "", Absent(GO)),
    row("apiserver_validation_declarative_validation_panic_total", "", &[], "", Absent(GO)),
    row("disabled_metrics_total", "", &[], "", Absent("no metric can be disabled")),
    row("hidden_metrics_total", "", &[], "", Absent("no metric is hidden")),
    row("kubernetes_feature_enabled", "", &[], "", Absent("there are no feature gates")),
    row("prober_probe_total", "counter", &["container", "namespace", "pod", "pod_uid", "probe_type", "result"], "", Node("/metrics/probes")),
    row("registered_metrics_total", "", &[], "", Absent(GO)),
    row(
        "scheduler_pod_scheduling_sli_duration_seconds",
        "histogram",
        &["attempts"],
        "0.01 0.02 0.04 0.08 0.16 0.32 0.64 1.28 2.56 5.12 10.24 20.48 40.96 81.92 163.84 327.68 655.36 1310.72 2621.44 5242.88",
        Server("/metrics"),
    ),
    row("statefulset_controller_statefulset_max_unavailable", "", &[], "", Absent("stateful sets roll one pod at a time")),
    row("statefulset_controller_statefulset_unavailable_replicas", "", &[], "", Absent("stateful sets roll one pod at a time")),
];

/// Not stable, and yet what most dashboards and alerts look at.
const USUAL: [Row; 24] = [
    row("apiserver_admission_webhook_fail_open_count", "counter", &["name", "type"], "", Server("/metrics")),
    row(
        "apiserver_request_sli_duration_seconds",
        "histogram",
        REQUEST,
        "0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60",
        Server("/metrics"),
    ),
    row(
        "kubernetes_build_info",
        "gauge",
        &["build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform"],
        "",
        Server("/metrics"),
    ),
    row("kubelet_node_name", "gauge", &["node"], "", Node("/metrics")),
    row("pod_security_evaluations_total", "counter", &["decision", "mode", "policy_level", "policy_version", "request_operation", "resource", "subresource"], "", Server("/metrics")),
    row("process_cpu_seconds_total", "counter", &[], "", Server("/metrics")),
    row("process_max_fds", "gauge", &[], "", Server("/metrics")),
    row("process_open_fds", "gauge", &[], "", Server("/metrics")),
    row("process_resident_memory_bytes", "gauge", &[], "", Server("/metrics")),
    row("process_resident_memory_bytes", "gauge", &[], "", Node("/metrics")),
    row("process_start_time_seconds", "gauge", &[], "", Server("/metrics")),
    row("rest_client_request_duration_seconds", "histogram", &["host", "verb"], "0.005 0.025 0.1 0.25 0.5 1 2 4 8 15 30 60", Server("/metrics")),
    row("rest_client_request_size_bytes", "histogram", &["host", "verb"], "64 256 512 1024 4096 16384 65536 262144 1.048576e+06 4.194304e+06 1.6777216e+07", Server("/metrics")),
    row("rest_client_requests_total", "counter", &["code", "host", "method"], "", Server("/metrics")),
    row("rest_client_response_size_bytes", "histogram", &["host", "verb"], "64 256 512 1024 4096 16384 65536 262144 1.048576e+06 4.194304e+06 1.6777216e+07", Server("/metrics")),
    row("rest_client_requests_total", "counter", &["code", "host", "method"], "", Node("/metrics")),
    row("serviceaccount_stale_tokens_total", "counter", &[], "", Server("/metrics")),
    row("serviceaccount_valid_tokens_total", "counter", &[], "", Server("/metrics")),
    row("workqueue_adds_total", "counter", &["name"], "", Server("/metrics")),
    row("workqueue_depth", "gauge", &["name"], "", Server("/metrics")),
    row("workqueue_longest_running_processor_seconds", "gauge", &["name"], "", Server("/metrics")),
    row("workqueue_queue_duration_seconds", "histogram", &["name"], "1e-08 1e-07 1e-06 1e-05 0.0001 0.001 0.01 0.1 1 10 100 1000", Server("/metrics")),
    row("workqueue_retries_total", "counter", &["name"], "", Server("/metrics")),
    row("workqueue_work_duration_seconds", "histogram", &["name"], "1e-08 1e-07 1e-06 1e-05 0.0001 0.001 0.01 0.1 1 10 100 1000", Server("/metrics")),
];

/// Names and values of a sample's labels.
fn labels(sample: &str) -> Vec<(&str, &str)> {
    let inside = sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
    inside.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(name, value)| (name, value.trim_end_matches('"'))).collect()
}

/// What is wrong with a metric on a page.
fn problem(row: &Row, page: &str) -> Option<String> {
    if !page.lines().any(|line| line == format!("# TYPE {} {}", row.name, row.kind)) {
        let said = page.lines().find(|line| line.starts_with(&format!("# TYPE {} ", row.name)));
        return Some(format!("{}: is no {}: {said:?}", row.name, row.kind));
    }
    let name = if row.kind == "histogram" { format!("{}_bucket", row.name) } else { row.name.to_owned() };
    let samples: Vec<_> = page.lines().filter(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']))).collect();
    let Some(first) = samples.first() else { return Some(format!("{}: nothing is counted", row.name)) };
    let own: BTreeSet<_> = labels(first).into_iter().map(|(label, _)| label).filter(|label| row.kind != "histogram" || *label != "le").collect();
    if own != row.labels.iter().copied().collect() {
        return Some(format!("{}: has the labels {own:?}, not {:?}", row.name, row.labels));
    }
    if row.kind == "histogram" {
        let without_bound = |sample: &str| labels(sample).into_iter().filter(|(label, _)| *label != "le").map(|(_, value)| value.to_owned()).collect::<Vec<_>>();
        let same = samples.iter().filter(|sample| without_bound(sample) == without_bound(first));
        let bounds: Vec<_> = same.filter_map(|sample| labels(sample).into_iter().find(|(label, _)| *label == "le")).map(|(_, bound)| bound).collect();
        let near = |bound: &str| bound.parse::<f64>().map(|bound| format!("{bound:.9e}"));
        let wanted: Vec<_> = row.buckets.split(' ').chain(["+Inf"]).collect();
        if bounds.iter().map(|bound| near(bound)).collect::<Vec<_>>() != wanted.iter().map(|bound| near(bound)).collect::<Vec<_>>() {
            return Some(format!("{}: has the buckets {bounds:?}", row.name));
        }
    }
    None
}

/// Everything that the table is about, once.
const SOME_OF_EVERYTHING: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: { name: nobody-answers }
webhooks:
- name: nobody.answers.example
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  timeoutSeconds: 1
  clientConfig: { url: "https://127.0.0.1:1/" }
  rules: [{ apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps] }]
---
apiVersion: batch/v1
kind: Job
metadata: { name: done }
spec:
  template:
    spec: { restartPolicy: Never, containers: [{ name: main, image: "busybox:1", command: ["true"] }] }
---
apiVersion: batch/v1
kind: CronJob
metadata: { name: every-minute }
spec:
  schedule: "* * * * *"
  jobTemplate: { spec: { suspend: true, template: { spec: { restartPolicy: Never, containers: [{ name: main, image: "busybox:1" }] } } } }
---
apiVersion: v1
kind: Pod
metadata: { name: probed }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [sleep, "1000000"]
    readinessProbe: { exec: { command: ["true"] } }
    resources: { requests: { memory: 8Mi }, limits: { memory: 64Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: gated }
spec: { schedulingGates: [{ name: example.com/gate }], containers: [{ name: main, image: "busybox:1" }] }
---
apiVersion: v1
kind: Pod
metadata: { name: too-large }
spec: { containers: [{ name: main, image: "busybox:1", resources: { requests: { memory: 1Pi } } }] }
---
apiVersion: v1
kind: Node
metadata: { name: silent, labels: { topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z } }
spec: { unschedulable: true }
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: { name: important }
value: 1000
---
apiVersion: v1
kind: Pod
metadata: { name: lesser }
spec:
  # With none at all the object would be gone before its host port is.
  terminationGracePeriodSeconds: 1
  containers: [{ name: main, image: "busybox:1", command: [sleep, "1000000"], ports: [{ containerPort: 80, hostPort: 18080 }] }]
"#;

const IMPORTANT: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: important }
spec:
  priorityClassName: important
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: "busybox:1", command: [sleep, "1000000"], ports: [{ containerPort: 80, hostPort: 18080 }] }]
"#;

fn value(page: &str, sample: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
    found.unwrap_or_default()
}

#[test]
fn every_stable_metric_of_upstream_is_there_or_absent_for_a_reason() {
    let busybox = image::busybox();
    let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
    let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
    let mut cluster = RealCluster::start(&Settings { binary: &binary, registry: Some(&registry), control_plane_only: false });
    // Shorter than upstream's, so that the silent node is given up soon; longer than nodes take to report.
    cluster.restart_server_with(&["--node-monitor-grace-period", "20"]);
    let cluster = cluster;
    cluster.eventually("the service account is there", || cluster.try_kubectl(["get", "serviceaccount", "default"]));
    let file = cluster.data_directory().join("some-of-everything.yaml");
    fs::write(&file, SOME_OF_EVERYTHING).unwrap();
    cluster.kubectl(["create", "--filename", file.to_str().unwrap()]);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/probed", "pod/lesser", "--timeout=300s"]);
    fs::write(&file, IMPORTANT).unwrap();
    cluster.kubectl(["create", "--filename", file.to_str().unwrap()]);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/important", "--timeout=300s"]);
    cluster.kubectl(["wait", "--for=condition=Complete", "job/done", "--timeout=300s"]);
    cluster.kubectl(["create", "configmap", "seen-by-a-webhook"]);
    cluster.kubectl(["get", "endpoints"]);
    cluster.kubectl(["get", "--raw", "/livez"]);
    let server = |path: &str| cluster.kubectl(["get", "--raw", path]);
    cluster.eventually("the silent node is given up", || {
        let page = server("/metrics");
        page.lines().any(|line| line.starts_with("node_collector_evictions_total{zone=\"r:\0:z\"} 1")).then_some(())
    });
    cluster.eventually("a minute begins", || (value(&server("/metrics"), "cronjob_controller_job_creation_skew_duration_seconds_count") >= 1.0).then_some(()));

    let node = |path: &str| server(&format!("/api/v1/nodes/node-1/proxy{path}"));
    let problems: Vec<String> = STABLE
        .iter()
        .chain(&BETA)
        .chain(&USUAL)
        .filter_map(|row| match &row.place {
            Server(path) => problem(row, &server(path)),
            Node(path) => problem(row, &node(path)),
            // Whoever adds it is to say so here.
            Absent(reason) => {
                let pages = [server("/metrics"), server("/metrics/slis"), server("/metrics/resources"), node("/metrics")];
                let is_there = pages.iter().any(|page| page.contains(&format!("# TYPE {} ", row.name)));
                is_there.then(|| format!("{}: is there, although {reason}", row.name))
            }
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    let page = server("/metrics");
    for (sample, least) in [
        ("scheduler_pending_pods{queue=\"gated\"}", 1.0),
        ("scheduler_pending_pods{queue=\"unschedulable\"}", 1.0),
        ("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}", 4.0),
        ("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"}", 2.0),
        ("scheduler_preemption_attempts_total", 1.0),
        ("scheduler_preemption_victims_count", 1.0),
        ("job_controller_job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"succeeded\"}", 1.0),
        ("job_controller_jobs_finished_total{completion_mode=\"NonIndexed\",reason=\"CompletionsReached\",result=\"succeeded\"}", 1.0),
        ("apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"}", 1.0),
        ("apiserver_storage_objects{resource=\"pods\"}", 5.0),
        ("apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"}", 4096.0),
        ("apiserver_admission_webhook_fail_open_count{name=\"nobody.answers.example\",type=\"validating\"}", 1.0),
    ] {
        assert!(value(&page, sample) >= least, "{sample} is {}", value(&page, sample));
    }
    assert!(value(&server("/metrics/slis"), "kubernetes_healthcheck{name=\"etcd\",type=\"livez\"}") >= 1.0);
    assert_eq!(value(&node("/metrics/resource"), "resource_scrape_error"), 0.0);
}

#[test]
fn a_page_of_metrics_is_read_by_whoever_may_and_by_nobody_else() {
    let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
    let cluster = RealCluster::start(&Settings { binary: &binary, registry: None, control_plane_only: true });
    cluster.kubectl(["create", "serviceaccount", "prometheus"]);
    let token = cluster.kubectl(["create", "token", "prometheus"]);
    let code = |path: &str| {
        let url = format!("https://127.0.0.1:{}{path}", cluster.port());
        let header = format!("Authorization: Bearer {}", token.trim());
        let said = Command::new("curl").args(["--silent", "--insecure", "--noproxy", "*", "--output", "/dev/null", "--write-out", "%{http_code}", "--header", &header, &url]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    assert_eq!(["/metrics", "/metrics/slis", "/metrics/resources"].map(code), ["403", "403", "403"]);
    cluster.kubectl(["create", "clusterrolebinding", "prometheus", "--clusterrole=system:monitoring", "--serviceaccount=default:prometheus"]);
    cluster.eventually("the binding counts", || (code("/metrics") == "200").then_some(()));
    assert_eq!(["/metrics", "/metrics/slis", "/metrics/resources"].map(code), ["200", "200", "403"]);
}
