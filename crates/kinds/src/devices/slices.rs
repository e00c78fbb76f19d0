//! What is wrong with what a driver says of its devices.
//!
//! Source: Kubernetes `pkg/apis/resource/validation/validation.go`, `validateResourceSliceSpec`.

use std::cmp::Ordering;

use meta::{FieldError, FieldPath, quantity::Quantity, validation as rules};
use serde_json::Value;

use super::parts::{binding_conditions, driver, duplicates, filled_label, label, list, nodes, pool, qualified, taint, text, too_many};
use crate::problems::immutable;

const MOST_DEVICES: usize = 128;
/// Where devices have taints, consume counters or have lists for attributes.
const MOST_ADVANCED_DEVICES: usize = 64;
const MOST_COUNTER_SETS: usize = 8;
const MOST_COUNTERS: usize = 32;
const MOST_CONSUMPTIONS: usize = 2;
const MOST_TAINTS: usize = 16;
const MOST_ATTRIBUTES_AND_CAPACITIES: usize = 32;
const MOST_ATTRIBUTE_VALUES: usize = 48;
const MOST_OPTIONS: usize = 10;
const LONGEST_VALUE: usize = 64;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

fn map<'a>(parent: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + Clone + use<'a> {
    parent.get(name).and_then(Value::as_object).into_iter().flatten()
}

fn flag(parent: &Value, name: &str) -> Option<bool> {
    parent.get(name).and_then(Value::as_bool)
}

