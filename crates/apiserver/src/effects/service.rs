//! Addresses of Services. An address is an IPAddress object, created before the Service: two servers cannot give the same one
//! away. Node ports are in `node_ports`.
//!
//! Source: Kubernetes `pkg/registry/core/service/storage/alloc.go`.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use api::networking::v1::ServiceCIDR;
use async_trait::async_trait;
use meta::{ApiError, FieldError, FieldPath, GroupKind, Object, Reason};
use rand::Rng;
use serde_json::{Value, json};
use store::{Change, Expect};

use crate::{
    core::{Core, RequestContext},
    effects::{Effects, Reservation, node_ports::NodePorts},
    handler::write::create_object,
    view::MemoryView,
};

const ADDRESS_PREFIX: &str = "/registry/ipaddresses.networking.k8s.io/";

/// How many addresses are tried at random before the range is searched from its start.
const RANDOM_TRIES: usize = 32;

/// A range as its first address and the number of bits that vary.
fn parse_range(range: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = range.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u32 = length.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    Some((address, bits - length.min(bits)))
}

fn offset(base: IpAddr, by: u128) -> IpAddr {
    match base {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).wrapping_add(u32::try_from(by).unwrap_or(u32::MAX)).into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).wrapping_add(by).into()),
    }
}

/// The ranges that Services get addresses from: the configured ones, and those of further ServiceCIDRs once they are ready, until they go.
fn all_ranges(core: &Core) -> Vec<String> {
    let mut ranges = core.facts.service_cidrs.clone();
    let view = core.view_named("servicecidrs.networking.k8s.io");
    for stored in core.view.snapshot(&view).range("", None) {
        // What is damaged is reported by whoever asks for it.
        let Ok(object) = stored.typed::<ServiceCIDR>() else { continue };
        let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if is_ready && object.metadata.deletion_timestamp.is_none() {
            ranges.extend(object.spec.and_then(|spec| spec.cidrs).unwrap_or_default());
        }
    }
    let mut seen = BTreeSet::new();
    ranges.retain(|range| seen.insert(range.clone()));
    ranges
}

/// The first address of a range that a Service can have.
pub fn first_address(range: &str) -> Option<IpAddr> {
    parse_range(range).map(|(base, _)| offset(base, 1))
}

