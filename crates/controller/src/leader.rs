//! One active copy among several processes. The one that holds a Lease leads; it renews the Lease while it lives, and another takes it
//! over when it was not renewed for long enough, judged by the watcher's own clock and never by the stamp inside.

use std::sync::Arc;
use std::time::Duration;

use client::{Api, Backoff, Clock, PostParams};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio_util::sync::CancellationToken;

/// When a leader counts as gone, and how often it says that it is not.
#[derive(Debug, Clone)]
pub struct LeaderSettings {
    /// The Lease's namespace and name.
    pub namespace: String,
    /// The Lease's name, for instance `kube-controller-manager`.
    pub name: String,
    /// Who we are; no two processes may have the same.
    pub identity: String,
    /// Others take over when the Lease was not renewed for this long.
    pub lease_duration: Duration,
    /// A leader that could not renew for this long stops leading. Less than `lease_duration`.
    pub renew_deadline: Duration,
    /// How often the Lease is looked at or renewed.
    pub retry_period: Duration,
}

impl LeaderSettings {
    /// The usual times: 15 s, 10 s and 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What we saw of the Lease, and when by our own clock.
#[derive(Debug, Clone, Default)]
struct Observation {
    lease: Option<Lease>,
    at: Duration,
}

impl Observation {
    fn update(&mut self, lease: Option<Lease>, now: Duration) {
        let spec = |lease: &Option<Lease>| lease.as_ref().map(|lease| (lease.spec.clone(), lease.metadata.uid.clone()));
        if spec(&self.lease) != spec(&lease) {
            self.at = now;
        }
        self.lease = lease;
    }
}

/// What to do about the Lease now.
#[derive(Debug, PartialEq)]
enum Step {
    Create(LeaseSpec),
    Update(LeaseSpec),
    Wait,
}

/// Decides from what was observed. `stamp` is the wall time that goes into the Lease for people to read.
fn next_step(settings: &LeaderSettings, seen: &Observation, now: Duration, stamp: MicroTime) -> Step {
    let wanted = |transitions: i32, acquired: MicroTime| LeaseSpec {
        holder_identity: Some(settings.identity.clone()),
        lease_duration_seconds: Some(settings.lease_duration.as_secs() as i32),
        acquire_time: Some(acquired),
        renew_time: Some(stamp.clone()),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    let Some(lease) = &seen.lease else { return Step::Create(wanted(0, stamp.clone())) };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let transitions = spec.lease_transitions.unwrap_or_default();
    if holder == settings.identity {
        return Step::Update(wanted(transitions, spec.acquire_time.clone().unwrap_or_else(|| stamp.clone())));
    }
    let valid = Duration::from_secs(spec.lease_duration_seconds.and_then(|seconds| seconds.try_into().ok()).unwrap_or(0));
    if !holder.is_empty() && now.saturating_sub(seen.at) < valid {
        return Step::Wait;
    }
    Step::Update(wanted(transitions.saturating_add(1), stamp.clone()))
}

/// Waits until we lead, then runs `lead`, with a token that is cancelled when leadership is lost. Returns when leadership was lost or
/// `stop` was cancelled; the Lease is given back then, so that a successor need not wait.
pub async fn lead<F>(client: client::Client, settings: LeaderSettings, clock: Arc<dyn Clock>, stop: CancellationToken, lead: impl FnOnce(CancellationToken) -> F)
where
    F: Future<Output = ()>,
{
    let election = Election { api: Api::namespaced(client, &settings.namespace), settings, clock };
    let mut seen = Observation::default();
    if stop.run_until_cancelled(election.acquire(&mut seen)).await.is_none() {
        return;
    }
    tracing::info!(lease = election.settings.name, identity = election.settings.identity, "leading");
    let leading = stop.child_token();
    tokio::join!(lead(leading.clone()), async {
        leading.run_until_cancelled(election.keep(&mut seen)).await;
        leading.cancel();
    });
    election.give_back(&seen).await;
}

struct Election {
    api: Api<Lease>,
    settings: LeaderSettings,
    clock: Arc<dyn Clock>,
}

impl Election {
    /// Returns when we hold the Lease. Looks at it every `retry_period`: leases are all about time, so this is a clock, not a poll
    /// for work; only processes that wait to lead do it.
    async fn acquire(&self, seen: &mut Observation) {
        let mut backoff = Backoff::new(self.settings.retry_period, self.settings.retry_period * 2);
        while !matches!(self.attempt(seen, true).await, Ok(true)) {
            self.clock.sleep(backoff.next_delay().max(self.settings.retry_period / 2)).await;
        }
    }

    /// Renews the Lease; returns when that did not work for too long, or another took it.
    async fn keep(&self, seen: &mut Observation) {
        let mut renewed = self.clock.elapsed();
        loop {
            self.clock.sleep(self.settings.retry_period).await;
            match self.attempt(seen, false).await {
                Ok(true) => renewed = self.clock.elapsed(),
                Ok(false) => return tracing::warn!(lease = self.settings.name, "another process took the lead"),
                Err(error) if self.clock.elapsed().saturating_sub(renewed) >= self.settings.renew_deadline => {
                    return tracing::warn!(lease = self.settings.name, %error, "the lead is lost: the lease could not be renewed");
                }
                Err(error) => tracing::debug!(lease = self.settings.name, %error, "could not renew the lease yet"),
            }
        }
    }

    /// One look, and one write where it is our turn. True when we hold the Lease.
    async fn attempt(&self, seen: &mut Observation, look: bool) -> client::Result<bool> {
        if look || seen.lease.is_none() {
            seen.update(self.api.get_opt(&self.settings.name).await?, self.clock.elapsed());
        }
        let metadata = ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() };
        let written = match next_step(&self.settings, seen, self.clock.elapsed(), MicroTime(self.clock.now())) {
            Step::Wait => return Ok(false),
            Step::Create(spec) => self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await,
            Step::Update(spec) => {
                let metadata = seen.lease.as_ref().map(|lease| lease.metadata.clone()).unwrap_or(metadata);
                self.api.replace(&self.settings.name, &PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
            }
        };
        match written {
            Ok(lease) => {
                seen.update(Some(lease), self.clock.elapsed());
                Ok(true)
            }
            Err(error) if client::is_conflict(&error) || client::is_not_found(&error) => {
                seen.update(self.api.get_opt(&self.settings.name).await?, self.clock.elapsed());
                let holder = seen.lease.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref());
                if holder == Some(&self.settings.identity) || holder.is_none() { Err(error) } else { Ok(false) }
            }
            Err(error) => Err(error),
        }
    }

    async fn give_back(&self, seen: &Observation) {
        let Some(lease) = &seen.lease else { return };
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.settings.identity) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = self.api.replace(&self.settings.name, &PostParams::default(), &lease).await {
            tracing::debug!(lease = self.settings.name, %error, "the lease could not be given back; it will expire");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::FakeClock;
    use client::fake::FakeApi;

    fn held(holder: &str, transitions: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    fn step(seen: Observation, now: u64) -> Step {
        let settings = LeaderSettings::new("kube-system", "x", "me");
        next_step(&settings, &seen, Duration::from_secs(now), MicroTime(jiff::Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_lease_of_another_is_taken_only_when_it_stood_still_for_its_time_by_our_clock() {
        let seen = |at| Observation { lease: Some(held("other", 3)), at: Duration::from_secs(at) };
        assert_eq!(step(seen(100), 114), Step::Wait);
        assert!(matches!(step(seen(100), 115), Step::Update(spec) if spec.lease_transitions == Some(4)));
        assert!(matches!(step(Observation { lease: Some(held("me", 3)), at: Duration::ZERO }, 999), Step::Update(spec) if spec.lease_transitions == Some(3)));
        assert!(matches!(step(Observation { lease: Some(held("", 3)), at: Duration::from_secs(100) }, 100), Step::Update(_)));
        assert!(matches!(step(Observation::default(), 0), Step::Create(_)));
    }

    #[tokio::test]
    async fn the_second_leads_as_soon_as_the_first_has_stopped() {
        let api = FakeApi::new();
        let clock = FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
        let (first_leads, first_stop) = (CancellationToken::new(), CancellationToken::new());
        let run = |identity: &str, stop: &CancellationToken, leads: &CancellationToken| {
            let leads = leads.clone();
            let settings = LeaderSettings::new("kube-system", "x", identity);
            tokio::spawn(lead(api.client(), settings, Arc::new(clock.clone()), stop.clone(), move |leading| async move {
                leads.cancel();
                leading.cancelled().await;
            }))
        };
        let first = run("first", &first_stop, &first_leads);
        first_leads.cancelled().await;
        let (second_leads, second_stop) = (CancellationToken::new(), CancellationToken::new());
        let second = run("second", &second_stop, &second_leads);
        first_stop.cancel();
        first.await.unwrap();
        while !second_leads.is_cancelled() {
            clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        second_stop.cancel();
        second.await.unwrap();
    }
}
