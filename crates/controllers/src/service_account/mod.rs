//! What every namespace needs before a pod can run in it: its `default` service account, and the ConfigMap `kube-root-ca.crt` with the
//! certificate by which pods know the API server.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams, Selection};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ControllerContext;

const DEFAULT_ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIBES: &str = "kubernetes.io/description";
/// Said in the ConfigMap. Source: Kubernetes 1.36, `rootcacertpublisher`.
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. \
    No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Starts both controllers. `root_ca` is the cluster authority's certificate, in PEM.
pub fn start(context: &ControllerContext, runner: &Runner, root_ca: &str) {
    let namespaces = context.informers.of::<Namespace>();
    runner.start(
        DefaultAccounts {
            client: context.client("service-account-controller"),
            namespaces: namespaces.clone(),
            accounts: context.informers.of(),
        },
        2,
    );
    runner.start(
        RootCertificates {
            client: context.client("root-ca-cert-publisher"),
            namespaces,
            // Only these of all ConfigMaps, which may be large.
            maps: context.informers.selected(Selection::fields(&format!("metadata.name={ROOT_CA}"))),
            root_ca: root_ca.into(),
        },
        2,
    );
}

/// Wakes the namespace of an object called `name`.
fn namespace_of<K: client::Watchable>(informer: &Informer<K>, name: &'static str) -> Trigger {
    Trigger::on(informer, move |change| {
        let namespace = change.key.namespace.as_deref().filter(|_| &*change.key.name == name);
        namespace.map(ObjectKey::cluster).into_iter().collect()
    })
}

fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

/// A namespace that goes away while something is made in it does not need it any more.
fn unless_gone<T>(result: client::Result<T>) -> client::Result<()> {
    match result {
        Err(error) if client::is_not_found(&error) || client::is_already_exists(&error) || crate::namespace_is_terminating(&error) => Ok(()),
        other => other.map(drop),
    }
}

struct DefaultAccounts {
    client: client::Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

#[async_trait]
impl Reconciler for DefaultAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.namespaces), namespace_of(&self.accounts, DEFAULT_ACCOUNT)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let wanted = self.namespaces.get(key).is_some_and(|namespace| is_active(&namespace));
        if !wanted || self.accounts.get_in(&key.name, DEFAULT_ACCOUNT).is_some() {
            return Ok(Outcome::Settled);
        }
        let metadata = ObjectMeta { name: Some(DEFAULT_ACCOUNT.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let created = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.name).create(&PostParams::default(), &account).await;
        unless_gone(created).doing(|| format!("create the default service account of {key}"))?;
        Ok(Outcome::Settled)
    }
}

struct RootCertificates {
    client: client::Client,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    root_ca: Arc<str>,
}

#[async_trait]
impl Reconciler for RootCertificates {
    fn name(&self) -> &'static str {
        "root-ca-certificate"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.namespaces), namespace_of(&self.maps, ROOT_CA)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        if !self.namespaces.get(key).is_some_and(|namespace| is_active(&namespace)) {
            return Ok(Outcome::Settled);
        }
        let existing = self.maps.get_in(&key.name, ROOT_CA);
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &key.name);
        let wanted = wanted(&self.root_ca, existing.as_deref());
        let written = match &existing {
            Some(existing) if **existing == wanted => return Ok(Outcome::Settled),
            Some(_) => unless_gone(api.replace(ROOT_CA, &PostParams::default(), &wanted).await),
            None => unless_gone(api.create(&PostParams::default(), &wanted).await),
        };
        written.doing(|| format!("publish the root certificate in {key}"))?;
        Ok(Outcome::Settled)
    }
}

/// The ConfigMap as it should be, from the one that is there.
fn wanted(root_ca: &str, existing: Option<&ConfigMap>) -> ConfigMap {
    let mut map = existing.cloned().unwrap_or_default();
    map.metadata.name = Some(ROOT_CA.to_owned());
    let data = Some([(ROOT_CA_KEY.to_owned(), root_ca.to_owned())].into());
    let description = map.metadata.annotations.get_or_insert_default().entry(DESCRIBES.to_owned()).or_default();
    // A description of somebody else's stays as long as nothing else is to be mended.
    if description.is_empty() || map.data != data {
        DESCRIPTION.clone_into(description);
    }
    map.data = data;
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::context;
    use client::fake::FakeApi;
    use client::DeleteParams;

    #[test]
    fn another_description_stays_while_the_certificate_is_right() {
        let mut map = wanted("pem", None);
        let describe = |map: &mut ConfigMap, text: &str| map.metadata.annotations.get_or_insert_default().insert(DESCRIBES.to_owned(), text.to_owned());
        assert_eq!(describe(&mut map, "mine").as_deref(), Some(DESCRIPTION));
        assert_eq!(wanted("pem", Some(&map)), map);
        assert_eq!(wanted("other", Some(&map)).metadata.annotations.unwrap()[DESCRIBES], DESCRIPTION);
        describe(&mut map, "");
        assert_eq!(wanted("pem", Some(&map)).metadata.annotations.unwrap()[DESCRIBES], DESCRIPTION);
    }

    #[tokio::test]
    async fn a_new_namespace_gets_both_and_gets_them_back() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let runner = context.runner();
        start(&context, &runner, "the certificate");
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("x".to_owned());
        Api::<Namespace>::all(fake.client()).create(&PostParams::default(), &namespace).await.unwrap();
        let made = |fake: &FakeApi| {
            let maps = fake.objects::<ConfigMap>();
            let data = maps.first().and_then(|map| map.data.as_ref()?.get(ROOT_CA_KEY).cloned());
            (!fake.objects::<ServiceAccount>().is_empty() && data.as_deref() == Some("the certificate")).then_some(())
        };
        fake.until(made).await;
        Api::<ServiceAccount>::namespaced(fake.client(), "x").delete(DEFAULT_ACCOUNT, &DeleteParams::default()).await.unwrap();
        let mut spoiled = ConfigMap::default();
        spoiled.metadata.name = Some(ROOT_CA.to_owned());
        Api::<ConfigMap>::namespaced(fake.client(), "x").replace(ROOT_CA, &PostParams::default(), &spoiled).await.unwrap();
        fake.until(made).await;
        context.informers.stopped().cancel();
        runner.finished().await;
    }
}
