//! Tells users what happened to an object, as `Event`s of the core API. Repetitions are counted in one Event instead of written anew,
//! floods of similar ones are combined, and who says too much about one object is cut off.
//!
//! Source of the numbers: Kubernetes 1.36, `client-go/tools/record/events_cache.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use crate::Api;
use kube_core::params::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::is_not_found;

/// Events that may wait to be written; more are dropped, since events are a help and must not hold anybody up.
const WAITING: usize = 1000;
/// Repetitions within this time are counted; similar ones combined.
const SAME_STORY: Duration = Duration::from_secs(600);
/// From this many similar events (all but the message) within `SAME_STORY` on, they are combined.
const SIMILAR_LIMIT: u32 = 10;
/// One source may say this much about one object at once...
const BURST: f64 = 25.0;
/// ...and then one more in this time.
const REFILL: Duration = Duration::from_secs(300);
/// How many stories are remembered.
const REMEMBERED: usize = 4096;
/// Longest message, in bytes.
const MESSAGE_LIMIT: usize = 1024;

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
}

struct Told {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
}

impl EventRecorder {
    /// Events of `component` (on node `host`, where it is one node's), written through `client`. Must be called within a tokio
    /// runtime; stops when the last clone is dropped.
    pub fn new(client: crate::Client, component: &str, host: Option<&str>, clock: Arc<dyn Clock>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let source = EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        tokio::spawn(Writer { client, source, clock, stories: HashMap::new(), budgets: HashMap::new(), similar: HashMap::new(), last_stamp: 0 }.run(receiver));
        Self { sender }
    }

    /// Says something about an object.
    pub fn record<K: kube_core::Resource<DynamicType = ()>>(&self, object: &K, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record_about(reference(object), kind, reason, message);
    }

    /// Says something about whatever is referred to, possibly a part of it (`field_path`).
    pub fn record_about(&self, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let told = Told { about, kind, reason: reason.to_owned(), message: message.into() };
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

/// What makes two events the same. Without message: similar.
#[derive(Clone, PartialEq, Eq, Hash)]
struct StoryId {
    /// Kind, namespace, name, uid and part.
    about: [Option<String>; 5],
    kind: &'static str,
    reason: String,
    message: Option<String>,
}

struct Story {
    name: String,
    count: i32,
    last: Duration,
}

struct Writer {
    client: crate::Client,
    source: EventSource,
    clock: Arc<dyn Clock>,
    stories: HashMap<StoryId, Story>,
    /// Per object: events still allowed, and when that was counted.
    budgets: HashMap<String, (f64, Duration)>,
    /// Per similar story: how many different messages since when.
    similar: HashMap<StoryId, (u32, Duration)>,
    /// Nanoseconds in the name of the newest event.
    last_stamp: i128,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Told>) {
        while let Some(told) = receiver.recv().await {
            if let Err(error) = self.write(told).await {
                tracing::debug!(%error, "an event could not be written");
            }
        }
    }

    async fn write(&mut self, told: Told) -> crate::Result<()> {
        let now = self.clock.elapsed();
        self.forget_old(now);
        let mut story = StoryId {
            about: [&told.about.kind, &told.about.namespace, &told.about.name, &told.about.uid, &told.about.field_path].map(Clone::clone),
            kind: told.kind.name(),
            reason: told.reason.clone(),
            message: Some(told.message.clone()),
        };
        let mut message = cut(told.message, MESSAGE_LIMIT);
        if !self.stories.contains_key(&story) && self.is_flood(&story, now) {
            story.message = None;
            message = cut(format!("(combined from similar events): {message}"), MESSAGE_LIMIT);
        }
        if !self.may_say_more(&told.about, now) {
            return Ok(());
        }
        let namespace = told.about.namespace.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let stamp = Time(self.clock.now());
        if let Some(known) = self.stories.get_mut(&story) {
            known.count += 1;
            known.last = now;
            let patch = serde_json::json!({ "count": known.count, "lastTimestamp": stamp, "message": message });
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if is_not_found(&error) => drop(self.stories.remove(&story)),
                other => return other.map(drop),
            }
        }
        // As upstream names events: after the object and the time, made to never repeat.
        self.last_stamp = (self.last_stamp + 1).max(self.clock.now().as_nanosecond());
        let name = format!("{}.{:x}", told.about.name.as_deref().unwrap_or_default(), self.last_stamp);
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: told.about,
            type_: Some(told.kind.name().to_owned()),
            reason: Some(told.reason),
            message: Some(message),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            first_timestamp: Some(stamp.clone()),
            last_timestamp: Some(stamp),
            count: Some(1),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        self.stories.insert(story, Story { name, count: 1, last: now });
        Ok(())
    }

    /// Whether so many different messages of the same reason came lately that they should be one.
    fn is_flood(&mut self, story: &StoryId, now: Duration) -> bool {
        let id = StoryId { message: None, ..story.clone() };
        let (count, since) = self.similar.entry(id).or_insert((0, now));
        if now.saturating_sub(*since) > SAME_STORY {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count >= SIMILAR_LIMIT
    }

    fn may_say_more(&mut self, about: &ObjectReference, now: Duration) -> bool {
        let object = format!("{}/{}/{}", about.kind.as_deref().unwrap_or_default(), about.namespace.as_deref().unwrap_or_default(), about.name.as_deref().unwrap_or_default());
        let (left, counted) = self.budgets.entry(object).or_insert((BURST, now));
        *left = (*left + now.saturating_sub(*counted).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        *counted = now;
        let allowed = *left >= 1.0;
        if allowed {
            *left -= 1.0;
        }
        allowed
    }

    fn forget_old(&mut self, now: Duration) {
        if self.stories.len() + self.budgets.len() + self.similar.len() < REMEMBERED {
            return;
        }
        self.stories.retain(|_, story| now.saturating_sub(story.last) < SAME_STORY);
        self.similar.retain(|_, (_, since)| now.saturating_sub(*since) < SAME_STORY);
        self.budgets.retain(|_, (left, counted)| *left + now.saturating_sub(*counted).as_secs_f64() / REFILL.as_secs_f64() < BURST);
        if self.stories.len() + self.budgets.len() + self.similar.len() >= REMEMBERED {
            self.stories.clear();
            self.similar.clear();
            self.budgets.clear();
        }
    }
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
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
        EventRecorder::new(api.client(), "tester", None, Arc::new(FakeClock::new(jiff::Timestamp::UNIX_EPOCH)))
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
    async fn a_flood_of_similar_events_is_combined_and_then_cut_off() {
        let api = FakeApi::new();
        let recorder = recorder(&api);
        for number in 0..100 {
            recorder.record(&pod(), EventType::Warning, "Failed", format!("try {number}"));
        }
        let events = written(&api, 25).await;
        assert!(events.iter().any(|event| event.message.as_deref().is_some_and(|text| text.starts_with("(combined"))));
        assert!(events.len() <= 10, "{}", events.len());
        assert_eq!(events.iter().filter_map(|event| event.count).sum::<i32>(), 25);
    }
}
