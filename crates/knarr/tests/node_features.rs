//! What a node can do with real containers, seen through the real kubectl: resizing in place, debugging beside a target, image volumes,
//! static pods, a shutdown in order; and what a container must not be able to do.

use std::{fs, path::PathBuf};

use testkit::{RealCluster, image, real_cluster::Settings, registry::Registry};

fn cluster() -> (RealCluster, Registry) {
    let busybox = image::busybox();
    let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
    let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
    let cluster = RealCluster::start(&Settings { binary: &binary, registry: Some(&registry), control_plane_only: false });
    (cluster, registry)
}

/// A pod that runs a script, with further fields of its container and of itself.
fn pod(name: &str, script: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: default }}\nspec:\n  terminationGracePeriodSeconds: 1\n  {spec}\n  \
         containers: [{{ name: main, image: \"busybox:1\", command: [sh, -c, {script:?}], {container} }}]\n"
    )
}

fn ready(cluster: &RealCluster, pod: &str) {
    cluster.kubectl(["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=180s"]);
}

fn at(cluster: &RealCluster, object: &str, path: &str) -> String {
    cluster.kubectl(["get", object, "-o", &format!("jsonpath={{{path}}}")])
}

fn becomes(cluster: &RealCluster, object: &str, path: &str, wanted: &str) {
    cluster.eventually(&format!("{path} of {object} becomes {wanted:?}"), || (at(cluster, object, path) == wanted).then_some(()));
}

/// The container's memory limit and processor quota, as its own cgroup has them.
const LIMITS: &str = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max; \
                      cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";

fn resize(cpu: &str, memory: &str) -> String {
    let amounts = format!("{{\"cpu\":\"{cpu}\",\"memory\":\"{memory}\"}}");
    format!("{{\"spec\":{{\"containers\":[{{\"name\":\"main\",\"resources\":{{\"requests\":{amounts},\"limits\":{amounts}}}}}]}}}}")
}

#[test]
fn a_running_pod_is_resized() {
    let (mut cluster, _registry) = cluster();
    let resources = "resources: { requests: { cpu: 100m, memory: 64Mi }, limits: { cpu: 100m, memory: 64Mi } }, \
                     resizePolicy: [{ resourceName: memory, restartPolicy: RestartContainer }]";
    cluster.apply(&pod("web", "exec sleep 1000", resources, ""));
    ready(&cluster, "web");
    let limits = |cluster: &RealCluster| cluster.kubectl(["exec", "web", "--", "sh", "-c", LIMITS]).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(limits(&cluster), ["67108864", "10000"]);
    cluster.kubectl(["patch", "pod", "web", "--subresource", "resize", "-p", &resize("150m", "64Mi")]);
    becomes(&cluster, "pod/web", ".status.containerStatuses[0].resources.limits.cpu", "150m");
    assert_eq!(limits(&cluster), ["67108864", "15000"]);
    assert_eq!(at(&cluster, "pod/web", ".status.containerStatuses[0].restartCount"), "0");
    assert_eq!(at(&cluster, "pod/web", ".status.containerStatuses[0].allocatedResources.cpu"), "150m");
    // Memory asks for a restart.
    cluster.kubectl(["patch", "pod", "web", "--subresource", "resize", "-p", &resize("150m", "96Mi")]);
    becomes(&cluster, "pod/web", ".status.containerStatuses[0].restartCount", "1");
    ready(&cluster, "web");
    assert_eq!(limits(&cluster), ["100663296", "15000"]);
    // What was granted stands over a restart of the agent, also where the pod asks for more than there is.
    cluster.kubectl(["patch", "pod", "web", "--subresource", "resize", "-p", &resize("5000", "96Mi")]);
    let pending = ".status.conditions[?(@.type==\"PodResizePending\")].reason";
    becomes(&cluster, "pod/web", pending, "Infeasible");
    cluster.kill_server();
    cluster.start_server();
    becomes(&cluster, "pod/web", pending, "Infeasible");
    assert_eq!(limits(&cluster), ["100663296", "15000"]);
    assert_eq!(at(&cluster, "pod/web", ".status.containerStatuses[0].restartCount"), "1");
    // Back and down again, in place.
    cluster.kubectl(["patch", "pod", "web", "--subresource", "resize", "-p", &resize("50m", "96Mi")]);
    becomes(&cluster, "pod/web", ".status.containerStatuses[0].resources.limits.cpu", "50m");
    becomes(&cluster, "pod/web", pending, "");
    assert_eq!(limits(&cluster), ["100663296", "5000"]);
    let said = cluster.kubectl_refused(["patch", "pod", "web", "--subresource", "resize", "-p", r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"memory":null}}}]}}"#]);
    assert!(said.contains("resource limits cannot be removed"), "{said}");
}

