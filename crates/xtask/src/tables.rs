//! `cargo xtask tables`: joins upstream's API description with our overlay into the two tables of crate `api`.
//!
//! The tables are checked in, so a build needs neither upstream's files nor this command. With paths to upstream's
//! description it says whether the tables still follow from it, and with `--write` it writes them anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

/// What `cargo xtask tables` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Upstream's swagger.json.
    #[arg(long)]
    swagger: PathBuf,
    /// Upstream's protobuf fields: package, message, field, number, label and type, separated by tabs.
    #[arg(long)]
    protobuf_fields: PathBuf,
    /// Folder of the tables.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/tables"))]
    tables: PathBuf,
    /// Write the tables rather than compare them.
    #[arg(long)]
    write: bool,
}

/// Runs the command.
///
/// # Errors
/// Where a file cannot be read or understood, or the tables differ from what the description says.
pub fn run(arguments: &Arguments) -> Result<()> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let description = Description {
        swagger: serde_json::from_str(&read(&arguments.swagger)?)?,
        messages: read_messages(&read(&arguments.protobuf_fields)?)?,
        overlay: Overlay::read(&read(&arguments.tables.join("overlay.txt"))?)?,
    };
    let mut differing = Vec::new();
    for (file, wanted) in [("types.txt", description.types_table()?), ("resources.txt", description.resources_table()?)] {
        let path = arguments.tables.join(file);
        if arguments.write {
            fs::write(&path, wanted).with_context(|| format!("cannot write {}", path.display()))?;
        } else if let Some(difference) = first_difference(&read(&path)?, &wanted) {
            differing.push(format!("{file}, {difference}"));
        }
    }
    ensure!(differing.is_empty(), "the tables do not follow from the description; run with --write and review: {}", differing.join("; "));
    Ok(())
}

fn first_difference(have: &str, wanted: &str) -> Option<String> {
    let mut lines = have.lines().zip(wanted.lines()).enumerate();
    if let Some((number, (have, wanted))) = lines.find(|(_, (have, wanted))| have != wanted) {
        return Some(format!("line {}: has \"{have}\", should have \"{wanted}\"", number + 1));
    }
    (have != wanted).then(|| "its length differs".to_owned())
}

/// One field of a protobuf message.
struct MessageField {
    name: String,
    number: u32,
    repeated: bool,
    /// Scalar, `map<…>` or the full name of a message.
    kind: String,
}

/// Facts that only we know, from `overlay.txt`.
#[derive(Default)]
struct Overlay {
    defaults: HashMap<(String, String), String>,
    pointers: Vec<(String, String)>,
    values: BTreeSet<String>,
    messages: BTreeMap<String, Option<String>>,
    /// Name, priority, and versions with theirs.
    groups: Vec<(String, String, Vec<(String, String)>)>,
    names: HashMap<(String, String), (String, String)>,
    storage: HashMap<(String, String), String>,
}

impl Overlay {
    fn read(text: &str) -> Result<Self> {
        let mut overlay = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["default", kind, field, value @ ..] => {
                    overlay.defaults.insert((full_name(kind), (*field).to_owned()), value.join(" "));
                }
                ["pointer", kind, fields @ ..] => overlay.pointers.extend(fields.iter().map(|field| (full_name(kind), (*field).to_owned()))),
                ["value", fields @ ..] => overlay.values.extend(fields.iter().map(|field| (*field).to_owned())),
                ["message", kind] => {
                    overlay.messages.insert(full_name(kind), None);
                }
                ["message", kind, root] => {
                    overlay.messages.insert(full_name(kind), Some((*root).to_owned()));
                }
                ["group", name, priority, versions @ ..] => {
                    let versions = versions.iter().map(|version| version.split_once('=').map(|(version, priority)| (version.to_owned(), priority.to_owned())));
                    let versions = versions.collect::<Option<_>>().with_context(|| format!("overlay.txt: a version without a priority in \"{line}\""))?;
                    overlay.groups.push(((*name).to_owned(), (*priority).to_owned(), versions));
                }
                ["names", group, plural, short, categories] => {
                    overlay.names.insert(((*group).to_owned(), (*plural).to_owned()), ((*short).to_owned(), (*categories).to_owned()));
                }
                ["storage", group, plural, version] => {
                    overlay.storage.insert(((*group).to_owned(), (*plural).to_owned()), (*version).to_owned());
                }
                _ => bail!("overlay.txt: cannot understand \"{line}\""),
            }
        }
        Ok(overlay)
    }

    fn is_pointer(&self, kind: &str, field: &str) -> bool {
        self.pointers.iter().any(|(known, name)| name == field && matches_with_star(known, kind))
    }
}

