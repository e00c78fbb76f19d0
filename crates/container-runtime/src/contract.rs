//! What every filling of the seam must do, as tests that each of them runs: the fake, the embedded runtime, and any to come.
//!
//! The commands used are the few that [`crate::fake`] understands (`echo`, `sleep`, `cat`, `exit` in `sh -c`).

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    ContainerId, ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, ExecRequest, HostNamespaces, ImageId, ResourceLimits, RuntimeError,
    RuntimeEvent, SandboxId, SandboxSpec, SandboxState, SecurityContext,
};

/// A runtime under test.
pub struct Subject {
    /// The runtime.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Name of an image with a shell that is on the node.
    pub image: String,
    /// Directory for logs.
    pub log_directory: PathBuf,
    /// Whatever must live as long as the runtime.
    pub keep: Box<dyn Any + Send + Sync>,
}

type Case = for<'a> fn(&'a Subject) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Runs every case on the subject.
///
/// # Panics
/// Where a promise is broken, with its name.
pub async fn run(subject: &Subject) {
    let cases: [(&str, Case); 15] = [
        ("a sandbox can be made, stopped and removed, each more than once", |subject| Box::pin(a_sandbox_lives_and_goes(subject))),
        ("each attempt is a sandbox of its own", |subject| Box::pin(each_attempt_is_its_own(subject))),
        ("creating runs nothing, starting does, and may be repeated", |subject| Box::pin(creating_runs_nothing(subject))),
        ("a container that ends is seen to end, with code, times and log", |subject| Box::pin(an_end_is_seen(subject))),
        ("stopping ends a container and may be repeated", |subject| Box::pin(stopping_may_be_repeated(subject))),
        ("a removed container is gone", |subject| Box::pin(a_removed_container_is_gone(subject))),
        ("what is unknown is said to be", |subject| Box::pin(unknown_things(subject))),
        ("a command's code and output are told", |subject| Box::pin(a_command_is_run(subject))),
        ("a command that takes too long is given up", |subject| Box::pin(a_slow_command_is_given_up(subject))),
        ("streams of a command reach it and come back", |subject| Box::pin(streams_of_a_command(subject))),
        ("attached input reaches a container's first process", |subject| Box::pin(attached_streams(subject))),
        ("stopping a sandbox ends its containers, and keeps their records", |subject| Box::pin(a_stopped_sandbox(subject))),
        ("specs, annotations and limits come back as they were given", |subject| Box::pin(specs_come_back(subject))),
        ("a rotated log goes on in a new file", |subject| Box::pin(a_rotated_log(subject))),
        ("images are found by every name they have", |subject| Box::pin(images_are_found(subject))),
    ];
    for (name, case) in cases {
        println!("contract: {name}");
        assert!(tokio::time::timeout(Duration::from_secs(60), case(subject)).await.is_ok(), "contract: {name}: takes more than a minute");
    }
}

impl Subject {
    fn sandbox_spec(&self, name: &str) -> SandboxSpec {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        SandboxSpec {
            pod_uid: format!("uid-{name}"),
            pod_name: name.clone(),
            pod_namespace: "default".to_owned(),
            attempt: 0,
            hostname: name.clone(),
            users: None,
            host: HostNamespaces::default(),
            cgroup_parent: format!("besteffort/pod-{name}"),
            resources: ResourceLimits::default(),
            sysctls: BTreeMap::new(),
            log_directory: self.log_directory.join(&name),
            labels: BTreeMap::from([("made-by".to_owned(), "contract".to_owned())]),
        }
    }

    async fn sandbox(&self, name: &str) -> SandboxId {
        self.runtime.run_sandbox(&self.sandbox_spec(name)).await.expect("a sandbox").id
    }

    async fn image(&self) -> ImageId {
        self.runtime.image_status(&self.image).await.expect("an answer").expect("the image of the contract").id
    }

    async fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: "main".to_owned(),
            attempt: 0,
            image: self.image().await,
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            args: Vec::new(),
            working_directory: None,
            environment: vec![("GREETING".to_owned(), "hello".to_owned())],
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
            annotations: BTreeMap::from([("hash".to_owned(), "abc".to_owned())]),
            labels: BTreeMap::new(),
        }
    }

    async fn start(&self, sandbox: &SandboxId, script: &str) -> ContainerId {
        let id = self.runtime.create_container(sandbox, &self.spec(script).await).await.expect("a container");
        self.runtime.start_container(&id).await.expect("a running container");
        id
    }

    async fn status(&self, container: &ContainerId) -> ContainerStatus {
        self.runtime.container_status(container).await.expect("a status")
    }

    async fn remove(&self, sandbox: &SandboxId) {
        self.runtime.remove_sandbox(sandbox).await.expect("a sandbox that can be removed");
    }

    /// Waits for a container's end by events, as the node does.
    async fn wait_for_exit(&self, container: &ContainerId) -> ContainerStatus {
        let mut events = self.runtime.events();
        loop {
            let status = self.status(container).await;
            if matches!(status.state, ContainerState::Exited { .. }) {
                return status;
            }
            events.next().await.expect("events that do not end");
        }
    }
}

