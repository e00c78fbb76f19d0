//! Which zone each endpoint of a Service is meant for, where the Service asks for that with `service.kubernetes.io/topology-mode: Auto`:
//! endpoints serve their own zone first, and zones with more endpoints than their share of the cluster's CPUs lend some to the others.
//!
//! Source of the rules and of what is said in events: Kubernetes 1.36, `k8s.io/endpointslice/topologycache`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};
use meta::quantity::Quantity;

use super::pack::Changes;

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
const MODE: &str = "service.kubernetes.io/topology-mode";
/// The older name of [`MODE`]; it wins where both are there.
const AWARE_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// By how much the load of an endpoint may be above the average.
const OVERLOAD: f64 = 0.2;

pub(super) const ENABLED: &str = "Topology Aware Hints has been enabled";
pub(super) const DISABLED: &str = "Topology Aware Hints has been disabled";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";
const NO_HINTS: &str = "No hints allocated for zones";
const NODES_UNKNOWN: &str = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const TOO_FEW: &str = "Insufficient number of endpoints";
const TOO_UNEVEN: &str = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";

/// How many endpoints each zone is meant to be served by.
pub(super) type PerZone = BTreeMap<String, usize>;

/// Whether a Service asks for hints by the CPUs of the zones.
pub(super) fn is_asked_for(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| annotations.get(AWARE_HINTS).or_else(|| annotations.get(MODE)));
    value.is_some_and(|value| value == "Auto" || value == "auto")
}

/// What of a node counts here: nothing where it is not ready or runs the control plane.
pub(super) fn counted(node: &Node) -> Option<(Option<&str>, i64)> {
    let labels = node.metadata.labels.as_ref();
    let has = |name: &str| labels.is_some_and(|labels| labels.contains_key(name));
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !is_ready || has("node-role.kubernetes.io/control-plane") || has("node-role.kubernetes.io/master") {
        return None;
    }
    let zone = labels.and_then(|labels| labels.get(ZONE)).map(String::as_str).filter(|zone| !zone.is_empty());
    let cpu = node.status.as_ref().and_then(|status| status.allocatable.as_ref()?.get("cpu"));
    Some((zone, cpu.and_then(|cpu| Quantity::parse(&cpu.0).ok()).map_or(0, |cpu| cpu.milli_value())))
}

/// Each zone's share of all CPUs. `None` where that cannot be told, or there are fewer than two zones.
pub(super) fn shares(nodes: &[Arc<Node>]) -> Option<BTreeMap<String, f64>> {
    let mut zones: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, cpu) in nodes.iter().filter_map(|node| counted(node)) {
        let zone = zone.filter(|_| cpu > 0)?;
        let sum = zones.entry(zone.to_owned()).or_default();
        *sum = sum.saturating_add(cpu);
    }
    let all: f64 = zones.values().map(|cpu| *cpu as f64).sum();
    (zones.len() >= 2).then(|| zones.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / all)).collect())
}

/// How many endpoints a zone should be served by.
#[derive(Debug, PartialEq)]
struct Allocation {
    most: usize,
    desired: f64,
}

/// What each zone should be served by, or why that cannot be done without overload.
fn allocations(shares: Option<&BTreeMap<String, f64>>, endpoints: usize) -> Result<BTreeMap<String, Allocation>, String> {
    let shares = shares.ok_or(NODES_UNKNOWN)?;
    let counts = format!("({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(format!("{TOO_FEW} {counts}"));
    }
    let least = |share: f64| (share * endpoints as f64 / (1.0 + OVERLOAD)).ceil() as usize;
    let all_least: usize = shares.values().map(|share| least(*share)).sum();
    let spare = endpoints.checked_sub(all_least).ok_or_else(|| format!("{TOO_UNEVEN} {counts}"))?;
    let allocation = |(zone, share): (&String, &f64)| {
        let least = least(*share);
        (zone.clone(), Allocation { most: least + spare, desired: (share * endpoints as f64).max(least as f64) })
    };
    Ok(shares.iter().map(allocation).collect())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
}

fn for_zone(zone: &str) -> Option<EndpointHints> {
    Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone.to_owned() }]), for_nodes: None })
}

fn zones_of(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten()).map(|zone| zone.name.as_str())
}

