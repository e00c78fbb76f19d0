use super::super::configured::{Configured, Provider, Resources, Rule};
use super::super::{Encryption, TransformError, ValueTransformer};
use super::*;

const SECRET: &str = "/registry/secrets/default/password";

/// Turns every byte around, says who it is, and counts who asks.
#[derive(Default)]
struct Backwards {
    away: Mutex<bool>,
    asked: Mutex<usize>,
}

impl KeyManagement for Backwards {
    fn decrypt(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String> {
        *self.asked.lock() += 1;
        if *self.away.lock() {
            return Err("is away".to_owned());
        }
        assert_eq!(wrapped.annotations.get("made.by").map(Vec::as_slice), Some(wrapped.key_id.as_bytes()));
        Ok(wrapped.ciphertext.iter().map(|byte| !byte).collect())
    }
}

fn seed(key_id: &str, fill: u8, until: Instant) -> Arc<Seed> {
    let wrapped = Wrapped {
        source_type: SourceType::Seed,
        ciphertext: vec![!fill; SEED_BYTES],
        key_id: key_id.to_owned(),
        annotations: BTreeMap::from([("made.by".to_owned(), key_id.as_bytes().to_vec())]),
    };
    Arc::new(Seed::new(wrapped, [fill; SEED_BYTES], until).unwrap())
}

fn envelope(service: &Arc<Backwards>, now: Instant) -> Envelope {
    Envelope::new("vault", service.clone(), Arc::new(move || now))
}

fn configured(providers: Vec<Provider>) -> Configured {
    Configured::new(vec![Rule { resources: vec![Resources::All], providers }].into(), Encryption::new(Vec::new(), Vec::<String>::new()))
}

fn with(envelope: Envelope) -> Configured {
    configured(vec![Provider::Kms(envelope)])
}

fn sealed(with: &Configured) -> Result<Vec<u8>, TransformError> {
    let mut sealed = Vec::new();
    with.seal(&StoreKey::new(SECRET), b"correct horse", &mut sealed)?;
    Ok(sealed)
}

#[test]
fn a_value_is_hidden_and_comes_back_after_a_restart_by_one_question_for_all_that_a_seed_sealed() {
    let (service, now) = (Arc::new(Backwards::default()), Instant::now());
    let first = with(envelope(&service, now).with(seed("one", 7, now)));
    let (a, b) = (sealed(&first).unwrap(), sealed(&first).unwrap());
    assert!(a.starts_with(b"k8s:enc:kms:v2:vault:") && !a.windows(5).any(|window| window == b"horse") && a != b);
    let again = with(envelope(&service, now).with(seed("one", 9, now)));
    for bytes in [&a, &b] {
        let opened = again.open(&StoreKey::new(SECRET), bytes).unwrap();
        assert_eq!((&*opened.value, opened.stale), (&b"correct horse"[..], false), "another seed of the same key is as good");
    }
    assert_eq!(*service.asked.lock(), 1);
    // What is known goes on without the service; what is not known says what is missing.
    *service.away.lock() = true;
    assert!(again.open(&StoreKey::new(SECRET), &a).is_ok());
    let error = with(envelope(&service, now)).open(&StoreKey::new(SECRET), &a).unwrap_err();
    assert!(matches!(&error, TransformError::KeyManagement { provider, reason, .. } if provider == "vault" && reason == "is away"), "{error}");
}

#[test]
fn what_another_key_of_the_service_sealed_is_stale() {
    let (service, now) = (Arc::new(Backwards::default()), Instant::now());
    let bytes = sealed(&with(envelope(&service, now).with(seed("one", 7, now)))).unwrap();
    let rotated = with(envelope(&service, now).with(seed("two", 8, now)));
    assert!(rotated.open(&StoreKey::new(SECRET), &bytes).unwrap().stale);
    // Switched off, it is read and to be written again.
    let off = configured(vec![Provider::Identity, Provider::Kms(envelope(&service, now))]);
    assert!(off.open(&StoreKey::new(SECRET), &bytes).unwrap().stale);
    let gone = configured(vec![Provider::Identity]).open(&StoreKey::new(SECRET), &bytes).unwrap_err();
    assert!(matches!(&gone, TransformError::UnknownKey { key_id, .. } if key_id == "kms:vault"), "{gone}");
}

#[test]
fn a_seed_seals_for_as_long_as_its_key_is_known_to_be_used() {
    let (service, now) = (Arc::new(Backwards::default()), Instant::now());
    let seed = seed("one", 7, now);
    let later = with(envelope(&service, now + Duration::from_secs(5)).with(seed.clone()));
    let error = sealed(&later).unwrap_err().to_string();
    assert!(error.contains("expired 5 s ago") && error.contains(&hash_of("one")) && error.contains("vault"), "{error}");
    seed.extend(now + Duration::from_secs(5));
    assert!(sealed(&later).is_ok());
    let never = sealed(&with(envelope(&service, now))).unwrap_err().to_string();
    assert!(never.contains("was not there yet"), "{never}");
}

#[test]
fn nothing_that_was_changed_or_moved_opens_and_nothing_panics() {
    let (service, now) = (Arc::new(Backwards::default()), Instant::now());
    let with = with(envelope(&service, now).with(seed("one", 7, now)));
    let bytes = sealed(&with).unwrap();
    struct Any;
    impl KeyManagement for Any {
        fn decrypt(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String> {
            Ok(wrapped.ciphertext.iter().map(|byte| !byte).collect())
        }
    }
    let reader = configured(vec![Provider::Kms(Envelope::new("vault", Arc::new(Any), Arc::new(Instant::now)))]);
    assert!(reader.open(&StoreKey::new(SECRET), &bytes).is_ok());
    let (mark, object) = bytes.split_at(b"k8s:enc:kms:v2:vault:".len());
    let mut survived = Vec::new();
    for position in 0..object.len() {
        assert!(reader.open(&StoreKey::new(SECRET), &[mark, &object[..position]].concat()).is_err(), "cut at {position}");
        let mut changed = object.to_vec();
        changed[position] ^= 0x40;
        if let Ok(opened) = reader.open(&StoreKey::new(SECRET), &[mark, &changed].concat()) {
            assert_eq!(&*opened.value, b"correct horse");
            survived.push(position);
        }
    }
    // Names of keys and annotations are the service's to check: they say how to ask it, and no more.
    let told = b"one".len() + b"made.by".len() + b"one".len();
    assert!(survived.len() <= told + 8, "{survived:?} of {}", object.len());
    let moved = with.open(&StoreKey::new("/registry/secrets/default/other"), &bytes);
    assert!(matches!(moved, Err(TransformError::NotAuthentic { .. })), "{moved:?}");
}

#[test]
fn values_are_laid_out_as_upstream_lays_them_out() {
    // Made from the definition by hand: data, key id, encrypted seed, an annotation, and the type.
    let object = b"\x0a\x02hi\x12\x01k\x1a\x02dk\x22\x09\x0a\x03a.b\x12\x02vv\x28\x01";
    let (wrapped, data) = read(object).unwrap();
    assert_eq!((data, wrapped.key_id.as_str(), wrapped.ciphertext.as_slice(), wrapped.source_type), (&b"hi"[..], "k", &b"dk"[..], SourceType::Seed));
    let mut written = Vec::new();
    write(&wrapped, data, &mut written);
    assert_eq!(written, object);
    // Keys derive by HKDF's second step alone. Source: RFC 5869, test case 1 from its pseudorandom key on, cut to 32 bytes.
    let hex = |text: &str| text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect::<Vec<_>>();
    let source = Source::new(SourceType::Seed, hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")).unwrap();
    assert_eq!(source.derived(&hex("f0f1f2f3f4f5f6f7f8f9")).unwrap().to_vec(), hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
}

#[test]
fn values_of_the_first_form_which_holds_the_key_itself_are_read_and_stale() {
    let (service, now) = (Arc::new(Backwards::default()), Instant::now());
    let nonce = [3; GCM_NONCE_BYTES];
    let encrypted = gcm(&[7; 32], &nonce, Direction::Seal, &StoreKey::new(SECRET), b"correct horse").unwrap();
    let wrapped = Wrapped { source_type: SourceType::Key, ..seed("one", 7, now).wrapped.clone() };
    let mut bytes = b"k8s:enc:kms:v2:vault:".to_vec();
    write(&wrapped, &[&nonce[..], &encrypted].concat(), &mut bytes);
    let opened = with(envelope(&service, now).with(seed("one", 9, now))).open(&StoreKey::new(SECRET), &bytes).unwrap();
    assert_eq!((&*opened.value, opened.stale), (&b"correct horse"[..], true));
}

#[test]
fn what_a_service_says_is_bounded() {
    let good = seed("one", 7, Instant::now()).wrapped.clone();
    let said = |change: fn(&mut Wrapped)| {
        let mut wrapped = good.clone();
        change(&mut wrapped);
        wrapped.validate().unwrap_err()
    };
    assert!(said(|wrapped| wrapped.key_id.clear()).contains("keyID is empty"));
    assert!(said(|wrapped| wrapped.key_id = "k".repeat(1025)).contains("keyID is 1025 bytes, which exceeds the max size of 1024"));
    assert!(said(|wrapped| wrapped.ciphertext.clear()).contains("encrypted DEK source is empty"));
    assert!(said(|wrapped| wrapped.ciphertext = vec![0; 1025]).contains("exceeds the max size of 1024"));
    assert!(said(|wrapped| drop(wrapped.annotations.insert("simple".to_owned(), Vec::new()))).contains("annotations"));
    assert!(said(|wrapped| drop(wrapped.annotations.insert("a.b".to_owned(), vec![0; 32 * 1024]))).contains("total size of annotations"));
}
