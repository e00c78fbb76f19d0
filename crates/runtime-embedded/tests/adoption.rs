//! Agents come and go, containers stay: killing the agent, losing a shim, and secrets that never reach a disk.

mod support;

use std::{io::BufRead, time::Duration};

use container_runtime::{ContainerId, ContainerRuntime, ContainerState, RuntimeEvent, SandboxId, SandboxState};
use futures::StreamExt;
use runtime_embedded::EmbeddedRuntime;
use support::{Node, container, files_with, is_alive, log_text, until};

/// Set for the process that plays the agent which is killed.
const AGENT: &str = "KNARR_TEST_AGENT";

/// Not a test of its own: run in a process of its own, it is the agent that the next test kills.
#[test]
fn the_agent_that_is_killed() {
    let Some(directory) = std::env::var_os(AGENT) else { return };
    let directory = std::path::PathBuf::from(directory);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut options = runtime_embedded::Options::new(directory.join("data"), directory.join("run"));
        options.cgroup_root = directory.file_name().unwrap().to_string_lossy().into_owned();
        options.helper = runtime_embedded::Helper { program: env!("CARGO_BIN_EXE_runtime-embedded-helper").into(), arguments: Vec::new() };
        let runtime = EmbeddedRuntime::open(options).await.unwrap();
        let image = runtime.image_status("busybox").await.unwrap().unwrap().id;
        let spec = support::sandbox_spec(&directory, "survivor");
        let sandbox = runtime.run_sandbox(&spec).await.unwrap().id;
        let mut ids = Vec::new();
        for (name, script) in [("stays", "echo begin; sleep 3; echo end; sleep 1000"), ("ends", "sleep 1; exit 42"), ("ended", "exit 7")] {
            let id = runtime.create_container(&sandbox, &container(name, &image, &["/bin/sh", "-c", script])).await.unwrap();
            runtime.start_container(&id).await.unwrap();
            ids.push(id);
        }
        ids.push(runtime.create_container(&sandbox, &container("waits", &image, &["/bin/sleep", "1000"])).await.unwrap());
        let ContainerState::Running { pid, .. } = runtime.container_status(&ids[0]).await.unwrap().state else { panic!() };
        let ids: Vec<String> = ids.into_iter().map(|id| id.0).collect();
        println!("agent {} {pid} {}", sandbox.0, ids.join(" "));
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_an_agent_that_is_killed() {
    let (mut node, _) = Node::with_busybox().await;
    drop(node.runtime.take());
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_agent_that_is_killed", "--nocapture"])
        .env(AGENT, node.directory.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(agent.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("agent ").map(str::to_owned)).unwrap();
    let words: Vec<&str> = told.split(' ').collect();
    let (sandbox, pid) = (SandboxId(words[0].to_owned()), words[1].parse::<i32>().unwrap());
    let ids: Vec<ContainerId> = words[2..].iter().map(|id| ContainerId((*id).to_owned())).collect();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(is_alive(pid));
    // One container ends while no agent looks.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before_adoption = jiff::Timestamp::now();

    node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
    let sandboxes = node.runtime().list_sandboxes().await.unwrap();
    assert_eq!((sandboxes.len(), &sandboxes[0].id, sandboxes[0].state), (1, &sandbox, SandboxState::Ready));
    assert_eq!(node.pid(&ids[0]).await, pid);
    assert_eq!(node.exec(&ids[0], "echo alive").await, (0, "alive\n".to_owned()));
    for (id, code) in [(&ids[1], 42), (&ids[2], 7)] {
        let ContainerState::Exited { exit, started_at } = node.runtime().container_status(id).await.unwrap().state else { panic!("{id:?}") };
        assert_eq!((exit.code, exit.unknown), (code, false));
        assert!(started_at.unwrap() < exit.finished_at && exit.finished_at < before_adoption);
    }
    assert_eq!(node.runtime().container_status(&ids[3]).await.unwrap().state, ContainerState::Created);
    node.runtime().start_container(&ids[3]).await.unwrap();

    // Its output went on to be logged all the time, and its end is heard as an event.
    let mut events = node.runtime().events();
    until("the log is complete", || log_text(&futures::executor::block_on(node.runtime().container_status(&ids[0])).unwrap()) == "begin\nend\n").await;
    node.runtime().stop_container(&ids[0], Duration::ZERO).await.unwrap();
    let event = events.next().await.unwrap();
    assert_eq!(event, RuntimeEvent::ContainerExited { pod_uid: "uid-survivor".to_owned(), container: ids[0].clone() });
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shim_is_told_and_what_it_held_is_killed() {
    let (mut node, image) = Node::with_busybox().await;
    for with_agent in [true, false] {
        let sandbox = node.sandbox(&format!("lost-{with_agent}")).await;
        let ended = node.run(&sandbox, &container("ended", &image, &["/bin/sh", "-c", "exit 5"])).await;
        let running = node.run(&sandbox, &container("running", &image, &["/bin/sleep", "1000"])).await;
        node.wait_for_exit(&ended).await;
        let pid = node.pid(&running).await;
        let status = node.runtime().list_sandboxes().await.unwrap().into_iter().find(|status| status.id == sandbox).unwrap();
        let shim: i32 = status.network_namespace.unwrap().components().nth(2).unwrap().as_os_str().to_str().unwrap().parse().unwrap();
        let mut events = node.runtime().events();
        if !with_agent {
            drop(node.runtime.take());
        }
        assert!(std::process::Command::new("kill").args(["-9", &shim.to_string()]).status().unwrap().success());
        if with_agent {
            loop {
                match tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap() {
                    RuntimeEvent::SandboxLost { sandbox: lost, .. } if lost == sandbox => break,
                    _ => {}
                }
            }
        } else {
            until("the shim is dead", || !is_alive(shim)).await;
            node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
        }
        for _ in 0..2 {
            let status = node.runtime().list_sandboxes().await.unwrap().into_iter().find(|status| status.id == sandbox).unwrap();
            assert_eq!(status.state, SandboxState::NotReady);
            let ContainerState::Exited { exit, .. } = node.runtime().container_status(&running).await.unwrap().state else { panic!() };
            assert_eq!((exit.code, exit.unknown), (137, true));
            let ContainerState::Exited { exit, .. } = node.runtime().container_status(&ended).await.unwrap().state else { panic!() };
            assert_eq!((exit.code, exit.unknown), (5, false));
            until("its process is gone", || !is_alive(pid)).await;
            node.restart().await;
        }
        node.runtime().remove_sandbox(&sandbox).await.unwrap();
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_sandbox_stays_stopped() {
    let (mut node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("stopped").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sh", "-c", "exit 3"])).await;
    node.wait_for_exit(&id).await;
    node.runtime().stop_sandbox(&sandbox).await.unwrap();
    node.restart().await;
    assert_eq!(node.runtime().list_sandboxes().await.unwrap()[0].state, SandboxState::NotReady);
    let ContainerState::Exited { exit, .. } = node.runtime().container_status(&id).await.unwrap().state else { panic!() };
    assert_eq!((exit.code, exit.unknown), (3, false));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_value_reaches_a_disk() {
    let (node, image) = Node::with_busybox().await;
    let secret = "hunter2-hunter2-hunter2";
    let sandbox = node.sandbox("secret").await;
    let mut spec = container("main", &image, &["/bin/sh", "-c", "sleep 1000"]);
    spec.environment = vec![("PASSWORD".to_owned(), secret.to_owned())];
    let id = node.run(&sandbox, &spec).await;
    assert_eq!(node.exec(&id, "echo $PASSWORD").await.1, format!("{secret}\n"));
    assert_eq!(files_with(&node.options.data_directory, secret), Vec::<std::path::PathBuf>::new());
    assert_eq!(files_with(&node.directory.path().join("logs"), secret), Vec::<std::path::PathBuf>::new());
    // They have to be somewhere, but that is memory.
    assert!(!files_with(&node.options.run_directory, secret).is_empty());
    let kind = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(&node.options.run_directory).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&kind.stdout).trim(), "tmpfs");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_whose_agent_died_before_writing_it_down_is_found() {
    let (mut node, _) = Node::with_busybox().await;
    let sandbox = node.sandbox("unrecorded").await;
    let status = node.runtime().list_sandboxes().await.unwrap().remove(0);
    let shim: i32 = status.network_namespace.unwrap().components().nth(2).unwrap().as_os_str().to_str().unwrap().parse().unwrap();
    drop(node.runtime.take());
    let record = node.sandbox_directory(&sandbox).join("sandbox.json");
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    text["shim"] = serde_json::Value::Null;
    std::fs::write(&record, serde_json::to_vec(&text).unwrap()).unwrap();
    node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
    until("the shim is gone", || !is_alive(shim)).await;
    assert_eq!(node.runtime().list_sandboxes().await.unwrap()[0].state, SandboxState::NotReady);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_made_sandbox_and_stray_layers_are_cleaned_up() {
    let (mut node, _) = Node::with_busybox().await;
    drop(node.runtime.take());
    let half = node.options.run_directory.join("sandboxes/half/containers");
    let stray = node.options.data_directory.join("containers/stray/upper");
    std::fs::create_dir_all(&half).unwrap();
    std::fs::create_dir_all(&stray).unwrap();
    node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
    assert!(node.runtime().list_sandboxes().await.unwrap().is_empty() && !half.exists());
    until("the stray layer is gone", || !stray.exists()).await;
    node.finish().await;
}
