//! Pods with users of their own: what their root is on the node, whose files it sees, and what it cannot do.

mod support;

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use container_runtime::{ContainerRuntime, IdRange, Mount, MountPropagation, SandboxSpec};
use support::{Node, container, is_alive};

const FOREVER: [&str; 2] = ["/bin/sleep", "1000"];

fn mapped(node: &Node, name: &str, block: u32) -> SandboxSpec {
    SandboxSpec { users: Some(IdRange { first: block * 65_536, length: 65_536 }), ..node.sandbox_spec(name) }
}

fn volume(host: &Path, place: &str, read_only: bool) -> Mount {
    Mount { container_path: place.to_owned(), host_path: Some(host.to_owned()), read_only, recursive_read_only: false, propagation: MountPropagation::Private }
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_of_a_pod_is_nobody_on_the_node() {
    let (node, image) = Node::with_busybox().await;
    let mut spec = mapped(&node, "mapped", 9000);
    spec.sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()), ("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]);
    let sandbox = node.runtime().run_sandbox(&spec).await.unwrap().id;
    let id = node.run(&sandbox, &container("main", &image, &FOREVER)).await;
    let pid = node.pid(&id).await;
    assert_eq!(owner(Path::new(&format!("/proc/{pid}"))), (9000 * 65_536, 9000 * 65_536));
    let map = node.exec(&id, "cat /proc/self/uid_map /proc/self/gid_map; id -u; hostname").await.1;
    assert_eq!(map.split_whitespace().collect::<Vec<_>>().join(" "), "0 589824000 65536 0 589824000 65536 0 mapped");
    assert_eq!(node.exec(&id, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced").await.1, "80\n1\n");
    // The image's files are root's, can be changed, and what is made is root's.
    let changes = "stat -c '%u %g' / /bin /bin/busybox; echo x > /made; chown 5:6 /made; stat -c '%u %g' /made; echo more >> /etc/passwd; stat -c '%u' /etc/passwd; rm /bin/true; ls /bin/true 2>&1 | wc -l; mkdir -p /a/b && rm -r /a && echo gone";
    assert_eq!(node.exec(&id, changes).await.1, "0 0\n0 0\n0 0\n5 6\n0\n1\ngone\n");
    // All that containers find elsewhere is there.
    assert_eq!(node.exec(&id, "echo shared > /dev/shm/file && cat /dev/shm/file && echo x > /dev/null && ls /dev/pts /dev/mqueue /sys/class/net && stat -c %u /dev/shm").await, (0, "shared\n/dev/mqueue:\n\n/dev/pts:\nptmx\n\n/sys/class/net:\nlo\n0\n".to_owned()));
    let second = node.runtime().run_sandbox(&mapped(&node, "second", 9001)).await.unwrap().id;
    let other = node.run(&second, &container("main", &image, &FOREVER)).await;
    assert_eq!(owner(Path::new(&format!("/proc/{}", node.pid(&other).await))).0, 9001 * 65_536);
    node.finish().await;
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_on_volumes_keep_their_owners() {
    let (node, image) = Node::with_busybox().await;
    let directory = node.directory.path().join("volume");
    std::fs::create_dir(&directory).unwrap();
    for (name, user, mode) in [("roots", 0, 0o600), ("fives", 5, 0o600), ("stranger", 70_000, 0o600)] {
        let path = directory.join(name);
        std::fs::write(&path, name).unwrap();
        std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let log = node.directory.path().join("termination-log");
    std::fs::write(&log, "").unwrap();
    let sandbox = node.runtime().run_sandbox(&mapped(&node, "volumes", 9000)).await.unwrap().id;
    let script = "stat -c '%n %u' /data/*; cat /data/roots /data/fives; cat /data/stranger 2>&1; echo new > /data/new; chown 7:8 /data/new; echo x > /read/new 2>&1; \
                  echo bye > /dev/termination-log; echo to > /dev/stdout; pwd; stat -c %u .";
    let (code, said) = node
        .run_script(&sandbox, &image, script, |spec| {
            spec.mounts = vec![volume(&directory, "/data", false), volume(&directory, "/read", true), volume(&log, "/dev/termination-log", false)];
            spec.working_directory = Some("/data/deep/er".to_owned());
        })
        .await;
    assert_eq!(code, 0, "{said}");
    for expected in ["/data/roots 0\n", "/data/fives 5\n", "/data/stranger 65534\n", "rootsfivescat: can't open '/data/stranger': Permission denied", "Read-only file system", "to\n/data/deep/er\n0\n"] {
        assert!(said.contains(expected), "{expected:?} is missing in {said}");
    }
    assert_eq!((owner(&directory.join("new")), owner(&directory.join("deep/er"))), ((7, 8), (0, 0)));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "bye\n");
    // An ordinary user of the pod, who is another one elsewhere.
    let (_, said) = node
        .run_script(&sandbox, &image, "cat /data/fives; cat /data/roots 2>&1; id -u; id -G; echo to > /dev/stdout", |spec| {
            spec.mounts = vec![volume(&directory, "/data", false)];
            spec.security.run_as_user = Some(5);
            spec.security.supplemental_groups = vec![44];
        })
        .await;
    assert!(said.starts_with("fives") && said.contains("Permission denied") && said.contains("5\n0 44\nto\n"), "{said}");
    // A user whom the pod does not have.
    let mut spec = container("outside", &image, &FOREVER);
    spec.security.run_as_user = Some(70_000);
    let id = node.runtime().create_container(&sandbox, &spec).await.unwrap();
    let error = node.runtime().start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("user 70000 is not among"), "{error}");
    // A file system that knows no mapping.
    let mut spec = container("unmappable", &image, &FOREVER);
    spec.mounts = vec![volume(Path::new("/proc/sys"), "/host", false)];
    let id = node.runtime().create_container(&sandbox, &spec).await.unwrap();
    let error = node.runtime().start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("does not map users"), "{error}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_pod_with_users_of_its_own_works_together() {
    let (mut node, image) = Node::with_busybox().await;
    let mut spec = mapped(&node, "together", 9000);
    spec.host.share_process = true;
    let sandbox = node.runtime().run_sandbox(&spec).await.unwrap().id;
    let one = node.run(&sandbox, &container("one", &image, &FOREVER)).await;
    let mut privileged = container("two", &image, &["/bin/sleep", "999"]);
    privileged.security.privileged = true;
    let two = node.run(&sandbox, &privileged).await;
    let list = node.exec(&one, "ps -o user,args; cat /proc/1/status | grep Uid").await.1;
    assert!(list.contains("sleep 1000") && list.contains("sleep 999") && list.contains("Uid:\t0\t0\t0\t0"), "{list}");
    // Nothing here does harm where it works; and first, that a command runs as one of the pod at all.
    assert_eq!(node.exec(&two, "cat /proc/self/uid_map").await.1.split_whitespace().nth(2), Some("65536"));
    // Even privileged, it is root of its own things only.
    let (code, said) = node.exec(&two, "mkdir -p /m && mount -t tmpfs none /m && echo mounted; hostname inside && hostname; ip link set lo mtu 1400 && echo changed").await;
    assert_eq!((code, said.as_str()), (0, "mounted\ninside\nchanged\n"), "{said}");
    for way in [
        ": >> /proc/sys/kernel/core_pattern",
        ": >> /proc/sysrq-trigger",
        "mknod /disk b 254 0",
        "mknod /mem c 1 1",
        "dd if=/dev/vda of=/dev/null count=1",
        ": >> /sys/fs/cgroup/memory/release_agent",
        "[ $(ls -d /proc/[0-9]* | wc -l) -gt 30 ]",
    ] {
        let (code, said) = node.exec(&two, way).await;
        assert_ne!(code, 0, "{way} worked: {said}");
    }
    // Another agent finds all of it again.
    node.restart().await;
    assert_eq!(node.exec(&one, "cat /proc/self/uid_map").await.1.split_whitespace().nth(1), Some("589824000"));
    let mut third = container("debugger", &image, &["/bin/sh", "-c", "ps -o args | grep 'sleep 1000'"]);
    third.processes_of = Some(one.clone());
    let third = node.run(&sandbox, &third).await;
    assert!(matches!(node.wait_for_exit(&third).await.state, container_runtime::ContainerState::Exited { exit, .. } if exit.code == 0));
    node.finish().await;
}
