//! PodSecurity: pods keep to the level that their namespace's labels name: `privileged`, `baseline` or `restricted`.
//!
//! A pod that breaks the level of `enforce` is refused; breaking that of `warn` is told to the client, also for the templates
//! of workloads. [`baseline`] and [`restricted`] hold the rules of the levels, each with the [`version`] that began to have it.
//! Labels that name no level or version are refused, and whoever makes a namespace stricter is told which of its pods break
//! the new level. There is no configuration, so nobody is exempt. Source: Kubernetes `pod-security-admission`, and the page "Pod Security Standards".

mod baseline;
mod restricted;
mod version;
mod violations;

use async_trait::async_trait;
use meta::{ApiError, FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
};

use version::Version;
use violations::Violations;

/// The plug-in.
pub struct PodSecurity;

/// How much a pod may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A level with its version, as the labels of a namespace say it for `enforce` or `warn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: Version,
}

impl std::fmt::Display for Policy {
    /// `restricted:latest`
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.version {
            Version::Latest => write!(formatter, "{}:latest", self.level.name()),
            Version::Minor(minor) => write!(formatter, "{}:v1.{minor}", self.level.name()),
        }
    }
}

fn label(mode: &str, suffix: &str) -> String {
    format!("pod-security.kubernetes.io/{mode}{suffix}")
}

fn policy(namespace: &Object, mode: &str) -> Policy {
    let value = |suffix: &str| namespace.labels().and_then(|labels| labels.get(&label(mode, suffix))).and_then(Value::as_str);
    Policy {
        // As upstream, what cannot be read restricts.
        level: value("").map_or(Level::Privileged, |text| Level::parse(text).unwrap_or(Level::Restricted)),
        version: value("-version").and_then(Version::parse).unwrap_or(Version::Latest),
    }
}

/// What is wrong with the labels of a namespace.
fn label_problems(namespace: &Object) -> Vec<FieldError> {
    let mut problems = Vec::new();
    for mode in ["enforce", "audit", "warn"] {
        for (suffix, is_good, words) in [
            ("", (|text| Level::parse(text).is_some()) as fn(&str) -> bool, "must be one of privileged, baseline, restricted"),
            ("-version", |text| Version::parse(text).is_some(), "must be \"latest\" or \"v1.x\""),
        ] {
            let name = label(mode, suffix);
            let value = namespace.labels().and_then(|labels| labels.get(&name)).and_then(Value::as_str);
            if let Some(value) = value.filter(|value| !is_good(value)) {
                problems.push(FieldError::invalid(&FieldPath::new("metadata").child("labels").key(&name), value, words));
            }
        }
    }
    problems
}

/// What of a level a pod's metadata and specification break.
fn violations(policy: Policy, metadata: &Value, spec: &Value) -> Violations {
    let mut violations = Violations::default();
    match policy.level {
        Level::Privileged => {}
        Level::Baseline => baseline::check(metadata, spec, policy.version, &mut violations, false),
        Level::Restricted => {
            baseline::check(metadata, spec, policy.version, &mut violations, true);
            restricted::check(spec, policy.version, &mut violations);
        }
    }
    violations
}

/// Most pods that are looked at when the labels of their namespace change, as upstream.
const MOST_PODS: usize = 3_000;

/// Which pods of a namespace break a level, in lines for the client: one for each set of reasons.
fn broken_by_pods<'a>(policy: Policy, pods: impl Iterator<Item = &'a Object>) -> Vec<String> {
    let mut by_reason: Vec<(String, &str, usize)> = Vec::new();
    for pod in pods {
        let (Some(metadata), Some(spec)) = (pod.get(&["metadata"]), pod.get(&["spec"])) else { continue };
        let reasons = violations(policy, metadata, spec).reasons().join(", ");
        if reasons.is_empty() {
            continue;
        }
        match by_reason.iter_mut().find(|(known, ..)| *known == reasons) {
            Some((.., count)) => *count += 1,
            None => by_reason.push((reasons, pod.name(), 1)),
        }
    }
    let line = |(reasons, first, count): (String, &str, usize)| match count {
        1 => format!("{first}: {reasons}"),
        2 => format!("{first} (and 1 other pod): {reasons}"),
        more => format!("{first} (and {} other pods): {reasons}", more - 1),
    };
    by_reason.into_iter().map(line).collect()
}

