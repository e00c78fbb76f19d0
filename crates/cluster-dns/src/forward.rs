//! Questions about the rest of the world, passed on to the servers of the host.
//!
//! Each question goes out from a socket of its own, under a random number and from a random port, so that nobody can
//! guess where a forged answer would have to go.

use std::{
    io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rand::Rng;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use crate::{resolv_conf::ResolvConf, wire};

/// How long a server has to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(2000);
/// Questions under way at a time; more are answered with "failed", so that a flood does not eat the node's memory.
const MOST_AT_ONCE: usize = 512;
/// Below this name live the questions by which we find out whether we ask ourselves.
const LOOP_DOMAIN: &str = "loop-check.knarr.invalid";

/// Where sockets towards the host's servers come from. A node that lives in a network namespace of its own reaches
/// them only from the host's.
pub trait Outside: Send + Sync + 'static {
    /// An unconnected UDP socket for this server.
    fn udp(&self, server: SocketAddr) -> io::Result<StdUdpSocket>;
    /// An unconnected, non-blocking TCP socket for this server.
    fn tcp(&self, server: SocketAddr) -> io::Result<Socket>;
}

/// Sockets of the calling thread's own namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketsHere;

impl Outside for SocketsHere {
    fn udp(&self, server: SocketAddr) -> io::Result<StdUdpSocket> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

type SocketRequest = (SocketAddr, bool, mpsc::SyncSender<io::Result<Socket>>);

/// Sockets of another network namespace, made by a thread that lives there.
pub struct SocketsIn {
    requests: parking_lot::Mutex<mpsc::Sender<SocketRequest>>,
}

impl SocketsIn {
    /// Starts the thread.
    pub fn namespace(namespace: impl AsFd + Send + 'static) -> io::Result<Self> {
        let (requests, received) = mpsc::channel::<SocketRequest>();
        let (entered, outcome) = mpsc::sync_channel(1);
        thread::Builder::new().name("dns-outside".to_owned()).stack_size(64 * 1024).spawn(move || {
            let result = netlink::enter_namespace(namespace.as_fd());
            let failed = result.is_err();
            let _ = entered.send(result);
            if failed {
                return;
            }
            for (server, stream, reply) in received {
                let made = if stream { SocketsHere.tcp(server) } else { SocketsHere.udp(server).map(Socket::from) };
                let _ = reply.send(made);
            }
        })?;
        let entered = outcome.recv().map_err(|_| gone())?;
        entered.map_err(io::Error::other)?;
        Ok(Self { requests: parking_lot::Mutex::new(requests) })
    }

    fn make(&self, server: SocketAddr, stream: bool) -> io::Result<Socket> {
        let (reply, made) = mpsc::sync_channel(1);
        self.requests.lock().send((server, stream, reply)).map_err(|_| gone())?;
        made.recv().map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that makes sockets in the host's namespace is gone")
}

impl Outside for SocketsIn {
    fn udp(&self, server: SocketAddr) -> io::Result<StdUdpSocket> {
        self.make(server, false).map(Into::into)
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<Socket> {
        self.make(server, true)
    }
}

/// Passes questions on.
pub struct Forwarder {
    outside: Arc<dyn Outside>,
    servers: ResolvConf,
    at_once: Semaphore,
    /// A name that only we ask for; who asks us for it is ourselves.
    loop_name: String,
    looping: AtomicBool,
}

impl Forwarder {
    /// A forwarder to the servers of a `resolv.conf`.
    pub fn new(outside: Arc<dyn Outside>, servers: ResolvConf) -> Self {
        let loop_name = format!("{:016x}.{LOOP_DOMAIN}", rand::rng().random::<u64>());
        let at_once = Semaphore::new(MOST_AT_ONCE);
        Self { outside, servers, at_once, loop_name, looping: AtomicBool::new(false) }
    }

    /// Asks for a name that nobody else knows. If a server asks us for it in turn, we would be asking ourselves.
    pub async fn check_for_loop(&self) {
        if let Some(question) = wire::write_question(0, &self.loop_name, wire::kind::TXT) {
            let _ = self.ask(&question, false).await;
        }
    }

    /// Whether this question is our own, come back to us. From then on nothing is passed on.
    pub fn is_own_question(&self, name: &str) -> bool {
        if name != self.loop_name {
            return false;
        }
        if !self.looping.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the name servers of the host's resolv.conf lead back to the cluster's own: names outside the cluster \
                 cannot be answered. Put a server from outside the cluster there and start again."
            );
        }
        true
    }

    /// The answer of the first server that has one, under the question's own number; none where all are silent.
    pub async fn ask(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let _permit = self.at_once.try_acquire().ok()?;
        if self.looping.load(Ordering::Relaxed) {
            return None;
        }
        let own_id = u16::from_be_bytes(question.get(0..2)?.try_into().ok()?);
        let mut failure = None;
        for server in self.servers.servers().iter() {
            let asked = if over_tcp { self.ask_tcp(question, *server).await } else { self.ask_udp(question, *server).await };
            match asked {
                Ok(mut answer) => {
                    wire::set_id(&mut answer, own_id);
                    // "Failed" and "refused" of one server may be good news from the next.
                    if matches!(answer.get(3).map(|flags| flags & 0xf), Some(2 | 5)) {
                        failure = Some(answer);
                        continue;
                    }
                    return Some(answer);
                }
                Err(error) => tracing::debug!(%server, %error, "a name server did not answer"),
            }
        }
        failure
    }

    async fn ask_udp(&self, question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = UdpSocket::from_std(self.outside.udp(server)?)?;
        socket.connect(server).await?;
        let id = rand::rng().random();
        let mut bytes = question.to_vec();
        wire::set_id(&mut bytes, id);
        socket.send(&bytes).await?;
        let mut answer = vec![0; 4096];
        let receive = async {
            loop {
                let length = socket.recv(&mut answer).await?;
                if wire::answers(answer.get(..length).unwrap_or_default(), id, question) {
                    return io::Result::Ok(length);
                }
            }
        };
        let length = timeout(PATIENCE, receive).await??;
        answer.truncate(length);
        Ok(answer)
    }

    async fn ask_tcp(&self, question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = TcpSocket::from_std_stream(self.outside.tcp(server)?.into());
        let id = rand::rng().random();
        let exchange = async {
            let mut stream = socket.connect(server).await?;
            let mut bytes = u16::try_from(question.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
            bytes.extend(question);
            if let Some(message) = bytes.get_mut(2..) {
                wire::set_id(message, id);
            }
            stream.write_all(&bytes).await?;
            let length = stream.read_u16().await?;
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = timeout(PATIENCE, exchange).await??;
        if wire::answers(&answer, id, question) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}
