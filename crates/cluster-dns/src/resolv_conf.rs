//! The servers of a `resolv.conf`, read again when the file changes.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;

const PORT: u16 = 53;
/// As the C library does.
const MOST_SERVERS: usize = 3;

/// A `resolv.conf`.
#[derive(Debug)]
pub struct ResolvConf {
    path: PathBuf,
    /// Our own addresses: asking ourselves would never end.
    own: Vec<IpAddr>,
    read: Mutex<(Option<SystemTime>, Arc<[SocketAddr]>)>,
}

impl ResolvConf {
    /// Reads lazily; a missing file has no servers.
    pub fn new(path: PathBuf, own: Vec<IpAddr>) -> Self {
        Self { path, own, read: Mutex::new((None, Arc::default())) }
    }

    /// The servers as the file has them now. Costs one `stat` unless the file changed.
    pub fn servers(&self) -> Arc<[SocketAddr]> {
        let changed = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        let mut read = self.read.lock();
        if changed.is_none() || read.0 != changed {
            let text = fs::read_to_string(&self.path).unwrap_or_default();
            *read = (changed, servers(&text, &self.own).into());
        }
        read.1.clone()
    }
}

fn servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if own.contains(&address) {
            tracing::warn!(%address, "resolv.conf names our own address as a server; it is left out");
        } else if servers.len() < MOST_SERVERS {
            servers.push(SocketAddr::new(address, PORT));
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_our_own_address_is_left_out() {
        let text = "# a comment\nsearch a b\nnameserver 1.2.3.4\nnameserver 10.96.0.10 \n nameserver ::1\nnameserver x\noptions";
        let own = ["10.96.0.10".parse().unwrap()];
        let found: Vec<String> = servers(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["1.2.3.4:53", "[::1]:53"]);
    }
}
