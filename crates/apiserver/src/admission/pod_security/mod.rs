//! PodSecurity: pods keep to the level that their namespace's labels name: `privileged`, `baseline` or `restricted`.
//!
//! A pod that breaks the level of `enforce` is refused; breaking that of `warn` is told to the client, that of `audit` is counted, both also
//! for the templates of workloads. [`baseline`] and [`restricted`] hold the rules of the levels, each with the [`version`] that began to
//! have it. Labels that name no level or version are refused, and whoever makes a namespace stricter is told which of its pods break the new
//! level. [`configuration`] says what holds without labels, and who is exempt. There is no log of requests that annotations of `audit` could
//! go to. Source: Kubernetes `pod-security-admission`, and the page "Pod Security Standards".

mod baseline;
mod configuration;
mod restricted;
mod version;
mod violations;

use std::collections::HashSet;

use async_trait::async_trait;
use meta::{ApiError, FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
    metrics::{PodSecurityLabels, PodSecurityRequest},
};

use version::Version;
use violations::Violations;

pub use configuration::Configuration;

/// The plug-in.
#[derive(Default)]
pub struct PodSecurity {
    configuration: Configuration,
}

impl PodSecurity {
    /// With an administrator's settings.
    pub fn new(configuration: Configuration) -> Self {
        Self { configuration }
    }
}

/// What a level may be.
const LEVEL_WORDS: &str = "must be one of privileged, baseline, restricted";
/// What a version may be.
const VERSION_WORDS: &str = "must be \"latest\" or \"v1.x\"";

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

/// All labels of a namespace that count here.
const LABELS: [&str; 6] = [
    "pod-security.kubernetes.io/enforce",
    "pod-security.kubernetes.io/enforce-version",
    "pod-security.kubernetes.io/audit",
    "pod-security.kubernetes.io/audit-version",
    "pod-security.kubernetes.io/warn",
    "pod-security.kubernetes.io/warn-version",
];

fn label(mode: &str, suffix: &str) -> String {
    format!("pod-security.kubernetes.io/{mode}{suffix}")
}