async fn a_sandbox_lives_and_goes(subject: &Subject) {
    let spec = subject.sandbox_spec("sandbox");
    let made = subject.runtime.run_sandbox(&spec).await.expect("a sandbox");
    assert_eq!((made.state, &made.spec), (SandboxState::Ready, &spec));
    assert!(subject.runtime.list_sandboxes().await.expect("a list").contains(&made));
    for _ in 0..2 {
        subject.runtime.stop_sandbox(&made.id).await.expect("stopping, also again");
        let listed = subject.runtime.list_sandboxes().await.expect("a list");
        assert_eq!(listed.iter().find(|sandbox| sandbox.id == made.id).expect("still listed").state, SandboxState::NotReady);
    }
    for _ in 0..2 {
        subject.runtime.remove_sandbox(&made.id).await.expect("removing, also again");
        assert!(!subject.runtime.list_sandboxes().await.expect("a list").iter().any(|sandbox| sandbox.id == made.id));
    }
    subject.runtime.stop_sandbox(&made.id).await.expect("stopping what is gone");
}

async fn each_attempt_is_its_own(subject: &Subject) {
    let first_spec = subject.sandbox_spec("attempts");
    let first = subject.runtime.run_sandbox(&first_spec).await.expect("a sandbox").id;
    let old = subject.start(&first, "sleep 1000").await;
    subject.runtime.stop_sandbox(&first).await.expect("stopping");
    let second = subject.runtime.run_sandbox(&SandboxSpec { attempt: 1, ..first_spec }).await.expect("a second sandbox").id;
    assert_ne!(first, second);
    let running = subject.start(&second, "sleep 1000").await;
    assert_ne!(old, running);
    // Removing the old one must not touch the new one, though both are of one pod.
    subject.remove(&first).await;
    assert!(matches!(subject.status(&running).await.state, ContainerState::Running { .. }));
    subject.remove(&second).await;
}

async fn creating_runs_nothing(subject: &Subject) {
    let sandbox = subject.sandbox("create").await;
    let id = subject.runtime.create_container(&sandbox, &subject.spec("sleep 1000").await).await.expect("a container");
    assert_eq!(subject.status(&id).await.state, ContainerState::Created);
    subject.runtime.start_container(&id).await.expect("starting");
    let ContainerState::Running { pid, started_at } = subject.status(&id).await.state else { panic!("it should run") };
    assert!(pid > 0);
    subject.runtime.start_container(&id).await.expect("starting what runs");
    assert_eq!(subject.status(&id).await.state, ContainerState::Running { pid, started_at });
    subject.remove(&sandbox).await;
}

async fn an_end_is_seen(subject: &Subject) {
    let sandbox = subject.sandbox("end").await;
    let mut events = subject.runtime.events();
    let id = subject.start(&sandbox, "echo $GREETING; echo trouble >&2; sleep 0.1; exit 3").await;
    let status = subject.wait_for_exit(&id).await;
    let ContainerState::Exited { exit, started_at } = &status.state else { panic!("it should have ended") };
    assert_eq!((exit.code, exit.signal, exit.unknown, exit.out_of_memory), (3, 0, false, false));
    assert!(started_at.expect("a start") <= exit.finished_at);
    loop {
        match events.next().await.expect("events that do not end") {
            RuntimeEvent::ContainerExited { container, pod_uid } if container == id => {
                assert!(pod_uid.starts_with("uid-end"));
                break;
            }
            _ => {}
        }
    }
    let log = std::fs::read_to_string(&status.log_path).expect("a log");
    let mut lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').expect("a time and more").1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F trouble", "stdout F hello"]);
    let time = log.split(' ').next().expect("a time");
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    subject.remove(&sandbox).await;
}

async fn stopping_may_be_repeated(subject: &Subject) {
    let sandbox = subject.sandbox("stop").await;
    let id = subject.start(&sandbox, "sleep 1000").await;
    for _ in 0..2 {
        subject.runtime.stop_container(&id, Duration::from_millis(300)).await.expect("stopping, also again");
        assert!(matches!(subject.status(&id).await.state, ContainerState::Exited { .. }));
    }
    let never = subject.runtime.create_container(&sandbox, &subject.spec("sleep 1000").await).await.expect("a container");
    subject.runtime.stop_container(&never, Duration::ZERO).await.expect("stopping what never ran");
    subject.remove(&sandbox).await;
}

