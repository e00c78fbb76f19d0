//! [`RoutedPodNetwork`]: the state of one node's pod network, and the order in which things are done to the kernel.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use netlink::{ConntrackSocket, IpRange, NetlinkError, Route, RouteSocket};
use nftables::{KernelRuleset, NftablesError, Ruleset, TableWatch, Transaction};
use parking_lot::Mutex;
use pod_sandbox_network::{AttachRequest, PodNetworkError, PodSandboxNetwork, Protocol};
use tokio_util::sync::CancellationToken;

use crate::{
    ROUTE_PROTOCOL,
    address_pool::AddressPool,
    attachment::{self, LinkError},
    host_rules,
    kernel_parameters::{KernelParameters, ParameterError},
    names::Names,
    peers::{self, NodeFacts, Paths, Peers, Reach},
    record::{Attachment, Records},
    tunnel,
};

/// An address outside every private range, to find out by which link packets leave (TEST-NET-1 of RFC 5737).
const SOMEWHERE_ELSE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 255));
const DEFAULT_MTU: u32 = 1500;

/// What a node's pod network is told at start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the cluster; with the node's name it sets our links and tables apart from others in the same namespace.
    pub cluster: String,
    /// Name of the node.
    pub node_name: String,
    /// A directory on tmpfs for records.
    pub run_directory: PathBuf,
    /// The cluster's pod ranges: traffic to them keeps the pod's address. Where empty, the ranges of the nodes are used.
    pub cluster_ranges: Vec<IpRange>,
    /// Largest packet of pods, in bytes; that of the link with the default route where none.
    pub mtu: Option<u32>,
    /// UDP port of the tunnels; the same on all nodes.
    pub vxlan_port: u16,
}

impl Options {
    /// Options with the usual port and the MTU of the default route.
    pub fn new(cluster: impl Into<String>, node_name: impl Into<String>, run_directory: impl Into<PathBuf>) -> Self {
        Self {
            cluster: cluster.into(),
            node_name: node_name.into(),
            run_directory: run_directory.into(),
            cluster_ranges: Vec::new(),
            mtu: None,
            vxlan_port: 4789,
        }
    }
}

