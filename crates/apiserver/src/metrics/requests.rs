//! Requests: how many, how long, how large, and how many at once.
//!
//! One look-up finds everything that is counted of requests alike, and makes no copy of their names, so that counting costs a read of one
//! object next to nothing.
//!
//! Names, labels and buckets as upstream's, source: Kubernetes 1.36, `apiserver/pkg/endpoints/metrics/metrics.go`.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, gauge::Gauge, histogram::Histogram},
};

use crate::request_info::RequestInfo;

const COMPONENT: &str = "apiserver";

/// Upper bounds of durations, in seconds.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
/// The same without what is faster than promised to anybody.
const PROMISED_DURATIONS: [f64; 21] =
    [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// Upper bounds of answers' sizes, in bytes.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// What requests have in common that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    dry_run: &'static str,
    group: &'a str,
    resource: &'a str,
    scope: &'static str,
    subresource: &'a str,
    verb: &'static str,
    version: &'a str,
}

impl<'a> Key<'a> {
    fn of(info: &'a RequestInfo, applies: bool, dry_run: bool) -> Self {
        let health = matches!(info.path.trim_end_matches('/'), "/healthz" | "/livez" | "/readyz");
        Key {
            dry_run: if dry_run { "All" } else { "" },
            group: &info.group,
            resource: &info.resource,
            scope: scope(info),
            subresource: if health { info.path.trim_end_matches('/') } else { &info.subresource },
            verb: if applies { "APPLY" } else { shown_verb(info) },
            version: &info.version,
        }
    }
    /// The same without names: what nobody serves would let clients grow the table without bound.
    fn nameless(self) -> Self {
        Key { group: "", resource: "", subresource: "", version: "", ..self }
    }
}

fn shown_verb(info: &RequestInfo) -> &'static str {
    if info.connects() {
        return "CONNECT";
    }
    match info.verb {
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match info {
        info if !info.name.is_empty() || info.verb == "create" => "resource",
        info if !info.namespace.is_empty() => "namespace",
        info if info.is_resource => "cluster",
        _ => "",
    }
}

/// Everything that is counted of requests alike.
#[derive(Debug)]
struct Series {
    dry_run: &'static str,
    group: String,
    resource: String,
    scope: &'static str,
    subresource: String,
    verb: &'static str,
    version: String,
    /// Answered, by code.
    codes: RwLock<Vec<(u16, Counter)>>,
    durations: Histogram,
    /// Without the time that webhooks took; none of streams.
    promised: Option<Histogram>,
    /// Of reads.
    sizes: Option<Histogram>,
    /// Streams under way; none where these are no streams.
    running: Option<Gauge>,
}

impl Series {
    fn new(key: &Key<'_>, is_stream: bool) -> Self {
        Self {
            dry_run: key.dry_run,
            group: key.group.to_owned(),
            resource: key.resource.to_owned(),
            scope: key.scope,
            subresource: key.subresource.to_owned(),
            verb: key.verb,
            version: key.version.to_owned(),
            codes: RwLock::default(),
            durations: Histogram::new(DURATIONS),
            promised: (!is_stream).then(|| Histogram::new(PROMISED_DURATIONS)),
            sizes: matches!(key.verb, "GET" | "LIST").then(|| Histogram::new(SIZES)),
            running: is_stream.then(Gauge::default),
        }
    }
    fn is_of(&self, key: &Key<'_>) -> bool {
        let own = Key {
            dry_run: self.dry_run,
            group: &self.group,
            resource: &self.resource,
            scope: self.scope,
            subresource: &self.subresource,
            verb: self.verb,
            version: &self.version,
        };
        own == *key
    }
    fn answered(&self, code: u16) {
        if let Some((_, counter)) = self.codes.read().iter().find(|(known, _)| *known == code) {
            counter.inc();
            return;
        }
        let mut codes = self.codes.write();
        let place = codes.iter().position(|(known, _)| *known == code).unwrap_or_else(|| {
            codes.push((code, Counter::default()));
            codes.len() - 1
        });
        if let Some((_, counter)) = codes.get(place) {
            counter.inc();
        }
    }
    /// Its labels, the optional ones where the metric has them.
    fn labels<'a>(&'a self, code: Option<u16>, with_dry_run: bool) -> Labels<'a> {
        Labels { series: self, code, with_dry_run }
    }
}

