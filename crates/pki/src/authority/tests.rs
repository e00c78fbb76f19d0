use super::*;

fn start() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn authority() -> (tempfile::TempDir, ClusterAuthority) {
    let directory = tempfile::tempdir().unwrap();
    let authority = ClusterAuthority::open_or_create(&directory.path().join("pki"), start()).unwrap();
    (directory, authority)
}

#[test]
fn the_authority_is_made_once() {
    let (directory, first) = authority();
    let second = ClusterAuthority::open_or_create(&directory.path().join("pki"), start()).unwrap();
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_eq!(first.certificate_pem(), second.certificate_pem());
}

#[test]
fn a_first_start_cut_short_is_completed() {
    let (directory, first) = authority();
    std::fs::remove_file(directory.path().join("pki/ca.crt")).unwrap();
    let second = ClusterAuthority::open_or_create(&directory.path().join("pki"), start()).unwrap();
    assert_eq!(first.key.public_point(), second.key.public_point());
}

#[test]
fn a_lost_or_foreign_key_is_said_clearly() {
    let (directory, _) = authority();
    let key = directory.path().join("pki/ca.key");
    std::fs::write(&key, PrivateKey::generate().unwrap().to_pem()).unwrap();
    let error = ClusterAuthority::open_or_create(&directory.path().join("pki"), start()).unwrap_err();
    assert!(error.to_string().contains("another private key"), "{error}");
    std::fs::remove_file(&key).unwrap();
    let error = ClusterAuthority::open_or_create(&directory.path().join("pki"), start()).unwrap_err();
    assert!(error.to_string().contains("restore it"), "{error}");
}

#[test]
fn a_client_certificate_carries_the_user_and_every_group() {
    let (_directory, authority) = authority();
    let subject = Subject::new("jane", ["developers", "testers", "system:masters"]);
    let client = authority.issue_client(&subject, CERTIFICATE_LIFETIME, start()).unwrap();
    let identity = authority.verify(&client.chain()[0], start()).unwrap();
    assert_eq!(identity.user, "jane");
    assert_eq!(identity.groups, ["developers", "testers", "system:masters"]);
    assert_eq!(identity.not_after, start() + CERTIFICATE_LIFETIME);
    assert_eq!(authority.issue_admin(start()).unwrap().identity().unwrap().groups, ["system:masters"]);
}

#[test]
fn certificates_of_others_and_old_ones_are_not_trusted() {
    let (_one, authority) = authority();
    let (_two, other) = super::tests::authority();
    let client = other.issue_admin(start()).unwrap();
    assert!(matches!(authority.verify(&client.chain()[0], start()), Err(PkiError::NotTrusted(_))));
    let client = authority.issue_admin(start()).unwrap();
    let later = start() + CERTIFICATE_LIFETIME + SignedDuration::from_secs(1);
    assert!(matches!(authority.verify(&client.chain()[0], later), Err(PkiError::NotTrusted(_))));
}

#[test]
fn nothing_outlives_the_authority() {
    let (_directory, authority) = authority();
    let late = start() + AUTHORITY_LIFETIME - SignedDuration::from_hours(1);
    let client = authority.issue_admin(late).unwrap();
    assert_eq!(client.not_after(), start() + AUTHORITY_LIFETIME);
}

#[test]
fn a_server_certificate_is_kept_until_it_is_due_or_lacks_a_name() {
    let (_directory, authority) = authority();
    let names = AlternativeNames::from_hosts(["localhost", "127.0.0.1", "kubernetes.default.svc"]);
    let first = authority.ensure_server("apiserver", "knarr", &names, start()).unwrap();
    let second = authority.ensure_server("apiserver", "knarr", &names, start()).unwrap();
    assert_eq!(first.chain(), second.chain());
    assert_eq!(first.chain().len(), 2, "the authority goes with it");
    let more = AlternativeNames::from_hosts(["localhost", "127.0.0.1", "kubernetes.default.svc", "10.0.0.1"]);
    let third = authority.ensure_server("apiserver", "knarr", &more, start()).unwrap();
    assert_ne!(first.chain(), third.chain());
    let due = start() + SignedDuration::from_hours(300 * 24);
    assert!(third.needs_renewal(due));
    let fourth = authority.ensure_server("apiserver", "knarr", &more, due).unwrap();
    assert_ne!(third.chain(), fourth.chain());
    assert!(!fourth.needs_renewal(due));
}

#[test]
fn a_broken_certificate_file_is_replaced() {
    let (directory, authority) = authority();
    let subject = Subject::new("a", ["b"]);
    authority.ensure_client("client", &subject, start()).unwrap();
    std::fs::write(directory.path().join("pki/client.pem"), "nonsense").unwrap();
    let again = authority.ensure_client("client", &subject, start()).unwrap();
    assert_eq!(again.identity().unwrap().user, "a");
}

#[test]
fn an_approved_request_is_signed_as_it_is() {
    let (_directory, authority) = authority();
    let key = PrivateKey::generate().unwrap();
    let subject = Subject::new("system:node:a", ["system:nodes"]);
    let names = AlternativeNames::from_hosts(["a", "10.1.2.3"]);
    let text = CertificateRequest::create(&subject, &names, &[Usage::ServerAuth], &key).unwrap();
    let request = CertificateRequest::from_pem(text.as_bytes()).unwrap();
    let usages = [Usage::DigitalSignature, Usage::ServerAuth];
    let certificate = authority.sign_request(&request, &usages, SignedDuration::from_hours(1), start()).unwrap();
    let credential = Credential::new(key, certificate).unwrap();
    assert_eq!(credential.names(), &names);
    assert_eq!(credential.not_after(), start() + SignedDuration::from_hours(1));
    assert_eq!(subject_of(&credential.chain()[0]).unwrap(), subject);
    assert!(authority.verify(&credential.chain()[0], start()).is_ok());
    let refused = authority.sign_request(&request, &[Usage::CertSign], SignedDuration::from_hours(1), start());
    assert!(matches!(refused, Err(PkiError::NotTrusted(_))));
}