#[test]
fn a_debugging_container_sees_its_target_and_images_are_volumes() {
    let (cluster, _registry) = cluster();
    cluster.apply(&pod("web", "exec sleep 123456", "", ""));
    ready(&cluster, "web");
    cluster.kubectl(["debug", "web", "--image=busybox:1", "--target=main", "--container=look", "--", "sh", "-c", "ps; exec sleep 1000"]);
    let seen = cluster.eventually("the debugging container looks", || cluster.try_kubectl(["logs", "web", "-c", "look"]).filter(|log| log.contains("sleep")));
    assert!(seen.contains("sleep 123456"), "{seen}");
    let mounts = "volumeMounts: [{ name: tools, mountPath: /tools }, { name: tools, mountPath: /only, subPath: bin }]";
    cluster.apply(&pod("reader", "exec sleep 1000", mounts, "volumes: [{ name: tools, image: { reference: \"busybox:1\", pullPolicy: IfNotPresent } }]"));
    ready(&cluster, "reader");
    let read = |script: &str| cluster.kubectl(["exec", "reader", "--", "sh", "-c", script]);
    assert_eq!(read("cmp /tools/bin/busybox /bin/busybox && cmp /only/busybox /bin/busybox && echo same"), "same\n");
    assert_eq!(read("touch /tools/x 2>/dev/null || echo no; touch /only/x 2>/dev/null || echo no"), "no\nno\n");
    assert_eq!(read("/tools/bin/busybox true 2>/dev/null || echo no"), "no\n", "nothing in it is run");
    cluster.apply(&pod("missing", "true", "volumeMounts: [{ name: i, mountPath: /i }]", "volumes: [{ name: i, image: { reference: \"nothing:1\" } }]"));
    cluster.eventually("the missing image is told as a container's own is", || {
        matches!(at(&cluster, "pod/missing", ".status.containerStatuses[0].state.waiting.reason").as_str(), "ErrImagePull" | "ImagePullBackOff").then_some(())
    });
    cluster.kubectl(["delete", "pod", "reader", "web", "missing"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("volumes/image"), "nothing stays mounted");
}

#[test]
fn files_of_the_node_are_pods_and_a_shutdown_ends_pods_in_order() {
    let (mut cluster, _registry) = cluster();
    let manifests = cluster.data_directory().join("node/manifests");
    let file = manifests.join("web.yaml");
    fs::write(&file, pod("web", "exec sleep 1000", "", "")).unwrap();
    cluster.eventually("the mirror appears", || cluster.try_kubectl(["get", "pod", "web-node-1"]).map(drop));
    ready(&cluster, "web-node-1");
    let started = at(&cluster, "pod/web-node-1", ".status.containerStatuses[0].containerID");
    assert_eq!(at(&cluster, "pod/web-node-1", ".metadata.ownerReferences[0].kind"), "Node");
    let uid = at(&cluster, "pod/web-node-1", ".metadata.uid");
    cluster.kubectl(["delete", "pod", "web-node-1"]);
    cluster.eventually("the mirror comes back", || cluster.try_kubectl(["get", "pod", "web-node-1", "-o", "jsonpath={.metadata.uid}"]).filter(|now| *now != uid));
    becomes(&cluster, "pod/web-node-1", ".status.containerStatuses[0].containerID", &started);
    assert_eq!(cluster.kubectl(["exec", "web-node-1", "--", "echo", "hello"]), "hello\n");
    cluster.restart_server_with(&["--shutdown-grace-period-by-pod-priority", "0=20,1000=20", "--system-reserved=memory=1Gi", "--kube-reserved=memory=1Gi"]);
    becomes(&cluster, "pod/web-node-1", ".status.containerStatuses[0].containerID", &started);
    let bytes = |path: &str| at(&cluster, "node/node-1", path).trim_end_matches("Ki").parse::<u64>().unwrap() * 1024;
    cluster.eventually("what is kept back is not offered", || (bytes(".status.capacity.memory") - bytes(".status.allocatable.memory") == 2 << 30).then_some(()));
    let limits = ["memory/", ""].map(|hierarchy| format!("/sys/fs/cgroup/{hierarchy}knarr-{}/node-1/memory.{}", cluster.name(), if hierarchy.is_empty() { "max" } else { "limit_in_bytes" }));
    let limit = limits.iter().find_map(|file| fs::read_to_string(file).ok()).expect("the cgroup of all pods");
    assert_eq!(limit.trim().parse::<u64>().unwrap() / 1024, bytes(".status.allocatable.memory") / 1024);
    fs::remove_file(&file).unwrap();
    cluster.eventually("the mirror goes with the file", || cluster.try_kubectl(["get", "pod", "web-node-1"]).is_none().then_some(()));

    cluster.apply("apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: { name: high }\nvalue: 1000\n");
    cluster.apply(&pod("last", "trap 'exit 0' TERM; while true; do sleep 0.1; done", "", "priorityClassName: high"));
    cluster.apply(&pod("first", "trap 'exit 0' TERM; while true; do sleep 0.1; done", "", ""));
    ready(&cluster, "first");
    ready(&cluster, "last");
    assert!(cluster.power_off());
    cluster.start_server();
    for pod in ["pod/first", "pod/last"] {
        assert_eq!(at(&cluster, pod, ".status.phase"), "Failed");
        assert_eq!(at(&cluster, pod, ".status.reason"), "Terminated");
    }
    let ended = |pod: &str| at(&cluster, pod, ".status.containerStatuses[0].state.terminated.finishedAt");
    assert!(ended("pod/first") <= ended("pod/last"));
}

/// Well-known ways out of a container. Each line tells of one that worked; the last line says that all were tried. None does harm
/// where it works (files are only opened for writing, the clock is set to what it shows): this may run on somebody's machine.
const WAYS_OUT: &str = r#"
works() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "WAY OUT: $name"; fi; }
works 'mounting a file system' mount -t tmpfs none /mnt
works 'mounting the host proc' mount -t proc none /mnt
works 'remounting the root' mount -o remount,rw /proc/sys
works 'a mount namespace' unshare -m true
works 'entering another mount namespace' nsenter -t 1 -m mount -t tmpfs none /mnt
works 'the core pattern' sh -c ': >> /proc/sys/kernel/core_pattern'
works 'the uevent helper' sh -c ': >> /sys/kernel/uevent_helper'
works 'the sysrq trigger' sh -c ': >> /proc/sysrq-trigger'
works 'binfmt' sh -c ': >> /proc/sys/fs/binfmt_misc/register'
works 'kernel memory' dd if=/proc/kcore of=/dev/null bs=1 count=1 iflag=fullblock
works 'kernel keys' grep . /proc/keys
works 'kernel timers' grep . /proc/timer_list
works 'the firmware' sh -c 'ls /sys/firmware/* | grep .'
for agent in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do [ -e "$agent" ] && works "release agent $agent" sh -c ": >> $agent"; done
for group in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -e "$group/cgroup.procs" ] && works "a cgroup in $group" mkdir "$group/out"; done
works 'a cgroup hierarchy of its own' unshare -UrmC sh -c 'mount -t cgroup -o memory none /mnt && echo /bin/sh > /mnt/release_agent'
for numbers in '7 0' '8 0' '253 0' '254 0' '259 0'; do
  rm -f /tmp/disk; mknod /tmp/disk b $numbers 2>/dev/null && works "block device $numbers" dd if=/tmp/disk of=/dev/null count=1
