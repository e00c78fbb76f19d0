//! What befalls machines, and must not befall pods: a power cut, an API that is away, a disk that is full or read-only for a while, a
//! clock that jumps.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{LocalCluster, RealCluster, image, kubectl::Kubectl, real_cluster::{Settings, processes_of}, registry::Registry};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

fn cluster() -> (RealCluster, Registry) {
    let registry = Registry::serve(&[("library/busybox", "1", &image::busybox())]);
    let cluster = RealCluster::start(&Settings { binary: &binary(), registry: Some(&registry), control_plane_only: false });
    (cluster, registry)
}

/// A pod that runs a script, with further fields of its container and of itself.
fn pod(name: &str, script: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: default, labels: {{ app: {name} }} }}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  {spec}\n  \
         containers: [{{ name: main, image: \"busybox:1\", command: [sh, -c, {script:?}], {container} }}]\n"
    )
}

fn ready(cluster: &Kubectl, pod: &str) {
    cluster.kubectl(["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=180s"]);
}

fn at(cluster: &Kubectl, object: &str, path: &str) -> String {
    cluster.kubectl(["get", object, "-o", &format!("jsonpath={{{path}}}")])
}

fn becomes(cluster: &Kubectl, object: &str, path: &str, wanted: &str) {
    cluster.eventually(&format!("{path} of {object} becomes {wanted:?}"), || (at(cluster, object, path) == wanted).then_some(()));
}

/// The body that a web server answers with, where it answers 200.
fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.trim().to_owned())
}

/// Serves its pod's name, and looks at itself.
const WEB: &str = "hostname > /www/index.html; exec httpd -f -p 8080 -h /www";
const PROBED: &str = "readinessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 }, livenessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 }";

#[test]
fn a_machine_that_lost_its_power_runs_its_pods_again() {
    let (mut cluster, _registry) = cluster();
    let volumes = "volumes: [{ name: disk, emptyDir: {} }, { name: memory, emptyDir: { medium: Memory } }]";
    let mounts = "volumeMounts: [{ name: disk, mountPath: /disk }, { name: memory, mountPath: /memory }]";
    cluster.apply(&pod("keeper", "for of in disk memory; do echo >> /$of/lives; done; exec sleep 1000", mounts, volumes));
    cluster.apply(&pod("web", WEB, PROBED, ""));
    cluster.apply(&pod("once", "exec sleep 1000", "", "restartPolicy: Never"));
    cluster.apply(&pod("done", "exit 0", "", "restartPolicy: Never"));
    cluster.apply("apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }\n");
    for pod in ["keeper", "web", "once"] {
        ready(&cluster, pod);
    }
    becomes(&cluster, "pod/done", ".status.phase", "Succeeded");
    let uid = at(&cluster, "pod/keeper", ".metadata.uid");
    cluster.kubectl(["create", "configmap", "acknowledged", "--from-literal=a=b"]);
    cluster.lose_power();
    cluster.start_server();

    assert_eq!(at(&cluster, "configmap/acknowledged", ".data.a"), "b");
    for pod in ["keeper", "web"] {
        becomes(&cluster, &format!("pod/{pod}"), ".status.containerStatuses[0].restartCount", "1");
        ready(&cluster, pod);
    }
    assert_eq!(at(&cluster, "pod/keeper", ".metadata.uid"), uid);
    let lives = |of: &str| cluster.kubectl(["exec", "keeper", "--", "wc", "-l", &format!("/{of}/lives")]).split(' ').next().unwrap_or_default().to_owned();
    assert_eq!((lives("disk").as_str(), lives("memory").as_str()), ("2", "1"));
    assert_eq!(at(&cluster, "pod/keeper", ".status.containerStatuses[0].lastState.terminated.exitCode"), "137", "as upstream tells of what it lost");
    becomes(&cluster, "pod/once", ".status.phase", "Failed");
    assert_eq!(at(&cluster, "pod/done", ".status.phase"), "Succeeded");
    cluster.eventually("the Service leads to its pod again", || {
        cluster.try_kubectl(["exec", "keeper", "--", "wget", "-q", "-O", "-", "http://web"]).filter(|body| body.trim() == "web")
    });
}

