//! Fits endpoints into slices of limited size so that as few slices change as possible, since every change goes to every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Most endpoints in a slice. Source: Kubernetes 1.36, `--max-endpoints-per-slice`.
pub(super) const LARGEST_SLICE: usize = 100;

/// Endpoints that may share a slice.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// Absent for an empty slice that only says that there is nothing.
    pub ports: Option<Vec<EndpointPort>>,
    pub endpoints: Vec<Endpoint>,
}

/// What all slices of one owner have in common.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    pub labels: BTreeMap<String, String>,
    /// Annotations that the slices carry, where the owner hands any on.
    pub annotations: Option<BTreeMap<String, String>>,
    pub owner: OwnerReference,
}

/// What has to be written.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Compares the slices there are with the endpoints wanted, of which a slice holds at most `largest`.
pub(super) fn pack(existing: &[Arc<EndpointSlice>], wanted: Vec<Group>, frame: &Frame, largest: usize) -> Changes {
    let mut changes = Changes::default();
    let mut unused: Vec<Arc<EndpointSlice>> = Vec::new();
    let mut by_group: Vec<Vec<Arc<EndpointSlice>>> = wanted.iter().map(|_| Vec::new()).collect();
    for slice in existing {
        let group = wanted.iter().position(|group| group.address_type == slice.address_type && group.ports == slice.ports);
        match group.and_then(|group| by_group.get_mut(group)) {
            Some(slices) => slices.push(slice.clone()),
            None => unused.push(slice.clone()),
        }
    }
    for (group, slices) in wanted.into_iter().zip(by_group) {
        pack_group(group, slices, frame, largest, &mut changes, &mut unused);
    }
    // A slice of no group becomes one that would have to be created: a change is cheaper than a removal and a creation.
    for new in std::mem::take(&mut changes.create) {
        match unused.iter().position(|old| old.address_type == new.address_type) {
            Some(position) => {
                let old = unused.swap_remove(position);
                changes.update.push(EndpointSlice { metadata: metadata(frame, Some(&old)), ..new });
            }
            None => changes.create.push(new),
        }
    }
    changes.delete.append(&mut unused);
    changes
}

/// Packs the endpoints of one group. Slices that end up empty go to `unused`.
fn pack_group(group: Group, slices: Vec<Arc<EndpointSlice>>, frame: &Frame, largest: usize, changes: &mut Changes, unused: &mut Vec<Arc<EndpointSlice>>) {
    let is_placeholder = group.endpoints.is_empty();
    let mut wanted: BTreeMap<String, Endpoint> = group.endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut packed: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let kept = slice.endpoints.iter().flatten().filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect();
        packed.push((slice, kept));
    }
    // New endpoints go first where something changes anyway, then where there is room, then into new slices.
    packed.sort_by_key(|(slice, kept)| (slice.endpoints.as_deref().unwrap_or_default() == kept.as_slice(), slice.metadata.name.clone()));
    let mut waiting = wanted.into_values();
    for (_, kept) in &mut packed {
        let room = largest.saturating_sub(kept.len());
        kept.extend(waiting.by_ref().take(room));
    }
    let mut has_slice = false;
    for (slice, endpoints) in packed {
        if endpoints.is_empty() && (!is_placeholder || has_slice) {
            unused.push(slice);
            continue;
        }
        has_slice = true;
        let new = EndpointSlice {
            metadata: metadata(frame, Some(&slice)),
            address_type: group.address_type.clone(),
            endpoints: Some(endpoints).filter(|endpoints| !endpoints.is_empty()),
            ports: group.ports.clone(),
        };
        if !same(&new, &slice) {
            changes.update.push(new);
        }
    }
    let mut rest: Vec<Endpoint> = waiting.collect();
    while !rest.is_empty() || is_placeholder && !has_slice {
        has_slice = true;
        let later = rest.split_off(rest.len().min(largest));
        changes.create.push(EndpointSlice {
            metadata: metadata(frame, None),
            address_type: group.address_type.clone(),
            endpoints: Some(rest).filter(|endpoints| !endpoints.is_empty()),
            ports: group.ports.clone(),
        });
        rest = later;
    }
}