done
rm -f /tmp/mem; mknod /tmp/mem c 1 1 2>/dev/null && works 'physical memory' dd if=/tmp/mem of=/dev/null bs=1 count=1
rm -f /tmp/msg; mknod /tmp/msg c 1 11 2>/dev/null && works 'the kernel log device' dd if=/tmp/msg of=/dev/null bs=1 count=1
find /dev -type b | grep -q . && echo 'WAY OUT: a block device is there'
for descriptor in /proc/1/fd/* /proc/self/fd/*; do [ -d "$descriptor" ] && echo "WAY OUT: $descriptor is an open directory"; done
works 'the runtime through our own program' sh -c 'cat /proc/1/exe | grep -q runtime-helper'
works 'the node directories' ls /run/knarr
works 'the host processes' sh -c '[ $(ls -d /proc/[0-9]* | wc -l) -gt 30 ]'
[ -c /dev/port ] && echo 'WAY OUT: ports are there'
works 'loading a module' insmod /tmp/none.ko
works 'the clock' sh -c '[ -z "$(date -s "@$(date +%s)" 2>&1 >/dev/null)" ]'
works 'the host name' hostname elsewhere
works 'the quota of the container itself' sh -c 'for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do [ -e $f ] && echo 1000000000 > $f && exit 0; done; exit 1'
works 'writing to the service host files' sh -c 'echo x > /sys/class/net/lo/mtu'
grep -E 'CapBnd|CapEff' /proc/self/status
echo all tried
"#;

#[test]
fn no_well_known_way_leads_out_of_a_container() {
    let (cluster, _registry) = cluster();
    cluster.apply(&pod("prisoner", "exec sleep 1000", "", ""));
    ready(&cluster, "prisoner");
    for words in [vec!["exec", "prisoner", "--", "sh", "-c", WAYS_OUT]] {
        let said = cluster.kubectl(words);
        assert!(said.ends_with("all tried\n") && !said.contains("WAY OUT"), "{said}");
        // What the process could ever get: no CAP_SYS_ADMIN (21), CAP_SYS_PTRACE (19), CAP_SYS_MODULE (16), CAP_DAC_READ_SEARCH (2),
        // CAP_NET_ADMIN (12), CAP_SYS_RAWIO (17), CAP_SYS_BOOT (22), CAP_SYS_TIME (25), CAP_BPF (39).
        for line in said.lines().filter(|line| line.starts_with("Cap")) {
            let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            let forbidden: u64 = [2, 12, 16, 17, 19, 21, 22, 25, 39].into_iter().map(|bit| 1 << bit).sum();
            assert_eq!(mask & forbidden, 0, "{line}");
        }
    }
    // The same as the container's own first program.
    cluster.apply(&pod("insider", WAYS_OUT, "", "restartPolicy: Never"));
    becomes(&cluster, "pod/insider", ".status.phase", "Succeeded");
    let said = cluster.kubectl(["logs", "insider"]);
    assert!(said.ends_with("all tried\n") && !said.contains("WAY OUT"), "{said}");
}

#[test]
fn a_node_that_runs_out_of_process_numbers_says_so_and_ends_the_pod_with_most() {
    let (mut cluster, _registry) = cluster();
    cluster.apply(&pod("few", "exec sleep 1000", "", ""));
    cluster.apply(&pod("many", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait", "", ""));
    ready(&cluster, "few");
    ready(&cluster, "many");
    let pressure = |field: &str| format!(".status.conditions[?(@.type==\"PIDPressure\")].{field}");
    becomes(&cluster, "node/node-1", &pressure("reason"), "KubeletHasSufficientPID");
    let before = at(&cluster, "node/node-1", &pressure("lastTransitionTime"));
    cluster.restart_server_with(&["--least-process-ids", "100000000"]);
    becomes(&cluster, "pod/many", ".status.reason", "Evicted");
    assert_eq!(at(&cluster, "pod/many", ".status.phase"), "Failed");
    let message = at(&cluster, "pod/many", ".status.message");
    assert!(message.starts_with("The node was low on resource: pids. Threshold quantity: 100M, available: "), "{message}");
    becomes(&cluster, "node/node-1", &pressure("status"), "True");
    assert_eq!(at(&cluster, "node/node-1", &pressure("reason")), "KubeletHasInsufficientPID");
    let during = at(&cluster, "node/node-1", &pressure("lastTransitionTime"));
    assert!(during > before, "{before} {during}");
    // Who is placed there by hand is refused; and the scheduler places nobody.
    cluster.apply(&pod("forced", "true", "", "nodeName: node-1"));
    becomes(&cluster, "pod/forced", ".status.reason", "Evicted");
    assert_eq!(at(&cluster, "pod/forced", ".status.message"), "Pod was rejected: The node had condition: [PIDPressure]. ");
    cluster.eventually("the node is tainted", || at(&cluster, "node/node-1", ".spec.taints[*].key").contains("node.kubernetes.io/pid-pressure").then_some(()));
    cluster.restart_server_with(&[]);
    becomes(&cluster, "node/node-1", &pressure("status"), "False");
    assert!(at(&cluster, "node/node-1", &pressure("lastTransitionTime")) > during);
    cluster.eventually("the taint goes", || (!at(&cluster, "node/node-1", ".spec.taints[*].key").contains("pid-pressure")).then_some(()));
}

#[test]
fn a_pod_reads_the_clusters_trust_bundles_and_sees_new_ones() {
    let (mut cluster, _registry) = cluster();
    cluster.restart_server_with(&["--runtime-config", "certificates.k8s.io/v1beta1=true"]);
    let sources = "[{ clusterTrustBundle: { signerName: kubernetes.io/kube-apiserver-serving, labelSelector: {}, path: server.pem } }, \
                   { clusterTrustBundle: { name: mine, optional: true, path: mine.pem } }]";
    cluster.apply(&pod(
        "trusting",
        "exec sleep 1000",
        "volumeMounts: [{ name: trust, mountPath: /trust }]",
        &format!("volumes: [{{ name: trust, projected: {{ sources: {sources} }} }}]"),
    ));
    ready(&cluster, "trusting");
    let file = |name: &str| cluster.kubectl(["exec", "trusting", "--", "cat", &format!("/trust/{name}")]);
    let root = at(&cluster, "configmap/kube-root-ca.crt", r".data['ca\.crt']");
    assert!(root.contains("BEGIN CERTIFICATE"), "{root}");
    assert_eq!(file("server.pem").trim(), root.trim());
    assert_eq!(file("mine.pem"), "");
    let mine = serde_json::json!({
        "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": { "name": "mine" },
        "spec": { "trustBundle": format!("a comment\n{root}\n") },
    });
    cluster.apply(&mine.to_string());
    cluster.eventually("the new bundle is mounted", || (file("mine.pem").trim() == root.trim()).then_some(()));
}

/// Beginning and end of a certificate, as `status` of its request has to tell them.
fn validity(chain: &str) -> [jiff::Timestamp; 2] {
    let text: String = chain.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap();
    // DER of a UTCTime: its tag, its length, and `YYMMDDHHMMSSZ`.
    let times = der.windows(15).filter(|bytes| bytes.starts_with(&[0x17, 13]) && bytes.ends_with(b"Z") && bytes[2..14].iter().all(u8::is_ascii_digit));
    let read = |bytes: &[u8]| {
        let part = |at: usize| String::from_utf8(bytes[at..at + 2].to_vec()).unwrap();
        format!("20{}-{}-{}T{}:{}:{}Z", part(2), part(4), part(6), part(8), part(10), part(12)).parse().unwrap()
    };
    let times: Vec<jiff::Timestamp> = times.map(read).collect();
    times.try_into().expect("two times")
}

/// Plays the signer for the one request that waits: the certificate begins at a time, and is to be renewed so long after its beginning.
fn sign(cluster: &RealCluster, authority: &pki::ClusterAuthority, begins: jiff::Timestamp, refresh_after: jiff::SignedDuration) -> String {
    let waiting = cluster.eventually("a request waits for its signer", || {
        let all: serde_json::Value = serde_json::from_str(&cluster.kubectl(["get", "podcertificaterequests", "-o", "json"])).unwrap();
        all["items"].as_array().unwrap().iter().find(|request| request["status"]["conditions"].is_null()).cloned()
    });
    let stub = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, waiting["spec"]["stubPKCS10Request"].as_str().unwrap()).unwrap();
    let request = pki::CertificateRequest::from_der(&stub.into()).unwrap();
    let lifetime = jiff::SignedDuration::from_hours(20);
    let chain = authority.sign_request(&request, &[pki::Usage::DigitalSignature, pki::Usage::ClientAuth], lifetime, begins).unwrap();
    let [not_before, not_after] = validity(&chain);
    let status = serde_json::json!({ "status": {
        "conditions": [{ "type": "Issued", "status": "True", "reason": "Signed", "message": "by hand", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        "certificateChain": chain, "notBefore": not_before, "beginRefreshAt": not_before + refresh_after, "notAfter": not_after,
    } });
    let name = waiting["metadata"]["name"].as_str().unwrap();
    cluster.kubectl(["patch", "podcertificaterequest", name, "--subresource", "status", "--type", "merge", "-p", &status.to_string()]);
    chain
}

#[test]
fn a_pod_gets_a_certificate_from_its_signer_and_the_next_one_in_time() {
    let (mut cluster, _registry) = cluster();
    let source = "{ podCertificate: { signerName: example.com/hand, keyType: ECDSAP256, credentialBundlePath: bundle.pem, keyPath: key.pem, certificateChainPath: chain.pem } }";
    cluster.apply(&pod(
        "known",
        "exec sleep 1000",
        "volumeMounts: [{ name: identity, mountPath: /identity }]",
        &format!("volumes: [{{ name: identity, projected: {{ defaultMode: 256, sources: [{source}] }} }}]"),
    ));
    // Without the kind, which is off by default as upstream, there is nobody to ask.
    cluster.eventually("the missing kind is told", || {
        at(&cluster, "events", ".items[?(@.reason==\"FailedMount\")].message").contains("while creating PodCertificateRequest").then_some(())
    });
    cluster.restart_server_with(&["--runtime-config", "certificates.k8s.io/v1beta1=true"]);
    let directory = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now();
    let authority = pki::ClusterAuthority::open_or_create(directory.path(), now).unwrap();
    // It was to be renewed hours ago: the node uses it, and asks again at once.
    let (hours, minutes) = (jiff::SignedDuration::from_hours, jiff::SignedDuration::from_mins);
    let first = sign(&cluster, &authority, now - hours(10), minutes(10));
    ready(&cluster, "known");
    let read = |name: &str| cluster.kubectl(["exec", "known", "--", "cat", &format!("/identity/{name}")]);
    // The next one is issued only below, so these belong together.
    let [key, chain, bundle] = ["key.pem", "chain.pem", "bundle.pem"].map(read);
    assert_eq!((chain.trim(), bundle.trim()), (first.trim(), format!("{key}{chain}").trim()));
    pki::Credential::new(pki::PrivateKey::from_pem(&key).unwrap(), chain).expect("the certificate is for the key");
    assert_eq!(cluster.kubectl(["exec", "known", "--", "stat", "-L", "-c", "%a", "/identity/key.pem"]).trim(), "400");
    let second = sign(&cluster, &authority, now, hours(10));
    cluster.eventually("the next certificate is mounted", || (read("chain.pem").trim() == second.trim()).then_some(()));
    let next = read("key.pem");
    assert_ne!(next, key, "the next key is another one");
    pki::Credential::new(pki::PrivateKey::from_pem(&next).unwrap(), read("chain.pem")).expect("the next certificate is for the next key");
    assert_eq!(at(&cluster, "pod/known", ".status.containerStatuses[0].restartCount"), "0");
    assert_eq!(at(&cluster, "podcertificaterequests", ".items[*].spec.podName"), "known known", "nobody asks for more");
}
