//! A `KubeSchedulerConfiguration` as upstream's scheduler reads it, and the profiles it describes.
//!
//! What is not understood is refused rather than passed over: a scheduler that places pods by other rules than its operator wrote
//! down is worse than one that does not start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::core::v1::NodeAffinity;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::{
    decision::Profile,
    extender::{Extender, ExtenderSettings},
    metrics::Metrics,
    plugins::{PluginArguments, default_profile, filters, node_resources::Strategy, scores, spreading::DefaultConstraint},
    queue::Backoff,
};

/// What a scheduler is told at start.
pub struct SchedulerOptions {
    /// One for each scheduler name.
    pub profiles: Vec<Profile>,
    /// How long pods wait after attempts that failed.
    pub backoff: Backoff,
    /// Programs that have a say, in the order they are asked.
    pub extenders: Vec<Arc<Extender>>,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { profiles: vec![default_profile()], backoff: Backoff::default(), extenders: Vec::new() }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    /// It is no configuration, or has settings nobody knows.
    #[error("the scheduler's configuration cannot be read")]
    Format(#[from] serde_json::Error),
    /// Something in it has no meaning here.
    #[error("the scheduler's configuration: {0}")]
    Meaning(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<ProfileFile>,
    #[serde(default)]
    extenders: Vec<ExtenderSettings>,
    percentage_of_nodes_to_score: Option<usize>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    // Settings of upstream's process, which have no place in this one.
    #[serde(rename = "parallelism")]
    _parallelism: Option<Value>,
    #[serde(rename = "leaderElection")]
    _leader_election: Option<Value>,
    #[serde(rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(rename = "enableProfiling")]
    _profiling: Option<Value>,
    #[serde(rename = "enableContentionProfiling")]
    _contention_profiling: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<usize>,
    #[serde(default)]
    plugins: BTreeMap<String, PluginSet>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PluginSet {
    #[serde(default)]
    enabled: Vec<PluginFile>,
    #[serde(default)]
    disabled: Vec<PluginFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginFile {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Value,
}

/// Every way in which a plug-in of upstream may take part.
const EXTENSION_POINTS: [&str; 13] = [
    "multiPoint", "preEnqueue", "queueSort", "preFilter", "filter", "postFilter", "preScore", "score", "reserve", "permit", "preBind", "bind", "postBind",
];

/// Plug-ins of upstream that are always in force here, being parts of the scheduler and not of a profile.
const PARTS: [&str; 5] = ["PrioritySort", "SchedulingGates", "DefaultPreemption", "DefaultBinder", "DynamicResources"];

impl SchedulerOptions {
    /// Reads a configuration, which was YAML or JSON.
    ///
    /// # Errors
    /// Where it says something that is not understood.
    pub fn from_json(value: Value) -> Result<Self, ConfigurationError> {
        let file: File = serde_json::from_value(value)?;
        if file.kind != "KubeSchedulerConfiguration" || file.api_version != "kubescheduler.config.k8s.io/v1" {
            return Err(ConfigurationError::Meaning(format!("{} {} is not kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration", file.api_version, file.kind)));
        }
        let wrong = |text: String| Err(ConfigurationError::Meaning(text));
        if file.percentage_of_nodes_to_score.is_some_and(|percentage| percentage > 100) {
            return wrong("percentageOfNodesToScore: not in the range 0-100".to_owned());
        }
        let usual = Backoff::default();
        let seconds = |value: Option<u64>, usual| value.map_or(usual, Duration::from_secs);
        let backoff = Backoff { first: seconds(file.pod_initial_backoff_seconds, usual.first), longest: seconds(file.pod_max_backoff_seconds, usual.longest) };
        if backoff.first.is_zero() {
            return wrong("podInitialBackoffSeconds: must be greater than 0".to_owned());
        }
        if backoff.longest < backoff.first {
            return wrong("podMaxBackoffSeconds: must be greater than or equal to podInitialBackoffSeconds".to_owned());
        }
        let profiles = if file.profiles.is_empty() { vec![ProfileFile::default()] } else { file.profiles };
        check_extenders(&file.extenders)?;
        let managed = file.extenders.iter().flat_map(|extender| &extender.managed_resources).filter(|resource| resource.ignored_by_scheduler);
        let managed: Vec<String> = managed.map(|resource| resource.name.clone()).collect();
        let profiles: Vec<Profile> = profiles.iter().map(|profile| read_profile(profile, file.percentage_of_nodes_to_score, &managed)).collect::<Result<_, _>>()?;
        for (index, profile) in profiles.iter().enumerate() {
            if profiles.iter().take(index).any(|other| other.name == profile.name) {
                return Err(ConfigurationError::Meaning(format!("two profiles are named {}", profile.name)));
            }
        }
        let connect = |(number, settings)| Extender::new(settings).map(Arc::new).map_err(|why| ConfigurationError::Meaning(format!("extenders[{number}].{why}")));
        let extenders = file.extenders.into_iter().enumerate().map(connect).collect::<Result<_, _>>()?;
        Ok(Self { profiles, backoff, extenders })
    }
}

/// Source: upstream's `ValidateKubeSchedulerConfiguration`.
fn check_extenders(extenders: &[ExtenderSettings]) -> Result<(), ConfigurationError> {
    let wrong = |text: String| Err(ConfigurationError::Meaning(text));
    for (number, extender) in extenders.iter().enumerate() {
        if !extender.url_prefix.starts_with("http://") && !extender.url_prefix.starts_with("https://") {
            return wrong(format!("extenders[{number}].urlPrefix: \"{}\" is no http or https address", extender.url_prefix));
        }
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            return wrong(format!("extenders[{number}].weight: must have a positive weight applied to it, since it has a prioritizeVerb"));
        }
        if let Some(name) = extender.managed_resources.iter().map(|resource| &resource.name).find(|name| !name.contains('/') || name.starts_with("kubernetes.io/")) {
            return wrong(format!("extenders[{number}].managedResources: {name} is no extended resource"));
        }
    }
    match extenders.iter().filter(|extender| !extender.bind_verb.is_empty()).count() {
        0 | 1 => Ok(()),
        several => wrong(format!("extenders: found {several} extenders implementing bind, at most 1 can")),
    }
}

fn read_profile(file: &ProfileFile, percentage: Option<usize>, managed: &[String]) -> Result<Profile, ConfigurationError> {
    if let Some(point) = file.plugins.keys().find(|point| !EXTENSION_POINTS.contains(&point.as_str())) {
        return Err(ConfigurationError::Meaning(format!("there is no extension point {point}")));
    }
    if file.percentage_of_nodes_to_score.is_some_and(|percentage| percentage > 100) {
        return Err(ConfigurationError::Meaning("percentageOfNodesToScore: not in the range 0-100".to_owned()));
    }
    for plugin in file.plugins.values().flat_map(|set| &set.enabled) {
        let is_ours = filters(&PluginArguments::default()).iter().any(|filter| filter.name() == plugin.name)
            || scores(&PluginArguments::default()).iter().any(|score| score.name() == plugin.name);
        if !is_ours && !PARTS.contains(&plugin.name.as_str()) {
            return Err(ConfigurationError::Meaning(format!("there is no plug-in {} to be enabled", plugin.name)));
        }
        if plugin.weight.is_some_and(|weight| weight < 0) {
            return Err(ConfigurationError::Meaning(format!("the weight of {} is below 0", plugin.name)));
        }
    }
    let mut arguments = PluginArguments::default();
    for (index, config) in file.plugin_config.iter().enumerate() {
        if file.plugin_config.iter().take(index).any(|other| other.name == config.name) {
            return Err(ConfigurationError::Meaning(format!("the plug-in {} is given arguments twice", config.name)));
        }
        read_arguments(config, &mut arguments)?;
    }
    arguments.resources.ignored.extend_from_slice(managed);
    // A plug-in that is disabled and enabled again takes part, with the weight it is given.
    let enabled = |name: &str, points: &[&str]| {
        points.iter().filter_map(|point| file.plugins.get(*point)).flat_map(|set| &set.enabled).filter(|plugin| plugin.name == name).last()
    };
    let takes_part = |name: &str, points: &[&str]| {
        let disabled = |set: &PluginSet| set.disabled.iter().any(|plugin| plugin.name == "*" || plugin.name == name);
        enabled(name, points).is_some() || !points.iter().filter_map(|point| file.plugins.get(*point)).any(disabled)
    };
    let for_filters = ["multiPoint", "filter"];
    let for_scores = ["multiPoint", "score"];
    let name = file.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".to_owned());
    Ok(Profile {
        metrics: Metrics::default().of_profile(&name),
        name,
        filters: filters(&arguments).into_iter().filter(|plugin| takes_part(plugin.name(), &for_filters)).collect(),
        scores: scores(&arguments)
            .into_iter()
            .filter(|plugin| takes_part(plugin.name(), &for_scores))
            .map(|plugin| (enabled(plugin.name(), &for_scores).and_then(|set| set.weight).unwrap_or(plugin.weight()), plugin))
            .collect(),
        preempts: takes_part("DefaultPreemption", &["multiPoint", "postFilter"]),
        percentage_of_nodes: file.percentage_of_nodes_to_score.or(percentage).filter(|percentage| *percentage > 0),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    resources: Vec<PluginFile>,
    requested_to_capacity_ratio: Option<Shape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadConstraint {
    max_skew: i64,
    topology_key: String,
    when_unsatisfiable: String,
}

/// A field of plug-in arguments, where it is there.
fn field<T: serde::de::DeserializeOwned>(arguments: &Value, name: &str) -> Result<Option<T>, ConfigurationError> {
    Ok(arguments.get(name).cloned().map(serde_json::from_value).transpose()?)
}

/// Resources with what they count. Source: upstream's `validateResources`.
fn weighed(resources: Vec<PluginFile>) -> Result<Vec<(String, i64)>, ConfigurationError> {
    let weighed = |resource: PluginFile| match resource.weight.unwrap_or(1) {
        weight @ 1..=100 => Ok((resource.name, weight)),
        weight => {
            let name = resource.name;
            Err(ConfigurationError::Meaning(format!("resources: the weight of {name} is {weight}, not in the range 1-100")))
        }
    };
    resources.into_iter().map(weighed).collect()
}

/// The points of a shape, with scores of 0 to 100 instead of 0 to 10. Source: upstream's `validateFunctionShape`.
fn shape_of(points: &[Point]) -> Result<Vec<(i64, i64)>, ConfigurationError> {
    let wrong = |what: &str| Err(ConfigurationError::Meaning(format!("requestedToCapacityRatio.shape: {what}")));
    if points.is_empty() {
        return wrong("at least one point must be specified");
    }
    if points.iter().any(|point| !(0..=100).contains(&point.utilization)) {
        return wrong("utilization is not in the range 0-100");
    }
    if points.iter().any(|point| !(0..=10).contains(&point.score)) {
        return wrong("score is not in the range 0-10");
    }
    if points.iter().zip(points.iter().skip(1)).any(|(left, right)| left.utilization >= right.utilization) {
        return wrong("utilization values must be sorted in increasing order");
    }
    Ok(points.iter().map(|point| (point.utilization, point.score * 10)).collect())
}

/// Source: upstream's `validateTopologySpreadConstraint` of the plug-in's arguments.
fn default_constraint(from: SpreadConstraint) -> Result<DefaultConstraint, ConfigurationError> {
    let wrong = |what: String| Err(ConfigurationError::Meaning(format!("defaultConstraints: {what}")));
    if from.max_skew < 1 {
        return wrong("maxSkew must be greater than zero".to_owned());
    }
    if from.topology_key.is_empty() {
        return wrong("topologyKey must not be empty".to_owned());
    }
    match from.when_unsatisfiable.as_str() {
        "DoNotSchedule" | "ScheduleAnyway" => {}
        other => return wrong(format!("whenUnsatisfiable: {other} is neither DoNotSchedule nor ScheduleAnyway")),
    }
    Ok(DefaultConstraint { topology_key: from.topology_key, max_skew: from.max_skew, is_hard: from.when_unsatisfiable == "DoNotSchedule" })
}

fn read_arguments(config: &PluginConfig, into: &mut PluginArguments) -> Result<(), ConfigurationError> {
    let from = &config.args;
    match config.name.as_str() {
        "NodeResourcesFit" => {
            into.resources.ignored = field(from, "ignoredResources")?.unwrap_or_default();
            into.resources.ignored_groups = field(from, "ignoredResourceGroups")?.unwrap_or_default();
            if let Some(strategy) = field::<ScoringStrategy>(from, "scoringStrategy")? {
                into.resources.strategy = match strategy.kind.as_str() {
                    "LeastAllocated" => Strategy::LeastAllocated,
                    "MostAllocated" => Strategy::MostAllocated,
                    "RequestedToCapacityRatio" => {
                        let points = strategy.requested_to_capacity_ratio.map(|ratio| ratio.shape).unwrap_or_default();
                        Strategy::RequestedToCapacityRatio(shape_of(&points)?)
                    }
                    other => return Err(ConfigurationError::Meaning(format!("there is no scoring strategy {other}"))),
                };
                if !strategy.resources.is_empty() {
                    into.resources.resources = weighed(strategy.resources)?;
                }
            }
        }
        "NodeResourcesBalancedAllocation" => {
            if let Some(resources) = field::<Vec<PluginFile>>(from, "resources")? {
                if let Some(resource) = resources.iter().find(|resource| resource.weight.is_some_and(|weight| weight != 1)) {
                    let name = &resource.name;
                    return Err(ConfigurationError::Meaning(format!("resources: the weight of {name} must be 1 where balance is sought")));
                }
                into.balance.0 = resources.into_iter().map(|resource| resource.name).collect();
            }
        }
        "InterPodAffinity" => {
            into.pod_affinity.hard_weight = field(from, "hardPodAffinityWeight")?.unwrap_or(1);
            if !(0..=100).contains(&into.pod_affinity.hard_weight) {
                return Err(ConfigurationError::Meaning("hardPodAffinityWeight: not in the range 0-100".to_owned()));
            }
            into.pod_affinity.ignores_standing_preferences = field(from, "ignorePreferredTermsOfExistingPods")?.unwrap_or_default();
        }
        "NodeAffinity" => into.node_affinity.added = field::<NodeAffinity>(from, "addedAffinity")?.map(Arc::new),
        "PodTopologySpread" => {
            let constraints: Vec<SpreadConstraint> = field(from, "defaultConstraints")?.unwrap_or_default();
            match field::<String>(from, "defaultingType")?.as_deref() {
                Some("List") => {
                    into.spread.defaults = constraints.into_iter().map(default_constraint).collect::<Result<_, _>>()?;
                    into.spread.lenient = false;
                }
                None | Some("" | "System") if constraints.is_empty() => {}
                None | Some("" | "System") => {
                    return Err(ConfigurationError::Meaning("defaultConstraints: they count only where defaultingType is List".to_owned()));
                }
                Some(other) => return Err(ConfigurationError::Meaning(format!("defaultingType: {other} is neither System nor List"))),
            }
        }
        // Their arguments are numbers that knarr's ways have no use for.
        "DefaultPreemption" | "VolumeBinding" | "DynamicResources" => {}
        other => return Err(ConfigurationError::Meaning(format!("there is no plug-in {other} that takes arguments"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(profiles: Value) -> Result<SchedulerOptions, ConfigurationError> {
        SchedulerOptions::from_json(json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "podInitialBackoffSeconds": 3, "profiles": profiles,
        }))
    }

    #[test]
    fn profiles_choose_plugins_weights_and_arguments() {
        let options = read(json!([
            {"schedulerName": "packed", "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 7}]}},
             "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}]},
            {"schedulerName": "meek", "plugins": {"multiPoint": {"disabled": [{"name": "DefaultPreemption"}, {"name": "NodePorts"}]}}},
        ]))
        .unwrap();
        let scores: Vec<(&str, i64)> = options.profiles[0].scores.iter().map(|(weight, score)| (score.name(), *weight)).collect();
        assert_eq!(scores, [("NodeResourcesFit", 7)]);
        assert!(options.profiles[0].preempts && !options.profiles[1].preempts);
        assert!(options.profiles[1].filters.iter().all(|filter| filter.name() != "NodePorts"));
        assert_eq!(options.backoff.first, Duration::from_secs(3));
    }

    #[test]
    fn each_profile_decides_in_its_own_way() {
        use crate::{cluster::Cluster, decision::decide, pod_info::PodInfo};
        let options = read(json!([
            {"schedulerName": "wide"},
            {"schedulerName": "packed", "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 1}]}}}],
             "plugins": {"multiPoint": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}}},
            {"schedulerName": "shaped", "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 2}],
                "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}}}],
             "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 1}]}}},
            {"schedulerName": "careless", "plugins": {"filter": {"disabled": [{"name": "NodeUnschedulable"}]}, "score": {"disabled": [{"name": "*"}]}}},
        ]))
        .unwrap();
        let pod = |name: &str| {
            let pod = json!({"metadata": {"name": name, "uid": name, "namespace": "n"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}}]}});
            Arc::new(PodInfo::of(&serde_json::from_value(pod).unwrap()))
        };
        let mut cluster = Cluster::default();
        for (name, cordoned) in [("empty", false), ("full", false), ("cordoned", true)] {
            let node = json!({"metadata": {"name": name}, "spec": {"unschedulable": cordoned}, "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "9"}}});
            cluster.apply_node(&serde_json::from_value(node).unwrap());
        }
        cluster.place(pod("there"), "full");
        let mut chosen = |index: usize| {
            let slot = decide(&options.profiles[index], &pod("new"), &mut cluster, &mut 0).unwrap();
            cluster.at(slot).unwrap().name.clone()
        };
        assert_eq!([chosen(0), chosen(1), chosen(2)], ["empty", "full", "full"]);
        let careless: std::collections::BTreeSet<String> = (0..200).map(|_| chosen(3)).collect();
        assert!(careless.contains("cordoned"), "{careless:?}");
    }

    #[test]
    fn what_upstream_refuses_is_refused() {
        let top = |extra: Value| {
            let mut file = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"});
            meta::patch::merge_patch(&mut file, &extra);
            SchedulerOptions::from_json(file).map(drop)
        };
        let profile = |extra: Value| {
            let mut profile = json!({"schedulerName": "a"});
            meta::patch::merge_patch(&mut profile, &extra);
            read(json!([profile])).map(drop)
        };
        let arguments = |name: &str, args: Value| profile(json!({"pluginConfig": [{"name": name, "args": args}]}));
        let fit = |strategy: Value| arguments("NodeResourcesFit", json!({"scoringStrategy": strategy}));
        let shape = |points: Value| fit(json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": points}}));
        let point = |utilization: i64, score: i64| json!({"utilization": utilization, "score": score});
        let spread = |constraint: Value| arguments("PodTopologySpread", json!({"defaultingType": "List", "defaultConstraints": [constraint]}));
        let good = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"});
        let spoiled = |field: &str, value: Value| {
            let mut constraint = good.clone();
            constraint[field] = value;
            spread(constraint)
        };
        for (what, result) in [
            ("another version", top(json!({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"}))),
            ("more than all nodes", top(json!({"percentageOfNodesToScore": 101}))),
            ("no back-off", top(json!({"podInitialBackoffSeconds": 0}))),
            ("a back-off that shrinks", top(json!({"podInitialBackoffSeconds": 5, "podMaxBackoffSeconds": 4}))),
            ("more than all nodes in a profile", profile(json!({"percentageOfNodesToScore": 101}))),
            ("an unknown plug-in", profile(json!({"plugins": {"filter": {"enabled": [{"name": "Mine"}]}}}))),
            ("a weight below nothing", profile(json!({"plugins": {"score": {"enabled": [{"name": "ImageLocality", "weight": -1}]}}}))),
            ("arguments twice", profile(json!({"pluginConfig": [{"name": "NodeAffinity", "args": {}}, {"name": "NodeAffinity", "args": {}}]}))),
            ("arguments of an unknown plug-in", arguments("Mine", json!({}))),
            ("an unknown strategy", fit(json!({"type": "Random"}))),
            ("a resource without weight", fit(json!({"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 0}]}))),
            ("a resource with too much weight", fit(json!({"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 101}]}))),
            ("no shape", shape(json!([]))),
            ("a utilization beyond all", shape(json!([point(101, 1)]))),
            ("a score beyond ten", shape(json!([point(1, 11)]))),
            ("points in no order", shape(json!([point(5, 1), point(5, 2)]))),
            ("balance with weights", arguments("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 2}]}))),
            ("too much company", arguments("InterPodAffinity", json!({"hardPodAffinityWeight": 101}))),
            ("default constraints that do not count", arguments("PodTopologySpread", json!({"defaultConstraints": [good.clone()]}))),
            ("another defaulting", arguments("PodTopologySpread", json!({"defaultingType": "Mine"}))),
            ("no skew", spoiled("maxSkew", json!(0))),
            ("no topology", spoiled("topologyKey", json!(""))),
            ("another way out", spoiled("whenUnsatisfiable", json!("Never"))),
        ] {
            assert!(result.is_err(), "{what}");
        }
        assert!(spread(good.clone()).is_ok());
        assert!(shape(json!([point(0, 10), point(100, 0)])).is_ok());
        assert!(profile(json!({"plugins": {"postFilter": {"enabled": [{"name": "DefaultPreemption"}]}}})).is_ok());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(read(json!([{"schedulerName": "a", "plugins": {"filtr": {}}}])).is_err());
        assert!(read(json!([{"schedulerName": "a"}, {"schedulerName": "a"}])).is_err());
        assert!(SchedulerOptions::from_json(json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "extender": []})).is_err());
        let with = |extenders: Value| SchedulerOptions::from_json(json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "extenders": extenders}));
        assert!(with(json!([{"urlPrefix": "http://127.0.0.1:1", "prioritizeVerb": "p"}])).is_err(), "no weight");
        assert!(with(json!([{"urlPrefix": "127.0.0.1:1"}])).is_err());
        assert!(with(json!([{"urlPrefix": "http://a", "managedResources": [{"name": "cpu"}]}])).is_err());
        assert!(with(json!([{"urlPrefix": "http://a", "bindVerb": "b"}, {"urlPrefix": "http://c", "bindVerb": "b"}])).is_err());
        assert!(with(json!([{"urlPrefix": "http://a", "httpTimeout": "soon"}])).is_err());
        let secure = |tls: Value| with(json!([{"urlPrefix": "https://a", "enableHTTPS": true, "tlsConfig": tls}]));
        assert!(secure(json!({"caFile": "/nowhere"})).is_err());
        assert!(secure(json!({})).is_err(), "whom to trust is not said");
        assert!(secure(json!({"insecure": true, "caFile": "/nowhere"})).is_err(), "whom to trust is said twice");
        assert!(secure(json!({"insecure": true, "serverName": "not a name"})).is_err());
        assert!(secure(json!({"insecure": true, "serverName": "a.example"})).is_ok());
        assert_eq!(with(json!([{"urlPrefix": "http://a", "httpTimeout": "100ms", "managedResources": [{"name": "a.b/c", "ignoredByScheduler": true}]}])).unwrap().extenders.len(), 1);
    }
}
