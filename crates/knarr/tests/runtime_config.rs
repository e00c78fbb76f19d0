//! `--runtime-config` with the real binary and kubectl: kinds appear and disappear, and what is stored in a version that is switched off
//! stays readable in another.

use std::path::PathBuf;

use testkit::{RealCluster, real_cluster::Settings};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

const AUTOSCALER: &str = "apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: { name: kept, namespace: default }
spec: { scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: web }, maxReplicas: 5, targetCPUUtilizationPercentage: 42 }
";

const CANDIDATE: &str = "apiVersion: coordination.k8s.io/v1beta1
kind: LeaseCandidate
metadata: { name: first, namespace: default }
spec: { leaseName: lead, binaryVersion: 1.36.0, emulationVersion: 1.35.0, strategy: OldestEmulationVersion }
";

/// `kubectl api-versions`, which always asks anew.
fn versions(cluster: &RealCluster) -> Vec<String> {
    cluster.kubectl(["api-versions"]).lines().map(str::to_owned).collect()
}

#[track_caller]
fn check(cluster: &RealCluster, served: &[&str], not_served: &[&str]) {
    let versions = versions(cluster);
    let services = cluster.kubectl(["get", "apiservices", "-o", "name"]);
    for (wanted, list) in [(true, served), (false, not_served)] {
        for version in list {
            assert_eq!(versions.iter().any(|known| known == version), wanted, "{version} in {versions:?}");
            let (group, version) = version.split_once('/').unwrap();
            let name = format!("apiservice.apiregistration.k8s.io/{version}.{group}");
            assert_eq!(services.lines().any(|line| line == name), wanted, "{name} in {services}");
        }
    }
}

#[test]
fn kinds_come_and_go_and_what_is_stored_stays_readable_in_another_version() {
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    check(&cluster, &["autoscaling/v1", "autoscaling/v2"], &["coordination.k8s.io/v1beta1", "networking.k8s.io/v1beta1", "certificates.k8s.io/v1beta1"]);
    cluster.apply(AUTOSCALER);
    assert!(cluster.kubectl_refused(["get", "leasecandidates"]).contains("the server doesn't have a resource type \"leasecandidates\""));

    cluster.restart_server_with(&["--runtime-config", "api/beta=true,autoscaling/v1=false,certificates.k8s.io/v1beta1/podcertificaterequests=false"]);
    check(
        &cluster,
        &["autoscaling/v2", "coordination.k8s.io/v1beta1", "networking.k8s.io/v1beta1", "certificates.k8s.io/v1beta1"],
        &["autoscaling/v1", "coordination.k8s.io/v1alpha2"],
    );
    let target = "jsonpath={.apiVersion} {.spec.metrics[0].resource.target.averageUtilization}";
    assert_eq!(cluster.kubectl(["get", "hpa", "kept", "-o", target]), "autoscaling/v2 42");
    cluster.kubectl_refused(["get", "--raw", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/kept"]);
    let resources = cluster.kubectl(["api-resources", "--api-group=certificates.k8s.io", "-o", "name"]);
    assert!(resources.contains("clustertrustbundles.certificates.k8s.io") && !resources.contains("podcertificaterequests"), "{resources}");
    // A beta of a stable kind shows the same objects.
    let range = ["get", "servicecidrs.v1beta1.networking.k8s.io", "kubernetes", "-o", "jsonpath={.apiVersion} {.spec.cidrs}"];
    assert_eq!(cluster.kubectl(range), cluster.kubectl(["get", "servicecidr", "kubernetes", "-o", "jsonpath=networking.k8s.io/v1beta1 {.spec.cidrs}"]));
    cluster.apply(CANDIDATE);
    assert!(cluster.kubectl(["get", "leasecandidates"]).contains("1.36.0"));
    let file = cluster.directory().join("refused.yaml");
    std::fs::write(&file, CANDIDATE.replace("1.36.0", "1.34.0").replace("first", "second")).unwrap();
    let refused = cluster.kubectl_refused(["apply", "-f", &file.display().to_string()]);
    assert!(refused.contains("spec.binaryVersion: Invalid value: \"1.34.0\": must be greater than or equal to `emulationVersion`"), "{refused}");

    cluster.restart_server_with(&["--runtime-config", "coordination.k8s.io/v1alpha2=true,autoscaling/v2=false"]);
    check(&cluster, &["autoscaling/v1", "coordination.k8s.io/v1alpha2"], &["autoscaling/v2", "coordination.k8s.io/v1beta1", "networking.k8s.io/v1beta1"]);
    let percent = "jsonpath={.apiVersion} {.spec.targetCPUUtilizationPercentage}";
    assert_eq!(cluster.kubectl(["get", "hpa", "kept", "-o", percent]), "autoscaling/v1 42");
    let version = "jsonpath={.apiVersion} {.spec.binaryVersion}";
    assert_eq!(cluster.kubectl(["get", "leasecandidates.v1alpha2.coordination.k8s.io", "first", "-o", version]), "coordination.k8s.io/v1alpha2 1.36.0");
    cluster.kubectl(["label", "leasecandidates.v1alpha2.coordination.k8s.io", "first", "seen=yes"]);

    // Nobody serves it for a while, and then somebody does again.
    cluster.restart_server_with(&[]);
    check(&cluster, &["autoscaling/v1", "autoscaling/v2"], &["coordination.k8s.io/v1alpha2"]);
    cluster.kubectl_refused(["get", "--raw", "/apis/coordination.k8s.io/v1beta1/namespaces/default/leasecandidates/first"]);
    cluster.restart_server_with(&["--runtime-config", "coordination.k8s.io/v1beta1=true"]);
    let labelled = "jsonpath={.apiVersion} {.metadata.labels.seen}";
    assert_eq!(cluster.kubectl(["get", "leasecandidates.v1beta1.coordination.k8s.io", "first", "-o", labelled]), "coordination.k8s.io/v1beta1 yes");
}
