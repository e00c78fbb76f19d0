//! Extenders: programs elsewhere that are asked over HTTP which of the nodes that fit they refuse, how they like the others, whom to
//! displace, and to bind.
//!
//! A decision waits for their answers, as upstream's does; where no extender cares for a pod, none is asked.
//!
//! Source: Kubernetes `kube-scheduler/extender/v1` (the messages), `scheduler/extender.go`, and the page "Scheduler Configuration".

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::{
    Json,
    core::v1::{Node, Pod},
};
use client::kubeconfig::TlsFiles;
use http::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tracing::warn;

use crate::{
    cluster::Cluster,
    decision::{Profile, Refusal, choose, find},
    pod_info::PodInfo,
    preemption::Plan,
};

/// Stands for extenders among the places of filters that refused a pod.
pub const EXTENDER: usize = usize::MAX;
/// How long an answer may take unless the configuration says otherwise. Source: upstream's `DefaultExtenderTimeout`.
const PATIENCE: Duration = Duration::from_secs(5);
/// Extenders score from 0 to 10, plug-ins to 100. Source: upstream's `MaxExtenderPriority` and `MaxNodeScore`.
const SCALE: i64 = 10;

/// An entry of `extenders` in the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderSettings {
    /// Where it answers; verbs are appended.
    pub url_prefix: String,
    filter_verb: String,
    preempt_verb: String,
    /// Asked for scores, where not empty.
    pub prioritize_verb: String,
    /// It binds the pods it cares for, where not empty.
    pub bind_verb: String,
    /// How much its scores count.
    pub weight: i64,
    #[serde(rename = "enableHTTPS")]
    enable_https: bool,
    tls_config: TlsSettings,
    /// As Go writes durations; see [`timeout`].
    #[serde(rename = "httpTimeout")]
    pub http_timeout: Option<String>,
    node_cache_capable: bool,
    /// It cares for pods that ask for one of these only; for all where there are none.
    pub managed_resources: Vec<ManagedResource>,
    ignorable: bool,
}

/// A resource an extender looks after.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManagedResource {
    /// Its name.
    pub name: String,
    /// The scheduler itself does not look at it.
    #[serde(default)]
    pub ignored_by_scheduler: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TlsSettings {
    insecure: bool,
    server_name: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_data: Option<String>,
    key_data: Option<String>,
    ca_data: Option<String>,
}

/// Why an extender gave no answer that can be used.
#[derive(Debug, Error)]
pub enum ExtenderError {
    /// It was not reached, or answered nonsense.
    #[error("the extender at {url} gave no answer")]
    Exchange {
        /// Where it was asked.
        url: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered that it cannot decide.
    #[error("the extender at {url} says: {message}")]
    Refused {
        /// Where it was asked.
        url: String,
        /// Its words.
        message: String,
    },
    /// It did not answer in time.
    #[error("the extender at {url} did not answer within {patience:?}")]
    Late {
        /// Where it was asked.
        url: String,
        /// How long it was waited for.
        patience: Duration,
    },
}

/// A program that is asked.
pub struct Extender {
    settings: ExtenderSettings,
    patience: Duration,
    client: client::Client,
}

/// What an extender makes of nodes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filtered {
    kept: Vec<String>,
    /// Refused while the pods there stay, and why.
    not_now: BTreeMap<String, String>,
    /// Refused whoever leaves, and why.
    never: BTreeMap<String, String>,
}

/// Reads a duration as Go writes it in configurations: `100ms`, `1m30s`. None where it is none, or zero.
pub fn timeout(text: Option<&str>) -> Option<Duration> {
    let Some(mut rest) = text else { return Some(PATIENCE) };
    let mut sum = 0.0;
    while !rest.is_empty() {
        let (number, unit) = rest.split_at(rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?);
        let end = unit.find(|letter: char| letter.is_ascii_digit()).unwrap_or(unit.len());
        let seconds = match unit.get(..end)? {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = unit.get(end..)?;
    }
    Duration::try_from_secs_f64(sum).ok().filter(|duration| !duration.is_zero())
}

/// An object whose keys are read as Go reads them: whatever their case.
fn folded(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect(),
        _ => Map::new(),
    }
}

fn texts(map: &Map<String, Value>, key: &str) -> BTreeMap<String, String> {
    let entries = map.get(key).and_then(Value::as_object).into_iter().flatten();
    entries.map(|(name, reason)| (name.clone(), reason.as_str().unwrap_or_default().to_owned())).collect()
}

fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

