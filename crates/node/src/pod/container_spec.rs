//! What the runtime is told to run for one container.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use container_runtime::{ContainerId, ContainerSpec, Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::{
    Role, annotations, container_status, env_file, environment::{self, Lookup}, files, name, namespace, qos, resources, security, spec, uid, uses_host_network,
};
use crate::{
    config::Context,
    images::PresentImage,
    objects::{Kind, Snapshot},
    static_pods,
    volume::{Prepared, sub_path},
};

/// Files of one container that live as long as its pod.
fn container_directory(context: &Context, pod: &Pod, container: &str) -> PathBuf {
    context.config.pod_directory(uid(pod)).join("containers").join(container)
}

struct Objects<'a> {
    snapshot: &'a Snapshot,
    namespace: &'a str,
    volumes: &'a Prepared,
}

impl Lookup for Objects<'_> {
    fn config_map(&self, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.snapshot.content(Kind::ConfigMap, self.namespace, name).ok().flatten().map(|content| &content.data)
    }
    fn secret(&self, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.snapshot.content(Kind::Secret, self.namespace, name).ok().flatten().map(|content| &content.data)
    }
    fn file(&self, volume: &str, path: &str) -> Result<Option<String>, String> {
        let prepared = self.volumes.volumes.get(volume).ok_or_else(|| format!("cannot find the volume \"{volume}\" referenced by FileKeyRef"))?;
        env_file::read(&prepared.path, path)
    }
}

/// Everything a container's spec is made from.
pub struct Parts<'a> {
    /// What everything shares.
    pub context: &'a Context,
    /// The pod.
    pub pod: &'a Pod,
    /// Its container.
    pub container: &'a Container,
    /// What the container is to the pod.
    pub role: Role,
    /// How often it was started before.
    pub attempt: u32,
    /// How often all containers of the pod were started anew before.
    pub round: u32,
    /// Its image.
    pub image: &'a PresentImage,
    /// The pod's addresses.
    pub pod_ips: &'a [IpAddr],
    /// The pod's volumes.
    pub volumes: &'a Prepared,
    /// Config maps and secrets.
    pub objects: &'a Snapshot,
    /// A container whose processes it is to see.
    pub processes_of: Option<&'a ContainerId>,
}

/// Puts a container's spec together, and writes the files it needs.
///
/// # Errors
/// The message of the container's `CreateContainerConfigError`.
pub async fn container_spec(parts: &Parts<'_>) -> Result<ContainerSpec, String> {
    let Parts { context, pod, container, .. } = *parts;
    let security = security::security_context(pod, container, &context.config.data_directory.join("seccomp"));
    security::check_non_root(pod, container, &security, &parts.image.user)?;
    let links = spec(pod).enable_service_links.unwrap_or(true);
    let services = if static_pods::is_static(pod) {
        // It may be what the API server runs in.
        context.services.environment_now(namespace(pod), links)
    } else {
        context.services.environment(namespace(pod), links).await
    };
    let lookup = Objects { snapshot: parts.objects, namespace: namespace(pod), volumes: parts.volumes };
    let facts = context.node_facts(parts.pod_ips);
    let environment = environment::environment(pod, container, services, &lookup, &facts)?;
    let value = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expand = |list: Option<&Vec<String>>| list.into_iter().flatten().map(|text| environment::expand(text, value)).collect::<Vec<_>>();
    let termination_file = container_directory(context, pod, &container.name).join(format!("{}.termination", parts.attempt));
    write_file(&termination_file, b"", 0o666)?;
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume_mount(parts, index, mount, &environment)?);
    }
    own_files(parts, &termination_file, &mut mounts)?;
    let grace = spec(pod).termination_grace_period_seconds.unwrap_or(30);
    let mut annotations = BTreeMap::from([
        (annotations::IMAGE.to_owned(), container.image.clone().unwrap_or_default()),
        (annotations::IMAGE_REFERENCE.to_owned(), parts.image.reference.clone()),
        (annotations::TERMINATION_MESSAGE_FILE.to_owned(), termination_file.to_string_lossy().into_owned()),
        (annotations::TERMINATION_MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned())),
        (annotations::GRACE_SECONDS.to_owned(), grace.to_string()),
    ]);
    if parts.round > 0 {
        annotations.insert(annotations::ROUND.to_owned(), parts.round.to_string());
    }
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt: parts.attempt,
        image: parts.image.id.clone(),
        command: expand(container.command.as_ref()),
        args: expand(container.args.as_ref()),
        working_directory: container.working_dir.clone().filter(|directory| !directory.is_empty()),
        mounts,
        devices: Vec::new(),
        security,
        resources: resources::container_limits(pod, container),
        oom_score_adjust: qos::oom_score_adjust(pod, container, context.machine.memory_bytes),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        processes_of: parts.processes_of.cloned(),
        annotations,
        labels: BTreeMap::from([("role".to_owned(), format!("{:?}", parts.role))]),
        environment,
    })
}

