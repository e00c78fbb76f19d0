//! Who leads is written in a Lease: whoever makes it, or finds it run out, and writes first.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

/// A contender.
pub struct Contender {
    /// Where the lease is.
    pub leases: Api<Lease>,
    /// The lease's name.
    pub name: String,
    /// Who this is.
    pub identity: String,
    /// How long the lease lasts without being renewed, in seconds.
    pub seconds: i32,
}

fn conflict(error: kube::Error) -> anyhow::Result<bool> {
    match error {
        kube::Error::Api(status) if status.code == 409 => Ok(false),
        other => Err(other.into()),
    }
}

impl Contender {
    fn spec(&self, holder: Option<&str>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(self.seconds),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }
    }

    /// Takes or renews the lease where that is possible now; whether this is who leads.
    pub async fn attempt(&self) -> anyhow::Result<bool> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(Some(&self.identity))) };
            return self.leases.create(&PostParams::default(), &lease).await.map(|_| true).or_else(conflict);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let ends = spec.renew_time.map(|time| time.0.as_second() + i64::from(spec.lease_duration_seconds.unwrap_or_default()));
        let is_held = spec.holder_identity.as_ref().is_some_and(|holder| *holder != self.identity);
        if is_held && ends.is_some_and(|ends| ends >= Timestamp::now().as_second()) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(Some(&self.identity)));
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(|_| true).or_else(conflict)
    }

    /// Lets others lead.
    pub async fn resign(&self) -> anyhow::Result<()> {
        let mut lease = self.leases.get(&self.name).await?;
        lease.spec = Some(self.spec(None));
        self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(())
    }

    /// Waits until this is who leads.
    pub async fn win(&self) -> anyhow::Result<()> {
        while !self.attempt().await? {
            // A lease that runs out tells nobody.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }

    /// Renews until somebody else leads.
    pub async fn hold(&self) -> anyhow::Result<()> {
        while self.attempt().await? {
            tokio::time::sleep(Duration::from_millis(u64::try_from(self.seconds)? * 1000 / 3)).await;
        }
        Ok(())
    }
}
