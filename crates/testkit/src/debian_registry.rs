//! Debian's docker-registry on the loopback address, and a relay before it that can be made slow or unreliable.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::image::{Image, digest};

/// Whom the registry lets in.
pub const USER: (&str, &str) = ("puller", "s3cret-pull");

/// The same as the registry wants it: bcrypt, as `htpasswd -B` of apache2-utils makes it.
const HTPASSWD: &str = "puller:$2y$05$LxHXK2rPBAO21id1hHahuOySibmz3wFwEGbmLDQEjYRt9OB.gKYQ6\n";

/// A registry that asks for a name and a password; ends with the value.
pub struct DebianRegistry {
    /// Host and port.
    pub address: String,
    server: Child,
    _directory: tempfile::TempDir,
}

impl DebianRegistry {
    /// Starts it, and waits until it answers.
    ///
    /// # Panics
    /// Where the Debian package docker-registry is not installed.
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("knarr-registry-").tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let address = format!("127.0.0.1:{port}");
        let configuration = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: '{address}' }}\nauth: {{ htpasswd: {{ realm: test, path: {} }} }}\n",
            path("data").display(),
            path("htpasswd").display()
        );
        std::fs::write(path("htpasswd"), HTPASSWD).expect("a temporary file");
        std::fs::write(path("config.yml"), configuration).expect("a temporary file");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path("config.yml")).env("OTEL_TRACES_EXPORTER", "none").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().expect("the Debian package docker-registry must be installed");
        let registry = Self { address, server, _directory: directory };
        for _ in 0..2400 {
            if TcpStream::connect(&registry.address).is_ok() {
                return registry;
            }
            // Nobody tells when another program's port is open.
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen within two minutes");
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("a listening registry");
        let credential = STANDARD.encode(format!("{}:{}", USER.0, USER.1));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {credential}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("an open connection");
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let location = lines.take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix("Location: ").map(str::to_owned));
        (status, location.unwrap_or_default())
    }

    /// Pushes an image, and returns its digest.
    ///
    /// # Panics
    /// Where the registry refuses it.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        for blob in &image.blobs {
            let (status, location) = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "application/octet-stream", b"");
            assert_eq!(status, 202, "an upload begins");
            let path = location.split_once(&self.address).map_or(location.as_str(), |(_, path)| path).to_owned();
            let separator = if path.contains('?') { '&' } else { '?' };
            let (status, _) = self.ask("PUT", &format!("{path}{separator}digest={}", digest(blob)), "application/octet-stream", blob);
            assert_eq!(status, 201, "a blob is taken");
        }
        let (status, _) = self.ask("PUT", &format!("/v2/{repository}/manifests/{tag}"), "application/vnd.oci.image.manifest.v1+json", &image.manifest);
        assert_eq!(status, 201, "a manifest is taken");
        digest(&image.manifest)
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// What a relay does to what comes from the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Passes everything on.
    Well,
    /// Ends each connection after so many bytes.
    CutAfter(usize),
    /// Passes so many bytes on each tenth of a second.
    BytesPerTenth(usize),
}

/// Stands before a registry.
pub struct Relay {
    /// Host and port.
    pub address: String,
    manner: Arc<Mutex<Manner>>,
}

impl Relay {
    /// Listens until the process ends.
    ///
    /// # Panics
    /// Where no port is free.
    pub fn before(registry: &DebianRegistry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let manner = Arc::new(Mutex::new(Manner::Well));
        let (shared, behind) = (Arc::clone(&manner), registry.address.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&behind) else { continue };
                let (to_server, to_client) = (server.try_clone(), client.try_clone());
                let (Ok(mut to_server), Ok(mut to_client)) = (to_server, to_client) else { continue };
                let (mut from_client, mut from_server) = (client, server);
                let manner = Arc::clone(&shared);
                // Who hangs up first is none of our business.
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_client, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || {
                    let _ = relay(&mut from_server, &mut to_client, &manner);
                    let _ = to_client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, manner }
    }

    /// Behaves so from now on.
    ///
    /// # Panics
    /// Never.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().expect("nobody panics with it") = manner;
    }
}

fn relay(from: &mut TcpStream, to: &mut TcpStream, manner: &Mutex<Manner>) -> std::io::Result<()> {
    let mut passed = 0;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let now = *manner.lock().expect("nobody panics with it");
        let wanted = match now {
            Manner::Well => buffer.len(),
            Manner::CutAfter(bytes) if passed >= bytes => return Ok(()),
            Manner::CutAfter(bytes) => buffer.len().min(bytes - passed),
            Manner::BytesPerTenth(bytes) => {
                // The slowness that is asked for.
                std::thread::sleep(Duration::from_millis(100));
                buffer.len().min(bytes)
            }
        };
        let read = from.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Ok(());
        }
        passed += read;
        to.write_all(&buffer[..read])?;
    }
}
