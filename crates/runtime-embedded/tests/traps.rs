//! The fifteen ways in which running containers went wrong when it was first tried, each kept from coming back.

mod support;

use std::{io::Write, os::unix::net::UnixStream, path::Path, time::Duration};

use container_runtime::{
    ContainerRuntime, ContainerState, ExecRequest, Mount, MountPropagation, RuntimeError, SeccompProfile, SecurityContext,
};
use support::{
    Node, container,
    image::{Image, Layer},
    is_alive, log_text, until,
};

const FOREVER: [&str; 2] = ["/bin/sleep", "1000"];

fn filtered() -> SecurityContext {
    SecurityContext { seccomp: SeccompProfile::RuntimeDefault, ..SecurityContext::default() }
}

/// The value of a field of `/proc/PID/status`.
fn field(status: &str, name: &str) -> String {
    status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_1_a_command_gets_the_system_call_filter_too() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("filter").await;
    for no_new_privileges in [false, true] {
        let mut spec = container(&format!("main-{no_new_privileges}"), &image, &FOREVER);
        spec.security = SecurityContext { no_new_privileges, ..filtered() };
        let id = node.run(&sandbox, &spec).await;
        let (_, first) = node.exec(&id, "cat /proc/1/status").await;
        let (_, command) = node.exec(&id, "cat /proc/self/status").await;
        for status in [&first, &command] {
            assert_eq!(field(status, "Seccomp"), "2");
            assert_eq!(field(status, "NoNewPrivs"), u8::from(no_new_privileges).to_string());
        }
        for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
            assert_eq!(field(&first, set), field(&command, set), "{set}");
        }
        let (code, _) = node.exec(&id, "unshare -m true").await;
        assert_ne!(code, 0, "the filter refuses new namespaces");
    }
    let mut spec = container("more", &image, &FOREVER);
    spec.security = SecurityContext { run_as_user: Some(101), ..filtered() };
    let id = node.run(&sandbox, &spec).await;
    let (_, status) = node.exec(&id, "cat /proc/self/status").await;
    assert_eq!((field(&status, "Seccomp").as_str(), field(&status, "CapEff").as_str()), ("2", "0000000000000000"));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_2_a_command_has_the_identity_of_its_container() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("identity").await;
    let mut spec = container("main", &image, &FOREVER);
    spec.security = SecurityContext { run_as_user: Some(101), supplemental_groups: vec![7], ..SecurityContext::default() };
    spec.environment = vec![("NAME".to_owned(), "value".to_owned())];
    spec.working_directory = Some("/tmp".to_owned());
    let id = node.run(&sandbox, &spec).await;
    let (_, text) = node.exec(&id, "id -u; id -g; id -G; pwd; echo $NAME $HOME $HOSTNAME").await;
    assert_eq!(text, "101\n102\n102 7 300\n/tmp\nvalue /var/web identity\n");
    assert_eq!(node.runtime().container_status(&id).await.unwrap().user, Some((101, 102, vec![300, 7])));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_2_a_command_can_have_a_terminal() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("terminal").await;
    let id = node.run(&sandbox, &container("main", &image, &FOREVER)).await;
    let request = ExecRequest { command: vec!["/bin/sh".to_owned()], tty: true, stdin: true, stdout: true, stderr: false };
    let mut session = node.runtime().exec(&id, &request).await.unwrap();
    session.resize.as_ref().unwrap().send((111, 42)).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"tty; until stty size | grep 4; do sleep 0.1; done; exit 6\n").await.unwrap();
    let mut output = String::new();
    session.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert!(output.contains("/dev/pts/0") && output.contains("42 111"), "{output}");
    assert_eq!(session.exit.await.unwrap().unwrap(), 6);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_3_a_filter_goes_together_with_every_setting_of_no_new_privileges() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("privileges").await;
    for no_new_privileges in [false, true] {
        let script = "cat /proc/self/status";
        let (code, status) = node.run_script(&sandbox, &image, script, |spec| spec.security = SecurityContext { no_new_privileges, ..filtered() }).await;
        assert_eq!((code, field(&status, "Seccomp").as_str(), field(&status, "NoNewPrivs")), (0, "2", u8::from(no_new_privileges).to_string()));
    }
    node.finish().await;
}

fn mount_command(arguments: &[&str]) {
    assert!(std::process::Command::new("mount").args(arguments).status().unwrap().success(), "mount {arguments:?}");
}

