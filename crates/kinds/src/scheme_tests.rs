//! Walks the scheme: what every kind promises, and what a written object looks like after defaults.

use jiff::Timestamp;
use meta::Object;
use serde_json::{Value, json};

use crate::{RuntimeConfig, Scheme, ServedKind, WriteContext, served::serve};

fn scheme() -> &'static Scheme {
    static SCHEME: std::sync::OnceLock<Scheme> = std::sync::OnceLock::new();
    // Betas and alphas keep the same promises.
    SCHEME.get_or_init(|| serve(&RuntimeConfig::parse("api/all=true").unwrap()))
}

fn kind(api_version: &str, name: &str) -> std::sync::Arc<dyn ServedKind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    scheme().by_kind(&meta::names::GroupVersionKind::new(group, version, name)).unwrap().clone()
}

fn context() -> WriteContext {
    WriteContext { now: now(), user: "somebody".to_owned(), groups: Vec::new(), uid: String::new(), extra: std::collections::BTreeMap::new(), dry_run: false }
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn written(value: Value) -> (Object, Vec<String>) {
    let mut object = Object::from_value(value).unwrap();
    let kind = kind(&object.api_version().to_owned(), &object.kind().to_owned());
    kind.default(&mut object).unwrap();
    let problems = kind.finish_create(&context(), &mut object).unwrap();
    (object, problems.iter().map(ToString::to_string).collect())
}

/// `expected` must be contained in what is written.
#[track_caller]
fn check(value: Value, expected: Value) {
    let (object, problems) = written(value);
    assert_eq!(problems, Vec::<String>::new());
    contains(&object.into_value(), &expected, "");
}

#[track_caller]
fn contains(value: &Value, expected: &Value, path: &str) {
    match (value, expected) {
        (Value::Object(value), Value::Object(expected)) => {
            for (key, expected) in expected {
                match value.get(key) {
                    Some(found) => contains(found, expected, &format!("{path}.{key}")),
                    None => panic!("{path}.{key} is absent"),
                }
            }
        }
        (Value::Array(value), Value::Array(expected)) if value.len() == expected.len() => {
            value.iter().zip(expected).for_each(|(value, expected)| contains(value, expected, &format!("{path}[]")));
        }
        _ => assert_eq!(value, expected, "{path}"),
    }
}

#[track_caller]
fn refused(value: Value, expected: &[&str]) {
    assert_eq!(written(value).1, expected);
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "nginx"}]}})
}

#[test]
fn every_row_has_a_cell_per_column() {
    for kind in scheme().kinds() {
        let info = kind.info();
        let object = json!({"apiVersion": info.kind.group_version().to_string(), "kind": &*info.kind.kind, "metadata": {"name": "x"}});
        let object = Object::from_value(object).unwrap();
        assert_eq!(kind.row(&object, now()).len(), kind.columns().len(), "{}", info.kind.kind);
    }
}

#[test]
fn every_selectable_field_has_a_value_and_a_name() {
    for kind in scheme().kinds() {
        let info = kind.info();
        let object = json!({"apiVersion": info.kind.group_version().to_string(), "kind": &*info.kind.kind, "metadata": {"name": "x"}});
        let values = kind.selectable_fields(&Object::from_value(object).unwrap());
        if info.kind.kind.as_ref() != "Event" {
            assert!(values.iter().all(|(name, _)| kind.is_selectable(name)), "{}", info.kind.kind);
        }
    }
}

#[test]
fn an_empty_object_of_any_kind_is_refused_or_taken_but_never_breaks() {
    for kind in scheme().kinds() {
        let info = kind.info();
        let object = json!({"apiVersion": info.kind.group_version().to_string(), "kind": &*info.kind.kind, "metadata": {"name": "x"}});
        let mut object = Object::from_value(object).unwrap();
        // Twice, since reading makes required parts that are missing, and those get their defaults then.
        kind.default(&mut object).unwrap();
        kind.default(&mut object).unwrap();
        let once = object.clone();
        kind.default(&mut object).unwrap();
        assert_eq!(object, once, "defaults of {} change what they made", info.kind.kind);
        kind.finish_create(&context(), &mut object).unwrap();
        kind.finish_update(&context(), &mut object.clone(), &object).unwrap();
        kind.finish_status_update(&context(), &mut object.clone(), &object).unwrap();
    }
}

#[test]
fn pods_get_their_defaults() {
    check(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "a", "image": "nginx:1.27",
            "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}]}}),
        json!({"spec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "terminationGracePeriodSeconds": 30, "securityContext": {},
            "containers": [{"imagePullPolicy": "IfNotPresent", "terminationMessagePolicy": "File", "ports": [{"protocol": "TCP"}],
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                "readinessProbe": {"periodSeconds": 10, "httpGet": {"scheme": "HTTP", "path": "/"}}}],
            "volumes": [{"emptyDir": {}}, {"configMap": {"defaultMode": 420}}]},
            "status": {"phase": "Pending", "qosClass": "Guaranteed"}}),
    );
}

#[test]
fn workloads_get_their_defaults() {
    check(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template()}}),
        json!({"spec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}}),
    );
    check(
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template()}}),
        json!({"spec": {"podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}}),
    );
    let mut once = template();
    once["spec"]["restartPolicy"] = json!("Never");
    check(
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x", "uid": "1-2"}, "spec": {"template": once}}),
        json!({"spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "1-2"}},
            "template": {"metadata": {"labels": {"job-name": "x", "controller-uid": "1-2"}}}}}),
    );
}

