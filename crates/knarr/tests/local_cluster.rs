//! Clusters of `knarr up`: what two nodes have to be for each other, what is left of them afterwards, and what happens when one is lost.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use testkit::{LocalCluster, Machine, image};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A failed test says so itself; the next one may go on.
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

fn import_busybox(cluster: &LocalCluster) {
    let archive = cluster.directory().join("busybox.tar");
    fs::write(&archive, image::busybox().archive(&["busybox:1"])).unwrap();
    cluster.import(&archive);
}

/// The body that a web server answers with, where it answers 200.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.trim().to_owned())
}

/// A web server on each node that says its pod's name, reached by all of them and by itself alone.
const WEB_ON_EACH_NODE: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1
        command: ["sh", "-c", "echo started; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        ports: [{ containerPort: 8080 }]
        readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: NodePort, selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: lonely, labels: { app: lonely } }
spec:
  terminationGracePeriodSeconds: 1
  containers: [{ name: web, image: "busybox:1", readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }, command: ["sh", "-c", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"] }]
---
apiVersion: v1
kind: Service
metadata: { name: lonely }
spec: { selector: { app: lonely }, ports: [{ port: 80, targetPort: 8080 }] }
"#;

#[test]
fn pods_of_two_nodes_reach_each_other_and_are_reached_through_both() {
    let _alone = alone();
    let cluster = LocalCluster::up(&binary(), 2, &[]);
    import_busybox(&cluster);
    cluster.apply(WEB_ON_EACH_NODE);
    cluster.kubectl(["rollout", "status", "daemonset/web", "--timeout=180s"]);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/lonely", "--timeout=180s"]);

    let listed = cluster.kubectl(["get", "pods", "-l", "app=web", "-o", "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP}{\"\\n\"}{end}"]);
    let pods: Vec<Vec<&str>> = listed.lines().map(|line| line.split(' ').collect()).collect();
    let [one, other] = pods.as_slice() else { panic!("a pod on each node: {listed}") };
    assert_ne!(one[1], other[1], "they are on different nodes");

    let fetch = |from: &str, host: &str, port: u16| {
        let script = format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 {host} {port} | tail -n 1");
        cluster.try_kubectl(["exec", from, "--", "sh", "-c", &script]).map(|body| body.trim().to_owned())
    };
    // Directly, by the Service's name until both have answered, and by their own Service.
    for (from, to) in [(one, other), (other, one)] {
        assert_eq!(fetch(from[0], to[2], 8080).as_deref(), Some(to[0]));
        for wanted in [one[0], other[0]] {
            cluster.eventually("the Service leads to both pods", || fetch(from[0], "web", 80).filter(|body| body == wanted));
        }
        assert_eq!(fetch(from[0], "lonely.default.svc.cluster.local", 80).as_deref(), Some("lonely"));
    }
    for _ in 0..3 {
        // Its short name is in the pod's own /etc/hosts.
        assert_eq!(fetch("lonely", "lonely.default", 80).as_deref(), Some("lonely"), "a pod reaches itself through its Service");
    }

    // From the host, through the port of either node.
    let port: u16 = cluster.kubectl(["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]).parse().unwrap();
    for node in [1, 2] {
        let address = SocketAddr::new(cluster.address(node), port);
        for wanted in [one[0], other[0]] {
            cluster.eventually("the node's port leads to both pods", || get(address, "/").filter(|body| body == wanted));
        }
    }

    // What the server asks of nodes, it asks of agents too.
    for pod in [one[0], other[0]] {
        assert_eq!(cluster.kubectl(["logs", pod]).trim(), "started");
        assert_eq!(cluster.kubectl(["exec", pod, "--", "hostname"]).trim(), pod);
        assert_eq!(cluster.kubectl(["get", "--raw", &format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/")]).trim(), pod);
    }
    let proxied = cluster.kubectl(["get", "--raw", "/api/v1/namespaces/default/services/web/proxy/"]);
    assert!([one[0], other[0]].contains(&proxied.trim()), "{proxied}");

    let again = cluster.start(2, &[]);
    assert!(again.contains("is running already: 2 nodes"), "{again}");
    cluster.start(3, &[]);
    import_busybox(&cluster);
    cluster.kubectl(["delete", "pod", "-l", "app=web", &format!("--field-selector=spec.nodeName={}", cluster.node(3)), "--wait=false"]);
    cluster.kubectl(["rollout", "status", "daemonset/web", "--timeout=180s"]);
    assert_eq!(cluster.kubectl(["get", "nodes", "-o", "name"]).lines().count(), 3);
}

#[test]
fn pods_of_a_lost_node_come_back_on_the_other() {
    let _alone = alone();
    let cluster = LocalCluster::up(&binary(), 2, &["--server-option", "node-monitor-grace-period=12"]);
    import_busybox(&cluster);
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 4
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - { key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1 }
      - { key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1 }
      containers: [{ name: web, image: "busybox:1", readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }, command: ["sh", "-c", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"] }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: NodePort, selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }
"#,
    );
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=180s"]);
    let (survivor, lost) = (cluster.node(1), cluster.node(2));
    let on = |node: &str| {
        let look = format!("jsonpath={{range .items[?(@.spec.nodeName==\"{node}\")]}}{{.metadata.deletionTimestamp}}{{.status.conditions[?(@.type==\"Ready\")].status}} {{end}}");
        let states = cluster.kubectl(["get", "pods", "-l", "app=web", "-o", &look]);
        states.split_whitespace().filter(|state| *state == "True").count()
    };
    assert!(on(&lost) > 0, "the scheduler uses both nodes");

    let started = Instant::now();
    cluster.kill_node(2);
    cluster.kubectl(["wait", "--for=condition=Ready=Unknown", &format!("node/{lost}"), "--timeout=180s"]);
    let noticed = started.elapsed();
    cluster.eventually("four pods are ready on the node that is left", || (on(&survivor) == 4).then_some(()));
    println!("a lost node: noticed after {:.1} s, its pods run elsewhere after {:.1} s", noticed.as_secs_f64(), started.elapsed().as_secs_f64());
    let port: u16 = cluster.kubectl(["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]).parse().unwrap();
    let address = SocketAddr::new(cluster.address(1), port);
    for _ in 0..8 {
        assert!(get(address, "/").is_some(), "no request goes to the lost node any more");
    }

    // The node comes back, and what it ran is gone there.
    cluster.start(2, &[]);
    cluster.kubectl(["wait", "--for=condition=Ready", &format!("node/{lost}"), "--timeout=180s"]);
    cluster.eventually("only the new pods are left", || {
        let count = cluster.kubectl(["get", "pods", "-l", "app=web", "-o", "name"]).lines().count();
        (count == 4).then_some(())
    });
}

/// Everything on a machine that a cluster might leave behind.
fn traces(machine: &Machine, cluster: &LocalCluster) -> BTreeMap<&'static str, String> {
    let lines = |text: String, keep: &dyn Fn(&str) -> bool| text.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect::<String>();
    let all = |_: &str| true;
    let ours = format!("knarr-{}", cluster.name());
    let cgroups = machine.output(&["find", "/sys/fs/cgroup", "-type", "d", "-name", &ours]);
    let processes = machine.output(&["sh", "-c", "grep -l -s -- \"$0\" /proc/[0-9]*/cgroup || true", &format!("/{ours}/")]);
    BTreeMap::from([
        ("links", machine.output(&["ip", "-o", "-brief", "link"])),
        ("addresses", machine.output(&["ip", "-o", "-4", "address"])),
        ("routes", machine.output(&["ip", "route", "show", "table", "all"])),
        ("rules", machine.output(&["nft", "list", "ruleset"])),
        ("forwarding", machine.output(&["cat", "/proc/sys/net/ipv4/ip_forward"])),
        ("mounts", lines(machine.output(&["cat", "/proc/self/mounts"]), &|line| line.contains("knarr") || line.contains("nsfs"))),
        ("cgroups", lines(cgroups, &all)),
        ("processes", lines(processes, &all)),
        ("run directory", machine.output(&["sh", "-c", "ls /run/knarr 2>/dev/null || true"])),
    ])
}

#[track_caller]
fn check_nothing_left(before: &BTreeMap<&str, String>, machine: &Machine, cluster: &LocalCluster) {
    for (what, after) in traces(machine, cluster) {
        // Other clusters on this machine share its run directory, and nothing else.
        if what == "run directory" {
            assert!(!after.contains(cluster.name()), "the run directory is left");
            continue;
        }
        assert_eq!(before[what], after, "{what}");
    }
}

#[test]
fn down_leaves_nothing_behind_whatever_happened_before() {
    let _alone = alone();
    let machine = Machine::new();
    let cluster = LocalCluster::new(&binary(), Some(&machine));
    let before = traces(&machine, &cluster);
    assert_eq!(before["forwarding"].trim(), "0", "a new network does not forward");

    // A cluster with pods on both nodes.
    cluster.start(2, &[]);
    import_busybox(&cluster);
    cluster.apply(WEB_ON_EACH_NODE);
    cluster.kubectl(["rollout", "status", "daemonset/web", "--timeout=180s"]);
    let during = traces(&machine, &cluster);
    for what in ["links", "addresses", "routes", "rules", "forwarding", "mounts", "cgroups", "processes"] {
        assert_ne!(before[what], during[what], "the test sees {what}");
    }
    assert!(fs::read_to_string(&cluster.kubeconfig).unwrap().contains(&format!("current-context: knarr-{}", cluster.name())));
    let started = Instant::now();
    let said = String::from_utf8(cluster.knarr(["down"]).stdout).unwrap();
    println!("down took {:.1} s", started.elapsed().as_secs_f64());
    // Those that do not are killed after half a minute.
    assert!(started.elapsed() < Duration::from_secs(29), "nodes stop when they are asked to");
    assert!(said.contains("--purge"), "{said}");
    check_nothing_left(&before, &machine, &cluster);
    assert!(!fs::read_to_string(&cluster.kubeconfig).unwrap().contains(cluster.name()), "the context is taken out");

    // As after a reboot: the same data, and everything else made anew. Then everything is killed at once.
    cluster.start(2, &[]);
    cluster.kubectl(["rollout", "status", "daemonset/web", "--timeout=180s"]);
    cluster.kill_all();
    assert!(cluster.nodes().iter().all(|node| node["running"] == false));
    cluster.down();
    check_nothing_left(&before, &machine, &cluster);

    // An `up` that is killed on its way.
    for milliseconds in [5, 40, 120, 300] {
        let mut up = cluster.start_command(2, &[]).spawn().unwrap();
        // Any moment will do; these are spread over what `up` does.
        std::thread::sleep(Duration::from_millis(milliseconds));
        testkit::real_cluster::end(&[i32::try_from(up.id()).unwrap()]);
        up.wait().unwrap();
        cluster.down();
        check_nothing_left(&before, &machine, &cluster);
    }
    let said = cluster.down();
    assert!(said.contains("is not running"), "{said}");
}

#[test]
fn commands_say_what_is_wrong_and_what_to_do() {
    let _alone = alone();
    let cluster = LocalCluster::new(&binary(), None);
    let refused = |words: &[&str]| {
        let output = cluster.command(words).output().unwrap();
        assert!(!output.status.success(), "{words:?} should fail");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["up", "--name", "../etc"]).contains("cannot be a cluster's name"));
    assert!(refused(&["image", "list", "--name", "nobody-made-this"]).contains("no cluster nobody-made-this is running here"));
    assert!(refused(&["status", "-o", "xml"]).contains("say json"));
    let data = cluster.directory().join("data").display().to_string();
    let broken = Path::new(&data).join(cluster.name());
    fs::create_dir_all(&broken).unwrap();
    fs::write(broken.join("cluster.json"), "{").unwrap();
    assert!(refused(&["up", "--name", cluster.name(), "--data-dir", &data]).contains("move it away"));
}