/// Problems of a slice; `old` is what was said before.
pub fn validate(spec: &Value, old: Option<&Value>, problems: &mut Vec<FieldError>) {
    let path = FieldPath::new("spec");
    driver(text(spec, "driver"), &path.child("driver"), problems);
    let (at, whole) = (path.child("pool"), spec.get("pool").unwrap_or(&Value::Null));
    pool(text(whole, "name"), &at.child("name"), problems);
    let number = |field: &str| whole.get(field).and_then(Value::as_i64).unwrap_or_default();
    if number("resourceSliceCount") <= 0 {
        problems.push(FieldError::invalid(&at.child("resourceSliceCount"), number("resourceSliceCount"), "must be greater than zero"));
    }
    if number("generation") < 0 {
        problems.push(FieldError::invalid(&at.child("generation"), number("generation"), "must be greater than or equal to zero"));
    }
    if let Some(old) = old {
        let pool_name = |spec: &Value| spec.get("pool").map(|pool| text(pool, "name").to_owned()).unwrap_or_default();
        immutable(&pool_name(spec), &pool_name(old), &at.child("name"), problems);
        for field in ["driver", "nodeName"] {
            immutable(&text(spec, field).to_owned(), &text(old, field).to_owned(), &path.child(field), problems);
        }
    }
    places(spec, &path, problems);
    if spec.get("sharedCounters").is_some_and(Value::is_array) && spec.get("devices").is_some_and(Value::is_array) {
        problems.push(FieldError::invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    devices(spec, old, &path.child("devices"), problems);
    let (at, sets) = (path.child("sharedCounters"), list(spec, "sharedCounters"));
    if !too_many(sets.len(), MOST_COUNTER_SETS, &at, problems) {
        for (index, set) in sets.iter().enumerate() {
            counters(set, "name", &at.index(index), problems);
        }
        duplicates(sets.iter().map(|set| text(set, "name")), &at, problems);
    }
}

/// From which nodes the devices can be used: said in one way.
fn places(spec: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut given = Vec::new();
    match spec.get("nodeName").and_then(Value::as_str) {
        Some("") => problems.push(FieldError::invalid(&path.child("nodeName"), "", "must be either unset or set to a non-empty string")),
        Some(name) => {
            given.push("`nodeName`");
            problems.extend(rules::invalid_each(&path.child("nodeName"), name, rules::dns1123_subdomain_problems(name)));
        }
        None => {}
    }
    if let Some(selector) = spec.get("nodeSelector").filter(|selector| selector.is_object()) {
        given.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        nodes(selector, &at, problems);
        // Selectors of several slices are put together, which one term keeps simple.
        let terms = list(selector, "nodeSelectorTerms");
        if terms.len() != 1 {
            problems.push(FieldError::invalid(&at.child("nodeSelectorTerms"), Value::Array(terms.to_vec()), "must have exactly one node selector term"));
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match flag(spec, field) {
            Some(true) => given.push(shown),
            Some(false) => problems.push(FieldError::invalid(&path.child(field), false, "must be either unset or set to true")),
            None => {}
        }
    }
    const DETAIL: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => problems.push(FieldError::required(path, DETAIL)),
        1 => {}
        _ => problems.push(FieldError::invalid(path, format!("{{{}}}", given.join(", ")), format!("{DETAIL}, but multiple fields are set"))),
    }
}

fn devices(spec: &Value, old: Option<&Value>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let all = list(spec, "devices");
    let has_lists = |device: &Value| map(device, "attributes").any(|(_, attribute)| LISTS.iter().any(|field| attribute.get(field).is_some_and(Value::is_array)));
    let is_advanced = |device: &Value| !list(device, "taints").is_empty() || !list(device, "consumesCounters").is_empty() || has_lists(device);
    let most = if all.iter().any(is_advanced) { MOST_ADVANCED_DEVICES } else { MOST_DEVICES };
    if too_many(all.len(), most, path, problems) {
        return;
    }
    let single = flag(spec, "perDeviceNodeSelection") == Some(true);
    for (index, device) in all.iter().enumerate() {
        let known = old.and_then(|old| list(old, "devices").iter().find(|known| text(known, "name") == text(device, "name")));
        one(device, known, single, &path.index(index), problems);
    }
    duplicates(all.iter().map(|device| text(device, "name")), path, problems);
}

fn one(device: &Value, known: Option<&Value>, single: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    label(text(device, "name"), &path.child("name"), problems);
    let together = map(device, "attributes").count() + map(device, "capacity").count();
    if together > MOST_ATTRIBUTES_AND_CAPACITIES {
        let detail = format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES_AND_CAPACITIES}");
        problems.push(FieldError::invalid(path, together, detail));
    }
    let values: usize = map(device, "attributes").map(|(_, attribute)| LISTS.iter().map(|field| list(attribute, field).len()).sum::<usize>().max(1)).sum();
    if values > MOST_ATTRIBUTE_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MOST_ATTRIBUTE_VALUES}");
        problems.push(FieldError::invalid(path, values, detail));
    }
    for (name, attribute) in map(device, "attributes") {
        let at = path.child("attributes");
        qualified(name, &at, problems);
        attribute_value(attribute, &at.key(name), problems);
    }
    // What did not change is not judged again.
    let changed = |field: &str| known.is_none_or(|known| known.get(field) != device.get(field));
    if changed("capacity") {
        let shared = flag(device, "allowMultipleAllocations") == Some(true);
        for (name, capacity) in map(device, "capacity") {
            let at = path.child("capacity");
            qualified(name, &at, problems);
            if let Some(policy) = capacity.get("requestPolicy").filter(|policy| policy.is_object()) {
                let at = at.key(name).child("requestPolicy");
                if shared {
                    request_policy(capacity, policy, &at, problems);
                } else {
                    problems.push(FieldError::forbidden(&at, "allowMultipleAllocations must be true"));
                }
            }
        }
    }
    if changed("taints") {
        let (at, taints) = (path.child("taints"), list(device, "taints"));
        if !too_many(taints.len(), MOST_TAINTS, &at, problems) {
            for (index, one) in taints.iter().enumerate() {
                taint(one, None, &at.index(index), problems);
            }
        }
    }
    let (at, consumptions) = (path.child("consumesCounters"), list(device, "consumesCounters"));
    if !too_many(consumptions.len(), MOST_CONSUMPTIONS, &at, problems) {
        for (index, one) in consumptions.iter().enumerate() {
            counters(one, "counterSet", &at.index(index), problems);
        }
        duplicates(consumptions.iter().map(|one| text(one, "counterSet")), &at, problems);
    }
    place(device, single, path, problems);
    binding_conditions(device, path, problems);
    for (name, mapping) in map(device, "nodeAllocatableResourceMappings") {
        let at = path.child("nodeAllocatableResourceMappings").key(name);
        if let Some(key) = mapping.get("capacityKey").and_then(Value::as_str)
            && !map(device, "capacity").any(|(known, _)| known == key)
        {
            problems.push(FieldError::not_found(&at.child("capacityKey"), key));
        }
    }
}