#[test]
fn the_rest_of_core_gets_its_defaults() {
    check(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}),
        json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "x"}}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    );
    check(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": "b"}}),
        json!({"type": "Opaque", "data": {"a": "Yg=="}}),
    );
    check(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}}),
        json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": [{"targetPort": 80, "protocol": "TCP"}]}, "status": {"loadBalancer": {}}}),
    );
}

#[test]
fn mistakes_are_told_in_upstreams_words() {
    refused(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}}),
        &["spec.containers: Required value"],
    );
    refused(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "A", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
        &[
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.containers[0].image: Required value",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ],
    );
    refused(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": template()}}),
        &["spec.selector: Required value"],
    );
    refused(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": "other"}}, "template": template()}}),
        &["spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"],
    );
    refused(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {}}),
        &["spec.ports: Required value"],
    );
}

#[test]
fn both_events_are_one() {
    let new = kind("events.k8s.io/v1", "Event");
    let object = Object::from_value(json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"name": "web"}, "note": "n", "reportingController": "c"})).unwrap();
    let stored = new.to_storage(object.clone()).unwrap();
    assert_eq!(
        stored.clone().into_value(),
        json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "web"}, "message": "n", "reportingComponent": "c"})
    );
    assert_eq!(new.from_storage(stored).unwrap(), object);
}

/// Writes `before`, then `after` over it.
#[track_caller]
fn change_refused(before: Value, after: Value, expected: &[&str]) {
    let (old, problems) = written(before);
    assert_eq!(problems, Vec::<String>::new());
    let mut new = Object::from_value(after).unwrap();
    let kind = kind(&new.api_version().to_owned(), &new.kind().to_owned());
    kind.default(&mut new).unwrap();
    let problems = kind.finish_update(&context(), &mut new, &old).unwrap();
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn what_may_not_change_is_kept() {
    let pod = |image: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"nodeName": node, "containers": [{"name": "a", "image": image, "imagePullPolicy": "Always"}]}})
    };
    change_refused(pod("nginx:1", "n"), pod("nginx:2", "n"), &[]);
    let (_, problems) = written(pod("nginx:1", "n"));
    assert!(problems.is_empty());
    change_refused(
        pod("nginx:1", "n"),
        pod("nginx:1", "m"),
        &["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"],
    );
    let map = |value: &str, immutable: bool| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": value}, "immutable": immutable})
    };
    change_refused(map("1", true), map("2", true), &["data: Forbidden: field is immutable when `immutable` is set"]);
    let deployment = |app: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": app}},
            "template": {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}}})
    };
    change_refused(deployment("a"), deployment("b"), &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]);
    let class = |value: i32| json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "x"}, "value": value});
    change_refused(class(1), class(2), &["value: Forbidden: may not be changed in an update."]);
}

#[test]
fn deleting_a_pod_waits_for_its_node_only() {
    use crate::DeletionGrace::{Immediate, Seconds};
    let pod = |node: &str, phase: &str| {
        Object::from_value(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node, "containers": [], "terminationGracePeriodSeconds": 20}, "status": {"phase": phase}})).unwrap()
    };
    let kind = kind("v1", "Pod");
    for (object, requested, expected) in [
        (pod("n", "Running"), None, Seconds(20)),
        (pod("n", "Running"), Some(5), Seconds(5)),
        (pod("n", "Running"), Some(0), Immediate),
        (pod("", "Pending"), None, Immediate),
        (pod("n", "Succeeded"), Some(5), Immediate),
    ] {
        assert_eq!(kind.deletion_grace(&object, requested), expected);
    }
}

#[test]
fn small_groups_get_their_defaults() {
    check(
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "x"},
            "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]}),
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io"}]}),
    );
    check(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}, "spec": {"podSelector": {}}}),
        json!({"spec": {"policyTypes": ["Ingress"]}}),
    );
    check(
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
        json!({"spec": {"minReplicas": 1, "metrics": [{"resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
    );
}

/// Columns as `columns.txt` writes them.
fn as_in_the_table(columns: &[crate::scheme::TableColumn]) -> String {
    let one = |column: &crate::scheme::TableColumn| {
        let kind = match column.kind.as_str() {
            "string" => "",
            "date" if column.name != "Created At" => "",
            other => other,
        };
        let colon = if kind.is_empty() { "" } else { ":" };
        format!("{}{colon}{kind}{}", column.name, if column.priority > 0 { "+" } else { "" })
    };
    columns.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_kind_is_printed_in_upstreams_columns() {
    let table = include_str!("columns.txt").lines().filter(|line| !line.starts_with('#'));
    let expected: std::collections::BTreeMap<&str, &str> = table.map(|line| line.split_once(": ").expect("a kind and its columns")).collect();
    let scheme = crate::served::every();
    let (mut wrong, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
    for kind in scheme.kinds() {
        // Definitions have their columns where their schemas are read, and what is only asked has none.
        let info = kind.info();
        if &*info.kind.kind == "CustomResourceDefinition" || !info.verbs.iter().any(|verb| verb == "list") {
            continue;
        }
        let name = format!("{}.{}", info.kind.kind, info.kind.group);
        let (found, expected) = (as_in_the_table(&kind.columns()), expected.get(name.as_str()).copied().unwrap_or("Name, Age"));
        if found != expected {
            wrong.push(format!("{name} {}\n  has      {found}\n  upstream {expected}", info.kind.version));
        }
        seen.insert(name);
    }
    let unknown: Vec<_> = expected.keys().filter(|name| !seen.contains(**name)).collect();
    assert!(wrong.is_empty() && unknown.is_empty(), "{}\nnot served: {unknown:?}", wrong.join("\n"));
}
