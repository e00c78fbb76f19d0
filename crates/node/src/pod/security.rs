//! The security context of a container, put together from the pod's and its own.

use std::path::Path;

use container_runtime::{SeccompProfile, SecurityContext};
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile as WantedSeccomp};

use super::{full_name, spec};

/// Identity and rights of a container's processes. `seccomp_directory` holds the profiles of type `Localhost`.
#[must_use]
pub fn security_context(pod: &Pod, container: &Container, seccomp_directory: &Path) -> SecurityContext {
    let of_pod = spec(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let capabilities = own.capabilities.unwrap_or_default();
    let bare = |names: Option<Vec<String>>| {
        names.into_iter().flatten().map(|name| name.to_uppercase().trim_start_matches("CAP_").to_owned()).collect::<Vec<_>>()
    };
    let mut groups = of_pod.supplemental_groups.unwrap_or_default();
    groups.extend(of_pod.fs_group.filter(|group| !groups.contains(group)));
    SecurityContext {
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        supplemental_groups: groups,
        strict_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        run_as_non_root: own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false),
        privileged,
        read_only_root_file_system: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: bare(capabilities.add),
        drop_capabilities: bare(capabilities.drop),
        seccomp: if privileged { SeccompProfile::Unconfined } else { seccomp(own.seccomp_profile.or(of_pod.seccomp_profile), seccomp_directory) },
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

fn seccomp(wanted: Option<WantedSeccomp>, directory: &Path) -> SeccompProfile {
    match wanted {
        Some(wanted) if wanted.type_ == "RuntimeDefault" => SeccompProfile::RuntimeDefault,
        Some(wanted) if wanted.type_ == "Localhost" => SeccompProfile::Localhost(directory.join(wanted.localhost_profile.unwrap_or_default())),
        _ => SeccompProfile::Unconfined,
    }
}

/// Refuses a container that must not run as root and would. `image_user` is the image's `USER`, as written.
///
/// # Errors
/// The message of the container's `CreateContainerConfigError`, in upstream's words.
pub fn check_non_root(pod: &Pod, container: &Container, security: &SecurityContext, image_user: &str) -> Result<(), String> {
    if !security.run_as_non_root {
        return Ok(());
    }
    let subject = format!("(pod: \"{}\", container: {})", full_name(pod), container.name);
    if let Some(user) = security.run_as_user {
        return if user == 0 { Err(format!("container's runAsUser breaks non-root policy {subject}")) } else { Ok(()) };
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {subject}")),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() || user == "root" => Err(format!("container has runAsNonRoot and image will run as root {subject}")),
        Err(_) => Err(format!("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {subject}")),
    }
}
