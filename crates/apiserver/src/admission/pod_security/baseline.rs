//! The level `baseline`: nothing that is known to lead from a pod to its host.

use serde_json::Value;

use super::violations::{Violations, containers, list, quoted, text, those};

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

/// Kernel parameters that touch the pod only.
const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];

/// Types of SELinux that containers may have.
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn quoted_list(words: &[String]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

/// Checks a pod. At the level above, what that checks more strictly is left out.
pub fn check(metadata: &Value, spec: &Value, violations: &mut Violations, by_restricted: bool) {
    let is_true = |value: Option<&Value>| value == Some(&Value::Bool(true));
    for field in ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| is_true(spec.get(field))) {
        host_namespace(violations, field);
    }
    let volumes: Vec<&str> = list(spec, "/volumes").iter().filter(|volume| volume.get("hostPath").is_some()).map(|volume| text(volume, "/name")).collect();
    if !volumes.is_empty() {
        violations.add("hostPathVolumes", "hostPath volumes", quoted("volume", &volumes));
    }
    let host_ports = |container: &Value| list(container, "/ports").iter().filter_map(|port| port.get("hostPort").and_then(Value::as_i64)).filter(|port| *port != 0).collect::<Vec<_>>();
    let exposed = those(spec, |container| !host_ports(container).is_empty());
    if !exposed.is_empty() {
        let ports: Vec<String> = containers(spec).flat_map(host_ports).map(|port| port.to_string()).collect();
        let (verb, noun) = (if exposed.len() == 1 { "uses" } else { "use" }, if ports.len() == 1 { "hostPort" } else { "hostPorts" });
        violations.add_containers("hostPorts", "hostPort", "", &exposed, &format!("{verb} {noun} {}", ports.join(", ")));
    }
    let privileged = those(spec, |container| is_true(container.pointer("/securityContext/privileged")));
    violations.add_containers("privileged", "privileged", "", &privileged, "must not set securityContext.privileged=true");
    if !by_restricted {
        capabilities(spec, violations);
        seccomp(spec, violations);
    }
    let unmasked = those(spec, |container| !matches!(text(container, "/securityContext/procMount"), "" | "Default"));
    violations.add_containers("procMount", "procMount", "", &unmasked, "must not set securityContext.procMount to \"Unmasked\"");
    selinux(spec, violations);
    app_armor(metadata, spec, violations);
    let sysctls: Vec<&str> =
        list(spec, "/securityContext/sysctls").iter().map(|sysctl| text(sysctl, "/name")).filter(|name| !SYSCTLS.contains(name)).collect();
    if !sysctls.is_empty() {
        violations.add("sysctls", "forbidden sysctls", sysctls.join(", "));
    }
    let on_host = |value: &Value| is_true(value.pointer("/securityContext/windowsOptions/hostProcess"));
    if on_host(spec) {
        violations.add("windowsHostProcess", "hostProcess", "pod must not set securityContext.windowsOptions.hostProcess=true".to_owned());
    }
    violations.add_containers("windowsHostProcess", "hostProcess", "", &those(spec, on_host), "must not set securityContext.windowsOptions.hostProcess=true");
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
    let mut names: Vec<String> = containers(spec).flat_map(added).collect();
    names.sort();
    names.dedup();
    let words = format!("must not include {} in securityContext.capabilities.add", quoted_list(&names));
    violations.add_containers("capabilities", "non-default capabilities", "", &bad, &words);
}

fn seccomp(spec: &Value, violations: &mut Violations) {
    let unconfined = |value: &Value| text(value, "/securityContext/seccompProfile/type") == "Unconfined";
    let words = "must not set securityContext.seccompProfile.type to \"Unconfined\"";
    if unconfined(spec) {
        violations.add("seccompProfile", "seccompProfile", format!("pod {words}"));
    }
    violations.add_containers("seccompProfile", "seccompProfile", "", &those(spec, unconfined), words);
}

fn selinux(spec: &Value, violations: &mut Violations) {
    let bad = |value: &Value| {
        let option = |name: &str| text(value, &format!("/securityContext/seLinuxOptions/{name}")).to_owned();
        !SELINUX_TYPES.contains(&option("type").as_str()) || !option("user").is_empty() || !option("role").is_empty()
    };
    let words = "set forbidden securityContext.seLinuxOptions";
    if bad(spec) {
        violations.add("seLinuxOptions", "seLinuxOptions", format!("pod {words}"));
    }
    violations.add_containers("seLinuxOptions", "seLinuxOptions", "", &those(spec, bad), words);
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
    if unconfined(spec) {
        violations.add("appArmorProfile", "forbidden AppArmor profile", format!("pod {words}"));
    }
    violations.add_containers("appArmorProfile", "forbidden AppArmor profile", "", &those(spec, unconfined), words);
}