/// A namespace gets labels that can be read, and whoever makes it stricter is told of the pods that are in it.
fn namespace(core: &Core, attributes: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Result<(), ApiError> {
    let problems = label_problems(new);
    // Labels that were wrong before do not keep anybody from changing something else.
    if !problems.is_empty() && old.is_none_or(|old| label_problems(old).is_empty()) {
        return Err(ApiError::invalid(&attributes.kind.info().kind.group_kind(), new.name(), problems));
    }
    let Some(old) = old else { return Ok(()) };
    let (after, before) = (policy(new, "enforce"), policy(old, "enforce"));
    if after == before || after.level == Level::Privileged || (after.version == before.version && after.level <= before.level) {
        return Ok(());
    }
    let snapshot = core.view.snapshot(&core.view_named("pods"));
    let pods: Vec<Object> =
        snapshot.range(&format!("{}/", new.name()), None).take(MOST_PODS).filter_map(|stored| stored.object().ok()).collect();
    let lines = broken_by_pods(after, pods.iter());
    if !lines.is_empty() {
        attributes.context.warn(format!("existing pods in namespace {:?} violate the new PodSecurity enforce level {:?}", new.name(), after.to_string()));
        for line in lines {
            attributes.context.warn(line);
        }
    }
    Ok(())
}

/// Where the pod of an object is: itself, or the template in a workload.
fn pod_of<'a>(attributes: &Attributes<'_>, object: &'a Object) -> Option<(&'a Value, &'a Value)> {
    let info = attributes.kind.info();
    let template = match (&*info.kind.group, &*info.plural) {
        ("", "pods") => return Some((object.get(&["metadata"])?, object.get(&["spec"])?)),
        ("", "podtemplates") => object.get(&["template"]),
        ("", "replicationcontrollers") | ("apps", _) | ("batch", "jobs") => object.get(&["spec", "template"]),
        ("batch", "cronjobs") => object.get(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }?;
    Some((template.get("metadata").unwrap_or(&Value::Null), template.get("spec")?))
}

#[async_trait]
impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Validate]
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let is_write =
            matches!(attributes.operation, Operation::Create | Operation::Update) && matches!(attributes.subresource, "" | "ephemeralcontainers");
        let info = attributes.kind.info();
        if let Some(new) = object.filter(|_| is_write && info.kind.group.is_empty() && &*info.plural == "namespaces" && attributes.subresource.is_empty()) {
            return namespace(core, attributes, new, old);
        }
        let Some(object) = object.filter(|_| is_write && !attributes.namespace.is_empty()) else { return Ok(()) };
        let Some((metadata, spec)) = pod_of(attributes, object) else { return Ok(()) };
        let Some(stored) = core.view_named("namespaces").get(attributes.namespace) else { return Ok(()) };
        if ["enforce", "warn"].into_iter().all(|mode| stored.label(&format!("pod-security.kubernetes.io/{mode}")).is_none()) {
            return Ok(());
        }
        if old.and_then(|old| pod_of(attributes, old)).is_some_and(|(_, old_spec)| old_spec == spec) {
            // Only what is changed is judged, so that pods from before the labels can still be updated and deleted.
            return Ok(());
        }
        let namespace = stored.object().map_err(ApiError::internal)?;
        let count = |denied: bool, policy: Policy, mode: &'static str| {
            core.metrics.pod_security(crate::metrics::PodSecurityLabels {
                decision: if denied { "deny" } else { "allow" },
                policy_level: policy.level.name(),
                policy_version: if policy.level == Level::Privileged { "latest".to_owned() } else { policy.version.in_metrics() },
                mode,
                request_operation: if attributes.operation == Operation::Create { "create" } else { "update" },
                resource: if &*info.plural == "pods" { "pod" } else { "controller" },
                subresource: attributes.subresource.to_owned(),
            });
        };
        let (enforced, warned) = (policy(&namespace, "enforce"), policy(&namespace, "warn"));
        let is_pod = &*attributes.kind.info().plural == "pods";
        if is_pod {
            let words = violations(enforced, metadata, spec).in_words();
            count(words.is_some(), enforced, "enforce");
            if let Some(words) = words {
                return Err(attributes.forbidden(format!("violates PodSecurity {:?}: {words}", enforced.to_string())));
            }
        }
        if let Some(words) = violations(warned, metadata, spec).in_words() {
            count(true, warned, "warn");
            attributes.context.warn(format!("would violate PodSecurity {:?}: {words}", warned.to_string()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(level: Level, spec: Value, expected: Option<&str>) {
        check_at(level, Version::Latest, spec, expected);
    }

    #[track_caller]
    fn check_at(level: Level, version: Version, spec: Value, expected: Option<&str>) {
        assert_eq!(violations(Policy { level, version }, &Value::Null, &spec).in_words().as_deref(), expected);
    }

    #[test]
    fn a_version_checks_what_its_release_did() {
        let sysctl = json!({"containers": [{"name": "a"}], "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]}});
        check_at(Level::Baseline, Version::Minor(31), sysctl.clone(), Some("forbidden sysctls (net.ipv4.tcp_rmem)"));
        check_at(Level::Baseline, Version::Minor(32), sysctl.clone(), None);
        check_at(Level::Baseline, Version::Minor(99), sysctl, None);
        let probe = json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 1}}}]});
        check_at(Level::Baseline, Version::Minor(33), probe.clone(), None);
        let words = "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")";
        check_at(Level::Baseline, Version::Minor(34), probe, Some(words));
        let plain = json!({"containers": [{"name": "a", "securityContext": {"runAsUser": 0, "capabilities": {"add": ["SYS_TIME"]}}}]});
        check_at(
            Level::Restricted,
            Version::Minor(7),
            plain.clone(),
            Some(concat!(
                "non-default capabilities (container \"a\" must not include \"SYS_TIME\" in securityContext.capabilities.add), ",
                "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
            )),
        );
        let newer = violations(Policy { level: Level::Restricted, version: Version::Minor(23) }, &Value::Null, &plain).reasons();
        let expected =
            ["allowPrivilegeEscalation != false", "unrestricted capabilities", "runAsNonRoot != true", "runAsUser=0", "seccompProfile"];
        assert_eq!(newer, expected);
        let windows = json!({"os": {"name": "windows"}, "containers": [{"name": "a"}], "securityContext": {"runAsNonRoot": true}});
        check_at(Level::Restricted, Version::Minor(25), windows.clone(), None);
        assert_eq!(violations(Policy { level: Level::Restricted, version: Version::Minor(24) }, &Value::Null, &windows).reasons().len(), 3);
    }

    #[test]
    fn old_versions_look_at_the_annotations_of_seccomp() {
        let metadata = json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}});
        let spec = json!({"containers": [{"name": "a"}], "securityContext": {"seccompProfile": {"type": "Unconfined"}}});
        let words = |minor| violations(Policy { level: Level::Baseline, version: Version::Minor(minor) }, &metadata, &spec).in_words();
        let old = "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")";
        assert_eq!(words(18).as_deref(), Some(old));
        assert_eq!(words(19).as_deref(), Some("seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")"));
    }

    #[test]
    fn what_baseline_checks_comes_first_and_pods_are_named_with_their_containers() {
        check(
            Level::Restricted,
            json!({
                "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {}}],
                "securityContext": {"runAsNonRoot": false, "seccompProfile": {"type": "Unconfined"}, "seLinuxOptions": {"type": "x", "user": "u"}},
                "containers": [{"name": "a", "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": false,
                }}],
            }),
            Some(concat!(
                "host namespaces (hostPID=true), ",
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set), ",
                "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\"), ",
                "runAsNonRoot != true (pod and container \"a\" must not set securityContext.runAsNonRoot=false), ",
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            )),
        );
    }

    fn labelled(labels: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap()
    }

    #[test]
    fn labels_that_name_no_level_or_version_are_wrong_and_restrict() {
        let bad = labelled(json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "v1.01"}));
        let texts: Vec<String> = label_problems(&bad).iter().map(ToString::to_string).collect();
        let enforce = "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted";
        let version = "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.01\": must be \"latest\" or \"v1.x\"";
        assert_eq!(texts, [enforce, version]);
        assert_eq!(policy(&bad, "enforce"), Policy { level: Level::Restricted, version: Version::Latest });
        let good = labelled(json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.28"}));
        assert!(label_problems(&good).is_empty());
        assert_eq!(policy(&good, "enforce").to_string(), "baseline:v1.28");
    }

    #[test]
    fn pods_that_break_a_new_level_are_told_by_their_reasons() {
        let pod = |name: &str, spec: Value| Object::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        let host = || json!({"hostPID": true, "containers": [{"name": "a"}]});
        let pods = [pod("a", host()), pod("b", json!({"containers": [{"name": "a"}]})), pod("c", host())];
        let policy = Policy { level: Level::Baseline, version: Version::Latest };
        assert_eq!(broken_by_pods(policy, pods.iter()), ["a (and 1 other pod): host namespaces"]);
    }

    #[test]
    fn the_restricted_level_wants_everything_said() {
        check(
            Level::Restricted,
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            Some(concat!(
                "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), ",
                "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), ",
                "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), ",
                "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            )),
        );
        let container = json!({"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
        let context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        check(Level::Restricted, json!({"containers": [container], "securityContext": context}), None);
    }

    #[test]
    fn the_baseline_keeps_pods_off_their_host() {
        check(Level::Baseline, json!({"containers": [{"name": "a"}]}), None);
        check(Level::Privileged, json!({"hostPID": true, "containers": []}), None);
        check(
            Level::Baseline,
            json!({
                "hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
                "containers": [{"name": "a", "ports": [{"hostPort": 80}], "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}}}],
            }),
            Some(concat!(
                "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add), ",
                "host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"v\"), hostPort (container \"a\" uses hostPort 80), ",
                "privileged (container \"a\" must not set securityContext.privileged=true)",
            )),
        );
    }
}
