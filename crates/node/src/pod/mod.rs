//! What happens to one pod, from its first sight to its removal.
//!
//! * [`plan`]: the decision, pure: what to do next, given the wanted pod and what is observed
//! * [`worker`]: the deed: one task per pod that observes, asks `plan`, applies, and writes the status
//! * [`status`] (with `container_status` and `conditions`): what the API shows, pure
//! * [`allocation`], [`resize`]: what a pod was granted, and changing it while the pod runs
//! * [`launch`], [`stop`], [`sandbox`], [`removal`]: the deeds that take longer
//! * [`admission`], [`sysctls`], [`qos`], [`resources`], [`environment`], [`container_spec`], [`files`]: what a pod's fields mean on a node
//!
//! This module holds the accessors that all of them use.

pub mod admission;
pub mod allocation;
pub mod annotations;
pub mod back_off;
pub mod conditions;
pub mod container_spec;
pub mod container_status;
mod env_file;
pub mod environment;
pub mod field_values;
pub mod files;
pub mod launch;
pub mod plan;
pub mod preemption;
pub mod qos;
pub mod removal;
pub mod resize;
pub mod resize_order;
pub mod resources;
pub mod restart;
pub mod sandbox;
pub mod security;
pub mod status;
pub mod stop;
pub mod sysctls;
pub mod termination_message;
pub mod user_namespaces;
pub mod worker;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, then runs beside the others.
    Sidecar,
    /// One of `spec.containers`.
    Main,
    /// Added to a running pod for debugging.
    Ephemeral,
}

/// A pod's own name for logs and messages: `name_namespace(uid)`, as upstream writes it.
#[must_use]
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The pod's name.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The pod's UID.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's spec; an empty one for a pod without, which the API server refuses.
#[must_use]
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// The pod shares the node's network.
#[must_use]
pub fn uses_host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// The pod has ended for good, as the API knows it.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Init containers, sidecars among them.
#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Whether an init container is a sidecar.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Init containers in order, then main containers, then ephemeral ones, each with its role.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (Role, std::borrow::Cow<'_, Container>)> {
    use std::borrow::Cow;
    let spec = spec(pod);
    let init = init_containers(pod).iter().map(|container| (if is_sidecar(container) { Role::Sidecar } else { Role::Init }, Cow::Borrowed(container)));
    let main = spec.containers.iter().map(|container| (Role::Main, Cow::Borrowed(container)));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| (Role::Ephemeral, Cow::Owned(ephemeral_as_container(container))));
    init.chain(main).chain(ephemeral)
}

/// One container of any role.
#[must_use]
pub fn find_container<'a>(pod: &'a Pod, wanted: &str) -> Option<(Role, std::borrow::Cow<'a, Container>)> {
    containers(pod).find(|(_, container)| container.name == wanted)
}

/// An ephemeral container as the container it amounts to.
#[must_use]
pub fn ephemeral_as_container(ephemeral: &EphemeralContainer) -> Container {
    Container {
        args: ephemeral.args.clone(),
        command: ephemeral.command.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        image: ephemeral.image.clone(),
        image_pull_policy: ephemeral.image_pull_policy.clone(),
        name: ephemeral.name.clone(),
        resources: ephemeral.resources.clone(),
        security_context: ephemeral.security_context.clone(),
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path.clone(),
        termination_message_policy: ephemeral.termination_message_policy.clone(),
        tty: ephemeral.tty,
        volume_devices: ephemeral.volume_devices.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        working_dir: ephemeral.working_dir.clone(),
        ..Container::default()
    }
}
