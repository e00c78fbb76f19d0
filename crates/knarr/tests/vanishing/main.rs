//! Clients that vanish in the middle of everything, and clients that stop reading: the server stays as it was, and loses no write.

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use testkit::{RealCluster, image, real_cluster::Settings, registry::Registry};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: host }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: "busybox:1", readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }, command: [sh, -c, "echo started; exec httpd -f -p 8080 -h /www"] }]
"#;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: usize,
    memory_kib: usize,
}

fn holdings(process: u32) -> Holdings {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory_kib = memory.trim().trim_end_matches(" kB").parse().unwrap();
    Holdings { descriptors: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(), memory_kib }
}

struct Trial {
    cluster: RealCluster,
    credential: PathBuf,
}

impl Trial {
    fn start() -> Self {
        let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
        let busybox = image::busybox();
        let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
        let cluster = RealCluster::start(&Settings { binary: &binary, registry: Some(&registry), control_plane_only: false });
        let config: Value = serde_yaml_ng::from_str(&fs::read_to_string(cluster.kubeconfig()).unwrap()).unwrap();
        let user = &config["users"][0]["user"];
        let mut pem = Vec::new();
        for name in ["client-certificate-data", "client-key-data"] {
            pem.extend(STANDARD.decode(user[name].as_str().unwrap()).unwrap());
        }
        let credential = cluster.directory().join("credential.pem");
        fs::write(&credential, pem).unwrap();
        Self { cluster, credential }
    }

    /// A program of ours in Python, which hangs up as rudely as one wants.
    fn program(&self, text: &str) -> Command {
        let path = self.cluster.directory().join("program.py");
        fs::write(&path, text).unwrap();
        let mut command = Command::new("python3");
        command.arg(path).args(["127.0.0.1", &self.cluster.port().to_string()]).arg(&self.credential);
        command
    }

    fn misbehave(&self, rounds: u32) {
        let output = self.program(include_str!("misbehave.py")).args(["default", "host", &rounds.to_string()]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}\n{}", text(&output.stdout), text(&output.stderr), self.cluster.report());
        assert_eq!(text(&output.stdout).lines().count(), 13);
    }

    /// Processes of the cluster that hold descriptors for clients: the server, and the shims.
    fn keepers(&self) -> Vec<u32> {
        let mark = format!("knarr-{}", self.cluster.name());
        let all = testkit::real_cluster::processes_of(&[mark]).into_iter().filter_map(|process| u32::try_from(process).ok());
        let shims = all.filter(|process| fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("/shim-")));
        shims.chain([self.cluster.server_process()]).collect()
    }
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let trial = Trial::start();
    let cluster = &trial.cluster;
    cluster.apply(POD);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/host", "--timeout=180s"]);
    // What is made at first use, and kept, is made now.
    trial.misbehave(4);
    cluster.kubectl(["delete", "configmaps", "--all"]);
    cluster.eventually("commands have ended", || (commands_in_the_pod(cluster) == 0).then_some(()));
    let keepers = trial.keepers();
    let before: Vec<Holdings> = keepers.iter().map(|process| holdings(*process)).collect();
    trial.misbehave(60);
    for (process, before) in keepers.iter().zip(&before) {
        // A few connections, kept for the next request, come and go.
        cluster.eventually(&format!("process {process} lets go of {} descriptors", holdings(*process).descriptors), || {
            (holdings(*process).descriptors <= before.descriptors + 5).then_some(())
        });
        let after = holdings(*process);
        assert!(after.memory_kib < before.memory_kib + 32 * 1024, "process {process} has grown: {before:?}, {after:?}");
    }
    cluster.eventually("commands have ended", || (commands_in_the_pod(cluster) == 0).then_some(()));

    // Of what was sent whole, each is there whole or not at all; of halves there is nothing.
    let maps: Value = serde_json::from_str(&cluster.kubectl(["get", "configmaps", "-o", "json"])).unwrap();
    let names: Vec<&str> = maps["items"].as_array().unwrap().iter().filter_map(|map| map["metadata"]["name"].as_str()).collect();
    assert!(!names.iter().any(|name| name.starts_with("half")), "{names:?}");
    let whole: Vec<&Value> = maps["items"].as_array().unwrap().iter().filter(|map| map["data"]["filling"].is_string()).collect();
    assert!(whole.iter().all(|map| map["data"]["filling"].as_str().is_some_and(|text| text.len() == 1000)));
    println!("{} of 60 writes whose client vanished were made", whole.len());
    assert_eq!(cluster.kubectl(["exec", "host", "--", "echo", "well"]), "well\n");
    assert_eq!(cluster.kubectl(["get", "pod", "host", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]), "0");
}

/// Commands that clients started and left: all but the web server.
fn commands_in_the_pod(cluster: &RealCluster) -> usize {
    let listed = cluster.kubectl(["exec", "host", "--", "sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done"]);
    listed.lines().filter(|line| ["yes ", "cat ", "sh "].contains(line)).count()
}

/// Clients that ask for a lot and read nothing.
const STOP_READING: &str = r#"
import socket, ssl, sys, time
host, port, credential, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain(credential)
kept = []
for number in range(count):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, port))
    connection = context.wrap_socket(connection, server_hostname=host)
    connection.sendall(f"GET /api/v1/namespaces/default/configmaps?watch=true HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    connection.recv(100)
    kept.append(connection)
print("all wait", flush=True)
sys.stdin.read()
"#;

#[test]
fn watchers_that_stop_reading_hold_up_nobody_and_cost_little() {
    let trial = Trial::start();
    let cluster = &trial.cluster;
    let filling = cluster.directory().join("filling");
    fs::write(&filling, testkit::noise(900_000)).unwrap();
    let make = |name: &str| cluster.kubectl(["create", "configmap", name, &format!("--from-file={}", filling.display())]);
    for number in 0..20 {
        make(&format!("large-{number}"));
    }
    let server = cluster.server_process();
    let before = holdings(server);
    let mut program = trial.program(STOP_READING).arg("60").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(program.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "all wait\n");
    // Sixty of them, with eighteen megabytes to read each, and more to come.
    let started = Instant::now();
    for number in 0..20 {
        make(&format!("more-{number}"));
    }
    let taken = started.elapsed();
    assert_eq!(cluster.kubectl(["get", "configmaps", "-o", "name"]).lines().count(), 41);
    let during = holdings(server);
    println!("60 stalled watchers: 20 writes took {taken:.1?}, {} KiB more", during.memory_kib.saturating_sub(before.memory_kib));
    // A second or two each on a slow and busy machine, most of it kubectl's; a write that waits for sixty readers takes for ever.
    assert!(taken < Duration::from_secs(120), "writes are held up: {taken:?}");
    assert!(during.memory_kib < before.memory_kib + 250 * 1024, "{before:?}, {during:?}");
    drop(program.stdin.take());
    program.wait().unwrap();
    cluster.eventually("their connections are gone", || (holdings(server).descriptors <= before.descriptors + 5).then_some(()));
    assert!(TcpStream::connect(("127.0.0.1", cluster.port())).is_ok());
}
