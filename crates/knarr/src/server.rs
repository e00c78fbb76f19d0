//! `knarr server`: a control plane, and a node beside it, in the foreground.

use std::{net::IpAddr, os::unix::fs::DirBuilderExt};

use anyhow::{Context, bail};
use client::Identity;
use jiff::Timestamp;
use pki::ClusterAuthority;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::ServerArgs,
    control_plane::ControlPlane,
    local_cluster::{self, HostSide},
    node_parts,
    power::Signals,
    renewal::Renewed,
};

/// Runs until SIGTERM or SIGINT. Pods go on.
pub fn run(arguments: ServerArgs) -> anyhow::Result<()> {
    start_logging(&arguments.log)?;
    // Before there are threads.
    let host = enter_namespaces(arguments.namespaces.as_deref(), arguments.node_name.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the asynchronous runtime")?;
    runtime.block_on(serve(arguments, host))
}

/// Moves this process to where `knarr up` wants its nodes.
pub fn enter_namespaces(directory: Option<&std::path::Path>, node: Option<&str>) -> anyhow::Result<Option<HostSide>> {
    let Some(directory) = directory else { return Ok(None) };
    let node = node.context("--namespaces needs --node-name")?;
    local_cluster::enter(directory, node).map(Some)
}

/// Logs to standard error, coloured on a terminal only.
pub fn start_logging(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is no filter; try `info` or `apiserver=debug`"))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
    Ok(())
}

/// The addresses of this machine that packets leave by, where the user names none.
pub fn own_addresses(given: &[IpAddr]) -> Vec<IpAddr> {
    if !given.is_empty() {
        return given.to_vec();
    }
    // Connecting a datagram socket sends nothing; it only asks the kernel which address it would use.
    let towards = |local: &str, remote: &str| {
        let socket = std::net::UdpSocket::bind(local).ok()?;
        socket.connect(remote).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
    };
    towards("0.0.0.0:0", "192.0.2.1:9").into_iter().collect()
}

async fn serve(arguments: ServerArgs, host: Option<HostSide>) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let stop = signals.stop.clone();
    if !arguments.disable_agent && !rustix::process::geteuid().is_root() {
        bail!("a node needs root, to make namespaces, mounts and routes: run knarr as root, or with --disable-agent for a control plane alone");
    }
    make_directories([&arguments.data_dir, &arguments.run_dir])?;
    let addresses = own_addresses(&arguments.node_ip);
    let control_plane = ControlPlane::start(&arguments, &addresses, stop.clone()).await?;
    let kubeconfig = arguments.write_kubeconfig.clone().unwrap_or_else(|| arguments.data_dir.join("admin.kubeconfig"));
    control_plane.write_kubeconfig(&kubeconfig, &format!("knarr-{}", arguments.cluster_name))?;
    info!(file = %kubeconfig.display(), "the administrator's kubeconfig is written");
    let controllers = control_plane.start_controllers(&arguments)?;
    let node = if arguments.disable_agent {
        None
    } else {
        let name = match &arguments.node_name {
            Some(name) => name.clone(),
            None => host_name(),
        };
        let settings = node_parts::NodeSettings {
            cluster: arguments.cluster_name.clone(),
            data_directory: arguments.data_dir.clone(),
            run_directory: arguments.run_dir.join(&arguments.cluster_name),
            cluster_ranges: node_parts::ranges(&arguments.cluster_cidr)?,
            service_ranges: node_parts::ranges(&arguments.service_cidr)?,
            cluster_domain: arguments.cluster_domain.clone(),
            client: control_plane.client(Identity::node(&name)),
            proxy_client: control_plane.client(Identity::user("system:kube-proxy", &[])),
            pool: control_plane.pool.clone(),
            labels: vec![("node-role.kubernetes.io/control-plane".to_owned(), String::new())],
            addresses: addresses.clone(),
            host,
            name: name.clone(),
            api_server: control_plane.advertise.to_string(),
            options: arguments.node.clone(),
        };
        let parts = node_parts::start(settings, stop.clone()).await?;
        let registered = control_plane.dialer.local.register(&name, parts.node.node_api_service());
        if let Err(failure) = serve_node_api(&control_plane.authority, &parts, &name, &addresses, stop.clone()).await {
            warn!(failure = format!("{failure:#}"), "this node's own API can be reached through this server only");
        }
        Some((parts, registered))
    };
    signals.end_pods_first(node.as_ref().map(|(parts, _)| parts.node.clone()));
    control_plane.finish().await;
    controllers.finished().await;
    if let Some((node, _registered)) = node {
        node.finish().await;
    }
    Ok(())
}

/// Serves the own API of the node beside the control plane where those of other nodes are, for monitoring that asks nodes directly.
async fn serve_node_api(authority: &ClusterAuthority, parts: &node_parts::NodeParts, node: &str, addresses: &[IpAddr], stop: CancellationToken) -> anyhow::Result<()> {
    let port = node_parts::NODE_API_PORT;
    let listener = TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on port {port}"))?;
    let (own, user, names) = (authority.clone(), format!("system:node:{node}"), crate::join::serving_names(node, addresses));
    let certificate = Renewed::new(move |now| own.ensure_server("node-serving", &user, &names, now), Timestamp::now())?;
    let tls = pki::tls::server_config(certificate.certificate(), std::slice::from_ref(authority.certificate()))?;
    tokio::spawn(certificate.keep(stop));
    tokio::spawn(parts.serve_api(listener, tls));
    Ok(())
}

/// Makes directories that only root may enter.
pub fn make_directories<const N: usize>(directories: [&std::path::PathBuf; N]) -> anyhow::Result<()> {
    for directory in directories {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    Ok(())
}

/// The machine's name, as a Node's name may be.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String = name.chars().map(|character| if character.is_ascii_alphanumeric() || matches!(character, '-' | '.') { character } else { '-' }).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}