/// Lets the slices of one family keep the hints they have, so that only those are written whose endpoints changed or whose hints no
/// longer do: gives each wanted endpoint the hints of the one that is there.
pub(super) fn carry_over(existing: &[Arc<EndpointSlice>], wanted: &mut [super::pack::Group]) {
    let mut hints: BTreeMap<(&str, String), &Option<EndpointHints>> = BTreeMap::new();
    for slice in existing {
        for endpoint in slice.endpoints.iter().flatten() {
            hints.insert((&slice.address_type, super::pack::identity(endpoint)), &endpoint.hints);
        }
    }
    for group in wanted {
        for endpoint in &mut group.endpoints {
            let found = hints.get(&(group.address_type.as_str(), super::pack::identity(endpoint)));
            endpoint.hints = found.filter(|_| is_ready(endpoint)).and_then(|hints| (*hints).clone());
        }
    }
}

/// Writes hints into the slices of one family that change anyway, and into others as far as theirs no longer do. Returns what each zone
/// is served by, or, where there can be no hints, why; then all are taken away.
pub(super) fn distribute(changes: &mut Changes, existing: &[Arc<EndpointSlice>], family: &str, shares: Option<&BTreeMap<String, f64>>) -> Result<PerZone, String> {
    let touched: BTreeSet<_> = changes.update.iter().map(|slice| slice.metadata.name.clone()).chain(changes.delete.iter().map(|slice| slice.metadata.name.clone())).collect();
    let unchanged: Vec<_> = existing.iter().filter(|slice| slice.address_type == family && !touched.contains(&slice.metadata.name)).cloned().collect();
    let result = try_to_distribute(changes, &unchanged, family, shares);
    if result.is_err() {
        for slice in of_family(changes, family) {
            slice.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.hints = None);
        }
        let updated: BTreeSet<_> = changes.update.iter().map(|slice| slice.metadata.name.clone()).collect();
        for slice in unchanged.iter().filter(|slice| !updated.contains(&slice.metadata.name)) {
            if slice.endpoints.iter().flatten().any(|endpoint| endpoint.hints.is_some()) {
                let mut bare = (**slice).clone();
                bare.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.hints = None);
                changes.update.push(bare);
            }
        }
    }
    result
}

fn of_family<'a>(changes: &'a mut Changes, family: &'a str) -> impl Iterator<Item = &'a mut EndpointSlice> {
    changes.create.iter_mut().chain(changes.update.iter_mut()).filter(move |slice| slice.address_type == family)
}

fn try_to_distribute(changes: &mut Changes, unchanged: &[Arc<EndpointSlice>], family: &str, shares: Option<&BTreeMap<String, f64>>) -> Result<PerZone, String> {
    let ready = |endpoints: &Option<Vec<Endpoint>>| endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)).count();
    let count = of_family(changes, family).map(|slice| ready(&slice.endpoints)).sum::<usize>() + unchanged.iter().map(|slice| ready(&slice.endpoints)).sum::<usize>();
    let allocations = allocations(shares, count)?;
    let mut per_zone = PerZone::new();
    for slice in unchanged {
        match still_fits(slice, &per_zone, &allocations) {
            Some(more) => more.into_iter().for_each(|(zone, count)| *per_zone.entry(zone).or_default() += count),
            None => changes.update.push((**slice).clone()),
        }
    }
    // Each serves its own zone to begin with.
    for slice in of_family(changes, family) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            endpoint.hints = None;
            if is_ready(endpoint) {
                let zone = endpoint.zone.as_deref().filter(|zone| !zone.is_empty()).ok_or(NO_ZONE)?;
                *per_zone.entry(zone.to_owned()).or_default() += 1;
                endpoint.hints = for_zone(zone);
            }
        }
    }
    let (mut giving, mut receiving) = surplus_and_need(&allocations, &per_zone);
    for slice in of_family(changes, family) {
        for endpoint in slice.endpoints.iter_mut().flatten().filter(|endpoint| endpoint.hints.is_some()) {
            let Some(from) = endpoint.zone.clone().filter(|zone| giving.get(zone).is_some_and(|count| *count > 0)) else { continue };
            let Some((to, need)) = receiving.iter_mut().find(|(_, need)| **need > 0) else { break };
            endpoint.hints = for_zone(to);
            *need -= 1;
            *per_zone.entry(to.clone()).or_default() += 1;
            for count in [giving.get_mut(&from), per_zone.get_mut(&from)].into_iter().flatten() {
                *count -= 1;
            }
        }
    }
    if per_zone.is_empty() { Err(NO_HINTS.to_owned()) } else { Ok(per_zone) }
}