/// Whether a shape is one message: the name of its type, where all others are written in small letters.
fn is_message(shape: &str) -> bool {
    !shape.starts_with(['[', '{', '<']) && shape.rsplit('.').next().is_some_and(|name| name.starts_with(|first: char| first.is_ascii_uppercase()))
}

/// `a.*.b` matches any single part in place of the star.
fn matches_with_star(pattern: &str, name: &str) -> bool {
    match pattern.split_once(".*.") {
        None => pattern == name,
        Some((before, after)) => name
            .strip_prefix(before)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.split_once('.'))
            .is_some_and(|(_, rest)| rest == after),
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// The tables' short form of a definition name, back in full.
fn full_name(short: &str) -> String {
    if let Some(name) = short.strip_prefix("meta.v1.") {
        format!("{META}{name}")
    } else if short.contains(".pkg.") {
        format!("io.k8s.{short}")
    } else {
        format!("io.k8s.api.{short}")
    }
}

/// A definition name as the tables shorten it, seen from a package.
fn short_name(full: &str, package: &str) -> String {
    if let Some(name) = full.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')).filter(|rest| !rest.contains('.')) {
        return name.to_owned();
    }
    if let Some(name) = full.strip_prefix(META) {
        return format!("meta.v1.{name}");
    }
    full.strip_prefix("io.k8s.api.").or_else(|| full.strip_prefix("io.k8s.")).unwrap_or(full).to_owned()
}

fn read_messages(text: &str) -> Result<BTreeMap<String, Vec<MessageField>>> {
    let package = |name: &str| {
        format!("io.k8s.{}", name.replace("apiextensions_apiserver.", "apiextensions-apiserver.").replace("kube_aggregator.", "kube-aggregator."))
    };
    let mut messages: BTreeMap<String, Vec<MessageField>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [package_name, message, name, number, label, kind] = columns.as_slice() else {
            bail!("protobuf fields: six columns are needed in \"{line}\"");
        };
        let (map, inner) = match kind.strip_prefix("map<string,").and_then(|rest| rest.strip_suffix('>')) {
            Some(inner) => (true, inner),
            None => (false, *kind),
        };
        let inner = match inner {
            "string" | "int32" | "int64" | "bool" | "double" | "bytes" => inner.to_owned(),
            _ => match inner.strip_prefix('.') {
                Some(name) => package(name),
                None => format!("{}.{inner}", package(package_name)),
            },
        };
        messages.entry(format!("{}.{message}", package(package_name))).or_default().push(MessageField {
            name: (*name).to_owned(),
            number: number.parse().with_context(|| format!("protobuf fields: number in \"{line}\""))?,
            repeated: *label == "repeated",
            kind: if map { format!("map<{inner}>") } else { inner },
        });
    }
    Ok(messages)
}

