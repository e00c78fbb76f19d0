//! What a pod promises its containers: namespaces, cgroups, volumes, rights.

mod support;

use std::{collections::BTreeMap, time::Duration};

use container_runtime::{ContainerRuntime, Device, HostNamespaces, Mount, MountPropagation, RuntimeError, SeccompProfile, SecurityContext};
use support::{Node, container, is_alive, until};

const FOREVER: [&str; 2] = ["/bin/sleep", "1000"];

fn volume(host: &std::path::Path, place: &str) -> Mount {
    Mount { container_path: place.to_owned(), host_path: Some(host.to_owned()), read_only: false, recursive_read_only: false, propagation: MountPropagation::Private }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_what_they_should() {
    let (node, image) = Node::with_busybox().await;
    let mut spec = node.sandbox_spec("shared");
    spec.sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()), ("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]);
    let status = node.runtime().run_sandbox(&spec).await.unwrap();
    let (one, two) = (node.run(&status.id, &container("one", &image, &FOREVER)).await, node.run(&status.id, &container("two", &image, &FOREVER)).await);
    assert_eq!(node.exec(&one, "hostname; echo shared > /dev/shm/file; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced").await.1, "shared\n80\n1\n");
    assert_eq!(node.exec(&two, "cat /dev/shm/file").await.1, "shared\n");
    let links = "for name in net ipc uts; do readlink /proc/self/ns/$name; done";
    assert_eq!(node.exec(&one, links).await, node.exec(&two, links).await);
    assert_ne!(node.exec(&one, "readlink /proc/self/ns/net").await.1.trim(), std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
    let private = "for name in pid mnt; do readlink /proc/self/ns/$name; done";
    assert_ne!(node.exec(&one, private).await, node.exec(&two, private).await);
    assert_eq!(node.exec(&one, "cat /proc/[0-9]*/comm | grep -c sleep").await.1, "1\n", "only its own");
    let other = node.sandbox("other").await;
    let stranger = node.run(&other, &container("main", &image, &FOREVER)).await;
    assert_ne!(node.exec(&stranger, "cat /dev/shm/file").await.0, 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_pod_may_open_low_ports_and_ping() {
    const READ: &str = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
    let (node, image) = Node::with_busybox().await;
    let pod = node.sandbox("ports").await;
    let id = node.run(&pod, &container("main", &image, &FOREVER)).await;
    assert_eq!(node.exec(&id, READ).await.1, "0\n0\t2147483647\n");
    let mut web = container("web", &image, &["/bin/sh", "-c", "echo from 101 | nc -l -p 80"]);
    web.security.run_as_user = Some(101);
    node.run(&pod, &web).await;
    // It may not listen yet.
    let ask = "for i in $(seq 300); do nc 127.0.0.1 80 < /dev/null > /tmp/said 2>&1 && break; sleep 0.1; done; cat /tmp/said";
    assert_eq!(node.exec(&id, ask).await.1, "from 101\n");
    // The node's own are left alone.
    let mut spec = node.sandbox_spec("of-the-node");
    spec.host.network = true;
    let of_the_node = node.runtime().run_sandbox(&spec).await.unwrap().id;
    let id = node.run(&of_the_node, &container("main", &image, &FOREVER)).await;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
    assert_eq!(node.exec(&id, READ).await.1, format!("{}{}", read("ip_unprivileged_port_start"), read("ping_group_range")));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace_has_a_first_process_that_reaps() {
    let (node, image) = Node::with_busybox().await;
    let mut spec = node.sandbox_spec("processes");
    spec.host.share_process = true;
    let sandbox = node.runtime().run_sandbox(&spec).await.unwrap().id;
    let (one, two) = (node.run(&sandbox, &container("one", &image, &FOREVER)).await, node.run(&sandbox, &container("two", &image, &["/bin/sh", "-c", "sleep 999 & sleep 998 & wait"])).await);
    let (_, list) = node.exec(&one, "ps").await;
    assert!(list.contains("sleep 1000") && list.contains("sleep 999"), "{list}");
    // An orphan ends up with pid 1 and leaves no zombie.
    assert_eq!(node.exec(&one, "(sleep 0.1 &) ; sleep 0.5; for i in $(seq 300); do cat /proc/[0-9]*/stat | grep -q ') Z ' || break; sleep 0.1; done; cat /proc/[0-9]*/stat | grep -c ') Z '").await.1, "0\n");
    // A container that ends takes along what it started.
    let pid = node.pid(&two).await;
    node.runtime().stop_container(&two, Duration::ZERO).await.unwrap();
    assert!(!is_alive(pid));
    let mut list = String::new();
    for _ in 0..1000 {
        list = node.exec(&one, "ps").await.1;
        if !list.contains("sleep 999") && !list.contains("sleep 998") {
            break;
        }
    }
    assert!(list.contains("sleep 1000") && !list.contains("sleep 999") && !list.contains("sleep 998"), "{list}");
    node.finish().await;
}

/// Whoever may trace processes may do so with pid 1 of the pod, too: so that is to have nothing and to be able to do nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_of_a_pod_is_no_way_out() {
    let (node, image) = Node::with_busybox().await;
    let secret = node.directory.path().join("secret");
    std::fs::write(&secret, "the node's").unwrap();
    let mut spec = node.sandbox_spec("traced");
    spec.host.share_process = true;
    let sandbox = node.runtime().run_sandbox(&spec).await.unwrap().id;
    let mut tracer = container("tracer", &image, &FOREVER);
    tracer.security.add_capabilities = vec!["SYS_PTRACE".to_owned()];
    let (tracer, other) = (node.run(&sandbox, &tracer).await, node.run(&sandbox, &container("other", &image, &FOREVER)).await);
    let script = format!("cat /proc/1/root{0} /proc/1/cwd{0}; ls -A /proc/1/root/ /proc/1/cwd/; grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/1/status", secret.display());
    let (_, told) = node.exec(&tracer, &script).await;
    assert!(!told.contains("the node's"), "{told}");
    let listed = told.lines().filter(|line| !line.contains("No such file")).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|line| !line.is_empty());
    let nothing = "0000000000000000";
    let expected = ["/proc/1/cwd/:".to_owned(), "/proc/1/root/:".to_owned(), format!("CapPrm: {nothing}"), format!("CapEff: {nothing}"), format!("CapBnd: {nothing}"), "NoNewPrivs: 1".to_owned(), "Seccomp: 1".to_owned()];
    assert_eq!(listed.collect::<std::collections::BTreeSet<_>>(), expected.into_iter().collect(), "{told}");
    // Without that right, not even root may look at it.
    let (_, told) = node.exec(&other, "ls /proc/1/root/ /proc/1/exe 2>&1; kill -9 1; kill -STOP 1; cat /proc/1/comm").await;
    assert!(told.contains("Permission denied") && told.ends_with("pod-init\n"), "{told}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_can_use_the_nodes_namespaces() {
    let (node, image) = Node::with_busybox().await;
    let mut spec = node.sandbox_spec("host");
    spec.host = HostNamespaces { network: true, pid: true, ipc: true, share_process: false };
    let status = node.runtime().run_sandbox(&spec).await.unwrap();
    assert_eq!(status.network_namespace, None);
    let id = node.run(&status.id, &container("main", &image, &["/bin/sh", "-c", "sleep 997 & sleep 1000"])).await;
    for name in ["net", "pid", "ipc", "uts"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(node.exec(&id, &format!("readlink /proc/self/ns/{name}")).await.1.trim(), own.to_str().unwrap());
    }
    let cgroup = format!("/sys/fs/cgroup/pids/{}/burstable/pod-host/{}/cgroup.procs", node.options.cgroup_root, id.0);
    if let Ok(processes) = std::fs::read_to_string(cgroup) {
        node.runtime().stop_container(&id, Duration::ZERO).await.unwrap();
        for pid in processes.lines().map(|pid| pid.parse().unwrap()) {
            until("a process that was left is killed", || !is_alive(pid)).await;
        }
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_container_is_confined() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("confined").await;
    let id = node.run(&sandbox, &container("main", &image, &FOREVER)).await;
    assert_eq!(node.exec(&id, "head -c 1 /proc/kcore 2> /dev/null | wc -c; ls /sys/firmware | wc -l").await.1, "0\n0\n");
    for refused in ["echo 1 > /proc/sys/vm/drop_caches", "echo b > /proc/sysrq-trigger", "mkdir /sys/fs/cgroup/pids/x", "mount -t tmpfs x /tmp", "hostname changed"] {
        assert_ne!(node.exec(&id, refused).await.0, 0, "{refused}");
    }
    // A device that it may make but not use.
    assert_ne!(node.exec(&id, "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk").await.0, 0);
    assert_eq!(node.exec(&id, "head -c 3 /dev/zero | wc -c; echo x > /dev/null; test -c /dev/tty && test -c /dev/urandom && test -L /dev/fd && echo yes").await.1, "3\nyes\n");
    let mut open = container("open", &image, &FOREVER);
    open.security.privileged = true;
    let id = node.run(&sandbox, &open).await;
    assert_eq!(node.exec(&id, "mount -t tmpfs x /tmp && touch /tmp/file && cat /proc/self/status | grep Seccomp: ").await, (0, "Seccomp:\t0\n".to_owned()));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_still_has_writable_volumes() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("read-only").await;
    let host = node.directory.path().join("volume");
    std::fs::create_dir(&host).unwrap();
    let termination = node.directory.path().join("termination-log");
    std::fs::write(&termination, "").unwrap();
    let mut spec = container("main", &image, &FOREVER);
    spec.security.read_only_root_file_system = true;
    spec.mounts = vec![
        volume(&host, "/vol"),
        Mount { read_only: true, ..volume(&host, "/vol-ro") },
        Mount { read_only: true, recursive_read_only: true, ..volume(&host, "/vol-rro") },
        volume(&termination, "/dev/termination-log"),
        Mount { host_path: None, ..volume(&host, "/scratch") },
    ];
    let id = node.run(&sandbox, &spec).await;
    assert_ne!(node.exec(&id, "touch /file").await.0, 0);
    assert_eq!(node.exec(&id, "echo data > /vol/file && cat /vol-ro/file && touch /scratch/x && echo done > /dev/termination-log").await, (0, "data\n".to_owned()));
    assert_ne!(node.exec(&id, "touch /vol-ro/x").await.0, 0);
    assert_ne!(node.exec(&id, "touch /vol-rro/x").await.0, 0);
    assert_eq!(std::fs::read_to_string(&termination).unwrap(), "done\n");
    assert_eq!(std::fs::read_to_string(host.join("file")).unwrap(), "data\n");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_profiles_are_given_as_asked() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("devices").await;
    let profile = node.directory.path().join("profile.json");
    std::fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#).unwrap();
    let mut spec = container("main", &image, &FOREVER);
    spec.devices = vec![Device { host_path: "/dev/zero".into(), container_path: "/dev/nothing".into(), permissions: "r".to_owned() }];
    spec.security.seccomp = SeccompProfile::Localhost(profile);
    let id = node.run(&sandbox, &spec).await;
    assert_eq!(node.exec(&id, "head -c 5 /dev/nothing | wc -c").await.1, "5\n");
    assert_ne!(node.exec(&id, "mkdir /tmp/x").await.0, 0);
    assert_eq!(node.exec(&id, "touch /tmp/x").await.0, 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_refused_where_the_pod_forbids_it() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("non-root").await;
    let mut spec = container("main", &image, &FOREVER);
    spec.security = SecurityContext { run_as_non_root: true, ..SecurityContext::default() };
    let error = node.runtime().create_container(&sandbox, &spec).await.unwrap_err();
    assert!(matches!(error, RuntimeError::InvalidSpec(_)));
    assert_eq!(error.to_string(), "container has runAsNonRoot and image will run as root");
    spec.security.run_as_user = Some(1000);
    let id = node.run(&sandbox, &spec).await;
    assert_eq!(node.exec(&id, "id -u; id -g").await.1, "1000\n0\n");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_kernel_and_can_be_changed() {
    let (node, image) = Node::with_busybox().await;
    let mut pod = node.sandbox_spec("limits");
    pod.resources.memory_bytes = Some(64 << 20);
    let sandbox = node.runtime().run_sandbox(&pod).await.unwrap().id;
    let mut spec = container("main", &image, &FOREVER);
    spec.resources.memory_bytes = Some(32 << 20);
    spec.resources.cpu_shares = Some(512);
    spec.resources.cpu_quota_microseconds = Some(20_000);
    spec.resources.pids = Some(20);
    let id = node.run(&sandbox, &spec).await;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let one = root.join("memory").exists();
    let pod_path = format!("{}/burstable/pod-limits", node.options.cgroup_root);
    let path = format!("{pod_path}/{}", id.0);
    let read = |controller: &str, path: &str, file: &str| {
        let directory = if one { root.join(controller).join(path) } else { root.join(path) };
        std::fs::read_to_string(directory.join(file)).unwrap().trim().to_owned()
    };
    let memory = if one { "memory.limit_in_bytes" } else { "memory.max" };
    assert_eq!(read("memory", &pod_path, memory), (64 << 20).to_string());
    assert_eq!(read("memory", &path, memory), (32 << 20).to_string());
    assert_eq!(read("pids", &path, "pids.max"), "20");
    if one {
        assert_eq!((read("cpu", &path, "cpu.shares"), read("cpu", &path, "cpu.cfs_quota_us")), ("512".to_owned(), "20000".to_owned()));
    }
    spec.resources.memory_bytes = Some(48 << 20);
    spec.resources.cpu_quota_microseconds = None;
    node.runtime().update_resources(&id, &spec.resources).await.unwrap();
    assert_eq!(read("memory", &path, memory), (48 << 20).to_string());
    if one {
        assert_eq!(read("cpu", &path, "cpu.cfs_quota_us"), "-1");
    }
    node.exec(&id, "dd if=/dev/zero of=/written bs=1M count=3").await;
    let usage = node.runtime().container_usage(&id).await.unwrap();
    assert!(usage.memory_usage_bytes > 0 && usage.processes == 1 && usage.cpu_nanoseconds > 0 && usage.root_file_system_bytes >= 3 << 20, "{usage:?}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_of_pods_weighs_what_they_ask_for_together() {
    let mut node = Node::new().await;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let group = node.options.cgroup_root.clone();
    let weight = |class: &str| {
        let (one, two) = (root.join("cpu").join(&group).join(class).join("cpu.shares"), root.join(&group).join(class).join("cpu.weight"));
        let file = if one.exists() { one } else { two };
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().parse::<u64>().unwrap()
    };
    let spec = |name: &str, class: &str, shares: u64| {
        let mut spec = node.sandbox_spec(name);
        spec.cgroup_parent = format!("{class}/pod-{name}");
        spec.resources.cpu_shares = Some(shares);
        spec
    };
    let (idle, small, large) = (spec("idle", "besteffort", 2), spec("small", "burstable", 102), spec("large", "burstable", 2048));
    node.runtime().run_sandbox(&idle).await.unwrap();
    let least = weight("besteffort");
    node.runtime().run_sandbox(&small).await.unwrap();
    let alone = weight("burstable");
    let large_id = node.runtime().run_sandbox(&large).await.unwrap().id;
    let both = weight("burstable");
    assert!(least <= 2 && least < alone && alone < both, "{least}, {alone}, {both}");
    if root.join("cpu").join(&group).exists() {
        assert_eq!((least, alone, both), (2, 102, 2150));
    }
    // Another agent sets it right; a pod that wants less, or stops, leaves less.
    node.restart().await;
    assert_eq!(weight("burstable"), both);
    let less = container_runtime::ResourceLimits { cpu_shares: Some(1024), ..large.resources.clone() };
    node.runtime().update_sandbox_resources(&large_id, &less).await.unwrap();
    let resized = weight("burstable");
    assert!(alone < resized && resized < both, "{alone}, {resized}, {both}");
    node.runtime().stop_sandbox(&large_id).await.unwrap();
    assert_eq!(weight("burstable"), alone);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_inside_a_pod_can_be_reached() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("port").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/nc", "-ll", "-p", "8080", "-e", "/bin/cat"])).await;
    assert!(node.pid(&id).await > 0);
    let mut stream = loop {
        // The program needs a moment until it listens.
        match node.runtime().connect_port(&sandbox, 8080).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
    assert!(node.runtime().connect_port(&sandbox, 8081).await.is_err());
    node.runtime().stop_sandbox(&sandbox).await.unwrap();
    // Not on to whoever has the number of its shim next.
    assert!(node.runtime().connect_port(&sandbox, 8080).await.is_err());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_a_container_can_be_attached() {
    use container_runtime::ExecRequest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("tty").await;
    let mut spec = container("main", &image, &["/bin/sh"]);
    spec.tty = true;
    spec.stdin = true;
    let id = node.run(&sandbox, &spec).await;
    let mut session = node.runtime().attach(&id, &ExecRequest { tty: true, stdin: true, stdout: true, ..ExecRequest::default() }).await.unwrap();
    session.resize.as_ref().unwrap().send((99, 33)).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"until stty size | grep 3; do sleep 0.1; done; echo $TERM; exit 3\n").await.unwrap();
    let mut output = String::new();
    session.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert!(output.contains("33 99") && output.contains("xterm"), "{output}");
    assert_eq!(session.exit.await.unwrap().unwrap(), 3);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_ends_with_the_first_client_where_that_is_asked() {
    use container_runtime::ExecRequest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("once").await;
    let mut spec = container("main", &image, &["/bin/cat"]);
    spec.stdin = true;
    spec.stdin_once = true;
    let id = node.run(&sandbox, &spec).await;
    let mut session = node.runtime().attach(&id, &ExecRequest { stdin: true, stdout: true, stderr: true, ..ExecRequest::default() }).await.unwrap();
    // More than any pipe holds at once.
    let text: Vec<u8> = (0..300_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    let sent = text.clone();
    let writer = tokio::spawn(async move { stdin.write_all(&sent).await });
    let mut received = Vec::new();
    stdout.read_to_end(&mut received).await.unwrap();
    writer.await.unwrap().unwrap();
    assert!(received == text, "{} of {} bytes", received.len(), text.len());
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_a_container_up_only_for_a_while() {
    use container_runtime::ExecRequest;
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("deaf").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sh", "-c", "sleep 0.5; seq 1 200000; exit 3"])).await;
    let deaf = node.runtime().attach(&id, &ExecRequest { stdout: true, stderr: true, ..ExecRequest::default() }).await.unwrap();
    // It is let go after ten seconds without reading.
    let status = node.wait_for_exit(&id).await;
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    assert_eq!(log.lines().count(), 200_000, "nothing is missing in the log");
    assert!(log.trim_end().ends_with(" stdout F 200000"));
    drop(deaf);
    node.finish().await;
}
