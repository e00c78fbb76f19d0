//! PodSecurity: pods keep to the level that their namespace's labels name: `privileged`, `baseline` or `restricted`.
//!
//! A pod that breaks the level of `enforce` is refused; breaking that of `warn` is told to the client, also for the templates
//! of workloads. [`baseline`] and [`restricted`] hold the rules of the levels. Versions of the levels are read, but the newest
//! rules always hold. Source: Kubernetes `pod-security-admission`, and the page "Pod Security Standards".

mod baseline;
mod restricted;
mod violations;

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::Value;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation},
    core::Core,
};

use violations::Violations;

/// The plug-in.
pub struct PodSecurity;

/// How much a pod may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level with its version, as the labels of a namespace say it for `enforce` or `warn`.
struct Policy {
    level: Level,
    /// `restricted:latest`
    words: String,
}

fn policy(namespace: &Object, mode: &str) -> Policy {
    let label = |name: String| namespace.labels().and_then(|labels| labels.get(&name)).and_then(Value::as_str).map(str::to_owned);
    let name = label(format!("pod-security.kubernetes.io/{mode}")).unwrap_or_else(|| "privileged".to_owned());
    let version = label(format!("pod-security.kubernetes.io/{mode}-version")).unwrap_or_else(|| "latest".to_owned());
    let level = match name.as_str() {
        "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        // As upstream, what cannot be read restricts.
        _ => Level::Restricted,
    };
    Policy { level, words: format!("{name}:{version}") }
}

/// What of a level a pod's metadata and specification break, in words; none where they keep to it.
fn broken(level: Level, metadata: &Value, spec: &Value) -> Option<String> {
    let mut violations = Violations::default();
    match level {
        Level::Privileged => return None,
        Level::Baseline => baseline::check(metadata, spec, &mut violations, false),
        Level::Restricted => {
            baseline::check(metadata, spec, &mut violations, true);
            restricted::check(spec, &mut violations);
        }
    }
    violations.in_words()
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
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let is_write = matches!(attributes.operation, Operation::Create | Operation::Update) && matches!(attributes.subresource, "" | "ephemeralcontainers");
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
        let (enforced, warned) = (policy(&namespace, "enforce"), policy(&namespace, "warn"));
        let is_pod = &*attributes.kind.info().plural == "pods";
        if is_pod && let Some(words) = broken(enforced.level, metadata, spec) {
            return Err(attributes.forbidden(format!("violates PodSecurity {:?}: {words}", enforced.words)));
        }
        if let Some(words) = broken(warned.level, metadata, spec) {
            attributes.context.warn(format!("would violate PodSecurity {:?}: {words}", warned.words));
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
        assert_eq!(broken(level, &Value::Null, &spec).as_deref(), expected);
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
