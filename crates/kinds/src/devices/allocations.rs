//! What is wrong with what is said of a claim's devices: which it has, who uses them, and how they are.
//!
//! Source: Kubernetes `pkg/apis/resource/validation/validation.go`, `validateResourceClaimStatusUpdate`.

use std::{collections::HashSet, net::IpAddr};

use meta::{FieldError, FieldPath};
use serde_json::{Map, Value};

use super::{
    claims::MOST_CONFIGURATIONS,
    parts::{RequestNames, binding_conditions, configuration, driver, duplicates, label, list, nodes, pool, raw, text, tolerations, too_many},
    spec_of,
};
use crate::{
    problems::{filled, immutable, one_of},
    status_rules,
};

const MOST_CONSUMERS: usize = 256;
const MOST_DEVICES: usize = 32;
const MOST_CONDITIONS: usize = 8;
const LARGEST_DATA: usize = 10 * 1024;

fn status(claim: &Map<String, Value>) -> &Value {
    claim.get("status").unwrap_or(&Value::Null)
}

/// A device, and the share of it where several claims have it.
fn device_key(device: &Value) -> String {
    let share = text(device, "shareID");
    let name = format!("{}/{}/{}", text(device, "driver"), text(device, "pool"), text(device, "device"));
    if share.is_empty() { name } else { format!("{name}/{share}") }
}

/// Problems of a change of the status.
pub fn validate(claim: &Map<String, Value>, old: &Map<String, Value>) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let (new, before, path) = (status(claim), status(old), FieldPath::new("status"));
    let names = RequestNames::of(spec_of(claim).get("devices").unwrap_or(&Value::Null));
    let allocation = new.get("allocation").filter(|allocation| allocation.is_object());
    consumers(new, before, claim, &path.child("reservedFor"), &mut problems);

    let allocated: HashSet<String> = allocation.map(|found| list(&found["devices"], "results").iter().map(device_key).collect()).unwrap_or_default();
    let at = path.child("devices");
    let devices = list(new, "devices");
    for (index, device) in devices.iter().enumerate() {
        state(device, &allocated, &at.index(index), &mut problems);
    }
    let keys: Vec<String> = devices.iter().map(device_key).collect();
    duplicates(keys.iter().map(String::as_str), &at, &mut problems);

    // What was allocated stays as it is until it is taken back as a whole, and is not judged by rules that came later.
    let at = path.child("allocation");
    match (allocation, before.get("allocation").filter(|allocation| allocation.is_object())) {
        (Some(now), Some(known)) => immutable(now, known, &at, &mut problems),
        (Some(now), None) => result(now, &names, &at, &mut problems),
        (None, _) => {}
    }
    problems
}

