//! `knarr agent`: a node only.

use std::sync::Arc;

use anyhow::{Context, bail};
use client::Informers;
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::{
    cli::AgentArgs,
    join::{self, Membership, ServerAddress},
    node_parts::{self, NodeSettings},
    local_cluster::HostSide,
    server::{enter_namespaces, host_name, make_directories, own_addresses, start_logging},
    power::Signals,
};

/// Runs until SIGTERM or SIGINT. Pods go on.
pub fn run(arguments: AgentArgs) -> anyhow::Result<()> {
    start_logging(&arguments.log)?;
    // Before there are threads.
    let host = enter_namespaces(arguments.namespaces.as_deref(), arguments.node_name.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the asynchronous runtime")?;
    runtime.block_on(serve(arguments, host))
}

async fn serve(arguments: AgentArgs, host: Option<HostSide>) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let stop = signals.stop.clone();
    if !rustix::process::geteuid().is_root() {
        bail!("a node needs root, to make namespaces, mounts and routes: run knarr as root");
    }
    make_directories([&arguments.data_dir, &arguments.run_dir])?;
    let server = ServerAddress::parse(&arguments.server)?;
    let addresses = own_addresses(&arguments.node_ip);
    let name = arguments.node_name.clone().unwrap_or_else(host_name);
    let directory = arguments.data_dir.join("pki");
    let joining = Membership::establish(&server, &arguments.token, &name, &addresses, &directory);
    let Some(membership) = stop.run_until_cancelled(joining).await else { return Ok(()) };
    let mut membership = membership?;
    let listener = TcpListener::bind(("0.0.0.0", node_parts::NODE_API_PORT))
        .await
        .with_context(|| format!("cannot listen on port {} for the node's own API: is another node running here?", node_parts::NODE_API_PORT))?;
    let settings = NodeSettings {
        cluster: arguments.cluster_name.clone(),
        name: name.clone(),
        api_server: server.url().trim_start_matches("https://").to_owned(),
        addresses,
        data_directory: arguments.data_dir.clone(),
        run_directory: arguments.run_dir.join(&arguments.cluster_name),
        cluster_ranges: node_parts::ranges(&arguments.cluster_cidr)?,
        service_ranges: node_parts::ranges(&arguments.service_cidr)?,
        cluster_domain: arguments.cluster_domain.clone(),
        client: membership.client.clone(),
        proxy_client: membership.client.clone(),
        pool: client::Pool::default(),
        labels: Vec::new(),
        host,
        options: arguments.node.clone(),
    };
    let parts = node_parts::start(settings, stop.clone()).await?;
    signals.end_pods_first(Some(parts.node.clone()));
    // Through the tunnel the server reaches this node although it may not be able to connect to it.
    let tunnel = tokio::spawn({
        let (server, tls, node_api, stop) = (server.clone(), membership.tls.clone(), Arc::new(parts.node.node_api_service()), stop.clone());
        async move {
            let name = server.url();
            let connect = || join::connect(&server, tls.clone());
            dialer::maintain_tunnel(&name, connect, node_api, stop).await;
        }
    });
    let Some(serving_certificate) = stop.run_until_cancelled(membership.serving_certificate()).await else { return Ok(()) };
    let serving_certificate = serving_certificate?;
    let authorities = pki::bootstrap::certificates_from_pem(&membership.authority_pem)?;
    let tls = pki::tls::server_config(serving_certificate.clone(), &authorities)?;
    let serving = tokio::spawn(parts.serve_api(listener, tls));
    info!(node = name, server = server.url(), "the node has joined");
    membership.keep(serving_certificate, stop).await;
    parts.finish().await;
    if let Err(failure) = tunnel.await {
        error!(%failure, "the tunnel to the server ended badly");
    }
    if let Err(failure) = serving.await {
        error!(%failure, "the node's API ended badly");
    }
    Ok(())
}

/// Finds nodes by the addresses they registered, for a server that dials them over its own network.
pub fn resolver(informers: &Informers) -> impl Fn(&str) -> Option<std::net::SocketAddr> + Send + Sync + 'static {
    let nodes = informers.of::<api::core::v1::Node>();
    let nodes = Arc::new(nodes);
    move |name| {
        let node = nodes.get(&meta::ObjectKey::cluster(name))?;
        let status = node.status.as_ref()?;
        let address = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
        let port = status.daemon_endpoints.as_ref().and_then(|endpoints| endpoints.kubelet_endpoint.as_ref()).map_or(i32::from(node_parts::NODE_API_PORT), |endpoint| endpoint.port);
        Some(std::net::SocketAddr::new(address.address.parse().ok()?, u16::try_from(port).ok()?))
    }
}
