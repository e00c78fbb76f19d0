//! Which kernel parameters a pod may set: those that concern its own namespaces and harm nobody else, and what the node's
//! administrator allows beyond them.
//! Source: Kubernetes 1.36, `pkg/kubelet/sysctl`.

use k8s_openapi::api::core::v1::Pod;

use super::{spec, uses_host_network};

/// Parameters of a pod's own namespaces that cannot harm other pods or the node.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Parameters that each IPC namespace has its own of. Source: ipc_namespaces(7).
const OF_IPC_NAMESPACES: [&str; 3] = ["kernel.shm", "kernel.msg", "kernel.sem"];

/// Checks the kernel parameters that a pod sets. `allowed` are names beyond the safe ones, where a `*` at the end stands for
/// anything.
///
/// # Errors
/// The message of the pod's `SysctlForbidden`, in upstream's words.
pub fn check(pod: &Pod, allowed: &[String]) -> Result<(), String> {
    let spec = spec(pod);
    for sysctl in spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten()) {
        let name = with_dots(&sysctl.name);
        let is_allowed = SAFE.contains(&name.as_str()) || allowed.iter().any(|pattern| fits(pattern, &name));
        if !is_allowed {
            return Err(format!("forbidden sysctl: {:?} not allowlisted", sysctl.name));
        }
        if name.starts_with("net.") && uses_host_network(pod) {
            return Err(format!("forbidden sysctl: {:?} not allowed with host net enabled", sysctl.name));
        }
        let is_ipc = name.starts_with("fs.mqueue.") || OF_IPC_NAMESPACES.iter().any(|start| name.starts_with(start));
        if is_ipc && spec.host_ipc.unwrap_or(false) {
            return Err(format!("forbidden sysctl: {:?} not allowed with host ipc enabled", sysctl.name));
        }
    }
    Ok(())
}

fn fits(pattern: &str, name: &str) -> bool {
    let pattern = with_dots(pattern);
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// A name with dots between its parts. Whichever of dot and slash comes first is the separator, as in sysctl(8).
fn with_dots(name: &str) -> String {
    let uses_slashes = name.find(['.', '/']).is_some_and(|place| name.as_bytes().get(place) == Some(&b'/'));
    if !uses_slashes {
        return name.to_owned();
    }
    name.chars()
        .map(|character| match character {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_one(name: &str, host: bool, allowed: &[&str], expected: Result<(), &str>) {
        let spec = json!({ "containers": [], "hostNetwork": host, "hostIPC": host, "securityContext": { "sysctls": [{ "name": name, "value": "1" }] } });
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": spec })).unwrap();
        let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(check(&pod, &allowed), expected.map_err(str::to_owned), "{name}");
    }

    #[test]
    fn safe_parameters_are_allowed_and_others_need_leave() {
        check_one("kernel.shm_rmid_forced", false, &[], Ok(()));
        check_one("kernel/shm_rmid_forced", false, &[], Ok(()));
        check_one("kernel.msgmax", false, &[], Err("forbidden sysctl: \"kernel.msgmax\" not allowlisted"));
        check_one("kernel.msgmax", false, &["kernel.msg*"], Ok(()));
        check_one("net.core.somaxconn", false, &["net/core/somaxconn"], Ok(()));
    }

    #[test]
    fn the_hosts_own_namespaces_are_not_a_pods_to_change() {
        check_one("net.ipv4.tcp_syncookies", true, &[], Err("forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled"));
        check_one("kernel.shm_rmid_forced", true, &[], Err("forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled"));
    }
}