/// From which nodes one device can be used, where the slice leaves that to its devices.
fn place(device: &Value, single: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let name = device.get("nodeName").and_then(Value::as_str);
    let selector = device.get("nodeSelector").filter(|selector| selector.is_object());
    let all = flag(device, "allNodes");
    if !single {
        if name.is_some() || selector.is_some() || all.is_some() {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            problems.push(FieldError::invalid(path, Value::Null, detail));
        }
        return;
    }
    let mut given = Vec::new();
    match name {
        Some("") => problems.push(FieldError::invalid(&path.child("nodeName"), "", "must not be empty")),
        Some(name) => {
            given.push("`nodeName`");
            problems.extend(rules::invalid_each(&path.child("nodeName"), name, rules::dns1123_subdomain_problems(name)));
        }
        None => {}
    }
    if let Some(selector) = selector {
        given.push("`nodeSelector`");
        nodes(selector, &path.child("nodeSelector"), problems);
    }
    match all {
        Some(true) => given.push("`allNodes`"),
        Some(false) => problems.push(FieldError::invalid(&path.child("allNodes"), false, "must be either unset or set to true")),
        None => {}
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match given.len() {
        0 => problems.push(FieldError::required(path, detail)),
        1 => {}
        _ => problems.push(FieldError::invalid(path, format!("{{{}}}", given.join(", ")), detail)),
    }
}

/// Named counters: a set of them, or what a device takes of a set.
fn counters(set: &Value, name_field: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled_label(text(set, name_field), &path.child(name_field), problems);
    let (at, count) = (path.child("counters"), map(set, "counters").count());
    if count == 0 {
        problems.push(FieldError::required(&at, ""));
    } else if !too_many(count, MOST_COUNTERS, &at, problems) {
        for (name, _) in map(set, "counters") {
            label(name, &at, problems);
        }
    }
}

fn attribute_value(attribute: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let long = |text: &str, path: &FieldPath, problems: &mut Vec<FieldError>| {
        if text.len() > LONGEST_VALUE {
            problems.push(FieldError::too_long(path, LONGEST_VALUE));
        }
    };
    let version = |text: &str, path: &FieldPath, problems: &mut Vec<FieldError>| {
        if !is_semantic_version(text) {
            problems.push(FieldError::invalid(path, text, "must be a string compatible with semver.org spec 2.0.0"));
        }
        long(text, path, problems);
    };
    let given = |field: &&&str| attribute.get(**field).is_some_and(|value| !value.is_null());
    if let Some(text) = attribute.get("string").and_then(Value::as_str) {
        long(text, &path.child("string"), problems);
    }
    if let Some(text) = attribute.get("version").and_then(Value::as_str) {
        version(text, &path.child("version"), problems);
    }
    for field in LISTS.iter().filter(given) {
        let at = path.child(field);
        if list(attribute, field).is_empty() {
            problems.push(FieldError::invalid(&at, Value::Array(Vec::new()), "must not be empty if specified"));
        }
        for (index, text) in list(attribute, field).iter().enumerate().filter_map(|(index, value)| Some((index, value.as_str()?))) {
            if *field == "versions" {
                version(text, &at.index(index), problems);
            } else {
                long(text, &at.index(index), problems);
            }
        }
    }
    match ["bool", "int", "string", "version"].iter().chain(&LISTS).filter(given).count() {
        0 => problems.push(FieldError::invalid(path, "", "exactly one value must be specified")),
        1 => {}
        _ => problems.push(FieldError::invalid(path, attribute.clone(), "exactly one value must be specified")),
    }
}

/// Three numbers, then what comes before the release, then what it was built from.
fn is_semantic_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let before = |part: &str| number(part) || (word(part) && !part.bytes().all(|byte| byte.is_ascii_digit()));
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (numbers, release) = rest.split_once('-').map_or((rest, None), |(numbers, release)| (numbers, Some(release)));
    numbers.split('.').count() == 3
        && numbers.split('.').all(number)
        && release.is_none_or(|release| release.split('.').all(before))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn amount(parent: &Value, name: &str) -> Option<Quantity> {
    parent.get(name).and_then(Value::as_str).and_then(|text| Quantity::parse(text).ok())
}

fn order(left: &Quantity, right: &Quantity) -> Ordering {
    left.sub(right).signum().cmp(&0)
}

/// How much of a capacity one may ask for.
fn request_policy(capacity: &Value, policy: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(whole) = amount(capacity, "value") else { return };
    let (options, range) = (list(policy, "validValues"), policy.get("validRange").filter(|range| range.is_object()));
    let default = amount(policy, "default");
    match (options.is_empty(), range) {
        (false, Some(_)) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            problems.push(FieldError::forbidden(path, detail));
        }
        (false, None) => match default {
            None => problems.push(FieldError::required(&path.child("default"), "required when validValues is defined")),
            Some(default) => valid_values(options, &default, &whole, &path.child("validValues"), problems),
        },
        (true, Some(range)) => match default {
            None => problems.push(FieldError::required(&path.child("default"), "required when validRange is defined")),
            Some(default) => valid_range(range, &default, &whole, &path.child("validRange"), problems),
        },
        (true, None) => {}
    }
}

