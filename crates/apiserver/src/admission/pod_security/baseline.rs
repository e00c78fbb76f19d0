//! The level `baseline`: nothing that is known to lead from a pod to its host.

use serde_json::Value;

use super::{
    version::Version,
    violations::{Violations, containers, list, quoted, quoted_list, text, those},
};

/// Capabilities that containers may have by default.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Kernel parameters that touch the pod only, each with the version that began to allow it.
const SYSCTLS: [(u16, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

/// Types of SELinux that containers may have, each with the version that began to allow it.
const SELINUX_TYPES: [(u16, &str); 5] = [(0, ""), (0, "container_t"), (0, "container_init_t"), (0, "container_kvm_t"), (31, "container_engine_t")];

/// Whether a version allows a word of a list like those above.
fn allows(list: &[(u16, &str)], version: Version, word: &str) -> bool {
    list.iter().any(|(since, known)| *known == word && version.is_at_least(*since))
}

/// Checks a pod as a version does. At the level above, what that checks more strictly is left out.
pub fn check(metadata: &Value, spec: &Value, version: Version, violations: &mut Violations, by_restricted: bool) {
    let is_true = |value: Option<&Value>| value == Some(&Value::Bool(true));
    for field in ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| is_true(spec.get(field))) {
        host_namespace(violations, field);
    }
    let volumes: Vec<&str> = list(spec, "/volumes").iter().filter(|volume| volume.get("hostPath").is_some()).map(|volume| text(volume, "/name")).collect();
    if !volumes.is_empty() && !by_restricted {
        violations.add("hostPathVolumes", "hostPath volumes", quoted("volume", &volumes));
    }
    let host_ports = |container: &Value| list(container, "/ports").iter().filter_map(|port| port.get("hostPort").and_then(Value::as_i64)).filter(|port| *port != 0).collect::<Vec<_>>();
    let exposed = those(spec, |container| !host_ports(container).is_empty());
    if !exposed.is_empty() {
        let mut ports: Vec<String> = containers(spec).flat_map(host_ports).map(|port| port.to_string()).collect();
        ports.sort();
        ports.dedup();
        let (verb, noun) = (if exposed.len() == 1 { "uses" } else { "use" }, if ports.len() == 1 { "hostPort" } else { "hostPorts" });
        violations.add_containers("hostPorts", "hostPort", "", &exposed, &format!("{verb} {noun} {}", ports.join(", ")));
    }
    let privileged = those(spec, |container| is_true(container.pointer("/securityContext/privileged")));
    violations.add_containers("privileged", "privileged", "", &privileged, "must not set securityContext.privileged=true");
    if !by_restricted || !version.is_at_least(super::restricted::CAPABILITIES_SINCE) {
        capabilities(spec, violations);
    }
    if !version.is_at_least(super::restricted::SECCOMP_SINCE) {
        seccomp_annotations(metadata, spec, violations);
    } else if !by_restricted {
        seccomp(spec, violations);
    }
    if version.is_at_least(HOSTS_SINCE) {
        hosts(spec, violations);
    }
    let unmasked = those(spec, |container| !matches!(text(container, "/securityContext/procMount"), "" | "Default"));
    violations.add_containers("procMount", "procMount", "", &unmasked, "must not set securityContext.procMount to \"Unmasked\"");
    selinux(spec, version, violations);
    app_armor(metadata, spec, violations);
    let sysctls: Vec<&str> =
        list(spec, "/securityContext/sysctls").iter().map(|sysctl| text(sysctl, "/name")).filter(|name| !allows(&SYSCTLS, version, name)).collect();
    if !sysctls.is_empty() {
        violations.add("sysctls", "forbidden sysctls", sysctls.join(", "));
    }
    let on_host = |value: &Value| is_true(value.pointer("/securityContext/windowsOptions/hostProcess"));
    let words = "must not set securityContext.windowsOptions.hostProcess=true";
    violations.add_setters("windowsHostProcess", "hostProcess", on_host(spec), &those(spec, on_host), words);
}

/// The first version that minds where probes and handlers go.
const HOSTS_SINCE: u16 = 34;

/// Probes and handlers go to the pod itself.
fn hosts(spec: &Value, violations: &mut Violations) {
    const HANDLERS: [&str; 5] = ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"];
    let named = |container: &Value| -> Vec<String> {
        let places = HANDLERS.iter().flat_map(|handler| ["httpGet", "tcpSocket"].map(|action| format!("/{handler}/{action}/host")));
        places.map(|place| text(container, &place).to_owned()).filter(|host| !host.is_empty()).collect()
    };
    let mut bad = those(spec, |container| !named(container).is_empty());
    bad.sort_unstable();
    let found = quoted_list(containers(spec).flat_map(named).collect());
    let (verb, noun) = (if bad.len() == 1 { "uses" } else { "use" }, if found.contains("\", \"") { "hosts" } else { "host" });
    let words = format!("{verb} probe or lifecycle {noun} {found}");
    violations.add_containers("hostProbesAndHostLifecycle", "probe or lifecycle host", "", &bad, &words);
}

fn host_namespace(violations: &mut Violations, field: &str) {
    violations.add_joined("hostNamespaces", "host namespaces", &format!("{field}=true"));
}

fn capabilities(spec: &Value, violations: &mut Violations) {
    let added = |container: &Value| -> Vec<String> {
        let names = list(container, "/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        names.filter(|name| !CAPABILITIES.contains(name)).map(str::to_owned).collect()
    };
    let bad = those(spec, |container| !added(container).is_empty());
    let words = format!("must not include {} in securityContext.capabilities.add", quoted_list(containers(spec).flat_map(added).collect()));
    violations.add_containers("capabilities", "non-default capabilities", "", &bad, &words);
}

/// Since version 1.19 profiles are fields.
fn seccomp(spec: &Value, violations: &mut Violations) {
    let words = "must not set securityContext.seccompProfile.type to \"Unconfined\"";
    let unconfined = |value: &Value| text(value, "/securityContext/seccompProfile/type") == "Unconfined";
    violations.add_setters("seccompProfile", "seccompProfile", unconfined(spec), &those(spec, unconfined), words);
}

/// Before version 1.19 they were annotations.
fn seccomp_annotations(metadata: &Value, spec: &Value, violations: &mut Violations) {
    let mut names = vec!["seccomp.security.alpha.kubernetes.io/pod".to_owned()];
    names.extend(containers(spec).map(|container| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(container, "/name"))));
    let value = |name: &str| metadata.get("annotations").and_then(|all| all.get(name)).and_then(Value::as_str);
    let is_bad = |value: &str| !matches!(value, "runtime/default" | "docker/default") && !value.starts_with("localhost/");
    let mut bad: Vec<String> =
        names.iter().filter_map(|name| value(name).filter(|value| is_bad(value)).map(|value| format!("{name}={value:?}"))).collect();
    bad.sort();
    if !bad.is_empty() {
        let noun = if bad.len() == 1 { "annotation" } else { "annotations" };
        violations.add("seccompProfile", "seccompProfile", format!("forbidden {noun} {}", bad.join(", ")));
    }
}

fn selinux(spec: &Value, version: Version, violations: &mut Violations) {
    let option = |value: &Value, name: &str| text(value, &format!("/securityContext/seLinuxOptions/{name}")).to_owned();
    let bad_type = |value: &Value| !allows(&SELINUX_TYPES, version, &option(value, "type"));
    let bad = |value: &Value| bad_type(value) || !option(value, "user").is_empty() || !option(value, "role").is_empty();
    let everyone = || std::iter::once(spec).chain(containers(spec));
    let types: Vec<String> = everyone().filter(|value| bad_type(value)).map(|value| option(value, "type")).collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        let list = quoted_list(types);
        what.push(format!("{} {list}", if list.contains("\", \"") { "types" } else { "type" }));
    }
    for name in ["user", "role"] {
        if everyone().any(|value| !option(value, name).is_empty()) {
            what.push(format!("{name} may not be set"));
        }
    }
    let words = format!("set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    violations.add_setters("seLinuxOptions", "seLinuxOptions", bad(spec), &those(spec, bad), &words);
}

fn app_armor(metadata: &Value, spec: &Value, violations: &mut Violations) {
    let annotations = metadata.get("annotations").and_then(Value::as_object);
    for (name, value) in annotations.into_iter().flatten().filter(|(name, _)| name.starts_with("container.apparmor.security.beta.kubernetes.io/")) {
        let profile = value.as_str().unwrap_or_default();
        if !profile.is_empty() && profile != "runtime/default" && !profile.starts_with("localhost/") {
            violations.add("appArmorProfile", "forbidden AppArmor profile", format!("annotation {:?}", format!("{name}={profile}")));
        }
    }
    let unconfined = |value: &Value| text(value, "/securityContext/appArmorProfile/type") == "Unconfined";
    let words = "must not set AppArmor profile type to \"Unconfined\"";
    violations.add_setters("appArmorProfile", "forbidden AppArmor profile", unconfined(spec), &those(spec, unconfined), words);
}
