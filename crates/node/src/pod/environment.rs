//! A container's environment: services, `envFrom`, `env`, and `$(NAME)` in values, commands and arguments.
//! Source: Kubernetes 1.36, `pkg/kubelet/kubelet_pods.go`, `makeEnvironmentVariables`; `third_party/forked/golang/expansion`.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::{env_file, field_values::{NodeFacts, field_value, resource_value}};

/// What the environment is taken from: config maps, secrets, and files in volumes.
pub trait Lookup {
    /// All keys of a config map, `None` where it does not exist.
    fn config_map(&self, name: &str) -> Option<&std::collections::BTreeMap<String, Vec<u8>>>;
    /// All keys of a secret, `None` where it does not exist.
    fn secret(&self, name: &str) -> Option<&std::collections::BTreeMap<String, Vec<u8>>>;
    /// The content of a file in a volume of the pod, `None` where it does not exist.
    ///
    /// # Errors
    /// There is no such volume, or the file cannot be read.
    fn file(&self, volume: &str, path: &str) -> Result<Option<String>, String>;
}

/// Makes a container's environment, in the order in which later values may refer to earlier ones.
///
/// # Errors
/// The message of the container's `CreateContainerConfigError`, in upstream's words.
pub fn environment(
    pod: &Pod,
    container: &Container,
    services: Vec<(String, String)>,
    lookup: &dyn Lookup,
    facts: &NodeFacts,
) -> Result<Vec<(String, String)>, String> {
    let mut result = Ordered::default();
    let namespace = super::namespace(pod);
    for from in container.env_from.iter().flatten() {
        let (kind, name, optional, content) = if let Some(source) = &from.config_map_ref {
            ("configmap", &source.name, source.optional, lookup.config_map(&source.name))
        } else if let Some(source) = &from.secret_ref {
            ("secret", &source.name, source.optional, lookup.secret(&source.name))
        } else {
            continue;
        };
        let Some(content) = content else {
            if optional.unwrap_or(false) {
                continue;
            }
            return Err(format!("{kind} \"{name}\" not found"));
        };
        for (key, value) in content {
            let key = format!("{}{key}", from.prefix.as_deref().unwrap_or_default());
            // Keys that cannot be names of variables are left out; upstream reports them in an event and goes on.
            if is_variable_name(&key) {
                result.set(key, String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    let services: HashMap<String, String> = services.into_iter().collect();
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| result.get(name).or_else(|| services.get(name).cloned())))
            }
            (_, Some(source)) => from_source(pod, container, source, lookup, facts, namespace)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            result.set(variable.name.clone(), value);
        }
    }
    let mut services: Vec<_> = services.into_iter().filter(|(name, _)| result.get(name).is_none()).collect();
    services.sort();
    result.entries.extend(services);
    Ok(result.entries)
}

fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    lookup: &dyn Lookup,
    facts: &NodeFacts,
    namespace: &str,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return match field_value(pod, &field.field_path, facts) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("unsupported fieldPath: {}", field.field_path)),
        };
    }
    if let Some(selector) = &source.resource_field_ref {
        return match resource_value(pod, Some(container), selector, facts) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("unsupported container resource : {}", selector.resource)),
        };
    }
    if let Some(selector) = &source.file_key_ref {
        let content = lookup.file(&selector.volume_name, &selector.path)?;
        let value = content.as_deref().map(|content| env_file::value(content, &selector.key)).transpose()?.flatten();
        return match (content, value) {
            (_, Some(value)) => Ok(Some(value)),
            _ if selector.optional.unwrap_or(false) => Ok(None),
            (None, _) => Err(format!("environment variable file \"{}\" not found in volume \"{}\"", selector.path, selector.volume_name)),
            (Some(_), None) => Err(format!("environment variable key \"{}\" not found in file \"{}\"", selector.key, selector.path)),
        };
    }
    let (kind, shown, name, key, optional, content) = if let Some(selector) = &source.config_map_key_ref {
        ("configmap", "ConfigMap", &selector.name, &selector.key, selector.optional, lookup.config_map(&selector.name))
    } else if let Some(selector) = &source.secret_key_ref {
        ("secret", "Secret", &selector.name, &selector.key, selector.optional, lookup.secret(&selector.name))
    } else {
        return Ok(Some(String::new()));
    };
    match (content, content.and_then(|content| content.get(key))) {
        (_, Some(value)) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        _ if optional.unwrap_or(false) => Ok(None),
        (None, _) => Err(format!("{kind} \"{name}\" not found")),
        (Some(_), None) => Err(format!("couldn't find key {key} in {shown} {namespace}/{name}")),
    }
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Ordered {
    entries: Vec<(String, String)>,
    positions: HashMap<String, usize>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<String> {
        self.positions.get(name).and_then(|position| self.entries.get(*position)).map(|(_, value)| value.clone())
    }

    fn set(&mut self, name: String, value: String) {
        match self.positions.get(&name).and_then(|position| self.entries.get_mut(*position)) {
            Some(entry) => entry.1 = value,
            None => {
                self.positions.insert(name.clone(), self.entries.len());
                self.entries.push((name, value));
            }
        }
    }
}

