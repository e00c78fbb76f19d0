//! Which tracked UDP flows must be forgotten after a change.
//!
//! A UDP client that keeps its port keeps its flow, and the flow keeps the endpoint it was given. When that endpoint is
//! gone, or when there was none before and there is one now, the flow has to be judged anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use netlink::Flow;

use crate::program::Program;

/// IP protocol number of UDP.
const UDP: u8 = 17;

/// For each place that a changed service has or had, where flows to it may lead now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedFlows {
    addresses: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
    node_ports: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

impl ChangedFlows {
    /// Takes in the change of one service.
    pub fn note(&mut self, old: Option<&Program>, new: Option<&Program>) {
        let same = old.map(|old| (&old.udp, &old.udp_node_ports)) == new.map(|new| (&new.udp, &new.udp_node_ports));
        if same {
            return;
        }
        if let Some(program) = old {
            for place in program.udp.keys() {
                self.addresses.entry(*place).or_default();
            }
            for place in program.udp_node_ports.keys() {
                self.node_ports.entry(*place).or_default();
            }
        }
        if let Some(program) = new {
            for (place, endpoints) in &program.udp {
                self.addresses.entry(*place).or_default().extend(endpoints);
            }
            for (place, endpoints) in &program.udp_node_ports {
                self.node_ports.entry(*place).or_default().extend(endpoints);
            }
        }
    }

    /// Whether nothing needs to be looked at.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.node_ports.is_empty()
    }

    /// Whether a flow leads where it no longer should.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.protocol != UDP {
            return false;
        }
        let translated = flow.reply_source != flow.original_destination;
        if let Some(endpoints) = self.addresses.get(&flow.original_destination) {
            // A service that is gone leaves no endpoints; untranslated flows to its address are then as they should be.
            return if endpoints.is_empty() { translated } else { !endpoints.contains(&flow.reply_source) };
        }
        match self.node_ports.get(&flow.original_destination.port()) {
            Some(endpoints) if endpoints.is_empty() => translated,
            // The same port may be used on other machines, where it is no node port of ours; forgetting a flow that is
            // not translated costs nothing, its next packet starts it anew.
            Some(endpoints) => !endpoints.contains(&flow.reply_source),
            None => false,
        }
    }
}
