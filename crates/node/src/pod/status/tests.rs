//! Tests of the status: what users see in each situation, and how little is written.

use container_runtime::{ContainerExit, ContainerSpec, ImageId, ResourceLimits, SandboxId, SecurityContext};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

struct Scene {
    pod: Pod,
    containers: Vec<Observed>,
    failures: BTreeMap<String, LaunchFailure>,
    crash_loops: BTreeMap<String, Duration>,
    probes: HashMap<ContainerId, ProbeState>,
    ended: Option<Ended>,
    is_terminated: bool,
    progress: Progress,
}

fn pod(spec: Value) -> Scene {
    Scene {
        pod: serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "a", "uid": "u", "generation": 3 }, "spec": spec })).unwrap(),
        containers: Vec::new(),
        failures: BTreeMap::new(),
        crash_loops: BTreeMap::new(),
        probes: HashMap::new(),
        ended: None,
        is_terminated: false,
        progress: Progress::default(),
    }
}

fn observed(name: &str, attempt: u32, state: ContainerState) -> Observed {
    Observed {
        id: ContainerId(format!("{name}-{attempt}")),
        sandbox: SandboxId("s".to_owned()),
        spec: ContainerSpec {
            name: name.to_owned(),
            attempt,
            image: ImageId("sha256:0".to_owned()),
            command: Vec::new(),
            args: Vec::new(),
            working_directory: None,
            environment: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            security: SecurityContext::default(),
            resources: ResourceLimits::default(),
            oom_score_adjust: 0,
            stdin: false,
            stdin_once: false,
            tty: false,
            stop_signal: None,
            processes_of: None,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
        },
        state,
        created_at: at(i64::from(attempt)),
        log_path: std::path::PathBuf::new(),
        user: None,
    }
}

impl Scene {
    fn running(mut self, name: &str, attempt: u32) -> Self {
        self.containers.push(observed(name, attempt, ContainerState::Running { started_at: at(1), pid: 1 }));
        self
    }
    fn created(mut self, name: &str, attempt: u32) -> Self {
        self.containers.push(observed(name, attempt, ContainerState::Created));
        self
    }
    fn exited(mut self, name: &str, attempt: u32, code: i32) -> Self {
        let exit = ContainerExit { code, signal: 0, finished_at: at(2), out_of_memory: code == 137, unknown: false, message: String::new() };
        self.containers.push(observed(name, attempt, ContainerState::Exited { started_at: Some(at(1)), exit }));
        self
    }
    fn crash_loop(mut self, name: &str) -> Self {
        self.crash_loops.insert(name.to_owned(), Duration::from_secs(20));
        self
    }
    fn failing(mut self, name: &str, reason: &str) -> Self {
        self.failures.insert(name.to_owned(), LaunchFailure { reason: reason.to_owned(), message: "why".to_owned(), retry_at: at(9) });
        self
    }
    fn terminated(mut self) -> Self {
        self.is_terminated = true;
        self
    }
    fn known(mut self, status: &PodStatus) -> Self {
        self.pod.status = Some(status.clone());
        self
    }
    fn status(&self) -> PodStatus {
        pod_status(&StatusInput {
            pod: &self.pod,
            granted: &self.pod,
            progress: &self.progress,
            now: at(10),
            containers: &self.containers,
            has_sandbox: !self.is_terminated,
            pod_ips: &["10.1.0.2".parse().unwrap()],
            host_ips: &["10.0.0.1".parse().unwrap()],
            probes: &self.probes,
            launch_failures: &self.failures,
            crash_loops: &self.crash_loops,
            messages: &HashMap::new(),
            ended: self.ended.as_ref(),
            is_replacing: false,
            is_terminated: self.is_terminated,
        })
    }

