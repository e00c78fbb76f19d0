//! kubectl's lesser commands: wide tables, what things use, kustomizations, quotas, roles that are reconciled, cordoned nodes.

use crate::{pod, scene};

/// The words of a table's head, and those of its first row.
fn table(text: &str) -> (Vec<&str>, Vec<&str>) {
    let mut lines = text.lines();
    let mut words = || lines.next().unwrap_or_default().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    (words(), words())
}

#[test]
fn wide_tables_show_more() {
    let scene = scene("wide");
    scene.apply(&pod("web", "exec httpd -f -p 8080 -h /www"));
    scene.ready("web");
    let text = scene.k("get pods -o wide");
    let (head, row) = table(&text);
    assert_eq!(head, ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
    assert_eq!((row[0], row[5], row[6], row[7], row[8]), ("web", scene.at("pod/web", ".status.podIP").as_str(), "node-1", "<none>", "<none>"));
    let text = scene.k("get pods -A -o wide --field-selector metadata.namespace=wide");
    let (head, row) = table(&text);
    assert_eq!((head[0], row[0], row[1]), ("NAMESPACE", "wide", "web"));
    let text = scene.k("get nodes -o wide");
    let (head, row) = table(&text);
    assert_eq!(head, ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"]);
    assert_eq!((row[0], row[1]), ("node-1", "Ready"));
    scene.k("expose pod web --port=80 --target-port=8080");
    let text = scene.k("get services -o wide");
    let (head, row) = table(&text);
    assert_eq!((head.last(), row.last()), (Some(&"SELECTOR"), Some(&"app=web")));
}

#[test]
fn what_pods_and_nodes_use_is_shown() {
    let scene = scene("top");
    let script = "dd if=/dev/zero of=/cache/zeros bs=1M count=2; while true; do :; done";
    let mounts = "resources: { limits: { cpu: 100m } }, volumeMounts: [{ name: cache, mountPath: /cache }, { name: data, mountPath: /data }], command:";
    let volumes = "  volumes: [{ name: data, persistentVolumeClaim: { claimName: data } }, { name: cache, emptyDir: {} }]\n";
    scene.apply("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }\n");
    scene.apply(&(pod("busy", script).replace("command:", mounts) + volumes));
    scene.ready("busy");
    scene.cluster.eventually("the pod's use is known", || {
        let text = scene.try_kubectl(&["top", "pod", "busy", "--no-headers"])?;
        let used = text.split_whitespace().nth(1)?.strip_suffix('m')?.parse::<u32>().ok()?;
        (50..=150).contains(&used).then_some(())
    });
    // The node adds up files at most once a minute.
    let summary = scene.cluster.eventually("what the pod wrote is known", || {
        let summary: serde_json::Value = serde_json::from_str(&scene.k("get --raw /api/v1/nodes/node-1/proxy/stats/summary")).ok()?;
        let busy = summary["pods"].as_array()?.iter().find(|one| one["podRef"]["name"] == "busy" && one["podRef"]["namespace"] == "top")?.clone();
        let cache = busy["volume"].as_array()?.iter().find(|one| one["name"] == "cache")?.clone();
        (cache["usedBytes"].as_u64()? >= 2 << 20).then_some((busy, summary["node"].clone()))
    });
    let (busy, node) = summary;
    let names: Vec<&str> = busy["volume"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(names[..2] == ["cache", "data"] && names[2].starts_with("kube-api-access-"), "{busy}");
    assert_eq!(busy["volume"][1]["pvcRef"], serde_json::json!({ "name": "data", "namespace": "top" }));
    for volume in busy["volume"].as_array().unwrap() {
        let number = |field: &str| volume[field].as_u64().unwrap();
        assert!(number("capacityBytes") >= number("availableBytes") && number("inodesUsed") > 0, "{volume}");
    }
    assert!(busy["containers"][0]["logs"]["usedBytes"].is_u64() && busy["containers"][0]["rootfs"]["usedBytes"].is_u64(), "{busy}");
    assert!(busy["ephemeral-storage"]["usedBytes"].as_u64() >= busy["volume"][0]["usedBytes"].as_u64(), "{busy}");
    assert_eq!((&busy["network"]["name"], &busy["network"]["interfaces"][0]["name"]), (&"eth0".into(), &"eth0".into()));
    assert!(busy["network"]["rxErrors"].is_u64() && busy["network"]["txBytes"].as_u64() > Some(0), "{busy}");
    assert!(node["network"]["interfaces"].is_array() && node["rlimit"]["maxpid"].is_u64() && node["runtime"]["imageFs"]["usedBytes"].is_u64(), "{node}");
    assert!(scene.k("top pod --containers").contains("main"));
    let text = scene.k("top nodes");
    let (head, row) = table(&text);
    assert_eq!((head, row[0]), (vec!["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"], "node-1"));
}

#[test]
fn a_kustomization_is_applied_and_deleted() {
    let scene = scene("kustomized");
    scene.file("kustomization.yaml", "namePrefix: my-\nlabels: [{ pairs: { part: of-test } }]\nresources: [pod.yaml]\nconfigMapGenerator: [{ name: settings, literals: [a=b] }]\n");
    scene.file("pod.yaml", pod("web", "exec sleep 1000"));
    assert!(scene.k("apply -k .").contains("pod/my-web created"));
    assert!(scene.k("get configmaps -o name").contains("configmap/my-settings-"));
    assert!(scene.k("get pods -l part=of-test -o name").contains("pod/my-web"));
    assert!(scene.k("delete -k . --timeout=180s").contains("pod \"my-web\" deleted"));
}

#[test]
fn quotas_limit_and_tell_what_is_used() {
    let scene = scene("quota");
    scene.k("create quota few --hard=configmaps=2");
    // The root certificate's is the first.
    scene.cluster.eventually("the first is counted", || (scene.at("quota/few", ".status.used.configmaps") == "1").then_some(()));
    scene.k("create configmap second --from-literal=a=b");
    let refused = scene.refused("create configmap third --from-literal=a=b");
    assert!(refused.contains("exceeded quota: few, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"), "{refused}");
    let described = scene.k("describe quota few");
    assert!(described.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["configmaps", "2", "2"]), "{described}");
}

#[test]
fn roles_are_reconciled_and_claims_of_ingress_made() {
    let scene = scene("reconciled");
    scene.k("create role reader --verb=get --resource=pods");
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: { name: reader, namespace: reconciled }\nrules: [{ apiGroups: [''], resources: [configmaps], verbs: [list] }]\n";
    let said = scene.feed(["auth", "reconcile", "-f", "-"], role.as_bytes());
    assert!(said.out.contains("role.rbac.authorization.k8s.io/reader reconciled"), "{said:?}");
    assert_eq!(scene.at("role/reader", ".rules[*].resources[*]"), "pods configmaps");
    scene.kubectl(["create", "ingress", "web", "--rule=web.example/path*=web:80"]);
    assert_eq!(scene.at("ingress/web", ".spec.rules[0].http.paths[0].pathType"), "Prefix");
    assert!(scene.k("describe ingress web").contains("web.example"));
    assert!(scene.k("api-resources --namespaced=false --api-group=storage.k8s.io").contains("StorageClass"));
}
