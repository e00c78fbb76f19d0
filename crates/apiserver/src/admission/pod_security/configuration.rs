//! What holds where a namespace says nothing, and who is exempt.
//!
//! Source: Kubernetes 1.36, `pod-security-admission/admission/api`, with its defaults and validation.

use std::collections::HashSet;

use meta::{FieldError, FieldPath, Object};
use serde::Deserialize;
use serde_json::Value;

use super::{Level, Policy, label, version::Version};
use crate::admission::configuration::document;

const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];

/// A policy for each mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policies {
    pub(super) enforce: Policy,
    pub(super) audit: Policy,
    pub(super) warn: Policy,
}

impl Policies {
    /// Whether nothing is forbidden, noted or warned of.
    pub(super) fn allow_everything(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|policy| policy.level == Level::Privileged)
    }
    fn each(&self) -> [(&'static str, Policy); 3] {
        [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)]
    }
}

/// The settings of the plug-in.
#[derive(Debug, Clone)]
pub struct Configuration {
    defaults: Policies,
    users: HashSet<String>,
    namespaces: HashSet<String>,
    runtime_classes: HashSet<String>,
}

impl Default for Configuration {
    /// Everything is allowed where a namespace says nothing, and nobody is exempt.
    fn default() -> Self {
        let open = Policy { level: Level::Privileged, version: Version::Latest };
        let defaults = Policies { enforce: open, audit: open, warn: open };
        Self { defaults, users: HashSet::new(), namespaces: HashSet::new(), runtime_classes: HashSet::new() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[allow(dead_code, reason = "looked at before; here it is only allowed to be there")]
    api_version: String,
    #[allow(dead_code, reason = "as above")]
    kind: String,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Defaults {
    enforce: Option<String>,
    enforce_version: Option<String>,
    audit: Option<String>,
    audit_version: Option<String>,
    warn: Option<String>,
    warn_version: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Exemptions {
    #[serde(default)]
    usernames: Vec<String>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    runtime_classes: Vec<String>,
}

fn default_of(mode: &str, level: Option<&String>, version: Option<&String>, problems: &mut Vec<FieldError>) -> Policy {
    let path = FieldPath::new("defaults");
    // An empty text is what is not there, as upstream.
    let level = level.map(String::as_str).filter(|text| !text.is_empty()).unwrap_or("privileged");
    let version = version.map(String::as_str).filter(|text| !text.is_empty()).unwrap_or("latest");
    let parsed = (Level::parse(level), Version::parse(version));
    if parsed.0.is_none() {
        problems.push(FieldError::invalid(&path.child(mode), level, super::LEVEL_WORDS));
    }
    if parsed.1.is_none() {
        problems.push(FieldError::invalid(&path.child(&format!("{mode}-version")), version, super::VERSION_WORDS));
    }
    Policy { level: parsed.0.unwrap_or(Level::Restricted), version: parsed.1.unwrap_or(Version::Latest) }
}

fn exempt(name: &str, list: Vec<String>, check: impl Fn(&FieldPath, &str) -> Option<FieldError>, problems: &mut Vec<FieldError>) -> HashSet<String> {
    let path = FieldPath::new("exemptions").child(name);
    let mut all = HashSet::new();
    for (index, item) in list.into_iter().enumerate() {
        let at = path.index(index);
        if let Some(problem) = check(&at, &item) {
            problems.push(problem);
        } else if all.contains(&item) {
            problems.push(FieldError::duplicate(&at, item));
        } else {
            all.insert(item);
        }
    }
    all
}

impl Configuration {
    /// Reads a PodSecurityConfiguration.
    ///
    /// # Errors
    /// All that is wrong, a line each.
    pub fn read(value: Value) -> Result<Self, String> {
        let file: File = document(value, &VERSIONS, "PodSecurityConfiguration")?;
        let mut problems = Vec::new();
        let given = &file.defaults;
        let defaults = Policies {
            enforce: default_of("enforce", given.enforce.as_ref(), given.enforce_version.as_ref(), &mut problems),
            audit: default_of("audit", given.audit.as_ref(), given.audit_version.as_ref(), &mut problems),
            warn: default_of("warn", given.warn.as_ref(), given.warn_version.as_ref(), &mut problems),
        };
        let named = |check: fn(&str) -> Vec<String>| {
            move |at: &FieldPath, item: &str| {
                let wrong = check(item);
                (!wrong.is_empty()).then(|| FieldError::invalid(at, item, wrong.join(", ")))
            }
        };
        let namespaces = exempt("namespaces", file.exemptions.namespaces, named(meta::validation::names::dns1123_label_problems), &mut problems);
        let runtime_classes = exempt("runtimeClasses", file.exemptions.runtime_classes, named(meta::validation::names::dns1123_subdomain_problems), &mut problems);
        let users = exempt("usernames", file.exemptions.usernames, |at, item| item.is_empty().then(|| FieldError::required(at, "")), &mut problems);
        if problems.is_empty() {
            return Ok(Self { defaults, users, namespaces, runtime_classes });
        }
        Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// Whether requests in a namespace, or of a user, are not looked at.
    pub(super) fn exempts(&self, namespace: &str, user: &str) -> bool {
        self.exempts_namespace(namespace) || self.users.contains(user)
    }
    /// Whether a namespace is exempt.
    pub(super) fn exempts_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }
    /// Whether pods of a runtime class are exempt.
    pub(super) fn exempts_runtime_class(&self, spec: &Value) -> bool {
        spec.get("runtimeClassName").and_then(Value::as_str).is_some_and(|name| self.runtime_classes.contains(name))
    }

    /// What holds in a namespace: what its labels say, and the defaults for the rest. What cannot be read restricts, and is neither noted
    /// nor warned of.
    pub(super) fn policies(&self, namespace: &Object) -> Policies {
        let value = |mode: &str, suffix: &str| namespace.labels().and_then(|labels| labels.get(&label(mode, suffix))).and_then(Value::as_str);
        let policy = |mode: &str, default: Policy, unreadable: Level| Policy {
            level: value(mode, "").map_or(default.level, |text| Level::parse(text).unwrap_or(unreadable)),
            version: value(mode, "-version").map_or(default.version, |text| Version::parse(text).unwrap_or(Version::Latest)),
        };
        Policies {
            enforce: policy("enforce", self.defaults.enforce, Level::Restricted),
            audit: policy("audit", self.defaults.audit, Level::Privileged),
            warn: policy("warn", self.defaults.warn, Level::Privileged),
        }
    }

    /// What to tell whoever gives labels to a namespace that is exempt; none where they change nothing.
    pub(super) fn ignored(&self, namespace: &Object) -> Option<String> {
        let policies = self.policies(namespace);
        if policies.allow_everything() || policies == self.defaults {
            return None;
        }
        let labels = namespace.labels();
        let is_set = |mode: &str| labels.is_some_and(|labels| ["", "-version"].iter().any(|suffix| labels.contains_key(&label(mode, suffix))));
        let shown = policies.each().into_iter().filter(|(mode, policy)| policy.level != Level::Privileged && is_set(mode));
        let shown: Vec<String> = shown.map(|(mode, policy)| format!("{mode}={policy}")).collect();
        Some(format!("namespace {:?} is exempt from Pod Security, and the policy ({}) will be ignored", namespace.name(), shown.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(rest: Value) -> Result<Configuration, String> {
        let mut value = json!({"apiVersion": VERSIONS[0], "kind": "PodSecurityConfiguration"});
        value.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        Configuration::read(value)
    }

    fn namespace(labels: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap()
    }

    #[test]
    fn labels_go_before_the_defaults_each_by_itself() {
        let configuration = read(json!({"defaults": {"enforce": "baseline", "enforce-version": "v1.28", "warn": "restricted"}})).unwrap();
        let shown = |labels| {
            let policies = configuration.policies(&namespace(labels));
            policies.each().map(|(_, policy)| policy.to_string())
        };
        assert_eq!(shown(json!({})), ["baseline:v1.28", "privileged:latest", "restricted:latest"]);
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/audit-version": "v1.30"});
        assert_eq!(shown(labels), ["restricted:v1.28", "privileged:v1.30", "restricted:latest"]);
        let wrong = json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/audit": "x", "pod-security.kubernetes.io/warn": "x"});
        assert_eq!(shown(wrong), ["restricted:v1.28", "privileged:latest", "privileged:latest"]);
    }

    #[test]
    fn labels_of_an_exempt_namespace_are_said_to_be_ignored() {
        let configuration = read(json!({"exemptions": {"namespaces": ["n"]}})).unwrap();
        assert_eq!(configuration.ignored(&namespace(json!({}))), None);
        let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"});
        let expected = "namespace \"n\" is exempt from Pod Security, and the policy (enforce=baseline:latest, warn=restricted:latest) will be ignored";
        assert_eq!(configuration.ignored(&namespace(labels)).as_deref(), Some(expected));
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        let wrong = json!({
            "defaults": {"enforce": "strict", "warn-version": "1.30"},
            "exemptions": {"namespaces": ["a", "a", "B"], "usernames": [""], "runtimeClasses": ["x_y"]},
        });
        let said = read(wrong).unwrap_err();
        for expected in [
            "defaults.enforce: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "defaults.warn-version: Invalid value: \"1.30\": must be \"latest\" or \"v1.x\"",
            "exemptions.namespaces[1]: Duplicate value: \"a\"",
            "exemptions.namespaces[2]: Invalid value: \"B\"",
            "exemptions.usernames[0]: Required value",
            "exemptions.runtimeClasses[0]: Invalid value: \"x_y\"",
        ] {
            assert!(said.contains(expected), "{expected} is not in {said}");
        }
        assert!(read(json!({"default": {}})).unwrap_err().contains("unknown field"));
    }
}
