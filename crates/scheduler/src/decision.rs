//! One pod, all nodes, one answer. Does no input or output: tests are tables of a cluster, a pod, and the expected node or reasons.

use std::{collections::HashMap, sync::Arc, time::Instant};

use rand::Rng;

use crate::{
    cluster::Cluster,
    extender::EXTENDER,
    framework::{Check, ClusterEvent, Filter, Prepared, Reason, Score, Verdict},
    metrics::{Point, ProfileMetrics, Status},
    node_info::NodeInfo,
    pod_info::PodInfo,
};

/// Clusters up to this size are looked at whole. Source: upstream's `minFeasibleNodesToFind`.
const SMALL: usize = 100;

/// The plug-ins in force for pods of one scheduler name.
pub struct Profile {
    /// Pods with this `spec.schedulerName` are decided by it.
    pub name: String,
    /// Reasons not to, in the order they are asked.
    pub filters: Vec<Box<dyn Filter>>,
    /// Preferences, with what they count.
    pub scores: Vec<(i64, Box<dyn Score>)>,
    /// Whether pods may displace less important ones.
    pub preempts: bool,
    /// How many nodes that fit are enough, in hundredths of all; none to go by the size of the cluster.
    pub percentage_of_nodes: Option<usize>,
    /// What its attempts are counted by.
    pub metrics: ProfileMetrics,
}

impl Profile {
    /// How many fitting nodes are looked for. Source: upstream's `numFeasibleNodesToFind`.
    fn enough(&self, nodes: usize) -> usize {
        if nodes < SMALL {
            return nodes;
        }
        let percentage = self.percentage_of_nodes.unwrap_or_else(|| 50_usize.saturating_sub(nodes / 125).max(5));
        if percentage >= 100 { nodes } else { (nodes * percentage / 100).max(SMALL) }
    }
}

/// Why a pod fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes were refused, by reason.
    pub reasons: HashMap<Reason, usize>,
    /// Where no node was looked at: why.
    pub nowhere: Option<String>,
    /// What displacing others came to, as a sentence.
    pub preemption: Option<String>,
    /// Indexes of the filters that refused a node.
    pub refused_by: Vec<usize>,
    /// Slots of nodes that may fit if pods leave them.
    pub not_now: Vec<usize>,
    /// Nobody could tell whether it fits: it is tried again whatever happens.
    pub failed: bool,
}

impl Refusal {
    /// The refusal of so many nodes, without reasons yet.
    pub fn of(nodes: usize) -> Self {
        Self { nodes, ..Self::default() }
    }
    /// In upstream's words: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if let Some(why) = self.nowhere.as_ref().filter(|_| self.failed) {
            return why.clone();
        }
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        if let Some(nowhere) = &self.nowhere {
            text.push_str(&format!(" {nowhere}."));
        }
        if !self.reasons.is_empty() {
            text.push_str(&format!(" {}.", counted_reasons(&self.reasons)));
        }
        if let Some(preemption) = &self.preemption {
            text.push_str(&format!(" preemption: {preemption}"));
        }
        text
    }
}

/// A message as it fits into an event, which says at the end that there was more.
/// Source: Kubernetes 1.36, `truncateMessage` of the scheduler, and `NoteLengthLimit`.
pub fn note(message: &str) -> String {
    const LIMIT: usize = 1024;
    const MORE: &str = " ...";
    if message.len() <= LIMIT {
        return message.to_owned();
    }
    let end = (0..=LIMIT - MORE.len()).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{MORE}", message.get(..end).unwrap_or_default())
}

