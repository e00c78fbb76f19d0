//! A registry of a few lines: serves images over plain HTTP on the loopback address, for nodes of tests.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use crate::image::{Image, digest};

type Bodies = BTreeMap<String, (&'static str, Vec<u8>)>;

/// A registry, served until the process ends.
pub struct Registry {
    /// Host and port.
    pub address: String,
}

impl Registry {
    /// One that is served by somebody else, without TLS.
    pub fn at(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// Serves images by repository and tag.
    ///
    /// # Panics
    /// Where no port is free.
    pub fn serve(images: &[(&str, &str, &Image)]) -> Self {
        let mut bodies = Bodies::new();
        for (repository, tag, image) in images {
            for reference in [(*tag).to_owned(), digest(&image.manifest)] {
                let path = format!("/v2/{repository}/manifests/{reference}");
                bodies.insert(path, ("application/vnd.oci.image.manifest.v1+json", image.manifest.clone()));
            }
            for blob in &image.blobs {
                bodies.insert(format!("/v2/{repository}/blobs/{}", digest(blob)), ("application/octet-stream", blob.clone()));
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let bodies = Arc::new(bodies);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let bodies = Arc::clone(&bodies);
                // A client that hangs up is none of our business.
                std::thread::spawn(move || drop(answer(&stream, &bodies)));
            }
        });
        Self { address }
    }
}

fn answer(stream: &TcpStream, bodies: &Bodies) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
            line.clear();
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let missing = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec();
        let (status, kind, body) = match bodies.get(path) {
            Some((kind, body)) => ("200 OK", *kind, body.clone()),
            None if path == "/v2/" => ("200 OK", "application/json", b"{}".to_vec()),
            None => ("404 Not Found", "application/json", missing),
        };
        let mut out = stream;
        write!(out, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if method != "HEAD" {
            out.write_all(&body)?;
        }
        out.flush()?;
    }
}
