//! Conditions in the status of a definition, and which of its names it may have.
//!
//! Source: Kubernetes `apiextensions-apiserver/pkg/controller/{status/naming_controller,establish,apiapproval}`; reasons and
//! messages are part of the API.

use std::collections::BTreeSet;

use meta::Object;
use serde_json::{Value, json};

/// One condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `Established`, …
    pub kind: &'static str,
    /// `True` or `False`
    pub status: bool,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Condition {
    /// From its parts.
    pub fn new(kind: &'static str, status: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, status, reason: reason.into(), message: message.into() }
    }
}

/// The condition of a type, as stored.
pub fn find<'a>(definition: &'a Object, kind: &str) -> Option<&'a Value> {
    let conditions = definition.get(&["status", "conditions"])?.as_array()?;
    conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
}

/// Whether a condition holds.
pub fn is_true(definition: &Object, kind: &str) -> bool {
    find(definition, kind).and_then(|condition| condition.get("status")).and_then(Value::as_str) == Some("True")
}

/// Sets a condition; its time changes with its status only.
pub fn set(definition: &mut Object, condition: &Condition, now: &str) {
    let status = if condition.status { "True" } else { "False" };
    let since = find(definition, condition.kind)
        .filter(|old| old.get("status").and_then(Value::as_str) == Some(status))
        .and_then(|old| old.get("lastTransitionTime").and_then(Value::as_str))
        .unwrap_or(now)
        .to_owned();
    let value = json!({
        "lastTransitionTime": since, "message": condition.message, "reason": condition.reason,
        "status": status, "type": condition.kind,
    });
    let mut list = definition.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    match list.iter_mut().find(|known| known.get("type").and_then(Value::as_str) == Some(condition.kind)) {
        Some(place) => *place = value,
        None => list.push(value),
    }
    definition.set(&["status", "conditions"], Value::Array(list));
}

/// Names that are taken in a group.
#[derive(Debug, Clone, Default)]
pub struct TakenNames {
    /// Plural, singular and short names.
    pub resources: BTreeSet<String>,
    /// Kinds and list kinds.
    pub kinds: BTreeSet<String>,
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl TakenNames {
    /// Takes what a definition was granted, as `acceptedNames` of its status has it.
    pub fn take(&mut self, names: &Value) {
        let text = |name: &str| names.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        self.resources.extend(text("plural").into_iter().chain(text("singular")).chain(texts(names.get("shortNames"))));
        self.kinds.extend(text("kind").into_iter().chain(text("listKind")));
    }
}

/// What a definition may be called: the names it is granted, and whether those are all it asked for.
pub fn grant(definition: &Object, taken: &TakenNames) -> (Value, Condition) {
    let empty = json!({});
    let asked = definition.get(&["spec", "names"]).unwrap_or(&empty);
    let held = definition.get(&["status", "acceptedNames"]).unwrap_or(&empty);
    let mut granted = held.clone();
    let text = |of: &Value, name: &str| of.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut refusal: Option<(&'static str, String)> = None;
    for (name, reason, used) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        if name == "shortNames" {
            let (wanted, had) = (texts(asked.get(name)), texts(held.get(name)));
            let conflicts: Vec<String> =
                wanted.iter().filter(|one| !had.contains(one) && used.contains(*one)).map(|one| format!("{one:?} is already in use")).collect();
            match conflicts.as_slice() {
                [] => granted[name] = json!(wanted),
                [one] => refusal = Some((reason, one.clone())),
                several => refusal = Some((reason, format!("[{}]", several.join(", ")))),
            }
            continue;
        }
        let wanted = text(asked, name);
        if wanted == text(held, name) || !used.contains(&wanted) {
            granted[name] = json!(wanted);
        } else {
            refusal = Some((reason, format!("{wanted:?} is already in use")));
        }
    }
    granted["categories"] = json!(texts(asked.get("categories")));
    if let Some(map) = granted.as_object_mut() {
        map.retain(|name, value| !matches!(value, Value::Array(list) if list.is_empty()) && (matches!(name.as_str(), "plural" | "kind") || *value != json!("")));
        for name in ["plural", "kind"] {
            map.entry(name).or_insert_with(|| json!(""));
        }
    }
    let condition = match refusal {
        Some((reason, message)) => Condition::new("NamesAccepted", false, reason, message),
        None => Condition::new("NamesAccepted", true, "NoConflicts", "no conflicts found"),
    };
    (granted, condition)
}

/// Groups of the Kubernetes community need an approval to be used.
pub fn is_protected_group(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}

/// The annotation that carries the approval.
pub const APPROVAL: &str = "api-approved.kubernetes.io";

/// The condition on approval; none for groups that need none.
pub fn approval(definition: &Object) -> Option<Condition> {
    const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
    if !is_protected_group(definition.text(&["spec", "group"]).unwrap_or_default()) {
        return None;
    }
    let annotation = definition.text(&["metadata", "annotations", APPROVAL]).unwrap_or_default();
    Some(if annotation.is_empty() {
        let message = format!("protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111");
        Condition::new(KIND, false, "MissingAnnotation", message)
    } else if annotation.starts_with("unapproved") {
        Condition::new(KIND, false, "UnapprovedAnnotation", format!("not approved: {annotation:?}"))
    } else if is_address(annotation) {
        Condition::new(KIND, true, "ApprovedAnnotation", format!("approved in {annotation}"))
    } else {
        let message = format!(
            "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        Condition::new(KIND, false, "InvalidAnnotation", message)
    })
}

/// Whether an approval is a URL.
pub fn is_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(names: Value) -> Object {
        Object::from_value(json!({"spec": {"group": "example.com", "names": names}})).unwrap()
    }

    #[test]
    fn free_names_are_all_granted() {
        let wanted = json!({"plural": "widgets", "singular": "widget", "shortNames": ["wd"], "kind": "Widget", "listKind": "WidgetList"});
        let (granted, condition) = grant(&definition(wanted.clone()), &TakenNames::default());
        assert_eq!(granted, wanted);
        assert!(condition.status);
        assert_eq!(condition.reason, "NoConflicts");
    }

    #[test]
    fn a_name_in_use_is_refused_and_the_others_are_granted() {
        let taken = TakenNames { resources: ["wd".to_owned()].into(), kinds: BTreeSet::new() };
        let (granted, condition) = grant(&definition(json!({"plural": "widgets", "shortNames": ["wd"], "kind": "Widget"})), &taken);
        assert_eq!(granted, json!({"plural": "widgets", "kind": "Widget"}));
        assert_eq!((condition.status, condition.reason.as_str(), condition.message.as_str()), (false, "ShortNamesConflict", "\"wd\" is already in use"));
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut object = definition(json!({}));
        set(&mut object, &Condition::new("Established", false, "Installing", "x"), "2026-01-01T00:00:00Z");
        set(&mut object, &Condition::new("Established", false, "NotAccepted", "y"), "2026-01-02T00:00:00Z");
        assert_eq!(find(&object, "Established").unwrap()["lastTransitionTime"], "2026-01-01T00:00:00Z");
        set(&mut object, &Condition::new("Established", true, "InitialNamesAccepted", "z"), "2026-01-03T00:00:00Z");
        assert_eq!(find(&object, "Established").unwrap()["lastTransitionTime"], "2026-01-03T00:00:00Z");
        assert!(is_true(&object, "Established"));
    }

    #[test]
    fn groups_of_the_community_need_an_approval() {
        assert!(is_protected_group("gateway.networking.k8s.io"));
        assert!(!is_protected_group("myk8s.io"));
    }
}
