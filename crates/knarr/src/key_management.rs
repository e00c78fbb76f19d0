//! Key management services that keep the keys of values at rest: version 2 of Kubernetes' protocol, gRPC over a Unix socket.
//!
//! [`Service`] asks one how it is, once a minute while all is well, and has a new seed encrypted whenever it names another key; what is
//! sealed by the seed, and how, is in [`store::transformer::envelope`]. Which services there are is in `encryption_configuration.rs`.
//! Source: Kubernetes 1.36, `kms/apis/v2/api.proto` and `apiserver/pkg/server/options/encryptionconfig/config.go`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use store::transformer::envelope::{self, Clock, Envelope, KeyManagement, Seed, SourceType, Wrapped, wire};
use streaming::grpc::{self, CallError};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tracing::{info, warn};

/// Between looks while all is well, and while something is wrong. Nothing tells that a service uses another key.
const WELL: Duration = Duration::from_secs(60);
const UNWELL: Duration = Duration::from_secs(10);
/// How long an answer is as good as a new one, when it was good and when it was not.
const GOOD_FOR: Duration = Duration::from_secs(20);
const BAD_FOR: Duration = Duration::from_secs(3);
/// A service that starts when the server does is waited for, as long and as often as this, where there is a value to be read.
const START: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// Versions of the protocol that services may say they speak.
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];

/// What there is in the configuration about one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The provider's name.
    pub name: String,
    /// Where it listens. What begins with an `@` is an abstract name.
    pub socket: String,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl Settings {
    fn path(&self) -> PathBuf {
        match self.socket.strip_prefix('@') {
            Some(name) => format!("\0{name}").into(),
            None => self.socket.clone().into(),
        }
    }

    async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, CallError> {
        let talk = async {
            let connection = UnixStream::connect(self.path()).await;
            let connection = connection.map_err(|problem| CallError::Broken(format!("cannot connect to {}: {problem}", self.socket)))?;
            grpc::call(connection, "localhost", &format!("/v2.KeyManagementService/{method}"), "knarr", message).await
        };
        let late = |_| CallError::Broken(format!("no answer within {} s", self.timeout.as_secs_f64()));
        tokio::time::timeout(self.timeout, talk).await.map_err(late)?
    }

    async fn decrypt(&self, wrapped: &Wrapped) -> Result<Vec<u8>, CallError> {
        let mut message = Vec::new();
        wire::put_bytes(&mut message, 1, &wrapped.ciphertext);
        wire::put_bytes(&mut message, 2, apiserver::handler::write::new_uid().as_bytes());
        wire::put_bytes(&mut message, 3, wrapped.key_id.as_bytes());
        wire::put_map(&mut message, 4, &wrapped.annotations);
        let answer = self.call("Decrypt", &message).await?;
        let mut plain = Vec::new();
        for field in wire::fields(&answer) {
            if let (1, wire::Field::Bytes(bytes)) = field.ok_or(CallError::Malformed)? {
                plain = bytes.to_vec();
            }
        }
        Ok(plain)
    }

    async fn encrypt(&self, seed: &[u8], uid: &str) -> Result<Wrapped, CallError> {
        let mut message = Vec::new();
        wire::put_bytes(&mut message, 1, seed);
        wire::put_bytes(&mut message, 2, uid.as_bytes());
        let answer = self.call("Encrypt", &message).await?;
        let mut wrapped = Wrapped { source_type: SourceType::Seed, ciphertext: Vec::new(), key_id: String::new(), annotations: BTreeMap::new() };
        for field in wire::fields(&answer) {
            match field.ok_or(CallError::Malformed)? {
                (1, wire::Field::Bytes(bytes)) => wrapped.ciphertext = bytes.to_vec(),
                (2, wire::Field::Bytes(bytes)) => wrapped.key_id = text(bytes)?,
                (3, wire::Field::Bytes(bytes)) => wrapped.annotations.extend([wire::map_entry(bytes).ok_or(CallError::Malformed)?]),
                _ => {}
            }
        }
        Ok(wrapped)
    }

    async fn status(&self) -> Result<Status, CallError> {
        let answer = self.call("Status", &[]).await?;
        let mut status = Status::default();
        for field in wire::fields(&answer) {
            match field.ok_or(CallError::Malformed)? {
                (1, wire::Field::Bytes(bytes)) => status.version = text(bytes)?,
                (2, wire::Field::Bytes(bytes)) => status.health = text(bytes)?,
                (3, wire::Field::Bytes(bytes)) => status.key_id = text(bytes)?,
                _ => {}
            }
        }
        Ok(status)
    }
}

