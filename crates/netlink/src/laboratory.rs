//! For tests: hosts that are network namespaces, wires between them, and tiny servers that say who called. Needs root.
//! Everything goes when the [`Laboratory`] is dropped. Anything that fails panics, as tests do.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    AddressScope, IpRange, MacAddress, NetworkNamespace, Route, RouteSocket, VethPair, write_sysctl,
};

/// How long a client waits for an answer before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// A directory of namespaces that goes when dropped.
pub struct Laboratory {
    directory: PathBuf,
    serial: AtomicU32,
    stop: Arc<AtomicBool>,
}

/// A namespace that plays a host or a pod.
#[derive(Clone)]
pub struct Host {
    namespace: Arc<NetworkNamespace>,
    path: PathBuf,
}

impl Laboratory {
    /// An empty laboratory; the name must be different for each test of a process.
    pub fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("laboratory-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        Self { directory, serial: AtomicU32::new(0), stop: Arc::default() }
    }

    /// A directory for records.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new host with its loopback link up.
    pub fn host(&self, name: &str) -> Host {
        let path = self.directory.join(format!("namespace-{name}"));
        let namespace = NetworkNamespace::create_pinned(&path).expect("these tests need root");
        let host = Host { namespace: Arc::new(namespace), path };
        host.run(|| {
            let route = RouteSocket::open().expect("netlink");
            let loopback = route.link("lo").expect("netlink").expect("lo");
            route.set_up(loopback.index).expect("netlink");
            // Links come up at once, without asking for a second or two whether somebody has their address of IPv6.
            for links in ["all", "default"] {
                let _ = write_sysctl(&format!("net/ipv6/conf/{links}/accept_dad"), "0");
            }
            // Bridges of this machine must not send our packets through its iptables.
            let _ = write_sysctl("net/bridge/bridge-nf-call-iptables", "0");
        });
        host
    }

    /// A wire between two hosts; each end has a link name and addresses such as `192.168.0.1/24`.
    pub fn wire(&self, one: (&Host, &str, &[&str]), other: (&Host, &str, &[&str])) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) as u8;
        one.0.run(|| {
            let route = RouteSocket::open().expect("netlink");
            route
                .add_veth(&VethPair {
                    host_name: one.1,
                    host_address: MacAddress([0x02, 0xaa, 0, 0, serial, 1]),
                    peer_name: other.1,
                    peer_address: MacAddress([0x02, 0xaa, 0, 0, serial, 2]),
                    peer_namespace: other.0.namespace.as_fd(),
                    mtu: None,
                })
                .expect("a wire");
        });
        one.0.configure(one.1, one.2);
        other.0.configure(other.1, other.2);
        for (host, link, _) in [one, other] {
            host.run(|| {
                let route = RouteSocket::open().expect("netlink");
                // The kernel notices a moment later that both ends are up.
                while !route.link(link).expect("netlink").expect("the link").running {
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
    }

    /// A TCP server in a host that greets each caller with its name and the caller's address.
    pub fn serve_tcp(&self, host: &Host, name: &str, port: u16) {
        let listener = host.run(|| listener(port));
        let (name, stop) = (name.to_owned(), self.stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, peer)) => {
                        let _ = stream.write_all(format!("{name} {}", canonical(peer).ip()).as_bytes());
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
    }

    /// A UDP server in a host that answers each datagram with its name and the sender's address.
    pub fn serve_udp(&self, host: &Host, name: &str, port: u16) {
        let socket = host.run(|| {
            let any: SocketAddr = ([0; 16], port).into();
            UdpSocket::bind(any).expect("a UDP port")
        });
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let (name, stop) = (name.to_owned(), self.stop.clone());
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{name} {}", canonical(peer).ip()).as_bytes(), peer);
                }
            }
        });
    }
}

impl Drop for Laboratory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("namespace-") {
                let _ = NetworkNamespace::remove_pin(&entry.path());
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Host {
    /// The file of the namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does work inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).expect("the namespace")
    }

    /// Does work inside on a thread of its own, which is given back.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let host = self.clone();
        thread::spawn(move || {
            host.namespace.enter().expect("the namespace");
            work()
        })
    }

    /// Runs a program inside; its output, and a panic where it fails.
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(|| std::process::Command::new(program).args(arguments).output().expect(program));
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Raises a link and gives it addresses.
    pub fn configure(&self, link: &str, addresses: &[&str]) {
        self.run(|| {
            let route = RouteSocket::open().expect("netlink");
            let index = route.link(link).expect("netlink").expect("the link").index;
            route.set_up(index).expect("netlink");
            for text in addresses {
                let (address, _) = text.split_once('/').expect("address/prefix");
                let address: IpAddr = address.parse().expect("an address");
                let prefix = text.parse::<IpRange>().expect("address/prefix").prefix();
                route.add_address(index, address, prefix, AddressScope::Global).expect("netlink");
            }
        });
    }

    /// Adds a route over a gateway.
    pub fn route(&self, destination: &str, gateway: &str) {
        self.run(|| {
            let route = RouteSocket::open().expect("netlink");
            let gateway: IpAddr = gateway.parse().expect("an address");
            let hop = route.next_hop(gateway).expect("netlink").expect("a way to the gateway");
            let destination = destination.parse().expect("a range");
            route.replace_route(&Route::via(destination, gateway, hop.link, 4)).expect("netlink");
        });
    }

    /// Makes the host a router.
    pub fn forward(&self) {
        self.run(|| {
            write_sysctl("net/ipv4/ip_forward", "1").expect("ip_forward");
            write_sysctl("net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        });
    }

    /// What a TCP server says, or how it failed.
    pub fn ask_tcp(&self, server: &str) -> Result<String, io::ErrorKind> {
        let server: SocketAddr = server.parse().expect("address:port");
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&server, PATIENCE).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.kind())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(|error| error.kind())?;
            Ok(answer)
        })
    }

    /// A UDP socket whose sends and receives fail after a while.
    pub fn udp_client(&self, server: &str) -> UdpSocket {
        let server: SocketAddr = server.parse().expect("address:port");
        self.run(|| {
            let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
            let socket = UdpSocket::bind(any).expect("a UDP port");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket.connect(server).expect("a way to the server");
            socket
        })
    }

    /// What a UDP server says, or how it failed.
    pub fn ask_udp(&self, server: &str) -> Result<String, io::ErrorKind> {
        let socket = self.udp_client(server);
        exchange(&socket)
    }
}

/// Sends a datagram and waits for the answer.
pub fn exchange(socket: &UdpSocket) -> Result<String, io::ErrorKind> {
    socket.send(b"who are you?").map_err(|error| error.kind())?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).map_err(|error| error.kind())?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
}

fn listener(port: u16) -> TcpListener {
    let any: SocketAddr = ([0; 16], port).into();
    let listener = TcpListener::bind(any).expect("a TCP port");
    listener.set_nonblocking(true).expect("a listener");
    listener
}

/// An address of IPv4 that arrived on a socket of IPv6, as what it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