/// Field names differ in case and punctuation between JSON and protobuf (`x-kubernetes-list-type`, `$ref`, `Webhooks`).
fn normalised(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

struct Description {
    swagger: Value,
    messages: BTreeMap<String, Vec<MessageField>>,
    overlay: Overlay,
}

/// Definitions that the tables write as a shape of their own.
fn special_shape(name: &str) -> Option<&'static str> {
    Some(match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => "quantity",
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => "int-or-string",
        "io.k8s.apimachinery.pkg.runtime.RawExtension" => "raw",
        _ => match (name.strip_prefix(META), name.strip_prefix(EXTENSIONS)) {
            (Some("Time"), _) => "time",
            (Some("MicroTime"), _) => "micro-time",
            (Some("Duration"), _) => "duration",
            (Some("FieldsV1"), _) => "fields-v1",
            (_, Some("JSON")) => "raw",
            (_, Some("JSONSchemaPropsOrArray")) => "schema-or-list",
            (_, Some("JSONSchemaPropsOrBool")) => "schema-or-bool",
            (_, Some("JSONSchemaPropsOrStringArray")) => "schema-or-names",
            _ => return None,
        },
    })
}

impl Description {
    fn definitions(&self) -> Result<&serde_json::Map<String, Value>> {
        self.swagger["definitions"].as_object().context("swagger.json has no definitions")
    }

    fn types_table(&self) -> Result<String> {
        let definitions = self.definitions()?;
        let mut packages: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for name in definitions.keys().chain(self.overlay.messages.keys()).filter(|name| special_shape(name).is_none()) {
            let (package, short) = name.rsplit_once('.').with_context(|| format!("definition {name} has no package"))?;
            packages.entry(package).or_default().insert(short);
        }
        let mut out = String::from(
            "# Generated by `cargo xtask tables --write` from upstream's API description and overlay.txt; do not edit.\n\
             # `= package`, then each type with its facts, then its fields: name, protobuf numbers, shape, facts.\n",
        );
        for (package, names) in packages {
            writeln!(out, "= {package}")?;
            for short in names {
                let name = format!("{package}.{short}");
                match definitions.get(&name) {
                    Some(definition) => self.write_definition(&mut out, package, &name, definition)?,
                    None => self.write_message(&mut out, package, &name)?,
                }
            }
        }
        self.check_overlay(definitions)?;
        Ok(out)
    }

    /// A misspelt line of the overlay would say nothing without a word.
    fn check_overlay(&self, definitions: &serde_json::Map<String, Value>) -> Result<()> {
        let known = |kind: &str, field: &str| {
            let described = definitions.iter().any(|(name, definition)| matches_with_star(kind, name) && definition["properties"].get(field).is_some());
            let in_message = |name: &String| self.messages.get(name).is_some_and(|fields| fields.iter().any(|known| known.name == field));
            described || self.overlay.messages.keys().any(|name| matches_with_star(kind, name) && in_message(name))
        };
        for (kind, field) in self.overlay.defaults.keys().chain(&self.overlay.pointers) {
            ensure!(known(kind, field), "overlay.txt: there is no field {field} of {kind}");
        }
        Ok(())
    }

