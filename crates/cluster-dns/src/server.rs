//! The sockets: UDP and TCP on the cluster's DNS addresses, which are put on the loopback link first.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use client::Informers;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use netlink::{AddressScope, IpRange, NetlinkError, RouteSocket};
use parking_lot::RwLock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    forward::{Forwarder, Outside, SocketsHere},
    names::{Found, Names, TTL_SECONDS},
    resolv_conf::ResolvConf,
    wire::{self, Code, Data, NoQuestion, Question, Record, Reply, kind},
};

const PORT: u16 = 53;
/// Connections at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 128;
/// How long a connection may be quiet. Source: RFC 7766, section 6.2.3, "of the order of a few seconds".
const QUIET_CONNECTION: Duration = Duration::from_secs(10);
/// How many names an ExternalName may lead through within the cluster.
const MOST_HOPS: usize = 8;

/// What a node's DNS server is told at start.
pub struct Options {
    /// The cluster's domain.
    pub domain: String,
    /// The cluster's DNS addresses.
    pub addresses: Vec<IpAddr>,
    /// Ranges of services and pods: their reverse names are answered here only.
    pub ranges: Vec<IpRange>,
    /// The file that names the servers for everything else.
    pub resolv_conf: PathBuf,
    /// Where sockets towards those come from.
    pub outside: Arc<dyn Outside>,
}

impl Options {
    /// The usual domain and servers, with sockets of the own namespace.
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Self {
            domain: "cluster.local".to_owned(),
            addresses,
            ranges: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            outside: Arc::new(SocketsHere),
        }
    }
}

