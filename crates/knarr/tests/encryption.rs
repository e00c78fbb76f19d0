//! Encryption at rest as an administrator configures it, and how keys are rotated: with the commands of Kubernetes' documentation.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use testkit::{RealCluster, key_service::KeyService, real_cluster::Settings};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

const OLD: &str = "aescbc: { keys: [{ name: old, secret: b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w= }] }";
const NEW: &str = "aesgcm: { keys: [{ name: new, secret: bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU= }] }";
const NEWER: &str = "secretbox: { keys: [{ name: newer, secret: bmV3ZXJuZXdlcm5ld2VybmV3ZXJuZXdlcm5ld2VyISE= }] }";

fn configuration(path: &Path, providers: &[&str]) {
    let providers: String = providers.iter().map(|provider| format!("  - {provider}\n")).collect();
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, widgets.example.com]\n  providers:\n";
    fs::write(path, format!("{head}{providers}")).unwrap();
}

fn is_on_the_disk(cluster: &RealCluster, needle: &str) -> bool {
    let store = cluster.data_directory().join("store");
    let files = fs::read_dir(store).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files.into_iter().any(|bytes| bytes.windows(needle.len()).any(|window| window == needle.as_bytes()))
}

/// What the documentation tells administrators to do after a change of keys.
fn write_all_again(cluster: &RealCluster) {
    for kind in ["secrets", "widgets"] {
        let all = cluster.kubectl(["get", kind, "--all-namespaces", "-o", "json"]);
        let file = cluster.directory().join("all.json");
        fs::write(&file, all).unwrap();
        cluster.kubectl(["replace", "-f", &file.display().to_string()]);
    }
}

const WIDGETS: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: widgets.example.com }
spec:
  group: example.com
  scope: Namespaced
  names: { plural: widgets, singular: widget, kind: Widget }
  versions:
  - { name: v1, served: true, storage: true, schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } } }
";

#[test]
fn resources_are_encrypted_as_configured_and_keys_are_rotated() {
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    let file = cluster.directory().join("encryption.yaml");
    let shown = file.display().to_string();
    let arguments = ["--encryption-provider-config", shown.as_str()];
    cluster.apply(WIDGETS);
    cluster.kubectl(["wait", "--for=condition=Established", "crd/widgets.example.com"]);
    cluster.kubectl(["create", "secret", "generic", "before", "--from-literal=word=tr0ub4dor"]);
    assert!(!is_on_the_disk(&cluster, "k8s:enc:"));

    configuration(&file, &[OLD, "identity: {}"]);
    cluster.restart_server_with(&arguments);
    let widget = |name: &str, word: &str| format!("apiVersion: example.com/v1\nkind: Widget\nmetadata: {{ name: {name}, namespace: default }}\nspec: {{ word: {word} }}\n");
    cluster.apply(&widget("one", "correcthorse"));
    cluster.kubectl(["create", "configmap", "public", "--from-literal=word=everybodyreads"]);
    assert!(is_on_the_disk(&cluster, "k8s:enc:aescbc:v1:old:") && is_on_the_disk(&cluster, "everybodyreads"));
    assert!(!is_on_the_disk(&cluster, "correcthorse"));
    let version = |name: &str| cluster.kubectl(["get", name, "-o", "jsonpath={.metadata.resourceVersion}"]);
    let before = version("secret/before");
    write_all_again(&cluster);
    let written = version("secret/before");
    assert_ne!(before, written, "it was sealed by the store's own key");
    write_all_again(&cluster);
    assert_eq!(version("secret/before"), written, "it is sealed as it should be");

    // First every server must know the new key, then it may write with it.
    configuration(&file, &[OLD, NEW, "identity: {}"]);
    cluster.restart_server_with(&arguments);
    assert!(!is_on_the_disk(&cluster, "k8s:enc:aesgcm:v1:new:"));
    configuration(&file, &[NEW, OLD, "identity: {}"]);
    cluster.restart_server_with(&arguments);
    write_all_again(&cluster);
    assert!(is_on_the_disk(&cluster, "k8s:enc:aesgcm:v1:new:"));
    configuration(&file, &[NEW, "identity: {}"]);
    cluster.restart_server_with(&arguments);
    assert_eq!(cluster.kubectl(["get", "secret/before", "-o", "jsonpath={.data.word}"]), "dHIwdWI0ZG9y");
    assert_eq!(cluster.kubectl(["get", "widget/one", "-o", "jsonpath={.spec.word}"]), "correcthorse");

    // A key that is still needed, and is gone: nothing is lost, and it is said what to do.
    cluster.stop_server();
    let refused = |what: &str, wanted: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["server", "--disable-agent", "--bind", "127.0.0.1", "--port", "0", "--data-dir"]).arg(cluster.data_directory());
        command.arg("--run-dir").arg(cluster.directory().join("run")).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && wanted.iter().all(|word| said.contains(word)), "{what}: {said}");
    };
    configuration(&file, &[OLD]);
    refused("a missing key", &["is encrypted with key aesgcm:new", "put that key back"]);
    configuration(&file, &["aesgcm: { keys: [{ name: new, secret: c2hvcnQ= }] }"]);
    refused("a short key", &[&shown, "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value", "expected one of [16 24 32]"]);
    configuration(&file, &["identity: {}", NEW]);
    cluster.start_server();
    assert_eq!(cluster.kubectl(["get", "secret/before", "-o", "jsonpath={.data.word}"]), "dHIwdWI0ZG9y");
    write_all_again(&cluster);
    assert!(is_on_the_disk(&cluster, "dHIwdWI0ZG9y"), "as asked for, they are no longer encrypted");
    configuration(&file, &["identity: {}"]);
    cluster.restart_server_with(&arguments);
    assert_eq!(cluster.kubectl(["get", "widget/one", "-o", "jsonpath={.spec.word}"]), "correcthorse");
}