    /// `PHASE NAME=STATE/LAST#RESTARTS … not CONDITION(REASON) …`
    #[track_caller]
    fn check(&self, expected: &str) {
        let status = self.status();
        let shown = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| match state {
            Some(state) if state.running.is_some() => "running".to_owned(),
            Some(state) => match (&state.waiting, &state.terminated) {
                (Some(waiting), _) => waiting.reason.clone().unwrap(),
                (_, Some(terminated)) => terminated.reason.clone().unwrap(),
                _ => "none".to_owned(),
            },
            None => "none".to_owned(),
        };
        let mut words = vec![status.phase.clone().unwrap()];
        for container in status.init_container_statuses.iter().chain(&status.container_statuses).flatten() {
            words.push(format!("{}={}/{}#{}", container.name, shown(container.state.as_ref()), shown(container.last_state.as_ref()), container.restart_count));
        }
        let bad: Vec<_> = status.conditions.iter().flatten().filter(|condition| condition.status != "True").collect();
        words.extend(bad.iter().map(|condition| format!("{}({})", condition.type_, condition.reason.clone().unwrap_or_default())));
        assert_eq!(words.join(" "), expected);
    }
}

fn simple(policy: &str) -> Scene {
    pod(json!({ "restartPolicy": policy, "containers": [{ "name": "c", "image": "i" }] }))
}

#[test]
fn a_pod_goes_from_pending_over_running_to_its_end() {
    simple("Always").check("Pending c=ContainerCreating/none#0 Ready(ContainersNotReady) ContainersReady(ContainersNotReady)");
    simple("Always").running("c", 0).check("Running c=running/none#0");
    simple("Always").exited("c", 0, 0).running("c", 1).check("Running c=running/Completed#1");
    simple("Never").exited("c", 0, 0).terminated().check("Succeeded c=Completed/none#0 PodReadyToStartContainers() Ready(PodCompleted) ContainersReady(PodCompleted)");
    simple("Never").exited("c", 0, 1).terminated().check("Failed c=Error/none#0 PodReadyToStartContainers() Ready(PodFailed) ContainersReady(PodFailed)");
    simple("Always").exited("c", 0, 137).terminated().check("Failed c=OOMKilled/none#0 PodReadyToStartContainers() Ready(PodFailed) ContainersReady(PodFailed)");
}

#[test]
fn a_terminal_phase_waits_until_nothing_runs_any_more() {
    let running = simple("Never").running("c", 0).status();
    simple("Never").exited("c", 0, 0).known(&running).check("Running c=Completed/none#0 Ready(ContainersNotReady) ContainersReady(ContainersNotReady)");
}

#[test]
fn that_all_containers_start_anew_is_told_of_pods_with_such_a_rule() {
    let rule = json!({ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } });
    let spec = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i", "restartPolicyRules": [rule] }, { "name": "d", "image": "i" }] });
    #[track_caller]
    fn check(scene: &Scene, phase: &str, expected: Option<(&str, Option<&str>)>) {
        let status = scene.status();
        let told = status.conditions.iter().flatten().find(|condition| condition.type_ == "AllContainersRestarting");
        assert_eq!((status.phase.as_deref(), told.map(|told| (told.status.as_str(), told.reason.as_deref()))), (Some(phase), expected));
    }
    check(&simple("Never").running("c", 0), "Running", None);
    let running = || pod(spec.clone()).running("d", 0);
    check(&running().running("c", 0), "Running", Some(("False", None)));
    check(&running().exited("c", 0, 7), "Running", Some(("False", None)));
    check(&running().exited("c", 0, 42), "Running", Some(("True", Some("RestartAllContainersStarted"))));
    let known = running().running("c", 0).status();
    let ended = || pod(spec.clone()).known(&known).exited("c", 0, 42).exited("d", 0, 137);
    check(&ended(), "Running", Some(("True", Some("RestartAllContainersStarted"))));
    let mut begun = ended().running("c", 1);
    begun.containers[2].spec.annotations.insert(crate::pod::annotations::ROUND.to_owned(), "1".to_owned());
    check(&begun, "Running", Some(("False", None)));
}

#[test]
fn waiting_reasons_are_shown_with_the_last_run() {
    simple("Always").failing("c", "ErrImagePull").check("Pending c=ErrImagePull/none#0 Ready(ContainersNotReady) ContainersReady(ContainersNotReady)");
    simple("Always")
        .exited("c", 3, 1)
        .crash_loop("c")
        .check("Running c=CrashLoopBackOff/Error#3 Ready(ContainersNotReady) ContainersReady(ContainersNotReady)");
    let status = simple("Always").exited("c", 3, 1).crash_loop("c").status();
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.message.as_deref(), Some("back-off 20s restarting failed container=c pod=web_a(u)"));
}

