//! Tests of the decision: each case says what is wanted and observed in a few words, and what must happen.

use container_runtime::{ContainerExit, ContainerSpec, ImageId};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// A pod and everything around it, at second 0.
struct Scene {
    pod: Pod,
    now: i64,
    termination: Option<Termination>,
    volumes: Need<()>,
    sandbox: Need<SandboxId>,
    containers: Vec<ContainerStatus>,
    launching: Option<&'static str>,
    failures: BTreeMap<String, LaunchFailure>,
    killing: HashMap<ContainerId, Timestamp>,
    hooks: HashMap<ContainerId, HookState>,
    probes: HashMap<ContainerId, ProbeState>,
    back_offs: BackOffs<String>,
    paused_until: Option<i64>,
    limits: Option<ResourceLimits>,
    restarting: HashSet<ContainerId>,
}

fn pod(spec: Value) -> Scene {
    Scene {
        pod: serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "a", "uid": "u" }, "spec": spec })).unwrap(),
        now: 0,
        termination: None,
        volumes: Need::Ready(()),
        sandbox: Need::Ready(SandboxId("s1".to_owned())),
        containers: Vec::new(),
        launching: None,
        failures: BTreeMap::new(),
        killing: HashMap::new(),
        hooks: HashMap::new(),
        probes: HashMap::new(),
        back_offs: BackOffs::default(),
        paused_until: None,
        limits: None,
        restarting: HashSet::new(),
    }
}

fn simple(policy: &str) -> Scene {
    pod(json!({ "restartPolicy": policy, "containers": [{ "name": "c", "image": "i" }] }))
}

