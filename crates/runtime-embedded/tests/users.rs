//! Pods with users of their own: what their root is on the node, whose files it sees, and what it cannot do.

mod support;

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use container_runtime::{ContainerRuntime, ExecRequest, IdRange, Mount, MountPropagation, SandboxSpec, SeccompProfile, SecurityContext};
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

/// What the node sees of a process: all that decides what it may do.
fn seen_from_the_node(pid: i32) -> BTreeMap<String, String> {
    let process = Path::new("/proc").join(pid.to_string());
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let read = |file: &str| std::fs::read_to_string(process.join(file)).unwrap();
    let mut seen: BTreeMap<String, String> = ["uid_map", "gid_map"].map(|file| (file.to_owned(), words(&read(file)))).into();
    let decisive = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"];
    for (name, value) in read("status").lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| decisive.contains(name)) {
        seen.insert(name.to_owned(), words(value));
    }
    for name in ["user", "mnt", "net", "uts", "ipc", "pid", "cgroup"] {
        seen.insert(format!("namespace {name}"), std::fs::read_link(process.join("ns").join(name)).unwrap().display().to_string());
    }
    seen
}

/// The process on the node that was started by these words.
async fn process_of(words: &[&str]) -> i32 {
    let wanted: Vec<u8> = words.iter().flat_map(|word| word.bytes().chain([0])).collect();
    for _ in 0..6000 {
        let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        if let Some(pid) = all.into_iter().find(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted)) {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{words:?} does not run")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_runs_in_a_container_is_as_little_on_the_node_as_its_first_program() {
    const FIRST: u32 = 9000 * 65_536;
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.runtime().run_sandbox(&mapped(&node, "alike", 9000)).await.unwrap().id;
    let ours = seen_from_the_node(i32::try_from(std::process::id()).unwrap());
    let plain = SecurityContext { seccomp: SeccompProfile::RuntimeDefault, ..SecurityContext::default() };
    let somebody = SecurityContext { run_as_user: Some(5), run_as_group: Some(6), supplemental_groups: vec![7, 8], ..plain.clone() };
    let cases = [
        ("root", 0, 0, plain.clone()),
        ("somebody", 5, 6, somebody.clone()),
        ("without-new-rights", 0, 0, SecurityContext { no_new_privileges: true, ..plain.clone() }),
        ("somebody-without-new-rights", 5, 6, SecurityContext { no_new_privileges: true, ..somebody }),
        ("with-other-rights", 0, 0, SecurityContext { add_capabilities: vec!["NET_ADMIN".into()], drop_capabilities: vec!["CHOWN".into()], ..plain.clone() }),
        ("without-rights", 0, 0, SecurityContext { drop_capabilities: vec!["ALL".into()], ..plain.clone() }),
        ("unfiltered", 0, 0, SecurityContext { seccomp: SeccompProfile::Unconfined, ..plain.clone() }),
        ("privileged", 0, 0, SecurityContext { privileged: true, ..plain }),
    ];
    for (case, (name, user, group, security)) in cases.into_iter().enumerate() {
        let mut spec = container(name, &image, &FOREVER);
        spec.security = security;
        let id = node.run(&sandbox, &spec).await;
        let main = seen_from_the_node(node.pid(&id).await);
        let four = |number: u32| [(FIRST + number).to_string().as_str(); 4].join(" ");
        assert_eq!(main["uid_map"], format!("0 {FIRST} 65536"), "{name}");
        assert_eq!(main["gid_map"], main["uid_map"], "{name}");
        assert_eq!((&main["Uid"], &main["Gid"]), (&four(user), &four(group)), "{name}");
        // Whatever its capabilities, they are worth nothing for what belongs to the node, such as its clock.
        assert_ne!(main["namespace user"], ours["namespace user"], "{name}");
        for (way, (tty, stdin)) in [(false, false), (false, true), (true, true)].into_iter().enumerate() {
            let duration = (31_000 + 10 * case + way).to_string();
            let words = ["/bin/sleep", &duration];
            let request = ExecRequest { command: words.map(str::to_owned).into(), tty, stdin, stdout: true, stderr: !tty };
            let session = node.runtime().exec(&id, &request).await.unwrap();
            let pid = process_of(&words).await;
            assert_eq!(seen_from_the_node(pid), main, "{name}, exec with terminal: {tty}, with input: {stdin}");
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
            assert_eq!(session.exit.await.unwrap().unwrap(), 137);
        }
        // As probes and hooks do it.
        let duration = (31_005 + 10 * case).to_string();
        let words = ["/bin/sleep", &duration];
        let look = async {
            let pid = process_of(&words).await;
            let seen = seen_from_the_node(pid);
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
            seen
        };
        let command = words.map(str::to_owned);
        let (output, seen) = tokio::join!(node.runtime().exec_sync(&id, &command, Duration::from_secs(60)), look);
        assert_eq!((output.unwrap().code, seen), (137, main.clone()), "{name}, as a probe");
        // An ephemeral container beside it: a file system of its own, and nothing else.
        let mut debugger = container(&format!("{name}-debugger"), &image, &FOREVER);
        debugger.security = spec.security.clone();
        debugger.processes_of = Some(id.clone());
        let debugger = node.run(&sandbox, &debugger).await;
        let mut seen = seen_from_the_node(node.pid(&debugger).await);
        for own in ["namespace mnt", "namespace cgroup"] {
            seen.insert(own.to_owned(), main[own].clone());
        }
        assert_eq!(seen, main, "{name}, an ephemeral container");
        for id in [debugger, id] {
            node.runtime().stop_container(&id, Duration::ZERO).await.unwrap();
            node.runtime().remove_container(&id).await.unwrap();
        }
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_out_of_a_pod_has_no_power_over_what_belongs_to_root() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.runtime().run_sandbox(&mapped(&node, "escaped", 9000)).await.unwrap().id;
    let mut spec = container("privileged", &image, &FOREVER);
    spec.security.privileged = true;
    let id = node.run(&sandbox, &spec).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::set_permissions(outside.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (secret, public) = (outside.path().join("secret"), outside.path().join("public"));
    for (path, mode) in [(&secret, 0o600), (&public, 0o644)] {
        std::fs::write(path, "of the node").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // The container's root with all capabilities, in the file system of the node.
    let script = format!(
        "cat /proc/self/uid_map; id -u; cat {secret} 2>&1; cat {public}; echo mine 2>&1 > {public}; rm {public} 2>&1; touch {directory}/new 2>&1; chown 0:0 {public} 2>&1; \
         mount -t tmpfs none {directory} 2>&1; kill -0 {agent} 2>&1; cat /proc/{agent}/environ 2>&1",
        secret = secret.display(),
        public = public.display(),
        directory = outside.path().display(),
        agent = std::process::id(),
    );
    let pid = node.pid(&id).await;
    let user_namespace = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_ne!(user_namespace, std::fs::read_link("/proc/self/ns/user").unwrap(), "what follows could do harm");
    let escaped = Command::new("nsenter").args(["--user", "--target", &pid.to_string(), "--setuid", "0", "--setgid", "0", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&escaped.stdout).into_owned() + &String::from_utf8_lossy(&escaped.stderr);
    let mut lines = said.lines();
    assert_eq!(lines.next().map(|map| map.split_whitespace().collect::<Vec<_>>()), Some(vec!["0", "589824000", "65536"]), "{said}");
    assert_eq!(lines.next(), Some("0"), "{said}");
    let refused = said.matches("ermission denied").count() + said.matches("not permitted").count() + said.matches("must be superuser").count();
    assert!(said.contains("of the node") && refused >= 7, "{refused} in {said}");
    assert_eq!([&secret, &public].map(|path| std::fs::read_to_string(path).unwrap()), ["of the node", "of the node"]);
    assert!(!outside.path().join("new").exists());
    node.finish().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_would_get_the_users_of_the_node_does_not_run() {
    let (node, image) = Node::with_busybox().await;
    let mut spec = mapped(&node, "on-the-host", 9000);
    spec.host.network = true;
    let sandbox = node.runtime().run_sandbox(&spec).await.unwrap().id;
    let id = node.runtime().create_container(&sandbox, &container("main", &image, &FOREVER)).await.unwrap();
    let error = node.runtime().start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("belongs to the node's users"), "{error}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_an_image_can_be_written_to_in_a_read_only_root() {
    use support::image::{Image, Layer};
    let node = Node::new().await;
    let mut image = Image::busybox();
    image.layers.push(Layer::new().directory("data", 0o777).file("data/old", 0o644, b"old ").symlink("link", "/etc").build());
    image.config["Volumes"] = serde_json::json!({ "/data": {}, "/not/there": {}, "/link": {}, "/taken": {} });
    let archive = node.directory.path().join("image.tar");
    std::fs::write(&archive, image.docker_archive("volumes:1")).unwrap();
    node.runtime().import_image(&archive).await.unwrap();
    let id = node.runtime().image_status("volumes:1").await.unwrap().unwrap().id;
    let taken = node.directory.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("file"), "of the pod").unwrap();
    for (name, users) in [("plain", None), ("mapped", Some(9000))] {
        let sandbox = match users {
            None => node.sandbox(name).await,
            Some(range) => node.runtime().run_sandbox(&mapped(&node, name, range)).await.unwrap().id,
        };
        let script = "cat /data/old; echo new > /data/new && cat /data/new; touch /not/there/x /link/x && ls /etc/x; touch /x /not/x 2>&1 | grep -c Read-only; cat /taken/file";
        let (_, said) = node.run_script(&sandbox, &id, script, |spec| {
            spec.security.read_only_root_file_system = true;
            spec.mounts = vec![volume(&taken, "/taken", true)];
        }).await;
        assert_eq!(said, "old new\n/etc/x\n2\nof the pod\n", "{name}");
    }
    assert!(!Path::new("/etc/x").exists());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_runs_in_a_container_may_open_its_streams_anew() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // As images do whose logs are links to these.
    const SAY: &str = "id -u; echo out > /dev/stdout; echo problem > /dev/stderr";
    let (node, image) = Node::with_busybox().await;
    for (name, users) in [("plain", None), ("mapped", Some(9000))] {
        let sandbox = match users {
            None => node.sandbox(name).await,
            Some(range) => node.runtime().run_sandbox(&mapped(&node, name, range)).await.unwrap().id,
        };
        for no_new_privileges in [false, true] {
            let as_web = |spec: &mut container_runtime::ContainerSpec| (spec.security.run_as_user, spec.security.no_new_privileges) = (Some(101), no_new_privileges);
            let mut said: Vec<String> = node.run_script(&sandbox, &image, SAY, as_web).await.1.lines().map(str::to_owned).collect();
            said.sort();
            assert_eq!(said, ["101", "out", "problem"], "{name}, no new privileges: {no_new_privileges}");
            // Two streams, of which the log keeps no order between them; a terminal is one.
            let (_, said) = node.run_script(&sandbox, &image, SAY, |spec| {
                as_web(spec);
                spec.tty = true;
            }).await;
            assert_eq!(said.replace('\r', ""), "101\nout\nproblem\n", "{name}, no new privileges: {no_new_privileges}");
            let mut spec = container(&format!("main-{no_new_privileges}"), &image, &FOREVER);
            as_web(&mut spec);
            let id = node.run(&sandbox, &spec).await;
            assert_eq!(node.exec(&id, "id -u; echo out > /dev/stdout").await, (0, "101\nout\n".to_owned()), "{name}");
            let request = ExecRequest { command: ["/bin/sh", "-c", "read line; echo $line > /dev/stdout; stat -Lc %u /dev/stdin; grep CapEff /proc/self/status"].map(str::to_owned).to_vec(), tty: true, stdin: true, stdout: true, stderr: false };
            let mut session = node.runtime().exec(&id, &request).await.unwrap();
            session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
            let mut output = String::new();
            session.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
            assert!(output.replace('\r', "").ends_with("hello\n101\nCapEff:\t0000000000000000\n"), "{name}, no new privileges: {no_new_privileges}: {output}");
        }
    }
    node.finish().await;
}