async fn a_removed_container_is_gone(subject: &Subject) {
    let sandbox = subject.sandbox("remove").await;
    let id = subject.start(&sandbox, "echo kept; sleep 1000").await;
    let log = subject.status(&id).await.log_path;
    // The log is written by somebody else, so it may take a moment.
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("kept")) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..2 {
        subject.runtime.remove_container(&id).await.expect("removing, also again");
        assert!(matches!(subject.runtime.container_status(&id).await, Err(RuntimeError::NoSuchContainer(_))));
    }
    assert!(subject.runtime.list_containers(Some(&sandbox)).await.expect("a list").is_empty());
    assert!(log.exists(), "logs stay");
    subject.remove(&sandbox).await;
}

async fn unknown_things(subject: &Subject) {
    let (sandbox, container) = (SandboxId("none".to_owned()), ContainerId("none".to_owned()));
    let spec = subject.spec("sleep 1").await;
    assert!(matches!(subject.runtime.create_container(&sandbox, &spec).await, Err(RuntimeError::NoSuchSandbox(_))));
    assert!(matches!(subject.runtime.start_container(&container).await, Err(RuntimeError::NoSuchContainer(_))));
    assert!(matches!(subject.runtime.container_usage(&container).await, Err(RuntimeError::NoSuchContainer(_))));
    assert!(matches!(subject.runtime.exec_sync(&container, &spec.command, Duration::ZERO).await, Err(RuntimeError::NoSuchContainer(_))));
    subject.runtime.stop_container(&container, Duration::ZERO).await.expect("stopping what is not there");
    subject.runtime.remove_container(&container).await.expect("removing what is not there");
    let real = subject.sandbox("unknown").await;
    let spec = ContainerSpec { image: ImageId(format!("sha256:{}", "0".repeat(64))), ..spec };
    assert!(matches!(subject.runtime.create_container(&real, &spec).await, Err(RuntimeError::NoSuchImage(_))));
    subject.remove(&real).await;
}

async fn a_command_is_run(subject: &Subject) {
    let sandbox = subject.sandbox("exec").await;
    let id = subject.runtime.create_container(&sandbox, &subject.spec("sleep 1000").await).await.expect("a container");
    let command = ["/bin/sh", "-c", "echo $GREETING; exit 5"].map(str::to_owned);
    let limit = Duration::from_secs(20);
    assert!(matches!(subject.runtime.exec_sync(&id, &command, limit).await, Err(RuntimeError::NotRunning(_))));
    subject.runtime.start_container(&id).await.expect("starting");
    let output = subject.runtime.exec_sync(&id, &command, limit).await.expect("an output");
    assert_eq!((output.code, output.output.as_slice()), (5, b"hello\n".as_slice()));
    assert!(matches!(subject.status(&id).await.state, ContainerState::Running { .. }), "the container goes on");
    subject.remove(&sandbox).await;
}

async fn a_slow_command_is_given_up(subject: &Subject) {
    let sandbox = subject.sandbox("slow").await;
    let id = subject.start(&sandbox, "sleep 1000").await;
    let command = ["sleep", "1000"].map(str::to_owned);
    let answer = subject.runtime.exec_sync(&id, &command, Duration::from_millis(200)).await;
    assert!(matches!(answer, Err(RuntimeError::Timeout(_))), "{answer:?}");
    subject.remove(&sandbox).await;
}

async fn streams_of_a_command(subject: &Subject) {
    let sandbox = subject.sandbox("streams").await;
    let id = subject.start(&sandbox, "sleep 1000").await;
    let request = ExecRequest { command: ["/bin/sh", "-c", "cat; echo end >&2; exit 2"].map(str::to_owned).to_vec(), stdin: true, stdout: true, stderr: true, tty: false };
    let mut session = subject.runtime.exec(&id, &request).await.expect("a session");
    let mut stdin = session.stdin.take().expect("its input");
    stdin.write_all(b"round trip").await.expect("a reader");
    drop(stdin);
    let (mut output, mut errors) = (String::new(), String::new());
    session.stdout.take().expect("its output").read_to_string(&mut output).await.expect("its output");
    session.stderr.take().expect("its errors").read_to_string(&mut errors).await.expect("its errors");
    assert_eq!((output.as_str(), errors.as_str()), ("round trip", "end\n"));
    assert_eq!(session.exit.await.expect("an end").expect("a code"), 2);
    subject.remove(&sandbox).await;
}

