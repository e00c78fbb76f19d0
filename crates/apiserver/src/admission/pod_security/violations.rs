//! What a pod breaks, collected under the names upstream sorts its checks by, and told in its words.

use std::collections::BTreeMap;

use serde_json::Value;

/// By level and check, in upstream's order: the reason and its details.
#[derive(Debug, Default)]
pub struct Violations {
    /// Whether the checks are those of `restricted`, which come after all of `baseline`.
    pub of_restricted: bool,
    found: BTreeMap<(bool, &'static str), (&'static str, Vec<String>)>,
}

impl Violations {
    /// Adds a detail to a check.
    pub fn add(&mut self, check: &'static str, reason: &'static str, detail: String) {
        self.found.entry((self.of_restricted, check)).or_insert((reason, Vec::new())).1.push(detail);
    }
    /// Adds "pod and containers … do that" to a check, where either does; whether one did.
    pub fn add_setters(&mut self, check: &'static str, reason: &'static str, pod: bool, containers: &[&str], after: &str) -> bool {
        let mut setters: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().collect();
        if !containers.is_empty() {
            setters.push(quoted("container", containers));
        }
        if !setters.is_empty() {
            self.add(check, reason, format!("{} {after}", setters.join(" and ")));
        }
        !setters.is_empty()
    }
    /// Adds a word to a check whose details are one list.
    pub fn add_joined(&mut self, check: &'static str, reason: &'static str, word: &str) {
        let details = &mut self.found.entry((self.of_restricted, check)).or_insert((reason, Vec::new())).1;
        match details.first_mut() {
            Some(list) => {
                list.push_str(", ");
                list.push_str(word);
            }
            None => details.push(word.to_owned()),
        }
    }
    /// Adds "containers … do that" to a check, where there are any.
    pub fn add_containers(&mut self, check: &'static str, reason: &'static str, before: &str, containers: &[&str], after: &str) {
        if !containers.is_empty() {
            self.add(check, reason, format!("{before}{} {after}", quoted("container", containers)));
        }
    }
    /// The reasons alone.
    pub fn reasons(&self) -> Vec<&'static str> {
        self.found.values().map(|(reason, _)| *reason).collect()
    }
    /// All of them; none where there are none.
    pub fn in_words(&self) -> Option<String> {
        let parts: Vec<String> = self.found.values().map(|(reason, details)| format!("{reason} ({})", details.join("; "))).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// `"a", "b"`, in order and each once.
pub fn quoted_list(mut words: Vec<String>) -> String {
    words.sort();
    words.dedup();
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`
pub fn quoted(noun: &str, names: &[&str]) -> String {
    let list = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() == 1 { format!("{noun} {list}") } else { format!("{noun}s {list}") }
}

/// A list in a tree; empty where there is none.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A text in a tree; empty where there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Every container of a pod.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["/initContainers", "/containers", "/ephemeralContainers"].into_iter().flat_map(|field| list(spec, field))
}

/// Names of the containers that something is true of.
pub fn those<'a>(spec: &'a Value, is: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    containers(spec).filter(|container| is(container)).map(|container| text(container, "/name")).collect()
}
