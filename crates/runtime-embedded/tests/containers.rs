//! Containers from start to end: output, exit codes, exec, attach, and nothing left behind.

mod support;

use std::time::Duration;

use container_runtime::{ContainerRuntime, ContainerState, ExecRequest};
use support::{Node, container, log_lines};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_prints_and_ends_with_its_code() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("web").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sh", "-c", "echo out; echo err >&2; sleep 0.2; hostname; exit 3"])).await;
    let status = node.wait_for_exit(&id).await;
    let ContainerState::Exited { exit, started_at } = &status.state else { panic!("{status:?}") };
    assert_eq!((exit.code, exit.signal, exit.unknown, exit.out_of_memory), (3, 0, false, false));
    assert!(started_at.unwrap() < exit.finished_at);
    let mut lines = log_lines(&status);
    lines.sort();
    assert_eq!(lines, ["stderr err", "stdout out", "stdout web"]);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_running_container() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("web").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sleep", "1000"])).await;
    assert_eq!(node.exec(&id, "echo hello; exit 4").await, (4, "hello\n".to_owned()));
    let started = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(node.exec(&id, "true").await.0, 0);
    }
    println!("exec: {:?} each", started.elapsed() / 10);
    let started = std::time::Instant::now();
    node.runtime().stop_container(&id, Duration::from_millis(100)).await.unwrap();
    // It sleeps for a thousand seconds if it is let.
    assert!(started.elapsed() < Duration::from_secs(60));
    let status = node.runtime().container_status(&id).await.unwrap();
    let ContainerState::Exited { exit, .. } = &status.state else { panic!("{status:?}") };
    assert_eq!((exit.code, exit.signal), (137, 9));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_command_are_its_own() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("web").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sleep", "1000"])).await;
    let request = ExecRequest { command: ["/bin/sh", "-c", "cat; echo done >&2; exit 7"].map(str::to_owned).to_vec(), stdin: true, stdout: true, stderr: true, tty: false };
    let mut session = node.runtime().exec(&id, &request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"through the cat").await.unwrap();
    drop(stdin);
    let (mut output, mut errors) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
    assert_eq!((output.as_str(), errors.as_str(), session.exit.await.unwrap().unwrap()), ("through the cat", "done\n", 7));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_is_quick() {
    let (node, image) = Node::with_busybox().await;
    let mut times = Vec::new();
    for number in 0..10 {
        let started = std::time::Instant::now();
        let sandbox = node.sandbox(&format!("pod-{number}")).await;
        let made = started.elapsed();
        node.run(&sandbox, &container("main", &image, &["/bin/sleep", "1000"])).await;
        times.push((started.elapsed(), made));
    }
    times.sort();
    println!("sandbox and container: {:?} (sandbox alone {:?})", times[5].0, times[5].1);
    let started = std::time::Instant::now();
    let pods = (0..30).map(|number| {
        let (node, image) = (&node, &image);
        async move {
            let sandbox = node.sandbox(&format!("many-{number}")).await;
            node.run(&sandbox, &container("main", image, &["/bin/sleep", "1000"])).await;
        }
    });
    futures::future::join_all(pods).await;
    println!("30 pods at once: {:?}", started.elapsed());
    let started = std::time::Instant::now();
    node.finish().await;
    println!("40 pods removed: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_runtime_keeps_the_contract() {
    let (mut node, _) = Node::with_busybox().await;
    let runtime = std::sync::Arc::new(node.runtime.take().unwrap());
    let subject = container_runtime::contract::Subject {
        runtime: std::sync::Arc::clone(&runtime) as _,
        image: "busybox".to_owned(),
        log_directory: node.directory.path().join("logs"),
        keep: Box::new(()),
    };
    container_runtime::contract::run(&subject).await;
    drop(subject);
    node.runtime = std::sync::Arc::into_inner(runtime);
    node.finish().await;
}
