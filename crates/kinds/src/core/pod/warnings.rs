//! What is said to whoever makes a pod, or something that makes pods, without being refused: what does nothing any more, and what does
//! something else than it seems to.
//!
//! Source: Kubernetes `pkg/api/pod/warnings.go`, `warningsForPodSpecAndMeta`, and the strategies that ask it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use api::{
    apimachinery::pkg::{api::resource::Quantity as Text, apis::meta::v1::ObjectMeta},
    core::v1::{Container, ContainerPort, EnvVar, PodAffinityTerm, PodSpec, PodTemplateSpec, ResourceRequirements, WeightedPodAffinityTerm},
};
use meta::{FieldPath, validation as rules};

use crate::warnings as shared;

const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

const NO_PODS: &str = "a null labelSelector results in matching no pod";

/// What becomes part of pods' names, and is better a DNS label.
fn name_of_owner(metadata: &ObjectMeta) -> Option<String> {
    name(metadata, "this is used in Pod names and hostnames")
}

/// The same of a pod.
pub fn name_of_pod(metadata: &ObjectMeta) -> Option<String> {
    name(metadata, "this is used in the Pod's hostname")
}

fn name(metadata: &ObjectMeta, what: &str) -> Option<String> {
    let wrong = rules::dns1123_label_problems(metadata.name.as_deref().unwrap_or_default());
    let words = wrong.join(" ");
    (!wrong.is_empty()).then(|| format!("metadata.name: {what}, which can result in surprising behavior; a DNS label is recommended: [{words}]"))
}

/// Words about a pod.
pub fn of_pod(metadata: &ObjectMeta, spec: &PodSpec) -> Vec<String> {
    all(Some(metadata), spec, &FieldPath::new("metadata"), &FieldPath::new("spec"), false)
}

/// Words about what pods are made from, at its path.
fn of_template(template: &PodTemplateSpec, path: &FieldPath) -> Vec<String> {
    let Some(spec) = &template.spec else { return Vec::new() };
    all(template.metadata.as_ref(), spec, &path.child("metadata"), &path.child("spec"), true)
}

/// Words about something new or changed that makes pods: its name once, its template whenever that is another.
pub fn of_owner(metadata: &ObjectMeta, template: &PodTemplateSpec, old: Option<&PodTemplateSpec>, path: &FieldPath) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        warnings.extend(name_of_owner(metadata));
    }
    warnings.extend(of_changed_template(template, old, path));
    warnings
}

/// Words about a template, whenever it is another than before.
pub fn of_changed_template(template: &PodTemplateSpec, old: Option<&PodTemplateSpec>, path: &FieldPath) -> Vec<String> {
    if old == Some(template) { Vec::new() } else { of_template(template, path) }
}