fn text(bytes: &[u8]) -> Result<String, CallError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| CallError::Malformed)
}

/// What a service says of itself.
#[derive(Debug, Default)]
struct Status {
    version: String,
    health: String,
    key_id: String,
}

/// One service while it is in use.
pub struct Service {
    settings: Settings,
    clock: Clock,
    /// What is sealed with now; none before the service was there for the first time.
    seed: Mutex<Option<Arc<Seed>>>,
    /// What it spoke first: that should not change.
    version: Mutex<Option<String>>,
    /// When it was last asked, and what came of it. Held while it is asked, so that it is asked once.
    last: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
    /// Told when there is another seed.
    rotated: Arc<Notify>,
}

impl Service {
    /// Asks nothing yet.
    pub fn new(settings: Settings, clock: Clock, rotated: Arc<Notify>) -> Self {
        Self { settings, clock, seed: Mutex::default(), version: Mutex::default(), last: tokio::sync::Mutex::default(), rotated }
    }

    /// The provider's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What seals and opens with it: with the newest seed.
    pub fn envelope(&self, empty: &Envelope) -> Envelope {
        self.seed.lock().clone().map_or_else(|| empty.clone(), |seed| empty.with(seed))
    }

    /// Asks how it is, unless that was just asked, and has a new seed encrypted where it uses another key.
    ///
    /// # Errors
    /// What is wrong with it, as upstream words it.
    pub async fn check(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((when, outcome)) = &*last {
            let good_for = if outcome.is_ok() { GOOD_FOR } else { BAD_FOR };
            if (self.clock)().duration_since(*when) < good_for {
                return outcome.clone();
            }
        }
        let outcome = self.probe().await;
        *last = Some(((self.clock)(), outcome.clone()));
        outcome
    }

