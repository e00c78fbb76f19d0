//! Publishes the certificate by which clients know the API server as a ClusterTrustBundle, where that API is served, and takes away what
//! it published of certificates before.
//!
//! Source: Kubernetes 1.36, `pkg/controller/certificates/clustertrustbundlepublisher`.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, DeleteParams, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::certificates::v1beta1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::ControllerContext;

const CONTROLLER: &str = "kube-apiserver-serving-clustertrustbundle-publisher";
const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";

/// Starts the controller. `root_ca` is the cluster authority's certificate, in PEM.
pub fn start(context: &ControllerContext, runner: &Runner, root_ca: &str) {
    let controller = ClusterTrustBundles { client: context.client(CONTROLLER), bundles: context.informers.of(), wanted: wanted(root_ca) };
    runner.start(controller, 1);
}

struct ClusterTrustBundles {
    client: client::Client,
    bundles: Informer<ClusterTrustBundle>,
    wanted: ClusterTrustBundle,
}

/// The bundle's name tells its content, so that a new certificate is published before the old one goes.
fn wanted(root_ca: &str) -> ClusterTrustBundle {
    let digest: String = Sha256::digest(root_ca.as_bytes()).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{}:{digest}", SIGNER.replace('/', ":"));
    ClusterTrustBundle {
        metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
        spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: root_ca.to_owned() },
    }
}

fn is_of_signer(bundle: &ClusterTrustBundle) -> bool {
    bundle.spec.signer_name.as_deref() == Some(SIGNER)
}

#[async_trait]
impl Reconciler for ClusterTrustBundles {
    fn name(&self) -> &'static str {
        "cluster-trust-bundle-publisher"
    }

    fn triggers(&self) -> Vec<Trigger> {
        // One key for all: the certificate that is published is one.
        let key = ObjectKey { namespace: None, name: SIGNER.into() };
        let of_change = key.clone();
        let concerns = |bundle: &Option<Arc<ClusterTrustBundle>>| bundle.as_deref().is_some_and(is_of_signer);
        vec![
            Trigger::custom(move |queue| queue.add(key)),
            Trigger::on(
                &self.bundles,
                move |change| {
                    if concerns(&change.old) || concerns(&change.new) { vec![of_change.clone()] } else { Vec::new() }
                },
            ),
        ]
    }

    async fn reconcile(&self, _: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let api = Api::<ClusterTrustBundle>::all(self.client.clone());
        let published: Vec<_> = self.bundles.list().into_iter().filter(|bundle| is_of_signer(bundle)).collect();
        let ours = published.iter().find(|bundle| bundle.metadata.name == self.wanted.metadata.name);
        match ours {
            Some(ours) if ours.spec.trust_bundle == self.wanted.spec.trust_bundle => {}
            Some(ours) => {
                let updated = ClusterTrustBundle { metadata: ours.metadata.clone(), spec: self.wanted.spec.clone() };
                let name = updated.metadata.name.clone().unwrap_or_default();
                api.replace(&name, &PostParams::default(), &updated).await.doing(|| format!("update trust bundle {name}"))?;
            }
            None => match api.create(&PostParams::default(), &self.wanted).await {
                Err(error) if client::is_already_exists(&error) => {}
                other => drop(other.doing(|| format!("publish the trust bundle of {SIGNER}"))?),
            },
        }
        for old in published.iter().filter(|bundle| bundle.metadata.name != self.wanted.metadata.name) {
            let name = old.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &DeleteParams::default()).await {
                Err(error) if client::is_not_found(&error) => {}
                other => drop(other.doing(|| format!("delete the old trust bundle {name}"))?),
            }
        }
        Ok(Outcome::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;

    fn names(fake: &FakeApi) -> Vec<String> {
        let mut names: Vec<_> = fake.objects::<ClusterTrustBundle>().into_iter().filter_map(|bundle| bundle.metadata.name).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_certificate_is_published_and_that_of_another_time_goes() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let api = Api::<ClusterTrustBundle>::all(fake.client());
        let strangers =
            ClusterTrustBundle { metadata: ObjectMeta { name: Some("mine".to_owned()), ..ObjectMeta::default() }, ..ClusterTrustBundle::default() };
        for bundle in [wanted("an old certificate"), strangers] {
            api.create(&PostParams::default(), &bundle).await.unwrap();
        }
        let runner = context.runner();
        start(&context, &runner, "the certificate");
        // The digest's first twelve bytes, by sha256sum.
        let expected = ["kubernetes.io:kube-apiserver-serving:a5e2afc8822f65381e660136".to_owned(), "mine".to_owned()];
        within("the new alone", fake.until(|fake| (names(fake) == expected).then_some(()))).await;
        let mut spoiled = api.get(&expected[0]).await.unwrap();
        spoiled.spec.trust_bundle = "something else".to_owned();
        api.replace(&expected[0], &PostParams::default(), &spoiled).await.unwrap();
        let mended =
            |fake: &FakeApi| fake.objects::<ClusterTrustBundle>().iter().any(|bundle| bundle.spec.trust_bundle == "the certificate").then_some(());
        within("its content again", fake.until(mended)).await;
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }
}
