//! A pod's sandbox: what it is asked for, and connecting it to the pod network.

use std::net::IpAddr;

use container_runtime::{HostNamespaces, RuntimeError, SandboxSpec, SandboxStatus};
use client::Api;
use k8s_openapi::api::{core::v1::Pod, node::v1::RuntimeClass};
use pod_sandbox_network::{AttachRequest, HostPort, PodNetworkError, Protocol};

use super::{containers, files, name, namespace, resources, spec, uid, uses_host_network};
use crate::{api_error::words, config::Context};

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Its description cannot be met.
    #[error("{0}")]
    Spec(String),
    /// The runtime could not make it.
    #[error("failed to create pod sandbox: {0}")]
    Runtime(#[from] RuntimeError),
    /// It could not be connected.
    #[error("failed to setup network for sandbox: {0}")]
    Network(#[from] PodNetworkError),
}

/// What a pod's sandbox is asked for.
///
/// # Errors
/// The pod's host name cannot be set, or it gets no users of its own.
pub fn sandbox_spec(context: &Context, pod: &Pod, attempt: u32) -> Result<SandboxSpec, SandboxError> {
    let spec = spec(pod);
    let config = &context.config;
    let hostname = if uses_host_network(pod) {
        config.hostname.clone()
    } else {
        files::kernel_hostname(pod, &config.cluster_domain).map_err(SandboxError::Spec)?
    };
    let security = spec.security_context.clone().unwrap_or_default();
    Ok(SandboxSpec {
        pod_uid: uid(pod).to_owned(),
        pod_name: name(pod).to_owned(),
        pod_namespace: namespace(pod).to_owned(),
        attempt,
        hostname,
        host: HostNamespaces {
            network: uses_host_network(pod),
            pid: spec.host_pid.unwrap_or(false),
            ipc: spec.host_ipc.unwrap_or(false),
            share_process: spec.share_process_namespace.unwrap_or(false),
        },
        users: context.pod_users.range(pod).map_err(SandboxError::Spec)?,
        cgroup_parent: resources::cgroup_parent(pod),
        resources: resources::pod_limits(pod),
        sysctls: security.sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
        log_directory: config.pod_log_directory(namespace(pod), name(pod), uid(pod)),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
    })
}

/// Checks that the runtime knows what the pod's RuntimeClass asks for.
async fn check_runtime_class(context: &Context, pod: &Pod) -> Result<(), SandboxError> {
    let Some(class) = spec(pod).runtime_class_name.as_deref().filter(|class| !class.is_empty()) else { return Ok(()) };
    let classes: Api<RuntimeClass> = Api::all(context.config.client.clone());
    let found = classes.get(class).await.map_err(|problem| SandboxError::Spec(format!("failed to get runtime class \"{class}\": {}", words(&problem))))?;
    if context.config.runtime.handlers().contains(&found.handler) {
        Ok(())
    } else {
        Err(SandboxError::Spec(format!("failed to get sandbox runtime: no runtime for \"{}\" is configured", found.handler)))
    }
}

/// Makes a sandbox and connects it; gives its addresses.
///
/// # Errors
/// Either step failed; a sandbox that could not be connected is removed again.
pub async fn make_sandbox(context: &Context, pod: &Pod, attempt: u32) -> Result<(SandboxStatus, Vec<IpAddr>), SandboxError> {
    check_runtime_class(context, pod).await?;
    let sandbox = context.config.runtime.run_sandbox(&sandbox_spec(context, pod, attempt)?).await?;
    match attach(context, pod, &sandbox).await {
        Ok(addresses) => Ok((sandbox, addresses)),
        Err(problem) => {
            if let Err(left) = context.config.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id.0, problem = %left, "a sandbox without network could not be removed");
            }
            Err(problem)
        }
    }
}

/// Connects a sandbox, or finds out how it is connected; gives its addresses.
///
/// # Errors
/// The network could not connect it.
pub async fn attach(context: &Context, pod: &Pod, sandbox: &SandboxStatus) -> Result<Vec<IpAddr>, SandboxError> {
    if uses_host_network(pod) {
        return Ok(context.config.node_ips.clone());
    }
    let request = AttachRequest {
        sandbox: sandbox.id.0.clone(),
        pod_namespace: namespace(pod).to_owned(),
        pod_name: name(pod).to_owned(),
        network_namespace: sandbox.network_namespace.clone().unwrap_or_default(),
        host_ports: host_ports(pod),
    };
    Ok(context.config.network.attach(&request).await?)
}

/// All host ports of a pod's containers.
#[must_use]
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let all = containers(pod).flat_map(|(_, container)| container.ports.clone().unwrap_or_default());
    all.filter_map(|port| {
        Some(HostPort {
            host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified()),
            host_port: port.host_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?,
            container_port: u16::try_from(port.container_port).ok()?,
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
        })
    })
    .collect()
}