/// What is wrong with the labels of a namespace.
fn label_problems(namespace: &Object) -> Vec<FieldError> {
    let mut problems = Vec::new();
    for mode in ["enforce", "audit", "warn"] {
        for (suffix, is_good, words) in [
            ("", (|text| Level::parse(text).is_some()) as fn(&str) -> bool, LEVEL_WORDS),
            ("-version", |text| Version::parse(text).is_some(), VERSION_WORDS),
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

/// The uid of whoever made a pod and keeps it.
fn controller_of(pod: &Object) -> Option<String> {
    let owners = pod.get(&["metadata", "ownerReferences"]).and_then(Value::as_array);
    let controller = owners.into_iter().flatten().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
    controller.get("uid").and_then(Value::as_str).map(str::to_owned)
}

/// Pods in the order in which they are looked at: of each controller one first, since its others will be alike.
fn of_different_controllers_first(pods: impl Iterator<Item = Object>) -> Vec<Object> {
    let mut controllers = HashSet::new();
    let (mut first, rest): (Vec<Object>, Vec<Object>) = pods.partition(|pod| match controller_of(pod) {
        Some(uid) => controllers.insert(uid),
        None => true,
    });
    first.extend(rest);
    first
}

impl PodSecurity {
    /// A namespace gets labels that can be read, and whoever makes it stricter is told of the pods that are in it.
    fn namespace(&self, core: &Core, attributes: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Result<(), ApiError> {
        let problems = label_problems(new);
        // Labels that were wrong before in the same way do not keep anybody from changing something else.
        if !problems.is_empty() && old.is_none_or(|old| label_problems(old) != problems) {
            return Err(ApiError::invalid(&attributes.kind.info().kind.group_kind(), new.name(), problems));
        }
        let is_exempt = self.configuration.exempts_namespace(new.name());
        let tell_if_ignored = || {
            if let Some(words) = self.configuration.ignored(new) {
                attributes.context.warn(words);
            }
        };
        let Some(old) = old else {
            if is_exempt {
                tell_if_ignored();
            }
            return Ok(());
        };
        let (after, before) = (self.configuration.policies(new).enforce, self.configuration.policies(old).enforce);
        if after == before || after.level == Level::Privileged || (after.version == before.version && after.level <= before.level) {
            return Ok(());
        }
        if is_exempt {
            tell_if_ignored();
            return Ok(());
        }
        let snapshot = core.view.snapshot(&core.view_named("pods"));
        let prefix = format!("{}/", new.name());
        let pods = snapshot.range(&prefix, None).filter_map(|stored| stored.object().ok());
        let pods = of_different_controllers_first(pods.filter(|pod| !pod.get(&["spec"]).is_some_and(|spec| self.configuration.exempts_runtime_class(spec))));
        let lines = broken_by_pods(after, pods.iter().take(MOST_PODS));
        if pods.len() > MOST_PODS {
            attributes.context.warn(format!("new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods", pods.len()));
        }
        if !lines.is_empty() {
            attributes.context.warn(format!("existing pods in namespace {:?} violate the new PodSecurity enforce level {:?}", new.name(), after.to_string()));
            for line in lines {
                attributes.context.warn(line);
            }
        }
        Ok(())
    }
}

/// Whether an update of a pod may change what a level says of it: other images, or other containers. All else of a pod's specification that
/// can be changed makes none less secure, and pods from before the labels are to be updated like others.
/// Source: upstream's `isSignificantPodUpdate`.
fn is_significant(new: &Value, old: &Value) -> bool {
    fn containers<'a>(spec: &'a Value, field: &str) -> &'a [Value] {
        spec.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }
    let differ = |field: &str| {
        let (new, old) = (containers(new, field), containers(old, field));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| new.get("image") != old.get("image"))
    };
    let of_debugging = |spec| containers(spec, "ephemeralContainers");
    let is_new = |container: &Value| {
        let before = of_debugging(old).iter().find(|old| old.get("name") == container.get("name"));
        before.is_none_or(|old| old.get("image") != container.get("image"))
    };
    differ("containers") || differ("initContainers") || of_debugging(new).iter().any(is_new)
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
        let info = attributes.kind.info();
        let is_pod = info.kind.group.is_empty() && &*info.plural == "pods";
        let is_looked_at = attributes.subresource.is_empty() || is_pod && matches!(attributes.subresource, "ephemeralcontainers" | "resize");
        let is_write = matches!(attributes.operation, Operation::Create | Operation::Update) && is_looked_at;
        let Some(object) = object.filter(|_| is_write) else { return Ok(()) };
        if info.kind.group.is_empty() && &*info.plural == "namespaces" {
            return self.namespace(core, attributes, object, old);
        }
        if attributes.namespace.is_empty() {
            return Ok(());
        }
        let Some((metadata, spec)) = pod_of(attributes, object) else { return Ok(()) };
        let request_operation = if attributes.operation == Operation::Create { "create" } else { "update" };
        let resource = if is_pod { "pod" } else { "controller" };
        let subresource = attributes.subresource.to_owned();
        let metrics = &core.metrics.pod_security;
        let exempt = || metrics.exempt(PodSecurityRequest { request_operation, resource, subresource: subresource.clone() });
        if self.configuration.exempts(attributes.namespace, &attributes.user.name) {
            exempt();
            return Ok(());
        }
        let Some(stored) = core.view_named("namespaces").get(attributes.namespace) else { return Ok(()) };
        // Most namespaces have none of these labels, and are not read.
        let is_labelled = LABELS.iter().any(|label| stored.label(label).is_some());
        let namespace = if is_labelled { stored.object().map_err(ApiError::internal)? } else { Object::default() };
        let policies = self.configuration.policies(&namespace);
        let count = |denied: bool, policy: Policy, mode: &'static str| {
            metrics.evaluated(PodSecurityLabels {
                decision: if denied { "deny" } else { "allow" },
                policy_level: policy.level.name(),
                policy_version: if policy.level == Level::Privileged { "latest".to_owned() } else { policy.version.in_metrics() },
                mode,
                request_operation,
                resource,
                subresource: subresource.clone(),
            });
        };
        let are_wrong = !label_problems(&namespace).is_empty();
        if !are_wrong && is_pod && policies.allow_everything() {
            count(false, policies.enforce, "enforce");
            return Ok(());
        }
        if !are_wrong && !is_pod && policies.warn.level == Level::Privileged && policies.audit.level == Level::Privileged {
            return Ok(());
        }
        if is_pod && attributes.operation == Operation::Update && old.and_then(|old| old.get(&["spec"])).is_some_and(|old| !is_significant(spec, old)) {
            return Ok(());
        }
        if self.configuration.exempts_runtime_class(spec) {
            exempt();
            return Ok(());
        }
        if are_wrong {
            metrics.failed(PodSecurityRequest { request_operation, resource, subresource: subresource.clone() });
        }
        let in_words = |policy: Policy| violations(policy, metadata, spec).in_words();
        let enforced = if is_pod { in_words(policies.enforce) } else { None };
        if is_pod {
            count(enforced.is_some(), policies.enforce, "enforce");
        }
        if in_words(policies.audit).is_some() {
            count(true, policies.audit, "audit");
        }
        if let Some(words) = enforced {
            return Err(attributes.forbidden(format!("violates PodSecurity {:?}: {words}", policies.enforce.to_string())));
        }
        if let Some(words) = in_words(policies.warn) {
            count(true, policies.warn, "warn");
            attributes.context.warn(format!("would violate PodSecurity {:?}: {words}", policies.warn.to_string()));
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
        let enforced = |namespace| Configuration::default().policies(namespace).enforce;
        assert_eq!(enforced(&bad), Policy { level: Level::Restricted, version: Version::Latest });
        let good = labelled(json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.28"}));
        assert!(label_problems(&good).is_empty());
        assert_eq!(enforced(&good).to_string(), "baseline:v1.28");
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
