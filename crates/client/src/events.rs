//! Tells users what happened to an object, as `Event`s of the core API. Repetitions are counted in one Event instead of written anew,
//! floods of similar ones are combined, and who says too much about one object is cut off.
//!
//! One task per recorder writes, one Event at a time, as upstream's broadcaster does; what it remembers is in [`Correlator`] and bounded.
//!
//! Source of the numbers and rules: Kubernetes 1.36, `client-go/tools/record/event.go` and `events_cache.go`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use crate::Api;
use kube_core::params::{Patch, PatchParams, PostParams};
use meta::validation::dns1123_subdomain_problems;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::is_not_found;

/// Events that may wait to be written; more are dropped, since events are a help and must not hold anybody up.
const WAITING: usize = 1000;
/// How often it is tried to write an Event while the API does not answer.
const TRIES: u32 = 12;
/// How long to wait between two tries; a random part of it before the second, so that not all come back at once.
const PAUSE: Duration = Duration::from_secs(10);
/// Similar events combine where none of them came later than this after the one before.
const SAME_STORY: Duration = Duration::from_secs(600);
/// From this many different messages of similar events on, they are combined.
const SIMILAR_LIMIT: usize = 10;
/// One source may say this much about one object at once...
const BURST: f64 = 25.0;
/// ...and then one more in this time.
const REFILL: Duration = Duration::from_secs(300);
/// How many stories, kinds of stories and objects are remembered; of each those used last.
const REMEMBERED: usize = 4096;

/// Whether an Event is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As planned.
    Normal,
    /// Something a user may have to look at.
    Warning,
}

impl EventType {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records events of one component. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Told>,
    clock: Arc<dyn Clock>,
}

/// What somebody recorded.
#[derive(Clone)]
struct Told {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl EventRecorder {
    /// Events of `component` (on node `host`, where it is one node's), written through `client`. Must be called within a tokio
    /// runtime; stops when the last clone is dropped.
    pub fn new(client: crate::Client, component: &str, host: Option<&str>, clock: Arc<dyn Clock>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let source = EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        tokio::spawn(Writer { client, clock: clock.clone(), correlator: Correlator::new(source) }.run(receiver));
        Self { sender, clock }
    }

    /// Says something about an object.
    pub fn record<K: kube_core::Resource<DynamicType = ()>>(&self, object: &K, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record_about(reference(object), kind, reason, message);
    }

    /// Says something about whatever is referred to, possibly a part of it (`field_path`).
    pub fn record_about(&self, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let told = Told { about, kind, reason: reason.to_owned(), message: message.into(), at: self.clock.now() };
        if self.sender.try_send(told).is_err() {
            tracing::debug!(reason, "an event was dropped: too many are waiting");
        }
    }
}

/// A reference to an object, with uid and revision.
pub fn reference<K: kube_core::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let metadata = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

/// What is remembered is found by the hashes of what makes it the same: texts of any length take no room.
type Key = [u64; 2];

fn hash_of(seed: u64, parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, parts).hash(&mut hasher);
    hasher.finish()
}

fn key_of(parts: &[&str]) -> Key {
    [hash_of(0, parts), hash_of(1, parts)]
}

/// The newest `REMEMBERED` values.
struct Recent<V> {
    values: HashMap<Key, (u64, V)>,
    by_age: BTreeMap<u64, Key>,
    next: u64,
}

impl<V> Recent<V> {
    fn new() -> Self {
        Self { values: HashMap::new(), by_age: BTreeMap::new(), next: 0 }
    }

    fn take(&mut self, key: Key) -> Option<V> {
        let (age, value) = self.values.remove(&key)?;
        self.by_age.remove(&age);
        Some(value)
    }

    fn put(&mut self, key: Key, value: V) {
        self.take(key);
        self.next += 1;
        self.by_age.insert(self.next, key);
        self.values.insert(key, (self.next, value));
        if self.values.len() > REMEMBERED && let Some((_, oldest)) = self.by_age.pop_first() {
            self.values.remove(&oldest);
        }
    }
}

/// An Event that was written, or was to be.
struct Story {
    name: String,
    count: i32,
    first: Timestamp,
}

/// Events that differ in their message only.
struct Similar {
    /// Hashes of the messages, the newest last.
    messages: VecDeque<u64>,
    last: Duration,
}

/// What may still be said about an object.
struct Budget {
    left: f64,
    counted: Duration,
}

/// Decides what is written of what is told.
struct Correlator {
    source: EventSource,
    similar: Recent<Similar>,
    stories: Recent<Story>,
    budgets: Recent<Budget>,
    /// Nanoseconds in the name of the newest event.
    last_stamp: i128,
}

