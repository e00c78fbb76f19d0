//! Services as environment variables of containers (`enableServiceLinks`, and the API server's own address).
//! Source: Kubernetes 1.36, `pkg/kubelet/envvars/envvars.go`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use client::{FeedEvent, Selection, Source, feed};
use k8s_openapi::api::core::v1::Service;
use parking_lot::RwLock;
use tokio::sync::watch as flag;
use tokio_util::sync::CancellationToken;

/// What matters of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    cluster_ip: String,
    ports: Vec<(String, i32, String)>,
}

type ByName = BTreeMap<(String, String), Facts>;

/// All services of the cluster that have an address.
#[derive(Clone)]
pub struct ServiceDirectory {
    services: Arc<RwLock<ByName>>,
    synced: flag::Receiver<bool>,
}

impl ServiceDirectory {
    /// Follows the services until it is stopped.
    #[must_use]
    pub fn start(client: client::Client, stop: CancellationToken) -> Self {
        let (tell_synced, synced) = flag::channel(false);
        let services = Arc::new(RwLock::new(ByName::new()));
        let target = Arc::downgrade(&services);
        let source = Source::new::<Service>(client, &(), Selection::default());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            feed::run(source, |event: FeedEvent<Service>| {
                let Some(services) = target.upgrade() else { return };
                match event {
                    FeedEvent::Replaced { objects, .. } => {
                        *services.write() = objects.into_iter().filter_map(facts).collect();
                        tell_synced.send_replace(true);
                    }
                    FeedEvent::Put(service) => {
                        let key = key(&service);
                        let mut services = services.write();
                        match facts(service) {
                            Some((key, facts)) => services.insert(key, facts),
                            None => services.remove(&key),
                        };
                    }
                    FeedEvent::Deleted(service) => {
                        services.write().remove(&key(&service));
                    }
                    FeedEvent::Progress(_) => {}
                }
            })
            .await;
        }));
        Self { services, synced }
    }

    /// The variables of a pod's containers as far as the services are known.
    #[must_use]
    pub fn environment_now(&self, namespace: &str, links: bool) -> Vec<(String, String)> {
        variables(&self.services.read(), namespace, links)
    }

    /// The variables of a pod's containers, once the services are known.
    pub async fn environment(&self, namespace: &str, links: bool) -> Vec<(String, String)> {
        let mut synced = self.synced.clone();
        // An error means that the watch has ended with the node.
        drop(synced.wait_for(|synced| *synced).await);
        variables(&self.services.read(), namespace, links)
    }
}

fn key(service: &Service) -> (String, String) {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

fn facts(service: Service) -> Option<((String, String), Facts)> {
    let key = key(&service);
    let spec = service.spec?;
    let cluster_ip = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None")?;
    let ports = spec
        .ports
        .into_iter()
        .flatten()
        .map(|port| (port.name.unwrap_or_default(), port.port, port.protocol.unwrap_or_else(|| "TCP".to_owned())))
        .collect();
    Some((key, Facts { cluster_ip, ports }))
}

/// Variables of the services of a namespace, where links are wanted, and of the API server's service always.
fn variables(services: &ByName, namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut visible: HashMap<&str, &Facts> = HashMap::new();
    for ((service_namespace, name), facts) in services {
        let is_master = service_namespace == "default" && name == "kubernetes";
        if (links && service_namespace == namespace) || (is_master && !visible.contains_key(name.as_str())) {
            visible.insert(name, facts);
        }
    }
    let mut result = Vec::new();
    for (name, facts) in visible {
        let prefix = name.to_uppercase().replace(['-', '.'], "_");
        let Some((_, first_port, first_protocol)) = facts.ports.first() else { continue };
        let shown = if facts.cluster_ip.contains(':') { format!("[{}]", facts.cluster_ip) } else { facts.cluster_ip.clone() };
        result.push((format!("{prefix}_SERVICE_HOST"), facts.cluster_ip.clone()));
        result.push((format!("{prefix}_SERVICE_PORT"), first_port.to_string()));
        let url = |port: i32, protocol: &str| format!("{}://{shown}:{port}", protocol.to_lowercase());
        result.push((format!("{prefix}_PORT"), url(*first_port, first_protocol)));
        for (port_name, port, protocol) in &facts.ports {
            if !port_name.is_empty() {
                result.push((format!("{prefix}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_")), port.to_string()));
            }
            let port_prefix = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
            result.push((port_prefix.clone(), url(*port, protocol)));
            result.push((format!("{port_prefix}_PROTO"), protocol.to_lowercase()));
            result.push((format!("{port_prefix}_PORT"), port.to_string()));
            result.push((format!("{port_prefix}_ADDR"), facts.cluster_ip.clone()));
        }
    }
    result.sort();
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_sees_its_namespace_and_the_api_server() {
        let service = |namespace: &str, name: &str, ip: &str| {
            let service = json!({ "metadata": { "namespace": namespace, "name": name },
                "spec": { "clusterIP": ip, "ports": [{ "name": "web-port", "port": 80, "protocol": "TCP" }] } });
            facts(serde_json::from_value(service).unwrap())
        };
        let all: ByName = [service("default", "kubernetes", "10.0.0.1"), service("a", "my-db", "10.0.0.2"), service("b", "x", "10.0.0.3"), service("a", "headless", "None")]
            .into_iter()
            .flatten()
            .collect();
        let found = variables(&all, "a", true);
        let has = |name: &str, value: &str| found.contains(&(name.to_owned(), value.to_owned()));
        assert!(has("KUBERNETES_SERVICE_HOST", "10.0.0.1"));
        assert!(has("MY_DB_SERVICE_PORT_WEB_PORT", "80"));
        assert!(has("MY_DB_PORT_80_TCP", "tcp://10.0.0.2:80"));
        assert!(!found.iter().any(|(name, _)| name.starts_with("X_") || name.starts_with("HEADLESS")));
        assert!(variables(&all, "a", false).iter().all(|(name, _)| name.starts_with("KUBERNETES_")));
    }
}
