//! How fast silent nodes are emptied: one by one in each zone, so that a switch or a cable that fails does not move half a cluster.
//!
//! Source: Kubernetes 1.36, `node_lifecycle_controller.go` (`ComputeZoneState`, `handleDisruption`, `setLimiterInZone`) and
//! <https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction>.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::is_ready;

/// Labels that name a node's region and zone, the newer name first.
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];

/// The time between two nodes of a zone (`--node-eviction-rate`, 0.1 per second).
const PAUSE: Duration = Duration::from_secs(10);
/// The time between two nodes of a large zone of which much is silent (`--secondary-node-eviction-rate`, 0.01 per second).
const LONG_PAUSE: Duration = Duration::from_secs(100);
/// A zone with more nodes is large (`--large-cluster-size-threshold`).
const LARGE: usize = 50;
/// The share of silent nodes, in per cent, from which a zone is in trouble (`--unhealthy-zone-threshold`).
const UNHEALTHY: usize = 55;

/// Region and zone of a node; both empty where nobody labelled it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Zone(String, String);

impl Zone {
    pub(super) fn of(node: &Node) -> Self {
        let (region, zone) = names(node);
        Self(region.to_owned(), zone.to_owned())
    }

    fn has(&self, node: &Node) -> bool {
        names(node) == (self.0.as_str(), self.1.as_str())
    }
}

fn names(node: &Node) -> (&str, &str) {
    let label = |names: [&str; 2]| names.iter().find_map(|name| node.metadata.labels.as_ref()?.get(*name)).map_or("", String::as_str);
    (label(REGION), label(ZONE))
}

/// How much of a zone is well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Health {
    ready: usize,
    silent: usize,
}

impl Health {
    /// The time between two nodes that are emptied; `None` when none may be.
    fn pause(self) -> Option<Duration> {
        let nodes = self.ready + self.silent;
        let in_trouble = self.ready > 0 && self.silent > 2 && self.silent * 100 >= UNHEALTHY * nodes;
        match (in_trouble, nodes > LARGE) {
            (false, _) => Some(PAUSE),
            (true, true) => Some(LONG_PAUSE),
            (true, false) => None,
        }
    }
}

/// Whether a node's pods may be driven away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Permission {
    Now,
    /// Another node of its zone was just emptied: ask again after this time.
    Later(Duration),
    /// Not while so much of the zone, or everything, is silent: it is more likely that this process is cut off than that all of them died.
    Never,
}

/// Nodes that carry this do not tell anything of the health of their zone. Source: Kubernetes 1.36, `labelNodeDisruptionExclusion`.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

fn counts(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_none_or(|labels| !labels.contains_key(EXCLUDED))
}

/// Whether no node of those that count is well: then this process, or the network, is more likely to be at fault than they are.
pub(super) fn all_are_silent<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> bool {
    let (mut any, mut any_ready) = (false, false);
    for node in nodes.into_iter().filter(|node| counts(node)) {
        any = true;
        any_ready |= is_ready(node);
    }
    any && !any_ready
}

/// Whose turn it is in a zone, and when.
struct Turns {
    /// The next node may be emptied from here on, by the controller's clock.
    next: Duration,
    /// The time between two nodes when somebody last asked; `None` when none might go.
    pause: Option<Duration>,
    /// Nodes that were put off, the first one first.
    waiting: VecDeque<String>,
}

/// When the next node of each zone may be emptied, and which that is.
#[derive(Default)]
pub(super) struct Zones {
    turns: HashMap<Zone, Turns>,
}

