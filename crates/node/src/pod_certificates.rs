//! Certificates for pods: the node makes a key, asks the signer that the pod names for a certificate, and asks again before that ends.
//!
//! Requests and what became of them are watched like config maps ([`crate::objects`]), so that a pod's worker looks again as soon as one
//! is answered. Keys live in memory and in the pod's volume only: an agent that starts anew asks for new certificates.
//! Source: Kubernetes 1.36, `pkg/kubelet/podcertificate`, and KEP-4317. `ring` makes no RSA keys and none on P-521; pods that ask for such are
//! told so.

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Api, EventType, PostParams};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1beta1::{PodCertificateRequest, PodCertificateRequestSpec},
        core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use parking_lot::Mutex;
use pki::PodKey;

use crate::{
    api_error::words,
    clock::{Clock, after},
    events::EventRecorder,
    objects::{Answer, Snapshot},
    pod,
};

/// A request that cannot be seen after this time was deleted by somebody. Source: Kubernetes 1.36, `assumeDeletedThreshold`.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(600);
/// A certificate that is not renewed this long after its time is worth a word. Source: Kubernetes 1.36, `refreshOverdueDuration`.
const OVERDUE_AFTER: Duration = Duration::from_secs(600);
/// How often a renewal that gets nowhere is looked at. Source: Kubernetes 1.36, the period of `runRefreshPass`.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Renewals are spread over this time, so that pods of one beginning do not ask all at once. Source: Kubernetes 1.36, `jitterDuration`.
const SPREAD_SECONDS: u64 = 300;

/// Which source of which volume of which pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pod.
    pub pod_uid: String,
    /// The volume's name.
    pub volume: String,
    /// The number of the source in it.
    pub source: usize,
}

impl Place {
    /// A part of the spread that is this place's own.
    fn share(&self) -> Duration {
        // FNV-1a: any spread will do.
        let bytes = self.pod_uid.bytes().chain(self.volume.bytes()).chain(self.source.to_le_bytes());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Duration::from_secs(u64::from(hash) % SPREAD_SECONDS)
    }
}

/// A key with the certificate for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The private key, PEM. A secret.
    pub key: String,
    /// The certificate and those between it and an authority, PEM.
    pub chain: String,
    /// When to ask again for the bundle.
    pub refresh_at: Timestamp,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Bundle(hidden, refreshed at {})", self.refresh_at)
    }
}

/// A request that was made.
#[derive(Clone)]
struct Asked {
    key: String,
    name: String,
    at: Timestamp,
}

/// A certificate that was issued.
#[derive(Clone)]
struct Issued {
    key: String,
    chain: String,
    refresh_at: Timestamp,
    not_after: Timestamp,
    told_overdue: bool,
    told_expired: bool,
}

/// Where a place stands.
#[derive(Clone)]
enum State {
    /// Nothing is asked for yet.
    Initial,
    Waiting(Asked),
    /// The signer will not; the words say so.
    Refused(String),
    Fresh(Issued, Option<Asked>),
}