pub(in crate::pod) fn status(sandbox: &str, name: &str, attempt: u32, state: ContainerState) -> ContainerStatus {
    let spec = ContainerSpec {
        name: name.to_owned(),
        attempt,
        image: ImageId("sha256:0".to_owned()),
        command: Vec::new(),
        args: Vec::new(),
        working_directory: None,
        environment: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        security: container_runtime::SecurityContext::default(),
        resources: container_runtime::ResourceLimits::default(),
        oom_score_adjust: 0,
        stdin: false,
        stdin_once: false,
        tty: false,
        stop_signal: None,
        processes_of: None,
        annotations: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    ContainerStatus {
        id: ContainerId(format!("{name}-{attempt}")),
        sandbox: SandboxId(sandbox.to_owned()),
        spec,
        state,
        created_at: at(-100),
        log_path: std::path::PathBuf::new(),
        user: None,
    }
}

impl Scene {
    fn running(mut self, name: &str, attempt: u32) -> Self {
        self.containers.push(status("s1", name, attempt, ContainerState::Running { started_at: at(-50), pid: 1 }));
        self
    }
    fn created(mut self, name: &str, attempt: u32) -> Self {
        self.containers.push(status("s1", name, attempt, ContainerState::Created));
        self
    }
    fn exited(self, name: &str, attempt: u32, code: i32) -> Self {
        self.exited_in("s1", name, attempt, code)
    }
    fn exited_in(mut self, sandbox: &str, name: &str, attempt: u32, code: i32) -> Self {
        let exit = ContainerExit { code, signal: 0, finished_at: at(-5), out_of_memory: false, unknown: false, message: String::new() };
        self.containers.push(status(sandbox, name, attempt, ContainerState::Exited { started_at: Some(at(-50)), exit }));
        self
    }
    /// Containers that are made after all were started anew so often.
    fn round(self, round: u32, make: impl FnOnce(Self) -> Self) -> Self {
        let before = self.containers.len();
        let mut scene = make(self);
        for container in &mut scene.containers[before..] {
            container.spec.annotations.insert(annotations::ROUND.to_owned(), round.to_string());
        }
        scene
    }
    fn sandbox(mut self, sandbox: Need<SandboxId>) -> Self {
        self.sandbox = sandbox;
        self
    }
    fn volumes(mut self, volumes: Need<()>) -> Self {
        self.volumes = volumes;
        self
    }
    fn launching(mut self, name: &'static str) -> Self {
        self.launching = Some(name);
        self
    }
    fn crashed_before(mut self, name: &str, times: usize) -> Self {
        for _ in 0..times {
            self.back_offs.raise(&name.to_owned(), at(-10), at(-10));
        }
        self
    }
    fn probed(mut self, id: &str, started: bool, failed: Option<FailedProbe>) -> Self {
        self.probes.insert(ContainerId(id.to_owned()), ProbeState { started, ready: false, failed });
        self
    }
    fn killing(mut self, id: &str, deadline: i64) -> Self {
        self.killing.insert(ContainerId(id.to_owned()), at(deadline));
        self
    }
    fn hook(mut self, id: &str, state: HookState) -> Self {
        self.hooks.insert(ContainerId(id.to_owned()), state);
        self
    }
    fn failed(mut self, name: &str, retry_at: i64) -> Self {
        self.failures.insert(name.to_owned(), LaunchFailure { reason: "ErrImagePull".to_owned(), message: String::new(), retry_at: at(retry_at) });
        self
    }
    fn stopping(mut self, deadline: i64) -> Self {
        self.termination = Some(Termination { deadline: at(deadline), grace: Duration::from_secs(30) });
        self
    }
    fn paused(mut self, until: i64) -> Self {
        self.paused_until = Some(until);
        self
    }
    fn plan(&self) -> Plan {
        next_steps(&Input {
            pod: &self.pod,
            sandbox_limits: self.limits.as_ref(),
            is_resizing: false,
            restarting: &self.restarting,
            now: at(self.now),
            termination: self.termination,
            volumes: &self.volumes,
            sandbox: &self.sandbox,
            sandbox_attempts: 1,
            pause_until: self.paused_until.map(at),
            containers: &self.containers,
            launching: self.launching,
            launch_failures: &self.failures,
            killing: &self.killing,
            hooks: &self.hooks,
            probes: &self.probes,
            back_offs: &self.back_offs,
        })
    }

    /// Compares the plan, written as words, with what is expected.
    #[track_caller]
    fn check(&self, expected: &str) {
        let plan = self.plan();
        let mut words: Vec<String> = plan.steps.iter().map(|step| match step {
            Step::PrepareVolumes => "volumes".to_owned(),
            Step::MakeSandbox { attempt } => format!("sandbox {attempt}"),
            Step::StopSandbox(id) => format!("stop {}", id.0),
            Step::Launch { container, attempt, replaces, .. } => {
                format!("launch {container} {attempt}{}", replaces.as_ref().map(|id| format!(" for {}", id.0)).unwrap_or_default())
            }
            Step::PreStop { container, deadline, .. } => format!("hook {} by {}", container.0, deadline.as_second() - NOW),
            Step::Kill { container, deadline, .. } => format!("kill {} by {}", container.0, deadline.as_second() - NOW),
            Step::Resize(changes) => format!("resize {}", changes.containers.iter().map(|(id, _)| id.0.as_str()).collect::<Vec<_>>().join(" ")),
            Step::Remove(id) => format!("remove {}", id.0),
            Step::ReleaseVolumes => "release".to_owned(),
        }).collect();
        words.extend(plan.wake_at.map(|at| format!("wake {}", at.as_second() - NOW)));
        words.extend(plan.ended.map(|ended| format!("ended {}", ended.reason.unwrap_or_else(|| ended.phase.to_owned()))));
        words.extend(plan.is_terminated.then(|| "terminated".to_owned()));
        assert_eq!(words.join(", "), expected);
    }
}

#[test]
fn a_new_pod_gets_volumes_and_a_sandbox_then_containers() {
    simple("Always").volumes(Need::Missing).sandbox(Need::Missing).check("volumes, sandbox 1");
    simple("Always").volumes(Need::Busy).sandbox(Need::Missing).check("sandbox 1");
    simple("Always").volumes(Need::Broken(())).sandbox(Need::Missing).check("volumes");
    simple("Always").volumes(Need::Busy).check("");
    simple("Always").sandbox(Need::Missing).check("sandbox 1");
    simple("Always").sandbox(Need::Busy).check("");
    simple("Always").check("launch c 0");
    simple("Always").launching("c").check("");
    simple("Always").running("c", 0).check("");
}

/// A pod of an init container, a sidecar and two others, where `c` has all of them started anew by exit code 42.
fn all_or_none() -> Scene {
    let rule = json!({ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } });
    pod(json!({ "restartPolicy": "Never",
        "initContainers": [{ "name": "i", "image": "i" }, { "name": "s", "image": "i", "restartPolicy": "Always" }],
        "containers": [{ "name": "c", "image": "i", "restartPolicyRules": [rule] }, { "name": "d", "image": "i" }] }))
}