    async fn probe(&self) -> Result<(), String> {
        let name = self.name();
        let status = self.settings.status().await;
        let status = status.map_err(|problem| format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {problem}"))?;
        let mut problems = Vec::new();
        if status.health != "ok" {
            problems.push(format!("got unexpected healthz status: {}", status.health));
        }
        if VERSIONS.contains(&status.version.as_str()) {
            let mut first = self.version.lock();
            let first = first.get_or_insert_with(|| status.version.clone());
            if *first != status.version {
                problems.push(format!("KMSv2 API version should not change after the initial status response version {first}, got {}", status.version));
            }
        } else {
            problems.push(format!("expected KMSv2 API version v2, got {}", status.version));
        }
        match envelope::validate_key_id(&status.key_id) {
            Ok(()) => problems.extend(self.follow_key(&status.key_id).await.err()),
            Err(problem) => problems.push(format!("got invalid KMSv2 KeyID hash {:?}: {problem}", envelope::hash_of(&status.key_id))),
        }
        match problems.as_slice() {
            [] => Ok(()),
            [problem] => Err(format!("kmsv2 Provider {name} is not healthy, error: {problem}")),
            problems => Err(format!("kmsv2 Provider {name} is not healthy, error: [{}]", problems.join(", "))),
        }
    }

    /// What it encrypts with the key it names is in use from now on. Whatever goes wrong, the seed of before is used on, for as long as it may.
    async fn follow_key(&self, key_id: &str) -> Result<(), String> {
        // By the time before it is asked: the limit is an upper one.
        let until = (self.clock)() + envelope::WRITES_FOR;
        let current = self.seed.lock().clone();
        if let Some(seed) = current.as_ref().filter(|seed| seed.key_id() == key_id) {
            seed.extend(until);
            return Ok(());
        }
        let uid = apiserver::handler::write::new_uid();
        let hash = envelope::hash_of;
        let failed = |encrypted_with: &str, problem: &str| {
            format!(
                "failed to rotate DEK uid={uid:?}, errGen={problem}, statusKeyIDHash={:?}, encryptKeyIDHash={:?}, stateKeyIDHash={:?}",
                hash(key_id),
                hash(encrypted_with),
                hash(current.as_ref().map(|seed| seed.key_id()).unwrap_or_default())
            )
        };
        let secret = envelope::new_seed().ok_or_else(|| failed("", "the system gives no random numbers"))?;
        let wrapped = self.settings.encrypt(&secret, &uid).await.map_err(|problem| failed("", &format!("failed to encrypt DEK, error: {problem}")))?;
        let encrypted_with = wrapped.key_id.clone();
        let seed = Seed::new(wrapped, secret, until).map_err(|problem| failed(&encrypted_with, &problem))?;
        if encrypted_with != key_id {
            return Err(failed(&encrypted_with, "<nil>"));
        }
        info!(provider = self.name(), key = hash(key_id), "what is written is encrypted under this key of the key management service from now on");
        *self.seed.lock() = Some(Arc::new(seed));
        self.rotated.notify_one();
        Ok(())
    }

    /// Asks it again and again, for as long as this is polled.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let wait = match self.check().await {
                Ok(()) => WELL,
                Err(error) => {
                    warn!(provider = self.name(), error, "a key management service is not well");
                    UNWELL
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// Has seeds decrypted while values are read, which happens on a thread that may wait.
pub struct Decrypting {
    settings: Settings,
    /// Where the talking is done; none in tests that never do.
    runtime: Option<tokio::runtime::Handle>,
    /// Until when it is waited for, however many values ask for it.
    patience: tokio::time::Instant,
}

impl Decrypting {
    /// Uses the runtime that this is called in.
    pub fn new(settings: Settings) -> Self {
        Self { settings, runtime: tokio::runtime::Handle::try_current().ok(), patience: tokio::time::Instant::now() + START }
    }
}

impl KeyManagement for Decrypting {
    fn decrypt(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String> {
        let runtime = self.runtime.as_ref().ok_or("cannot be asked here")?;
        let (answer, answered) = mpsc::channel();
        let (settings, wrapped, patience) = (self.settings.clone(), wrapped.clone(), self.patience);
        runtime.spawn(async move {
            let _ = answer.send(decrypt_patiently(&settings, &wrapped, patience).await);
        });
        answered.recv().unwrap_or_else(|_| Err("was not asked, since the server stops".to_owned()))
    }
}

async fn decrypt_patiently(settings: &Settings, wrapped: &Wrapped, patience: tokio::time::Instant) -> Result<Vec<u8>, String> {
    let mut warned = false;
    loop {
        let error = match settings.decrypt(wrapped).await {
            Ok(seed) => return Ok(seed),
            Err(error) => error,
        };
        let away = matches!(&error, CallError::Broken(_) | CallError::Refused { code: grpc::UNAVAILABLE, .. });
        if !away || tokio::time::Instant::now() > patience {
            return Err(format!("does not decrypt what it encrypted with key {:?}: failed to decrypt DEK, error: {error}", wrapped.key_id));
        }
        if !std::mem::replace(&mut warned, true) {
            warn!(provider = settings.name, %error, "waiting for the key management service, without which what is stored cannot be read");
        }
        // Nothing tells that it listens.
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use testkit::key_service::KeyService;

    use super::*;

    struct Setting {
        service: Service,
        now: Arc<Mutex<Instant>>,
        rotated: Arc<Notify>,
        vault: KeyService,
        _directory: tempfile::TempDir,
    }

    fn setting() -> Setting {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kms.sock");
        let vault = KeyService::start(&socket);
        let now = Arc::new(Mutex::new(Instant::now()));
        let (told, rotated) = (now.clone(), Arc::new(Notify::new()));
        let settings = Settings { name: "vault".to_owned(), socket: socket.display().to_string(), timeout: Duration::from_secs(30) };
        let service = Service::new(settings, Arc::new(move || *told.lock()), rotated.clone());
        Setting { service, now, rotated, vault, _directory: directory }
    }

    impl Setting {
        fn pass(&self, time: Duration) {
            *self.now.lock() += time;
        }
        fn key(&self) -> (String, Duration) {
            let seed = self.service.seed.lock().clone().unwrap();
            (seed.key_id().to_owned(), seed.until().duration_since(*self.now.lock()))
        }
    }

    #[tokio::test]
    async fn a_seed_is_made_once_for_each_key_and_used_on_while_the_service_is_away() {
        let setting = setting();
        setting.service.check().await.unwrap();
        setting.rotated.notified().await;
        assert_eq!(setting.key(), ("key-1".to_owned(), envelope::WRITES_FOR));
        setting.pass(WELL);
        setting.service.check().await.unwrap();
        assert_eq!((setting.key(), setting.vault.calls("Encrypt")), (("key-1".to_owned(), envelope::WRITES_FOR), 1), "its time begins anew");
        setting.vault.rotate("key-2");
        setting.service.check().await.unwrap();
        assert_eq!((setting.key().0.as_str(), setting.vault.calls("Status")), ("key-1", 2), "that was asked just now");
        setting.pass(GOOD_FOR);
        setting.service.check().await.unwrap();
        setting.rotated.notified().await;
        assert_eq!((setting.key().0.as_str(), setting.vault.calls("Encrypt")), ("key-2", 2));
        setting.vault.leave();
        setting.pass(WELL);
        let error = setting.service.check().await.unwrap_err();
        assert!(error.starts_with("failed to perform status section of the healthz check for KMS Provider vault, error: cannot connect to"), "{error}");
        assert_eq!(setting.key(), ("key-2".to_owned(), envelope::WRITES_FOR - WELL));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_service_is_said_and_its_key_is_followed_all_the_same() {
        let setting = setting();
        setting.vault.say("rusty", "v2");
        assert_eq!(setting.service.check().await.unwrap_err(), "kmsv2 Provider vault is not healthy, error: got unexpected healthz status: rusty");
        assert_eq!(setting.key().0, "key-1");
        setting.vault.say("ok", "v1");
        setting.pass(BAD_FOR);
        assert_eq!(setting.service.check().await.unwrap_err(), "kmsv2 Provider vault is not healthy, error: expected KMSv2 API version v2, got v1");
        setting.vault.say("rusty", "v2beta1");
        setting.pass(BAD_FOR);
        let error = setting.service.check().await.unwrap_err();
        assert!(error.contains("error: [got unexpected healthz status: rusty, KMSv2 API version should not change after the initial status response version v2, got v2beta1]"), "{error}");
        setting.vault.say("ok", "v2");
        setting.vault.rotate("");
        setting.pass(BAD_FOR);
        assert!(setting.service.check().await.unwrap_err().contains("got invalid KMSv2 KeyID hash \"\": keyID is empty"));
        // It says one key and encrypts with another: it has not settled, and is asked again.
        setting.vault.rotate_in_word_only("key-9");
        setting.pass(BAD_FOR);
        let error = setting.service.check().await.unwrap_err();
        assert!(error.contains("failed to rotate DEK") && error.contains(&envelope::hash_of("key-9")), "{error}");
        assert_eq!(setting.key().0, "key-1");
    }

    #[tokio::test]
    async fn seeds_are_decrypted_by_a_service_that_comes_late_and_a_refusal_is_said_at_once() {
        let setting = setting();
        let wrapped = setting.service.settings.encrypt(&[5; 32], "uid").await.unwrap();
        setting.vault.leave();
        let settings = setting.service.settings.clone();
        let (asked, waiting) = (wrapped.clone(), Arc::new(Decrypting::new(settings)));
        let task = { let waiting = waiting.clone(); tokio::task::spawn_blocking(move || waiting.decrypt(&asked)) };
        setting.vault.come_back();
        assert_eq!(task.await.unwrap(), Ok(vec![5; 32]));
        setting.vault.forget("key-1");
        let error = tokio::task::spawn_blocking(move || waiting.decrypt(&wrapped)).await.unwrap().unwrap_err();
        assert!(error.contains("does not decrypt what it encrypted with key \"key-1\"") && error.contains("code 5: no such key: key-1"), "{error}");
    }
}
