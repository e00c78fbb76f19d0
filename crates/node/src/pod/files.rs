//! The files that the node writes for a pod: `/etc/hosts`, `/etc/resolv.conf`, and its host name.
//! Source: Kubernetes 1.36, `pkg/kubelet/network/dns/dns.go`, `pkg/kubelet/kubelet_pods.go`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::{name, namespace, spec, uses_host_network};

/// Longest host name that the kernel takes.
const MAXIMUM_HOSTNAME: usize = 63;

/// Host name and domain (without the cluster's part, empty where the pod has no subdomain).
#[must_use]
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = spec(pod);
    if let Some(fixed) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (fixed.to_owned(), String::new());
    }
    let wanted = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty()).unwrap_or(name(pod));
    let hostname = wanted.get(..MAXIMUM_HOSTNAME.min(wanted.len())).unwrap_or(wanted).trim_end_matches(['-', '.']).to_owned();
    let domain = match spec.subdomain.as_deref() {
        Some(subdomain) if !subdomain.is_empty() => format!("{subdomain}.{}.svc.{cluster_domain}", namespace(pod)),
        _ => String::new(),
    };
    (hostname, domain)
}

/// What `hostname` says in the pod.
///
/// # Errors
/// The FQDN is wanted and longer than the kernel takes.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    if !spec(pod).set_hostname_as_fqdn.unwrap_or(false) || domain.is_empty() {
        return Ok(hostname);
    }
    let full = format!("{hostname}.{domain}");
    if full.len() > MAXIMUM_HOSTNAME + 1 {
        return Err(format!("failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({} characters is the max, {} characters requested)", MAXIMUM_HOSTNAME + 1, full.len()));
    }
    Ok(full)
}

/// The content of `/etc/hosts`. Pods on the host's network get the host's own file (`host_file`) with their aliases.
#[must_use]
pub fn etc_hosts(pod: &Pod, addresses: &[IpAddr], cluster_domain: &str, host_file: &str) -> String {
    let mut text = String::new();
    if uses_host_network(pod) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(host_file);
    } else {
        text.push_str("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
        for address in addresses {
            if domain.is_empty() {
                text.push_str(&format!("{address}\t{hostname}\n"));
            } else {
                text.push_str(&format!("{address}\t{hostname}.{domain}\t{hostname}\n"));
            }
        }
    }
    let aliases = spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
        }
    }
    text
}

/// What a resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    /// The content of `/etc/resolv.conf`.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// What the pod's resolver is told, by its DNS policy and configuration.
#[must_use]
pub fn resolver(pod: &Pod, host: &Resolver, cluster_dns: &[IpAddr], cluster_domain: &str) -> Resolver {
    let spec = spec(pod);
    let mut policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    if (policy == "ClusterFirst" && uses_host_network(pod)) || (policy.starts_with("ClusterFirst") && cluster_dns.is_empty()) {
        policy = "Default";
    }
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "Default" => host.clone(),
        _ => {
            let mut searches = vec![format!("{}.svc.{cluster_domain}", namespace(pod)), format!("svc.{cluster_domain}"), cluster_domain.to_owned()];
            searches.extend(host.searches.iter().filter(|search| search.as_str() != ".").cloned());
            Resolver { servers: cluster_dns.iter().map(ToString::to_string).collect(), searches, options: vec!["ndots:5".to_owned()] }
        }
    };
    if let Some(config) = &spec.dns_config {
        resolver.servers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|old| old.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    let mut seen = std::collections::HashSet::new();
    resolver.servers.retain(|server| seen.insert(server.clone()));
    let mut seen = std::collections::HashSet::new();
    resolver.searches.retain(|search| seen.insert(search.clone()));
    resolver.searches.truncate(32);
    resolver.servers.truncate(3);
    resolver
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "web-0", "namespace": "shop" }, "spec": spec })).unwrap()
    }

    #[track_caller]
    fn check(spec: serde_json::Value, expected: &str) {
        let host = Resolver::parse("search example.com\nnameserver 9.9.9.9 # quad\noptions edns0\n");
        let dns = ["10.96.0.10".parse().unwrap()];
        assert_eq!(resolver(&pod(spec), &host, &dns, "cluster.local").render(), expected);
    }

    #[test]
    fn each_dns_policy_gives_its_resolver() {
        check(
            json!({ "containers": [] }),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\noptions ndots:5\n",
        );
        check(json!({ "containers": [], "hostNetwork": true }), "search example.com\nnameserver 9.9.9.9\noptions edns0\n");
        check(json!({ "containers": [], "dnsPolicy": "Default" }), "search example.com\nnameserver 9.9.9.9\noptions edns0\n");
        check(
            json!({ "containers": [], "dnsPolicy": "None", "dnsConfig": { "nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{ "name": "ndots", "value": "2" }] } }),
            "search a.b\nnameserver 1.1.1.1\noptions ndots:2\n",
        );
        check(
            json!({ "containers": [], "dnsConfig": { "options": [{ "name": "ndots", "value": "1" }] } }),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\noptions ndots:1\n",
        );
    }

    #[test]
    fn a_subdomain_gives_a_full_name() {
        let pod = pod(json!({ "containers": [], "subdomain": "db", "setHostnameAsFQDN": true, "hostAliases": [{ "ip": "1.2.3.4", "hostnames": ["a", "b"] }] }));
        assert_eq!(kernel_hostname(&pod, "c.local").unwrap(), "web-0.db.shop.svc.c.local");
        let hosts = etc_hosts(&pod, &["10.0.0.5".parse().unwrap()], "c.local", "");
        assert!(hosts.contains("10.0.0.5\tweb-0.db.shop.svc.c.local\tweb-0\n"));
        assert!(hosts.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