#[test]
fn a_node_goes_on_while_the_api_is_away() {
    const AWAY: Duration = Duration::from_secs(75);
    let cluster = LocalCluster::up(&binary(), 2, &[]);
    let archive = cluster.directory().join("busybox.tar");
    fs::write(&archive, image::busybox().archive(&["busybox:1"])).unwrap();
    cluster.import(&archive);
    let script = "hostname > /www/index.html; httpd -p 8080 -h /www; exec sleep 987654";
    let there = format!("nodeName: {}", cluster.node(2));
    cluster.apply(&pod("web", script, PROBED, &there));
    cluster.apply(&pod("steady", "exec sleep 1000", "", &there));
    cluster.apply("apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { type: NodePort, selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }\n");
    ready(&cluster, "web");
    ready(&cluster, "steady");
    let port: u16 = at(&cluster, "service/web", ".spec.ports[0].nodePort").parse().unwrap();
    let service = SocketAddr::new(cluster.address(2), port);
    cluster.eventually("the Service answers", || get(service));
    let uid = at(&cluster, "pod/web", ".metadata.uid");

    // It hears nothing and says nothing, and its connections stay open: worse than one that has ended.
    let server = cluster.nodes()[0]["process"].as_i64().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw).unwrap();
    kill(server, Signal::SIGSTOP).unwrap();
    let started = Instant::now();
    let mark = format!("sleep\0{}\0", 987_654);
    let container = processes_of(std::slice::from_ref(&mark));
    assert_eq!(container.len(), 1, "one such container");
    kill(Pid::from_raw(container[0]), Signal::SIGKILL).unwrap();
    let again = loop {
        let now = processes_of(std::slice::from_ref(&mark));
        if now.first().is_some_and(|process| *process != container[0]) {
            break started.elapsed();
        }
        assert!(started.elapsed() < AWAY, "the container is started again without the API");
        std::thread::sleep(Duration::from_millis(20));
    };
    println!("the container was started again after {again:?}, without the API");
    while get(service).is_none() {
        assert!(started.elapsed() < AWAY, "the Service answers without the API");
        std::thread::sleep(Duration::from_millis(20));
    }
    // So long that requests under way have given up and leases have run out.
    std::thread::sleep(AWAY.saturating_sub(started.elapsed()));
    assert!(get(service).is_some(), "the Service answers at the end");
    kill(server, Signal::SIGCONT).unwrap();

    becomes(&cluster, "pod/web", ".status.containerStatuses[0].restartCount", "1");
    becomes(&cluster, &format!("node/{}", cluster.node(2)), ".status.conditions[?(@.type==\"Ready\")].status", "True");
    ready(&cluster, "web");
    assert_eq!(at(&cluster, "pod/web", ".metadata.uid"), uid, "nobody was moved");
    assert_eq!(at(&cluster, "pod/steady", ".status.containerStatuses[0].restartCount"), "0");
    cluster.apply(&pod("later", "exec sleep 1000", "", &there));
    ready(&cluster, "later");
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Puts the data of a stopped cluster onto another disk, which `mount` brings to their place.
fn move_to_a_disk(cluster: &RealCluster, mount: impl FnOnce(&Path)) -> PathBuf {
    let (data, before) = (cluster.data_directory(), cluster.directory().join("before"));
    fs::rename(&data, &before).unwrap();
    fs::create_dir(&data).unwrap();
    mount(&data);
    run("cp", &["-a", &before.join(".").display().to_string(), &data.display().to_string()]);
    data
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing_that_was_acknowledged() {
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    cluster.stop_server();
    let data = move_to_a_disk(&cluster, |data| mount(Some("disk"), data, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap());
    cluster.start_server();
    let create = |number: usize| cluster.try_kubectl(["create", "configmap", &format!("c{number}"), &format!("--from-literal=a={}", testkit::noise(100_000))]).is_some();
    let mut acknowledged: Vec<usize> = (0..5).filter(|number| create(*number)).collect();
    assert_eq!(acknowledged.len(), 5);
    let filler = data.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    drop(file);
    // What the store has set aside may hold some more.
    let refused = (5..1000).find(|number| {
        let accepted = create(*number);
        acknowledged.extend(accepted.then_some(*number));
        !accepted
    });
    let refused = refused.expect("a full disk takes no more");
    let said = cluster.kubectl_refused(["create", "configmap", "more", &format!("--from-literal=a={}", testkit::noise(100_000))]);
    assert!(said.contains("is full: free some space, then writing goes on"), "{said}");
    assert!(cluster.try_kubectl(["get", "configmap", "c0"]).is_some(), "what is there can be read");
    fs::remove_file(&filler).unwrap();
    cluster.eventually("it takes writes again", || create(refused + 1).then_some(()));
    acknowledged.push(refused + 1);
    cluster.kill_server();
    cluster.start_server();
    let mut kept: Vec<usize> = cluster
        .kubectl(["get", "configmaps", "-o", "name"])
        .lines()
        .filter_map(|name| name.strip_prefix("configmap/c")?.parse().ok())
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, acknowledged);
}

#[test]
fn pods_run_on_when_the_disk_turns_read_only() {
    let (mut cluster, _registry) = cluster();
    cluster.stop_server();
    let disk = cluster.directory().join("disk").display().to_string();
    fs::File::create(&disk).unwrap().set_len(1 << 30).unwrap();
    run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=1", &disk]);
    let bring = |data: &Path| run("mount", &["-o", "loop,errors=remount-ro", &disk, &data.display().to_string()]);
    let data = move_to_a_disk(&cluster, bring);
    cluster.start_server();
    cluster.apply(&pod("web", &format!("(while sleep 0.1; do echo line; done) & {WEB}"), PROBED, ""));
    ready(&cluster, "web");
    cluster.kubectl(["create", "configmap", "acknowledged", "--from-literal=a=b"]);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounted = |line: &str| (line.split(' ').nth(1)? == data.to_str()?).then(|| line.split(' ').next().map(str::to_owned)).flatten();
    let device = mounts.lines().find_map(mounted).expect("the disk is mounted");
    let name = device.trim_start_matches("/dev/");
    fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").unwrap();
    // What a disk that fails makes of its file system.
    let said = cluster.kubectl_refused(["create", "configmap", "more", "--from-literal=a=b"]);
    assert!(said.to_lowercase().contains("read-only"), "{said}");
    assert_eq!(at(&cluster, "configmap/acknowledged", ".data.a"), "b", "what is there can be read");
    let address: SocketAddr = format!("{}:8080", at(&cluster, "pod/web", ".status.podIP")).parse().unwrap();
    // Long enough for what is written every second (logs, the lease) to have failed.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(get(address).as_deref(), Some("web"), "the pod goes on");

    cluster.lose_power();
    let checked = Command::new("e2fsck").args(["-p", &disk]).output().unwrap();
    assert!(checked.status.code().is_some_and(|code| code <= 1), "the disk is repaired: {checked:?}");
    bring(&data);
    cluster.start_server();
    assert_eq!(at(&cluster, "configmap/acknowledged", ".data.a"), "b");
    becomes(&cluster, "pod/web", ".status.containerStatuses[0].restartCount", "1");
    ready(&cluster, "web");
}

#[test]
fn nothing_befalls_pods_when_the_clock_jumps() {
    let (mut cluster, _registry) = cluster();
    let clock = cluster.directory().join("clock");
    fs::write(&clock, "+0").unwrap();
    let library = ["x86_64", "aarch64"].iter().map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"));
    let library = library.into_iter().find(|path| Path::new(path).exists()).expect("libfaketime is installed: run `cargo xtask test`");
    cluster.restart_server_in(&[
        ("LD_PRELOAD", &library),
        ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ]);
    cluster.apply(&pod("web", WEB, PROBED, ""));
    ready(&cluster, "web");
    let day = |object: &str, path: &str| at(&cluster, object, path)[..10].to_owned();
    let today = day("pod/web", ".metadata.creationTimestamp");
    let since = at(&cluster, "node/node-1", ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime");
    // A day back, but not to before the cluster was made: its certificates were not valid then.
    for (jump, name) in [("+2d", "forth"), ("+1d", "back")] {
        fs::write(&clock, jump).unwrap();
        cluster.apply(&pod(name, WEB, PROBED, ""));
        ready(&cluster, name);
        assert_ne!(day(&format!("pod/{name}"), ".metadata.creationTimestamp"), today, "the clock did jump");
        // Longer than two heartbeats, and than every probe needs to fail three times.
        std::thread::sleep(Duration::from_secs(22));
        cluster.kubectl(["delete", "pod", name, "--timeout=180s"]);
        assert_eq!(at(&cluster, "pod/web", ".status.containerStatuses[0].restartCount"), "0");
        assert_eq!(at(&cluster, "pod/web", ".status.conditions[?(@.type==\"Ready\")].status"), "True");
        assert_eq!(at(&cluster, "node/node-1", ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"), since, "the node stays Ready");
        // The pod's own credential holds on both sides of the jump, or is renewed.
        let server = format!("https://127.0.0.1:{}", cluster.port());
        cluster.eventually("the pod's token is taken", || {
            let token = cluster.try_kubectl(["exec", "web", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"])?;
            let mut command = cluster.command();
            command.env("KUBECONFIG", "/dev/null").args(["--server", &server, "--insecure-skip-tls-verify", "--token", &token, "auth", "whoami"]);
            let answer = command.output().expect("kubectl starts");
            String::from_utf8_lossy(&answer.stdout).contains("system:serviceaccount:default:default").then_some(())
        });
    }
}
