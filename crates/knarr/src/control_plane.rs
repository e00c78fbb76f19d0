//! The control plane of one server: store, certificates, API server, and the parts that are clients of it in process.

use std::{net::{IpAddr, SocketAddr}, os::unix::fs::MetadataExt, path::{Path, PathBuf}, sync::Arc, time::Duration};

use anyhow::Context;
use apiserver::{ApiServer, ClusterFacts, core::ServiceAccountTokens, setup};
use client::Identity;
use dialer::{ClusterDialer, DirectDialer, LocalNodes, TunnelRegistry};
use jiff::Timestamp;
use pki::{AlternativeNames, ClusterAuthority, Kubeconfig};
use store_embedded::EmbeddedStore;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{cli::ServerArgs, encryption_configuration, renewal::Renewed};

/// How long events live. Source: upstream's `--event-ttl`.
const EVENT_LIFETIME: Duration = Duration::from_secs(3600);

/// Ports NodePort Services may have. Source: upstream's `--service-node-port-range`.
const NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// A running control plane.
pub struct ControlPlane {
    /// The API server, for clients in process.
    pub server: ApiServer,
    /// The cluster's authority.
    pub authority: ClusterAuthority,
    /// Nodes in this process and agents' tunnels.
    pub dialer: ClusterDialer,
    /// Where others reach the API.
    pub advertise: SocketAddr,
    /// What parts of this process hold alike.
    pub pool: client::Pool,
    /// What the parts of this process ask of the API.
    requests: client::RequestMetrics,
    store: Arc<EmbeddedStore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The names a server's certificate must carry.
fn server_names(arguments: &ServerArgs, advertise: IpAddr, node_ips: &[IpAddr]) -> AlternativeNames {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), advertise.to_string()];
    for part in ["kubernetes", "kubernetes.default", "kubernetes.default.svc"] {
        hosts.push(part.to_owned());
    }
    hosts.push(format!("kubernetes.default.svc.{}", arguments.cluster_domain));
    hosts.extend(arguments.service_cidr.split(',').filter_map(apiserver::effects::service::first_address).map(|address| address.to_string()));
    hosts.extend(node_ips.iter().map(ToString::to_string));
    hosts.extend(arguments.tls_san.iter().cloned());
    AlternativeNames::from_hosts(hosts)
}

/// Makes the token the administrator asked for, where it is not there yet.
async fn ensure_token(server: &ApiServer, token: Option<&str>) -> anyhow::Result<()> {
    let Some(token) = token else { return Ok(()) };
    let (id, secret) = token.split_once('.').context("--token must look like ID.SECRET, 6 and 16 lower-case letters or digits")?;
    let client = client::in_process(server.clone(), Identity::user("system:admin", &["system:masters"]));
    let secrets: client::Api<api::core::v1::Secret> = client::Api::namespaced(client, "kube-system");
    match secrets.create(&client::PostParams::default(), &crate::token::secret(id, secret, None, "given on the command line")).await {
        Ok(_) => Ok(()),
        Err(error) if client::is_already_exists(&error) => Ok(()),
        Err(error) => Err(error).context("the token could not be made"),
    }
}

/// By which other API servers know that it is this one that tells them who asks.
pub(crate) fn front_proxy_certificate(authority: ClusterAuthority) -> impl Fn(Timestamp) -> Result<pki::Credential, pki::PkiError> {
    let subject = pki::Subject::new(apiserver::aggregation::trust::FRONT_PROXY_NAME, std::iter::empty::<String>());
    move |now| authority.ensure_client("client", &subject, now)
}

/// Writes a kubeconfig with a certificate that is issued for it, at every call.
pub(crate) fn administrators_kubeconfig(authority: ClusterAuthority, file: PathBuf, name: String, server: String) -> impl Fn(Timestamp) -> Result<pki::Credential, pki::PkiError> {
    move |now| {
        let credential = authority.issue_admin(now)?;
        let kubeconfig = Kubeconfig {
            name: name.clone(),
            server: server.clone(),
            authority_pem: authority.certificate_pem().to_owned(),
            user: pki::kubeconfig::KubeconfigUser::Certificate(credential.clone()),
        };
        pki::private_file::write(&file, kubeconfig.to_yaml().as_bytes())?;
        Ok(credential)
    }
}