#[test]
fn a_restart_counts_once_the_container_runs_again() {
    let unready = "Ready(ContainersNotReady) ContainersReady(ContainersNotReady)";
    simple("Always").created("c", 0).check(&format!("Pending c=ContainerCreating/none#0 {unready}"));
    simple("Always").exited("c", 0, 1).exited("c", 1, 0).created("c", 2).check(&format!("Running c=Completed/Error#1 {unready}"));
    simple("Always").exited("c", 1, 0).created("c", 2).failing("c", "RunContainerError").check(&format!("Running c=RunContainerError/Completed#1 {unready}"));
    simple("Always").exited("c", 1, 0).running("c", 2).check("Running c=running/Completed#2");
}

#[test]
fn init_containers_hold_the_pod_back() {
    let scene = || pod(json!({ "initContainers": [{ "name": "i1", "image": "i" }, { "name": "i2", "image": "i" }], "containers": [{ "name": "c", "image": "i" }] }));
    scene().running("i1", 0).check(
        "Pending i1=running/none#0 i2=PodInitializing/none#0 c=PodInitializing/none#0 Initialized(ContainersNotInitialized) Ready(ContainersNotReady) ContainersReady(ContainersNotReady)",
    );
    let status = scene().exited("i1", 0, 0).running("i2", 0).status();
    let initialized = status.conditions.unwrap().into_iter().find(|condition| condition.type_ == "Initialized").unwrap();
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i2]"));
    scene().exited("i1", 0, 0).exited("i2", 0, 0).running("c", 0).check("Running i1=Completed/none#0 i2=Completed/none#0 c=running/none#0");
}

#[test]
fn readiness_gates_are_somebody_elses_word() {
    let scene = || pod(json!({ "readinessGates": [{ "conditionType": "a.b/c" }], "containers": [{ "name": "c", "image": "i" }] })).running("c", 0);
    scene().check("Running c=running/none#0 Ready(ReadinessGatesNotReady)");
    let open = serde_json::from_value(json!({ "conditions": [{ "type": "a.b/c", "status": "True" }] })).unwrap();
    scene().known(&open).check("Running c=running/none#0");
}

#[test]
fn a_pod_deleted_before_it_ran_has_failed() {
    let scene = simple("Always").terminated();
    assert_eq!(scene.status().phase.as_deref(), Some("Failed"));
}

#[test]
fn only_what_differs_is_written() {
    let scene = simple("Always").running("c", 0);
    let first = status_patch(&scene.pod, &scene.status()).unwrap();
    assert_eq!(first["metadata"]["uid"], "u");
    assert_eq!(first["status"]["podIPs"], json!([{ "ip": "10.1.0.2" }]));
    let settled = simple("Always").running("c", 0).known(&scene.status());
    assert_eq!(status_patch(&settled.pod, &settled.status()), None);
    let mut unready = settled;
    unready.probes.insert(ContainerId("c-0".to_owned()), ProbeState { started: true, ready: false, failed: None });
    let patch = status_patch(&unready.pod, &unready.status()).unwrap();
    let fields: Vec<_> = patch["status"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["conditions", "containerStatuses"]);
}

#[test]
fn reasons_that_are_gone_and_addresses_that_changed_are_named() {
    let mut scene = simple("Always").running("c", 0);
    let old: PodStatus = serde_json::from_value(json!({ "podIPs": [{ "ip": "10.9.9.9" }], "message": "old",
        "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady" }] }))
    .unwrap();
    scene = scene.known(&old);
    let patch = status_patch(&scene.pod, &scene.status()).unwrap();
    assert_eq!(patch["status"]["podIPs"], json!([{ "$patch": "replace" }, { "ip": "10.1.0.2" }]));
    assert_eq!(patch["status"]["message"], Value::Null);
    let ready = patch["status"]["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == "Ready").unwrap().clone();
    assert_eq!((ready["status"].as_str(), ready.as_object().unwrap().get("reason")), (Some("True"), Some(&Value::Null)));
}