    fn write_definition(&self, out: &mut String, package: &str, name: &str, definition: &Value) -> Result<()> {
        write!(out, "{}", name.rsplit('.').next().unwrap_or(name))?;
        if definition["x-kubernetes-map-type"] == "atomic" {
            out.push_str(" atomic");
        }
        let no_kinds = Vec::new();
        let kinds = definition["x-kubernetes-group-version-kind"].as_array().unwrap_or(&no_kinds);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match kinds.as_slice() {
            [] => {}
            [kind] => write!(out, " root={}/{}/{}", text(&kind["group"]), text(&kind["version"]), text(&kind["kind"]))?,
            // DeleteOptions and WatchEvent exist in every group and version.
            [kind, ..] => write!(out, " root=*/*/{}", text(&kind["kind"]))?,
        }
        out.push('\n');
        let required: BTreeSet<&str> = definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            let numbers = self.numbers(name, field, definition);
            let number_text = numbers.as_ref().map_or("0".to_owned(), |(numbers, _)| {
                numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
            });
            let wire = numbers.as_ref().map(|(_, field)| field.kind.as_str()).unwrap_or_default();
            let mut shape = shape_of(property, package)?;
            if wire.strip_prefix("map<").map_or(wire, |rest| rest.trim_end_matches('>')).ends_with(".ExtraValue") {
                shape = "{<string>}".to_owned();
            } else if wire.ends_with(".Verbs") {
                shape = "<string>".to_owned();
            }
            write!(out, " {field} {number_text} {shape}")?;
            self.write_facts(out, name, field, property, required.contains(field.as_str()), &shape)?;
            out.push('\n');
        }
        Ok(())
    }

    fn write_facts(&self, out: &mut String, name: &str, field: &str, property: &Value, required: bool, shape: &str) -> Result<()> {
        if required {
            out.push_str(" required");
        }
        if let Some(strategy) = property["x-kubernetes-patch-strategy"].as_str() {
            for part in strategy.split(',') {
                match (part, property["x-kubernetes-patch-merge-key"].as_str()) {
                    ("merge", Some(key)) => write!(out, " merge={key}")?,
                    ("merge", None) => out.push_str(" merge"),
                    ("retainKeys", _) => out.push_str(" retain-keys"),
                    ("replace", _) => out.push_str(" replace"),
                    _ => bail!("{name}.{field}: unknown patch strategy {strategy}"),
                }
            }
        }
        match property["x-kubernetes-list-type"].as_str() {
            Some("map") => {
                let keys: Vec<&str> = property["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                ensure!(!keys.is_empty(), "{name}.{field}: a list as map without keys");
                write!(out, " map={}", keys.join(","))?;
            }
            Some(other) => write!(out, " {other}")?,
            None if shape.starts_with(['[', '<']) => out.push_str(" atomic"),
            None => {}
        }
        if let Some(kind) = property["x-kubernetes-map-type"].as_str() {
            write!(out, " {kind}")?;
        }
        if self.overlay.is_pointer(name, field) {
            ensure!(!required, "{name}.{field}: the overlay calls a required field a pointer");
            out.push_str(" pointer");
        } else if is_message(shape) && self.overlay.values.contains(field) {
            out.push_str(" value");
        }
        if let Some(value) = self.overlay.defaults.get(&(name.to_owned(), field.to_owned())) {
            write!(out, " default={value}")?;
        }
        Ok(())
    }

    /// Numbers that lead to a field: more than one where upstream's Go types embed a struct, which JSON flattens and
    /// protobuf does not.
    fn numbers(&self, message: &str, field: &str, definition: &Value) -> Option<(Vec<u32>, &MessageField)> {
        let fields = self.messages.get(message)?;
        if let Some(found) = fields.iter().find(|known| normalised(&known.name) == normalised(field)) {
            return Some((vec![found.number], found));
        }
        let named = |name: &str| definition["properties"].as_object().is_some_and(|properties| properties.keys().any(|known| normalised(known) == normalised(name)));
        fields.iter().filter(|embedded| !embedded.repeated && !named(&embedded.name)).find_map(|embedded| {
            let (mut numbers, found) = self.numbers(&embedded.kind, field, definition)?;
            numbers.insert(0, embedded.number);
            Some((numbers, found))
        })
    }

    /// A type that only the protobuf description has.
    fn write_message(&self, out: &mut String, package: &str, name: &str) -> Result<()> {
        write!(out, "{}", name.rsplit('.').next().unwrap_or(name))?;
        if let Some(Some(root)) = self.overlay.messages.get(name) {
            writeln!(out, " root={root}\n apiVersion 0 string\n kind 0 string")?;
        } else {
            out.push('\n');
        }
        let fields = self.messages.get(name).with_context(|| format!("overlay.txt: no message {name}"))?;
        for field in fields {
            let inner = |kind: &str| special_shape(kind).map_or_else(|| if kind.contains('.') { short_name(kind, package) } else { kind.to_owned() }, str::to_owned);
            let shape = match (field.kind.strip_prefix("map<").and_then(|rest| rest.strip_suffix('>')), field.repeated) {
                (Some(value), _) => format!("{{{}}}", inner(value)),
                (None, true) => format!("[{}]", inner(&field.kind)),
                (None, false) => inner(&field.kind),
            };
            write!(out, " {} {} {shape}", field.name, field.number)?;
            self.write_facts(out, name, &field.name, &Value::Null, false, &shape)?;
            out.push('\n');
        }
        Ok(())
    }
}

