//! Pods with users of their own (`hostUsers: false`), seen through the real kubectl and from the node: who their processes are,
//! however they came to run; whose their files are; and that their root is root of nothing else.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use testkit::{RealCluster, image, real_cluster::Settings, registry::Registry};

fn cluster() -> (RealCluster, Registry) {
    let busybox = image::busybox();
    let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
    let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
    let cluster = RealCluster::start(&Settings { binary: &binary, registry: Some(&registry), control_plane_only: false });
    (cluster, registry)
}

/// A pod with users of its own that runs a script, with further fields of its container and of itself.
fn pod(name: &str, script: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: default }}\nspec:\n  hostUsers: false\n  terminationGracePeriodSeconds: 1\n  {spec}\n  \
         containers: [{{ name: main, image: \"busybox:1\", command: [sh, -c, {script:?}], {container} }}]\n"
    )
}

fn ready(cluster: &RealCluster, pod: &str) {
    cluster.kubectl(["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=180s"]);
}

fn at(cluster: &RealCluster, object: &str, path: &str) -> String {
    cluster.kubectl(["get", object, "-o", &format!("jsonpath={{{path}}}")])
}

fn run(cluster: &RealCluster, pod: &str, script: &str) -> String {
    cluster.kubectl(["exec", pod, "--", "sh", "-c", script])
}

/// What a pod's 0 is on the node, as a command in it sees it.
#[track_caller]
fn first_number(cluster: &RealCluster, pod: &str) -> u64 {
    let map = run(cluster, pod, "cat /proc/self/uid_map");
    let fields: Vec<u64> = map.split_whitespace().map(|field| field.parse().unwrap()).collect();
    assert!(fields.len() == 3 && fields[0] == 0 && fields[1] >= 65_536 && fields[1] % 65_536 == 0 && fields[2] == 65_536, "{map}");
    fields[1]
}

/// What the node sees of a process: all that decides what it may do.
fn seen_from_the_node(pid: i32) -> BTreeMap<String, String> {
    let process = Path::new("/proc").join(pid.to_string());
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let read = |file: &str| fs::read_to_string(process.join(file)).unwrap();
    let mut seen: BTreeMap<String, String> = ["uid_map", "gid_map"].map(|file| (file.to_owned(), words(&read(file)))).into();
    let decisive = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"];
    for (name, value) in read("status").lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| decisive.contains(name)) {
        seen.insert(name.to_owned(), words(value));
    }
    for name in ["user", "mnt", "net", "uts", "ipc", "pid"] {
        seen.insert(format!("namespace {name}"), fs::read_link(process.join("ns").join(name)).unwrap().display().to_string());
    }
    seen
}

/// The shell on the node whose words say this.
fn shell_that_says(cluster: &RealCluster, mark: &str) -> i32 {
    cluster.eventually(&format!("a shell that says {mark}"), || {
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        all.into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"sh\0-c\0") && String::from_utf8_lossy(&line).contains(mark)
        })
    })
}

