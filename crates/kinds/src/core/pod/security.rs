//! What is wrong with security contexts, of pods and of containers.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `validatePodSpecSecurityContext`, `ValidateSecurityContext`.

use std::collections::HashSet;

use api::core::v1::{AppArmorProfile, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl, WindowsSecurityContextOptions};
use meta::{FieldError, FieldPath, validation as rules};

use super::volumes;
use crate::problems::one_of;

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// Problems of what holds for all containers of a pod.
pub fn pod(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(context) = &spec.security_context {
        pod_context(context, spec, &path.child("securityContext"), problems);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        // Upstream keeps the field inside the security context, and says so.
        let at = path.child("securityContext").child("shareProcessNamespace");
        problems.push(FieldError::invalid(&at, true, "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    if spec.host_users == Some(false) {
        for (field, value) in [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)] {
            if value == Some(true) {
                problems.push(FieldError::forbidden(&path.child(field), "when `pod.Spec.HostUsers` is false"));
            }
        }
    }
}

fn pod_context(context: &PodSecurityContext, spec: &PodSpec, at: &FieldPath, problems: &mut Vec<FieldError>) {
    for (field, value) in [("fsGroup", context.fs_group), ("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        identifier(value, &at.child(field), problems);
    }
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        identifier(Some(*group), &at.child("supplementalGroups").index(index), problems);
    }
    kernel_parameters(context.sysctls.as_deref().unwrap_or_default(), spec, &at.child("sysctls"), problems);
    let sets: [(&str, &Option<String>, &[&str]); 3] = [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, &["MountOption", "Recursive"]),
    ];
    for (field, value, known) in sets {
        if let Some(value) = value.as_deref().filter(|value| !known.contains(value)) {
            problems.push(FieldError::not_supported(&at.child(field), value, known));
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &at.child("seccompProfile"), problems);
    windows(context.windows_options.as_ref(), &at.child("windowsOptions"), problems);
    app_armor(context.app_armor_profile.as_ref(), &at.child("appArmorProfile"), problems);
}

/// Problems of what holds for one container.
pub fn container(context: &SecurityContext, host_users: bool, at: &FieldPath, problems: &mut Vec<FieldError>) {
    identifier(context.run_as_user, &at.child("runAsUser"), problems);
    identifier(context.run_as_group, &at.child("runAsGroup"), problems);
    if let Some(mount) = context.proc_mount.as_deref() {
        if !matches!(mount, "Default" | "Unmasked") {
            problems.push(FieldError::not_supported(&at.child("procMount"), mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            problems.push(FieldError::invalid(&at.child("procMount"), mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &at.child("seccompProfile"), problems);
    if context.allow_privilege_escalation == Some(false) {
        let shown = || serde_json::to_value(context).unwrap_or_default();
        if context.privileged == Some(true) {
            problems.push(FieldError::invalid(at, shown(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        let adds = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_deref()).unwrap_or_default();
        for _ in adds.iter().filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            problems.push(FieldError::invalid(at, shown(), detail));
        }
    }
    windows(context.windows_options.as_ref(), &at.child("windowsOptions"), problems);
    app_armor(context.app_armor_profile.as_ref(), &at.child("appArmorProfile"), problems);
}

fn seccomp(profile: Option<&SeccompProfile>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => problems.push(FieldError::required(&path.child("type"), "type is required when seccompProfile is set")),
        text => one_of(text, PROFILES, &path.child("type"), problems),
    }
    let at = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => problems.push(FieldError::required(&at, "must be set when seccomp type is Localhost")),
        (Some(file), true) => volumes::descending(file, &at, problems),
        (Some(_), false) => {
            let shown = serde_json::to_value(profile).unwrap_or_default();
            problems.push(FieldError::invalid(&at, shown, "can only be set when seccomp type is Localhost"));
        }
        (None, false) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST: usize = 4095;
    let Some(profile) = profile else { return };
    let at = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => problems.push(FieldError::required(&at, "must be set when AppArmor type is Localhost")),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                problems.push(FieldError::invalid(&at, name.as_str(), "must not be padded with whitespace"));
            } else if name.is_empty() {
                problems.push(FieldError::required(&at, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > LONGEST {
                problems.push(FieldError::too_long(&at, LONGEST));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            problems.push(FieldError::invalid(&at, name.as_str(), "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => problems.push(FieldError::required(&path.child("type"), "type is required when appArmorProfile is set")),
        (other, _) => problems.push(FieldError::not_supported(&path.child("type"), other, PROFILES)),
    }
}

fn windows(options: Option<&WindowsSecurityContextOptions>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LARGEST_SPECIFICATION: usize = 64 * 1024;
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        problems.extend(rules::invalid_each(&path.child("gmsaCredentialSpecName"), name, rules::dns1123_subdomain_problems(name)));
    }
    if let Some(text) = &options.gmsa_credential_spec {
        let at = path.child("gmsaCredentialSpec");
        if text.is_empty() {
            problems.push(FieldError::invalid(&at, "", "gmsaCredentialSpec cannot be an empty string"));
        } else if text.len() > LARGEST_SPECIFICATION {
            problems.push(FieldError::invalid(&at, text.as_str(), "gmsaCredentialSpec size must be under 64 KiB"));
        }
    }
    if let Some(name) = &options.run_as_user_name {
        for problem in windows_user_problems(name) {
            problems.push(FieldError::invalid(&path.child("runAsUserName"), name.as_str(), problem));
        }
    }
}

fn windows_user_problems(name: &str) -> Vec<&'static str> {
    const LONGEST_DOMAIN: usize = 256;
    const LONGEST_USER: usize = 104;
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|character| character.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = name.split_once('\\').map_or((None, name), |(domain, user)| (Some(domain), user));
    if user.contains('\\') {
        return vec!["runAsUserName cannot contain more than one backslash"];
    }
    let mut problems = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= LONGEST_DOMAIN {
            problems.push("runAsUserName's Domain length must be under 256 characters");
        }
        let short = (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
        let label = |label: &str| {
            let edges = label.starts_with(|first: char| first.is_ascii_alphanumeric()) && label.ends_with(|last: char| last.is_ascii_alphanumeric());
            edges && label.len() <= 63 && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !short && !domain.split('.').all(label) {
            problems.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty");
    } else if user.len() > LONGEST_USER {
        problems.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|character| matches!(character, '.' | ' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        problems.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    problems
}

/// Names of kernel parameters: their form, and that they belong to a namespace that the pod has for itself. Which of them a node
/// lets a pod set is the node's business.
fn kernel_parameters(settings: &[Sysctl], spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MAX_NAME: usize = 253;
    let mut seen = HashSet::new();
    for (index, setting) in settings.iter().enumerate() {
        let at = path.index(index).child("name");
        let name = setting.name.as_str();
        if name.is_empty() {
            problems.push(FieldError::required(&at, ""));
        } else if name.len() > MAX_NAME || !name.split(['.', '/']).all(is_parameter_segment) {
            problems.push(FieldError::invalid(
                &at,
                name,
                r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ));
        } else if !seen.insert(name) {
            problems.push(FieldError::duplicate(&at, name));
        }
        let dotted = name.replace('/', ".");
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            problems.push(FieldError::invalid(&at, name, "may not be specified when 'hostNetwork' is true"));
        }
        let of_processes = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix)) || dotted == "kernel.sem";
        if spec.host_ipc == Some(true) && of_processes {
            problems.push(FieldError::invalid(&at, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_parameter_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = segment.as_bytes();
    let ends_are_plain = bytes.first().copied().is_some_and(is_plain) && bytes.last().copied().is_some_and(is_plain);
    ends_are_plain && bytes.iter().all(|byte| is_plain(*byte) || matches!(byte, b'-' | b'_'))
}

fn identifier(value: Option<i64>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(value) = value.filter(|value| !(0..=i64::from(i32::MAX)).contains(value)) {
        problems.push(FieldError::invalid(path, value, rules::inclusive_range(0, i64::from(i32::MAX))));
    }
}

/// What a pod of one operating system may not say.
pub fn operating_system(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(system) = &spec.os else { return };
    let at = path.child("os");
    match system.name.as_str() {
        "" => problems.push(FieldError::required(&at.child("name"), "cannot be empty")),
        "linux" => linux(spec, path, problems),
        "windows" => windows_pod(spec, path, problems),
        other => problems.push(FieldError::not_supported(&at, other, &["linux", "windows"])),
    }
}

/// All containers that have a security context, with the path of it.
fn contexts<'a>(spec: &'a PodSpec, path: &FieldPath) -> Vec<(FieldPath, &'a SecurityContext)> {
    let of = |containers: &'a [Container], field: &str| -> Vec<_> {
        let at = path.child(field);
        let with = containers.iter().enumerate().filter_map(|(index, one)| one.security_context.as_ref().map(|context| (index, context)));
        with.map(|(index, context)| (at.index(index).child("securityContext"), context)).collect()
    };
    let mut all = of(spec.init_containers.as_deref().unwrap_or_default(), "initContainers");
    all.extend(of(&spec.containers, "containers"));
    for (index, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        all.extend(one.security_context.as_ref().map(|context| (path.child("ephemeralContainers").index(index).child("securityContext"), context)));
    }
    all
}

fn linux(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const DETAIL: &str = "windows options cannot be set for a linux pod";
    if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
        problems.push(FieldError::forbidden(&path.child("securityContext").child("windowsOptions"), DETAIL));
    }
    for (at, _) in contexts(spec, path).into_iter().filter(|(_, context)| context.windows_options.is_some()) {
        problems.push(FieldError::forbidden(&at.child("windowsOptions"), DETAIL));
    }
}

fn windows_pod(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const DETAIL: &str = "cannot be set for a windows pod";
    let whole = [
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("shareProcessNamespace", spec.share_process_namespace.is_some()),
    ];
    problems.extend(whole.into_iter().filter(|(_, set)| *set).map(|(field, _)| FieldError::forbidden(&path.child(field), DETAIL)));
    if let Some(context) = &spec.security_context {
        let at = path.child("securityContext");
        let set = [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("fsGroup", context.fs_group.is_some()),
            ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
            ("sysctls", context.sysctls.as_ref().is_some_and(|all| !all.is_empty())),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
            ("supplementalGroups", context.supplemental_groups.is_some()),
            ("supplementalGroupsPolicy", context.supplemental_groups_policy.is_some()),
            ("seLinuxChangePolicy", context.se_linux_change_policy.is_some()),
        ];
        problems.extend(set.into_iter().filter(|(_, set)| *set).map(|(field, _)| FieldError::forbidden(&at.child(field), DETAIL)));
    }
    for (at, context) in contexts(spec, path) {
        let set = [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("capabilities", context.capabilities.is_some()),
            ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
            ("privileged", context.privileged.is_some()),
            ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
            ("procMount", context.proc_mount.is_some()),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
        ];
        problems.extend(set.into_iter().filter(|(_, set)| *set).map(|(field, _)| FieldError::forbidden(&at.child(field), DETAIL)));
    }
}