impl ControlPlane {
    /// Opens the store, makes certificates, and answers requests. Returns when the API is ready.
    pub async fn start(arguments: &ServerArgs, node_ips: &[IpAddr], stop: CancellationToken) -> anyhow::Result<Self> {
        let data = &arguments.data_dir;
        if arguments.datastore_endpoint.is_some() {
            anyhow::bail!("--datastore-endpoint is reserved: an etcd datastore cannot be used yet; leave it out to use the embedded one");
        }
        let address = SocketAddr::new(arguments.bind, arguments.port);
        // Before anything else, since a port in use is the most likely trouble.
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address}: is another server running there? Choose another port with --port, or another address with --bind")
        })?;
        let admission_settings = arguments.admission_control_config_file.as_deref().map(apiserver::admission::configuration::Settings::read).transpose()?.unwrap_or_default();
        let store_directory = data.join("store");
        let encryption = arguments.encryption_provider_config.as_deref().map(encryption_configuration::read).transpose()?.unwrap_or_default();
        if let Err(error) = encryption_configuration::check(&encryption.services()).await {
            warn!(error, "starting without a key management service that is well: nothing is written under its keys until it is");
        }
        let store_options = store_embedded::Options { encryption_rules: encryption.rules().into(), ..store_embedded::Options::default() };
        let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&store_directory, store_options))
            .await
            .context("the store could not be opened")??;
        let now = Timestamp::now();
        let advertise = arguments.advertise_address.or_else(|| node_ips.first().copied()).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let authority = ClusterAuthority::open_or_create(&data.join("pki"), now)?;
        let (own, names) = (authority.clone(), server_names(arguments, advertise, node_ips));
        let serving_certificate = Renewed::new(move |now| own.ensure_server("server", "kube-apiserver", &names, now), now)?;
        let tls = pki::tls::server_config(serving_certificate.certificate(), std::slice::from_ref(authority.certificate()))?;
        let issuer = format!("https://kubernetes.default.svc.{}", arguments.cluster_domain);
        let signer = authority.token_signer(&issuer)?;
        let verifier = Arc::new(pki::TokenVerifier::new([issuer.clone()], [signer.public_key()]));
        let resolve: Arc<std::sync::OnceLock<Box<dyn Fn(&str) -> Option<SocketAddr> + Send + Sync>>> = Arc::default();
        let resolver = resolve.clone();
        let (own, subject) = (authority.clone(), pki::Subject::new(crate::node_parts::API_SERVER_CLIENT, ["system:masters"]));
        let node_client = Renewed::new(move |now| own.ensure_client("node-client", &subject, now), now)?;
        let node_tls = pki::tls::client_config(std::slice::from_ref(authority.certificate()), Some(node_client.certificate()))?;
        let direct = DirectDialer::new(move |node| resolver.get().and_then(|resolve| resolve(node)), Arc::new(node_tls));
        let dialer = ClusterDialer { local: LocalNodes::default(), tunnels: TunnelRegistry::default(), direct: Some(direct) };
        let advertise = SocketAddr::new(advertise, arguments.port);
        let facts = ClusterFacts {
            service_cidrs: arguments.service_cidr.split(',').map(str::to_owned).collect(),
            node_ports: NODE_PORTS,
            cluster_domain: arguments.cluster_domain.clone(),
            audiences: vec![issuer.clone()],
            issuer,
            extend_token_expiration: arguments.service_account_extend_token_expiration,
            event_lifetime: EVENT_LIFETIME,
            advertise: Some(advertise),
            own_node: (!arguments.disable_agent).then(|| arguments.node_name.clone().unwrap_or_else(crate::server::host_name)),
        };
        // An authority of its own: nobody whose certificate the cluster's authority signed may speak for others.
        let proxy_authority = ClusterAuthority::open_or_create(&data.join("pki").join("front-proxy"), now)?;
        let authority_pem = proxy_authority.certificate_pem().to_owned();
        let proxy_client = Renewed::new(front_proxy_certificate(proxy_authority), now)?;
        let front_proxy = apiserver::aggregation::FrontProxy {
            certificate: proxy_client.certificate(),
            authority_pem,
            client_authority_pem: authority.certificate_pem().to_owned(),
        };
        let kept_in = data.join("store");
        let server = setup::open(setup::Parts {
            store: store.clone(),
            facts,
            tokens: Some(ServiceAccountTokens { signer, verifier }),
            dialer: Arc::new(dialer.clone()),
            tunnels: Some(dialer.tunnels.clone()),
            front_proxy: Some(front_proxy),
            runtime_config: arguments.runtime_config.clone(),
            admission: admission_settings,
            clock: setup::system_clock(),
        })
        .await?;
        server.core().metrics.pages.add("/metrics", move || store_size(&kept_in));
        server.core().metrics.pages.add("/metrics", metrics::process::text);
        // Before anybody can show it.
        ensure_token(&server, arguments.token.as_deref()).await?;
        let pool = client::Pool::default();
        let requests = client::RequestMetrics::new(advertise.to_string());
        let mut registry = prometheus_client::registry::Registry::default();
        requests.register(&mut registry);
        server.core().metrics.pages.add("/metrics", move || metrics::text(&registry));
        let proxy = client::in_process(server.clone(), Identity::user("system:kube-proxy", &[])).counted_by(&requests);
        let informers = client::Informers::sharing(proxy, pool.clone(), stop.clone());
        // Made late, since nodes are found through the server that is made with the dialer.
        let _ = resolve.set(Box::new(crate::agent::resolver(&informers)));
        let tasks = TaskTracker::new();
        let reloads = encryption_configuration::Reloads::new(&crate::server::host_name());
        let file = arguments.encryption_provider_config.clone().filter(|_| arguments.encryption_provider_config_automatic_reload);
        let services = encryption.services();
        if file.is_some() || !services.is_empty() {
            let services = Arc::new(parking_lot::RwLock::new(services));
            let asked = services.clone();
            let run = move || -> futures::future::BoxFuture<'static, Result<(), String>> {
                let services = asked.read().clone();
                Box::pin(async move { encryption_configuration::check(&services).await })
            };
            server.core().checks.lock().push(apiserver::health::Check { name: encryption_configuration::HEALTH_CHECK, run: Arc::new(run) });
            if file.is_some() {
                let counted = reloads.clone();
                server.core().metrics.pages.add("/metrics", move || counted.text());
            }
            let sealing = store.clone();
            let following = encryption_configuration::Following { known: encryption, file, reloads, services };
            tasks.spawn(following.run(move |rules| sealing.replace_encryption_rules(rules), stop.clone()));
        }
        tasks.spawn(serving_certificate.keep(stop.clone()));
        tasks.spawn(node_client.keep(stop.clone()));
        tasks.spawn(proxy_client.keep(stop.clone()));
        let serving = server.clone().serve(listener, tls, stop.clone());
        tasks.spawn(async move {
            if let Err(failure) = serving.await {
                error!(%failure, "the API is not served any more");
            }
        });
        info!(%address, "the API is ready");
        Ok(Self { server, authority, dialer, advertise, pool, requests, store, tasks, stop })
    }

    /// Writes the administrator's kubeconfig, and writes it again, with another certificate, before the certificate in it ends.
    pub fn write_kubeconfig(&self, path: &Path, name: &str) -> anyhow::Result<()> {
        let server = format!("https://{}", SocketAddr::new(self.reachable(), self.advertise.port()));
        let write = administrators_kubeconfig(self.authority.clone(), path.to_owned(), name.to_owned(), server);
        let renewed = Renewed::new(write, Timestamp::now()).with_context(|| format!("cannot write the kubeconfig {}", path.display()))?;
        self.tasks.spawn(renewed.keep(self.stop.clone()));
        Ok(())
    }

    fn reachable(&self) -> IpAddr {
        self.advertise.ip()
    }

    /// A client in process.
    pub fn client(&self, identity: Identity) -> client::Client {
        client::in_process(self.server.clone(), identity).counted_by(&self.requests)
    }

    /// Starts the controllers and the scheduler, each with an identity of its own.
    pub fn start_controllers(&self, arguments: &ServerArgs) -> anyhow::Result<controller::Runner> {
        let informers = client::Informers::sharing(self.client(Identity::user("system:kube-controller-manager", &[])), self.pool.clone(), self.stop.clone());
        let informers = informers.shortened(controllers::shorten_pod);
        let (server, requests) = (self.server.clone(), self.requests.clone());
        let context = controllers::ControllerContext {
            informers,
            client_for: Arc::new(move |name| client::in_process(server.clone(), Identity::service_account("kube-system", name)).counted_by(&requests)),
            clock: client::SystemClock::shared(),
        };
        let settings = controllers::Settings {
            root_ca: self.authority.certificate_pem().to_owned(),
            cluster_trust_bundles: arguments.runtime_config.serves_resource("certificates.k8s.io", "v1beta1", "clustertrustbundles"),
            pod_certificate_requests: arguments.runtime_config.serves_resource("certificates.k8s.io", "v1beta1", "podcertificaterequests"),
            authority: Some(Arc::new(self.authority.clone())),
            cluster_cidrs: arguments.cluster_cidr.split(',').map(str::to_owned).collect(),
            node_monitor_grace_period: Duration::from_secs(arguments.node_monitor_grace_period),
            signing_duration: Duration::from_secs(arguments.cluster_signing_duration),
        };
        let runner = controllers::start(&context, &settings);
        let pages = &self.server.core().metrics.pages;
        let counted = runner.metrics().clone();
        pages.add("/metrics", move || counted.text());
        let client = self.client(Identity::user("system:kube-scheduler", &[]));
        let informers = client::Informers::sharing(client.clone(), self.pool.clone(), self.stop.clone());
        let options = scheduler_options(arguments.scheduler_config.as_deref())?;
        // Extenders are shown whole pods.
        let informers = if options.extenders.is_empty() { informers.shortened(controllers::shorten_pod) } else { informers };
        let counted = scheduler::metrics::Metrics::default();
        let pods = informers.of();
        let scheduler = scheduler::Scheduler::new(options, client, informers, client::SystemClock::shared(), counted.clone());
        pages.add("/metrics", move || counted.text());
        pages.add("/metrics/resources", move || scheduler::pod_resources::text(&pods));
        self.tasks.spawn(scheduler.run(self.stop.clone()));
        Ok(runner)
    }

    /// Runs until stopped, then closes the store.
    pub async fn finish(self) {
        self.stop.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
    }
}

/// How much of the disk the store has, as a metric. The label is what upstream calls the first of its stores.
fn store_size(directory: &Path) -> String {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
    let size: u64 = files.filter(std::fs::Metadata::is_file).map(|file| file.blocks() * 512).sum();
    let name = "apiserver_storage_size_bytes";
    format!("# HELP {name} [STABLE] What the store takes of the disk, in bytes\n# TYPE {name} gauge\n{name}{{storage_cluster_id=\"etcd-0\"}} {size}\n")
}

/// What the scheduler is told by a file with a `KubeSchedulerConfiguration`.
fn scheduler_options(path: Option<&Path>) -> anyhow::Result<scheduler::SchedulerOptions> {
    let Some(path) = path else { return Ok(scheduler::SchedulerOptions::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value = serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", path.display()))?;
    scheduler::SchedulerOptions::from_json(value).with_context(|| format!("cannot use {}", path.display()))
}
