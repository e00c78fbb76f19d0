//! A registry of a few lines: serves manifests and blobs over plain HTTP, asks for a password if told to, and can lie.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::Engine;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// A running registry; ends with its value.
pub struct Registry {
    pub address: String,
    content: Arc<Content>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Content {
    /// Bodies by path, with their media type.
    bodies: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    /// `user:password` that every request must show.
    password: Mutex<Option<String>>,
    requests: AtomicUsize,
    blobs: AtomicUsize,
}

impl Registry {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let content = Arc::new(Content::default());
        let served = Arc::clone(&content);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let content = Arc::clone(&served);
                // A client that hangs up is none of our business.
                tokio::spawn(async move { drop(serve(stream, &content).await) });
            }
        });
        Self { address, content, server }
    }

    pub fn ask_for(&self, user_and_password: &str) {
        *self.content.password.lock() = Some(user_and_password.to_owned());
    }

    /// Requests so far, and those for blobs among them.
    pub fn requests(&self) -> (usize, usize) {
        (self.content.requests.load(Ordering::SeqCst), self.content.blobs.load(Ordering::SeqCst))
    }

    pub fn put(&self, path: &str, media_type: &str, body: &[u8]) {
        self.content.bodies.lock().insert(path.to_owned(), (media_type.to_owned(), body.to_vec()));
    }

    /// Serves a manifest under a tag and its digest, with its blobs.
    pub fn put_image(&self, repository: &str, tag: &str, manifest: &[u8], blobs: &[Vec<u8>]) {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        for reference in [tag.to_owned(), super::image::digest(manifest)] {
            self.put(&format!("/v2/{repository}/manifests/{reference}"), kind, manifest);
        }
        for blob in blobs {
            self.put(&format!("/v2/{repository}/blobs/{}", super::image::digest(blob)), "application/octet-stream", blob);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(stream: tokio::net::TcpStream, content: &Content) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        let mut authorization = String::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("authorization: basic ") {
                let start = line.len() - value.len();
                authorization = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(line[start..].trim()).unwrap()).unwrap();
            }
        }
        content.requests.fetch_add(1, Ordering::SeqCst);
        let path = request.split(' ').nth(1).unwrap_or("").to_owned();
        if path.contains("/blobs/") {
            content.blobs.fetch_add(1, Ordering::SeqCst);
        }
        let password = content.password.lock().clone();
        let found = content.bodies.lock().get(&path).cloned();
        let (head, body) = match found {
            _ if password.is_some_and(|password| password != authorization) => {
                let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#.to_vec();
                ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Type: application/json".to_owned(), body)
            }
            _ if path == "/v2/" => ("200 OK".to_owned(), Vec::new()),
            Some((kind, body)) => (format!("200 OK\r\nContent-Type: {kind}"), body),
            None => {
                let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec();
                ("404 Not Found\r\nContent-Type: application/json".to_owned(), body)
            }
        };
        stream.write_all(format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
    }
}
