//! StorageVersion, in which servers say how they store a resource, and StorageVersionMigration, which wants it stored anew.
//!
//! Source: Kubernetes `pkg/apis/apiserverinternal/validation` and `pkg/apis/storagemigration/validation`.

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value};

use crate::{
    cells,
    problems::immutable,
    status_rules,
    strategy::{Column, NameRule, Strategy, WriteContext},
};

/// Behaviour of storage versions.
pub struct StorageVersionStrategy;
/// Behaviour of migrations.
pub struct StorageVersionMigrationStrategy;

fn part<'a>(object: &'a Map<String, Value>, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// `apps.deployments`: a group and a resource.
fn name_problems(name: &str) -> Vec<String> {
    let Some((group, resource)) = name.rsplit_once('.') else { return vec!["name must be in the form of <group>.<resource>".to_owned()] };
    let of_group = rules::dns1123_subdomain_problems(group).into_iter().map(|problem| format!("the group segment {problem}"));
    of_group.chain(rules::dns1035_label_problems(resource).into_iter().map(|problem| format!("the resource segment {problem}"))).collect()
}

/// What is wrong with `apps/v1` or `v1`, in one line.
fn version_problem(version: &str) -> Option<String> {
    const EMPTY: &str = "must be non-empty";
    let mut wrong = Vec::new();
    let parts: Vec<&str> = version.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [group, name] => {
            let problems = if group.is_empty() { vec![EMPTY.to_owned()] } else { rules::dns1123_subdomain_problems(group) };
            wrong.extend(problems.into_iter().map(|problem| format!("group part: {problem}")));
            name
        }
        _ => {
            return Some(
                "an apiVersion is a DNS-1035 label, which must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
                 and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?') \
                 with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyVersion')"
                    .to_owned(),
            );
        }
    };
    let problems = if name.is_empty() { vec![EMPTY.to_owned()] } else { rules::dns1035_label_problems(name) };
    wrong.extend(problems.into_iter().map(|problem| format!("version part: {problem}")));
    (!wrong.is_empty()).then(|| wrong.join(","))
}

fn of_server(server: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (id, encoding) = (text(server, "apiServerID"), text(server, "encodingVersion"));
    problems.extend(rules::invalid_each(&path.child("apiServerID"), id, rules::dns1123_subdomain_problems(id)));
    let mut version = |version: &str, at: FieldPath| {
        if let Some(problem) = version_problem(version) {
            problems.push(FieldError::invalid(&at, version, problem));
        }
    };
    version(encoding, path.child("encodingVersion"));
    let texts = |field: &str| -> Vec<&str> { list(server, field).iter().filter_map(Value::as_str).collect() };
    let (decodable, served) = (texts("decodableVersions"), texts("servedVersions"));
    for (index, one) in decodable.iter().enumerate() {
        version(one, path.child("decodableVersions").index(index));
    }
    for (index, one) in served.iter().enumerate() {
        version(one, path.child("servedVersions").index(index));
    }
    if !decodable.contains(&encoding) {
        let detail = format!("decodableVersions must include encodingVersion {encoding}");
        problems.push(FieldError::invalid(&path.child("decodableVersions"), decodable.clone(), detail));
    }
    for (index, one) in served.iter().enumerate().filter(|(_, one)| !decodable.contains(one)) {
        let detail = format!("individual served version : {one} must be included in decodableVersions : [{}]", decodable.join(" "));
        problems.push(FieldError::invalid(&path.child("servedVersions").index(index), *one, detail));
    }
}

impl Strategy for StorageVersionStrategy {
    type Kind = Map<String, Value>;