impl Extender {
    /// One with these settings. Reads the files they name; relative names are relative to where the server runs.
    ///
    /// # Errors
    /// In words: which setting cannot be used, and why.
    pub fn new(settings: ExtenderSettings) -> Result<Self, String> {
        let patience = timeout(settings.http_timeout.as_deref()).ok_or("httpTimeout: must be a duration such as 5s")?;
        let server: http::Uri = settings.url_prefix.parse().map_err(|_| "urlPrefix: is no address")?;
        let tls = &settings.tls_config;
        if settings.enable_https != (server.scheme_str() == Some("https")) {
            return Err("enableHTTPS: must be true for an address that begins with https, and for no other".to_owned());
        }
        let files = TlsFiles {
            authority: tls.ca_file.clone(),
            authority_data: tls.ca_data.clone(),
            certificate: tls.cert_file.clone(),
            certificate_data: tls.cert_data.clone(),
            key: tls.key_file.clone(),
            key_data: tls.key_data.clone(),
            insecure: tls.insecure,
            server_name: tls.server_name.clone().filter(|name| !name.is_empty()),
        };
        let names_authority = files.authority.is_some() || files.authority_data.is_some();
        // Upstream takes an extender that nobody vouches for as it comes; here that has to be said.
        if settings.enable_https && names_authority == files.insecure {
            return Err("tlsConfig: either caFile or caData must be given, or insecure, which takes whoever answers for the extender".to_owned());
        }
        let client = client::connect_to_service(server, &files, "knarr-scheduler").map_err(|error| format!("tlsConfig: {}", chain(&error)))?;
        Ok(Self { settings, patience, client })
    }

    /// Whether it cares for a pod.
    pub fn cares_for(&self, pod: &Pod) -> bool {
        let managed = &self.settings.managed_resources;
        let Some(spec) = &pod.spec else { return false };
        let amounts = spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(|container| container.resources.as_ref());
        let mut names = amounts.flat_map(|amounts| amounts.requests.iter().chain(&amounts.limits).flat_map(BTreeMap::keys));
        managed.is_empty() || names.any(|name| managed.iter().any(|resource| resource.name == *name))
    }

    /// Whether it binds the pods it cares for.
    pub fn binds(&self) -> bool {
        !self.settings.bind_verb.is_empty()
    }

    fn url(&self, verb: &str) -> String {
        format!("{}/{verb}", self.settings.url_prefix.trim_end_matches('/'))
    }