fn consumers(new: &Value, before: &Value, claim: &Map<String, Value>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let all = list(new, "reservedFor");
    if !too_many(all.len(), MOST_CONSUMERS, path, problems) {
        for (index, consumer) in all.iter().enumerate() {
            for field in ["resource", "name", "uid"] {
                filled(text(consumer, field), &path.index(index).child(field), problems);
            }
        }
        duplicates(all.iter().map(|consumer| text(consumer, "uid")), path, problems);
    }
    if all.is_empty() {
        return;
    }
    if new.get("allocation").is_none_or(|allocation| !allocation.is_object()) {
        problems.push(FieldError::forbidden(path, "may not be specified when `allocated` is not set"));
    } else if claim.get("metadata").is_some_and(|metadata| !text(metadata, "deletionTimestamp").is_empty()) && all.iter().any(|one| !list(before, "reservedFor").contains(one)) {
        problems.push(FieldError::forbidden(path, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"));
    }
}

fn share(device: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(id) = device.get("shareID").and_then(Value::as_str) else { return };
    let at = path.child("shareID");
    // The forms that upstream's library reads: plain, in braces, as a URN, and without dashes.
    let plain = match id.len() {
        45 => id.get(9..).filter(|_| id.to_ascii_lowercase().starts_with("urn:uuid:")),
        38 => id.strip_prefix('{').and_then(|id| id.strip_suffix('}')),
        32 | 36 => Some(id),
        other => {
            problems.push(FieldError::invalid(&at, id, format!("error validating uid: invalid UUID length: {other}")));
            return;
        }
    };
    let dash = |index: usize| matches!(index, 8 | 13 | 18 | 23);
    let is_good = plain.is_some_and(|plain| {
        plain.bytes().enumerate().all(|(index, byte)| if plain.len() == 36 && dash(index) { byte == b'-' } else { byte.is_ascii_hexdigit() })
    });
    if !is_good {
        problems.push(FieldError::invalid(&at, id, "error validating uid: invalid UUID format"));
    } else if id.len() != 36 || id.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        problems.push(FieldError::invalid(&at, id, detail));
    }
}

fn result(allocation: &Value, names: &RequestNames<'_>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let devices = allocation.get("devices").unwrap_or(&Value::Null);
    let at = path.child("devices").child("results");
    let results = list(devices, "results");
    if !too_many(results.len(), MOST_DEVICES, &at, problems) {
        for (index, one) in results.iter().enumerate() {
            let at = at.index(index);
            names.reference(text(one, "request"), &at.child("request"), problems);
            driver(text(one, "driver"), &at.child("driver"), problems);
            pool(text(one, "pool"), &at.child("pool"), problems);
            label(text(one, "device"), &at.child("device"), problems);
            binding_conditions(one, &at, problems);
            tolerations(one, &at, problems);
            share(one, &at, problems);
        }
    }
    let at = path.child("devices").child("config");
    let configurations = list(devices, "config");
    // Those of the classes and those of the claim.
    if !too_many(configurations.len(), 2 * MOST_CONFIGURATIONS, &at, problems) {
        for (index, one) in configurations.iter().enumerate() {
            let at = at.index(index);
            one_of(text(one, "source"), &["FromClaim", "FromClass"], &at.child("source"), problems);
            names.references(one, &at, problems);
            configuration(one, &at, problems);
        }
    }
    if let Some(selector) = allocation.get("nodeSelector").filter(|selector| selector.is_object()) {
        nodes(selector, &path.child("nodeSelector"), problems);
    }
}

fn state(device: &Value, allocated: &HashSet<String>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    driver(text(device, "driver"), &path.child("driver"), problems);
    pool(text(device, "pool"), &path.child("pool"), problems);
    label(text(device, "device"), &path.child("device"), problems);
    share(device, path, problems);
    let key = device_key(device);
    if !allocated.contains(&key) {
        problems.push(FieldError::invalid(path, key, "must be an allocated device in the claim"));
    }
    let (at, conditions) = (path.child("conditions"), list(device, "conditions"));
    too_many(conditions.len(), MOST_CONDITIONS, &at, problems);
    status_rules::untyped_conditions(conditions, &at, problems);
    if let Some(data) = device.get("data") {
        raw(Some(data), LARGEST_DATA, &path.child("data"), problems);
    }
    if let Some(network) = device.get("networkData").filter(|data| data.is_object()) {
        network_data(network, &path.child("networkData"), problems);
    }
}

fn network_data(data: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MOST_ADDRESSES: usize = 16;
    for (field, longest) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(data, field).len() > longest {
            problems.push(FieldError::too_long(&path.child(field), longest));
        }
    }
    let at = path.child("ips");
    let addresses: Vec<&str> = list(data, "ips").iter().filter_map(Value::as_str).collect();
    if too_many(addresses.len(), MOST_ADDRESSES, &at, problems) {
        return;
    }
    for (index, address) in addresses.iter().enumerate() {
        match canonical(address) {
            None => {
                let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
                problems.push(FieldError::invalid(&at.index(index), *address, detail));
            }
            Some(form) if form != *address => {
                problems.push(FieldError::invalid(&at.index(index), *address, format!("must be in canonical form ({form:?})")));
            }
            Some(_) => {}
        }
    }
    duplicates(addresses.into_iter(), &at, problems);
}

/// An address with the length of its network, as one would write it.
fn canonical(text: &str) -> Option<String> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then(|| format!("{address}/{length}"))
}
