use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn now() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn signer() -> TokenSigner {
    TokenSigner::new(ISSUER, PrivateKey::generate().unwrap())
}

fn request() -> TokenRequest {
    let object = |name: &str| BoundObject { name: name.to_owned(), uid: format!("uid-of-{name}") };
    TokenRequest {
        namespace: "shop".to_owned(),
        service_account: object("web"),
        pod: Some(object("web-0")),
        node: Some(object("a")),
        secret: None,
        audiences: vec![ISSUER.to_owned()],
        lifetime: SignedDuration::from_hours(1),
        warn_after: Some(SignedDuration::from_secs(607)),
    }
}

#[test]
fn a_token_says_what_was_asked_for() {
    let signer = signer();
    let (token, claims) = signer.sign(&request(), now()).unwrap();
    let verifier = TokenVerifier::new([ISSUER], [signer.public_key()]);
    let verified = verifier.verify(&token, &[ISSUER], now()).unwrap();
    assert_eq!(*verified, claims);
    assert_eq!(verified.user(), "system:serviceaccount:shop:web");
    assert_eq!(verified.groups()[1], "system:serviceaccounts:shop");
    assert_eq!(verified.kubernetes.pod.as_ref().unwrap().uid, "uid-of-web-0");
    assert_eq!(verified.kubernetes.warnafter, Some(now().as_second() + 607));
    assert_eq!(verified.exp - verified.iat, 3600);
    assert_eq!(verified.jti.len(), 36);
    assert_eq!(verified.jti.as_bytes()[14], b'4');
}

#[test]
fn times_and_audiences_are_checked_at_every_use() {
    let signer = signer();
    let (token, _) = signer.sign(&request(), now()).unwrap();
    let verifier = TokenVerifier::new([ISSUER], [signer.public_key()]);
    for _ in 0..2 {
        assert!(verifier.verify(&token, &["other", ISSUER], now()).is_ok());
        let late = now() + SignedDuration::from_mins(62);
        assert_eq!(verifier.verify(&token, &[ISSUER], late), Err(TokenError::Expired));
        let early = now() - SignedDuration::from_mins(2);
        assert_eq!(verifier.verify(&token, &[ISSUER], early), Err(TokenError::NotYetValid));
        assert!(matches!(verifier.verify(&token, &["other"], now()), Err(TokenError::OtherAudience(_))));
    }
}

#[test]
fn an_old_key_is_accepted_while_it_is_listed() {
    let (old, new) = (signer(), signer());
    let (token, _) = old.sign(&request(), now()).unwrap();
    let both = TokenVerifier::new([ISSUER], [new.public_key(), old.public_key()]);
    assert!(both.verify(&token, &[ISSUER], now()).is_ok());
    let only_new = TokenVerifier::new([ISSUER], [new.public_key()]);
    assert_eq!(only_new.verify(&token, &[ISSUER], now()), Err(TokenError::Invalid("its signature is wrong")));
}

#[test]
fn a_changed_token_is_refused() {
    let signer = signer();
    let (token, _) = signer.sign(&request(), now()).unwrap();
    let verifier = TokenVerifier::new([ISSUER], [signer.public_key()]);
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).unwrap()).unwrap();
    parts[1] = URL_SAFE_NO_PAD.encode(payload.replace("shop", "kube-system"));
    assert!(matches!(verifier.verify(&parts.join("."), &[ISSUER], now()), Err(TokenError::Invalid(_))));
    parts[0] = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    assert!(matches!(verifier.verify(&parts.join("."), &[ISSUER], now()), Err(TokenError::Invalid(_))));
}

#[test]
fn tokens_of_others_are_left_to_other_authenticators() {
    let verifier = TokenVerifier::new([ISSUER], [signer().public_key()]);
    let stranger = TokenSigner::new("https://example.com", PrivateKey::generate().unwrap());
    let (token, _) = stranger.sign(&request(), now()).unwrap();
    for token in [token.as_str(), "", "a.b.c", "abcdef.0123456789abcdef", &"x".repeat(100_000), "..", "é.é.é"] {
        assert_eq!(verifier.verify(token, &[ISSUER], now()), Err(TokenError::Foreign), "{token}");
    }
}

#[test]
fn memory_for_verified_tokens_is_bounded() {
    let mut generations = Generations::default();
    let signer = signer();
    let claims = Arc::new(signer.sign(&request(), now()).unwrap().1);
    let hash = |number: u64| <[u8; 32]>::from(Sha256::digest(number.to_be_bytes()));
    for number in 0..10_000 {
        generations.insert(hash(number), Arc::clone(&claims));
        assert!(generations.get(&hash(0)).is_some(), "what is used stays");
    }
    assert!(generations.young.len() + generations.old.len() <= 2 * REMEMBERED_TOKENS);
}

#[test]
fn the_key_set_and_discovery_name_the_key() {
    let signer = signer();
    let (token, _) = signer.sign(&request(), now()).unwrap();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
    let verifier = TokenVerifier::new([ISSUER], [signer.public_key()]);
    let keys = verifier.json_web_key_set();
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    assert_eq!(keys["keys"][0]["x"].as_str().unwrap().len(), 43);
    assert_eq!(verifier.discovery_document("https://x/openid/v1/jwks")["issuer"], ISSUER);
}