fn shape_of(property: &Value, package: &str) -> Result<String> {
    if let Some(reference) = property["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        return Ok(special_shape(name).map_or_else(|| short_name(name, package), str::to_owned));
    }
    Ok(match (property["type"].as_str(), property["format"].as_str()) {
        (Some("string"), Some("byte")) => "bytes".to_owned(),
        (Some("string"), _) => "string".to_owned(),
        (Some("boolean"), _) => "bool".to_owned(),
        (Some("integer"), Some(format @ ("int32" | "int64"))) => format.to_owned(),
        (Some("number"), _) => "double".to_owned(),
        (Some("array"), _) => format!("[{}]", shape_of(&property["items"], package)?),
        (Some("object"), _) if property["additionalProperties"].is_object() => format!("{{{}}}", shape_of(&property["additionalProperties"], package)?),
        _ => bail!("cannot tell the shape of {property}"),
    })
}

/// A resource of one group and version, gathered from its paths.
#[derive(Default)]
struct ResourceFacts {
    kind: String,
    namespaced: bool,
    verbs: BTreeSet<&'static str>,
    /// Name to kind (with group and version) and verbs.
    subresources: BTreeMap<String, (String, BTreeSet<&'static str>)>,
}

impl Description {
    fn resources_table(&self) -> Result<String> {
        let resources = self.resources()?;
        let mut out = String::from(
            "# Generated by `cargo xtask tables --write` from upstream's API description and overlay.txt; do not edit.\n\
             # `= group version` and the priorities of both, in discovery's order, then each resource: plural, singular, kind, scope, storage group\n\
             # and version, short names, categories, verbs; then its subresources: name, group/version/kind, verbs.\n",
        );
        let groups = &self.overlay.groups;
        for (group, version) in resources.keys() {
            ensure!(
                groups.iter().any(|(name, _, versions)| name == group && versions.iter().any(|(known, _)| known == version)),
                "overlay.txt gives no place to {group}/{version}"
            );
        }
        for (group, group_priority, versions) in groups {
            let (preferred, _) = versions.first().with_context(|| format!("overlay.txt: {group} has no version"))?;
            for (version, version_priority) in versions {
                let here = resources.get(&(group.clone(), version.clone())).with_context(|| format!("overlay.txt names {group}/{version}, which has no path"))?;
                writeln!(out, "= {group} {version} {group_priority} {version_priority}")?;
                for (plural, facts) in here {
                    let key = (group.clone(), plural.clone());
                    let dash = ("-".to_owned(), "-".to_owned());
                    let (short, categories) = self.overlay.names.get(&key).unwrap_or(&dash);
                    let in_preferred = resources.get(&(group.clone(), preferred.clone())).is_some_and(|preferred| preferred.contains_key(plural));
                    let fallback = format!("{group}/{}", if in_preferred { preferred } else { version });
                    let storage = self.overlay.storage.get(&key).unwrap_or(&fallback);
                    let scope = if facts.namespaced { "namespaced" } else { "cluster" };
                    let singular = facts.kind.to_lowercase();
                    writeln!(out, "{plural} {singular} {} {scope} {storage} {short} {categories} {}", facts.kind, joined(&facts.verbs))?;
                    for (name, (kind, verbs)) in &facts.subresources {
                        writeln!(out, " {name} {kind} {}", joined(verbs))?;
                    }
                }
            }
        }
        Ok(out)
    }