fn all(metadata: Option<&ObjectMeta>, spec: &PodSpec, of_metadata: &FieldPath, path: &FieldPath, is_template: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let nothing = BTreeMap::new();
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref()).unwrap_or(&nothing);
    places(spec, path, &mut warnings);
    for (key, words) in OLD_ANNOTATIONS.iter().filter(|(key, _)| annotations.contains_key(*key)) {
        warnings.push(format!("{}: {words}", of_metadata.child("annotations").key(key)));
    }
    volumes(spec, path, &mut warnings);
    repeated(spec.host_aliases.iter().flatten().map(|alias| alias.ip.as_str()), &path.child("hostAliases"), "ip", &mut warnings);
    let secrets = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str());
    repeated(secrets.clone(), &path.child("imagePullSecrets"), "name", &mut warnings);
    for (index, _) in secrets.enumerate().filter(|(_, name)| name.is_empty()) {
        warnings.push(format!("{}: invalid empty name \"\"", path.child("imagePullSecrets").index(index).child("name")));
    }
    fractions(spec.overhead.as_ref(), &path.child("overhead"), &mut warnings);

    let context = spec.security_context.as_ref();
    let mut seccomp = |key: String| {
        if annotations.contains_key(&key) {
            warnings.push(format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", of_metadata.child("annotations").key(&key)));
        }
    };
    if context.is_none_or(|context| context.seccomp_profile.is_none()) {
        seccomp("seccomp.security.alpha.kubernetes.io/pod".to_owned());
    }
    for (_, one) in containers(spec, path) {
        if one.security_context.as_ref().is_none_or(|context| context.seccomp_profile.is_none()) {
            seccomp(format!("container.seccomp.security.alpha.kubernetes.io/{}", one.name));
        }
    }
    let confined = context.is_some_and(|context| context.app_armor_profile.is_some());
    for (at, one) in containers(spec, path) {
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", one.name);
        let has_field = confined || one.security_context.as_ref().is_some_and(|context| context.app_armor_profile.is_some());
        if is_template && !has_field && annotations.contains_key(&key) {
            warnings.push(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", of_metadata.child("annotations").key(&key)));
        }
        if let Some(resources) = one.resources {
            fractions(resources.limits.as_ref(), &at.child("resources").child("limits"), &mut warnings);
            fractions(resources.requests.as_ref(), &at.child("resources").child("requests"), &mut warnings);
        }
        hidden(one.env, &at.child("env"), &mut warnings);
    }
    ports(spec, path, &mut warnings);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        warnings.push(format!("{}: must be >= 0; negative values are invalid and will be treated as 1", path.child("terminationGracePeriodSeconds")));
    }
    if let Some(affinity) = &spec.affinity {
        let at = path.child("affinity");
        for (field, required, preferred) in [
            (
                "podAffinity",
                affinity.pod_affinity.as_ref().and_then(|pods| pods.required_during_scheduling_ignored_during_execution.as_deref()),
                affinity.pod_affinity.as_ref().and_then(|pods| pods.preferred_during_scheduling_ignored_during_execution.as_deref()),
            ),
            (
                "podAntiAffinity",
                affinity.pod_anti_affinity.as_ref().and_then(|pods| pods.required_during_scheduling_ignored_during_execution.as_deref()),
                affinity.pod_anti_affinity.as_ref().and_then(|pods| pods.preferred_during_scheduling_ignored_during_execution.as_deref()),
            ),
        ] {
            selectors(required.unwrap_or_default(), preferred.unwrap_or_default(), &at.child(field), &mut warnings);
        }
    }
    let servers = spec.dns_config.as_ref().and_then(|config| config.nameservers.as_ref());
    for (index, server) in servers.into_iter().flatten().enumerate() {
        warnings.extend(shared::ip(server, &path.child("dnsConfig").child("nameservers").index(index)));
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        warnings.extend(shared::ip(&alias.ip, &path.child("hostAliases").index(index).child("ip")));
    }
    warnings
}

/// What all three kinds of containers have.
struct One<'a> {
    name: &'a str,
    env: &'a [EnvVar],
    ports: &'a [ContainerPort],
    resources: Option<&'a ResourceRequirements>,
    security_context: Option<&'a api::core::v1::SecurityContext>,
}

fn containers<'a>(spec: &'a PodSpec, path: &FieldPath) -> Vec<(FieldPath, One<'a>)> {
    let of = |one: &'a Container| One {
        name: &one.name,
        env: one.env.as_deref().unwrap_or_default(),
        ports: one.ports.as_deref().unwrap_or_default(),
        resources: one.resources.as_ref(),
        security_context: one.security_context.as_ref(),
    };
    let mut found = Vec::new();
    for (list, all) in [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &*spec.containers)] {
        found.extend(all.iter().enumerate().map(|(index, one)| (path.child(list).index(index), of(one))));
    }
    found.extend(spec.ephemeral_containers.iter().flatten().enumerate().map(|(index, one)| {
        let one = One {
            name: &one.name,
            env: one.env.as_deref().unwrap_or_default(),
            ports: one.ports.as_deref().unwrap_or_default(),
            resources: one.resources.as_ref(),
            security_context: one.security_context.as_ref(),
        };
        (path.child("ephemeralContainers").index(index), one)
    }));
    found
}

/// Labels of nodes that have other names today, and constraints that hold for no pod.
fn places(spec: &PodSpec, path: &FieldPath, warnings: &mut Vec<String>) {
    for label in spec.node_selector.iter().flatten().map(|(label, _)| label) {
        warnings.extend(shared::node_label(label).map(|words| format!("{}: {words}", path.child("nodeSelector").key(label))));
    }
    if let Some(nodes) = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()) {
        let at = path.child("affinity").child("nodeAffinity");
        if let Some(required) = &nodes.required_during_scheduling_ignored_during_execution {
            let at = at.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
            for (index, one) in required.node_selector_terms.iter().enumerate() {
                shared::node_selector_term(one, false, &at.index(index), warnings);
            }
        }
        for (index, one) in nodes.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            shared::node_selector_term(&one.preference, true, &at.child("preferredDuringSchedulingIgnoredDuringExecution").index(index).child("preference"), warnings);
        }
    }
    for (index, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let at = path.child("topologySpreadConstraints").index(index);
        warnings.extend(shared::node_label(&constraint.topology_key).map(|words| format!("{}: {} is {words}", at.child("topologyKey"), constraint.topology_key)));
        if constraint.label_selector.is_none() {
            warnings.push(format!("{}: {NO_PODS}", at.child("labelSelector")));
        }
    }
}