fn unmount(path: &Path) {
    // Part of cleaning up: it may be gone already.
    let _ = std::process::Command::new("umount").arg("-l").arg(path).stderr(std::process::Stdio::null()).status();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_4_mounts_reach_as_far_as_they_ask_to() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("propagation").await;
    let shared = node.directory.path().join("shared");
    for name in ["", "later", "mine"] {
        std::fs::create_dir_all(shared.join(name)).unwrap();
    }
    let text = shared.to_str().unwrap();
    mount_command(&["--bind", text, text]);
    mount_command(&["--make-shared", text]);
    let mut ids = Vec::new();
    for propagation in [MountPropagation::Private, MountPropagation::HostToContainer, MountPropagation::Bidirectional] {
        let mut spec = container(&format!("{propagation:?}").to_lowercase(), &image, &FOREVER);
        spec.security.privileged = propagation == MountPropagation::Bidirectional;
        spec.mounts = vec![Mount { container_path: "/vol".into(), host_path: Some(shared.clone()), read_only: false, recursive_read_only: false, propagation }];
        ids.push(node.run(&sandbox, &spec).await);
    }
    mount_command(&["-t", "tmpfs", "later", shared.join("later").to_str().unwrap()]);
    std::fs::write(shared.join("later/file"), "").unwrap();
    let mut seen = Vec::new();
    for id in &ids {
        seen.push(node.exec(id, "test -e /vol/later/file").await.0 == 0);
    }
    let (code, _) = node.exec(&ids[2], "mount -t tmpfs mine /vol/mine && touch /vol/mine/file").await;
    let (shown, hidden) = (shared.join("mine/file").exists(), node.exec(&ids[0], "test -e /vol/mine/file").await.0 != 0);
    for name in ["mine", "later", ""] {
        unmount(&shared.join(name));
    }
    assert_eq!(seen, [false, true, true]);
    assert_eq!((code, shown, hidden), (0, true, true));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_5_no_signal_is_ignored_or_blocked() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("signals").await;
    let id = node.run(&sandbox, &container("main", &image, &FOREVER)).await;
    for script in ["cat /proc/1/status", "exec cat /proc/self/status"] {
        let (_, status) = node.exec(&id, script).await;
        for set in ["SigIgn", "SigBlk"] {
            assert_eq!(field(&status, set), "0000000000000000", "{script}: {set}");
        }
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_6_and_7_the_score_and_the_capabilities_are_what_we_may_give() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("scores").await;
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let mut spec = container("high", &image, &FOREVER);
    spec.oom_score_adjust = 500;
    let id = node.run(&sandbox, &spec).await;
    assert_eq!(node.exec(&id, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj").await.1, "500\n500\n");
    spec = container("low", &image, &FOREVER);
    spec.oom_score_adjust = -900;
    spec.security.privileged = true;
    let id = node.run(&sandbox, &spec).await;
    let score: i32 = node.exec(&id, "cat /proc/1/oom_score_adj").await.1.trim().parse().unwrap();
    assert!(score == -900 || score >= own, "{score}");
    let (_, status) = node.exec(&id, "cat /proc/self/status").await;
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(field(&status, "CapEff"), field(&ours, "CapBnd"), "all that we have ourselves");
    assert_eq!(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse::<i32>().unwrap(), own, "ours is untouched");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_8_a_program_that_only_its_user_may_run_is_run() {
    let node = Node::new().await;
    let mut image = Image::busybox();
    let program = std::fs::read("/bin/busybox").unwrap();
    image.layers.push(Layer::new().directory("opt", 0o755).owned_file("opt/id", 0o700, (101, 102), &program).build());
    // No PATH in the image at all.
    image.config = serde_json::json!({ "Entrypoint": ["/opt/id"], "User": "web" });
    let archive = node.directory.path().join("image.tar");
    std::fs::write(&archive, image.docker_archive("private:1")).unwrap();
    node.runtime().import_image(&archive).await.unwrap();
    let id = node.runtime().image_status("private:1").await.unwrap().unwrap().id;
    let sandbox = node.sandbox("private").await;
    let started = node.run(&sandbox, &container("main", &id, &[])).await;
    let status = node.wait_for_exit(&started).await;
    assert!(log_text(&status).starts_with("uid=101(web) gid=102(www)"), "{:?} {}", status.state, log_text(&status));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_9_a_missing_working_directory_is_made_inside_the_root() {
    let node = Node::new().await;
    let mut image = Image::busybox();
    let outside = node.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    image.layers.push(Layer::new().symlink("escape", outside.to_str().unwrap()).build());
    let archive = node.directory.path().join("image.tar");
    std::fs::write(&archive, image.docker_archive("links:1")).unwrap();
    node.runtime().import_image(&archive).await.unwrap();
    let id = node.runtime().image_status("links:1").await.unwrap().unwrap().id;
    let sandbox = node.sandbox("directory").await;
    let (code, text) = node.run_script(&sandbox, &id, "pwd", |spec| spec.working_directory = Some("/not/there/yet".to_owned())).await;
    assert_eq!((code, text.as_str()), (0, "/not/there/yet\n"));
    let mut spec = container("escape", &id, &["/bin/sh", "-c", "pwd"]);
    spec.working_directory = Some("/escape/deeper".to_owned());
    let made = node.runtime().create_container(&sandbox, &spec).await.unwrap();
    // Whether it starts does not matter; where it makes directories does.
    let _ = node.runtime().start_container(&made).await;
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_10_a_program_that_cannot_run_is_a_failure_to_start() {
    let node = Node::new().await;
    let mut image = Image::busybox();
    image.layers.push(Layer::new().directory("opt", 0o755).file("opt/text", 0o755, b"echo run by nobody\n").file("opt/locked", 0o644, b"#!/bin/sh\n").build());
    let archive = node.directory.path().join("image.tar");
    std::fs::write(&archive, image.docker_archive("broken:1")).unwrap();
    node.runtime().import_image(&archive).await.unwrap();
    let id = node.runtime().image_status("broken:1").await.unwrap().unwrap().id;
    let sandbox = node.sandbox("broken").await;
    for (number, (program, reason)) in [
        ("nowhere", "exec: \"nowhere\": executable file not found in $PATH"),
        ("/no/where", "exec: \"/no/where\": stat /no/where: no such file or directory"),
        ("/opt/locked", "exec: \"/opt/locked\": permission denied"),
        ("/opt/text", "exec: \"/opt/text\": exec format error"),
    ]
    .into_iter()
    .enumerate()
    {
        let made = node.runtime().create_container(&sandbox, &container(&format!("c{number}"), &id, &[program])).await.unwrap();
        let error = node.runtime().start_container(&made).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Start { .. }), "{error:?}");
        assert!(error.to_string().ends_with(reason), "{error}");
        let ContainerState::Exited { exit, started_at } = node.runtime().container_status(&made).await.unwrap().state else { panic!() };
        assert_eq!((exit.code, started_at), (128, None));
        assert!(exit.message.ends_with(reason), "{}", exit.message);
    }
    let running = node.run(&sandbox, &container("main", &id, &FOREVER)).await;
    for (program, code) in [("nowhere", 127), ("/no/where", 127), ("/opt/locked", 126), ("/opt/text", 126)] {
        let error = node.runtime().exec_sync(&running, &[program.to_owned()], Duration::from_secs(60)).await.unwrap_err();
        let RuntimeError::Exec { exit_code, reason } = error else { panic!("{error:?}") };
        assert_eq!(exit_code, Some(code), "{program}: {reason}");
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_11_a_failure_tells_its_cause() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("causes").await;
    let mut spec = container("main", &image, &FOREVER);
    let missing = node.directory.path().join("missing-volume");
    spec.mounts = vec![Mount { container_path: "/vol".into(), host_path: Some(missing), read_only: false, recursive_read_only: false, propagation: MountPropagation::Private }];
    let made = node.runtime().create_container(&sandbox, &spec).await.unwrap();
    let error = node.runtime().start_container(&made).await.unwrap_err().to_string();
    assert!(error.contains("missing-volume"), "{error}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_a_signal_does_not_end_a_container_that_handles_it() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("stop").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sh", "-c", "trap 'sleep 0.3; exit 9' TERM; echo ready; while true; do sleep 0.05; done"])).await;
    let log = node.runtime().container_status(&id).await.unwrap().log_path;
    until("the trap is set", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))).await;
    node.runtime().stop_container(&id, Duration::from_secs(60)).await.unwrap();
    let ContainerState::Exited { exit, .. } = node.runtime().container_status(&id).await.unwrap().state else { panic!() };
    assert_eq!((exit.code, exit.signal), (9, 0));
    let mut spec = container("other", &image, &["/bin/sh", "-c", "trap 'exit 4' USR1; echo ready; while true; do sleep 0.05; done"]);
    spec.stop_signal = Some("SIGUSR1".to_owned());
    let id = node.run(&sandbox, &spec).await;
    let log = node.runtime().container_status(&id).await.unwrap().log_path;
    until("the trap is set", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))).await;
    node.runtime().stop_container(&id, Duration::from_secs(60)).await.unwrap();
    let ContainerState::Exited { exit, .. } = node.runtime().container_status(&id).await.unwrap().state else { panic!() };
    assert_eq!(exit.code, 4);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_13_commands_leave_no_files() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("files").await;
    let id = node.run(&sandbox, &container("main", &image, &FOREVER)).await;
    let bundle = node.sandbox_directory(&sandbox).join("containers").join(&id.0);
    let names = || {
        let mut names: Vec<String> = [bundle.clone(), bundle.join("state").join(&id.0)]
            .iter()
            .flat_map(|directory| std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    };
    node.exec(&id, "true").await;
    let before = names();
    for _ in 0..5 {
        node.exec(&id, "true").await;
        let failed = node.runtime().exec_sync(&id, &["nowhere".to_owned()], Duration::from_secs(60)).await;
        assert!(failed.is_err());
    }
    assert_eq!(names(), before);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_waits_for_any_more_is_ended() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("given-up").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sh", "-c", "echo ready; exec sleep 1000"])).await;
    let command: Vec<String> = ["/bin/sh", "-c", "echo $$ > /begun; exec sleep 4711"].map(str::to_owned).to_vec();
    let running = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|process| std::fs::read(process.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x004711\x00"))
    };
    let given_up = node.runtime().exec_sync(&id, &command, Duration::ZERO);
    tokio::select! {
        answer = given_up => panic!("{answer:?}"),
        () = until("it runs", running) => {}
    }
    until("it is ended", || !running()).await;
    // Also where its time is over.
    let late = node.runtime().exec_sync(&id, &command, Duration::from_secs(2)).await;
    assert!(matches!(late, Err(RuntimeError::Timeout(_))), "{late:?}");
    until("it is ended", || !running()).await;
    assert!(matches!(node.runtime().container_status(&id).await.unwrap().state, ContainerState::Running { .. }));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_14_running_out_of_memory_is_told() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("memory").await;
    let eat = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    for (name, script, code, out_of_memory) in [("eater", format!("exec {eat}"), 137, true), ("parent", format!("{eat}; exit 0"), 0, false)] {
        let mut spec = container(name, &image, &["/bin/sh", "-c", &script]);
        spec.resources.memory_bytes = Some(24 << 20);
        let id = node.run(&sandbox, &spec).await;
        let ContainerState::Exited { exit, .. } = node.wait_for_exit(&id).await.state else { panic!() };
        assert_eq!((exit.code, exit.out_of_memory), (code, out_of_memory), "{name}");
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_15_no_client_ends_the_shim() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("shim").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sh", "-c", "while true; do echo tick; sleep 0.01; done"])).await;
    let pid = node.pid(&id).await;
    let directory = std::fs::File::open(node.sandbox_directory(&sandbox)).unwrap();
    let socket = format!("/proc/self/fd/{}/shim.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], &[9, 0, 0, 0, 4, b'v'], &[0; 64]] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // It may hang up while we write.
        let _ = stream.write_all(bytes);
    }
    // Clients that attach and never read, or leave at once.
    let request = ExecRequest { stdout: true, stderr: true, ..ExecRequest::default() };
    let deaf = node.runtime().attach(&id, &request).await.unwrap();
    drop(node.runtime().attach(&id, &request).await.unwrap());
    let shim: i32 = node.runtime().list_sandboxes().await.unwrap()[0].network_namespace.as_ref().unwrap().components().nth(2).unwrap().as_os_str().to_str().unwrap().parse().unwrap();
    for signal in ["TERM", "HUP", "INT", "PIPE"] {
        assert!(std::process::Command::new("kill").args(["-s", signal, &shim.to_string()]).status().unwrap().success());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(is_alive(shim) && is_alive(pid));
    assert_eq!(node.exec(&id, "echo still here").await.1, "still here\n");
    drop(deaf);
    node.finish().await;
}