/// The labels of one line, in alphabetical order as everywhere upstream.
#[derive(Debug)]
struct Labels<'a> {
    series: &'a Series,
    code: Option<u16>,
    with_dry_run: bool,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        let series = self.series;
        if let Some(code) = self.code {
            ("code", code).encode(encoder.encode_label())?;
        }
        ("component", COMPONENT).encode(encoder.encode_label())?;
        if self.with_dry_run {
            ("dry_run", series.dry_run).encode(encoder.encode_label())?;
        }
        ("group", series.group.as_str()).encode(encoder.encode_label())?;
        ("resource", series.resource.as_str()).encode(encoder.encode_label())?;
        ("scope", series.scope).encode(encoder.encode_label())?;
        ("subresource", series.subresource.as_str()).encode(encoder.encode_label())?;
        ("verb", series.verb).encode(encoder.encode_label())?;
        ("version", series.version.as_str()).encode(encoder.encode_label())
    }
}

/// Requests of one kind that are being answered, and how many there were at most within a second.
#[derive(Debug, Default)]
struct InFlight {
    now: AtomicU64,
    /// The second in the upper half, the most in it in the lower one: the larger of two is the later second, or the larger number.
    most: AtomicU64,
}

impl InFlight {
    fn begin(&self, second: u64) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(second << 32 | (now & u64::from(u32::MAX)), Ordering::Relaxed);
    }
    fn end(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
    fn most_lately(&self, second: u64) -> u64 {
        let most = self.most.load(Ordering::Relaxed);
        let lately = if (most >> 32) + 1 >= second { most & u64::from(u32::MAX) } else { 0 };
        lately.max(self.now.load(Ordering::Relaxed))
    }
}

/// What is counted of requests. Clones count together.
#[derive(Debug, Clone)]
pub struct Requests(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    known: RwLock<HashMap<u64, Vec<Arc<Series>>>>,
    hashing: RandomState,
    /// Seconds are counted from here.
    opened: Instant,
    reads: InFlight,
    writes: InFlight,
}

impl Default for Requests {
    fn default() -> Self {
        let inner = Inner { known: RwLock::default(), hashing: RandomState::new(), opened: Instant::now(), reads: InFlight::default(), writes: InFlight::default() };
        Self(Arc::new(inner))
    }
}

/// A request that is being answered.
pub struct Begun {
    requests: Requests,
    started: Instant,
    applies: bool,
    dry_run: bool,
    is_read: bool,
    /// Of a stream.
    stream: Option<Arc<Stream>>,
}

/// A stream under way, as long as anybody holds this: the answer's body, or both ends of an upgraded connection.
pub struct Stream {
    series: Arc<Series>,
    started: Instant,
    /// Zero until it is answered.
    code: AtomicU16,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(running) = &self.series.running {
            running.dec();
        }
        let code = self.code.load(Ordering::Relaxed);
        // It may have been given up before it was answered.
        if code != 0 {
            self.series.answered(code);
            self.series.durations.observe(self.started.elapsed().as_secs_f64());
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stream").field("verb", &self.series.verb).field("resource", &self.series.resource).finish()
    }
}

/// How a request was answered.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// The status code.
    pub code: u16,
    /// Bytes of the body, where that is known.
    pub size: Option<u64>,
    /// How long webhooks took.
    pub waited: Duration,
}

impl Requests {
    fn series(&self, key: &Key<'_>, is_stream: bool) -> Arc<Series> {
        let hash = self.0.hashing.hash_one(key);
        let find = |known: &HashMap<u64, Vec<Arc<Series>>>| known.get(&hash)?.iter().find(|series| series.is_of(key)).cloned();
        if let Some(series) = find(&self.0.known.read()) {
            return series;
        }
        let mut known = self.0.known.write();
        if let Some(series) = find(&known) {
            return series;
        }
        let series = Arc::new(Series::new(key, is_stream));
        known.entry(hash).or_default().push(series.clone());
        series
    }

    fn in_flight(&self, is_read: bool) -> &InFlight {
        if is_read { &self.0.reads } else { &self.0.writes }
    }

    /// A request begins. `applies` tells that it is a server-side apply; `is_served`, whether anything is served at its path.
    pub fn begin(&self, info: &RequestInfo, applies: bool, dry_run: bool, is_served: impl FnOnce() -> bool) -> Begun {
        let started = Instant::now();
        let is_read = matches!(info.verb, "get" | "list" | "watch" | "head" | "options");
        let stream = info.is_long_running().then(|| {
            let key = Key::of(info, applies, dry_run);
            let series = self.series(&if is_served() { key } else { key.nameless() }, true);
            if let Some(running) = &series.running {
                running.inc();
            }
            Arc::new(Stream { series, started, code: AtomicU16::new(0) })
        });
        if stream.is_none() {
            self.in_flight(is_read).begin(started.duration_since(self.0.opened).as_secs());
        }
        Begun { requests: self.clone(), started, applies, dry_run, is_read, stream }
    }
}

