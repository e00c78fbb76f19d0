//! Waiting for a cluster that was just started.

use std::{
    collections::BTreeMap,
    process::{Child, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use api::core::v1::Node;
use client::{Api, FeedEvent, ListParams, Selection, Source, feed};
use jiff::Timestamp;
use pki::{ClusterAuthority, Kubeconfig, SwappableCertificate, kubeconfig::KubeconfigUser};
use tokio::sync::mpsc;

use super::{processes, say, settings::Settings};

/// How long a cluster may take to get ready, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between looks at whether the API answers: nothing tells an outsider when a port begins to be listened on.
const LOOK: Duration = Duration::from_millis(20);

fn authority(settings: &Settings) -> anyhow::Result<ClusterAuthority> {
    Ok(ClusterAuthority::open_or_create(&settings.node_data(1).join("pki"), Timestamp::now())?)
}

/// The administrator's kubeconfig.
pub fn admin_kubeconfig(settings: &Settings) -> anyhow::Result<Kubeconfig> {
    let authority = authority(settings)?;
    Ok(Kubeconfig {
        name: format!("knarr-{}", settings.name),
        server: settings.api()?,
        authority_pem: authority.certificate_pem().to_owned(),
        user: KubeconfigUser::Certificate(authority.issue_admin(Timestamp::now())?),
    })
}

/// The cluster, as its administrator; to be called within an asynchronous runtime.
pub fn admin_client(settings: &Settings) -> anyhow::Result<client::Client> {
    let authority = authority(settings)?;
    let certificate = SwappableCertificate::new(&authority.issue_admin(Timestamp::now())?)?;
    let tls = pki::tls::client_config(std::slice::from_ref(authority.certificate()), Some(certificate))?;
    Ok(client::connect_with_tls(settings.api()?.parse()?, Arc::new(tls), None, "knarr-up")?)
}

/// When a Node was last said to be ready, where it is.
pub fn ready_since_heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// Waits until the nodes of these processes are ready.
pub fn wait(settings: &Settings, children: Vec<(u8, Child)>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the asynchronous runtime")?;
    let started = Instant::now();
    // Times in the API have no fractions.
    let not_before = Timestamp::from_second(Timestamp::now().as_second())?;
    let mut waiting: BTreeMap<String, u8> = children.iter().map(|(number, _)| (settings.node_name(*number), *number)).collect();
    let (died, mut deaths) = mpsc::unbounded_channel::<(u8, ExitStatus)>();
    for (number, mut child) in children {
        let died = died.clone();
        // Ends with this process at the latest.
        std::thread::spawn(move || child.wait().map(|status| died.send((number, status))));
    }
    let ready = async {
        let client = admin_client(settings)?;
        let nodes: Api<Node> = Api::all(client.clone());
        while nodes.list(&ListParams::default().limit(1)).await.is_err() {
            tokio::time::sleep(LOOK).await;
        }
        let (sender, mut changes) = mpsc::unbounded_channel::<Node>();
        let source = Source::new::<Node>(client, &(), Selection::default());
        tokio::spawn(feed::run(source, move |event: FeedEvent<Node>| {
            // Nobody listens any more once all are ready.
            let _ = match event {
                FeedEvent::Replaced { objects, .. } => objects.into_iter().try_for_each(|object| sender.send(object)),
                FeedEvent::Put(object) => sender.send(object),
                FeedEvent::Deleted(_) | FeedEvent::Progress(_) => Ok(()),
            };
        }));
        while !waiting.is_empty() {
            let Some(node) = changes.recv().await else { bail!("the server went away") };
            let name = node.metadata.name.clone().unwrap_or_default();
            if ready_since_heartbeat(&node).is_some_and(|heartbeat| heartbeat >= not_before) && waiting.remove(&name).is_some() {
                let address = settings.node_address(1)?;
                let what = if name == settings.node_name(1) { format!(", API at https://{address}:{}", super::settings::API_PORT) } else { String::new() };
                say(&name, &format!("ready after {:.1} s{what}", started.elapsed().as_secs_f64()));
            }
        }
        Ok(())
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            Some((number, status)) = deaths.recv() => {
                let (name, log) = (settings.node_name(number), settings.node_data(number).join("node.log"));
                bail!("the node {name} ended with {status}; the end of {}:\n{}", log.display(), processes::end_of_log(&log))
            }
            outcome = ready => outcome,
            () = tokio::time::sleep(PATIENCE) => bail!("not ready after {} s; the nodes' logs are {}/*/node.log", PATIENCE.as_secs(), settings.directory.display()),
        }
    });
    runtime.shutdown_background();
    outcome
}
