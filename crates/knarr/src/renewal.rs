//! Certificates of the server itself, which signs them: renewed while it runs, since a server may run for years.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pki::{Credential, PkiError, SwappableCertificate};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Between looks at the clock, which may jump, and goes on while the machine sleeps.
const LOOK: Duration = Duration::from_secs(3600);

/// A certificate, and how a new one is had.
pub struct Renewed {
    /// What connections show.
    certificate: Arc<SwappableCertificate>,
    /// Gives the one that is kept, or a new one where that is due for renewal.
    ensure: Box<dyn Fn(Timestamp) -> Result<Credential, PkiError> + Send + Sync>,
    renew_at: Timestamp,
}

impl Renewed {
    /// Begins with the certificate that is kept, or makes it.
    pub fn new(ensure: impl Fn(Timestamp) -> Result<Credential, PkiError> + Send + Sync + 'static, now: Timestamp) -> Result<Self, PkiError> {
        let credential = ensure(now)?;
        Ok(Self { certificate: SwappableCertificate::new(&credential)?, ensure: Box::new(ensure), renew_at: credential.renew_at() })
    }

    /// What connections show.
    pub fn certificate(&self) -> Arc<SwappableCertificate> {
        self.certificate.clone()
    }

    /// Renews it where it is time.
    fn look(&mut self, now: Timestamp) -> Result<(), PkiError> {
        if now < self.renew_at {
            return Ok(());
        }
        let credential = (self.ensure)(now)?;
        self.certificate.swap(&credential)?;
        self.renew_at = credential.renew_at();
        info!(until = %credential.not_after(), "a certificate of this server was renewed");
        Ok(())
    }

    /// Renews it before it ends, until stopped.
    pub async fn keep(mut self, stop: CancellationToken) {
        // Nothing tells that a date has come.
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            if let Err(error) = self.look(Timestamp::now()) {
                warn!(%error, "a certificate of this server could not be renewed; trying again in an hour");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use pki::{AlternativeNames, ClusterAuthority};
    use rustls::{client::ResolvesClientCert, pki_types::CertificateDer};

    use super::*;

    fn shown(renewed: &Renewed) -> CertificateDer<'static> {
        renewed.certificate.resolve(&[], &[]).unwrap().cert[0].clone()
    }

    #[test]
    fn a_server_that_runs_for_years_never_shows_a_certificate_that_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let start = Timestamp::now();
        let authority = ClusterAuthority::open_or_create(directory.path(), start).unwrap();
        let signer = authority.clone();
        let names = AlternativeNames::from_hosts(["127.0.0.1"]);
        let mut renewed = Renewed::new(move |now| signer.ensure_server("server", "kube-apiserver", &names, now), start).unwrap();
        let first = shown(&renewed);
        let mut different = vec![first.clone()];
        for day in 0..3 * 365 {
            let now = start + SignedDuration::from_hours(24 * day);
            renewed.look(now).unwrap();
            authority.verify(&shown(&renewed), now).unwrap();
            if different.last() != Some(&shown(&renewed)) {
                different.push(shown(&renewed));
            }
        }
        assert_eq!(different.len(), 5, "it is renewed after seven tenths of a year");
    }

    /// Every day of some years, what is shown then must be good; gives what was shown, one of each.
    fn through_the_years(renewed: &mut Renewed, start: Timestamp, mut look: impl FnMut(&Renewed, Timestamp) -> Vec<u8>) -> Vec<Vec<u8>> {
        let mut different = Vec::new();
        for day in 0..3 * 365 {
            let now = start + SignedDuration::from_hours(24 * day);
            renewed.look(now).unwrap();
            let shown = look(renewed, now);
            if different.last() != Some(&shown) {
                different.push(shown);
            }
        }
        different
    }

    #[test]
    fn the_front_proxy_certificate_is_renewed_before_it_ends_and_stays_the_front_proxys() {
        let directory = tempfile::tempdir().unwrap();
        let start = Timestamp::now();
        let authority = ClusterAuthority::open_or_create(directory.path(), start).unwrap();
        let mut renewed = Renewed::new(crate::control_plane::front_proxy_certificate(authority.clone()), start).unwrap();
        let different = through_the_years(&mut renewed, start, |renewed, now| {
            let identity = authority.verify(&shown(renewed), now).unwrap();
            assert_eq!(identity.user, apiserver::aggregation::trust::FRONT_PROXY_NAME);
            shown(renewed).to_vec()
        });
        assert_eq!(different.len(), 5);
        // Another start shows the newest again, and makes none.
        let last = start + SignedDuration::from_hours(24 * (3 * 365 - 1));
        let again = Renewed::new(crate::control_plane::front_proxy_certificate(authority), last).unwrap();
        assert_eq!(Some(&shown(&again).to_vec()), different.last());
    }

    #[test]
    fn the_administrators_kubeconfig_always_holds_a_certificate_that_is_good_and_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let start = Timestamp::now();
        let authority = ClusterAuthority::open_or_create(directory.path(), start).unwrap();
        let file = directory.path().join("admin.yaml");
        let write = crate::control_plane::administrators_kubeconfig(authority.clone(), file.clone(), "c".to_owned(), "https://127.0.0.1:1".to_owned());
        let mut renewed = Renewed::new(write, start).unwrap();
        let different = through_the_years(&mut renewed, start, |_, now| {
            let text = std::fs::read_to_string(&file).unwrap();
            let value: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
            let part = |name: &str| {
                let encoded = value["users"][0]["user"][name].as_str().unwrap();
                base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).unwrap()
            };
            let pem = part("client-certificate-data");
            let certificate = <CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&pem).unwrap();
            let identity = authority.verify(&certificate, now).unwrap();
            assert_eq!((identity.user.as_str(), identity.groups.as_slice()), ("system:admin", &["system:masters".to_owned()][..]));
            assert!(String::from_utf8(part("client-key-data")).unwrap().contains("PRIVATE KEY"));
            pem
        });
        assert_eq!(different.len(), 5);
    }
}