impl Begun {
    /// For a stream, what it is counted by.
    pub fn stream(&self) -> Option<&Arc<Stream>> {
        self.stream.as_ref()
    }
    /// The request was answered; a stream's body may go on. `is_served` as in [`Requests::begin`], asked where the answer is an error.
    pub fn end(&self, info: &RequestInfo, answered: Answered, is_served: impl FnOnce() -> bool) {
        if let Some(stream) = &self.stream {
            stream.code.store(answered.code, Ordering::Relaxed);
            return;
        }
        let took = self.started.elapsed();
        let key = Key::of(info, self.applies, self.dry_run);
        let series = self.requests.series(&if answered.code < 400 || is_served() { key } else { key.nameless() }, false);
        series.answered(answered.code);
        series.durations.observe(took.as_secs_f64());
        if let Some(promised) = &series.promised {
            promised.observe(took.saturating_sub(answered.waited).as_secs_f64());
        }
        if let (Some(sizes), Some(size)) = (&series.sizes, answered.size) {
            sizes.observe(size as f64);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Also where the client went before it was answered.
        if self.stream.is_none() {
            self.requests.in_flight(self.is_read).end();
        }
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all: Vec<Arc<Series>> = self.0.known.read().values().flatten().cloned().collect();
        all.sort_by(|one, other| (&one.group, &one.resource, &one.subresource, one.verb).cmp(&(&other.group, &other.resource, &other.subresource, other.verb)));
        let help = "[STABLE] Requests answered, by what they were about and the code of the answer";
        let mut family = encoder.encode_descriptor("apiserver_request", help, None, MetricType::Counter)?;
        for series in &all {
            for (code, counter) in series.codes.read().iter() {
                counter.encode(family.encode_family(&series.labels(Some(*code), true))?)?;
            }
        }
        let help = "[STABLE] How long requests took, in seconds; streams count when they end";
        let mut family = encoder.encode_descriptor("apiserver_request_duration_seconds", help, None, MetricType::Histogram)?;
        for series in &all {
            series.durations.encode(family.encode_family(&series.labels(None, true))?)?;
        }
        let help = "[ALPHA] How long requests took without the webhooks that were asked, in seconds";
        let mut family = encoder.encode_descriptor("apiserver_request_sli_duration_seconds", help, None, MetricType::Histogram)?;
        for series in &all {
            if let Some(promised) = &series.promised {
                promised.encode(family.encode_family(&series.labels(None, false))?)?;
            }
        }
        let help = "[STABLE] How large the answers to reads were, in bytes";
        let mut family = encoder.encode_descriptor("apiserver_response_sizes", help, None, MetricType::Histogram)?;
        for series in &all {
            if let Some(sizes) = &series.sizes {
                sizes.encode(family.encode_family(&series.labels(None, false))?)?;
            }
        }
        let help = "[STABLE] Streams under way: watches, logs, connections to pods";
        let mut family = encoder.encode_descriptor("apiserver_longrunning_requests", help, None, MetricType::Gauge)?;
        for series in &all {
            if let Some(running) = &series.running {
                running.encode(family.encode_family(&series.labels(None, false))?)?;
            }
        }
        let second = self.0.opened.elapsed().as_secs();
        let help = "[STABLE] The most requests that were being answered at once within the last second, streams apart";
        let mut family = encoder.encode_descriptor("apiserver_current_inflight_requests", help, None, MetricType::Gauge)?;
        for (kind, in_flight) in [("mutating", &self.0.writes), ("readOnly", &self.0.reads)] {
            let most: Gauge = Gauge::default();
            most.set(i64::try_from(in_flight.most_lately(second)).unwrap_or(i64::MAX));
            most.encode(family.encode_family(&[("request_kind", kind)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_at_once_is_remembered_for_a_second() {
        let in_flight = InFlight::default();
        in_flight.begin(7);
        in_flight.begin(7);
        in_flight.end();
        in_flight.end();
        assert_eq!([7, 8, 9].map(|second| in_flight.most_lately(second)), [2, 2, 0]);
        in_flight.begin(9);
        assert_eq!([9, 20].map(|second| in_flight.most_lately(second)), [1, 1]);
    }
}