#[test]
fn a_rule_has_all_containers_started_anew_init_containers_first() {
    let before = || all_or_none().exited("i", 0, 0).running("s", 0);
    before().exited("c", 0, 42).running("d", 0).check("kill s-0 by 0, kill d-0 by 0");
    before().exited("c", 0, 42).running("d", 0).killing("d-0", 0).check("kill s-0 by 0");
    before().exited("c", 0, 7).running("d", 0).check("");
    // Also what had ended well, or failed for good.
    let ended = || all_or_none().exited("i", 0, 0).exited("s", 0, 137).exited("c", 0, 42).exited("d", 0, 1);
    ended().check("launch i 1");
    let steps = ended().plan().steps;
    assert!(matches!(&steps[..], [Step::Launch { round: 1, last_end: None, .. }]), "{steps:?}");
    ended().round(1, |scene| scene.running("i", 1)).check("");
    ended().round(1, |scene| scene.exited("i", 1, 0)).check("launch s 1");
    ended().round(1, |scene| scene.exited("i", 1, 3)).check("ended Failed");
    let initialized = || ended().round(1, |scene| scene.exited("i", 1, 0).running("s", 1));
    initialized().check("launch c 1");
    let steps = initialized().plan().steps;
    assert!(matches!(&steps[..], [Step::Launch { round: 1, last_end: Some(_), .. }]), "who asks again and again is slowed down: {steps:?}");
    initialized().round(1, |scene| scene.running("c", 1)).check("launch d 1");
    initialized().round(1, |scene| scene.running("c", 1).running("d", 1)).check("");
    initialized().round(1, |scene| scene.exited("c", 1, 0).exited("d", 1, 0)).check("ended Succeeded");
    initialized().round(1, |scene| scene.exited("c", 1, 42).running("d", 1)).check("kill s-1 by 0, kill d-1 by 0");
}

#[test]
fn who_has_all_started_anew_waits_as_one_that_crashes_and_all_others_with_it() {
    let ended = all_or_none().exited("i", 0, 0).exited("s", 0, 137).exited("c", 0, 42).exited("d", 0, 137).crashed_before("c", 1);
    ended.check("wake 5");
    assert!(ended.plan().crash_loops.contains_key("c"));
}

#[test]
fn trouble_with_volumes_and_sandboxes_is_paused() {
    simple("Always").volumes(Need::Broken(())).paused(7).check("wake 7");
    simple("Always").volumes(Need::Broken(())).paused(-1).check("volumes");
    simple("Always").sandbox(Need::Broken(SandboxId("s1".to_owned()))).check("stop s1");
}

#[test]
fn volumes_are_followed_again_after_a_restart_of_the_agent() {
    simple("Always").running("c", 0).volumes(Need::Missing).check("volumes");
}

#[test]
fn the_restart_policy_decides_about_ended_containers() {
    simple("Always").exited("c", 0, 0).check("launch c 1");
    simple("Always").exited("c", 3, 1).check("launch c 4");
    simple("OnFailure").exited("c", 0, 1).check("launch c 1");
    simple("OnFailure").exited("c", 0, 0).check("ended Succeeded");
    simple("Never").exited("c", 0, 1).check("ended Failed");
    simple("Never").exited("c", 0, 0).check("ended Succeeded");
}

#[test]
fn a_containers_own_policy_and_rules_go_first() {
    let rule = json!({ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } });
    let scene = |code| {
        pod(json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [rule] }] }))
            .exited("c", 0, code)
    };
    scene(42).check("launch c 1");
    scene(41).check("ended Failed");
}

#[test]
fn a_crashing_container_waits_longer_each_time() {
    simple("Always").exited("c", 1, 1).crashed_before("c", 1).check("wake 5");
    simple("Always").exited("c", 2, 1).crashed_before("c", 2).check("wake 15");
    assert_eq!(simple("Always").exited("c", 2, 1).crashed_before("c", 2).plan().crash_loops["c"], Duration::from_secs(20));
}

#[test]
fn a_failed_launch_is_tried_again_when_it_is_due() {
    simple("Always").failed("c", 4).check("wake 4");
    simple("Always").failed("c", 0).check("launch c 0");
}

#[test]
fn a_container_that_never_started_is_made_anew() {
    simple("Always").created("c", 2).check("launch c 2 for c-2");
}

fn with_init(policy: &str) -> Scene {
    pod(json!({ "restartPolicy": policy,
        "initContainers": [{ "name": "i1", "image": "i" }, { "name": "i2", "image": "i" }], "containers": [{ "name": "c", "image": "i" }] }))
}

#[test]
fn init_containers_run_one_after_another() {
    with_init("Always").check("launch i1 0");
    with_init("Always").running("i1", 0).check("");
    with_init("Always").exited("i1", 0, 0).check("launch i2 0");
    with_init("Always").exited("i1", 0, 1).check("launch i1 1");
    with_init("Never").exited("i1", 0, 1).check("ended Failed");
    with_init("Always").exited("i1", 0, 0).exited("i2", 0, 0).check("launch c 0");
    with_init("Always").exited("i2", 0, 0).check("launch c 0");
    with_init("Always").running("c", 0).check("");
}