#[test]
fn keys_are_rotated_without_a_restart_where_the_file_is_read_again() {
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    let file = cluster.directory().join("encryption.yaml");
    let shown = file.display().to_string();
    cluster.apply(WIDGETS);
    cluster.kubectl(["wait", "--for=condition=Established", "crd/widgets.example.com"]);
    configuration(&file, &[NEW, "identity: {}"]);
    let following = ["--encryption-provider-config", shown.as_str(), "--encryption-provider-config-automatic-reload"];
    cluster.restart_server_with(&following);
    cluster.kubectl(["create", "secret", "generic", "before", "--from-literal=word=tr0ub4dor"]);
    assert!(is_on_the_disk(&cluster, "k8s:enc:aesgcm:v1:new:"));
    let widget = |name: &str, word: &str| format!("apiVersion: example.com/v1\nkind: Widget\nmetadata: {{ name: {name}, namespace: default }}\nspec: {{ word: {word} }}\n");
    let version = |name: &str| cluster.kubectl(["get", name, "-o", "jsonpath={.metadata.resourceVersion}"]);
    let reloads = |status: &str, count: usize| {
        cluster.eventually(&format!("the file is read again: {status}"), || {
            let page = cluster.kubectl(["get", "--raw", "/metrics"]);
            let counted = page.lines().filter(|line| line.starts_with("apiserver_encryption_config_controller_automatic_reloads_total{"));
            let counted = counted.filter_map(|line| line.split_once(&format!("status=\"{status}\"}} "))?.1.parse::<usize>().ok());
            counted.max().is_some_and(|times| times >= count).then_some(())
        });
    };
    // What cannot be used changes nothing.
    configuration(&file, &["aesgcm: { keys: [{ name: newer, secret: c2hvcnQ= }] }"]);
    reloads("failure", 1);
    configuration(&file, &[NEWER, NEW, "identity: {}"]);
    reloads("success", 1);
    let before = version("secret/before");
    cluster.apply(&widget("two", "batterystaple"));
    assert!(is_on_the_disk(&cluster, "k8s:enc:secretbox:v1:newer:") && !is_on_the_disk(&cluster, "batterystaple"));
    write_all_again(&cluster);
    let written = version("secret/before");
    assert_ne!(before, written, "it was sealed by what was in force before");
    write_all_again(&cluster);
    assert_eq!(version("secret/before"), written, "it is sealed as it should be");
    configuration(&file, &[NEW, NEWER, "identity: {}"]);
    reloads("success", 2);
    write_all_again(&cluster);
    assert_ne!(version("secret/before"), written);
    assert_eq!(cluster.kubectl(["get", "widget/two", "-o", "jsonpath={.spec.word}"]), "batterystaple");
    configuration(&file, &[NEW, "identity: {}"]);
    cluster.restart_server_with(&following);
    assert_eq!(cluster.kubectl(["get", "widget/two", "-o", "jsonpath={.spec.word}"]), "batterystaple");
}