/// Any printable ASCII but `=`, as upstream has it since relaxed validation became the rule.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

/// Replaces `$(NAME)` by its value; unknown names stay as they are, and `$$` stands for one `$`.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        let (before, after) = rest.split_at(position);
        result.push_str(before);
        let after = after.get(1..).unwrap_or_default();
        if let Some(tail) = after.strip_prefix('$') {
            result.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    type Objects = BTreeMap<String, BTreeMap<String, Vec<u8>>>;
    struct Fixed(Objects);
    impl Lookup for Fixed {
        fn config_map(&self, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
            self.0.get(name)
        }
        fn secret(&self, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
            self.0.get(name)
        }
        fn file(&self, volume: &str, path: &str) -> Result<Option<String>, String> {
            if volume != "files" {
                return Err("no such volume".to_owned());
            }
            Ok((path == "x.env").then(|| "KEY='from a file'\nBAD=1\n".to_owned()))
        }
    }

    #[track_caller]
    fn check(container: serde_json::Value, expected: Result<&[(&str, &str)], &str>) {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "a" }, "spec": { "containers": [container] } })).unwrap();
        let content = BTreeMap::from([("key".to_owned(), b"value".to_vec()), ("other".to_owned(), b"2".to_vec())]);
        let lookup = Fixed(BTreeMap::from([("config".to_owned(), content)]));
        let services = vec![("DB_SERVICE_HOST".to_owned(), "10.0.0.9".to_owned())];
        let container = &super::super::spec(&pod).containers[0];
        let found = environment(&pod, container, services, &lookup, &NodeFacts::default());
        let found = found.as_ref().map(|list| list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>());
        match expected {
            Ok(expected) => assert_eq!(found.unwrap(), expected),
            Err(expected) => assert_eq!(found.unwrap_err(), expected),
        }
    }

    #[test]
    fn values_refer_to_earlier_values_and_services() {
        check(
            json!({ "name": "c", "env": [
                { "name": "A", "value": "1" }, { "name": "B", "value": "$(A)-$(DB_SERVICE_HOST)-$(NONE)-$$(A)" }, { "name": "A", "value": "2" } ] }),
            Ok(&[("A", "2"), ("B", "1-10.0.0.9-$(NONE)-$(A)"), ("DB_SERVICE_HOST", "10.0.0.9")]),
        );
    }

    #[test]
    fn whole_config_maps_come_first_and_are_overridden() {
        check(
            json!({ "name": "c", "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "config" } }], "env": [{ "name": "P_key", "value": "mine" }] }),
            Ok(&[("P_key", "mine"), ("P_other", "2"), ("DB_SERVICE_HOST", "10.0.0.9")]),
        );
    }

    #[test]
    fn files_in_volumes_are_read() {
        let from = |path: &str, key: &str, optional: bool| {
            let reference = json!({ "volumeName": "files", "path": path, "key": key, "optional": optional });
            json!({ "name": "c", "env": [{ "name": "A", "valueFrom": { "fileKeyRef": reference } }, { "name": "B", "value": "$(A)" }] })
        };
        check(from("x.env", "KEY", false), Ok(&[("A", "from a file"), ("B", "from a file"), ("DB_SERVICE_HOST", "10.0.0.9")]));
        check(from("none.env", "KEY", false), Err("environment variable file \"none.env\" not found in volume \"files\""));
        check(from("none.env", "KEY", true), Ok(&[("B", "$(A)"), ("DB_SERVICE_HOST", "10.0.0.9")]));
        let broken = "invalid environment variable format at line 2: value must be enclosed in single quotes";
        check(from("x.env", "NONE", true), Err(broken));
    }

    #[test]
    fn what_is_missing_is_named() {
        let from = |reference: serde_json::Value| json!({ "name": "c", "env": [{ "name": "A", "valueFrom": reference }] });
        check(from(json!({ "configMapKeyRef": { "name": "none", "key": "k" } })), Err("configmap \"none\" not found"));
        check(from(json!({ "secretKeyRef": { "name": "config", "key": "k" } })), Err("couldn't find key k in Secret a/config"));
        check(from(json!({ "secretKeyRef": { "name": "none", "key": "k", "optional": true } })), Ok(&[("DB_SERVICE_HOST", "10.0.0.9")]));
        check(from(json!({ "fieldRef": { "fieldPath": "metadata.name" } })), Ok(&[("A", "web"), ("DB_SERVICE_HOST", "10.0.0.9")]));
    }

    #[test]
    fn odd_dollars_stay() {
        for (text, expected) in [("$", "$"), ("a$", "a$"), ("$(", "$("), ("$(A", "$(A"), ("$x", "$x"), ("$$", "$"), ("é$(A)é", "é1é")] {
            assert_eq!(expand(text, |_| Some("1".to_owned())), expected, "{text}");
        }
    }
}