#[test]
fn whatever_the_node_runs_in_a_pod_is_one_of_the_pods_users() {
    let (cluster, _registry) = cluster();
    let gates = tempfile::tempdir().unwrap();
    // Each waits for a file that this test makes after it has looked at it from outside.
    let mark = |way: &str| format!("{way}-{}", cluster.name());
    let waits = |way: &str| format!("until [ -e /gates/{0} ]; do sleep 0.1; done # {0}", mark(way));
    let go = |way: &str| fs::write(gates.path().join(mark(way)), "").unwrap();
    let command = |way: &str| format!("command: [sh, -c, {:?}]", waits(way));
    let mount = "volumeMounts: [{ name: gates, mountPath: /gates }]";
    let main = mark("main");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: watched, namespace: default }}\nspec:\n  hostUsers: false\n  volumes: [{{ name: gates, hostPath: {{ path: {gates} }} }}]\n  \
         initContainers: [{{ name: before, image: \"busybox:1\", {before}, {mount} }}]\n  \
         containers:\n  - name: main\n    image: busybox:1\n    command: [sh, -c, \"trap 'exit 0' TERM; while true; do sleep 0.1; done # {main}\"]\n    {mount}\n    \
         lifecycle: {{ postStart: {{ exec: {{ {post} }} }}, preStop: {{ exec: {{ {pre} }} }} }}\n    \
         startupProbe: {{ exec: {{ {startup} }}, timeoutSeconds: 60 }}\n    \
         livenessProbe: {{ exec: {{ {liveness} }}, timeoutSeconds: 60 }}\n    \
         readinessProbe: {{ exec: {{ {readiness} }}, timeoutSeconds: 60 }}\n",
        gates = gates.path().display(),
        before = command("init"),
        post = command("post-start"),
        pre = command("pre-stop"),
        startup = command("startup"),
        liveness = command("liveness"),
        readiness = command("readiness"),
    ));
    let init = seen_from_the_node(shell_that_says(&cluster, &mark("init")));
    go("init");
    let main = seen_from_the_node(shell_that_says(&cluster, &main));
    let ours = seen_from_the_node(i32::try_from(cluster.server_process()).unwrap());
    let map: Vec<u64> = main["uid_map"].split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(map.len() == 3 && map[0] == 0 && map[1] >= 65_536 && map[2] == 65_536 && main["gid_map"] == main["uid_map"], "{main:?}");
    assert_eq!(main["Uid"], [map[1].to_string().as_str(); 4].join(" "));
    assert_eq!((&init["uid_map"], &init["Uid"], &init["CapBnd"], &init["namespace user"]), (&main["uid_map"], &main["Uid"], &main["CapBnd"], &main["namespace user"]));
    for namespace in ["user", "mnt", "net", "uts", "ipc", "pid"].map(|name| format!("namespace {name}")) {
        assert_ne!(main[&namespace], ours[&namespace], "{namespace}");
    }
    for way in ["post-start", "startup", "liveness", "readiness"] {
        assert_eq!(seen_from_the_node(shell_that_says(&cluster, &mark(way))), main, "{way}");
        go(way);
    }
    ready(&cluster, "watched");
    let mut exec = cluster.command().args(["exec", "watched", "--", "sh", "-c", &waits("exec")]).spawn().unwrap();
    assert_eq!(seen_from_the_node(shell_that_says(&cluster, &mark("exec"))), main, "exec");
    go("exec");
    assert!(exec.wait().unwrap().success());
    // The profile that asks for nothing but what the container has.
    let debugger = format!("while true; do sleep 0.1; done # {}", mark("debug"));
    cluster.kubectl(["debug", "watched", "--image=busybox:1", "--profile=baseline", "--target=main", "--container=look", "--", "sh", "-c", &debugger]);
    let mut seen = seen_from_the_node(shell_that_says(&cluster, &mark("debug")));
    seen.insert("namespace mnt".to_owned(), main["namespace mnt"].clone());
    assert_eq!(seen, main, "an ephemeral container has a file system of its own and nothing else");
    cluster.kubectl(["delete", "pod", "watched", "--wait=false"]);
    assert_eq!(seen_from_the_node(shell_that_says(&cluster, &mark("pre-stop"))), main, "pre-stop");
    go("pre-stop");
    cluster.kubectl(["wait", "--for=delete", "pod/watched", "--timeout=180s"]);
}

/// What the root of the node could do, and a privileged container with it; each line that works says so. First of all it looks
/// whether its root is that of the node: then nothing is tried.
const WAYS_OUT: &str = r#"
[ "$(tr -s ' ' < /proc/self/uid_map | cut -d' ' -f4)" = 65536 ] || { echo 'WAY OUT: this is the root of the node'; exit 0; }
works() { what=$1; shift; if timeout 5 "$@" >/dev/null 2>&1; then echo "WAY OUT: $what"; fi; }
for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper /proc/sysrq-trigger /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do
  [ -e "$file" ] && works "$file" sh -c ": >> $file"
done
works 'kernel memory' dd if=/proc/kcore of=/dev/null bs=1 count=1 iflag=fullblock
works 'physical memory' sh -c 'mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null bs=1 count=1'
works 'a block device' sh -c 'mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null count=1'
for device in /dev/vd* /dev/sd* /dev/nvme* /dev/mem; do [ -e "$device" ] && works "$device" dd if=$device of=/dev/null bs=1 count=1; done
works 'a cgroup hierarchy of its own' sh -c 'mkdir -p /tmp/c && mount -t cgroup -o memory none /tmp/c'
works 'the disk of the node' sh -c 'mount -t ext4 /dev/vda /mnt || mount -t ext4 /tmp/disk /mnt'
works 'the processes of the node' nsenter -t 1 -m -p sh -c '[ $(ls -d /proc/[0-9]* | wc -l) -gt 30 ]'
echo all tried
"#;

#[test]
fn no_well_known_way_leads_out_of_a_privileged_pod_with_users_of_its_own() {
    let (cluster, _registry) = cluster();
    cluster.apply(&pod("mapped", "exec sleep 1000", "securityContext: { privileged: true }", ""));
    ready(&cluster, "mapped");
    first_number(&cluster, "mapped");
    let said = run(&cluster, "mapped", WAYS_OUT);
    assert!(said.ends_with("all tried\n") && !said.contains("WAY OUT"), "{said}");
    // The other way round: what the pod may do with what is its own.
    assert_eq!(run(&cluster, "mapped", "mkdir -p /m && mount -t tmpfs none /m && echo mounted; hostname inside && hostname"), "mounted\ninside\n");
}