async fn attached_streams(subject: &Subject) {
    let sandbox = subject.sandbox("attach").await;
    let spec = ContainerSpec { stdin: true, command: vec!["cat".to_owned()], ..subject.spec("").await };
    let id = subject.runtime.create_container(&sandbox, &spec).await.expect("a container");
    subject.runtime.start_container(&id).await.expect("starting");
    let request = ExecRequest { stdin: true, stdout: true, stderr: true, ..ExecRequest::default() };
    let mut session = subject.runtime.attach(&id, &request).await.expect("a session");
    session.stdin.as_mut().expect("its input").write_all(b"echo\n").await.expect("a reader");
    let mut answer = [0; 5];
    session.stdout.as_mut().expect("its output").read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"echo\n");
    subject.runtime.stop_container(&id, Duration::ZERO).await.expect("stopping");
    session.exit.await.expect("an end").expect("a code");
    subject.remove(&sandbox).await;
}

async fn a_stopped_sandbox(subject: &Subject) {
    let sandbox = subject.sandbox("stopped").await;
    let running = subject.start(&sandbox, "sleep 1000").await;
    let ended = subject.start(&sandbox, "exit 4").await;
    subject.wait_for_exit(&ended).await;
    subject.runtime.stop_sandbox(&sandbox).await.expect("stopping");
    let ContainerState::Exited { exit, .. } = subject.status(&running).await.state else { panic!("it should have ended") };
    assert_eq!(exit.code, 137);
    let ContainerState::Exited { exit, .. } = subject.status(&ended).await.state else { panic!("it had ended") };
    assert_eq!(exit.code, 4);
    subject.remove(&sandbox).await;
    assert!(matches!(subject.runtime.container_status(&ended).await, Err(RuntimeError::NoSuchContainer(_))), "containers go with their sandbox");
}

async fn specs_come_back(subject: &Subject) {
    let sandbox = subject.sandbox("specs").await;
    let spec = subject.spec("sleep 1000").await;
    let id = subject.runtime.create_container(&sandbox, &spec).await.expect("a container");
    subject.runtime.start_container(&id).await.expect("starting");
    let status = subject.status(&id).await;
    assert_eq!((&status.spec, &status.sandbox), (&spec, &sandbox));
    assert!(status.log_path.ends_with("main/0.log"));
    assert_eq!(subject.runtime.list_containers(Some(&sandbox)).await.expect("a list"), [status]);
    let limits = ResourceLimits { memory_bytes: Some(128 << 20), cpu_shares: Some(512), ..ResourceLimits::default() };
    subject.runtime.update_resources(&id, &limits).await.expect("new limits");
    assert_eq!(subject.status(&id).await.spec.resources, limits);
    subject.runtime.update_sandbox_resources(&sandbox, &limits).await.expect("new limits of the pod");
    let sandboxes = subject.runtime.list_sandboxes().await.expect("a list");
    assert!(sandboxes.iter().any(|known| known.id == sandbox && known.spec.resources == limits));
    assert!(subject.runtime.container_usage(&id).await.expect("a usage").processes > 0);
    subject.remove(&sandbox).await;
}

async fn a_rotated_log(subject: &Subject) {
    let sandbox = subject.sandbox("log").await;
    let id = subject.start(&sandbox, "echo first; sleep 1000").await;
    let log = subject.status(&id).await.log_path;
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("first")) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::rename(&log, log.with_extension("log.1")).expect("a log that can be renamed");
    subject.runtime.reopen_log(&id).await.expect("a new log");
    assert_eq!(std::fs::read_to_string(&log).expect("the new log"), "");
    subject.remove(&sandbox).await;
}

async fn images_are_found(subject: &Subject) {
    let image = subject.runtime.image_status(&subject.image).await.expect("an answer").expect("the image");
    assert!(image.size_bytes > 0 && !image.tags.is_empty());
    assert_eq!(subject.runtime.image_status(&image.id.0).await.expect("an answer").as_ref(), Some(&image));
    assert_eq!(subject.runtime.image_status(&image.tags[0]).await.expect("an answer").as_ref(), Some(&image));
    assert!(subject.runtime.list_images().await.expect("a list").contains(&image));
    assert_eq!(subject.runtime.image_status("registry.example/nothing:here").await.expect("an answer"), None);
    subject.runtime.remove_image("registry.example/nothing:here").await.expect("removing what is not there");
    assert!(matches!(subject.runtime.image_status("Not A Name").await, Err(RuntimeError::InvalidImageName { .. })));
    assert!(matches!(subject.runtime.pull_image("Not A Name", &[]).await, Err(RuntimeError::InvalidImageName { .. })));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_fake_keeps_the_contract() {
        let fake = crate::fake::FakeRuntime::new();
        fake.pull_image("busybox", &[]).await.unwrap();
        fake.set_stop_code(137);
        let log_directory = std::env::temp_dir().join(format!("knarr-contract-{}", std::process::id()));
        let subject = Subject { runtime: fake, image: "busybox".to_owned(), log_directory: log_directory.clone(), keep: Box::new(()) };
        run(&subject).await;
        std::fs::remove_dir_all(log_directory).unwrap();
    }
}