impl Correlator {
    fn new(source: EventSource) -> Self {
        Self { source, similar: Recent::new(), stories: Recent::new(), budgets: Recent::new(), last_stamp: 0 }
    }

    /// What is to be written: an Event, which is a new one where its count is one. `None` where too much was said about the object;
    /// it was counted nevertheless. `elapsed` is what spans of time are judged by.
    /// Source: Kubernetes 1.36, `EventCorrelator.EventCorrelate`.
    fn correlate(&mut self, told: Told, now: Timestamp, elapsed: Duration) -> Option<Event> {
        fn text(value: &Option<String>) -> &str {
            value.as_deref().unwrap_or_default()
        }
        let about = &told.about;
        let (kind, namespace, name, uid) = (text(&about.kind), text(&about.namespace), text(&about.name), text(&about.uid));
        let (version, reason) = (text(&about.api_version), told.reason.as_str());
        let story = key_of(&["story", kind, namespace, name, text(&about.field_path), uid, version, told.kind.name(), reason, &told.message]);
        let similar = key_of(&["similar", kind, namespace, name, uid, version, told.kind.name(), reason]);
        let object = key_of(&["object", kind, namespace, name, uid, version]);
        let is_one_of_many = self.is_one_of_many(similar, &told.message, elapsed);
        let event = if is_one_of_many {
            let message = format!("(combined from similar events): {}", told.message);
            // As upstream's, it does not say who reports.
            Event { reporting_component: None, reporting_instance: None, ..self.event(Told { message, at: now, ..told }) }
        } else {
            self.event(told)
        };
        let event = self.observe(if is_one_of_many { similar } else { story }, event);
        self.may_say_more(object, elapsed).then_some(event)
    }

    fn event(&mut self, told: Told) -> Event {
        // Made to never repeat.
        self.last_stamp = (self.last_stamp + 1).max(told.at.as_nanosecond());
        let name = event_name(told.about.name.as_deref().unwrap_or_default(), self.last_stamp);
        let namespace = told.about.namespace.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: told.about,
            type_: Some(told.kind.name().to_owned()),
            reason: Some(told.reason),
            message: Some(told.message),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            first_timestamp: Some(Time(told.at)),
            last_timestamp: Some(Time(told.at)),
            count: Some(1),
            ..Event::default()
        }
    }

    /// Whether so many different messages of the same reason came lately that they should be one.
    /// Source: Kubernetes 1.36, `EventAggregator.EventAggregate`.
    fn is_one_of_many(&mut self, key: Key, message: &str, now: Duration) -> bool {
        let recent = self.similar.take(key).filter(|similar| now.saturating_sub(similar.last) <= SAME_STORY);
        let mut messages = recent.map(|similar| similar.messages).unwrap_or_default();
        let hash = hash_of(0, &[message]);
        if !messages.contains(&hash) {
            messages.push_back(hash);
        }
        let is_one_of_many = messages.len() >= SIMILAR_LIMIT;
        if is_one_of_many {
            messages.pop_front();
        }
        self.similar.put(key, Similar { messages, last: now });
        is_one_of_many
    }

    /// Counts a repetition, which then has the name and first time of the one before.
    /// Source: Kubernetes 1.36, `eventLogger.eventObserve`.
    fn observe(&mut self, key: Key, mut event: Event) -> Event {
        if let Some(known) = self.stories.take(key) {
            event.metadata.name = Some(known.name);
            event.first_timestamp = Some(Time(known.first));
            event.count = Some(known.count.saturating_add(1));
        }
        let name = event.metadata.name.clone().unwrap_or_default();
        let first = event.first_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        self.stories.put(key, Story { name, count: event.count.unwrap_or(1), first });
        event
    }

    /// Source: Kubernetes 1.36, `EventSourceObjectSpamFilter.Filter`.
    fn may_say_more(&mut self, object: Key, now: Duration) -> bool {
        let mut budget = self.budgets.take(object).unwrap_or(Budget { left: BURST, counted: now });
        let gained = now.saturating_sub(budget.counted).as_secs_f64() / REFILL.as_secs_f64();
        budget.left = (budget.left + gained).min(BURST);
        budget.counted = now;
        let allowed = budget.left >= 1.0;
        if allowed {
            budget.left -= 1.0;
        }
        self.budgets.put(object, budget);
        allowed
    }
}

