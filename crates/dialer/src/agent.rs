//! The agent's end of a tunnel: keeps a connection to one server open and connects what the server asks for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tunnel::{PATH, PROTOCOL};
use crate::wire::{self, HEADER_TIMEOUT, Header, Stream};
use crate::{Connection, NodeApi, direct};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A tunnel that held this long was a good one: the next failure begins with the shortest pause again.
const GOOD_TUNNEL: Duration = Duration::from_secs(30);
const COPY_BUFFER_BYTES: usize = 16 * 1024;

/// Keeps a tunnel to one server (its name is for the log) until cancelled. `connect` makes an authenticated connection to the server
/// over which HTTP/1.1 can be spoken; connections to the node API are handed to `node_api`.
///
/// After a failure it waits, at first 0.2 s and each time twice as long up to 30 s, somewhat at random so that agents do not come back
/// all at once.
pub async fn maintain_tunnel<C, F, S>(server: &str, connect: C, node_api: Arc<dyn NodeApi>, cancel: CancellationToken)
where
    C: Fn() -> F,
    F: Future<Output = io::Result<S>>,
    S: Connection,
{
    let keep_open = async {
        let mut pause = FIRST_PAUSE;
        loop {
            let start = Instant::now();
            let run = async {
                let connection = upgrade(connect().await?).await?;
                tracing::info!(server, "the tunnel to the server is open");
                serve(connection, Arc::clone(&node_api)).await
            };
            match run.await {
                Ok(()) => tracing::info!(server, "the server closed the tunnel"),
                Err(error) => tracing::warn!(server, %error, retry_after = ?pause, "no tunnel to the server"),
            }
            if start.elapsed() > GOOD_TUNNEL {
                pause = FIRST_PAUSE;
            }
            // The pause between attempts; there is no event that would tell when the server is back.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::select! {
        () = keep_open => {}
        () = cancel.cancelled() => {}
    }
}

/// Asks the server to turn an HTTP connection into a tunnel.
async fn upgrade<C: Connection>(connection: C) -> io::Result<TokioIo<Upgraded>> {
    let asking = async {
        let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "the connection for a tunnel ended");
            }
        });
        let request = Request::get(PATH)
            .header(HOST, "server")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, PROTOCOL)
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(io::Error::other(format!("the server refused the tunnel: {}", response.status())));
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(io::Error::other)
    };
    tokio::time::timeout(HEADER_TIMEOUT, asking)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the server did not answer the request for a tunnel"))?
}

/// Serves a tunnel until it ends.
pub async fn serve<C: Connection>(connection: C, node_api: Arc<dyn NodeApi>) -> io::Result<()> {
    // The agent opens nothing itself; the closed queue says so.
    let (_, no_openings) = mpsc::channel(1);
    wire::drive(connection, yamux::Mode::Client, no_openings, |stream| {
        let node_api = Arc::clone(&node_api);
        tokio::spawn(async move {
            if let Err(error) = serve_stream(stream, node_api).await {
                tracing::debug!(%error, "a tunnelled connection broke");
            }
        });
    })
    .await
}

async fn serve_stream(mut stream: Stream, node_api: Arc<dyn NodeApi>) -> io::Result<()> {
    let header = tokio::time::timeout(HEADER_TIMEOUT, Header::read(&mut stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the server did not name a target"))??;
    match header {
        Header::NodeApi => {
            wire::write_answer(&mut stream, None).await?;
            node_api.serve(Box::new(stream));
            Ok(())
        }
        Header::Pod(address) => {
            let mut pod = match direct::connect(address).await {
                Ok(pod) => pod,
                Err(error) => return wire::write_answer(&mut stream, Some(&error.to_string())).await,
            };
            wire::write_answer(&mut stream, None).await?;
            tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut pod, COPY_BUFFER_BYTES, COPY_BUFFER_BYTES).await.map(|_| ())
        }
    }
}

#[cfg(test)]
mod tests;