/// `1 Insufficient cpu, 2 node(s) were unschedulable`, sorted as text.
pub fn counted_reasons(reasons: &HashMap<Reason, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

/// The filters that have something to say about a pod, with their places in the profile.
#[derive(Default)]
pub struct Checks {
    each: Vec<(usize, Check)>,
    /// Where one of them says which nodes alone are to be looked at: its place, and the slots of those that exist.
    only: Option<(usize, Vec<usize>)>,
}

/// Asks each filter about the pod alone.
///
/// # Errors
/// Where one says that it fits nowhere: its place, and why.
pub fn prepare(profile: &Profile, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Result<Checks, (usize, String)> {
    cluster.begin_decision();
    let mut checks = Checks { each: Vec::with_capacity(profile.filters.len()), only: None };
    for (index, filter) in profile.filters.iter().enumerate() {
        match filter.prepare(pod, cluster) {
            Prepared::Indifferent => {}
            Prepared::Nowhere(reason) => return Err((index, reason)),
            Prepared::Each(check) => checks.each.push((index, check)),
            Prepared::Among(names, check) => {
                checks.each.push((index, check));
                let slots = names.iter().filter_map(|name| cluster.node(name).filter(|node| node.exists)).map(|node| node.slot);
                checks.only = Some((index, slots.collect()));
            }
        }
    }
    Ok(checks)
}

/// What the filters say of a node as it is, with the place of the one that refuses.
pub fn judge(checks: &Checks, node: &NodeInfo, cluster: &Cluster) -> (usize, Verdict) {
    for (index, check) in &checks.each {
        let verdict = check(node, cluster);
        if verdict != Verdict::Fits {
            return (*index, verdict);
        }
    }
    (0, Verdict::Fits)
}

/// As [`judge`], where pods for which room is being made on that node and that are at least as important count as being there; it
/// must fit without them too, since they may end up elsewhere.
pub fn judge_with_nominated(checks: &Checks, pod: &PodInfo, slot: usize, cluster: &mut Cluster) -> (usize, Verdict) {
    let others = cluster.nominated_on(slot).filter(|other| other.uid != pod.uid && other.priority >= pod.priority);
    let guests: Vec<Arc<PodInfo>> = others.cloned().collect();
    let guests: Vec<Arc<PodInfo>> = guests.into_iter().filter(|guest| cluster.place_of(&guest.uid).is_none()).collect();
    for guest in &guests {
        cluster.place_at(guest.clone(), slot);
    }
    let mut answer = look(checks, slot, cluster);
    for guest in &guests {
        cluster.remove(&guest.uid);
    }
    if answer.1 == Verdict::Fits && !guests.is_empty() {
        answer = look(checks, slot, cluster);
    }
    answer
}

fn look(checks: &Checks, slot: usize, cluster: &Cluster) -> (usize, Verdict) {
    cluster.at(slot).map_or((0, Verdict::never("node(s) went away")), |node| judge(checks, node, cluster))
}

/// Picks a node for a pod, beginning at the node `start` in the cluster's order where not all have to be looked at; says how many
/// were. Gives the node's slot.
///
/// # Errors
/// The reasons, where none fits.
pub fn decide(profile: &Profile, pod: &Arc<PodInfo>, cluster: &mut Cluster, start: &mut usize) -> Result<usize, Refusal> {
    let (slots, _) = find(profile, pod, cluster, start, true)?;
    Ok(choose(profile, pod, &slots, cluster, &HashMap::new()))
}

/// Nodes that fit, at least one, by slot, with why others do not; as [`decide`]. A node where room was made for the pod is enough, unless
/// `with_promised` says not to look at it first.
///
/// # Errors
/// The reasons, where none fits.
pub fn find(profile: &Profile, pod: &Arc<PodInfo>, cluster: &mut Cluster, start: &mut usize, with_promised: bool) -> Result<(Vec<usize>, Refusal), Refusal> {
    let all = cluster.len();
    let mut refusal = Refusal::of(all);
    let began = Instant::now();
    let prepared = prepare(profile, pod, cluster);
    profile.metrics.point(Point::PreFilter, if prepared.is_ok() { Status::Success } else { Status::Unresolvable }, began);
    let checks = match prepared {
        Ok(checks) => checks,
        Err((index, reason)) => {
            refusal.nowhere = Some(reason);
            refusal.refused_by.push(index);
            return Err(refusal);
        }
    };
    let has_nominations = cluster.has_nominations();
    // The node where room was made comes first, and is enough.
    if let Some(slot) = cluster.nomination_of(&pod.uid).filter(|_| with_promised)
        && judge_with_nominated(&checks, pod, slot, cluster).1 == Verdict::Fits
    {
        return Ok((vec![slot], refusal));
    }
    let began = Instant::now();
    let enough = profile.enough(all);
    let mut fitting: Vec<usize> = Vec::with_capacity(enough);
    let mut seen = 0;
    let only = checks.only.as_ref().map(|(_, slots)| slots);
    while seen < only.map_or(all, Vec::len) && fitting.len() < enough {
        let slot = match only {
            Some(slots) => slots.get(seen),
            None => cluster.order().get((*start + seen) % all),
        };
        let Some(slot) = slot.copied() else { break };
        seen += 1;
        let (index, verdict) = if has_nominations { judge_with_nominated(&checks, pod, slot, cluster) } else { look(&checks, slot, cluster) };
        let reasons = match verdict {
            Verdict::Fits => {
                fitting.push(slot);
                continue;
            }
            Verdict::NotNow(reasons) => {
                refusal.not_now.push(slot);
                reasons
            }
            Verdict::Never(reasons) => reasons,
        };
        for reason in reasons {
            *refusal.reasons.entry(reason).or_default() += 1;
        }
        if !refusal.refused_by.contains(&index) {
            refusal.refused_by.push(index);
        }
    }
    if only.is_none() {
        *start = if all == 0 { 0 } else { (*start + seen) % all };
    }
    if let Some((index, slots)) = checks.only.as_ref().filter(|(_, slots)| fitting.is_empty() && slots.len() < all) {
        let name = profile.filters.get(*index).map_or("", |filter| filter.name());
        refusal.reasons.insert(format!("node(s) didn't satisfy plugin(s) [{name}]").into(), all - slots.len());
        if !refusal.refused_by.contains(index) {
            refusal.refused_by.push(*index);
        }
    }
    let status = match fitting.is_empty() {
        false => Status::Success,
        true if refusal.not_now.is_empty() => Status::Unresolvable,
        true => Status::Unschedulable,
    };
    profile.metrics.point(Point::Filter, status, began);
    if fitting.is_empty() { Err(refusal) } else { Ok((fitting, refusal)) }
}

/// The best of nodes that fit; `extra` is added to the scores of some of them.
pub fn choose(profile: &Profile, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster, extra: &HashMap<usize, i64>) -> usize {
    if let [only] = slots {
        return *only;
    }
    let began = Instant::now();
    let mut totals: Vec<i64> = slots.iter().map(|slot| extra.get(slot).copied().unwrap_or_default()).collect();
    for (weight, plugin) in &profile.scores {
        let Some((scale, raw)) = plugin.score(pod, slots, cluster) else { continue };
        for (total, score) in totals.iter_mut().zip(scale.apply(raw)) {
            *total = total.saturating_add(score * weight);
        }
    }
    profile.metrics.point(Point::Score, Status::Success, began);
    // Among equals one is drawn, so that a burst of equal pods does not pile up on the first name.
    let highest = totals.iter().copied().max().unwrap_or_default();
    let mut equals = slots.iter().zip(&totals).filter(|(_, total)| **total == highest).map(|(slot, _)| *slot);
    let count = equals.clone().count();
    equals.nth(rand::rng().random_range(0..count.max(1))).unwrap_or_default()
}

/// Something that happened.
#[derive(Clone, Copy)]
pub struct Happened<'a> {
    /// What.
    pub event: ClusterEvent,
    /// The slot of the node where it was one.
    pub slot: Option<usize>,
    /// Where it is about a pod on a node: as it is, and as it was where that may differ.
    pub pods: &'a [Arc<PodInfo>],
}

impl Happened<'_> {
    /// What is about no pod.
    pub fn new(event: ClusterEvent, slot: Option<usize>) -> Self {
        Self { event, slot, pods: &[] }
    }
}