/// What an unchanged slice serves each zone with; `None` where its hints do not do any more: one is missing, is for a zone that needs
/// none, or would leave too little for the other zones.
fn still_fits(slice: &EndpointSlice, so_far: &PerZone, allocations: &BTreeMap<String, Allocation>) -> Option<PerZone> {
    let mut here = PerZone::new();
    for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
        zones_of(endpoint).next()?;
        for zone in zones_of(endpoint) {
            *here.entry(zone.to_owned()).or_default() += 1;
        }
    }
    let fits = |(zone, count): (&String, &usize)| allocations.get(zone).is_some_and(|allocation| count + so_far.get(zone).copied().unwrap_or(0) <= allocation.most);
    here.iter().all(fits).then_some(here)
}

/// How many endpoints zones have to spare, and how many others lack.
fn surplus_and_need(allocations: &BTreeMap<String, Allocation>, per_zone: &PerZone) -> (PerZone, PerZone) {
    let mut surplus: BTreeMap<&String, f64> = BTreeMap::new();
    let mut need: BTreeMap<&String, f64> = BTreeMap::new();
    for (zone, allocation) in allocations {
        let difference = per_zone.get(zone).copied().unwrap_or(0) as f64 - allocation.desired;
        if difference > 0.0 {
            surplus.insert(zone, difference);
        } else if difference < 0.0 {
            need.insert(zone, -difference);
        }
    }
    fn most<'a>(zones: &BTreeMap<&'a String, f64>) -> Option<(&'a String, f64)> {
        zones.iter().map(|(zone, count)| (*zone, *count)).filter(|(_, count)| *count > 0.0).max_by(|one, other| one.1.total_cmp(&other.1))
    }
    let (mut giving, mut receiving) = (PerZone::new(), PerZone::new());
    while let (Some((from, spare)), Some((to, lack))) = (most(&surplus), most(&need)) {
        if spare < 1.0 && lack < 1.0 || spare < 0.5 || lack < 0.5 {
            break;
        }
        *giving.entry(from.clone()).or_default() += 1;
        *receiving.entry(to.clone()).or_default() += 1;
        *surplus.entry(from).or_default() -= 1.0;
        *need.entry(to).or_default() -= 1.0;
    }
    (giving, receiving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::EndpointConditions;

    fn node(name: &str, zone: Option<&str>, cpu: &str, ready: bool, labels: &[&str]) -> Arc<Node> {
        let mut all: BTreeMap<_, _> = labels.iter().map(|label| ((*label).to_owned(), String::new())).collect();
        all.extend(zone.map(|zone| (ZONE.to_owned(), zone.to_owned())));
        let node = serde_json::json!({
            "metadata": { "name": name, "labels": all },
            "status": { "allocatable": { "cpu": cpu }, "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn shares_come_from_ready_workers_whose_zone_and_cpus_are_known() {
        let check = |nodes: &[Arc<Node>], expected: Option<&[(&str, f64)]>| {
            let expected = expected.map(|shares| shares.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect());
            assert_eq!(shares(nodes), expected);
        };
        let two = [node("a", Some("a"), "3", true, &[]), node("b", Some("b"), "1000m", true, &[])];
        check(&two, Some(&[("a", 0.75), ("b", 0.25)]));
        check(&two[..1], None);
        let with = |extra| [two[0].clone(), two[1].clone(), extra];
        check(&with(node("c", Some("c"), "4", false, &[])), Some(&[("a", 0.75), ("b", 0.25)]));
        check(&with(node("c", None, "4", true, &["node-role.kubernetes.io/control-plane"])), Some(&[("a", 0.75), ("b", 0.25)]));
        check(&with(node("c", None, "4", true, &[])), None);
        check(&with(node("c", Some("c"), "0", true, &[])), None);
    }

    #[test]
    fn allocations_are_refused_with_upstreams_words() {
        let shares = |list: &[(&str, f64)]| list.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect::<BTreeMap<_, _>>();
        let refusal = |shares: Option<BTreeMap<String, f64>>, endpoints| allocations(shares.as_ref(), endpoints).err();
        assert_eq!(refusal(None, 5).as_deref(), Some(NODES_UNKNOWN));
        let thirds = shares(&[("a", 1.0 / 3.0), ("b", 1.0 / 3.0), ("c", 1.0 / 3.0)]);
        assert_eq!(refusal(Some(thirds.clone()), 2).as_deref(), Some("Insufficient number of endpoints (2 endpoints, 3 zones)"));
        let uneven = refusal(Some(thirds.clone()), 4);
        assert_eq!(uneven.as_deref(), Some("Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)"));
        let six = allocations(Some(&thirds), 6).unwrap();
        assert_eq!(six["a"], Allocation { most: 2, desired: 2.0 });
        let halves = allocations(Some(&shares(&[("a", 0.6), ("b", 0.4)])), 10).unwrap();
        assert_eq!(halves["a"], Allocation { most: 6, desired: 6.0 });
        assert_eq!(halves["b"], Allocation { most: 5, desired: 4.0 });
    }

    /// A slice with ready endpoints in these zones, with the hints given.
    fn slice(name: &str, endpoints: &[(&str, Option<&str>)]) -> EndpointSlice {
        let endpoint = |(number, (zone, hint)): (usize, &(&str, Option<&str>))| Endpoint {
            addresses: vec![format!("10.0.0.{number}")],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            zone: Some((*zone).to_owned()).filter(|zone| !zone.is_empty()),
            hints: hint.and_then(for_zone),
            ..Endpoint::default()
        };
        let mut slice = EndpointSlice { address_type: "IPv4".to_owned(), endpoints: Some(endpoints.iter().enumerate().map(endpoint).collect()), ..EndpointSlice::default() };
        slice.metadata.name = Some(name.to_owned());
        slice
    }

    fn hints(slice: &EndpointSlice) -> Vec<Option<&str>> {
        slice.endpoints.iter().flatten().map(|endpoint| zones_of(endpoint).next()).collect()
    }

    #[test]
    fn zones_with_too_many_endpoints_lend_some_to_the_others() {
        let even = BTreeMap::from([("a".to_owned(), 0.5), ("b".to_owned(), 0.5)]);
        let own = [("a", None), ("a", None), ("a", None), ("b", None)];
        let mut changes = Changes { create: vec![slice("new", &own)], ..Changes::default() };
        let per_zone = distribute(&mut changes, &[], "IPv4", Some(&even)).unwrap();
        assert_eq!(per_zone, PerZone::from([("a".to_owned(), 2), ("b".to_owned(), 2)]));
        assert_eq!(hints(&changes.create[0]), [Some("b"), Some("a"), Some("a"), Some("b")]);

        // What fits stays, whatever else is there.
        let settled = [Arc::new(changes.create[0].clone())];
        let mut nothing = Changes::default();
        assert_eq!(distribute(&mut nothing, &settled, "IPv4", Some(&even)), Ok(per_zone));
        assert_eq!(nothing, Changes::default());

        // A zone that needs more than it has has its slices written anew.
        let shifted = BTreeMap::from([("a".to_owned(), 0.25), ("b".to_owned(), 0.75)]);
        let mut again = Changes::default();
        distribute(&mut again, &settled, "IPv4", Some(&shifted)).unwrap();
        let mut counts = hints(&again.update[0]);
        counts.sort_unstable();
        assert_eq!(counts, [Some("a"), Some("b"), Some("b"), Some("b")]);
    }

    #[test]
    fn hints_are_taken_away_where_there_can_be_none() {
        let even = BTreeMap::from([("a".to_owned(), 0.5), ("b".to_owned(), 0.5)]);
        let old = [Arc::new(slice("old", &[("a", Some("a")), ("b", Some("b"))])), Arc::new(slice("bare", &[("a", None)]))];
        let mut changes = Changes::default();
        assert_eq!(distribute(&mut changes, &old, "IPv4", None), Err(NODES_UNKNOWN.to_owned()));
        assert_eq!(changes.update.len(), 1);
        assert_eq!(hints(&changes.update[0]), [None, None]);

        let mut changes = Changes { create: vec![slice("new", &[("", None), ("a", Some("a"))])], ..Changes::default() };
        assert_eq!(distribute(&mut changes, &[], "IPv4", Some(&even)), Err(NO_ZONE.to_owned()));
        assert_eq!(hints(&changes.create[0]), [None, None]);
    }
}
