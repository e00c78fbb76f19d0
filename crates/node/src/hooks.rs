//! Lifecycle hooks: a command in the container, an HTTP request to it, or a pause.

use std::{net::IpAddr, time::Duration};

use client::EventType;
use container_runtime::ContainerId;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::{config::Context, pod, probe::{http, port}};

/// Longest time for an exec hook; the pod's grace period ends preStop hooks earlier.
const EXEC_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Longest time for an HTTP hook.
const HTTP_LIMIT: Duration = Duration::from_secs(60);

/// The container a hook belongs to.
pub struct Target<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// Its spec.
    pub container: &'a Container,
    /// Which one.
    pub id: &'a ContainerId,
    /// The pod's addresses.
    pub pod_ips: &'a [IpAddr],
}

/// Runs a hook to its end. What an HTTP hook is answered does not matter, as long as it is. Source: Kubernetes 1.36,
/// `pkg/kubelet/lifecycle/handlers.go`, also for the second try without TLS.
///
/// # Errors
/// What went wrong, in words.
pub async fn run(context: &Context, target: &Target<'_>, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output = context.config.runtime.exec_sync(target.id, &command, EXEC_LIMIT).await.map_err(|problem| problem.to_string())?;
        return if output.code == 0 { Ok(()) } else { Err(format!("command exited with {}: {}", output.code, String::from_utf8_lossy(&output.output))) };
    }
    if let Some(get) = &hook.http_get {
        let host = match get.host.as_deref().filter(|host| !host.is_empty()) {
            Some(host) => host.to_owned(),
            None => target.pod_ips.first().map(ToString::to_string).ok_or("the pod has no address")?,
        };
        let request = http::Get {
            https: get.scheme.as_deref() == Some("HTTPS"),
            host,
            port: port(&get.port, target.container).ok_or_else(|| format!("the container of pod {} has no such port", pod::name(target.pod)))?,
            path: get.path.clone().unwrap_or_default(),
            headers: get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect(),
        };
        let ask = async |request: &http::Get| tokio::time::timeout(HTTP_LIMIT, http::get(request, "kube-lifecycle/1.36")).await.unwrap_or_else(|_| Err("timed out".to_owned()));
        return match ask(&request).await {
            Err(problem) if request.https && http::speaks_no_tls(&problem) => {
                let plain = http::Get { https: false, headers: request.headers.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("authorization")).collect(), ..request };
                ask(&plain).await?;
                let words = "request to HTTPS lifecycle hook got HTTP response, retry with HTTP succeeded";
                context.events.container(target.pod, &target.container.name, EventType::Warning, "LifecycleHTTPFallback", words);
                Ok(())
            }
            answered => answered.map(|_| ()),
        };
    }
    if let Some(sleep) = &hook.sleep {
        context.config.clock.sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
    }
    // A tcpSocket handler has never had any effect upstream.
    Ok(())
}
