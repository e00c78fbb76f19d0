//! The level `restricted`: what hardened pods say of themselves.

use serde_json::Value;

use super::{
    version::Version,
    violations::{Violations, containers, list, quoted, quoted_list, text, those},
};

/// Kinds of volumes that a pod may have.
const VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

/// The first version that checks capabilities more strictly than `baseline`.
pub const CAPABILITIES_SINCE: u16 = 22;
/// The first version whose seccomp profiles are fields.
pub const SECCOMP_SINCE: u16 = 19;
const ESCALATION_SINCE: u16 = 8;
const USER_SINCE: u16 = 23;
/// The first version that asks nothing of pods for Windows that Windows does not know.
const WINDOWS_SINCE: u16 = 25;

/// Checks a pod for what `baseline` does not, as a version does.
pub fn check(spec: &Value, version: Version, violations: &mut Violations) {
    violations.of_restricted = true;
    let is_linux = !(version.is_at_least(WINDOWS_SINCE) && text(spec, "/os/name") == "windows");
    if is_linux && version.is_at_least(ESCALATION_SINCE) {
        let escalating = those(spec, |container| container.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false)));
        let words = "must set securityContext.allowPrivilegeEscalation=false";
        violations.add_containers("allowPrivilegeEscalation", "allowPrivilegeEscalation != false", "", &escalating, words);
    }
    if is_linux && version.is_at_least(CAPABILITIES_SINCE) {
        capabilities(spec, violations);
    }
    volumes(spec, violations);
    not_root(spec, violations);
    if version.is_at_least(USER_SINCE) {
        let as_root = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
        violations.add_setters("runAsUser", "runAsUser=0", as_root(spec), &those(spec, as_root), "must not set runAsUser=0");
    }
    if is_linux && version.is_at_least(SECCOMP_SINCE) {
        seccomp(spec, violations);
    }
}

fn capabilities(spec: &Value, violations: &mut Violations) {
    const REASON: &str = "unrestricted capabilities";
    let keeping = those(spec, |container| !list(container, "/securityContext/capabilities/drop").iter().any(|name| name == "ALL"));
    violations.add_containers("capabilities", REASON, "", &keeping, "must set securityContext.capabilities.drop=[\"ALL\"]");
    let added = |container: &Value| -> Vec<String> {
        let names = list(container, "/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        names.filter(|name| *name != "NET_BIND_SERVICE").map(str::to_owned).collect()
    };
    let words = format!("must not include {} in securityContext.capabilities.add", quoted_list(containers(spec).flat_map(added).collect()));
    violations.add_containers("capabilities", REASON, "", &those(spec, |container| !added(container).is_empty()), &words);
}

fn volumes(spec: &Value, violations: &mut Violations) {
    let kind = |volume: &Value| volume.as_object().into_iter().flatten().map(|(name, _)| name.clone()).find(|name| name != "name");
    let bad: Vec<(&str, String)> = list(spec, "/volumes")
        .iter()
        .filter_map(|volume| kind(volume).filter(|kind| !VOLUMES.contains(&kind.as_str())).map(|kind| (text(volume, "/name"), kind)))
        .collect();
    if bad.is_empty() {
        return;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds = quoted_list(bad.iter().map(|(_, kind)| kind.clone()).collect());
    let (verb, noun) = (if names.len() == 1 { "uses" } else { "use" }, if kinds.contains(", ") { "types" } else { "type" });
    let words = format!("{} {verb} restricted volume {noun} {kinds}", quoted("volume", &names));
    violations.add("restrictedVolumes", "restricted volume types", words);
}

fn not_root(spec: &Value, violations: &mut Violations) {
    const REASON: &str = "runAsNonRoot != true";
    let said = |value: &Value| value.pointer("/securityContext/runAsNonRoot").and_then(Value::as_bool);
    let refusing = those(spec, |container| said(container) == Some(false));
    // What is said wrongly is told alone; only without it, what is not said.
    let words = "must not set securityContext.runAsNonRoot=false";
    if !violations.add_setters("runAsNonRoot", REASON, said(spec) == Some(false), &refusing, words) && said(spec).is_none() {
        let silent = those(spec, |container| said(container).is_none());
        violations.add_containers("runAsNonRoot", REASON, "pod or ", &silent, "must set securityContext.runAsNonRoot=true");
    }
}

fn seccomp(spec: &Value, violations: &mut Violations) {
    const REASON: &str = "seccompProfile";
    let profile = |value: &Value| text(value, "/securityContext/seccompProfile/type").to_owned();
    let is_bad = |value: &Value| !matches!(profile(value).as_str(), "" | "RuntimeDefault" | "Localhost");
    let found = std::iter::once(spec).chain(containers(spec)).filter(|value| is_bad(value)).map(profile).collect();
    let words = format!("must not set securityContext.seccompProfile.type to {}", quoted_list(found));
    if !violations.add_setters("seccompProfile", REASON, is_bad(spec), &those(spec, is_bad), &words) && profile(spec).is_empty() {
        let silent = those(spec, |container| profile(container).is_empty());
        let words = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        violations.add_containers("seccompProfile", REASON, "pod or ", &silent, words);
    }
}
