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
}