    fn resources(&self) -> Result<BTreeMap<(String, String), BTreeMap<String, ResourceFacts>>> {
        let mut resources: BTreeMap<(String, String), BTreeMap<String, ResourceFacts>> = BTreeMap::new();
        for (path, operations) in self.swagger["paths"].as_object().context("swagger.json has no paths")? {
            let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
            let (group, version, rest) = match parts.as_slice() {
                ["api", version, rest @ ..] => ("core", *version, rest),
                ["apis", group, version, rest @ ..] => (*group, *version, rest),
                _ => continue,
            };
            let (namespaced, rest) = match rest {
                ["namespaces", "{namespace}", rest @ ..] if !rest.is_empty() => (true, rest),
                _ => (false, rest),
            };
            let (plural, subresource) = match rest {
                [plural] | [plural, "{name}"] => (*plural, None),
                [plural, "{name}", subresource] => (*plural, Some(*subresource)),
                _ => continue,
            };
            if plural == "watch" {
                continue;
            }
            for (method, operation) in operations.as_object().into_iter().flatten() {
                let Some(action) = operation["x-kubernetes-action"].as_str() else { continue };
                let kind = &operation["x-kubernetes-group-version-kind"];
                let text = |name: &str| kind[name].as_str().unwrap_or_default();
                let verbs: &[&'static str] = match action {
                    "get" => &["get"],
                    "put" => &["update"],
                    "patch" => &["patch"],
                    "post" => &["create"],
                    "delete" => &["delete"],
                    "deletecollection" => &["deletecollection"],
                    "list" => &["list", "watch"],
                    "connect" => match method.as_str() {
                        "get" => &["get"],
                        "post" => &["create"],
                        "put" => &["update"],
                        "patch" => &["patch"],
                        "delete" => &["delete"],
                        _ => &[],
                    },
                    _ => continue,
                };
                let facts = resources.entry((group.to_owned(), version.to_owned())).or_default().entry(plural.to_owned()).or_default();
                facts.namespaced |= namespaced;
                match subresource {
                    None => {
                        text("kind").clone_into(&mut facts.kind);
                        facts.verbs.extend(verbs);
                    }
                    Some(name) => {
                        let entry = facts.subresources.entry(name.to_owned()).or_default();
                        entry.0 = match options_kind(name) {
                            Some(suffix) if action == "connect" => format!("/v1/{}{suffix}", text("kind")),
                            _ => format!("{}/{}/{}", text("group"), text("version"), text("kind")),
                        };
                        entry.1.extend(verbs);
                    }
                }
            }
        }
        // Component statuses cannot be watched, though their list is described like every other one.
        if let Some(facts) = resources.get_mut(&("core".to_owned(), "v1".to_owned())).and_then(|core| core.get_mut("componentstatuses")) {
            facts.verbs.remove("watch");
        }
        Ok(resources)
    }
}

/// Streaming subresources take options rather than an object.
fn options_kind(subresource: &str) -> Option<&'static str> {
    Some(match subresource {
        "attach" => "AttachOptions",
        "exec" => "ExecOptions",
        "portforward" => "PortForwardOptions",
        "proxy" => "ProxyOptions",
        _ => return None,
    })
}

fn joined(words: &BTreeSet<&str>) -> String {
    words.iter().copied().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_part_of_a_name() {
        assert!(matches_with_star("io.k8s.api.resource.*.Device", "io.k8s.api.resource.v1beta1.Device"));
        assert!(!matches_with_star("io.k8s.api.resource.*.Device", "io.k8s.api.resource.v1beta1.DeviceTaint"));
        assert!(matches_with_star("io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.Pod"));
    }

    #[test]
    fn short_names_are_read_back_in_full() {
        for (full, package) in [
            ("io.k8s.api.core.v1.Pod", "io.k8s.api.apps.v1"),
            ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "io.k8s.api.apps.v1"),
            ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService", "io.k8s.api.apps.v1"),
        ] {
            assert_eq!(full_name(&short_name(full, package)), full);
        }
        assert_eq!(short_name("io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1"), "Pod");
    }

    #[test]
    fn field_names_agree_across_json_and_protobuf() {
        for (json, protobuf) in [("x-kubernetes-list-type", "xKubernetesListType"), ("$ref", "ref"), ("webhooks", "Webhooks"), ("uid", "uID")] {
            assert_eq!(normalised(json), normalised(protobuf));
        }
    }
}