#[test]
fn a_key_management_service_keeps_the_keys_through_restarts_rotation_and_its_absence() {
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    let (file, socket) = (cluster.directory().join("encryption.yaml"), cluster.directory().join("kms.sock"));
    let (shown, provider) = (file.display().to_string(), format!("kms: {{ apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 30s }}", socket.display()));
    let following = ["--encryption-provider-config", shown.as_str(), "--encryption-provider-config-automatic-reload"];
    cluster.apply(WIDGETS);
    cluster.kubectl(["wait", "--for=condition=Established", "crd/widgets.example.com"]);
    let vault = KeyService::start(&socket);
    configuration(&file, &[&provider, "identity: {}"]);
    cluster.restart_server_with(&following);
    let create = |name: &str, word: &str| ["create", "secret", "generic", name, &format!("--from-literal=word={word}")].map(str::to_owned);
    let version = |cluster: &RealCluster, name: &str| cluster.kubectl(["get", name, "-o", "jsonpath={.metadata.resourceVersion}"]);
    cluster.kubectl(create("first", "tr0ub4dor"));
    assert!(is_on_the_disk(&cluster, "k8s:enc:kms:v2:vault:") && !is_on_the_disk(&cluster, "tr0ub4dor"));
    assert_eq!(cluster.kubectl(["get", "--raw", "/readyz/kms-providers"]), "ok");
    assert!(cluster.kubectl(["get", "--raw", "/healthz?verbose"]).contains("[+]kms-providers ok"));
    assert!(!cluster.kubectl(["get", "--raw", "/livez?verbose"]).contains("kms"), "a restart would not help");

    // Each start has a seed of its own; one question for each is enough to read all values.
    let decrypted = vault.calls("Decrypt");
    cluster.restart_server_with(&following);
    assert_eq!(vault.calls("Decrypt") - decrypted, 1);
    assert_eq!(cluster.kubectl(["get", "secret/first", "-o", "jsonpath={.data.word}"]), "dHIwdWI0ZG9y");
    cluster.kubectl(create("second", "correcthorse"));

    // Another key: what was written under the first is written again, once.
    write_all_again(&cluster);
    let before = version(&cluster, "secret/first");
    vault.rotate("key-2");
    cluster.eventually("the new key is noticed", || {
        cluster.kubectl(["get", "--raw", "/readyz/kms-providers"]);
        (vault.calls("Encrypt") == 3).then_some(())
    });
    cluster.eventually("what is written under the old key is written again", || {
        write_all_again(&cluster);
        (version(&cluster, "secret/first") != before).then_some(())
    });
    let written = version(&cluster, "secret/first");
    write_all_again(&cluster);
    assert_eq!(version(&cluster, "secret/first"), written, "it is sealed as it should be");

    // It goes away: what is known is read and written on, and readiness tells.
    vault.leave();
    cluster.eventually("its absence is noticed", || cluster.try_kubectl(["get", "--raw", "/readyz/kms-providers"]).is_none().then_some(()));
    assert_eq!(cluster.kubectl(["get", "secret/second", "-o", "jsonpath={.data.word}"]), "Y29ycmVjdGhvcnNl");
    cluster.kubectl(create("third", "batterystaple"));
    // It is still away while the server starts, and comes while that waits for it.
    cluster.stop_server();
    let log = cluster.log_path();
    let begin = fs::read_to_string(&log).unwrap().len();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Nothing tells that a line was logged.
            let waits = (0..1200).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                fs::read_to_string(&log).unwrap()[begin..].contains("waiting for the key management service")
            });
            vault.come_back();
            assert!(waits, "it says what it waits for");
        });
        cluster.start_server();
    });
    assert_eq!(cluster.kubectl(["get", "secret/third", "-o", "jsonpath={.data.word}"]), "YmF0dGVyeXN0YXBsZQ==");

    // Back to a key of one's own, without a restart.
    configuration(&file, &[NEW, &provider, "identity: {}"]);
    cluster.eventually("the file is read again", || {
        write_all_again(&cluster);
        is_on_the_disk(&cluster, "k8s:enc:aesgcm:v1:new:").then_some(())
    });
    write_all_again(&cluster);
    configuration(&file, &[NEW, "identity: {}"]);
    vault.leave();
    cluster.restart_server_with(&following);
    assert_eq!(cluster.kubectl(["get", "secret/first", "-o", "jsonpath={.data.word}"]), "dHIwdWI0ZG9y");
    assert_eq!(cluster.kubectl(["get", "--raw", "/readyz/kms-providers"]), "ok", "there are none to be asked");
}
