//! Containers find what their pod's spec says: each row is a pod with a script, and what that must print. And how pods end.

use testkit::Scene;

use crate::scene;

/// A pod that runs to its end.
struct Row {
    name: &'static str,
    /// Further fields of the pod.
    pod: &'static str,
    /// Further fields of its container.
    container: &'static str,
    script: &'static str,
    /// What it prints, its lines joined by ` | `.
    prints: &'static str,
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
immutable: true
data: { color: blue, size: large }
---
apiVersion: v1
kind: Secret
metadata: { name: hidden }
stringData: { word: swordfish }
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: { name: heavy }
handler: runc
overhead: { podFixed: { cpu: 10m, memory: 20Mi } }
"#;

const ROWS: &[Row] = &[
    Row {
        name: "variables",
        pod: "",
        container: "env: [{ name: A, value: '1' }, { name: B, value: '$(A)-$$(A)-$(NONE)-$(KUBERNETES_SERVICE_PORT)' }, { name: C, valueFrom: { configMapKeyRef: { name: settings, key: color } } }, \
                    { name: D, valueFrom: { secretKeyRef: { name: hidden, key: word } } }, { name: E, valueFrom: { secretKeyRef: { name: none, key: k, optional: true } } }], \
                    envFrom: [{ prefix: MAP_, configMapRef: { name: settings } }, { secretRef: { name: hidden } }, { configMapRef: { name: none, optional: true } }], args: ['$(B)']",
        script: "echo $0; echo $C $D [$E] $MAP_size $word",
        prints: "1-$(A)-$(NONE)-443 | blue swordfish [] large swordfish",
    },
    Row {
        name: "downward",
        pod: "volumes: [{ name: v, downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }, { path: deep/cpu, mode: 256, resourceFieldRef: { containerName: main, resource: limits.cpu, divisor: 1m } }] } }]",
        container: "resources: { limits: { cpu: 250m, memory: 32Mi }, requests: { cpu: 10m, memory: 1Mi } }, volumeMounts: [{ name: v, mountPath: /v }], \
                    env: [{ name: NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }, { name: S, valueFrom: { fieldRef: { fieldPath: spec.serviceAccountName } } }, \
                    { name: L, valueFrom: { fieldRef: { fieldPath: \"metadata.labels['app']\" } } }, { name: C, valueFrom: { resourceFieldRef: { resource: limits.cpu } } }, \
                    { name: M, valueFrom: { resourceFieldRef: { resource: limits.memory, divisor: 1Ki } } }, { name: I, valueFrom: { fieldRef: { fieldPath: status.podIP } } }]",
        script: "echo $NAME $S $L $C $M; cat /v/labels; echo; cat /v/deep/cpu; echo; stat -L -c %a /v/deep/cpu; grep -c $I /etc/hosts",
        prints: "downward default row 1 32768 | app=\"row\" | 250 | 400 | 1",
    },
    Row {
        name: "maps",
        pod: "volumes: [{ name: some, configMap: { name: settings, defaultMode: 288, items: [{ key: color, path: a/b }, { key: size, path: s, mode: 256 }] } }, { name: all, secret: { secretName: hidden } }, \
              { name: none, configMap: { name: none, optional: true } }]",
        container: "env: [{ name: SUB, value: a }], volumeMounts: [{ name: some, mountPath: /some }, { name: all, mountPath: /all }, { name: none, mountPath: /none }, \
                    { name: some, mountPath: /sub, subPath: s }, { name: some, mountPath: /expr, subPathExpr: $(SUB) }]",
        script: "cat /some/a/b /some/s /all/word /sub /expr/b; echo; stat -L -c %a /some/a/b /some/s /all/word; ls /none | wc -l; touch /some/x 2>/dev/null || echo read-only",
        prints: "bluelargeswordfishlargeblue | 440 | 400 | 644 | 0 | read-only",
    },
    Row {
        name: "projected",
        pod: "securityContext: { fsGroup: 1234 }, volumes: [{ name: v, projected: { sources: [{ configMap: { name: settings, items: [{ key: color, path: color }] } }, { secret: { name: hidden } }, \
              { downwardAPI: { items: [{ path: name, fieldRef: { fieldPath: metadata.name } }] } }, { serviceAccountToken: { audience: vault, expirationSeconds: 600, path: token } }] } }]",
        container: "volumeMounts: [{ name: v, mountPath: /v }]",
        script: "cat /v/color /v/word /v/name; echo; tr -cd . < /v/token | wc -c; stat -L -c '%a %g' /v/token; ls /var/run/secrets/kubernetes.io/serviceaccount | xargs",
        prints: "blueswordfishprojected | 2 | 640 1234 | ca.crt namespace token",
    },
    Row {
        name: "scratch",
        pod: "volumes: [{ name: m, emptyDir: { medium: Memory, sizeLimit: 1Mi } }, { name: d, emptyDir: {} }]",
        container: "volumeMounts: [{ name: m, mountPath: /m }, { name: d, mountPath: /d }, { name: d, mountPath: /ro, readOnly: true }]",
        script: "df -k /m | tail -1 | xargs | cut -d' ' -f1-2; dd if=/dev/zero of=/m/f bs=1M count=2 2>/dev/null || echo full; echo x > /d/f && cat /ro/f; touch /ro/g 2>/dev/null || echo read-only; stat -c %a /d",
        prints: "tmpfs 1024 | full | x | read-only | 777",
    },
    Row {
        name: "recursive",
        pod: "volumes: [{ name: d, hostPath: { path: /dev, type: Directory } }]",
        container: "volumeMounts: [{ name: d, mountPath: /flat, readOnly: true }, { name: d, mountPath: /deep, readOnly: true, recursiveReadOnly: Enabled }]",
        script: "for d in flat deep; do if touch /$d/shm/knarr-$$ 2>/dev/null; then rm /$d/shm/knarr-$$; echo $d is writable; else echo $d is not; fi; done",
        prints: "flat is writable | deep is not",
    },
    Row {
        name: "users",
        pod: "securityContext: { runAsUser: 1000, runAsGroup: 2000, fsGroup: 4000, supplementalGroups: [3000], supplementalGroupsPolicy: Strict }, volumes: [{ name: d, emptyDir: {} }]",
        container: "volumeMounts: [{ name: d, mountPath: /d }]",
        script: "id -u; id -g; id -G | tr ' ' '\\n' | sort | xargs; stat -c '%g %a' /d; touch /d/f && stat -c %g /d/f; touch /x 2>/dev/null || echo not root",
        prints: "1000 | 2000 | 2000 3000 4000 | 4000 2777 | 4000 | not root",
    },
    Row {
        name: "confined",
        pod: "",
        container: "securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: [ALL], add: [NET_BIND_SERVICE] }, seccompProfile: { type: RuntimeDefault } }",
        script: "touch /x 2>/dev/null || echo read-only; awk '/^(CapEff|CapBnd|NoNewPrivs|Seccomp):/ { print $2 }' /proc/self/status; cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; (echo x > /proc/sys/kernel/domainname) 2>/dev/null || echo masked",
        prints: "read-only | 0000000000000400 | 0000000000000400 | 1 | 2 | 0 | masked",
    },
    Row {
        name: "usual",
        pod: "",
        container: "",
        script: "awk '/^(CapEff|NoNewPrivs|Seccomp):/ { print $2 }' /proc/self/status; ls /dev | grep -cE '^(sd|nvme|vd|mem|kmsg)'; touch /x && echo writable",
        prints: "00000000a80425fb | 0 | 0 | 0 | writable",
    },
    Row {
        name: "sysctls",
        pod: "securityContext: { sysctls: [{ name: net.ipv4.ip_local_port_range, value: '30000 40000' }] }",
        container: "",
        script: "cat /proc/sys/net/ipv4/ip_local_port_range | xargs",
        prints: "30000 40000",
    },
    Row {
        name: "names",
        pod: "hostname: front, subdomain: sub, setHostnameAsFQDN: true, dnsPolicy: None, dnsConfig: { nameservers: [1.2.3.4], searches: [a.b], options: [{ name: ndots, value: '3' }] }, hostAliases: [{ ip: 9.8.7.6, hostnames: [old] }]",
        container: "",
        script: "hostname; xargs < /etc/resolv.conf; grep old /etc/hosts | xargs; grep -c 'front.sub.containers.svc.cluster.local' /etc/hosts",
        prints: "front.sub.containers.svc.cluster.local | search a.b nameserver 1.2.3.4 options ndots:3 | 9.8.7.6 old | 1",
    },
    Row {
        name: "links",
        pod: "enableServiceLinks: false",
        container: "",
        script: "env | grep -c ^KUBERNETES_SERVICE_HOST; env | grep -c ^SOME_",
        prints: "1 | 0",
    },
    Row { name: "overhead", pod: "runtimeClassName: heavy", container: "", script: "echo runs", prints: "runs" },
    Row {
        name: "together",
        pod: "resources: { limits: { memory: 48Mi, cpu: 200m }, requests: { memory: 1Mi, cpu: 10m } }",
        container: "env: [{ name: M, valueFrom: { resourceFieldRef: { resource: limits.memory, divisor: 1Mi } } }]",
        script: "echo $M",
        prints: "48",
    },
];

fn row(row: &Row) -> String {
    let (pod, container) = (Some(row.pod).filter(|pod| !pod.is_empty()), Some(row.container).filter(|container| !container.is_empty()));
    let pod = pod.map(|pod| format!("{pod}, ")).unwrap_or_default();
    let container = container.map(|container| format!(", {container}")).unwrap_or_default();
    let (name, script) = (row.name, row.script);
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: row }} }}\nspec: {{ restartPolicy: Never, {pod}containers: [{{ name: main, image: 'busybox:1', command: [sh, -c, {script:?}]{container} }}] }}\n"
    )
}