#[test]
fn files_keep_their_owners_and_pods_their_users() {
    let (mut cluster, _registry) = cluster();
    let shared = tempfile::tempdir().unwrap();
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings, namespace: default }\ndata: { key: from-a-config-map }\n");
    cluster.apply("apiVersion: v1\nkind: Secret\nmetadata: { name: secret, namespace: default }\nstringData: { key: from-a-secret }\n");
    cluster.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data, namespace: default }\nspec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }\n",
    );
    let container = "volumeMounts: [{ name: settings, mountPath: /settings }, { name: secret, mountPath: /secret }, { name: down, mountPath: /down }, { name: empty, mountPath: /empty }, \
                     { name: memory, mountPath: /memory }, { name: host, mountPath: /host }, { name: tools, mountPath: /tools }, { name: settings, mountPath: /file, subPath: key }, \
                     { name: all, mountPath: /all }, { name: data, mountPath: /data }], \
                     readinessProbe: { exec: { command: [cat, /empty/ready] }, periodSeconds: 1 }, securityContext: { procMount: Unmasked }";
    let volumes = format!(
        "shareProcessNamespace: true\n  securityContext: {{ fsGroup: 2000, sysctls: [{{ name: net.ipv4.ip_unprivileged_port_start, value: \"80\" }}, {{ name: kernel.shm_rmid_forced, value: \"1\" }}] }}\n  \
         volumes: [{{ name: settings, configMap: {{ name: settings }} }}, {{ name: secret, secret: {{ secretName: secret, defaultMode: 0400 }} }}, {{ name: empty, emptyDir: {{}} }}, \
         {{ name: memory, emptyDir: {{ medium: Memory }} }}, {{ name: host, hostPath: {{ path: {} }} }}, {{ name: tools, image: {{ reference: \"busybox:1\" }} }}, \
         {{ name: down, downwardAPI: {{ items: [{{ path: name, fieldRef: {{ fieldPath: metadata.name }} }}] }} }}, {{ name: data, persistentVolumeClaim: {{ claimName: data }} }}, \
         {{ name: all, projected: {{ sources: [{{ serviceAccountToken: {{ path: token }} }}, {{ configMap: {{ name: settings }} }}] }} }}]",
        shared.path().display()
    );
    let probed = format!("readinessProbe: {{ tcpSocket: {{ port: 80 }}, periodSeconds: 1 }}, {container}");
    cluster.apply(&pod("one", "echo started; touch /empty/ready; mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www", &probed, &volumes));
    // An ordinary user of the pod.
    let ordinary = "securityContext: { runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000 }\n  volumes: [{ name: empty, emptyDir: {} }, { name: secret, secret: { secretName: secret, defaultMode: 0400 } }]";
    cluster.apply(&pod("two", "exec sleep 1000", "volumeMounts: [{ name: empty, mountPath: /empty }, { name: secret, mountPath: /secret }]", ordinary));
    ready(&cluster, "one");
    ready(&cluster, "two");
    let (one, two) = (first_number(&cluster, "one"), first_number(&cluster, "two"));
    assert_ne!(one, two);
    // Who they are for everybody else.
    let processes_of = |user: u64| fs::read_dir("/proc").unwrap().flatten().filter(|entry| entry.metadata().is_ok_and(|facts| u64::from(facts.uid()) == user)).count();
    assert!(processes_of(one) >= 1 && processes_of(two + 1000) >= 1);

    let read = "cat /settings/key /secret/key /down/name /file /all/key; stat -c ' %u %g %a' -L /secret/key /empty; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; \
                /tools/bin/busybox true; [ -s /all/token ] && echo x > /memory/x; stat -c '%u %g' /memory/x; cat /proc/1/comm; id -G | grep -c 2000";
    let said = run(&cluster, "one", read);
    assert_eq!(said, "from-a-config-mapfrom-a-secretonefrom-a-config-mapfrom-a-config-map 0 2000 440\n 0 2000 2777\n80\n1\n0 2000\npod-init\n1\n");
    let said = run(&cluster, "two", "id -u; id -g; id -G | tr ' ' '\\n' | sort | tr '\\n' ' '; cat /secret/key; echo x > /empty/x; stat -c ' %u %g' /empty/x; touch /bin/x 2>&1 | grep -c denied");
    assert_eq!(said, "1000\n3000\n2000 3000 from-a-secret 1000 2000\n1\n");
    // Nothing is masked, and still nothing of the node's can be written.
    assert_eq!(run(&cluster, "one", "mount | grep -c ' on /proc/'; grep ' 65536$' /proc/self/uid_map >/dev/null && { : >> /proc/sys/kernel/core_pattern; } 2>&1 | grep -c denied").trim(), "0\n1");
    run(&cluster, "one", "echo mine > /host/file && chown 12:13 /host/file; echo mine > /data/file && chown 14:15 /data/file");
    let facts = fs::metadata(shared.path().join("file")).unwrap();
    assert_eq!((facts.uid(), facts.gid()), (12, 13), "a file on a volume has the owner that the pod gave it");
    assert_eq!(cluster.kubectl(["logs", "one"]), "started\n");

    // Ports are forwarded.
    let mut forward = cluster.command().args(["port-forward", "pod/one", ":80"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Kept until the end: kubectl says each connection, and ends where nobody listens.
    let mut words = BufReader::new(forward.stdout.take().unwrap());
    words.read_line(&mut line).unwrap();
    let local = line.split(' ').nth(2).expect("an address").to_owned();
    let mut connection = TcpStream::connect(&local).unwrap();
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello\n"), "{answer}");
    forward.kill().unwrap();
    forward.wait().unwrap();

    // An agent that starts again finds them, and gives nobody what is taken.
    cluster.kill_server();
    cluster.start_server();
    ready(&cluster, "one");
    assert_eq!((first_number(&cluster, "one"), at(&cluster, "pod/one", ".status.containerStatuses[0].restartCount")), (one, "0".to_owned()));
    cluster.apply(&pod("three", "cat /data/file; stat -c '%u %g' /data/file; exec sleep 1000", "volumeMounts: [{ name: data, mountPath: /data }]", "volumes: [{ name: data, persistentVolumeClaim: { claimName: data } }]"));
    ready(&cluster, "three");
    let three = first_number(&cluster, "three");
    assert!(three != one && three != two);
    // Whose number a file's owner was on the node does not matter to the next pod.
    cluster.eventually("it finds the file as the other left it", || (cluster.kubectl(["logs", "three"]) == "mine\n14 15\n").then_some(()));
    // A container that is started again stays who it was.
    run(&cluster, "one", "kill $(pidof httpd)");
    cluster.eventually("the container starts again", || (at(&cluster, "pod/one", ".status.containerStatuses[0].restartCount") == "1").then_some(()));
    ready(&cluster, "one");
    assert_eq!(first_number(&cluster, "one"), one);

    // A Job runs to its end, and its words arrive.
    cluster.apply(
        "apiVersion: batch/v1\nkind: Job\nmetadata: { name: work, namespace: default }\nspec:\n  template:\n    spec:\n      hostUsers: false\n      restartPolicy: Never\n      \
         containers: [{ name: main, image: \"busybox:1\", command: [sh, -c, \"echo bye > /dev/termination-log\"] }]\n",
    );
    cluster.kubectl(["wait", "--for=condition=Complete", "job/work", "--timeout=180s"]);
    assert_eq!(cluster.kubectl(["get", "pods", "-l", "job-name=work", "-o", "jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}"]), "bye\n");
    // What is taken is written down in the pods' directories, and goes with them.
    cluster.kubectl(["delete", "job/work", "pod/one", "pod/two", "pod/three"]);
    let pods = cluster.data_directory().join("node/pods");
    cluster.eventually("nothing of the pods is left", || fs::read_dir(&pods).unwrap().next().is_none().then_some(()));
    cluster.apply(&pod("four", "exec sleep 1000", "", ""));
    ready(&cluster, "four");
    assert!([one, two, three].contains(&first_number(&cluster, "four")), "the first free range is taken again");
}

#[test]
fn a_node_says_that_it_can_and_what_cannot_be_is_refused() {
    let (cluster, _registry) = cluster();
    let handlers = at(&cluster, "node/node-1", ".status.runtimeHandlers[*].features.userNamespaces");
    assert!(!handlers.is_empty() && handlers.split(' ').all(|can| can == "true"), "{handlers}");
    let file = cluster.directory().join("wrong.yaml");
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        fs::write(&file, pod("wrong", "true", "", &format!("{field}: true"))).unwrap();
        let said = cluster.kubectl_refused(["create", "-f", file.to_str().unwrap()]);
        assert!(said.contains("Forbidden: when `") && said.to_lowercase().contains(&format!("spec.{}", field.to_lowercase())), "{said}");
    }
    fs::write(&file, pod("wrong", "true", "securityContext: { procMount: Unmasked }", "").replace("hostUsers: false", "hostUsers: true")).unwrap();
    let said = cluster.kubectl_refused(["create", "-f", file.to_str().unwrap()]);
    assert!(said.contains("spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"), "{said}");
}