#[test]
fn a_new_sandbox_runs_init_containers_again() {
    with_init("Always").exited_in("s0", "i1", 0, 0).exited_in("s0", "i2", 0, 0).exited_in("s0", "c", 0, 137).check("launch i1 1");
    with_init("Never").sandbox(Need::Missing).exited_in("s0", "i1", 0, 0).exited_in("s0", "i2", 0, 0).exited_in("s0", "c", 0, 137).check("sandbox 1");
}

fn with_sidecar() -> Scene {
    pod(json!({ "restartPolicy": "Never",
        "initContainers": [{ "name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": {} }, { "name": "i1", "image": "i" }],
        "containers": [{ "name": "c", "image": "i" }] }))
}

#[test]
fn a_sidecar_must_have_started_before_the_next_container() {
    with_sidecar().check("launch s 0");
    with_sidecar().running("s", 0).probed("s-0", false, None).check("");
    with_sidecar().running("s", 0).probed("s-0", true, None).check("launch i1 0");
    with_sidecar().running("s", 0).probed("s-0", true, None).running("i1", 0).check("");
    with_sidecar().running("s", 0).probed("s-0", true, None).exited("i1", 0, 0).check("launch c 0");
}

#[test]
fn a_sidecar_is_restarted_whatever_the_policy_and_ends_with_the_pod() {
    with_sidecar().exited("s", 0, 0).exited("i1", 0, 0).running("c", 0).check("launch s 1");
    with_sidecar().running("s", 0).exited("i1", 0, 0).exited("c", 0, 0).check("ended Succeeded");
}

#[test]
fn a_failed_probe_kills_once() {
    simple("Always").running("c", 0).probed("c-0", true, Some(FailedProbe::Liveness)).check("kill c-0 by 30");
    simple("Always").running("c", 0).probed("c-0", true, Some(FailedProbe::Liveness)).killing("c-0", 30).check("");
    let own = json!({ "containers": [{ "name": "c", "image": "i", "livenessProbe": { "terminationGracePeriodSeconds": 3 } }] });
    pod(own).running("c", 0).probed("c-0", true, Some(FailedProbe::Liveness)).check("kill c-0 by 3");
}

#[test]
fn a_changed_image_restarts_its_container() {
    let mut scene = simple("Always").running("c", 0);
    scene.containers[0].spec.annotations.insert(annotations::IMAGE.to_owned(), "old".to_owned());
    scene.check("kill c-0 by 30");
    scene.containers[0].spec.annotations.insert(annotations::IMAGE.to_owned(), "i".to_owned());
    scene.check("");
}

#[test]
fn containers_start_one_after_another() {
    let two = || pod(json!({ "containers": [{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }] }));
    two().check("launch a 0");
    two().launching("a").check("");
    two().running("a", 0).check("launch b 0");
    two().failed("a", 9).check("launch b 0, wake 9");
    two().exited("a", 0, 0).check("launch a 1");
}

#[test]
fn the_deadline_ends_the_pod() {
    let mut scene = pod(json!({ "activeDeadlineSeconds": 10, "containers": [{ "name": "c", "image": "i" }] })).running("c", 0);
    scene.pod.status = serde_json::from_value(json!({ "startTime": at(-4).to_string() })).unwrap();
    scene.check("wake 6");
    scene.now = 6;
    scene.check("ended DeadlineExceeded");
}

#[test]
fn of_ended_containers_two_are_kept() {
    simple("Always").exited("c", 0, 1).exited("c", 1, 1).exited("c", 2, 1).running("c", 3).check("remove c-1, remove c-0");
}

#[test]
fn ephemeral_containers_run_once() {
    let scene = || pod(json!({ "containers": [{ "name": "c", "image": "i" }], "ephemeralContainers": [{ "name": "e", "image": "i" }] }));
    scene().running("c", 0).check("launch e 0");
    scene().running("c", 0).exited("e", 0, 1).check("");
}

#[test]
fn containers_lost_with_a_reboot_start_anew_and_count_on() {
    let mut scene = simple("Always").sandbox(Need::Missing);
    scene.pod.status = serde_json::from_value(json!({ "containerStatuses": [{ "name": "c", "image": "i", "imageID": "", "ready": true,
        "restartCount": 4, "containerID": "knarr://x", "state": { "running": {} } }] }))
    .unwrap();
    scene.check("sandbox 1");
    scene.sandbox = Need::Ready(SandboxId("s1".to_owned()));
    scene.check("launch c 5");
    scene.pod.spec.as_mut().unwrap().restart_policy = Some("Never".to_owned());
    scene.check("ended Failed");
}