/// Why the DNS server could not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address could not be put on the loopback link.
    #[error("could not put the cluster's DNS address on this node")]
    Address(#[from] NetlinkError),
    /// The port is taken or forbidden.
    #[error("could not listen for DNS questions on {address} ({protocol}); is another server using that address?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// UDP or TCP.
        protocol: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The DNS server of one node.
pub struct ClusterDns {
    shared: Arc<Shared>,
    sockets: Vec<(std::net::UdpSocket, std::net::TcpListener)>,
    /// Its own socket, since addresses are put on and taken off in the namespace that it was opened in.
    route: RouteSocket,
    addresses: Vec<IpAddr>,
}

struct Shared {
    names: RwLock<Names>,
    /// Whether everything that exists was read once. Before that, "no such name" would be a lie that others remember.
    complete: AtomicBool,
    forwarder: Forwarder,
}

impl ClusterDns {
    /// Puts the addresses on the loopback link of the calling thread's network namespace and opens the sockets.
    pub fn open(options: Options) -> Result<Self, DnsError> {
        let route = RouteSocket::open()?;
        let mut sockets = Vec::new();
        for address in &options.addresses {
            put_on_loopback(&route, *address)?;
            sockets.push(listen(SocketAddr::new(*address, PORT))?);
        }
        let servers = ResolvConf::new(options.resolv_conf, options.addresses.clone());
        let shared = Shared {
            names: RwLock::new(Names::new(&options.domain, options.addresses.clone(), options.ranges)),
            complete: AtomicBool::new(false),
            forwarder: Forwarder::new(options.outside, servers),
        };
        Ok(Self { shared: Arc::new(shared), sockets, route, addresses: options.addresses })
    }

    /// Changes the names by hand; [`Self::run`] does it from the cluster.
    pub fn change_names(&self, deed: impl FnOnce(&mut Names)) {
        deed(&mut self.shared.names.write());
        self.shared.complete.store(true, Ordering::Relaxed);
    }

    /// Answers questions, following the cluster, until it is stopped.
    pub async fn run(&self, informers: &Informers, stop: CancellationToken) -> io::Result<()> {
        let follow = self.follow(informers);
        tokio::select! {
            result = self.serve(stop) => result,
            () = follow => Ok(()),
        }
    }

    async fn follow(&self, informers: &Informers) {
        let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
        let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
        let synced = async {
            services.has_synced().await;
            slices.has_synced().await;
        };
        tokio::pin!(synced);
        let mut complete = false;
        loop {
            tokio::select! {
                // In this order everything that was read is taken in before it counts as complete.
                biased;
                Some(change) = service_changes.recv() => {
                    let mut names = self.shared.names.write();
                    match &change.new {
                        Some(service) => names.apply_service(service),
                        None => names.delete_service(&change.key),
                    }
                }
                Some(change) = slice_changes.recv() => {
                    let mut names = self.shared.names.write();
                    match &change.new {
                        Some(slice) => names.apply_slice(slice),
                        None => names.delete_slice(&change.key),
                    }
                }
                () = &mut synced, if !complete => {
                    complete = true;
                    // The last changes may have arrived together with the news that they were the last.
                    let mut names = self.shared.names.write();
                    while let Ok(change) = service_changes.try_recv() {
                        change.new.iter().for_each(|service| names.apply_service(service));
                    }
                    while let Ok(change) = slice_changes.try_recv() {
                        change.new.iter().for_each(|slice| names.apply_slice(slice));
                    }
                    self.shared.complete.store(true, Ordering::Relaxed);
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Answers questions until it is stopped.
    pub async fn serve(&self, stop: CancellationToken) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        for (udp, tcp) in &self.sockets {
            let udp = Arc::new(UdpSocket::from_std(udp.try_clone()?)?);
            let tcp = TcpListener::from_std(tcp.try_clone()?)?;
            tasks.spawn(serve_udp(self.shared.clone(), udp));
            tasks.spawn(serve_tcp(self.shared.clone(), tcp, connections.clone()));
        }
        let shared = self.shared.clone();
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            // The sockets' loops end only by a panic, which must not go unnoticed.
            Some(ended) = tasks.join_next() => match ended {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error)),
            },
            () = async {
                shared.forwarder.check_for_loop().await;
                std::future::pending::<()>().await;
            } => Ok(()),
        }
    }

    /// Takes the addresses off the loopback link.
    pub fn teardown(&self) -> Result<(), DnsError> {
        let Some(loopback) = self.route.link("lo")? else { return Ok(()) };
        for address in &self.addresses {
            self.route.delete_address(loopback.index, *address, IpRange::host(*address).prefix())?;
        }
        Ok(())
    }
}

/// With scope "host" it is never chosen as the source of other packets.
fn put_on_loopback(route: &RouteSocket, address: IpAddr) -> Result<(), NetlinkError> {
    if address.is_loopback() {
        return Ok(());
    }
    let Some(loopback) = route.link("lo")? else { return Ok(()) };
    route.set_up(loopback.index)?;
    route.add_address(loopback.index, address, IpRange::host(address).prefix(), AddressScope::Host)
}

fn listen(address: SocketAddr) -> Result<(std::net::UdpSocket, std::net::TcpListener), DnsError> {
    let failed = |protocol| move |source| DnsError::Listen { address, protocol, source };
    let udp = std::net::UdpSocket::bind(address).map_err(failed("UDP"))?;
    udp.set_nonblocking(true).map_err(failed("UDP"))?;
    let tcp = std::net::TcpListener::bind(address).map_err(failed("TCP"))?;
    tcp.set_nonblocking(true).map_err(failed("TCP"))?;
    Ok((udp, tcp))
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        // An error here is about an earlier answer (its asker is gone) and says nothing about this socket.
        let Ok((length, asker)) = socket.recv_from(&mut buffer).await else { continue };
        let bytes = buffer.get(..length).unwrap_or_default();
        match shared.answer_now(bytes, false) {
            Now::Answer(answer) => {
                let _ = socket.send_to(&answer, asker).await;
            }
            Now::Ignore => {}
            Now::Later(question) => {
                let (shared, socket, bytes) = (shared.clone(), socket.clone(), bytes.to_vec());
                tokio::spawn(async move {
                    let answer = shared.answer_later(&question, &bytes, false).await;
                    let _ = socket.send_to(&answer, asker).await;
                });
            }
        }
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener, connections: Arc<Semaphore>) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    // Whatever goes wrong on a connection ends it, and nobody else needs to know.
                    let _ = serve_connection(&shared, stream).await;
                    drop(permit);
                });
            }
            // Out of descriptors, most likely: the listener stays readable, so without a pause this would spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let receive = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await?;
            io::Result::Ok(bytes)
        };
        let bytes = timeout(QUIET_CONNECTION, receive).await??;
        let answer = match shared.answer_now(&bytes, true) {
            Now::Answer(answer) => answer,
            Now::Ignore => return Ok(()),
            Now::Later(question) => shared.answer_later(&question, &bytes, true).await,
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut message = length.to_be_bytes().to_vec();
        message.extend(answer);
        timeout(QUIET_CONNECTION, stream.write_all(&message)).await??;
    }
}