/// An event about the pod: reason and message.
type Told = (&'static str, String);

/// What a place needs next.
enum Next {
    /// A request has to be made.
    Ask,
    /// There is a bundle, to be looked at again at this time.
    Use(Timestamp),
    /// There is none, for this reason.
    Nothing(String),
}

const NOT_YET: &str = "credential bundle is not issued yet";

/// Takes in what became of requests.
fn step(state: &mut State, answer: impl Fn(&str) -> Option<Answer>, namespace: &str, share: Duration, now: Timestamp) -> (Next, Vec<Told>) {
    let mut told = Vec::new();
    let asked = match state {
        State::Waiting(asked) | State::Fresh(_, Some(asked)) => Some(asked.clone()),
        _ => None,
    };
    if let Some(asked) = asked {
        let known = answer(&asked.name);
        let mut refuse = |event, verb: &str, fixed: &str, reason: String, message: String| {
            told.push((event, format!("PodCertificateRequest {namespace}/{} {verb}, reason={reason:?}, message={message:?}", asked.name)));
            *state = State::Refused(format!("PodCertificateRequest was permanently {fixed}: reason={reason:?} message={message:?}"));
        };
        match known {
            Some(Answer::Denied { reason, message }) => refuse("Denied", "was denied", "denied", reason, message),
            Some(Answer::Failed { reason, message }) => refuse("Failed", "failed", "failed", reason, message),
            Some(Answer::Issued { chain, refresh_at, not_after }) => {
                let issued = Issued { key: asked.key, chain, refresh_at: after(refresh_at, share), not_after, told_overdue: false, told_expired: false };
                *state = State::Fresh(issued, None);
            }
            None if now > after(asked.at, GIVEN_UP_AFTER + share) => {
                if let State::Fresh(_, renewal) = state {
                    *renewal = None;
                } else {
                    *state = State::Initial;
                }
            }
            Some(Answer::Pending) | None => {}
        }
    }
    let next = match state {
        State::Initial => Next::Ask,
        State::Waiting(_) => Next::Nothing(NOT_YET.to_owned()),
        State::Refused(why) => Next::Nothing(why.clone()),
        State::Fresh(issued, _) if now < issued.refresh_at => Next::Use(issued.refresh_at),
        State::Fresh(issued, renewal) => {
            if now > after(issued.refresh_at, OVERDUE_AFTER) && !std::mem::replace(&mut issued.told_overdue, true) {
                told.push(("CertificateOverdueForRefresh", "PodCertificate refresh overdue".to_owned()));
            }
            if now > issued.not_after && !std::mem::replace(&mut issued.told_expired, true) {
                told.push(("CertificateExpired", "PodCertificate expired".to_owned()));
            }
            if renewal.is_some() { Next::Use(after(now, LOOK_AGAIN)) } else { Next::Ask }
        }
    };
    (next, told)
}

/// Gets certificates.
#[derive(Clone)]
pub struct PodCertificates {
    client: client::Client,
    clock: Arc<dyn Clock>,
    events: EventRecorder,
    states: Arc<Mutex<HashMap<Place, State>>>,
}

impl PodCertificates {
    /// A source without certificates.
    #[must_use]
    pub fn new(client: client::Client, clock: Arc<dyn Clock>, events: EventRecorder) -> Self {
        Self { client, clock, events, states: Arc::default() }
    }

    /// The bundle of a place, once its signer has issued a certificate. A pod's places are looked at by its worker only, one after the
    /// other.
    ///
    /// # Errors
    /// Why there is none yet, or never will be, in upstream's words.
    pub async fn bundle(&self, pod: &Pod, place: &Place, source: &PodCertificateProjection, objects: &Snapshot) -> Result<Bundle, String> {
        let now = self.clock.now();
        let namespace = pod::namespace(pod);
        let mut state = self.states.lock().get(place).cloned().unwrap_or(State::Initial);
        let node = pod::spec(pod).node_name.clone().unwrap_or_default();
        let (next, told) = step(&mut state, |name| objects.certificate_request(&node, namespace, name), namespace, place.share(), now);
        for (reason, message) in told {
            self.events.pod(pod, EventType::Warning, reason, message);
        }
        let result = match next {
            Next::Use(at) => Ok(at),
            Next::Nothing(why) => Err(why),
            Next::Ask => match (self.ask(pod, &node, source, now).await, &mut state) {
                (Ok(asked), State::Fresh(_, renewal)) => {
                    *renewal = Some(asked);
                    Ok(after(now, LOOK_AGAIN))
                }
                (Ok(asked), state) => {
                    *state = State::Waiting(asked);
                    Err(NOT_YET.to_owned())
                }
                // What there is stays good for a while.
                (Err(problem), State::Fresh(..)) => {
                    tracing::warn!(pod = pod::full_name(pod), problem, "a pod's certificate could not be renewed");
                    Ok(after(now, LOOK_AGAIN))
                }
                (Err(problem), _) => Err(problem),
            },
        };
        let bundle = match (result, &state) {
            (Ok(refresh_at), State::Fresh(issued, _)) => Ok(Bundle { key: issued.key.clone(), chain: issued.chain.clone(), refresh_at }),
            (Ok(_), _) => Err(NOT_YET.to_owned()),
            (Err(why), _) => Err(why),
        };
        self.states.lock().insert(place.clone(), state);
        bundle
    }

    async fn ask(&self, pod: &Pod, node: &str, source: &PodCertificateProjection, now: Timestamp) -> Result<Asked, String> {
        let namespace = pod::namespace(pod);
        let account = pod::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".to_owned());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account_uid = accounts.get(&account).await.map_err(|problem| format!("while fetching service account: {}", words(&problem)))?.metadata.uid;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node_uid = nodes.get(node).await.map_err(|problem| format!("while getting node object: {}", words(&problem)))?.metadata.uid;
        let key = PodKey::generate(&source.key_type).map_err(|problem| format!("while generating keypair: {problem}"))?;
        let (name, uid) = (pod::name(pod).to_owned(), pod::uid(pod).to_owned());
        let owner = OwnerReference { api_version: "v1".to_owned(), kind: "Pod".to_owned(), name: name.clone(), uid: uid.clone(), ..OwnerReference::default() };
        let request = PodCertificateRequest {
            metadata: ObjectMeta { generate_name: Some("req-".to_owned()), namespace: Some(namespace.to_owned()), owner_references: Some(vec![owner]), ..ObjectMeta::default() },
            spec: PodCertificateRequestSpec {
                signer_name: source.signer_name.clone(),
                pod_name: name,
                pod_uid: uid,
                service_account_name: account,
                service_account_uid: account_uid.unwrap_or_default(),
                node_name: node.to_owned(),
                node_uid: node_uid.unwrap_or_default(),
                max_expiration_seconds: source.max_expiration_seconds,
                stub_pkc_s10_request: ByteString(key.stub_request().to_vec()),
                unverified_user_annotations: source.user_annotations.clone(),
                ..PodCertificateRequestSpec::default()
            },
            status: None,
        };
        let requests: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), namespace);
        let made = requests.create(&PostParams::default(), &request).await.map_err(|problem| format!("while creating PodCertificateRequest: {}", words(&problem)))?;
        Ok(Asked { key: key.pem().to_owned(), name: made.metadata.name.unwrap_or_default(), at: now })
    }

    /// Forgets a pod's keys.
    pub fn forget(&self, pod_uid: &str) {
        self.states.lock().retain(|place, _| place.pod_uid != pod_uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn waiting() -> State {
        State::Waiting(Asked { key: "k".to_owned(), name: "req-1".to_owned(), at: at(0) })
    }

    fn issued() -> Answer {
        Answer::Issued { chain: "c".to_owned(), refresh_at: at(1000), not_after: at(3000) }
    }

    /// What comes next, and the reasons of the events.
    fn taken(state: &mut State, answer: Option<Answer>, now: i64) -> (String, Vec<&'static str>) {
        let (next, told) = step(state, |_| answer.clone(), "a", Duration::from_secs(7), at(now));
        let next = match next {
            Next::Ask => "ask".to_owned(),
            Next::Use(until) => format!("use until {}", until.as_second()),
            Next::Nothing(why) => why,
        };
        (next, told.into_iter().map(|(reason, _)| reason).collect())
    }

    #[test]
    fn a_request_is_made_waited_for_and_made_again_where_it_is_lost() {
        assert_eq!(taken(&mut State::Initial, None, 0).0, "ask");
        assert_eq!(taken(&mut waiting(), None, 600).0, NOT_YET);
        assert_eq!(taken(&mut waiting(), Some(Answer::Pending), 6000).0, NOT_YET);
        assert_eq!(taken(&mut waiting(), None, 608).0, "ask");
        assert_eq!(taken(&mut waiting(), Some(issued()), 5), ("use until 1007".to_owned(), Vec::new()));
    }

    #[test]
    fn what_a_signer_refuses_stays_refused() {
        let denied = || Answer::Denied { reason: "No".to_owned(), message: "not you".to_owned() };
        let mut state = waiting();
        let words = "PodCertificateRequest was permanently denied: reason=\"No\" message=\"not you\"";
        assert_eq!(taken(&mut state, Some(denied()), 5), (words.to_owned(), vec!["Denied"]));
        assert_eq!(taken(&mut state, None, 9000), (words.to_owned(), Vec::new()));
        let failed = Answer::Failed { reason: "Broken".to_owned(), message: String::new() };
        assert_eq!(taken(&mut waiting(), Some(failed), 5).1, ["Failed"]);
    }

    #[test]
    fn a_certificate_is_renewed_in_time_and_used_until_the_next_is_there() {
        let mut state = waiting();
        taken(&mut state, Some(issued()), 5);
        assert_eq!(taken(&mut state, None, 1006).0, "use until 1007");
        assert_eq!(taken(&mut state, None, 1007).0, "ask");
        let State::Fresh(_, renewal) = &mut state else { panic!("it has a certificate") };
        *renewal = Some(Asked { key: "k2".to_owned(), name: "req-2".to_owned(), at: at(1007) });
        assert_eq!(taken(&mut state, Some(Answer::Pending), 1100), ("use until 1160".to_owned(), Vec::new()));
        assert_eq!(taken(&mut state, Some(Answer::Pending), 1700).1, ["CertificateOverdueForRefresh"]);
        assert_eq!(taken(&mut state, Some(Answer::Pending), 3001).1, ["CertificateExpired"]);
        assert!(taken(&mut state, Some(Answer::Pending), 3002).1.is_empty(), "once is enough");
        let next = Answer::Issued { chain: "c2".to_owned(), refresh_at: at(5000), not_after: at(9000) };
        assert_eq!(taken(&mut state, Some(next), 3003).0, "use until 5007");
        let State::Fresh(issued, None) = &state else { panic!("it has the next one") };
        assert_eq!((issued.key.as_str(), issued.chain.as_str()), ("k2", "c2"));
    }
}
