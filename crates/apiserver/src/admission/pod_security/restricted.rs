//! The level `restricted`: what hardened pods say of themselves.

use serde_json::Value;

use super::violations::{Violations, containers, list, text, those};

/// Kinds of volumes that a pod may have.
const VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

/// Checks a pod for what `baseline` does not.
pub fn check(spec: &Value, violations: &mut Violations) {
    let escalating = those(spec, |container| container.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false)));
    let words = "must set securityContext.allowPrivilegeEscalation=false";
    violations.add_containers("allowPrivilegeEscalation", "allowPrivilegeEscalation != false", "", &escalating, words);
    capabilities(spec, violations);
    volumes(spec, violations);
    not_root(spec, violations);
    seccomp(spec, violations);
}

fn capabilities(spec: &Value, violations: &mut Violations) {
    const REASON: &str = "unrestricted capabilities";
    let keeping = those(spec, |container| !list(container, "/securityContext/capabilities/drop").iter().any(|name| name == "ALL"));
    violations.add_containers("capabilities", REASON, "", &keeping, "must set securityContext.capabilities.drop=[\"ALL\"]");
    let added = |container: &Value| -> Vec<String> {
        let names = list(container, "/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        names.filter(|name| *name != "NET_BIND_SERVICE").map(|name| format!("{name:?}")).collect()
    };
    let mut names: Vec<String> = containers(spec).flat_map(added).collect();
    names.sort();
    names.dedup();
    let words = format!("must not include {} in securityContext.capabilities.add", names.join(", "));
    violations.add_containers("capabilities", REASON, "", &those(spec, |container| !added(container).is_empty()), &words);
}

fn volumes(spec: &Value, violations: &mut Violations) {
    for volume in list(spec, "/volumes") {
        let kind = volume.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).find(|name| *name != "name");
        if let Some(kind) = kind.filter(|kind| !VOLUMES.contains(kind)) {
            let words = format!("volume {:?} uses restricted volume type {kind:?}", text(volume, "/name"));
            violations.add("restrictedVolumes", "restricted volume types", words);
        }
    }
}

fn not_root(spec: &Value, violations: &mut Violations) {
    let said = |value: &Value| value.pointer("/securityContext/runAsNonRoot").and_then(Value::as_bool);
    if said(spec) == Some(false) {
        violations.add("runAsNonRoot", "runAsNonRoot != true", "pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    let refusing = those(spec, |container| said(container) == Some(false));
    violations.add_containers("runAsNonRoot", "runAsNonRoot != true", "", &refusing, "must not set securityContext.runAsNonRoot=false");
    if said(spec).is_none() {
        let silent = those(spec, |container| said(container).is_none());
        violations.add_containers("runAsNonRoot", "runAsNonRoot != true", "pod or ", &silent, "must set securityContext.runAsNonRoot=true");
    }
    let as_root = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    if as_root(spec) {
        violations.add("runAsUser", "runAsUser=0", "pod must not set runAsUser=0".to_owned());
    }
    violations.add_containers("runAsUser", "runAsUser=0", "", &those(spec, as_root), "must not set runAsUser=0");
}

fn seccomp(spec: &Value, violations: &mut Violations) {
    const REASON: &str = "seccompProfile";
    let profile = |value: &Value| text(value, "/securityContext/seccompProfile/type").to_owned();
    let is_bad = |value: &Value| !matches!(profile(value).as_str(), "" | "RuntimeDefault" | "Localhost");
    let words = |value: &Value| format!("must not set securityContext.seccompProfile.type to {:?}", profile(value));
    if is_bad(spec) {
        violations.add("seccompProfile", REASON, format!("pod {}", words(spec)));
    }
    violations.add_containers("seccompProfile", REASON, "", &those(spec, is_bad), "must not set securityContext.seccompProfile.type to \"Unconfined\"");
    if profile(spec).is_empty() {
        let silent = those(spec, |container| profile(container).is_empty());
        let words = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        violations.add_containers("seccompProfile", REASON, "pod or ", &silent, words);
    }
}
