//! IPAddress and ServiceCIDR: which addresses services may have, and which have them.

use api::networking::v1::{IPAddress, ServiceCIDR};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, immutable},
    strategy::{Column, NameRule, Strategy},
};

/// Behaviour of addresses.
pub struct IpAddressStrategy;

impl Strategy for IpAddressStrategy {
    type Kind = IPAddress;

    fn validate(&self, address: &IPAddress) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let name = address.metadata.name.as_deref().unwrap_or_default();
        problems.extend(rules::invalid_each(&FieldPath::new("metadata").child("name"), name, rules::ip_problems(name)));
        let path = FieldPath::new("spec").child("parentRef");
        filled(&address.spec.parent_ref.resource, &path.child("resource"), &mut problems);
        filled(&address.spec.parent_ref.name, &path.child("name"), &mut problems);
        let reference = &address.spec.parent_ref;
        if let Some(group) = reference.group.as_deref().filter(|group| !group.is_empty()) {
            problems.extend(rules::invalid_each(&path.child("group"), group, rules::dns1123_subdomain_problems(group)));
        }
        for (field, text) in [("resource", reference.resource.as_str()), ("name", reference.name.as_str()), ("namespace", reference.namespace.as_deref().unwrap_or_default())] {
            problems.extend(rules::invalid_each(&path.child(field), text, rules::path_segment_problems(text)));
        }
        problems
    }
    fn validate_update(&self, address: &IPAddress, old: &IPAddress) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(&address.spec.parent_ref, &old.spec.parent_ref, &FieldPath::new("spec").child("parentRef"), &mut problems);
        problems
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Any
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["spec.parentRef.name"]
    }
    fn selectable_fields(&self, address: &IPAddress) -> Vec<(&'static str, String)> {
        vec![("spec.parentRef.name", address.spec.parent_ref.name.clone())]
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("ParentRef", "Whose address it is.")] }
    }
    fn row(&self, address: &IPAddress, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let parent = &address.spec.parent_ref;
        let group = parent.group.as_deref().filter(|group| !group.is_empty());
        let resource = group.map_or_else(|| parent.resource.clone(), |group| format!("{}.{group}", parent.resource));
        let namespace = parent.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let name = namespace.map_or_else(|| parent.name.clone(), |namespace| format!("{namespace}/{}", parent.name));
        vec![raw.name().into(), format!("{resource}/{name}").into()]
    }
}

/// Behaviour of ranges.
pub struct ServiceCidrStrategy;

impl Strategy for ServiceCidrStrategy {
    type Kind = ServiceCIDR;

    fn validate(&self, range: &ServiceCIDR) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec").child("cidrs");
        let all = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
        if all.is_empty() {
            problems.push(FieldError::required(&path, "at least one CIDR required"));
        }
        if all.len() > 2 {
            problems.push(FieldError::invalid(&path, all.to_vec(), "may only hold up to 2 values"));
        }
        for (index, one) in all.iter().enumerate() {
            problems.extend(rules::invalid_each(&path.index(index), one, rules::cidr_problems(one)));
        }
        problems
    }
    fn validate_update(&self, range: &ServiceCIDR, old: &ServiceCIDR) -> Vec<FieldError> {
        let mut problems = self.validate(range);
        let cidrs = |range: &ServiceCIDR| range.spec.as_ref().and_then(|spec| spec.cidrs.clone()).unwrap_or_default();
        let (new, old) = (cidrs(range), cidrs(old));
        // A second family may be added.
        if new.len() == old.len() {
            for (index, (new, old)) in new.iter().zip(&old).enumerate() {
                immutable(new, old, &FieldPath::new("spec").child("cidrs").index(index), &mut problems);
            }
        } else if !new.starts_with(&old) {
            immutable(&new, &old, &FieldPath::new("spec").child("cidrs"), &mut problems);
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("CIDRs", "Its ranges."), Column::AGE] }
    }
    fn row(&self, range: &ServiceCIDR, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let all = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
        vec![raw.name().into(), all.join(",").into(), cells::created(raw)]
    }
}
