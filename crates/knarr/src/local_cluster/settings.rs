//! What a cluster is, for all boots: written once, beside the data of its nodes.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use netlink::IpRange;
use pki::{ClusterAuthority, JoinToken};
use serde::{Deserialize, Serialize};

/// Port of the API, at the first node's address.
pub const API_PORT: u16 = 6443;

/// A cluster's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// How many nodes it has.
    pub nodes: u8,
    /// Addresses of the nodes; the host has the first.
    pub node_range: String,
    /// Addresses of pods.
    pub pod_range: String,
    /// Addresses of Services.
    pub service_range: String,
    /// Id and secret of the token that its nodes join with.
    pub token: (String, String),
    /// Settings of the server that the user gave.
    #[serde(default)]
    pub server_options: Vec<String>,
    /// Where this is kept.
    #[serde(skip)]
    pub directory: PathBuf,
}

fn file(directory: &Path) -> PathBuf {
    directory.join("cluster.json")
}

impl Settings {
    /// The settings kept in a cluster's directory.
    pub fn load(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = file(directory);
        let Some(text) = pki::private_file::read(&path)? else { return Ok(None) };
        let mut settings: Self = serde_json::from_str(&text).with_context(|| format!("{} cannot be read; move it away to begin a new cluster", path.display()))?;
        settings.directory = directory.to_owned();
        Ok(Some(settings))
    }

    /// Keeps them.
    pub fn save(&self) -> anyhow::Result<()> {
        pki::private_file::create_directory(&self.directory)?;
        Ok(pki::private_file::write(&file(&self.directory), &serde_json::to_vec_pretty(self)?)?)
    }

    fn range(&self) -> anyhow::Result<IpRange> {
        self.node_range.parse().with_context(|| format!("{:?} is no address range", self.node_range))
    }

    /// The host's address on the bridge: the nodes' gateway.
    pub fn gateway(&self) -> anyhow::Result<IpAddr> {
        self.range()?.nth(1).context("the range of the nodes is too small")
    }

    /// Bits of the prefix of the nodes' range.
    pub fn prefix(&self) -> anyhow::Result<u8> {
        Ok(self.range()?.prefix())
    }

    /// The name of the node of this number, counted from 1.
    pub fn node_name(&self, number: u8) -> String {
        format!("{}-{number}", self.name)
    }

    /// Its address.
    pub fn node_address(&self, number: u8) -> anyhow::Result<IpAddr> {
        self.range()?.nth(u64::from(number) + 1).context("the range of the nodes is too small")
    }

    /// Its data.
    pub fn node_data(&self, number: u8) -> PathBuf {
        self.directory.join(self.node_name(number))
    }

    /// Where the API is reached, from the host and from everywhere in the cluster.
    pub fn api(&self) -> anyhow::Result<String> {
        Ok(format!("https://{}:{API_PORT}", self.node_address(1)?))
    }

    /// The cluster's DNS address, which every node serves itself.
    pub fn dns_address(&self) -> anyhow::Result<Vec<IpAddr>> {
        Ok(crate::node_parts::dns_addresses(&crate::node_parts::ranges(&self.service_range)?))
    }

    /// The token that agents join with. Makes the cluster's authority where there is none yet, so that servers and agents can be
    /// started together.
    pub fn join_token(&self) -> anyhow::Result<String> {
        let authority = ClusterAuthority::open_or_create(&self.node_data(1).join("pki"), jiff::Timestamp::now())?;
        let (id, secret) = self.token.clone();
        Ok(JoinToken { authority: authority.fingerprint(), id, secret }.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(directory: &Path) -> Settings {
        Settings {
            name: "local".to_owned(),
            nodes: 2,
            node_range: "10.88.3.0/24".to_owned(),
            pod_range: "10.244.0.0/16".to_owned(),
            service_range: "10.96.0.0/16".to_owned(),
            token: ("abcdef".to_owned(), "0123456789abcdef".to_owned()),
            server_options: Vec::new(),
            directory: directory.to_owned(),
        }
    }

    #[test]
    fn names_and_addresses_follow_from_a_nodes_number() {
        let settings = settings(Path::new("/x"));
        assert_eq!(settings.node_name(2), "local-2");
        assert_eq!(settings.gateway().unwrap().to_string(), "10.88.3.1");
        assert_eq!(settings.node_address(2).unwrap().to_string(), "10.88.3.3");
        assert_eq!(settings.api().unwrap(), "https://10.88.3.2:6443");
    }

    #[test]
    fn settings_are_kept_for_the_next_boot() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Settings::load(directory.path()).unwrap().is_none());
        settings(directory.path()).save().unwrap();
        let kept = Settings::load(directory.path()).unwrap().unwrap();
        assert_eq!((kept.nodes, kept.directory.as_path()), (2, directory.path()));
        std::fs::write(directory.path().join("cluster.json"), "{").unwrap();
        assert!(Settings::load(directory.path()).unwrap_err().to_string().contains("move it away"));
    }
}