impl Zones {
    /// Asks for the node `name` of `zone`; [`Permission::Now`] is used up with the answer, see [`Zones::give_back`].
    pub(super) fn ask<'a>(&mut self, zone: &Zone, name: &str, nodes: impl IntoIterator<Item = &'a Node> + Clone, now: Duration) -> Permission {
        let mut health = Health::default();
        for node in nodes.clone().into_iter().filter(|node| counts(node) && zone.has(node)) {
            *(if is_ready(node) { &mut health.ready } else { &mut health.silent }) += 1;
        }
        let pause = health.pause().filter(|_| !all_are_silent(nodes));
        for (_, turns) in self.turns.iter_mut().filter(|(other, _)| *other != zone) {
            turns.waiting.retain(|other| other != name);
        }
        let turns = self.turns.entry(zone.clone()).or_insert_with(|| Turns { next: now, pause, waiting: VecDeque::new() });
        // Who waited waits for the whole of the new pause, also where none might go before (`SwapLimiter`).
        if turns.pause != pause {
            if turns.pause.is_none() || turns.next > now {
                turns.next = now + pause.unwrap_or_default();
            }
            turns.pause = pause;
        }
        if !turns.waiting.iter().any(|other| other == name) {
            turns.waiting.push_back(name.to_owned());
        }
        let Some(pause) = pause else { return Permission::Never };
        if turns.next > now {
            return Permission::Later(turns.next - now);
        }
        // The first one asks in this moment, too; one that does not, for whatever reason, holds up the others for one pause only.
        let is_first = turns.waiting.front().is_some_and(|first| first == name);
        let patience = turns.next + pause;
        if !is_first && now < patience {
            return Permission::Later(patience - now);
        }
        turns.waiting.retain(|other| other != name);
        turns.next = now + pause;
        Permission::Now
    }

    /// Takes back what [`Zones::ask`] permitted: the node was not emptied.
    pub(super) fn give_back(&mut self, zone: &Zone, name: &str, now: Duration) {
        if let Some(turns) = self.turns.get_mut(zone) {
            turns.next = now;
            turns.waiting.push_front(name.to_owned());
        }
    }

    /// A node need not be emptied any more.
    pub(super) fn forget(&mut self, name: &str) {
        for turns in self.turns.values_mut() {
            turns.waiting.retain(|other| other != name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};

    fn nodes(zone: &str, ready: usize, silent: usize) -> Vec<Node> {
        let node = |status: &str| {
            let condition = NodeCondition { type_: "Ready".to_owned(), status: status.to_owned(), ..NodeCondition::default() };
            let mut node = Node { status: Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() }), ..Node::default() };
            node.metadata.labels = Some([(ZONE[0].to_owned(), zone.to_owned())].into());
            node
        };
        (0..ready).map(|_| node("True")).chain((0..silent).map(|_| node("Unknown"))).collect()
    }

    fn zone(name: &str) -> Zone {
        Zone(String::new(), name.to_owned())
    }

    #[test]
    fn nodes_of_a_zone_are_emptied_one_every_ten_seconds_and_zones_do_not_wait_for_each_other() {
        let mut zones = Zones::default();
        let all: Vec<Node> = [nodes("a", 5, 2), nodes("b", 5, 1)].concat();
        let second = Duration::from_secs(1);
        assert_eq!(zones.ask(&zone("a"), "1", &all, second), Permission::Now);
        assert_eq!(zones.ask(&zone("a"), "2", &all, 4 * second), Permission::Later(7 * second));
        assert_eq!(zones.ask(&zone("b"), "3", &all, 4 * second), Permission::Now);
        assert_eq!(zones.ask(&zone("a"), "2", &all, 11 * second), Permission::Now);
        zones.give_back(&zone("a"), "2", 11 * second);
        assert_eq!(zones.ask(&zone("a"), "2", &all, 11 * second), Permission::Now);
    }

    #[test]
    fn the_node_that_waits_longest_is_emptied_first() {
        let mut zones = Zones::default();
        let all = nodes("a", 9, 4);
        let mut ask = |name: &str, second: u64| zones.ask(&zone("a"), name, &all, Duration::from_secs(second));
        let later = |seconds| Permission::Later(Duration::from_secs(seconds));
        assert_eq!(ask("1", 0), Permission::Now);
        assert_eq!((ask("2", 1), ask("3", 2)), (later(9), later(8)));
        assert_eq!(ask("3", 10), later(10), "it is the other one's turn");
        assert_eq!(ask("2", 10), Permission::Now);
        assert_eq!(ask("4", 20), later(10));
        assert_eq!(ask("4", 30), Permission::Now, "the third one did not come");
        zones.forget("3");
        assert_eq!(zones.ask(&zone("a"), "4", &all, Duration::from_secs(40)), Permission::Now);
    }

    #[test]
    fn after_trouble_the_first_node_waits_for_a_whole_pause() {
        let mut zones = Zones::default();
        let second = Duration::from_secs(1);
        let (trouble, well) = (nodes("a", 3, 4), nodes("a", 5, 2));
        assert_eq!(zones.ask(&zone("a"), "1", &trouble, second), Permission::Never);
        assert_eq!(zones.ask(&zone("a"), "1", &well, 30 * second), Permission::Later(PAUSE));
        assert_eq!(zones.ask(&zone("a"), "1", &well, 40 * second), Permission::Now);
    }

    #[test]
    fn excluded_nodes_tell_nothing_of_their_zone() {
        let mut all = nodes("a", 3, 4);
        let mut zones = Zones::default();
        assert_eq!(zones.ask(&zone("a"), "1", &all, Duration::ZERO), Permission::Never);
        for node in &mut all[5..] {
            node.metadata.labels.get_or_insert_default().insert(EXCLUDED.to_owned(), String::new());
        }
        assert_eq!(Zones::default().ask(&zone("a"), "1", &all, Duration::ZERO), Permission::Now);
        assert!(!all_are_silent(&all) && all_are_silent(&all[3..]) && !all_are_silent(&all[5..]));
    }

    #[track_caller]
    fn pause(ready: usize, silent: usize, expected: Option<Duration>) {
        assert_eq!(Health { ready, silent }.pause(), expected, "{ready} ready, {silent} silent");
    }

    #[test]
    fn a_zone_in_trouble_is_emptied_slowly_or_not_at_all() {
        pause(1, 2, Some(PAUSE)); // two may go, however few the others are
        pause(4, 4, Some(PAUSE));
        pause(3, 4, None);
        pause(25, 31, Some(LONG_PAUSE));
        pause(0, 60, Some(PAUSE)); // a whole zone is down, others are there to take its pods
    }

    #[test]
    fn nobody_is_driven_away_when_no_node_of_any_zone_is_well() {
        let mut zones = Zones::default();
        let mut all: Vec<Node> = [nodes("a", 0, 1), nodes("b", 0, 4)].concat();
        assert_eq!(zones.ask(&zone("a"), "1", &all, Duration::ZERO), Permission::Never);
        all.extend(nodes("c", 1, 0));
        assert_eq!(Zones::default().ask(&zone("a"), "1", &all, Duration::ZERO), Permission::Now);
        assert_eq!(Zones::default().ask(&zone("b"), "2", &all, Duration::ZERO), Permission::Now);
    }

    #[test]
    fn a_zones_name_is_its_region_and_zone_by_new_labels_or_by_old_ones() {
        let mut node = Node::default();
        assert_eq!(Zone::of(&node), Zone::default());
        node.metadata.labels = Some([(REGION[1].to_owned(), "north".to_owned()), (ZONE[0].to_owned(), "a".to_owned()), (ZONE[1].to_owned(), "old".to_owned())].into());
        assert_eq!(Zone::of(&node), Zone("north".to_owned(), "a".to_owned()));
    }
}