    fn prepare_create(&self, _context: &WriteContext, version: &mut Self::Kind) {
        version.remove("status");
    }
    fn validate(&self, version: &Self::Kind) -> Vec<FieldError> {
        let name = text(part(version, "metadata"), "name");
        rules::invalid_each(&FieldPath::new("metadata").child("name"), name, name_problems(name))
    }
    fn validate_update(&self, _version: &Self::Kind, _old: &Self::Kind) -> Vec<FieldError> {
        Vec::new()
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, version: &Self::Kind, _old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, status) = (FieldPath::new("status"), part(version, "status"));
        let servers = list(status, "storageVersions");
        for (index, server) in servers.iter().enumerate() {
            let at = path.child("storageVersions").index(index);
            if servers.iter().take(index).any(|earlier| text(earlier, "apiServerID") == text(server, "apiServerID")) {
                problems.push(FieldError::duplicate(&at.child("apiServerID"), text(server, "apiServerID")));
            }
            of_server(server, &at, &mut problems);
        }
        let encodings: Vec<&str> = servers.iter().map(|server| text(server, "encodingVersion")).collect();
        let common = encodings.first().filter(|first| encodings.iter().all(|one| one == *first)).copied();
        let at = path.child("commonEncodingVersion");
        match (common, status.get("commonEncodingVersion").and_then(Value::as_str)) {
            (None, Some(told)) => problems.push(FieldError::invalid(
                &at,
                told,
                "should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet",
            )),
            (Some(common), None) => problems.push(FieldError::invalid(&at, Value::Null, format!("the common encoding version is {common}"))),
            (Some(common), Some(told)) if common != told => {
                problems.push(FieldError::invalid(&at, told, format!("the actual common encoding version is {common}")));
            }
            _ => {}
        }
        let conditions = list(status, "conditions");
        for (index, condition) in conditions.iter().enumerate() {
            // Upstream leaves the name of the field out of the path.
            let at = path.index(index);
            if let Some(earlier) = conditions.iter().take(index).rposition(|earlier| text(earlier, "type") == text(condition, "type")) {
                let detail = format!("the type of the condition is not unique, it also appears in conditions[{earlier}]");
                problems.push(FieldError::invalid(&at.child("type"), text(condition, "type"), detail));
            }
            for field in ["type", "status"] {
                let given = text(condition, field);
                problems.extend(rules::invalid_each(&at.child(field), given, rules::qualified_name_problems(given)));
            }
            for field in ["reason", "message"] {
                if text(condition, field).is_empty() {
                    problems.push(FieldError::required(&at.child(field), format!("{field} cannot be empty")));
                }
            }
        }
        problems
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Any
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("CommonEncodingVersion", "How all servers store it."),
            Column::text("StorageVersions", "How each of them stores it."),
            Column::AGE,
        ] }
    }
    fn row(&self, version: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        const SHOWN: usize = 3;
        let status = part(version, "status");
        let servers: Vec<String> =
            list(status, "storageVersions").iter().map(|server| format!("{}={}", text(server, "apiServerID"), text(server, "encodingVersion"))).collect();
        let mut told = servers.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
        if servers.len() > SHOWN {
            told.push_str(&format!(" + {} more...", servers.len() - SHOWN));
        }
        if told.is_empty() {
            told.push_str("<unset>");
        }
        vec![raw.name().into(), cells::or_unset(Some(text(status, "commonEncodingVersion"))), told.into(), cells::created(raw)]
    }
}

impl Strategy for StorageVersionMigrationStrategy {
    type Kind = Map<String, Value>;

    fn prepare_create(&self, _context: &WriteContext, migration: &mut Self::Kind) {
        migration.remove("status");
    }
    fn validate(&self, migration: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec").child("resource");
        let resource = part(migration, "spec").get("resource").unwrap_or(&Value::Null);
        let (group, name) = (text(resource, "group"), text(resource, "resource"));
        let mut joined = |field: &str, given: &str, wrong: Vec<String>| {
            if !wrong.is_empty() {
                problems.push(FieldError::invalid(&path.child(field), given, wrong.join(",")));
            }
        };
        if !group.is_empty() {
            joined("group", group, rules::dns1123_subdomain_problems(group));
        }
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("resource"), "resource is required to be set"));
        } else {
            joined("resource", name, rules::dns1035_label_problems(name));
        }
        problems
    }
    fn validate_update(&self, migration: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = self.validate(migration);
        immutable(part(migration, "spec"), part(old, "spec"), &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, migration: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, status, known) = (FieldPath::new("status"), part(migration, "status"), part(old, "status"));
        let (version, before) = (text(status, "resourceVersion"), text(known, "resourceVersion"));
        let at = path.child("resourceVersion");
        if !version.is_empty() && (version.starts_with('0') || !version.bytes().all(|byte| byte.is_ascii_digit())) {
            problems.push(FieldError::invalid(&at, version, format!("resource version is not well formed: {version}")));
        }
        let conditions = list(status, "conditions");
        let at_conditions = path.child("conditions");
        status_rules::untyped_conditions(conditions, &at_conditions, &mut problems);
        if !before.is_empty() && before != version {
            problems.push(FieldError::invalid(&at, version, "field is immutable"));
        }
        let is = |status: &Value, kind: &str| list(status, "conditions").iter().any(|one| text(one, "type") == kind && text(one, "status") == "True");
        let (succeeded, failed, running) = (is(status, "Succeeded"), is(status, "Failed"), is(status, "Running"));
        for (is_wrong, detail) in [
            (succeeded && failed, "Both success and failed conditions cannot be true at the same time"),
            (succeeded && running, "Running condition cannot be true when success condition is true"),
            (failed && running, "Running condition cannot be true when failed condition is true"),
            (is(known, "Succeeded") && !succeeded, "Success condition cannot be set to false once it is true"),
            (is(known, "Failed") && !failed, "Failed condition cannot be set to false once it is true"),
        ] {
            if is_wrong {
                problems.push(FieldError::invalid(&at_conditions, conditions.to_vec(), detail));
            }
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column { format: "", ..Column::NAME }, Column::text("Resource", "What is stored anew.")] }
    }
    fn row(&self, migration: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let resource = part(migration, "spec").get("resource").unwrap_or(&Value::Null);
        let (group, name) = (text(resource, "group"), text(resource, "resource"));
        let told = if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") };
        vec![raw.name().into(), told.into()]
    }
}