/// Whether what happened may let a refused pod fit: one of the filters that refused it says so. For what happened on one node, the
/// filter is asked about that node, or where it looks beyond, about the pod that it happened to.
pub fn may_help(profile: &Profile, refused_by: &[usize], happened: Happened<'_>, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> bool {
    let Happened { event, slot, pods } = happened;
    // Where there were no nodes at all, no filter could refuse.
    if refused_by.is_empty() {
        return event == ClusterEvent::NodeAdded;
    }
    // What an extender thinks of it nobody here knows.
    if refused_by.contains(&EXTENDER) {
        return true;
    }
    refused_by.iter().filter_map(|index| profile.filters.get(*index)).any(|filter| {
        if event != ClusterEvent::NodeAdded && !filter.retry_on().contains(&event) {
            return false;
        }
        let Some(slot) = slot.filter(|_| !filter.looks_beyond_the_node()) else {
            return pods.is_empty() || pods.iter().any(|other| filter.minds(pod, other, cluster));
        };
        match filter.prepare(pod, cluster) {
            Prepared::Indifferent => true,
            Prepared::Nowhere(_) => false,
            Prepared::Each(check) | Prepared::Among(_, check) => cluster.at(slot).is_some_and(|node| check(node, cluster) == Verdict::Fits),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_and_says_so() {
        assert_eq!(note("short"), "short");
        let long = note(&"ä".repeat(600));
        assert!(long.len() <= 1024 && long.ends_with("ä ..."), "{long}");
        assert_eq!(note(&"a".repeat(1024)).len(), 1024);
    }
}
