//! What the node agent can be told, by `server` and `agent` alike. The names are those of kubelets.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use container_runtime::ResourceLimits;
use node::{NodeConfig, machine::Machine, quantity::Amount, shutdown::{self, Group}};

/// Options of the node.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeOptions {
    /// Directory of static pods: files that this node runs whatever the API says [default: DATA_DIR/node/manifests].
    #[arg(long, value_name = "DIRECTORY")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Most pods this node runs.
    #[arg(long, default_value_t = 110, value_name = "NUMBER")]
    pub max_pods: u32,
    /// Kept back for the system, such as cpu=100m,memory=256Mi,ephemeral-storage=1Gi.
    #[arg(long, value_name = "NAME=AMOUNT", value_delimiter = ',')]
    pub system_reserved: Vec<String>,
    /// Kept back for knarr itself, in the same form.
    #[arg(long, value_name = "NAME=AMOUNT", value_delimiter = ',')]
    pub kube_reserved: Vec<String>,
    /// Kernel parameters that pods may set beyond the safe ones; a * at the end stands for anything.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Fewer free process numbers than this are a pressure, and end pods.
    #[arg(long, value_name = "NUMBER")]
    pub least_process_ids: Option<u64>,
    /// Seconds that pods have to end when the machine is shut down; 0: they are not ended.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub shutdown_grace_period: u64,
    /// How many of these seconds are kept for critical pods.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub shutdown_grace_period_critical_pods: u64,
    /// Instead of the two: seconds by the priority from which they hold, such as 0=20,1000=10.
    #[arg(long, value_name = "PRIORITY=SECONDS", value_delimiter = ',', conflicts_with_all = ["shutdown_grace_period", "shutdown_grace_period_critical_pods"])]
    pub shutdown_grace_period_by_pod_priority: Vec<String>,
}

/// Sums of the amounts that several lists name.
fn amounts<'a>(lists: impl IntoIterator<Item = (&'static str, &'a Vec<String>)>) -> anyhow::Result<BTreeMap<String, Amount>> {
    let mut sums = BTreeMap::new();
    for (flag, list) in lists {
        for text in list {
            let (name, amount) = text.split_once('=').with_context(|| format!("--{flag} {text:?}: write NAME=AMOUNT, such as memory=256Mi"))?;
            if !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
                bail!("--{flag} {text:?}: only cpu, memory and ephemeral-storage can be kept back");
            }
            let amount = Amount::parse(amount).filter(|amount| *amount >= Amount::default()).with_context(|| format!("--{flag} {text:?}: {amount:?} is no amount"))?;
            let sum = sums.entry(name.to_owned()).or_insert_with(Amount::default);
            *sum = *sum + amount;
        }
    }
    Ok(sums)
}

impl NodeOptions {
    fn reserved(&self) -> anyhow::Result<BTreeMap<String, Amount>> {
        amounts([("system-reserved", &self.system_reserved), ("kube-reserved", &self.kube_reserved)])
    }

    /// What all pods together may use, where something is kept back: the kernel holds them to it. Source: Kubernetes documentation,
    /// "Reserve Compute Resources for System Daemons", `enforceNodeAllocatable: [pods]`.
    pub fn limits(&self, data_directory: &std::path::Path) -> anyhow::Result<ResourceLimits> {
        let reserved = self.reserved()?;
        let allocatable = Machine::read(data_directory).allocatable(&reserved);
        Ok(ResourceLimits {
            cpu_shares: reserved.contains_key("cpu").then(|| node::pod::resources::cpu_shares(allocatable.cpu.as_thousandths())),
            memory_bytes: reserved.contains_key("memory").then(|| allocatable.memory.as_units()),
            ..ResourceLimits::default()
        })
    }

    /// Puts the options into a node's settings.
    pub fn apply(&self, config: &mut NodeConfig) -> anyhow::Result<()> {
        if let Some(directory) = &self.pod_manifest_path {
            config.static_pod_directory.clone_from(directory);
        }
        config.max_pods = self.max_pods;
        config.reserved = self.reserved()?;
        config.allowed_sysctls.clone_from(&self.allowed_unsafe_sysctls);
        config.least_process_ids = self.least_process_ids;
        config.shutdown = self.shutdown_groups()?;
        Ok(())
    }

    fn shutdown_groups(&self) -> anyhow::Result<Vec<Group>> {
        let (whole, critical) = (self.shutdown_grace_period, self.shutdown_grace_period_critical_pods);
        if critical > whole {
            bail!("--shutdown-grace-period-critical-pods {critical} is a part of --shutdown-grace-period {whole}, and cannot be more");
        }
        if self.shutdown_grace_period_by_pod_priority.is_empty() {
            return Ok(shutdown::groups(Duration::from_secs(whole), Duration::from_secs(critical)));
        }
        let group = |text: &String| {
            let parsed = text.split_once('=').and_then(|(priority, seconds)| Some((priority.parse().ok()?, seconds.parse().ok()?)));
            let (priority, seconds) = parsed.with_context(|| format!("--shutdown-grace-period-by-pod-priority {text:?}: write PRIORITY=SECONDS"))?;
            Ok(Group { priority, grace: Duration::from_secs(seconds) })
        };
        self.shutdown_grace_period_by_pod_priority.iter().map(group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_is_kept_back_adds_up() {
        let (system, kube) = (list(&["cpu=100m", "memory=1Gi"]), list(&["cpu=1"]));
        let sums = amounts([("system-reserved", &system), ("kube-reserved", &kube)]).unwrap();
        assert_eq!((sums["cpu"].as_thousandths(), sums["memory"].as_units()), (1100, 1 << 30));
        for wrong in ["cpu", "cpu=x", "cpu=-1", "pods=3"] {
            assert!(amounts([("system-reserved", &list(&[wrong]))]).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn shutdown_is_told_in_two_ways() {
        let options = NodeOptions { shutdown_grace_period: 30, shutdown_grace_period_critical_pods: 10, ..NodeOptions::default() };
        assert_eq!(options.shutdown_groups().unwrap().len(), 2);
        let options = NodeOptions { shutdown_grace_period_by_pod_priority: list(&["0=20", "1000=5"]), ..NodeOptions::default() };
        assert_eq!(options.shutdown_groups().unwrap()[1], Group { priority: 1000, grace: Duration::from_secs(5) });
        let options = NodeOptions { shutdown_grace_period_critical_pods: 10, ..NodeOptions::default() };
        assert!(options.shutdown_groups().is_err());
    }
}
