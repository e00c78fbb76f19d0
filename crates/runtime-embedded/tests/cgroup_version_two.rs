//! The same containers on a machine with cgroup version 2 only. Where this machine has the old hierarchies, one such is made
//! of a mount namespace in which only the new one is mounted.

mod support;

use std::{collections::BTreeMap, process::Command};

use container_runtime::{ContainerRuntime, ContainerState, Device, IdRange, ResourceLimits, SandboxSpec};
use runtime_embedded::Cgroups;
use support::{Node, container};

/// Set for the process that lives in the other mount namespace.
const INSIDE: &str = "KNARR_TEST_VERSION_TWO";

/// Runs a test of that name on version 2 only.
fn on_version_two(name: &str, inside: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(inside);
    }
    let script = "umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" \"$@\"";
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn containers_run_and_are_confined_on_version_two() {
    on_version_two("containers_run_and_are_confined_on_version_two", inside());
}

#[test]
fn a_pod_with_users_of_its_own_sees_its_own_cgroup_and_cannot_change_it() {
    on_version_two("a_pod_with_users_of_its_own_sees_its_own_cgroup_and_cannot_change_it", inside_with_users());
}

#[test]
fn the_kernel_kills_a_whole_group_and_takes_limits_of_what_it_hands_down() {
    on_version_two("the_kernel_kills_a_whole_group_and_takes_limits_of_what_it_hands_down", inside_with_groups());
}

async fn inside_with_groups() {
    let cgroups = Cgroups::detect().unwrap();
    let root = format!("knarr-test-{}", std::process::id());
    let group = format!("{root}/pod/one");
    // Where the old hierarchies are there too, they have most controllers; that of huge pages is hardly ever among them.
    let available = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let mut limits = ResourceLimits::default();
    let hands_down = available.split_whitespace().any(|name| name == "hugetlb") && std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
    if hands_down {
        limits.huge_page_bytes = BTreeMap::from([("2MB".to_owned(), 4 << 20)]);
    }
    cgroups.create(&group, &limits).unwrap();
    if hands_down {
        assert_eq!(std::fs::read_to_string(format!("/sys/fs/cgroup/{group}/hugetlb.2MB.max")).unwrap(), "4194304\n");
    }
    // One that has more processes, below its own group too, than it began with.
    let mut shell = Command::new("sh").args(["-c", "read go; sleep 1000 & sleep 1000 & wait"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    cgroups.adopt(&group, shell.id()).unwrap();
    drop(shell.stdin.take());
    let processes = || cgroups.processes(&root);
    // Nothing tells when a shell has started its programs.
    while processes().len() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    cgroups.kill(&root);
    assert!(processes().is_empty());
    assert!(!shell.wait().unwrap().success());
    cgroups.remove(&root).unwrap();
    assert!(!std::path::Path::new("/sys/fs/cgroup").join(&root).exists());
    cgroups.kill(&root);
}

async fn inside_with_users() {
    let (node, image) = Node::with_busybox().await;
    let spec = SandboxSpec { users: Some(IdRange { first: 9100 * 65_536, length: 65_536 }), ..node.sandbox_spec("users") };
    let sandbox = node.runtime().run_sandbox(&spec).await.unwrap().id;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sleep", "1000"])).await;
    let (_, said) = node.exec(&id, "cat /proc/self/uid_map; grep ^0: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | head -n 1; head -c 1 /dev/zero | wc -c").await;
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "596377600", "65536", "0::/", "1", "1"], "{said}");
    for refused in ["mkdir /sys/fs/cgroup/x", "echo 0 > /sys/fs/cgroup/cgroup.procs", "mknod /tmp/memory c 1 1"] {
        let (code, text) = node.exec(&id, refused).await;
        assert_ne!(code, 0, "{refused}: {text}");
    }
    node.finish().await;
}

async fn inside() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("two").await;
    let mut spec = container("main", &image, &["/bin/sleep", "1000"]);
    spec.devices = vec![Device { host_path: "/dev/zero".into(), container_path: "/dev/nothing".into(), permissions: "r".to_owned() }];
    let id = node.run(&sandbox, &spec).await;
    assert_eq!(node.exec(&id, "grep ^0: /proc/self/cgroup").await.1, "0::/\n");
    assert_eq!(node.exec(&id, "head -c 5 /dev/nothing | wc -c; head -c 1 /dev/urandom | wc -c; echo x > /dev/null").await.1, "5\n1\n");
    for refused in ["mknod /tmp/memory c 1 1 && head -c 1 /tmp/memory", "mkdir /sys/fs/cgroup/x", "echo 0 > /sys/fs/cgroup/cgroup.procs"] {
        let (code, text) = node.exec(&id, refused).await;
        assert_ne!(code, 0, "{refused}: {text}");
    }
    let (_, text) = node.exec(&id, "mknod /tmp/messages c 1 11 && : < /tmp/messages").await;
    assert!(text.contains("not permitted"), "{text}");
    let group = format!("/sys/fs/cgroup/{}/burstable/pod-two/{}/cgroup.procs", node.options.cgroup_root, id.0);
    assert_eq!(std::fs::read_to_string(group).unwrap().trim(), node.pid(&id).await.to_string());
    let mut open = container("open", &image, &["/bin/sh", "-c", "mknod /tmp/messages c 1 11 && : < /tmp/messages && echo open"]);
    open.security.privileged = true;
    let (code, text) = {
        let id = node.run(&sandbox, &open).await;
        let status = node.wait_for_exit(&id).await;
        let ContainerState::Exited { exit, .. } = &status.state else { panic!() };
        (exit.code, support::log_text(&status))
    };
    assert_eq!((code, text.as_str()), (0, "open\n"));
    node.runtime().stop_sandbox(&sandbox).await.unwrap();
    node.finish().await;
}
