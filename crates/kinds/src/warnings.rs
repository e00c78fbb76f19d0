//! Words to clients that objects of several kinds share: nothing is refused for them.
//!
//! Source: Kubernetes `pkg/api/node/util.go` and apimachinery's `pkg/util/validation/ip.go`, `GetWarningsFor…`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use api::{apimachinery::pkg::api::resource::Quantity as Text, core::v1::NodeSelectorTerm};
use meta::{FieldPath, Object, quantity::Quantity, validation as rules};
use serde_json::Value;

const OLD_NODE_LABELS: &[(&str, &str)] = &[
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
];

/// What to use instead of a label of nodes.
pub fn node_label(label: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(known, _)| *known == label).map(|(_, words)| *words)
}

/// Labels of nodes that have other names today and, where nothing else looks at them, values that no label can have.
pub fn node_selector_term(term: &NodeSelectorTerm, with_values: bool, path: &FieldPath, warnings: &mut Vec<String>) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let at = path.child("matchExpressions").index(index);
        warnings.extend(node_label(&requirement.key).map(|words| format!("{}: {} is {words}", at.child("key"), requirement.key)));
        for (position, value) in requirement.values.iter().flatten().enumerate().filter(|_| with_values) {
            for words in rules::label_value_problems(value) {
                warnings.push(format!("{}: {value} is invalid, {words}", at.child("values").index(position)));
            }
        }
    }
}

/// Parts of bytes.
pub fn fraction(amounts: Option<&BTreeMap<String, Text>>, name: &str, path: &FieldPath) -> Option<String> {
    let amount = Quantity::parse(&amounts?.get(name)?.0).ok().filter(|amount| amount.milli_value() % 1000 != 0)?;
    Some(format!("{}: fractional byte value {:?} is invalid, must be an integer", path.key(name), amount.to_string()))
}

/// Addresses that can be written in another way.
pub fn ip(text: &str, path: &FieldPath) -> Option<String> {
    let IpAddr::V6(address) = text.parse().ok()? else { return None };
    if let Some(inner) = address.to_ipv4_mapped() {
        return Some(format!("{path}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use \"{inner}\""));
    }
    let ordinary = address.to_string();
    (ordinary != text).then(|| format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({ordinary:?})"))
}

/// Addresses in a list of an object's status, each in a field of its item, that can be written in another way.
pub fn reported(object: &Object, list: &[&str], field: &str, path: impl Fn(FieldPath) -> FieldPath) -> Vec<String> {
    let all = object.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let at = list.iter().skip(1).fold(FieldPath::new(list.first().copied().unwrap_or_default()), |path, name| path.child(name));
    all.iter().enumerate().filter_map(|(index, item)| ip(item.get(field)?.as_str()?, &path(at.index(index)))).collect()
}

/// Ranges that can be written in another way, or are addresses rather.
pub fn cidr(text: &str, path: &FieldPath) -> Vec<String> {
    let parts = text.split_once('/').and_then(|(address, length)| Some((address.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?)));
    let Some((address, length)) = parts else { return Vec::new() };
    let is_mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    // As Go reads it, a mapped address is one of 32 bits as soon as it is printed.
    let (start, all) = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or_default();
            (IpAddr::from(Ipv4Addr::from(u32::from(address) & mask)), 32)
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or_default();
            (IpAddr::from(Ipv6Addr::from(u128::from(address) & mask)), 128)
        }
    };
    let range = format!("{}/{length}", start.to_canonical());
    let mut warnings = Vec::new();
    if start != address {
        let single = format!("{}/{all}", address.to_canonical());
        warnings.push(format!("{path}: CIDR value {text:?} is ambiguous in this context (should be {range:?} or {single:?}?)"));
    }
    if is_mapped {
        warnings.push(format!("{path}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: use {range:?}"));
    }
    let ordinary = format!("{address}/{length}");
    if warnings.is_empty() && address.is_ipv6() && ordinary != text {
        warnings.push(format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({ordinary:?})"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: Kubernetes `pkg/util/validation/ip_test.go`, `TestGetWarningsForIP` and `TestGetWarningsForCIDR`.
    #[test]
    fn addresses_and_ranges_are_told_to_be_written_otherwise() {
        let path = FieldPath::new("a");
        assert_eq!(ip("192.12.2.2", &path), None);
        assert_eq!(ip("2001:db8::2", &path), None);
        assert_eq!(ip("2001:db8:0:0::2", &path).unwrap(), "a: IPv6 address \"2001:db8:0:0::2\" should be in RFC 5952 canonical format (\"2001:db8::2\")");
        let mapped = "a: non-standard IP address \"::ffff:1.2.3.4\" will be considered invalid in a future Kubernetes release: use \"1.2.3.4\"";
        assert_eq!(ip("::ffff:1.2.3.4", &path).unwrap(), mapped);
        assert_eq!(cidr("192.12.2.0/24", &path), Vec::<String>::new());
        assert_eq!(cidr("2001:db8::/64", &path), Vec::<String>::new());
        assert_eq!(cidr("192.12.2.8/24", &path), ["a: CIDR value \"192.12.2.8/24\" is ambiguous in this context (should be \"192.12.2.0/24\" or \"192.12.2.8/32\"?)"]);
        assert_eq!(cidr("2001:db8::2/64", &path), ["a: CIDR value \"2001:db8::2/64\" is ambiguous in this context (should be \"2001:db8::/64\" or \"2001:db8::2/128\"?)"]);
        assert_eq!(cidr("2001:db8:0:0::/64", &path), ["a: IPv6 CIDR value \"2001:db8:0:0::/64\" should be in RFC 5952 canonical format (\"2001:db8::/64\")"]);
    }
}