fn valid_values(options: &[Value], default: &Quantity, whole: &Quantity, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let amounts: Vec<Quantity> = options.iter().filter_map(|option| Quantity::parse(option.as_str()?).ok()).collect();
    for (index, pair) in amounts.windows(2).enumerate() {
        if order(&pair[0], &pair[1]) == Ordering::Greater {
            problems.push(FieldError::invalid(&path.index(index + 1), pair[1].to_string(), "values must be sorted in ascending order"));
        }
    }
    if !too_many(amounts.len(), MOST_OPTIONS, path, problems) {
        for (index, option) in amounts.iter().enumerate() {
            if order(option, whole) == Ordering::Greater {
                problems.push(FieldError::invalid(&path.index(index), option.to_string(), format!("option is larger than capacity value: {whole}")));
            }
        }
        let numbers: Vec<String> = amounts.iter().map(|amount| amount.value().to_string()).collect();
        duplicates(numbers.iter().map(String::as_str), path, problems);
    }
    if !amounts.iter().any(|option| order(option, default) == Ordering::Equal) {
        problems.push(FieldError::invalid(path, default.to_string(), "default value is not valid according to the requestPolicy"));
    }
}

fn valid_range(range: &Value, default: &Quantity, whole: &Quantity, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(least) = amount(range, "min") else {
        problems.push(FieldError::required(&path.child("min"), "required when validRange is defined"));
        return;
    };
    let mut wrong = |is_wrong: bool, field: &str, value: &Quantity, detail: String| {
        if is_wrong {
            problems.push(FieldError::invalid(&path.child(field), value.to_string(), detail));
        }
    };
    wrong(order(&least, whole) == Ordering::Greater, "min", &least, format!("min is larger than capacity value: {whole}"));
    wrong(order(default, &least) == Ordering::Less, "default", default, format!("default is less than min: {least}"));
    let most = amount(range, "max");
    if let Some(most) = &most {
        wrong(order(&least, most) == Ordering::Greater, "max", &least, format!("min is larger than max: {most}"));
        wrong(order(most, whole) == Ordering::Greater, "max", most, format!("max is larger than capacity value: {whole}"));
        wrong(order(default, most) == Ordering::Greater, "default", default, format!("default is more than max: {most}"));
    }
    let Some(step) = amount(range, "step") else { return };
    if step.signum() <= 0 {
        wrong(true, "step", &step, "must be greater than zero".to_owned());
        return;
    }
    let added = least.add(&step);
    wrong(order(&added, whole) == Ordering::Greater, "step", &step, format!("one step {added} is larger than capacity value: {whole}"));
    for value in [Some(default), most.as_ref()].into_iter().flatten() {
        // Whole numbers that fit into 64 bits, which differences of two of them need not.
        let (value_number, least_number, step_number) = (i128::from(value.value()), i128::from(least.value()), i128::from(step.value()));
        let off = step_number != 0 && (value_number - least_number) % step_number != 0;
        wrong(off, "step", value, format!("value is not a multiple of a given step ({step}) from ({least})"));
    }
}

#[cfg(test)]
mod tests {
    use super::is_semantic_version;

    #[test]
    fn versions_are_semantic() {
        for good in ["0.0.0", "1.2.3", "1.2.3-alpha.1", "1.2.3-0a+build.01", "1.0.0--"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["", "1", "1.2", "1.2.03", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3-a..b", "v1.2.3", "1.2.3+a+b"] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }
}