/// The name of an Event: after the object and the time. Where that would be no name, since objects of some kinds have others, a random one.
/// Source: Kubernetes 1.36, `GenerateEventName`.
fn event_name(object: &str, nanoseconds: i128) -> String {
    let name = format!("{object}.{nanoseconds:x}");
    if dns1123_subdomain_problems(&name).is_empty() {
        return name;
    }
    let mut bits: u128 = rand::random();
    // A UUID's version and variant.
    bits = bits & !(0xf << 76) | 4 << 76;
    bits = bits & !(0b11 << 62) | 0b10 << 62;
    let text = format!("{bits:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

struct Writer {
    client: crate::Client,
    clock: Arc<dyn Clock>,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Told>) {
        while let Some(told) = receiver.recv().await {
            let Some(event) = self.correlator.correlate(told, self.clock.now(), self.clock.elapsed()) else { continue };
            for attempt in 1..=TRIES {
                match self.write(&event).await {
                    Ok(()) => break,
                    Err(error) if !may_work_later(&error) => {
                        tracing::debug!(%error, "an event was refused");
                        break;
                    }
                    Err(error) if attempt == TRIES || receiver.is_closed() => tracing::warn!(%error, "an event could not be written"),
                    Err(error) => {
                        tracing::debug!(%error, "an event could not be written yet");
                        let pause = if attempt == 1 { PAUSE.mul_f64(rand::random()) } else { PAUSE };
                        // As long as the API does not answer there is nothing to wait for but time.
                        self.clock.sleep(pause).await;
                    }
                }
                if receiver.is_closed() {
                    break;
                }
            }
        }
    }

    /// Changes the Event where it was written before, and writes it anew where it is gone.
    /// Source: Kubernetes 1.36, `recordEvent`.
    async fn write(&self, event: &Event) -> crate::Result<()> {
        let api = Api::<Event>::namespaced(self.client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
        if event.count > Some(1) {
            let patch = serde_json::json!({ "count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message });
            match api.patch(event.metadata.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if is_not_found(&error) => {}
                other => return other.map(drop),
            }
        }
        api.create(&PostParams::default(), event).await.map(drop)
    }
}

/// Whether the API did not answer. What it refused it would refuse again.
fn may_work_later(error: &crate::Error) -> bool {
    match error {
        crate::Error::Service(_) | crate::Error::ReadEvents(_) | crate::Error::SerdeError(_) => true,
        crate::Error::Api(_) | crate::Error::BuildRequest(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;
    use crate::fake::FakeApi;
    use k8s_openapi::api::core::v1::Pod;

    async fn written(api: &FakeApi, at_least: usize) -> Vec<Event> {
        api.until(|api| {
            let events: Vec<Event> = api.objects();
            let total: i32 = events.iter().filter_map(|event| event.count).sum();
            (total as usize >= at_least).then_some(events)
        })
        .await
    }

    fn recorder(api: &FakeApi) -> EventRecorder {
        EventRecorder::new(api.client(), "tester", None, Arc::new(FakeClock::new(Timestamp::UNIX_EPOCH)))
    }

    fn pod() -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some("a".to_owned());
        pod.metadata.namespace = Some("x".to_owned());
        pod
    }

    #[tokio::test]
    async fn a_repetition_is_counted_in_the_same_event() {
        let api = FakeApi::new();
        let recorder = recorder(&api);
        for _ in 0..3 {
            recorder.record(&pod(), EventType::Normal, "Pulled", "it is there");
        }
        let events = written(&api, 3).await;
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].count, events[0].metadata.namespace.as_deref()), (Some(3), Some("x")));
    }

    #[tokio::test]
    async fn an_event_that_is_gone_is_written_again_with_its_count() {
        let api = FakeApi::new();
        let recorder = recorder(&api);
        recorder.record(&pod(), EventType::Normal, "Pulled", "it is there");
        let first = written(&api, 1).await.remove(0);
        let name = first.metadata.name.as_deref().unwrap();
        Api::<Event>::namespaced(api.client(), "x").delete(name, &kube_core::params::DeleteParams::default()).await.unwrap();
        recorder.record(&pod(), EventType::Normal, "Pulled", "it is there");
        let second = written(&api, 2).await.remove(0);
        assert_eq!((second.metadata.name.as_deref(), second.count), (Some(name), Some(2)));
    }

    #[tokio::test]
    async fn an_api_that_does_not_answer_is_asked_twelve_times_and_one_that_refuses_once() {
        let clock = FakeClock::new(Timestamp::UNIX_EPOCH);
        let (asked, mut count) = tokio::sync::watch::channel(0);
        let service = tower::service_fn(move |_: http::Request<crate::Body>| {
            asked.send_modify(|count| *count += 1);
            async move { Err::<http::Response<http_body_util::Full<bytes::Bytes>>, _>(std::io::Error::other("nobody is there")) }
        });
        let client = crate::Client::new(service);
        let recorder = EventRecorder::new(client, "tester", None, Arc::new(clock.clone()));
        recorder.record(&pod(), EventType::Normal, "First", "");
        for times in 1..=12 {
            tokio::time::timeout(Duration::from_secs(60), count.wait_for(|count| *count == times)).await.unwrap().unwrap();
            if times < 12 {
                while !clock.has_sleepers() {
                    tokio::task::yield_now().await;
                }
                clock.advance(PAUSE);
            }
        }
        recorder.record(&pod(), EventType::Normal, "Second", "");
        tokio::time::timeout(Duration::from_secs(60), count.wait_for(|count| *count == 13)).await.unwrap().unwrap();

        let api = FakeApi::new();
        api.fail("/events", 403);
        let recorder = self::recorder(&api);
        recorder.record(&pod(), EventType::Normal, "Refused", "");
        // A write that is refused is told nowhere else.
        while api.writes().is_empty() {
            tokio::task::yield_now().await;
        }
        api.heal();
        recorder.record(&pod(), EventType::Normal, "Next", "");
        let reasons: Vec<_> = written(&api, 1).await.into_iter().filter_map(|event| event.reason).collect();
        assert_eq!(reasons, ["Next"]);
    }

    /// What becomes of messages about pod `a`, each told at a second.
    struct Teller(Correlator);

    impl Teller {
        fn new() -> Self {
            Self(Correlator::new(EventSource { component: Some("tester".to_owned()), host: None }))
        }

        /// The count and message that are written, if any.
        fn tell(&mut self, second: u64, reason: &str, message: &str) -> Option<(i32, String)> {
            let at = Timestamp::from_second(second as i64).unwrap();
            let told = Told { about: reference(&pod()), kind: EventType::Normal, reason: reason.to_owned(), message: message.to_owned(), at };
            let event = self.0.correlate(told, at, Duration::from_secs(second))?;
            Some((event.count?, event.message?))
        }
    }

    fn combined(count: i32, message: &str) -> Option<(i32, String)> {
        Some((count, format!("(combined from similar events): {message}")))
    }

    #[test]
    fn similar_events_are_one_from_the_tenth_message_on_until_there_is_silence() {
        let mut teller = Teller::new();
        for number in 0..9 {
            assert_eq!(teller.tell(number, "Failed", &number.to_string()), Some((1, number.to_string())));
        }
        // Repetitions are no new messages.
        assert_eq!(teller.tell(9, "Failed", "3"), Some((2, "3".to_owned())));
        assert_eq!(teller.tell(10, "Failed", "9"), combined(1, "9"));
        assert_eq!(teller.tell(600, "Failed", "10"), combined(2, "10"));
        // Nine messages are remembered, so the tenth is one too many as long as there is no longer silence.
        assert_eq!(teller.tell(1200, "Failed", "11"), combined(3, "11"));
        assert_eq!(teller.tell(1200, "Pulled", "other reasons are other stories"), Some((1, "other reasons are other stories".to_owned())));
        assert_eq!(teller.tell(1801, "Failed", "12"), Some((1, "12".to_owned())));
    }

    #[test]
    fn who_says_too_much_is_cut_off_but_counted() {
        let mut teller = Teller::new();
        for number in 1..=25 {
            assert_eq!(teller.tell(0, "Failed", "again"), Some((number, "again".to_owned())));
        }
        for _ in 0..10 {
            assert_eq!(teller.tell(0, "Failed", "again"), None);
        }
        assert_eq!(teller.tell(299, "Pulled", "of no matter which reason"), None);
        assert_eq!(teller.tell(301, "Failed", "again"), Some((36, "again".to_owned())));
        assert_eq!(teller.tell(301, "Failed", "again"), None);
    }

    #[test]
    fn what_was_told_long_ago_is_forgotten_when_much_was_told_since() {
        let mut recent = Recent::new();
        let key = |number: usize| [number as u64, 0];
        for number in 0..REMEMBERED {
            recent.put(key(number), number);
        }
        assert_eq!(recent.take(key(0)), Some(0));
        recent.put(key(0), 0);
        recent.put(key(REMEMBERED), REMEMBERED);
        assert_eq!((recent.take(key(1)), recent.take(key(0)), recent.take(key(2))), (None, Some(0), Some(2)));
        assert_eq!((recent.values.len(), recent.by_age.len()), (REMEMBERED - 2, REMEMBERED - 2));
    }

    #[test]
    fn an_event_is_named_after_its_object_where_that_is_a_name() {
        assert_eq!(event_name("web-0", 0x18ab), "web-0.18ab");
        for object in ["system:node", "Big", &"a".repeat(253)] {
            let name = event_name(object, 1);
            assert!(name.len() == 36 && dns1123_subdomain_problems(&name).is_empty() && name.as_bytes()[14] == b'4', "{name}");
        }
    }
}