#[test]
fn a_stopping_pod_stops_its_containers_then_its_sandbox_then_its_volumes() {
    simple("Always").running("c", 0).stopping(30).check("kill c-0 by 30");
    simple("Always").running("c", 0).killing("c-0", 30).stopping(30).check("");
    simple("Always").exited("c", 0, 0).stopping(30).check("stop s1");
    simple("Always").exited("c", 0, 0).sandbox(Need::Missing).stopping(30).check("release");
    simple("Always").exited("c", 0, 0).sandbox(Need::Missing).volumes(Need::Missing).stopping(30).check("terminated");
    simple("Always").launching("c").stopping(30).check("");
}

#[test]
fn a_shorter_grace_period_kills_again() {
    simple("Always").running("c", 0).killing("c-0", 30).stopping(1).check("kill c-0 by 1");
}

#[test]
fn sidecars_stop_last_and_in_reverse() {
    let scene = || {
        pod(json!({ "initContainers": [{ "name": "s1", "image": "i", "restartPolicy": "Always" }, { "name": "s2", "image": "i", "restartPolicy": "Always" }],
            "containers": [{ "name": "c", "image": "i" }] }))
        .running("s1", 0)
        .running("s2", 0)
        .stopping(30)
    };
    scene().running("c", 0).check("hook s2-0 by 30, hook s1-0 by 30, kill c-0 by 30, wake 30");
    let hooked = || scene().hook("s1-0", HookState::Done).hook("s2-0", HookState::Done);
    hooked().running("c", 0).killing("c-0", 30).check("wake 30");
    hooked().exited("c", 0, 0).check("kill s2-0 by 30, wake 30");
    hooked().exited("c", 0, 0).stopping(-1).check("kill s2-0 by -1, kill s1-0 by -1");
}

#[test]
fn a_sidecar_is_stopped_once_its_hook_has_run() {
    let scene = || {
        pod(json!({ "initContainers": [{ "name": "s", "image": "i", "restartPolicy": "Always" }], "containers": [{ "name": "c", "image": "i" }] }))
            .running("s", 0)
            .exited("c", 0, 0)
            .stopping(30)
    };
    scene().hook("s-0", HookState::Running(at(30))).check("wake 30");
    scene().hook("s-0", HookState::Done).check("kill s-0 by 30, wake 30");
    // At the deadline the hook is cut off, which is heard of; one that began under a longer grace period is not waited for.
    scene().hook("s-0", HookState::Running(at(-1))).stopping(-1).check("");
    scene().hook("s-0", HookState::Running(at(30))).stopping(-1).check("kill s-0 by -1");
    // A probe had it stopped before, with its hook.
    scene().killing("s-0", 40).check("kill s-0 by 30, wake 30");
}

#[test]
fn a_failed_stop_is_tried_again_later() {
    simple("Always").running("c", 0).stopping(30).paused(3).check("wake 3");
}

/// A pod whose container has limits, and runs with them, as its sandbox does; the pod was then granted others.
fn resized(policy: &str, resize_policy: &str) -> Scene {
    let spec = |cpu: &str| {
        json!({ "restartPolicy": policy, "containers": [{ "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu }, "limits": { "cpu": cpu } },
            "resizePolicy": [{ "resourceName": "cpu", "restartPolicy": resize_policy }] }] })
    };
    let before = pod(spec("1"));
    let mut scene = pod(spec("2")).running("c", 0);
    scene.limits = Some(super::super::resources::pod_limits(&before.pod));
    scene.containers[0].spec.resources = super::super::resources::container_limits(&before.pod, &before.pod.spec.as_ref().unwrap().containers[0]);
    scene
}

#[test]
fn limits_change_in_place_or_by_a_restart() {
    resized("Always", "NotRequired").check("resize c-0");
    resized("Always", "NotRequired").paused(7).check("wake 7");
    resized("Always", "RestartContainer").check("kill c-0 by 30, resize ");
}

#[test]
fn a_container_that_was_stopped_for_its_resources_starts_again_whatever_the_policy() {
    let mut scene = resized("OnFailure", "RestartContainer");
    scene.containers.clear();
    let mut scene = scene.exited("c", 0, 0);
    scene.check("ended Succeeded");
    scene.restarting.insert(scene.containers[0].id.clone());
    scene.check("resize ");
    scene.limits = Some(super::super::resources::pod_limits(&scene.pod));
    scene.check("launch c 1");
}