    async fn ask(&self, verb: &str, body: Vec<u8>) -> Result<Value, ExtenderError> {
        let url = self.url(verb);
        let exchange = async {
            // The client puts the prefix before it.
            let request = Request::post(format!("/{verb}")).header("content-type", "application/json").body(body)?;
            let text = self.client.request_text(request).await?;
            Ok::<Value, Box<dyn std::error::Error + Send + Sync>>(serde_json::from_str(&text)?)
        };
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(answer) => answer.map_err(|source| ExtenderError::Exchange { url, source }),
            Err(_) => Err(ExtenderError::Late { url, patience: self.patience }),
        }
    }

    /// `ExtenderArgs`.
    fn arguments(&self, pod: &Pod, nodes: &[Arc<Node>]) -> serde_json::Result<Vec<u8>> {
        let mut body = b"{\"Pod\":".to_vec();
        body.extend(pod.to_json()?);
        if self.settings.node_cache_capable {
            let names: Vec<&str> = nodes.iter().map(|node| name_of(node)).collect();
            body.extend_from_slice(b",\"Nodes\":null,\"NodeNames\":");
            body.extend(serde_json::to_vec(&names)?);
        } else {
            body.extend_from_slice(b",\"NodeNames\":null,\"Nodes\":{\"metadata\":{},\"items\":[");
            for (number, node) in nodes.iter().enumerate() {
                if number > 0 {
                    body.push(b',');
                }
                body.extend(node.to_json()?);
            }
            body.extend_from_slice(b"]}");
        }
        body.push(b'}');
        Ok(body)
    }

    fn unreadable(&self, verb: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ExtenderError {
        ExtenderError::Exchange { url: self.url(verb), source: source.into() }
    }

    fn refusal_in(&self, verb: &str, answer: &Map<String, Value>) -> Result<(), ExtenderError> {
        match answer.get("error").and_then(Value::as_str) {
            Some(message) if !message.is_empty() => Err(ExtenderError::Refused { url: self.url(verb), message: message.to_owned() }),
            _ => Ok(()),
        }
    }

    async fn filter(&self, pod: &Pod, nodes: &[Arc<Node>]) -> Result<Filtered, ExtenderError> {
        let verb = &self.settings.filter_verb;
        let body = self.arguments(pod, nodes).map_err(|error| self.unreadable(verb, error))?;
        let answer = folded(self.ask(verb, body).await?);
        self.refusal_in(verb, &answer)?;
        let names: Vec<String> = if let Some(Value::Array(names)) = answer.get("nodenames").filter(|_| self.settings.node_cache_capable) {
            names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        } else {
            let items = answer.get("nodes").and_then(|list| list.get("items")).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(|node| node.pointer("/metadata/name")?.as_str()).map(str::to_owned).collect()
        };
        if let Some(stranger) = names.iter().find(|name| !nodes.iter().any(|node| name_of(node) == name.as_str())) {
            return Err(self.unreadable(verb, format!("it allows the node {stranger}, which it was not asked about")));
        }
        Ok(Filtered { kept: names, not_now: texts(&answer, "failednodes"), never: texts(&answer, "failedandunresolvablenodes") })
    }

    /// Scores by node, as they count.
    async fn prioritize(&self, pod: &Pod, nodes: &[Arc<Node>]) -> Result<Vec<(String, i64)>, ExtenderError> {
        let verb = &self.settings.prioritize_verb;
        let body = self.arguments(pod, nodes).map_err(|error| self.unreadable(verb, error))?;
        let Value::Array(list) = self.ask(verb, body).await? else { return Err(self.unreadable(verb, "it did not answer with a list")) };
        let read = |entry: Value| {
            let entry = folded(entry);
            Some((entry.get("host")?.as_str()?.to_owned(), entry.get("score")?.as_i64()?.saturating_mul(self.settings.weight).saturating_mul(SCALE)))
        };
        Ok(list.into_iter().filter_map(read).collect())
    }

    /// Binds a pod.
    ///
    /// # Errors
    /// Where it does not answer, or says why not.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), ExtenderError> {
        let verb = &self.settings.bind_verb;
        let body = json!({"PodName": pod.name, "PodNamespace": pod.namespace, "PodUID": pod.uid, "Node": node});
        let answer = folded(self.ask(verb, body.to_string().into_bytes()).await?);
        self.refusal_in(verb, &answer)
    }

    /// What it leaves of the ways to make room.
    async fn preempt(&self, pod: &Pod, plans: &[Plan], cluster: &Cluster, whole: &impl Fn(&PodInfo) -> Option<Arc<Pod>>) -> Result<Vec<Plan>, ExtenderError> {
        let verb = &self.settings.preempt_verb;
        let failed = |error: serde_json::Error| self.unreadable(verb, error);
        let mut by_node = Map::new();
        for plan in plans {
            let Some(node) = cluster.at(plan.slot) else { continue };
            let victims: Vec<Value> = if self.settings.node_cache_capable {
                plan.victims.iter().map(|victim| json!({"UID": victim.uid})).collect()
            } else {
                plan.victims.iter().filter_map(|victim| whole(victim)).map(|victim| victim.to_tree()).collect::<Result<_, _>>().map_err(failed)?
            };
            by_node.insert(node.name.clone(), json!({"Pods": victims, "NumPDBViolations": plan.violations()}));
        }
        let (full, meta) = if self.settings.node_cache_capable { (Value::Null, Value::Object(by_node)) } else { (Value::Object(by_node), Value::Null) };
        let body = json!({"Pod": pod.to_tree().map_err(failed)?, "NodeNameToVictims": full, "NodeNameToMetaVictims": meta});
        let answer = folded(self.ask(verb, body.to_string().into_bytes()).await?);
        let Some(Value::Object(left)) = answer.get("nodenametometavictims") else { return Ok(Vec::new()) };
        let mut kept = Vec::with_capacity(left.len());
        for (name, victims) in left {
            let victims = folded(victims.clone());
            let uids = victims.get("pods").and_then(Value::as_array).into_iter().flatten().filter_map(|pod| folded(pod.clone()).get("uid")?.as_str().map(str::to_owned));
            let uids: Vec<String> = uids.collect();
            let Some(node) = cluster.node(name) else { return Err(self.unreadable(verb, format!("it names the node {name}, which is not there"))) };
            let victims_there: Option<Vec<Arc<PodInfo>>> = uids.iter().map(|uid| node.pods.get(uid).cloned()).collect();
            let Some(there) = victims_there.filter(|there| !there.is_empty()) else {
                return Err(self.unreadable(verb, format!("it names no victim on {name}, or one that is not there")));
            };
            let violations = victims.get("numpdbviolations").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
            kept.push(Plan::new(node.slot, there, violations));
        }
        Ok(kept)
    }
}

