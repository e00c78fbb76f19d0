//! An operator: a Hive becomes a ConfigMap with its jars of honey. Every replica serves webhooks; the one that leads reconciles.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        coordination::v1::Lease,
        core::v1::ConfigMap,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        Controller,
        controller::Action,
        events::{Event as Incident, EventType, Recorder, Reporter},
        finalizer::{self, Event, finalizer},
        wait::{await_condition, conditions},
        watcher,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{election::Contender, webhooks};

const FINALIZER: &str = "kube.example/honey";
const CERTIFICATES: &str = "/certificates";

/// What somebody wants of a hive.
#[derive(CustomResource, Deserialize, Serialize, Clone, Debug, JsonSchema)]
#[kube(group = "kube.example", version = "v1", kind = "Hive", plural = "hives", namespaced, status = "HiveStatus", printcolumn = r#"{"name":"Jars","type":"integer","jsonPath":".status.jars"}"#)]
pub struct HiveSpec {
    /// How many bees.
    #[schemars(range(min = 0))]
    pub bees: u32,
    /// Who looks after them.
    pub keeper: Option<String>,
}

/// What has become of a hive.
#[derive(Deserialize, Serialize, Clone, Debug, JsonSchema)]
pub struct HiveStatus {
    /// Jars of honey.
    pub jars: u32,
}

struct Beekeeper {
    client: Client,
    recorder: Recorder,
}

fn manager() -> PatchParams {
    PatchParams::apply("beekeeper").force()
}

async fn make_honey(hive: Arc<Hive>, context: &Beekeeper) -> Result<Action, kube::Error> {
    let namespace = hive.namespace().unwrap_or_default();
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &namespace);
    let hives: Api<Hive> = Api::namespaced(context.client.clone(), &namespace);
    let jars = hive.spec.bees / 10;
    let owner = hive.controller_owner_ref(&());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": hive.name_any(), "ownerReferences": [owner]},
        "data": {"jars": jars.to_string(), "keeper": hive.spec.keeper}});
    maps.patch(&hive.name_any(), &manager(), &Patch::Apply(map)).await?;
    if hive.status.as_ref().map(|status| status.jars) != Some(jars) {
        let status = json!({"apiVersion": "kube.example/v1", "kind": "Hive", "status": {"jars": jars}});
        hives.patch_status(&hive.name_any(), &manager(), &Patch::Apply(status)).await?;
        let incident = Incident {
            type_: EventType::Normal,
            reason: "Harvested".to_owned(),
            note: Some(format!("there are {jars} jars")),
            action: "Harvest".to_owned(),
            secondary: None,
        };
        context.recorder.publish(&incident, &hive.object_ref(&())).await?;
    }
    Ok(Action::await_change())
}

async fn leave_a_note(hive: Arc<Hive>, context: &Beekeeper) -> Result<Action, kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &hive.namespace().unwrap_or_default());
    let name = format!("{}-is-gone", hive.name_any());
    let note = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    maps.patch(&name, &manager(), &Patch::Apply(note)).await?;
    Ok(Action::await_change())
}

async fn reconcile(hive: Arc<Hive>, context: Arc<Beekeeper>) -> Result<Action, finalizer::Error<kube::Error>> {
    let hives: Api<Hive> = Api::namespaced(context.client.clone(), &hive.namespace().unwrap_or_default());
    finalizer(&hives, FINALIZER, hive, |event| async {
        match event {
            Event::Apply(hive) => make_honey(hive, &context).await,
            Event::Cleanup(hive) => leave_a_note(hive, &context).await,
        }
    })
    .await
}

/// Makes the kind known, and who admits it.
async fn register(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "hives.kube.example";
    definitions.patch(name, &manager(), &Patch::Apply(Hive::crd())).await.context("the definition")?;
    await_condition(definitions, name, conditions::is_crd_established()).await?;
    let bundle = std::fs::read(Path::new(CERTIFICATES).join("tls.crt"))?;
    let bundle = k8s_openapi::ByteString(bundle);
    let webhook = |verb: &str| {
        json!([{"name": format!("{verb}.kube.example"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"caBundle": bundle, "service": {"name": "beekeeper", "namespace": namespace, "path": format!("/{verb}")}},
            "rules": [{"apiGroups": ["kube.example"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["hives"]}]}])
    };
    let configuration = |kind: &str, verb: &str| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "beekeeper"}, "webhooks": webhook(verb)});
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    mutating.patch("beekeeper", &manager(), &Patch::Apply(configuration("MutatingWebhookConfiguration", "mutate"))).await.context("webhooks")?;
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    validating.patch("beekeeper", &manager(), &Patch::Apply(configuration("ValidatingWebhookConfiguration", "validate"))).await.context("webhooks")?;
    Ok(())
}

/// Runs until it may not lead any more.
pub async fn run() -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    let namespace = client.default_namespace().to_owned();
    let identity = std::env::var("POD_NAME").context("POD_NAME")?;
    register(&client, &namespace).await?;
    let serving = tokio::spawn(webhooks::serve(Path::new(CERTIFICATES)));
    let contender = Contender { leases: Api::<Lease>::namespaced(client.clone(), &namespace), name: "beekeeper".to_owned(), identity: identity.clone(), seconds: 3 };
    println!("serving, and waiting to lead");
    contender.win().await?;
    println!("leading");
    let recorder = Recorder::new(client.clone(), Reporter { controller: "beekeeper".to_owned(), instance: Some(identity) });
    let context = Arc::new(Beekeeper { client: client.clone(), recorder });
    let controlling = Controller::new(Api::<Hive>::all(client.clone()), watcher::Config::default())
        .owns(Api::<ConfigMap>::all(client), watcher::Config::default())
        .run(reconcile, |_, error, _| { eprintln!("trying again: {error}"); Action::requeue(Duration::from_secs(1)) }, context)
        .for_each(|outcome| async move { println!("reconciled {outcome:?}") });
    tokio::select! {
        () = controlling => anyhow::bail!("the controller ended"),
        held = contender.hold() => { held?; anyhow::bail!("somebody else leads") }
        served = serving => served?,
    }
}