/// What can be said about a question without asking anybody.
enum Now {
    Answer(Vec<u8>),
    Ignore,
    Later(Question),
}

impl Shared {
    fn limit(question: &Question, over_tcp: bool) -> usize {
        if over_tcp { usize::from(u16::MAX) } else { question.udp_bytes() }
    }

    fn answer_now(&self, bytes: &[u8], over_tcp: bool) -> Now {
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(NoQuestion::Ignore) => return Now::Ignore,
            Err(NoQuestion::Refuse(id, code)) => return Now::Answer(wire::refusal(id, code)),
        };
        let bare = |code| Now::Answer(Reply::bare(code).write(&question, Self::limit(&question, over_tcp)));
        if question.extended.is_some_and(|extended| extended.version != 0) {
            return bare(Code::BadVersion);
        }
        // The internet's class, or any.
        if !matches!(question.class, 1 | 255) {
            return bare(Code::Refused);
        }
        let names = self.names.read();
        if !self.complete.load(Ordering::Relaxed) && names.is_ours(&question.name) {
            return bare(Code::Failed);
        }
        match self.reply(&names, &question) {
            Some(reply) => Now::Answer(reply.write(&question, Self::limit(&question, over_tcp))),
            None if self.forwarder.is_own_question(&question.name) => bare(Code::Failed),
            None if !question.recursion => bare(Code::Refused),
            None => {
                drop(names);
                Now::Later(question)
            }
        }
    }

    /// None for what has to be asked elsewhere.
    fn reply(&self, names: &Names, question: &Question) -> Option<Reply> {
        let record = |owner, data| Record { owner, ttl: TTL_SECONDS, data };
        let ours = Reply { authoritative: true, ..Reply::bare(Code::NoError) };
        let authority = || vec![record(Some(names.domain().to_owned()), names.authority())];
        Some(match names.find(&question.name, question.kind) {
            Found::Records { answers, additional } => Reply {
                answers: answers.into_iter().map(|data| record(None, data)).collect(),
                additional: additional.into_iter().map(|(owner, data)| record(Some(owner), data)).collect(),
                ..ours
            },
            Found::NothingOfThisKind => Reply { authority: authority(), ..ours },
            Found::NoSuchName => Reply { code: Code::NoSuchName, authority: authority(), ..ours },
            Found::Elsewhere(_) | Found::NotOurs => return None,
        })
    }

    async fn answer_later(&self, question: &Question, bytes: &[u8], over_tcp: bool) -> Vec<u8> {
        let found = self.names.read().find(&question.name, question.kind);
        let reply = match found {
            Found::Elsewhere(target) => self.follow_name(target, question.kind, over_tcp).await,
            _ => match self.forwarder.ask(bytes, over_tcp).await {
                Some(answer) => return answer,
                None => Reply::bare(Code::Failed),
            },
        };
        reply.write(question, Self::limit(question, over_tcp))
    }

    /// An ExternalName, with the addresses it leads to: askers take the whole chain from one answer.
    async fn follow_name(&self, target: String, wanted: u16, over_tcp: bool) -> Reply {
        let record = |owner, data| Record { owner, ttl: TTL_SECONDS, data };
        let mut answers = vec![record(None, Data::Cname(target.clone()))];
        let mut target = target;
        if matches!(wanted, kind::A | kind::AAAA) {
            for _ in 0..MOST_HOPS {
                let found = self.names.read().find(&target, wanted);
                match found {
                    Found::Records { answers: more, .. } => {
                        answers.extend(more.into_iter().map(|data| record(Some(target.clone()), data)));
                        break;
                    }
                    Found::NothingOfThisKind | Found::NoSuchName => break,
                    Found::Elsewhere(next) => {
                        answers.push(record(Some(target), Data::Cname(next.clone())));
                        target = next;
                    }
                    Found::NotOurs => {
                        let Some(question) = wire::write_question(0, &target, wanted) else { break };
                        let answer = self.forwarder.ask(&question, over_tcp).await;
                        match answer.as_deref().and_then(wire::read_addresses) {
                            Some((records, _)) => answers.extend(records),
                            None => return Reply::bare(Code::Failed),
                        }
                        break;
                    }
                }
            }
        }
        Reply { answers, authoritative: true, ..Reply::bare(Code::NoError) }
    }
}
