//! kubectl with objects that nothing acts on: how they are made, shown, changed, compared and deleted.

use crate::scene;

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: map, labels: { part: of-test } }\ndata: { key: one }\n";

#[test]
fn apply_makes_changes_and_prunes() {
    let scene = scene("apply");
    assert_eq!(scene.apply(MAP), "configmap/map created\n");
    assert_eq!(scene.apply(MAP), "configmap/map unchanged\n");
    let changed = MAP.replace("one", "two");
    let difference = scene.feed(["diff", "-f", "-"], changed.as_bytes());
    assert_eq!(difference.code, Some(1), "{difference:?}");
    assert!(difference.out.contains("-  key: one") && difference.out.contains("+  key: two"), "{}", difference.out);
    assert_eq!(scene.apply(&changed), "configmap/map configured\n");
    assert_eq!(scene.feed(["diff", "-f", "-"], changed.as_bytes()).code, Some(0));

    let other = MAP.replace("name: map", "name: other");
    let pruned = scene.feed(["apply", "--prune", "-l", "part=of-test", "--prune-allowlist=core/v1/ConfigMap", "-f", "-"], other.as_bytes());
    assert!(pruned.out.contains("configmap/other created") && pruned.out.contains("configmap/map pruned"), "{pruned:?}");
}

#[test]
fn server_side_apply_tells_owners_apart() {
    let scene = scene("server-side-apply");
    scene.apply(MAP);
    let migrated = scene.feed(["apply", "--server-side", "-f", "-"], MAP.as_bytes());
    assert_eq!((migrated.out.as_str(), migrated.error.as_str()), ("configmap/map serverside-applied\n", ""));
    let mine = MAP.replace("one", "mine");
    let refused = scene.feed(["apply", "--server-side", "--field-manager=other", "-f", "-"], mine.as_bytes());
    assert!(refused.error.contains("conflict with \"kubectl\"") && refused.error.contains(".data.key"), "{refused:?}");
    let forced = scene.feed(["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"], mine.as_bytes());
    assert!(forced.success, "{forced:?}");
    assert_eq!(scene.at("configmap/map", ".data.key"), "mine");
    let again = scene.feed(["apply", "--server-side", "--field-manager=other", "-f", "-"], MAP.replace("one", "again").as_bytes());
    assert!(again.success, "a manager may change what it owns: {again:?}");
}

#[test]
fn a_pod_that_was_applied_can_be_applied_by_the_server_too() {
    let scene = scene("migrated-pod");
    let pod = crate::pod("web", "exec sleep 1000");
    scene.apply(&pod);
    let migrated = scene.feed(["apply", "--server-side", "-f", "-"], pod.as_bytes());
    assert_eq!((migrated.out.as_str(), migrated.error.as_str()), ("pod/web serverside-applied\n", ""));
}