fn volume_mount(parts: &Parts<'_>, index: usize, mount: &VolumeMount, environment: &[(String, String)]) -> Result<Mount, String> {
    let Some(volume) = parts.volumes.volumes.get(&mount.name) else {
        return Err(format!("volume \"{}\" of container \"{}\" is not mounted", mount.name, parts.container.name));
    };
    let inside = match (&mount.sub_path, &mount.sub_path_expr) {
        (_, Some(expression)) if !expression.is_empty() => {
            expand_sub_path(expression, environment)?
        }
        (Some(path), _) => path.clone(),
        _ => String::new(),
    };
    let host_path = if inside.is_empty() {
        volume.path.clone()
    } else {
        let target = sub_path::target(&parts.context.config.pod_run_directory(uid(parts.pod)), &parts.container.name, index);
        sub_path::bind(&volume.path, &inside, &target)
            .map_err(|problem| format!("failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {problem}", mount.name, parts.container.name))?;
        target
    };
    let read_only = mount.read_only.unwrap_or(false) || volume.read_only;
    Ok(Mount {
        container_path: mount.mount_path.clone(),
        host_path: Some(host_path),
        read_only,
        recursive_read_only: read_only && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        },
    })
}

/// The path that a `subPathExpr` stands for.
///
/// # Errors
/// A variable is missing, or empty, which would mount more than was meant; upstream's words.
fn expand_sub_path(expression: &str, environment: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let path = environment::expand(expression, |name| {
        let value = environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        if value.as_deref().unwrap_or_default().is_empty() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    if missing.is_empty() { Ok(path) } else { Err(format!("missing value for {}", missing.join(", "))) }
}

/// `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname` and the termination message, where the container mounts nothing else there.
fn own_files(parts: &Parts<'_>, termination_file: &Path, mounts: &mut Vec<Mount>) -> Result<(), String> {
    let Parts { context, pod, container, .. } = *parts;
    let config = &context.config;
    let directory = config.pod_directory(uid(pod));
    let mut add = |container_path: &str, host_path: PathBuf, content: Option<String>| {
        if mounts.iter().any(|mount| mount.container_path == container_path) {
            return Ok(());
        }
        if let Some(content) = content {
            write_file(&host_path, content.as_bytes(), 0o644)?;
        }
        mounts.push(Mount {
            container_path: container_path.to_owned(),
            host_path: Some(host_path),
            read_only: false,
            recursive_read_only: false,
            propagation: MountPropagation::Private,
        });
        Ok::<(), String>(())
    };
    let host_file = if uses_host_network(pod) { std::fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    let hosts = files::etc_hosts(pod, parts.pod_ips, &config.cluster_domain, &host_file);
    add("/etc/hosts", directory.join("etc-hosts"), Some(hosts))?;
    let host_resolver = files::Resolver::parse(&std::fs::read_to_string(&config.resolv_conf).unwrap_or_default());
    let resolver = files::resolver(pod, &host_resolver, &config.cluster_dns, &config.cluster_domain);
    add("/etc/resolv.conf", directory.join("resolv.conf"), Some(resolver.render()))?;
    let hostname = if uses_host_network(pod) { config.hostname.clone() } else { files::kernel_hostname(pod, &config.cluster_domain)? };
    add("/etc/hostname", directory.join("hostname"), Some(format!("{hostname}\n")))?;
    let message_path = container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log");
    add(message_path, termination_file.to_owned(), None)
}

/// Writes a small file in place (a bind mount keeps seeing it), making its directory.
fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let write = || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        if std::fs::read(path).is_ok_and(|old| old == content) {
            return Ok(());
        }
        std::fs::write(path, content)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    };
    write().map_err(|problem: std::io::Error| format!("could not write {}: {problem}", path.display()))
}

/// For messages: which container of which pod.
#[must_use]
pub fn describe(pod: &Pod, container: &container_runtime::ContainerStatus) -> String {
    format!("{} ({}) of pod {}/{}", container.spec.name, container_status::shown_id(&container.id), namespace(pod), name(pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_with_a_missing_or_empty_part_is_refused() {
        let environment = [("A".to_owned(), "one".to_owned()), ("EMPTY".to_owned(), String::new())];
        assert_eq!(expand_sub_path("$(A)/two", &environment).as_deref(), Ok("one/two"));
        assert_eq!(expand_sub_path("$(NONE)/$(EMPTY)/$(A)", &environment), Err("missing value for EMPTY, NONE".to_owned()));
    }
}