/// What makes an endpoint the same one, however its conditions change.
pub(super) fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|reference| reference.uid.as_deref()).unwrap_or_default();
    format!("{uid} {}", endpoint.addresses.join(","))
}

fn same(new: &EndpointSlice, old: &EndpointSlice) -> bool {
    new.endpoints.as_deref().unwrap_or_default() == old.endpoints.as_deref().unwrap_or_default()
        && new.ports == old.ports
        && new.metadata.labels == old.metadata.labels
        && new.metadata.annotations.clone().unwrap_or_default() == old.metadata.annotations.clone().unwrap_or_default()
        && new.metadata.owner_references == old.metadata.owner_references
}

fn metadata(frame: &Frame, existing: Option<&EndpointSlice>) -> ObjectMeta {
    let base = match existing {
        Some(slice) => slice.metadata.clone(),
        None => ObjectMeta {
            generate_name: Some(format!("{}-", frame.service)),
            namespace: Some(frame.namespace.clone()),
            ..ObjectMeta::default()
        },
    };
    ObjectMeta {
        labels: Some(frame.labels.clone()),
        annotations: frame.annotations.clone().or(base.annotations.clone()),
        owner_references: Some(vec![frame.owner.clone()]),
        ..base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame { namespace: "x".to_owned(), service: "web".to_owned(), labels: BTreeMap::new(), annotations: None, owner: OwnerReference::default() }
    }

    fn group(addresses: std::ops::Range<usize>) -> Group {
        let endpoint = |number| Endpoint { addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)], ..Endpoint::default() };
        Group { address_type: "IPv4".to_owned(), ports: Some(Vec::new()), endpoints: addresses.map(endpoint).collect() }
    }

    fn created(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let named = slices.into_iter().enumerate().map(|(number, mut slice)| {
            slice.metadata.name = Some(format!("slice-{number}"));
            Arc::new(slice)
        });
        named.collect()
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }

    #[test]
    fn slices_are_filled_one_after_another_and_stay_as_they_are() {
        let first = pack(&[], vec![group(0..250)], &frame(), LARGEST_SLICE);
        assert_eq!(sizes(&first.create), [100, 100, 50]);
        let existing = created(first.create);
        assert_eq!(pack(&existing, vec![group(0..250)], &frame(), LARGEST_SLICE), Changes::default());
        let more = pack(&existing, vec![group(0..251)], &frame(), LARGEST_SLICE);
        assert_eq!((sizes(&more.update), more.create.len(), more.delete.len()), (vec![51], 0, 0));
        // One goes and one comes: one slice changes.
        let swapped = pack(&existing, vec![group(1..251)], &frame(), LARGEST_SLICE);
        assert_eq!((sizes(&swapped.update), swapped.create.len(), swapped.delete.len()), (vec![100], 0, 0));
    }

    #[test]
    fn a_service_without_endpoints_keeps_one_empty_slice() {
        let empty = Group { ports: None, ..group(0..0) };
        let first = pack(&[], vec![empty.clone()], &frame(), LARGEST_SLICE);
        assert_eq!(sizes(&first.create), [0]);
        let existing = created(first.create);
        assert_eq!(pack(&existing, vec![empty.clone()], &frame(), LARGEST_SLICE), Changes::default());
        let filled = pack(&existing, vec![group(0..3)], &frame(), LARGEST_SLICE);
        assert_eq!((sizes(&filled.update), filled.create.len(), filled.delete.len()), (vec![3], 0, 0), "the empty one is used");
        let emptied = pack(&created(filled.update), vec![empty], &frame(), LARGEST_SLICE);
        assert_eq!((sizes(&emptied.update), emptied.delete.len()), (vec![0], 0));
    }

    #[test]
    fn surplus_slices_are_removed() {
        let existing = created(pack(&[], vec![group(0..250)], &frame(), LARGEST_SLICE).create);
        let left = Group { endpoints: existing[0].endpoints.clone().unwrap(), ..group(0..0) };
        let fewer = pack(&existing, vec![left], &frame(), LARGEST_SLICE);
        assert_eq!((fewer.update.len(), fewer.delete.len()), (0, 2));
        assert_eq!(pack(&existing, Vec::new(), &frame(), LARGEST_SLICE).delete.len(), 3);
    }
}