fn selectors(required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm], path: &FieldPath, warnings: &mut Vec<String>) {
    let at = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (index, _) in required.iter().enumerate().filter(|(_, term)| term.label_selector.is_none()) {
        warnings.push(format!("{}: {NO_PODS}", at.index(index).child("labelSelector")));
    }
    let at = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, _) in preferred.iter().enumerate().filter(|(_, term)| term.pod_affinity_term.label_selector.is_none()) {
        warnings.push(format!("{}: {NO_PODS}", at.index(index).child("podAffinityTerm").child("labelSelector")));
    }
}

/// Sources of volumes that exist no more, and files that a token's file hides.
fn volumes(spec: &PodSpec, path: &FieldPath, warnings: &mut Vec<String>) {
    let mut tokens = BTreeSet::new();
    for volume in spec.volumes.iter().flatten() {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        tokens.extend(sources.filter_map(|source| source.service_account_token.as_ref()).map(|token| token.path.as_str()));
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = path.child("volumes").index(index);
        for (is_set, field, words) in [
            (volume.photon_persistent_disk.is_some(), "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            (volume.git_repo.is_some(), "gitRepo", "deprecated in v1.11"),
            (volume.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            (volume.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+"),
            (volume.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            (volume.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            (volume.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            (volume.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            (volume.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if is_set {
                warnings.push(format!("{}: {words}", at.child(field)));
            }
        }
        let at = at.child("projected").child("sources");
        let mut hidden = |file: &str, at: FieldPath| {
            if tokens.contains(file) {
                warnings.push(format!("{at}: has duplicated path with ServiceAccountToken {file:?}"));
            }
        };
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            let of_map = source.config_map.as_ref().and_then(|map| map.items.as_ref());
            let of_secret = source.secret.as_ref().and_then(|secret| secret.items.as_ref());
            for (field, items) in [("configMap", of_map), ("secrets", of_secret)] {
                for (position, item) in items.into_iter().flatten().enumerate() {
                    hidden(&item.path, at.child(field).index(position));
                }
            }
            for (position, item) in source.downward_api.iter().flat_map(|source| source.items.iter().flatten()).enumerate() {
                hidden(&item.path, at.child("downwardAPI").index(position));
            }
            if let Some(bundle) = &source.cluster_trust_bundle {
                hidden(&bundle.path, at.child("ClusterTrustBundle"));
            }
        }
    }
}

fn repeated<'a>(all: impl Iterator<Item = &'a str>, path: &FieldPath, field: &str, warnings: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, one) in all.enumerate() {
        if !seen.insert(one) {
            warnings.push(format!("{}: duplicate {field} {one:?}", path.index(index).child(field)));
        }
    }
}

/// Parts of bytes.
fn fractions(amounts: Option<&BTreeMap<String, Text>>, path: &FieldPath, warnings: &mut Vec<String>) {
    warnings.extend(["memory", "ephemeral-storage"].into_iter().filter_map(|name| shared::fraction(amounts, name, path)));
}

/// Variables that are set twice, unless the second builds on the first.
fn hidden(variables: &[EnvVar], path: &FieldPath, warnings: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, variable) in variables.iter().enumerate() {
        if seen.insert(variable.name.as_str()) {
            continue;
        }
        let (value, reference) = (variable.value.as_deref().unwrap_or_default(), format!("$({})", variable.name));
        if variable.value_from.is_some() || value == reference || !value.contains(&reference) {
            warnings.push(format!("{}: hides previous definition of {:?}, which may be dropped when using apply", path.index(index), variable.name));
        }
    }
}

fn ports(spec: &PodSpec, path: &FieldPath, warnings: &mut Vec<String>) {
    let mut known: HashMap<(i32, &str), Vec<(FieldPath, &ContainerPort)>> = HashMap::new();
    let address = |port: &ContainerPort| port.host_ip.clone().unwrap_or_default();
    let outside = |port: &ContainerPort| port.host_port.unwrap_or_default();
    for (at, one) in containers(spec, path) {
        for (index, port) in one.ports.iter().enumerate() {
            let at = at.child("ports").index(index);
            let protocol = port.protocol.as_deref().unwrap_or_default();
            if !address(port).is_empty() && outside(port) == 0 {
                let name = port.name.as_deref().unwrap_or_default();
                let shown = format!("{{Name:{name} HostPort:0 ContainerPort:{} Protocol:{protocol} HostIP:{}}}", port.container_port, address(port));
                warnings.push(format!("{at}: hostIP set without hostPort: {shown}"));
            }
            let others = known.entry((port.container_port, protocol)).or_default();
            for (other_at, other) in others.iter() {
                let word = if address(port) == address(other) && outside(port) == outside(other) {
                    "duplicate"
                } else if outside(port) == 0 || outside(other) == 0 {
                    "overlapping"
                } else if outside(port) == outside(other) && address(port).is_empty() != address(other).is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{at}: {word} port definition with {other_at}"));
            }
            others.push((at, port));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, annotations: Value, expected: &[&str]) {
        let template: PodTemplateSpec = serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap();
        assert_eq!(of_template(&template, &FieldPath::new("spec").child("template")), expected);
    }

    #[test]
    fn what_does_nothing_any_more_is_told() {
        check(
            json!({"containers": [{"name": "c"}], "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": -1,
                "volumes": [{"name": "a", "rbd": {"monitors": [], "image": "i"}}, {"name": "b", "gitRepo": {"repository": "r"}}],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "failure-domain.beta.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}],
                "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}]}}}),
            json!({"scheduler.alpha.kubernetes.io/critical-pod": "", "container.apparmor.security.beta.kubernetes.io/c": "unconfined", "seccomp.security.alpha.kubernetes.io/pod": "x"}),
            &[
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.template.spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
                "spec.template.spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "spec.template.spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+",
                "spec.template.spec.volumes[1].gitRepo: deprecated in v1.11",
                "spec.template.metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                "spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                "spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.template.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod",
            ],
        );
    }

    #[test]
    fn what_hides_something_else_is_told() {
        check(
            json!({"imagePullSecrets": [{"name": "s"}, {"name": "s"}, {"name": ""}], "hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}], "containers": [{"name": "c",
                "env": [{"name": "A", "value": "a"}, {"name": "A", "value": "$(A)b"}, {"name": "A", "value": "c"}],
                "resources": {"limits": {"memory": "1500m", "cpu": "1500m"}},
                "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "hostPort": 8080}, {"containerPort": 80, "protocol": "TCP"},
                    {"containerPort": 81, "protocol": "TCP", "hostIP": "10.0.0.1"}]}]}),
            json!({}),
            &[
                "spec.template.spec.hostAliases[1].ip: duplicate ip \"10.0.0.1\"",
                "spec.template.spec.imagePullSecrets[1].name: duplicate name \"s\"",
                "spec.template.spec.imagePullSecrets[2].name: invalid empty name \"\"",
                "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.template.spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.template.spec.containers[0].ports[1]: overlapping port definition with spec.template.spec.containers[0].ports[0]",
                "spec.template.spec.containers[0].ports[2]: duplicate port definition with spec.template.spec.containers[0].ports[0]",
                "spec.template.spec.containers[0].ports[2]: overlapping port definition with spec.template.spec.containers[0].ports[1]",
                "spec.template.spec.containers[0].ports[3]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:81 Protocol:TCP HostIP:10.0.0.1}",
            ],
        );
    }

    #[test]
    fn names_that_no_host_can_have_are_told_once() {
        let metadata = ObjectMeta { name: Some("a.b".to_owned()), ..ObjectMeta::default() };
        let template = PodTemplateSpec { spec: Some(PodSpec::default()), ..PodTemplateSpec::default() };
        let path = FieldPath::new("spec").child("template");
        assert!(of_owner(&metadata, &template, None, &path)[0].starts_with("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior"));
        assert_eq!(of_owner(&metadata, &template, Some(&template), &path), Vec::<String>::new());
    }
}