/// Why the pod network could not be opened, changed or taken down.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The records could not be read or written.
    #[error("could not use the pod network's records in {path}")]
    Records {
        /// Their directory.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A request over netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The rules.
    #[error("could not set up the pod network's rules")]
    Rules(#[from] NftablesError),
    /// A kernel parameter.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// A link.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The pod network of one node. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct RoutedPodNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    names: Names,
    route: RouteSocket,
    rules: Box<dyn Ruleset>,
    records: Records,
    state: Mutex<State>,
    /// Told when the network may have become ready, or ceased to be.
    changed: Arc<tokio::sync::Notify>,
    /// One sandbox is connected or disconnected at a time: the kernel serialises changes of links anyway.
    links: Mutex<()>,
}

struct State {
    ranges: Vec<IpRange>,
    pools: Vec<AddressPool>,
    attachments: HashMap<String, Attachment>,
    parameters: KernelParameters,
    peers: Peers,
    installed: Paths,
    inside: BTreeSet<IpRange>,
    tunnel: Option<u32>,
    /// Why the routes to other nodes are not as they should be.
    trouble: Option<String>,
}

impl RoutedPodNetwork {
    /// Opens the pod network of this node in the calling thread's network namespace, with what is recorded from before.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let directory = options.run_directory.join("pod-network");
        let failed = |source| OpenError::Records { path: directory.display().to_string(), source };
        let (records, attachments) = Records::open(&directory.join("attachments")).map_err(failed)?;
        let names = Names::new(&options.cluster, &options.node_name);
        let route = RouteSocket::open()?;
        let tunnel = route.link(&names.tunnel)?.map(|link| link.index);
        let state = State {
            ranges: Vec::new(),
            pools: Vec::new(),
            attachments,
            parameters: KernelParameters::open(&directory.join("kernel-parameters.json")),
            peers: Peers::default(),
            installed: Paths::new(),
            inside: options.cluster_ranges.iter().copied().collect(),
            tunnel,
            trouble: None,
        };
        let shared = Shared {
            names,
            route,
            rules: Box::new(KernelRuleset::open()?),
            records,
            state: Mutex::new(state),
            changed: Arc::default(),
            links: Mutex::new(()),
            options,
        };
        let network = Self { shared: Arc::new(shared) };
        // As before the restart, until the Node says otherwise: so the node is ready at once.
        let recorded: Vec<IpRange> = std::fs::read(network.shared.ranges_record())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        if !recorded.is_empty() {
            network.shared.set_ranges(&recorded)?;
        }
        Ok(network)
    }

    /// Tells one waiter whenever the network may have become ready, or ceased to be.
    pub fn changed(&self) -> Arc<tokio::sync::Notify> {
        self.shared.changed.clone()
    }

    /// Sets the pod ranges of this node (`Node.spec.podCIDRs`), IPv4 first. From then on pods can be connected.
    pub fn set_ranges(&self, ranges: &[IpRange]) -> Result<(), OpenError> {
        self.shared.set_ranges(ranges)
    }

    /// Takes in a node as it is now: this one's pod ranges, or the way to another one's pods.
    pub fn apply_node(&self, facts: NodeFacts) -> Result<(), OpenError> {
        let ranges = facts.ranges.clone();
        let own = facts.name == self.shared.options.node_name;
        self.shared.state.lock().peers.apply(facts);
        if own && !ranges.is_empty() {
            self.shared.set_ranges(&ranges)?;
        }
        self.shared.update_paths()
    }

    /// Forgets a node, and the way to its pods.
    pub fn delete_node(&self, name: &str) -> Result<(), OpenError> {
        self.shared.state.lock().peers.delete(name);
        self.shared.update_paths()
    }

    /// Follows the nodes of the cluster until it is stopped.
    pub async fn run(&self, informers: &client::Informers, stop: CancellationToken) {
        let nodes = informers.of::<Node>();
        let mut changes = nodes.subscribe();
        let all_known = nodes.has_synced();
        tokio::pin!(all_known);
        let mut swept = false;
        let mut watch = TableWatch::open(self.shared.names.table.clone())
            .inspect_err(|error| tracing::warn!(%error, "should somebody flush nftables, pods lose the way outside"))
            .ok();
        loop {
            let mut lost = false;
            let first = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = table_lost(&mut watch) => {
                    tracing::warn!("somebody took the pod network's rules away; making them anew");
                    lost = true;
                    None
                }
                () = &mut all_known, if !swept => None,
                change = changes.recv() => match change {
                    Some(change) => Some(change),
                    None => return,
                },
            };
            if first.is_none() && !lost {
                swept = true;
            }
            // Whatever else has arrived is taken in with it, so that a new listing leads to one update.
            let mut ranges = None;
            let mut next = first;
            while let Some(change) = next.take().or_else(|| changes.try_recv().ok()) {
                let mut state = self.shared.state.lock();
                match &change.new {
                    Some(node) => {
                        let facts = NodeFacts::of(node);
                        if facts.name == self.shared.options.node_name && !facts.ranges.is_empty() {
                            ranges = Some(facts.ranges.clone());
                        }
                        state.peers.apply(facts);
                    }
                    None => state.peers.delete(&change.key.name),
                }
            }
            let (shared, sweep) = (self.shared.clone(), swept);
            // The kernel may take milliseconds for it.
            let done = tokio::task::spawn_blocking(move || {
                if let Some(ranges) = ranges {
                    shared.set_ranges(&ranges)?;
                }
                if lost {
                    shared.restore_rules()?;
                }
                if sweep {
                    shared.sweep_routes()?;
                }
                shared.update_paths()
            });
            let done = done.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            if let Err(error) = &done {
                tracing::error!(error = error_chain(error), "the routes to other nodes are not complete");
            }
            self.shared.state.lock().trouble = done.err().map(|error| error_chain(&error));
            self.shared.changed.notify_one();
        }
    }

    /// Takes away everything this node's pod network has made in the kernel, and its records.
    pub fn teardown(&self) -> Result<(), OpenError> {
        let shared = &self.shared;
        let _links = shared.links.lock();
        let mut state = shared.state.lock();
        for route in shared.own_routes(&state)? {
            shared.route.delete_route(&route)?;
        }
        for link in shared.route.links()? {
            if link.name.starts_with(&shared.names.link_prefix) {
                shared.route.delete_link(&link.name)?;
            }
        }
        shared.rules.commit(&Transaction::removing(&shared.names.table))?;
        state.parameters.restore()?;
        for (sandbox, attachment) in std::mem::take(&mut state.attachments) {
            shared.remove_record(&sandbox)?;
            state.give_back(&attachment.addresses);
        }
        state.installed.clear();
        state.ranges.clear();
        state.pools.clear();
        state.tunnel = None;
        let directory = shared.options.run_directory.join("pod-network");
        match std::fs::remove_dir_all(&directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(OpenError::Records { path: directory.display().to_string(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Waits until the table is gone; none, and no more watching, where that cannot be heard.
async fn table_lost(watch: &mut Option<TableWatch>) -> Option<()> {
    let heard = watch.as_mut()?.lost().await;
    if let Err(error) = &heard {
        tracing::warn!(%error, "should somebody flush nftables, pods lose the way outside");
        *watch = None;
    }
    heard.ok()
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl State {
    fn give_back(&mut self, addresses: &[IpAddr]) {
        for pool in &mut self.pools {
            addresses.iter().for_each(|address| pool.give_back(*address));
        }
    }

    fn inside(&self) -> Vec<IpRange> {
        self.inside.iter().copied().collect()
    }
}

impl Shared {
    fn set_ranges(&self, ranges: &[IpRange]) -> Result<(), OpenError> {
        let mut state = self.state.lock();
        if state.ranges == ranges {
            return Ok(());
        }
        if ranges.iter().any(IpRange::is_ipv4) {
            state.parameters.set("net/ipv4/ip_forward", "1")?;
        }
        if ranges.iter().any(|range| !range.is_ipv4()) {
            self.forward_ipv6(&mut state.parameters)?;
        }
        let old: Vec<IpRange> = state.ranges.iter().copied().filter(|range| !ranges.contains(range)).collect();
        for range in old {
            self.route.delete_route(&Route::unreachable(range, ROUTE_PROTOCOL))?;
        }
        for range in ranges {
            // Packets to addresses that no pod has must not leave by the default route and come back.
            self.route.replace_route(&Route::unreachable(*range, ROUTE_PROTOCOL))?;
        }
        if self.options.cluster_ranges.is_empty() {
            state.inside.extend(ranges);
        }
        let table = host_rules::whole_table(
            &self.names.table,
            ranges,
            &state.inside(),
            state.attachments.values(),
        );
        self.rules.commit(&table)?;
        state.pools = ranges.iter().map(|range| AddressPool::new(*range)).collect();
        let State { pools, attachments, .. } = &mut *state;
        for address in attachments.values().flat_map(|attachment| &attachment.addresses) {
            pools.iter_mut().for_each(|pool| pool.mark_used(*address));
        }
        state.ranges = ranges.to_vec();
        let path = self.ranges_record();
        let written = serde_json::to_vec(ranges).map_err(io::Error::other).and_then(|bytes| std::fs::write(&path, bytes));
        written.map_err(|source| OpenError::Records { path: path.display().to_string(), source })
    }

    fn restore_rules(&self) -> Result<(), OpenError> {
        let state = self.state.lock();
        if !state.ranges.is_empty() {
            let attachments = state.attachments.values();
            let table = host_rules::whole_table(&self.names.table, &state.ranges, &state.inside(), attachments);
            self.rules.commit(&table)?;
        }
        Ok(())
    }

    fn ranges_record(&self) -> PathBuf {
        self.options.run_directory.join("pod-network/ranges.json")
    }

    /// A host that forwards IPv6 stops believing router advertisements unless it is told to go on.
    fn forward_ipv6(&self, parameters: &mut KernelParameters) -> Result<(), OpenError> {
        for link in self.route.links()? {
            let name = format!("net/ipv6/conf/{}/accept_ra", link.name);
            if netlink::read_sysctl(&name).is_ok_and(|value| value == "1") {
                parameters.set(&name, "2")?;
            }
        }
        parameters.set("net/ipv6/conf/all/forwarding", "1")?;
        Ok(())
    }

    /// How an address is reached. A node on one of our links is next to us only where it also knows us by the address that
    /// we have there: otherwise one side would route and the other tunnel. `own` holds the addresses this node is known by.
    fn reach(&self, address: IpAddr, own: &[IpAddr]) -> Reach {
        match self.route.next_hop(address) {
            Ok(Some(hop)) if hop.local => Reach::Own,
            Ok(Some(hop)) if hop.gateway.is_none() => {
                if own.is_empty() || hop.source.is_none_or(|source| own.contains(&source)) { Reach::OnLink(hop.link) } else { Reach::Routed }
            }
            Ok(Some(_)) => Reach::Routed,
            Ok(None) => Reach::Nowhere,
            Err(error) => {
                tracing::warn!(%address, %error, "could not find out how a node is reached");
                Reach::Nowhere
            }
        }
    }

    /// Brings the routes to other nodes, and the ranges that are not masqueraded, to where the nodes say.
    fn update_paths(&self) -> Result<(), OpenError> {
        let mut state = self.state.lock();
        let own = &self.options.node_name;
        let own_addresses = state.peers.node(own).map(|node| node.addresses.clone()).unwrap_or_default();
        let wanted = state.peers.paths(own, &self.names, &|address| self.reach(address, &own_addresses));
        let peers::Difference { gone, new } = peers::difference(&state.installed, &wanted);
        for (range, path) in gone {
            let end_is_used = match path {
                peers::Path::Tunnel { hardware: end, remote: at, .. } => wanted.values().any(|other| {
                    matches!(other, peers::Path::Tunnel { hardware, remote, .. } if *hardware == end && *remote == at)
                }),
                peers::Path::Direct { .. } => false,
            };
            tunnel::remove_path(&self.route, range, path, state.tunnel, end_is_used)?;
            state.installed.remove(&range);
        }
        if wanted.values().any(|path| matches!(path, peers::Path::Tunnel { .. })) && !state.ranges.is_empty() {
            let local = state.peers.node(own).and_then(|node| node.addresses.first().copied());
            let settings = tunnel::Settings {
                names: &self.names,
                node: own,
                port: self.options.vxlan_port,
                underlay_mtu: self.underlay_mtu(),
                local,
                ranges: &state.ranges,
            };
            state.tunnel = Some(tunnel::ensure(&self.route, &settings)?);
        }
        for (range, path) in new {
            if matches!(path, peers::Path::Tunnel { .. }) && state.tunnel.is_none() {
                // Without a range of our own there is no end for the tunnel; `set_ranges` comes first.
                continue;
            }
            tunnel::add_path(&self.route, range, path, state.tunnel)?;
            state.installed.insert(range, path);
        }
        let mut inside: BTreeSet<IpRange> = self.options.cluster_ranges.iter().copied().collect();
        if inside.is_empty() {
            inside = state.peers.ranges();
            inside.extend(state.ranges.iter().copied());
        }
        inside.extend(state.peers.neighbours(own, &|address| self.reach(address, &own_addresses)).into_iter().map(IpRange::host));
        if inside != state.inside && !state.ranges.is_empty() {
            let ranges: Vec<IpRange> = inside.iter().copied().collect();
            self.rules.commit(&host_rules::replace_inside(&self.names.table, &ranges))?;
            state.inside = inside;
        }
        Ok(())
    }

    /// Routes to other nodes that are in the kernel: ours by mark, and within the cluster's ranges, so that another
    /// cluster in the same namespace keeps its own.
    fn own_routes(&self, state: &State) -> Result<Vec<Route>, NetlinkError> {
        let inside = |range: IpRange| {
            let ranges = self.options.cluster_ranges.iter().chain(&state.ranges);
            state.installed.contains_key(&range)
                || ranges.clone().any(|outer| outer.prefix() <= range.prefix() && outer.contains(range.base()))
        };
        Ok(self.route.routes(ROUTE_PROTOCOL)?.into_iter().filter(|route| inside(route.destination)).collect())
    }

    /// Deletes routes from before a restart that lead to nodes which are gone.
    fn sweep_routes(&self) -> Result<(), OpenError> {
        // A pod that is being connected has its route before it is among the attachments.
        let _links = self.links.lock();
        let state = self.state.lock();
        let own_addresses = state.peers.node(&self.options.node_name).map(|node| node.addresses.clone()).unwrap_or_default();
        let wanted = state.peers.paths(&self.options.node_name, &self.names, &|address| self.reach(address, &own_addresses));
        let pods: BTreeSet<IpAddr> =
            state.attachments.values().flat_map(|attachment| attachment.addresses.iter().copied()).collect();
        for route in self.own_routes(&state)? {
            let of_pod = route.destination == IpRange::host(route.destination.base())
                && pods.contains(&route.destination.base());
            if !of_pod && !state.ranges.contains(&route.destination) && !wanted.contains_key(&route.destination) {
                self.route.delete_route(&route)?;
            }
        }
        Ok(())
    }

    fn underlay_mtu(&self) -> u32 {
        let leaving = self.route.next_hop(SOMEWHERE_ELSE).ok().flatten();
        let link = leaving.and_then(|hop| self.route.link_at(hop.link).ok().flatten());
        link.map_or(DEFAULT_MTU, |link| link.mtu)
    }

    fn remove_record(&self, sandbox: &str) -> Result<(), OpenError> {
        self.records.remove(sandbox).map_err(|source| OpenError::Records {
            path: self.options.run_directory.display().to_string(),
            source,
        })
    }

    fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, PodNetworkError> {
        let _links = self.links.lock();
        let failed = |doing: &'static str, error: &dyn std::error::Error| PodNetworkError::Kernel {
            pod: format!("{}/{}", request.pod_namespace, request.pod_name),
            doing,
            reason: error_chain(error),
        };
        let (attachment, known) = self.reserve(request)?;
        let mtu = self.options.mtu.unwrap_or_else(|| self.underlay_mtu());
        let link = self.names.host_link(&request.sandbox);
        let connected = self
            .records
            .write(&attachment)
            .map_err(|error| failed("record the addresses", &error))
            .and_then(|()| {
                attachment::connect(&self.route, &link, &attachment, mtu)
                    .map_err(|error| failed("set up the link", &error))
            })
            .and_then(|()| {
                // What is attached already has its host ports open: they are opened last.
                if known || request.host_ports.is_empty() {
                    return Ok(());
                }
                let rules = host_rules::open_host_ports(&self.names.table, &attachment);
                self.rules.commit(&rules).map_err(|error| failed("open the host ports", &error))?;
                self.forget_flows(&attachment);
                Ok(())
            });
        match connected {
            Ok(()) => {
                let addresses = attachment.addresses.clone();
                self.state.lock().attachments.insert(request.sandbox.clone(), attachment);
                Ok(addresses)
            }
            Err(error) => {
                if !known {
                    let undone = self.route.delete_link(&link).is_ok() && self.records.remove(&request.sandbox).is_ok();
                    if undone {
                        self.state.lock().give_back(&attachment.addresses);
                    }
                }
                Err(error)
            }
        }
    }

    /// The attachment there is, or a new one with addresses of its own, one from each range.
    fn reserve(&self, request: &AttachRequest) -> Result<(Attachment, bool), PodNetworkError> {
        let mut state = self.state.lock();
        if state.pools.is_empty() {
            return Err(PodNetworkError::NoRange);
        }
        if let Some(known) = state.attachments.get(&request.sandbox) {
            let request = AttachRequest { network_namespace: request.network_namespace.clone(), ..known.request.clone() };
            return Ok((Attachment { request, addresses: known.addresses.clone() }, true));
        }
        let mut addresses = Vec::new();
        let mut full = None;
        for pool in &mut state.pools {
            match pool.take() {
                Some(address) => addresses.push(address),
                None => full = Some(pool.range().to_string()),
            }
        }
        if let Some(range) = full {
            state.give_back(&addresses);
            return Err(PodNetworkError::Exhausted { range });
        }
        Ok((Attachment { request: request.clone(), addresses }, false))
    }

    fn detach(&self, sandbox: &str) -> Result<(), PodNetworkError> {
        let _links = self.links.lock();
        let attachment = self.state.lock().attachments.get(sandbox).cloned();
        let pod = attachment.as_ref().map_or_else(
            || sandbox.to_owned(),
            |attachment| format!("{}/{}", attachment.request.pod_namespace, attachment.request.pod_name),
        );
        let failed = |doing: &'static str, error: &dyn std::error::Error| PodNetworkError::Kernel {
            pod: pod.clone(),
            doing,
            reason: error_chain(error),
        };
        if let Some(attachment) = attachment.as_ref().filter(|attachment| !attachment.request.host_ports.is_empty()) {
            if let Err(error) = self.rules.commit(&host_rules::close_host_ports(&self.names.table, attachment)) {
                // The table may have been made anew by somebody; then all of it is put right.
                tracing::warn!(error = error_chain(&error), pod, "host ports were not as expected");
                let state = self.state.lock();
                let others = state.attachments.values().filter(|other| other.request.sandbox != sandbox);
                let table = host_rules::whole_table(&self.names.table, &state.ranges, &state.inside(), others);
                self.rules.commit(&table).map_err(|error| failed("close the host ports", &error))?;
            }
            self.forget_flows(attachment);
        }
        // The host's routes and neighbour entries go with the link, the pod's end too.
        self.route.delete_link(&self.names.host_link(sandbox)).map_err(|error| failed("delete the link", &error))?;
        self.records.remove(sandbox).map_err(|error| failed("remove the record", &error))?;
        if let Some(attachment) = attachment {
            let mut state = self.state.lock();
            state.attachments.remove(sandbox);
            state.give_back(&attachment.addresses);
        }
        Ok(())
    }

    /// UDP senders that keep their port would go on sending to where they did before the host ports of this sandbox were
    /// opened or closed: to nobody, or to a pod that is gone.
    fn forget_flows(&self, attachment: &Attachment) {
        let mut ports = attachment.request.host_ports.iter().filter(|port| port.protocol == Protocol::Udp).peekable();
        if ports.peek().is_none() {
            return;
        }
        let ports: Vec<u16> = ports.map(|port| port.host_port).collect();
        let forgotten = ConntrackSocket::open().and_then(|mut conntrack| {
            conntrack.forget(|flow| {
                flow.protocol == host_rules::protocol_number(Protocol::Udp)
                    && ports.contains(&flow.original_destination.port())
                    && (flow.reply_source == flow.original_destination
                        || attachment.addresses.contains(&flow.reply_source.ip()))
            })
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "could not forget the UDP flows to host ports");
        }
    }

    fn retain(&self, sandboxes: &[String]) -> Result<(), PodNetworkError> {
        let doomed: Vec<String> = {
            let state = self.state.lock();
            state.attachments.keys().filter(|sandbox| !sandboxes.contains(sandbox)).cloned().collect()
        };
        for sandbox in doomed {
            self.detach(&sandbox)?;
        }
        let kept: BTreeSet<String> = sandboxes.iter().map(|sandbox| self.names.host_link(sandbox)).collect();
        let failed = |error: NetlinkError| PodNetworkError::Kernel {
            pod: "(none)".to_owned(),
            doing: "delete a link without a record",
            reason: error_chain(&error),
        };
        for link in self.route.links().map_err(failed)? {
            let ours = link.name.starts_with(&self.names.link_prefix) && link.name != self.names.tunnel;
            if ours && !kept.contains(&link.name) {
                self.route.delete_link(&link.name).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Does work that may take milliseconds on a thread for that.
async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PodNetworkError> + Send + 'static,
) -> Result<T, PodNetworkError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(PodNetworkError::Kernel {
            pod: "(unknown)".to_owned(),
            doing: "run the change of the link",
            reason: error.to_string(),
        })
    })
}

#[async_trait]
impl PodSandboxNetwork for RoutedPodNetwork {
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, PodNetworkError> {
        let (shared, request) = (self.shared.clone(), request.clone());
        on_blocking_thread(move || shared.attach(&request)).await
    }

    async fn detach(&self, sandbox: &str) -> Result<(), PodNetworkError> {
        let (shared, sandbox) = (self.shared.clone(), sandbox.to_owned());
        on_blocking_thread(move || shared.detach(&sandbox)).await
    }

    async fn retain(&self, sandboxes: &[String]) -> Result<(), PodNetworkError> {
        let (shared, sandboxes) = (self.shared.clone(), sandboxes.to_vec());
        on_blocking_thread(move || shared.retain(&sandboxes)).await
    }

    fn ready(&self) -> Result<(), String> {
        let state = self.shared.state.lock();
        if state.ranges.is_empty() {
            return Err("this node has no pod address range yet (Node.spec.podCIDRs is empty)".to_owned());
        }
        state.trouble.clone().map_or(Ok(()), Err)
    }
}