#[test]
fn objects_are_labelled_edited_patched_and_replaced() {
    let scene = scene("changes");
    scene.apply(MAP);
    scene.k("label configmap map tier=web");
    scene.k("annotate configmap map note=here");
    assert!(scene.k("get configmap map -L tier").contains("web"));
    scene.k("label configmap map tier-");
    assert_eq!(scene.at("configmap/map", ".metadata.labels.tier"), "");

    let patches = [("strategic", r#"{"data":{"key":"a"}}"#, "a"), ("merge", r#"{"data":{"key":"b"}}"#, "b"), ("json", r#"[{"op":"replace","path":"/data/key","value":"c"}]"#, "c")];
    for (form, patch, value) in patches {
        scene.kubectl(["patch", "configmap", "map", "--type", form, "-p", patch]);
        assert_eq!(scene.at("configmap/map", ".data.key"), value, "{form}");
    }
    scene.kubectl(["patch", "configmap", "map", "--dry-run=server", "-p", r#"{"data":{"key":"dry"}}"#]);
    assert_eq!(scene.at("configmap/map", ".data.key"), "c");

    let mut edit = scene.program(testkit::kubectl::kubectl());
    let edited = scene.output(edit.args(["edit", "configmap", "map"]).env("KUBE_EDITOR", "sed -i s/key:.c/key:\\ edited/"));
    assert_eq!(edited, "configmap/map edited\n");
    assert_eq!(scene.at("configmap/map", ".data.key"), "edited");

    let uid = scene.at("configmap/map", ".metadata.uid");
    let replaced = scene.feed(["replace", "-f", "-"], MAP.as_bytes());
    assert_eq!(replaced.out, "configmap/map replaced\n", "{replaced:?}");
    assert_eq!(scene.at("configmap/map", ".metadata.uid"), uid);
    let forced = scene.feed(["replace", "--force", "-f", "-"], MAP.as_bytes());
    assert!(forced.success, "{forced:?}");
    assert_ne!(scene.at("configmap/map", ".metadata.uid"), uid, "a forced replacement is another object");
    let missing = scene.feed(["replace", "-f", "-"], MAP.replace("name: map", "name: none").as_bytes());
    assert!(missing.error.contains("(NotFound)"), "{missing:?}");
}

#[test]
fn objects_are_shown_in_every_form() {
    let scene = scene("forms");
    scene.apply(MAP);
    assert!(scene.k("get configmaps -A").contains("forms"));
    assert_eq!(scene.k("get cm -l part=of-test -o custom-columns=N:.metadata.name,K:.data.key --no-headers").split_whitespace().collect::<Vec<_>>(), ["map", "one"]);
    assert_eq!(scene.k("get cm map -o name"), "configmap/map\n");
    assert_eq!(scene.kubectl(["get", "cm", "-o", "template", "--template={{range .items}}{{if (exists . \"data\" \"key\")}}{{.data.key}}{{end}}{{end}}"]), "one");
    assert!(scene.k("get cm map -o yaml").contains("kind: ConfigMap"));
    assert!(scene.k("get cm --sort-by=.metadata.name --show-labels").contains("part=of-test"));
    assert_eq!(scene.refused("get cm none").trim(), "Error from server (NotFound): configmaps \"none\" not found");
    assert!(scene.refused("get nothings").contains("the server doesn't have a resource type \"nothings\""));

    let mut watch = scene.background(&["get", "configmap", "map", "-w", "--output-watch-events", "--no-headers", "--show-labels"]);
    let mut event = || watch.line().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(event()[..3], ["ADDED", "map", "1"]);
    scene.kubectl(["patch", "configmap", "map", "-p", r#"{"data":{"other":"two"}}"#]);
    assert_eq!(event()[..3], ["MODIFIED", "map", "2"]);
    scene.k("delete configmap map");
    assert_eq!(event()[..3], ["DELETED", "map", "2"]);
}

#[test]
fn kubectl_finds_its_way_around() {
    let scene = scene("around");
    let version = scene.k("version");
    assert!(version.contains("Client Version: v1.") && version.contains("Server Version: v1.36."), "{version}");
    assert!(scene.k("cluster-info").contains("Kubernetes control plane"));
    assert!(scene.k("cluster-info dump").contains("\"kind\": \"PodList\""));
    assert!(scene.k("api-versions").lines().any(|line| line == "v1"));
    for words in [&["namespace", "around"][..], &["node", "node-1"], &["service", "kubernetes", "-n", "default"]] {
        let described = scene.kubectl(["describe"].iter().chain(words));
        assert!(described.contains("Name:") && described.contains("Labels:"), "{described}");
    }
}

#[test]
fn every_kind_is_explained_to_its_last_field() {
    let scene = scene("explain");
    let listed = scene.k("api-resources -o name");
    for resource in listed.lines() {
        // Where a core resource has the same name, kubectl takes the group for a field, whatever server it talks to.
        let resource = match resource {
            "events.events.k8s.io" => "events",
            "nodes.metrics.k8s.io" | "pods.metrics.k8s.io" => continue,
            resource => resource,
        };
        let explained = scene.kubectl(["explain", resource, "--recursive"]);
        assert!(explained.contains("FIELDS:") && explained.contains("metadata\t<ObjectMeta>"), "{resource}: {explained}");
    }
}

#[test]
fn values_come_from_files_and_words() {
    let scene = scene("from-files");
    let file = scene.file("settings.txt", "a=b\n");
    scene.kubectl(["create", "configmap", "files", &format!("--from-file={}", file.display()), "--from-literal=key=value"]);
    assert_eq!(scene.at("configmap/files", r".data.settings\.txt"), "a=b\n");
    scene.kubectl(["create", "configmap", "lines", &format!("--from-env-file={}", file.display())]);
    assert_eq!(scene.at("configmap/lines", ".data.a"), "b");
    let bytes = scene.file("bytes", [0xff, 0]);
    scene.kubectl(["create", "secret", "generic", "bytes", &format!("--from-file={}", bytes.display())]);
    assert_eq!(scene.at("secret/bytes", ".data.bytes"), "/wA=");
    scene.k("create secret docker-registry pull --docker-server=example.com --docker-username=u --docker-password=p");
    assert_eq!(scene.at("secret/pull", ".type"), "kubernetes.io/dockerconfigjson");
}