fn contains(range: &str, address: IpAddr) -> bool {
    let Some((base, bits)) = parse_range(range) else { return false };
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let masked = |address: IpAddr| if bits >= 128 { 0 } else { number(address) >> bits };
    base.is_ipv4() == address.is_ipv4() && masked(base) == masked(address)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Effects of Services.
#[derive(Default)]
pub struct ServiceEffects {
    ports: NodePorts,
}

/// A refusal because of one field.
pub(super) fn invalid(object: &Object, error: FieldError) -> ApiError {
    ApiError::invalid(&GroupKind { group: "".into(), kind: "Service".into() }, object.name(), vec![error])
}

fn wants_address(object: &Object) -> bool {
    object.text(&["spec", "type"]) != Some("ExternalName")
}

fn is_headless(object: &Object) -> bool {
    object.text(&["spec", "clusterIP"]) == Some("None")
}

fn addresses(object: &Object) -> Vec<IpAddr> {
    object
        .get(&["spec", "clusterIPs"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter_map(|text| text.parse().ok())
        .collect()
}

async fn take(core: &Arc<Core>, object: &Object, address: IpAddr) -> Result<bool, ApiError> {
    let kind = core.kind_named("networking.k8s.io", "v1", "IPAddress")?;
    let context = RequestContext::internal(core, "create", "", "");
    let claim = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {"ipaddress.kubernetes.io/ip-family": family(address), "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": object.namespace(), "name": object.name()}},
    });
    let claim = Object::from_value(claim).map_err(|_| ApiError::internal("an IPAddress is an object"))?;
    match create_object(core, &context, &kind, claim).await {
        Ok(_) => Ok(true),
        Err(error) if error.reason == Reason::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

async fn free(view: Arc<MemoryView>, taken: Vec<IpAddr>) {
    for address in taken {
        let resource = view.resource(ADDRESS_PREFIX);
        if let Some(stored) = resource.get(&address.to_string()) {
            // A claim that stays behind is found by the repair pass; the next Service just gets another address.
            let _ = view.write(&format!("{ADDRESS_PREFIX}{address}"), Expect::AtRevision(stored.revision), Change::Delete).await;
        }
    }
}

async fn allocate(core: &Arc<Core>, object: &Object, range: &str) -> Result<IpAddr, ApiError> {
    let (base, bits) = parse_range(range).ok_or_else(|| ApiError::internal(format!("the Service range {range:?} cannot be read")))?;
    // The network's own address and, for IPv4, the broadcast address are never given away.
    let size = 1_u128.checked_shl(bits.min(64)).unwrap_or(u128::MAX);
    let last = if base.is_ipv4() { size.saturating_sub(2) } else { size.saturating_sub(1) };
    let known = core.view.resource(ADDRESS_PREFIX);
    let free_in_view = |address: IpAddr| known.get(&address.to_string()).is_none();
    // Upstream keeps the lower part of the range for addresses that are asked for by name.
    let reserved = (size / 16).clamp(16, 256).min(last);
    for attempt in 0..RANDOM_TRIES {
        let low = if attempt < RANDOM_TRIES / 2 && reserved < last { reserved } else { 1 };
        let address = offset(base, rand::rng().random_range(low..=last.max(low)));
        if free_in_view(address) && take(core, object, address).await? {
            return Ok(address);
        }
    }
    let mut step = 1;
    while step <= last.min(1 << 20) {
        let address = offset(base, step);
        if free_in_view(address) && take(core, object, address).await? {
            return Ok(address);
        }
        step += 1;
    }
    Err(ApiError::internal(format!("failed to allocate a serviceIP: range {range} is full")))
}

impl ServiceEffects {
    /// Settles families and addresses; gives the addresses newly taken.
    async fn settle_addresses(&self, core: &Arc<Core>, object: &mut Object, held: &[IpAddr]) -> Result<Vec<IpAddr>, ApiError> {
        if !wants_address(object) {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                object.remove(&["spec", field]);
            }
            return Ok(Vec::new());
        }
        let ranges = core.facts.service_cidrs.clone();
        let policy = object.text(&["spec", "ipFamilyPolicy"]).unwrap_or("SingleStack").to_owned();
        let default_family = ranges.first().and_then(|range| parse_range(range)).map_or("IPv4", |(base, _)| family(base));
        let mut families: Vec<String> = object
            .get(&["spec", "ipFamilies"])
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        // What follows would settle it silently, before validation sees it.
        for (index, family) in families.iter().enumerate().filter(|(index, family)| families.iter().position(|known| known == *family) != Some(*index)) {
            return Err(invalid(object, FieldError::duplicate(&FieldPath::new("spec.ipFamilies").index(index), family.as_str())));
        }
        if families.is_empty() {
            let asked = addresses(object);
            families = if asked.is_empty() { vec![default_family.to_owned()] } else { asked.iter().map(|address| family(*address).to_owned()).collect() };
        }
        if policy != "SingleStack" && families.len() == 1 {
            for (base, _) in ranges.iter().filter_map(|range| parse_range(range)) {
                if !families.iter().any(|known| known == family(base)) {
                    families.push(family(base).to_owned());
                }
            }
        }
        if policy == "RequireDualStack" && families.len() < 2 {
            let error = FieldError::invalid(&FieldPath::new("spec.ipFamilyPolicy"), policy, "this cluster is not configured for dual-stack services");
            return Err(invalid(object, error));
        }
        if policy == "SingleStack" {
            families.truncate(1);
        }
        object.set(&["spec", "ipFamilyPolicy"], json!(policy));
        object.set(&["spec", "ipFamilies"], json!(families));
        if is_headless(object) {
            object.set(&["spec", "clusterIPs"], json!(["None"]));
            return Ok(Vec::new());
        }
        let mut wanted: Vec<Option<IpAddr>> = addresses(object).into_iter().map(Some).collect();
        if wanted.is_empty() {
            let text = object.text(&["spec", "clusterIP"]).unwrap_or_default().to_owned();
            wanted.push(if text.is_empty() {
                None
            } else {
                let error = FieldError::invalid(&FieldPath::new("spec.clusterIPs").index(0), text.as_str(), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
                Some(text.parse().map_err(|_| invalid(object, error))?)
            });
        }
        wanted.resize(families.len(), None);
        let ranges = all_ranges(core);
        let mut settled = Vec::new();
        let mut taken = Vec::new();
        let mut outcome = Ok(());
        for (index, (want, family_name)) in wanted.into_iter().zip(&families).enumerate() {
            let result = match want {
                Some(address) if held.contains(&address) => Ok(address),
                Some(address) => {
                    let path = FieldPath::new("spec.clusterIPs").index(index);
                    if !ranges.iter().any(|range| contains(range, address)) {
                        let why = format!(
                            "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
                            ranges.join(", ")
                        );
                        Err(invalid(object, FieldError::invalid(&path, json!([address.to_string()]), why)))
                    } else {
                        match take(core, object, address).await {
                            Ok(true) => {
                                taken.push(address);
                                Ok(address)
                            }
                            Ok(false) => {
                                let why = format!("failed to allocate IP {address}: provided IP is already allocated");
                                Err(invalid(object, FieldError::invalid(&path, json!([address.to_string()]), why)))
                            }
                            Err(error) => Err(error),
                        }
                    }
                }
                None => {
                    let path = FieldPath::new("spec.ipFamilies").index(index);
                    let mut result = Err(invalid(object, FieldError::invalid(&path, family_name.as_str(), "not configured on this cluster")));
                    // A range that is full leaves it to the next one.
                    for range in ranges.iter().filter(|range| parse_range(range).is_some_and(|(base, _)| family(base) == family_name)) {
                        result = allocate(core, object, range).await;
                        if let Ok(address) = &result {
                            taken.push(*address);
                            break;
                        }
                    }
                    result
                }
            };
            match result {
                Ok(address) => settled.push(address),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if let Err(error) = outcome {
            free(core.view.clone(), taken).await;
            return Err(error);
        }
        if let Some(first) = settled.first() {
            object.set(&["spec", "clusterIP"], json!(first.to_string()));
        }
        object.set(&["spec", "clusterIPs"], json!(settled.iter().map(ToString::to_string).collect::<Vec<_>>()));
        Ok(taken)
    }

    async fn settle(&self, core: &Arc<Core>, context: &RequestContext, new: &mut Object, old: Option<&Object>) -> Result<Reservation, ApiError> {
        let held = old.map(addresses).unwrap_or_default();
        let taken = self.settle_addresses(core, new, &held).await?;
        let ports = match self.ports.settle(core, new, old) {
            Ok(ports) => ports,
            Err(error) => {
                free(core.view.clone(), taken).await;
                return Err(error);
            }
        };
        let now = addresses(new);
        let given_up: Vec<IpAddr> = held.into_iter().filter(|address| !now.contains(address)).collect();
        let view = core.view.clone();
        let pending = self.ports.clone();
        let (view_again, pending_again, ports_again) = (view.clone(), pending.clone(), ports.clone());
        let release = Box::pin(async move {
            pending.forget(&ports);
            free(view, taken).await;
        });
        if context.query.dry_run {
            // Nothing is kept of a dry run.
            return Ok(Reservation::releasing(release));
        }
        Ok(Reservation::releasing(release).committing(Box::pin(async move {
            pending_again.forget(&ports_again);
            free(view_again, given_up).await;
        })))
    }
}

#[async_trait]
impl Effects for ServiceEffects {
    async fn before_create(&self, core: &Arc<Core>, context: &RequestContext, new: &mut Object) -> Result<Reservation, ApiError> {
        self.settle(core, context, new, None).await
    }
    async fn before_update(&self, core: &Arc<Core>, context: &RequestContext, new: &mut Object, old: &Object) -> Result<Reservation, ApiError> {
        // What the client leaves out stays as it was, unless the Service's type changes.
        if wants_address(new) && wants_address(old) {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if new.get(&["spec", field]).is_none_or(|value| value.as_str() == Some(""))
                    && let Some(value) = old.get(&["spec", field])
                {
                    new.set(&["spec", field], value.clone());
                }
            }
            let old_ports = old.get(&["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
            if new.text(&["spec", "type"]) != Some("ClusterIP")
                && let Some(ports) = new.0.get_mut("spec").and_then(|spec| spec.get_mut("ports")).and_then(Value::as_array_mut)
            {
                for port in ports {
                    let same = |other: &&Value| other.get("port") == port.get("port") && other.get("protocol") == port.get("protocol");
                    if port.get("nodePort").and_then(Value::as_u64).unwrap_or_default() == 0
                        && let Some(number) = old_ports.iter().find(same).and_then(|old| old.get("nodePort")).cloned()
                        && let Some(port) = port.as_object_mut()
                    {
                        port.insert("nodePort".to_owned(), number);
                    }
                }
            }
        } else if wants_address(new) {
            // From ExternalName: whatever it said about addresses was empty.
            new.remove(&["spec", "externalName"]);
        }
        self.settle(core, context, new, Some(old)).await
    }
    async fn after_delete(&self, core: &Arc<Core>, old: &Object) {
        free(core.view.clone(), addresses(old)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_know_their_addresses() {
        assert_eq!(first_address("10.96.0.0/12").unwrap().to_string(), "10.96.0.1");
        assert!(contains("10.96.0.0/12", "10.111.255.255".parse().unwrap()));
        assert!(!contains("10.96.0.0/12", "10.112.0.0".parse().unwrap()));
        assert!(!contains("10.96.0.0/12", "fd00::1".parse().unwrap()));
        assert_eq!(first_address("fd00::/108").unwrap().to_string(), "fd00::1");
    }
}