/// As [`crate::decision::decide`], where these extenders have a say.
///
/// # Errors
/// The reasons, where no node fits.
pub async fn decide(
    extenders: &[Arc<Extender>],
    profile: &Profile,
    pod: &Arc<PodInfo>,
    object: &Pod,
    cluster: &mut Cluster,
    start: &mut usize,
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Result<usize, Refusal> {
    let promised = cluster.nomination_of(&pod.uid).is_some();
    let (slots, refusal) = find(profile, pod, cluster, start, true)?;
    let narrowed = narrow(extenders, object, cluster, slots, refusal, &node).await;
    let slots = match narrowed {
        // They do not want it where room was made; anywhere else will do.
        Err(refusal) if promised && !refusal.failed => {
            let (slots, refusal) = find(profile, pod, cluster, start, false)?;
            narrow(extenders, object, cluster, slots, refusal, &node).await?
        }
        other => other?,
    };
    if let [only] = slots.as_slice() {
        return Ok(*only);
    }
    let nodes: Vec<Arc<Node>> = slots.iter().filter_map(|slot| node(&cluster.at(*slot)?.name)).collect();
    let mut extra: HashMap<usize, i64> = HashMap::new();
    for extender in extenders.iter().filter(|extender| !extender.settings.prioritize_verb.is_empty()) {
        match extender.prioritize(object, &nodes).await {
            Ok(scores) => {
                for (slot, score) in scores.into_iter().filter_map(|(name, score)| Some((cluster.node(&name)?.slot, score))) {
                    let sum = extra.entry(slot).or_default();
                    *sum = sum.saturating_add(score);
                }
            }
            // Preferences are no reason to leave a pod without node.
            Err(error) => warn!(pod = pod.name, error = chain(&error), "an extender's scores are missing"),
        }
    }
    Ok(choose(profile, pod, &slots, cluster, &extra))
}

/// What the extenders leave of the nodes that fit.
async fn narrow(
    extenders: &[Arc<Extender>],
    object: &Pod,
    cluster: &Cluster,
    mut slots: Vec<usize>,
    mut refusal: Refusal,
    node: &impl Fn(&str) -> Option<Arc<Node>>,
) -> Result<Vec<usize>, Refusal> {
    for extender in extenders.iter().filter(|extender| !extender.settings.filter_verb.is_empty()) {
        let nodes: Vec<Arc<Node>> = slots.iter().filter_map(|slot| node(&cluster.at(*slot)?.name)).collect();
        let filtered = match extender.filter(object, &nodes).await {
            Ok(filtered) => filtered,
            Err(error) if extender.settings.ignorable => {
                warn!(error = chain(&error), "an extender is passed over, as its settings allow");
                continue;
            }
            Err(error) => return Err(Refusal { nowhere: Some(chain(&error)), failed: true, ..Refusal::of(cluster.len()) }),
        };
        let slot_of = |name: &String| cluster.node(name).map(|node| node.slot);
        refusal.not_now.extend(filtered.not_now.keys().filter(|name| !filtered.never.contains_key(*name)).filter_map(slot_of));
        let reasons = filtered.not_now.iter().filter(|(name, _)| !filtered.never.contains_key(*name)).chain(&filtered.never);
        for (_, reason) in reasons {
            *refusal.reasons.entry(reason.clone().into()).or_default() += 1;
        }
        if filtered.kept.len() < slots.len() && !refusal.refused_by.contains(&EXTENDER) {
            refusal.refused_by.push(EXTENDER);
        }
        slots = filtered.kept.iter().filter_map(slot_of).collect();
        if slots.is_empty() {
            return Err(refusal);
        }
    }
    Ok(slots)
}

/// What the extenders that have a say leave of the ways to make room for a pod.
///
/// # Errors
/// In words for the pod's condition, where one gives no answer and may not be passed over.
pub async fn narrow_plans(
    extenders: &[Arc<Extender>],
    object: &Pod,
    mut plans: Vec<Plan>,
    cluster: &Cluster,
    whole: impl Fn(&PodInfo) -> Option<Arc<Pod>>,
) -> Result<Vec<Plan>, String> {
    for extender in extenders.iter().filter(|extender| !extender.settings.preempt_verb.is_empty()) {
        if plans.is_empty() {
            break;
        }
        plans = match extender.preempt(object, &plans, cluster, &whole).await {
            Ok(left) => left,
            Err(error) if extender.settings.ignorable => {
                warn!(error = chain(&error), "an extender is passed over, as its settings allow");
                continue;
            }
            Err(error) => return Err(chain(&error)),
        };
    }
    Ok(plans)
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let read = |text| timeout(Some(text)).map(|duration| duration.as_millis());
        assert_eq!([read("100ms"), read("1m30s"), read("2.5s"), read("5"), read("0s"), read("5x")], [Some(100), Some(90_000), Some(2500), None, None, None]);
        assert_eq!(timeout(None), Some(PATIENCE));
    }
}