/// How a pod ended.
fn ended(scene: &Scene, pod: &str) -> String {
    scene.cluster.eventually(&format!("{pod} ends"), || Some(scene.at(&format!("pod/{pod}"), ".status.phase")).filter(|phase| phase == "Succeeded" || phase == "Failed"))
}

#[test]
fn containers_find_what_their_spec_says() {
    let scene = scene("containers");
    scene.apply(OBJECTS);
    scene.k("create service clusterip some --tcp=80:80");
    scene.apply(&ROWS.iter().map(row).collect::<String>());
    let mut wrong = Vec::new();
    for row in ROWS {
        ended(&scene, row.name);
        let printed = scene.kubectl(["logs", row.name]).lines().collect::<Vec<_>>().join(" | ");
        if printed != row.prints {
            wrong.push(format!("{}:\n  it prints  {printed}\n  instead of {}", row.name, row.prints));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(scene.at("pod/overhead", ".spec.overhead.memory"), "20Mi");
    assert_eq!(scene.at("pod/recursive", ".status.containerStatuses[0].volumeMounts[*].recursiveReadOnly"), "Disabled Enabled Disabled", "the last one is the account's");
    assert_eq!(scene.at("pod/users", ".status.containerStatuses[0].user.linux.uid"), "1000");
    // What may not change does not.
    let refused = scene.refused("patch configmap settings -p {\"data\":{\"color\":\"red\"}}");
    assert!(refused.contains("data: Forbidden: field is immutable when `immutable` is set"), "{refused}");
}

#[test]
fn the_end_of_a_container_is_told_as_its_spec_asks() {
    let scene = scene("ends-told");
    let pod = |name: &str, pod: &str, container: &str, script: &str| {
        format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, finalizers: [test/hold] }}\nspec: {{ restartPolicy: Never, terminationGracePeriodSeconds: 60, {pod} containers: [{{ name: main, image: 'busybox:1', command: [sh, -c, {script:?}], {container} }}] }}\n")
    };
    let long = "for i in $(seq 600); do echo 123456789; done";
    let listens = "trap 'echo got it > /dev/termination-log; exit 5' USR1; touch /tmp/ready; while true; do sleep 0.1; done";
    let all = [
        pod("file", "", "terminationMessagePath: /tmp/last, terminationMessagePolicy: FallbackToLogsOnError", "echo printed; printf said > /tmp/last; exit 3"),
        pod("log", "", "terminationMessagePolicy: FallbackToLogsOnError", "echo printed; exit 3"),
        pod("well", "", "terminationMessagePolicy: FallbackToLogsOnError", "echo printed"),
        pod("plain", "", "", "echo printed; exit 3"),
        pod("long", "", "", &format!("({long}) > /dev/termination-log")),
        pod("memory", "", "resources: { limits: { memory: 24Mi } }", "exec dd if=/dev/zero of=/dev/null bs=200M count=1"),
        pod("deadline", "activeDeadlineSeconds: 1,", "", "exec sleep 1000"),
        pod("asked", "os: { name: linux },", "lifecycle: { stopSignal: SIGUSR1 }, readinessProbe: { exec: { command: [test, -e, /tmp/ready] }, periodSeconds: 1 }", listens),
    ];
    scene.apply(&all.concat());
    let told = |name: &str, field: &str| scene.at(&format!("pod/{name}"), &format!(".status.containerStatuses[0].state.terminated.{field}"));
    for (name, phase, code, reason, message) in [
        ("file", "Failed", "3", "Error", "said"),
        ("log", "Failed", "3", "Error", "printed\n"),
        ("well", "Succeeded", "0", "Completed", ""),
        ("plain", "Failed", "3", "Error", ""),
        ("memory", "Failed", "137", "OOMKilled", ""),
    ] {
        assert_eq!(ended(&scene, name), phase, "{name}");
        assert_eq!((told(name, "exitCode").as_str(), told(name, "reason").as_str(), told(name, "message").as_str()), (code, reason, message), "{name}");
    }
    ended(&scene, "long");
    assert_eq!(told("long", "message").len(), 4096);
    assert_eq!(ended(&scene, "deadline"), "Failed");
    assert_eq!(scene.at("pod/deadline", ".status.reason"), "DeadlineExceeded");
    // A signal of its own, and what is seen of the pod's last generation.
    scene.ready("asked");
    assert_eq!(scene.at("pod/asked", ".status.containerStatuses[0].stopSignal"), "SIGUSR1");
    scene.k("delete pod asked --wait=false");
    ended(&scene, "asked");
    assert_eq!((told("asked", "exitCode").as_str(), told("asked", "message").as_str()), ("5", "got it\n"));
    let generation = scene.at("pod/asked", ".metadata.generation");
    assert_eq!(generation, "2", "the deletion was a change");
    assert_eq!(scene.at("pod/asked", ".status.observedGeneration"), generation);
    for name in ["file", "log", "well", "plain", "long", "memory", "deadline", "asked"] {
        scene.kubectl(["patch", "pod", name, "--type", "merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    }
}

#[test]
fn a_pod_that_writes_more_than_it_may_is_evicted() {
    let scene = scene("writes");
    let pod = |name: &str, more: &str, path: &str| {
        format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec: {{ terminationGracePeriodSeconds: 0, containers: [{{ name: main, image: 'busybox:1', command: [sh, -c, 'dd if=/dev/zero of={path}/f bs=1M count=5; exec sleep 1000'], {more}\n")
    };
    let all = [
        pod("container", "resources: { limits: { ephemeral-storage: 2Mi } } }] }", "/tmp"),
        pod("volume", "volumeMounts: [{ name: d, mountPath: /d }] }], volumes: [{ name: d, emptyDir: { sizeLimit: 2Mi } }] }", "/d"),
        pod("modest", "resources: { limits: { ephemeral-storage: 20Mi } } }] }", "/tmp"),
    ];
    scene.apply(&all.concat());
    for (name, words) in [("container", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi"), ("volume", "Usage of EmptyDir volume \"d\" exceeds the limit \"2Mi\"")] {
        assert_eq!(ended(&scene, name), "Failed");
        assert_eq!(scene.at(&format!("pod/{name}"), ".status.reason"), "Evicted");
        let message = scene.at(&format!("pod/{name}"), ".status.message");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(scene.at("pod/modest", ".status.phase"), "Running");
}
