//! Whether the proxy itself does its work: on port 10256 for load balancers of `externalTrafficPolicy: Cluster`, which should send nothing to
//! a node that goes away or whose rules lag behind; and on 10249, for this machine alone, what kind of proxy it is.
//! Source: Kubernetes 1.36, `pkg/proxy/healthcheck/proxy_health.go` and `cmd/kube-proxy/app`, `serveMetrics`.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use tokio::{net::TcpListener, task::AbortHandle};

use crate::health::{RETRY, everywhere, serve_on};

const PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;
/// Changes that wait this long for the kernel mean that something is wrong. Source: Kubernetes 1.36: twice the longest `syncPeriod`.
const TOO_LONG: Duration = Duration::from_secs(60);
/// By this taint a cluster autoscaler says that it is about to remove a node.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Debug, Default)]
struct Standing {
    /// When the oldest change came that the kernel does not know yet.
    waiting_since: Option<Timestamp>,
    committed_at: Option<Timestamp>,
    commits: u64,
    failures: u64,
    node_leaves: bool,
}

/// Tells how the proxy does, as long as it lives.
#[derive(Debug, Default)]
pub struct OwnHealth {
    standing: Arc<Mutex<Standing>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for OwnHealth {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl OwnHealth {
    /// Answers from now on. Must be called within a tokio runtime.
    pub fn start() -> Self {
        let own = Self::default();
        let (health, metrics) = (own.standing.clone(), own.standing.clone());
        let tasks = vec![
            tokio::spawn(keep_answering(PORT, true, move |path| answer(&lock(&health), path, Timestamp::now()))).abort_handle(),
            tokio::spawn(keep_answering(METRICS_PORT, false, move |path| describe(&lock(&metrics), path))).abort_handle(),
        ];
        Self { tasks, standing: own.standing.clone() }
    }

    /// There is something that the kernel has to be told.
    pub fn changed(&self, now: Timestamp) {
        lock(&self.standing).waiting_since.get_or_insert(now);
    }

    /// The kernel was told, or did not listen.
    pub fn committed(&self, successful: bool, now: Timestamp) {
        let mut standing = lock(&self.standing);
        if successful {
            standing.waiting_since = None;
            standing.committed_at = Some(now);
            standing.commits += 1;
        } else {
            standing.failures += 1;
        }
    }

    /// What is known of the node now.
    pub fn take_node(&self, node: &Node) {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let leaves = node.metadata.deletion_timestamp.is_some() || taints.into_iter().any(|taint| taint.key == LEAVING);
        lock(&self.standing).node_leaves = leaves;
    }
}

fn lock(standing: &Mutex<Standing>) -> std::sync::MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the port as long as somebody else has it, which on a machine with several nodes may be always: not worth a word each time.
async fn keep_answering(port: u16, to_all: bool, answer: impl Fn(&str) -> String + Send + Sync + 'static) {
    let mut told = false;
    let listener = loop {
        let bound = if to_all { everywhere(port).await } else { TcpListener::bind((IpAddr::from(Ipv4Addr::LOCALHOST), port)).await };
        match bound {
            Ok(listener) => break listener,
            Err(error) if !std::mem::replace(&mut told, true) => tracing::debug!(port, %error, "the proxy's health cannot be asked for here"),
            Err(_) => {}
        }
        // Nothing tells when whoever holds the port lets go.
        tokio::time::sleep(RETRY).await;
    };
    serve_on(listener, Arc::new(answer)).await;
}

fn answer(standing: &Standing, path: &str, now: Timestamp) -> String {
    let is_late = standing.waiting_since.is_some_and(|since| now.duration_since(since) > jiff::SignedDuration::try_from(TOO_LONG).unwrap_or_default());
    // One that is up to date was so this moment.
    let updated = if is_late { standing.committed_at } else { Some(now) };
    let show = |time: Option<Timestamp>| time.unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string();
    let times = format!("\"lastUpdated\": \"{}\",\"currentTime\": \"{}\"", show(updated), show(Some(now)));
    let eligible = !standing.node_leaves;
    let (is_well, body) = match path {
        "/healthz" => (!is_late && eligible, format!("{{{times}, \"nodeEligible\": {eligible}}}")),
        "/livez" => (!is_late, format!("{{{times}}}")),
        _ => return response("404 Not Found", "text/plain; charset=utf-8", "404 page not found\n"),
    };
    response(if is_well { "200 OK" } else { "503 Service Unavailable" }, "application/json", &body)
}

fn describe(standing: &Standing, path: &str) -> String {
    let plain = "text/plain; charset=utf-8";
    match path {
        "/healthz" => response("200 OK", plain, "ok"),
        "/proxyMode" => response("200 OK", plain, "nftables"),
        "/metrics" => {
            let last = standing.committed_at.map_or(0, Timestamp::as_second);
            let text = format!(
                "# HELP kubeproxy_sync_proxy_rules_last_timestamp_seconds [ALPHA] The last time proxy rules were successfully synced\n\
                 # TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge\n\
                 kubeproxy_sync_proxy_rules_last_timestamp_seconds {last}\n\
                 # HELP kubeproxy_sync_proxy_rules_nftables_sync_failures_total [ALPHA] Cumulative proxy nftables sync failures\n\
                 # TYPE kubeproxy_sync_proxy_rules_nftables_sync_failures_total counter\n\
                 kubeproxy_sync_proxy_rules_nftables_sync_failures_total {}\n\
                 # HELP knarr_service_proxy_transactions_total Transactions that the kernel took\n\
                 # TYPE knarr_service_proxy_transactions_total counter\n\
                 knarr_service_proxy_transactions_total {}\n",
                standing.failures, standing.commits
            );
            response("200 OK", "text/plain; version=0.0.4; charset=utf-8", &text)
        }
        _ => response("404 Not Found", plain, "404 page not found\n"),
    }
}

fn response(status: &str, content_type: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(own: &OwnHealth, path: &str, now: i64, status: &str, words: &str) {
        let answer = answer(&lock(&own.standing), path, Timestamp::from_second(now).unwrap());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{answer}");
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_proxy_is_well_unless_changes_wait_too_long() {
        let own = OwnHealth::default();
        own.changed(at(100));
        check(&own, "/healthz", 160, "200", "{\"lastUpdated\": \"1970-01-01 00:02:40 +0000 UTC\",\"currentTime\": \"1970-01-01 00:02:40 +0000 UTC\", \"nodeEligible\": true}");
        own.committed(false, at(101));
        own.changed(at(150));
        check(&own, "/healthz", 161, "503", "\"lastUpdated\": \"1970-01-01 00:00:00 +0000 UTC\"");
        check(&own, "/livez", 161, "503", "currentTime");
        own.committed(true, at(162));
        check(&own, "/livez", 1000, "200", "currentTime");
        check(&own, "/other", 1000, "404", "404 page not found");
    }

    #[test]
    fn a_node_that_goes_away_takes_no_more_but_the_proxy_lives() {
        let own = OwnHealth::default();
        let node = |spec| serde_json::from_value(serde_json::json!({ "metadata": { "name": "a" }, "spec": spec })).unwrap();
        own.take_node(&node(serde_json::json!({ "taints": [{ "key": LEAVING, "effect": "NoSchedule" }] })));
        check(&own, "/healthz", 10, "503", "\"nodeEligible\": false");
        check(&own, "/livez", 10, "200", "currentTime");
        own.take_node(&node(serde_json::json!({})));
        check(&own, "/healthz", 10, "200", "\"nodeEligible\": true");
    }

    #[test]
    fn what_it_is_can_be_read() {
        let own = OwnHealth::default();
        own.committed(true, at(7));
        let said = |path| describe(&lock(&own.standing), path);
        assert!(said("/proxyMode").ends_with("\r\n\r\nnftables"));
        assert!(said("/metrics").contains("\nkubeproxy_sync_proxy_rules_last_timestamp_seconds 7\n"));
    }
}
