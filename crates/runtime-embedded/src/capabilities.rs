//! Which capabilities a container's processes get.

use container_runtime::SecurityContext;

/// What a container gets that asks for nothing. Source: containerd 2, `defaultUnixCaps`.
const DEFAULT: [&str; 14] = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL",
    "AUDIT_WRITE",
];

/// All capabilities, by their numbers in the kernel. Source: `capabilities(7)`.
const ALL: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE",
    "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN",
    "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE",
    "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
];

/// The capabilities for a security context, as far as we may hand them out ourselves (`own_bounding_set`, a bit each).
///
/// # Errors
/// The name of a capability that does not exist.
pub fn of(security: &SecurityContext, own_bounding_set: u64) -> Result<Vec<&'static str>, String> {
    let read = |names: &[String]| -> Result<Option<Vec<&'static str>>, String> {
        let mut known = Vec::new();
        for name in names {
            let upper = name.to_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare == "ALL" {
                return Ok(None);
            }
            known.push(*ALL.iter().find(|known| **known == bare).ok_or_else(|| format!("unknown capability \"{name}\""))?);
        }
        Ok(Some(known))
    };
    // `ALL` loses against what is named in the other list. Source: containerd's CRI plug-in, `WithCapabilities`.
    let (added, dropped) = (read(&security.add_capabilities)?, read(&security.drop_capabilities)?);
    let wanted = |name: &str| {
        if security.privileged {
            return true;
        }
        let add = added.as_ref().map(|names| names.contains(&name));
        let drop = dropped.as_ref().map(|names| names.contains(&name));
        match (add, drop) {
            (_, Some(true)) => false,
            (Some(true), _) => true,
            (_, None) => false,
            (None, Some(false)) => true,
            (Some(false), Some(false)) => DEFAULT.contains(&name),
        }
    };
    Ok((0_u32..).zip(ALL).filter(|(number, name)| own_bounding_set >> number & 1 == 1 && wanted(name)).map(|(_, name)| name).collect())
}

/// Our own bounding set.
#[must_use]
pub fn own_bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("CapBnd:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(add: &[&str], drop: &[&str], count: usize, has: &[&str], lacks: &[&str]) {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let security = SecurityContext { add_capabilities: list(add), drop_capabilities: list(drop), ..SecurityContext::default() };
        let capabilities = of(&security, u64::MAX).unwrap();
        assert_eq!(capabilities.len(), count, "{capabilities:?}");
        assert!(has.iter().all(|name| capabilities.contains(name)) && !lacks.iter().any(|name| capabilities.contains(name)), "{capabilities:?}");
    }

    #[test]
    fn the_default_set_is_changed_by_name() {
        check(&[], &[], 14, &["CHOWN"], &["SYS_ADMIN"]);
        check(&["NET_ADMIN", "cap_sys_time"], &["MKNOD"], 15, &["NET_ADMIN", "SYS_TIME"], &["MKNOD"]);
        check(&[], &["ALL"], 0, &[], &[]);
        check(&["NET_BIND_SERVICE"], &["ALL"], 1, &["NET_BIND_SERVICE"], &[]);
        check(&["ALL"], &["SYS_ADMIN"], 40, &["BPF"], &["SYS_ADMIN"]);
    }

    #[test]
    fn what_we_lack_ourselves_is_not_handed_out() {
        let privileged = SecurityContext { privileged: true, ..SecurityContext::default() };
        assert_eq!(of(&privileged, u64::MAX).unwrap().len(), 41);
        assert!(!of(&privileged, !(1 << 24)).unwrap().contains(&"SYS_RESOURCE"));
    }

    #[test]
    fn an_unknown_capability_is_named() {
        let security = SecurityContext { add_capabilities: vec!["FLY".to_owned()], ..SecurityContext::default() };
        assert_eq!(of(&security, u64::MAX).unwrap_err(), "unknown capability \"FLY\"");
    }
}
